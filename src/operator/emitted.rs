//! Takes up what machines emitted when a person retried a dead letter: open work of the operator's source
//! partition, which no node owns. Also what an earlier command left that ended in between.

use std::sync::Arc;

use tidegate_engine::checkpoint::Progress;
use tidegate_engine::commit_protocol::{CommitProtocol, Next};
use tidegate_engine::follow_up;
use tidegate_engine::limits::{DELIVERY_BYTES_MAX, OPEN_WORK_PAGE, RECLAIM_ATTEMPTS_MAX};
use tidegate_engine::partition::{
    Allowance, EventRef, Heads, Part, Partition, PartitionLimits, Prepared, Settled,
};
use tidegate_engine::position::{StreamName, StreamPartition};
use tidegate_engine::retry::BackOff;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use super::Operator;

/// Events of one commit: a person waits for it, and nobody else is in it.
const EVENTS_MAX: usize = 500;

/// Commits of one decision, refused ones included. Hops bound what one event sets off; this bounds how
/// long a person waits for machines that emit without measure.
const COMMITS_MAX: u32 = 10_000;

/// One ownership of the operator's source partition, from commit to commit.
struct Desk {
    protocol: CommitProtocol,
    progress: Progress,
    commits: u32,
}

/// What one commit came to.
enum Outcome {
    Settled,
    /// Somebody else claimed it, or may have.
    Lost,
}

/// Why open work is left: for people.
type Left = String;

impl Operator<'_> {
    /// Takes up every emitted event of the operator's source partition, of all tenants, until none is left.
    pub(super) async fn take_up_emitted(&self) -> Result<(), Left> {
        let said = |error: StoreError| error.to_string();
        let place = follow_up::operator();
        let mut commits = 0;
        for _ in 0..RECLAIM_ATTEMPTS_MAX {
            // Nothing is claimed for nothing: most events that are retried emit nothing.
            if self.next_tenant().await.map_err(said)?.is_none() {
                return Ok(());
            }
            let checkpoint = self.claim().await.map_err(said)?;
            let mut desk = Desk {
                protocol: CommitProtocol::new(&checkpoint, BackOff::default()),
                progress: checkpoint.progress,
                commits,
            };
            loop {
                let Some(tenant) = self.next_tenant().await.map_err(said)? else {
                    return Ok(());
                };
                let outcome = self.take_up(&tenant, &mut desk).await?;
                commits = desk.commits;
                if matches!(outcome, Outcome::Lost) {
                    break;
                }
            }
        }
        Err(format!("{place} is claimed again and again by others"))
    }

    /// The first tenant that has open work there.
    async fn next_tenant(&self) -> Result<Option<TenantId>, StoreError> {
        let place = follow_up::operator();
        let first = self.store.tenants_with_open_work(&place, None, 1).await?;
        Ok(first.into_iter().next())
    }

    /// Takes up one tenant's emitted events, and what these emit.
    async fn take_up(&self, tenant: &TenantId, desk: &mut Desk) -> Result<Outcome, Left> {
        let place = follow_up::operator();
        let stream = StreamName::new(follow_up::OPERATOR).map_err(|error| error.to_string())?;
        // Nothing is received, so its own stream stays as it is.
        let log = StreamPartition {
            tenant: tenant.clone(),
            stream,
            source_partition: place.clone(),
        };
        let heads = self.store.stream_heads(tenant, &place).await;
        let heads = Heads::among(&heads.map_err(|error| error.to_string())?, &log);
        let limits = PartitionLimits::default();
        let mut partition = Partition::new(log, self.machines.clone(), heads, limits);
        partition.expect_open_work();
        loop {
            self.load(tenant, &mut partition)
                .await
                .map_err(|error| error.to_string())?;
            let terms = desk.protocol.terms(0);
            let events_max = match terms.one_event {
                true => 1,
                false => (EVENTS_MAX >> terms.halved.min(usize::BITS - 1)).max(1),
            };
            let allowance = Allowance {
                events_max,
                bytes_max: 4 * DELIVERY_BYTES_MAX,
                before: None,
            };
            let part = match partition.prepare(allowance) {
                Prepared::Part(part) => *part,
                Prepared::Empty => return Ok(Outcome::Settled),
                Prepared::Waiting => {
                    return Err("the entities that it concerns were not loaded".to_owned());
                }
            };
            desk.commits += 1;
            if desk.commits > COMMITS_MAX {
                return Err(format!("it is not done after {COMMITS_MAX} commits"));
            }
            if let Outcome::Lost = self.commit_part(&mut partition, part, desk).await? {
                return Ok(Outcome::Lost);
            }
        }
    }

    /// Reads the open work and the entities that come next.
    async fn load(
        &self,
        tenant: &TenantId,
        partition: &mut Partition<()>,
    ) -> Result<(), StoreError> {
        let place = follow_up::operator();
        while let Some(after) = partition.work_wanted() {
            let page = self
                .store
                .open_work(tenant, &place, after, OPEN_WORK_PAGE)
                .await?;
            let is_last = page.len() < OPEN_WORK_PAGE as usize;
            partition.work_loaded(page, is_last, self.clock.now());
        }
        let wanted = partition.wanted(2 * EVENTS_MAX);
        if !wanted.is_empty() {
            let found = self.store.load_entities(tenant, wanted.clone()).await?;
            partition.loaded(&wanted, found);
        }
        Ok(())
    }

    /// Commits a part, and has the partition settle it, or apply it again.
    async fn commit_part(
        &self,
        partition: &mut Partition<()>,
        part: Part,
        desk: &mut Desk,
    ) -> Result<Outcome, Left> {
        let (events, only): (usize, Option<EventRef>) = (part.events, part.only_event());
        let terms = desk.protocol.terms(0);
        let at = self.clock.now();
        let batch = Arc::new(follow_up::loop_back(&desk.progress, terms, part, at));
        loop {
            desk.protocol.submitted();
            let reply = self.store.commit(batch.clone()).await;
            let random = self.ids.next_u64();
            let mut next = desk.protocol.on_reply(reply, events, random);
            while let Next::ReadCheckpoint(wait) = next {
                tokio::time::sleep(wait).await;
                let read = self.store.checkpoint(&follow_up::operator()).await;
                let random = self.ids.next_u64();
                next = desk.protocol.on_checkpoint(read, events, random);
            }
            match next {
                Next::Settle { new_rows } => {
                    desk.progress = batch.progress.clone();
                    partition.settle(Settled {
                        revision: batch.revision,
                        new_rows: new_rows.as_deref(),
                        at: self.clock.now(),
                    });
                    return Ok(Outcome::Settled);
                }
                Next::Reapply(surprises) => {
                    let is_busy = !surprises.busy.is_empty();
                    partition.reset(&surprises);
                    if is_busy {
                        let wait = BackOff::default().wait(1, self.ids.next_u64());
                        tokio::time::sleep(wait).await;
                    }
                    return Ok(Outcome::Settled);
                }
                Next::Condemn { detail } => {
                    if let Some(event) = only {
                        partition.condemn(event, &detail);
                    }
                    partition.reset(&tidegate_engine::commit::Surprises::default());
                    return Ok(Outcome::Settled);
                }
                Next::SubmitAgain(wait) => tokio::time::sleep(wait).await,
                Next::Drop | Next::ClaimAgain => return Ok(Outcome::Lost),
                Next::Stop { detail, .. } => return Err(detail),
                Next::ReadCheckpoint(_) => {}
            }
        }
    }
}
