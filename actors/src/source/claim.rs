//! A claim: epoch + 1, the checkpoint as it stands, the proof that the source is still the one it was
//! written for, and the tenants whose open work its owner before left.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_engine::bus::{EventBus, Place, Start};
use tidegate_engine::checkpoint::{Checkpoint, DoneAbove};
use tidegate_engine::error::ErrorKind;
use tidegate_engine::planted::{Bug, active};
use tidegate_engine::position::{Incarnation, Offset, Revision, SourcePartition};
use tidegate_engine::store::Claim;
use tidegate_engine::tenant::TenantId;
use tokio::sync::oneshot;

use super::Slots;
use super::slot::ClaimTerms;
use super::unread::Look;
use crate::seams::Context;
use crate::store_calls::StoreCalls;

/// Between two looks for a decision about a stopped partition.
const DECISION_LOOK: Duration = Duration::from_secs(5);

/// Between two looks at what a partition comes behind.
const TURN_LOOK: Duration = Duration::from_secs(1);

/// Looks in a minute: so often it is said what a partition waits for.
const LOOKS_TO_SAY: u32 = 60;

/// Of these looks one also sees how far it is behind.
const LOOKS_BEHIND: u32 = 5;

/// What a claim needs.
pub(super) struct Request {
    pub context: Context,
    pub bus: Arc<dyn EventBus>,
    pub start: Start,
    pub source_partition: SourcePartition,
    pub incarnation: Incarnation,
    pub terms: ClaimTerms,
    /// Its other end is dropped when nobody wants the claim any more.
    pub abandoned: oneshot::Receiver<()>,
    /// What it comes behind, once that was asked.
    pub ahead: Option<Vec<Place>>,
    /// Where it is noted how far a partition is behind that is not read.
    pub slots: Slots,
}

/// What came of it.
pub(super) struct Claimed {
    pub source_partition: SourcePartition,
    pub outcome: Outcome,
}

/// How a claim ended.
pub(super) enum Outcome {
    /// The checkpoint under our epoch, and the tenants with open work.
    Owned(Box<Checkpoint>, BTreeSet<TenantId>),
    /// The bus does not assign it to us any more; nothing was claimed.
    NotAssigned,
    /// Nobody wanted it any more between two attempts.
    Abandoned,
    /// An operator has to decide, for this reason.
    Stopped(String),
}

/// What went wrong, and whether to try again.
struct Failure {
    kind: ErrorKind,
    detail: String,
}

impl Request {
    /// Claims, and tries again for as long as the store or the bus is only away. A panic is an answer
    /// too: without one the partition would be claimed for ever.
    pub async fn run(self) -> Claimed {
        let source_partition = self.source_partition.clone();
        let claimed = AssertUnwindSafe(self.claim()).catch_unwind().await;
        let panicked = |_| Outcome::Stopped("its claim panicked; restart this node".to_owned());
        Claimed {
            source_partition,
            outcome: claimed.unwrap_or_else(panicked),
        }
    }

    /// Waits until somebody else has claimed the partition, as an operator does who decides about it, and
    /// claims it then. Nothing but looks at the checkpoint goes out before.
    pub async fn run_after_decision(mut self) -> Claimed {
        let mut seen = None;
        loop {
            let calls = StoreCalls::of(&self.context);
            let mut is_wanted = true;
            if let Ok(checkpoint) = calls.checkpoint(self.source_partition.clone()).await {
                let epoch = checkpoint.as_ref().map(|checkpoint| checkpoint.epoch);
                if *seen.get_or_insert(epoch) != epoch {
                    return self.run().await;
                }
                let settled = checkpoint.map(|it| it.progress.next_offset);
                is_wanted = self.look_behind(settled).await;
            }
            if !is_wanted || !self.wait(DECISION_LOOK).await {
                return Claimed {
                    source_partition: self.source_partition,
                    outcome: Outcome::Abandoned,
                };
            }
        }
    }

    async fn claim(mut self) -> Outcome {
        if !self.wait(self.terms.wait).await {
            return Outcome::Abandoned;
        }
        let (mut attempt, mut looks) = (0, 0);
        loop {
            attempt += 1;
            let failure = match self.attempt().await {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {
                    self.say_ahead(looks);
                    let is_wanted =
                        !looks.is_multiple_of(LOOKS_BEHIND) || self.look_behind(None).await;
                    (attempt, looks) = (0, looks + 1);
                    if !is_wanted || !self.wait(TURN_LOOK).await {
                        return Outcome::Abandoned;
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            match failure.kind {
                ErrorKind::Transient => {}
                ErrorKind::Fenced => return Outcome::NotAssigned,
                ErrorKind::Permanent | ErrorKind::Bug => return Outcome::Stopped(failure.detail),
            }
            tracing::warn!(partition = %self.source_partition, attempt, error = %failure.detail, "not claimed, trying again");
            let random = self.context.seams.ids.next_u64();
            let wait = self.context.options.back_off.wait(attempt, random);
            if !self.wait(wait).await {
                return Outcome::Abandoned;
            }
        }
    }

    /// Notes how far the partition is behind. False when nobody wants the claim any more.
    async fn look_behind(&mut self, settled: Option<Offset>) -> bool {
        let look = Look {
            bus: self.bus.clone(),
            clock: self.context.seams.clock.clone(),
            slots: self.slots.clone(),
            partition: self.source_partition.partition,
        };
        tokio::select! {
            biased;
            _ = &mut self.abandoned => false,
            () = look.look(settled) => true,
        }
    }

    /// False when nobody wants the claim any more.
    async fn wait(&mut self, wait: Duration) -> bool {
        tokio::select! {
            biased;
            _ = &mut self.abandoned => false,
            () = tokio::time::sleep(wait) => true,
        }
    }

    /// `None` while it is not the partition's turn.
    async fn attempt(&mut self) -> Result<Option<Outcome>, Failure> {
        let calls = StoreCalls::of(&self.context);
        let partition = self.source_partition.partition;
        if self.terms.ask_bus && !self.bus.still_assigned(partition).await? {
            return Ok(Some(Outcome::NotAssigned));
        }
        let start = match calls.checkpoint(self.source_partition.clone()).await? {
            // Nothing was ever committed, and the source became another one: the store goes over to it.
            // All of it is younger than the moment at which this source was first claimed, so also
            // `latest` means all of it.
            Some(checkpoint)
                if checkpoint.revision == Revision(0)
                    && checkpoint.incarnation != self.incarnation =>
            {
                let start = match self.start {
                    Start::Latest => Start::Earliest,
                    other => other,
                };
                self.bus.start_offset(partition, start).await?
            }
            Some(checkpoint) => checkpoint.progress.next_offset,
            None if !self.is_its_turn(&calls).await? => return Ok(None),
            None => self.bus.start_offset(partition, self.start).await?,
        };
        let claim = Claim {
            source_partition: self.source_partition.clone(),
            owner: self.context.options.name.clone(),
            incarnation: self.incarnation.clone(),
            start,
        };
        let mut checkpoint = calls.claim(claim).await?;
        if active(Bug::ResumeFromBrokerOffset) {
            let told = self.bus.start_offset(partition, Start::OffsetsOfGroup);
            checkpoint.progress.next_offset = told.await?;
            checkpoint.progress.done_above = DoneAbove::default();
        }
        self.check_source(&checkpoint).await?;
        self.bus.settled_below(partition, checkpoint.settled_end());
        // Under the claim: from here on only we make open work, and only we do it.
        let open_before = self.tenants_with_open_work(&calls).await?;
        Ok(Some(Outcome::Owned(Box::new(checkpoint), open_before)))
    }

    /// Whether everything is settled that the partition comes behind. Where that ends is asked once, so that
    /// the turn comes however fast the others go on.
    async fn is_its_turn(&mut self, calls: &StoreCalls) -> Result<bool, Failure> {
        if self.ahead.is_none() {
            let partition = self.source_partition.partition;
            self.ahead = Some(self.bus.comes_behind(partition).await?);
        }
        while let Some(place) = self.first_ahead() {
            let older = SourcePartition {
                partition: place.partition,
                ..self.source_partition.clone()
            };
            let checkpoint = calls.checkpoint(older).await?;
            let next = checkpoint.map(|checkpoint| checkpoint.progress.next_offset);
            let is_settled = next.is_some_and(|next| next >= place.offset);
            if !is_settled && !self.bus.is_empty_to(next, place).await? {
                return Ok(false);
            }
            self.ahead.as_mut().and_then(Vec::pop);
        }
        Ok(true)
    }

    fn first_ahead(&self) -> Option<Place> {
        self.ahead.as_ref()?.last().copied()
    }

    /// Says now and then what the partition waits for: a stopped one would hold it for ever.
    fn say_ahead(&self, looks: u32) {
        if let Some(place) = self.first_ahead()
            && looks.is_multiple_of(LOOKS_TO_SAY)
        {
            tracing::warn!(partition = %self.source_partition, waits_for = place.partition, to_offset = place.offset.0, "it was added to its topic, and is read once all is settled that the older partitions had then");
        }
    }

    async fn tenants_with_open_work(
        &self,
        calls: &StoreCalls,
    ) -> Result<BTreeSet<TenantId>, Failure> {
        let mut all = BTreeSet::new();
        if active(Bug::WorkForgottenOnClaim) {
            return Ok(all);
        }
        loop {
            let place = self.source_partition.clone();
            let page = calls
                .tenants_with_open_work(place, all.last().cloned())
                .await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The last settled record must still be there, as it was.
    async fn check_source(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let other = |what: String| Failure {
            kind: ErrorKind::Permanent,
            detail: format!(
                "{}: {what}. The source was re-created, replaced or truncated: what the checkpoint calls settled is \
                 not what is there now. Nothing was read. Restore the old one, give the new one a name of its own, or \
                 say with `tidegate partitions resume` where to go on",
                self.source_partition
            ),
        };
        if checkpoint.incarnation != self.incarnation {
            return Err(other(format!(
                "the checkpoint belongs to incarnation `{}`, the source is `{}`",
                checkpoint.incarnation, self.incarnation
            )));
        }
        if !self.bus.keeps_records() {
            return Ok(());
        }
        let Some(fingerprint) = checkpoint.progress.fingerprint else {
            return Ok(());
        };
        let found = self
            .bus
            .fingerprint_at(self.source_partition.partition, fingerprint.offset)
            .await?;
        let partition = self.source_partition.partition;
        match found {
            Some(hash) if hash == fingerprint.hash => Ok(()),
            None if self
                .bus
                .takes_records_away(partition, fingerprint.offset)
                .await? =>
            {
                tracing::info!(partition = %self.source_partition, offset = fingerprint.offset.0, "the last settled record is gone by the source's own rules; going on behind it");
                Ok(())
            }
            Some(_) => Err(other(format!(
                "another record stands at offset {}",
                fingerprint.offset
            ))),
            None => Err(other(format!(
                "no record stands at offset {}",
                fingerprint.offset
            ))),
        }
    }
}

impl From<tidegate_engine::store::StoreError> for Failure {
    fn from(error: tidegate_engine::store::StoreError) -> Self {
        Self {
            kind: error.kind(),
            detail: error.to_string(),
        }
    }
}

impl From<tidegate_engine::bus::BusError> for Failure {
    fn from(error: tidegate_engine::bus::BusError) -> Self {
        Self {
            kind: error.kind(),
            detail: error.to_string(),
        }
    }
}
