//! Takes up what machines emitted when a person retried a dead letter: open work of the operator's source
//! partition, which no node owns. Also what an earlier command left that ended in between.

use std::sync::Arc;

use tidegate_engine::checkpoint::Progress;
use tidegate_engine::commit::Surprises;
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
use tokio::time::Instant;

use super::{Operator, no_answer};

/// Events of one commit: a person waits for it, and nobody else is in it.
const EVENTS_MAX: usize = 500;

/// Commits of one decision, refused ones included. Hops bound what one event sets off; this bounds how
/// long a person waits for machines that emit without measure.
const COMMITS_MAX: u32 = 10_000;

/// Other tenants whose leftovers are looked after beside a decision, those behind its own tenant first.
const OTHERS_MAX: u32 = 16;

/// Commits for each of them.
const COMMITS_OF_OTHERS_MAX: u32 = 20;

/// One ownership of the operator's source partition, from commit to commit.
struct Desk {
    protocol: CommitProtocol,
    progress: Progress,
    /// Commits of the tenant in hand, refused ones included.
    commits: u32,
    commits_max: u32,
    deadline: Instant,
}

/// What one commit came to.
enum Outcome {
    Settled,
    /// As many commits were made as may be, and there is more.
    More,
    /// Somebody else claimed it, or may have.
    Lost,
}

/// Why open work is left: for people.
type Left = String;

impl Operator<'_> {
    /// Takes up every emitted event of a tenant in the operator's source partition, until none is left. Then
    /// some of what earlier decisions about other tenants' letters left there; that it stays is no error of
    /// this one.
    pub(super) async fn take_up_emitted(
        &self,
        tenant: &TenantId,
        deadline: Instant,
    ) -> Result<(), Left> {
        let said = |error: StoreError| error.to_string();
        let place = follow_up::operator();
        let mut commits = 0;
        for _ in 0..RECLAIM_ATTEMPTS_MAX {
            let own = self.store.open_work(tenant, &place, None, 1).await;
            let is_done = own.map_err(said)?.is_empty();
            let others = self.other_tenants(tenant).await.map_err(said)?;
            // Nothing is claimed for nothing: most events that are retried emit nothing.
            if is_done && others.is_empty() {
                return Ok(());
            }
            let checkpoint = self.claim().await.map_err(said)?;
            let mut desk = Desk {
                protocol: CommitProtocol::new(&checkpoint, BackOff::default()),
                progress: checkpoint.progress,
                commits,
                commits_max: COMMITS_MAX,
                deadline,
            };
            let outcome = self.take_up(tenant, &mut desk).await?;
            commits = desk.commits;
            match outcome {
                Outcome::Settled => {
                    self.take_up_others(&others, &mut desk).await;
                    return Ok(());
                }
                Outcome::More => {
                    return Err(format!("it is not done after {COMMITS_MAX} commits"));
                }
                Outcome::Lost => {}
            }
        }
        Err(format!("{place} is claimed again and again by others"))
    }

    async fn take_up_others(&self, others: &[TenantId], desk: &mut Desk) {
        for tenant in others {
            (desk.commits, desk.commits_max) = (0, COMMITS_OF_OTHERS_MAX);
            match self.take_up(tenant, desk).await {
                Ok(Outcome::Settled | Outcome::More) => {}
                Ok(Outcome::Lost) => return,
                Err(why) => {
                    let partition = follow_up::operator();
                    tracing::warn!(tenant_id = %tenant, %partition, %why, "what an earlier retry emitted still waits as open work");
                    if !desk.protocol.is_idle() {
                        return;
                    }
                }
            }
        }
    }

    /// Other tenants that have open work there: in turns, as the deciding tenants differ.
    async fn other_tenants(&self, tenant: &TenantId) -> Result<Vec<TenantId>, StoreError> {
        let (store, place) = (self.store, follow_up::operator());
        let behind = store.tenants_with_open_work(&place, Some(tenant), OTHERS_MAX);
        let mut others = behind.await?;
        let missing = OTHERS_MAX.saturating_sub(others.len() as u32);
        if missing > 0 {
            let first = store.tenants_with_open_work(&place, None, missing).await?;
            others.extend(first.into_iter().take_while(|other| other < tenant));
        }
        Ok(others)
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
                false => {
                    let halved = EVENTS_MAX >> terms.halved.min(usize::BITS - 1);
                    halved.min(terms.events_max).max(1)
                }
            };
            let allowance = Allowance {
                events_max,
                bytes_max: 4 * DELIVERY_BYTES_MAX,
                written_bytes_max: 4 * DELIVERY_BYTES_MAX,
                before: None,
            };
            let part = match partition.prepare(allowance) {
                Prepared::Part(part) => *part,
                Prepared::Empty => return Ok(Outcome::Settled),
                Prepared::Waiting => {
                    return Err("the entities that it concerns were not loaded".to_owned());
                }
            };
            if desk.commits >= desk.commits_max {
                return Ok(Outcome::More);
            }
            desk.commits += 1;
            if Instant::now() >= desk.deadline {
                return Err(no_answer());
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
                if Instant::now() + wait >= desk.deadline {
                    return Err(no_answer());
                }
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
                    partition.reset(&Surprises::default());
                    return Ok(Outcome::Settled);
                }
                Next::SubmitAgain(wait) if Instant::now() + wait >= desk.deadline => {
                    return Err(no_answer());
                }
                Next::SubmitAgain(wait) => tokio::time::sleep(wait).await,
                Next::MakeSmaller => {
                    partition.reset(&Surprises::default());
                    return Ok(Outcome::Settled);
                }
                Next::Drop | Next::ClaimAgain => return Ok(Outcome::Lost),
                Next::Stop { detail, .. } => return Err(detail),
                Next::ReadCheckpoint(_) => {}
            }
        }
    }
}
