//! One assigned source partition, from assignment to release: how we hold it, and what has to be done
//! about it next. Does nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tidegate_engine::checkpoint::{Checkpoint, OffsetTracker};
use tidegate_engine::commit_protocol::CommitProtocol;
use tidegate_engine::limits::RECLAIM_ATTEMPTS_MAX;
use tidegate_engine::planted::{Bug, active};
use tidegate_engine::position::{Incarnation, Offset, SourcePartition};
use tidegate_engine::retry::BackOff;
use tidegate_engine::tenant::TenantId;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::unread::Unread;
use super::{Command, Source, SourceStatus};
use crate::committer::Committer;
use crate::meters::SourceMeters;
use crate::options::NodeOptions;
use crate::ownership::{Ownership, Standing};
use crate::restart::RestartBudget;
use crate::seams::Context;

/// How we hold a source partition.
pub(crate) enum Held {
    /// To be claimed, once no earlier claim of it is under way.
    Unclaimed(ClaimTerms),
    /// A claim is under way.
    Claiming,
    /// It is ours.
    Owned {
        ownership: Arc<Ownership>,
        committer: Addr<Committer>,
    },
    /// To be given back, not before then; the last so many tries failed.
    Leaving { not_before: Instant, failures: u32 },
    /// Stopped with an alarm; an operator decides, which is waited for once it is `awaited`.
    Quarantined { reason: String, awaited: bool },
}

/// How to go about a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClaimTerms {
    /// How long to wait first.
    pub wait: Duration,
    /// Ask the bus first whether the partition is still ours: another owner has fenced us.
    pub ask_bus: bool,
}

impl ClaimTerms {
    /// At once.
    const AT_ONCE: Self = Self {
        wait: Duration::ZERO,
        ask_bus: false,
    };

    /// After an operator's decision: what the bus assigns now is not known.
    pub(super) const AFTER_DECISION: Self = Self {
        wait: Duration::ZERO,
        ask_bus: true,
    };
}

/// One assigned source partition.
pub(crate) struct Slot {
    source_partition: SourcePartition,
    pub incarnation: Incarnation,
    pub held: Held,
    /// Rebuilds after something broke, and their spacing.
    restarts: RestartBudget,
    back_off: BackOff,
    /// Claims after another owner fenced us. Two owners that both believe the bus would fence each other
    /// for ever; somebody has to look.
    reclaims: RestartBudget,
    reclaim_back_off: BackOff,
    /// Behind its last record, once a bounded one was read to its end.
    pub ended: Option<Offset>,
    /// To be given back once everything received is settled, and at this moment at the latest: a broker
    /// waits for it, and a store that is away may be so for long.
    revoked: Option<Instant>,
    release_limit: Duration,
    /// Behind the last record that was received, by this ownership or one before it.
    received_to: Offset,
    left_behind: LeftBehind,
    /// How far it is behind while it is not read.
    pub unread: Option<Unread>,
    meters: SourceMeters,
}

/// What was unsettled when an ownership broke. Its successor receives it again, unless the node drains.
#[derive(Clone, Copy, Default)]
struct LeftBehind {
    events: usize,
    /// All of it stands before this offset.
    up_to: Offset,
}

/// What has to be done about a slot.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Nothing,
    Claim(ClaimTerms),
    /// Wait for an operator's decision about it.
    AwaitDecision,
    Release,
}

impl Slot {
    pub fn new(
        source_partition: SourcePartition,
        incarnation: Incarnation,
        options: &NodeOptions,
        meters: SourceMeters,
    ) -> Self {
        let first = options.reclaim_wait_first;
        Self {
            source_partition,
            incarnation,
            held: Held::Unclaimed(ClaimTerms::AT_ONCE),
            restarts: RestartBudget::new(options.restarts_max, options.restart_window),
            back_off: options.back_off,
            reclaims: RestartBudget::new(RECLAIM_ATTEMPTS_MAX, options.restart_window),
            reclaim_back_off: BackOff {
                first,
                max: first.saturating_mul(1 << (RECLAIM_ATTEMPTS_MAX - 1)),
            },
            ended: None,
            revoked: None,
            release_limit: options.release_limit,
            received_to: Offset(0),
            left_behind: LeftBehind::default(),
            unread: None,
            meters,
        }
    }

    /// The ownership and its committer, while it is ours.
    pub fn owned(&self) -> Option<(Arc<Ownership>, Addr<Committer>)> {
        match &self.held {
            Held::Owned {
                ownership,
                committer,
            } if ownership.is_owned() => Some((ownership.clone(), committer.clone())),
            _ => None,
        }
    }

    /// Ends the ownership, if there is one.
    pub fn end(&self, reason: &str) {
        if let Held::Owned {
            ownership,
            committer,
        } = &self.held
        {
            ownership.end(Standing::Broken {
                reason: reason.to_owned(),
            });
            // Full or closed, its own watch ends it.
            let _ = committer.try_send(crate::committer::Retire);
        }
    }

    /// The bus asks for it back.
    pub fn revoke(&mut self, now: Instant) {
        self.revoked.get_or_insert(now + self.release_limit);
    }

    /// True while a claim of it is of use: one under way, or one that waits for an operator's decision.
    pub fn wants_claim(&self) -> bool {
        matches!(
            self.held,
            Held::Claiming | Held::Quarantined { awaited: true, .. }
        )
    }

    /// It stays for an operator to look at, although the bus asked for it back.
    pub fn keep(&mut self, reason: String) {
        self.revoked = None;
        self.quarantine(reason);
    }

    /// Records up to there were received.
    pub fn received(&mut self, next: Offset) {
        self.received_to = self.received_to.max(next);
    }

    /// Events that were received and are not settled, at most: of a commit that broke with its ownership
    /// only the next claim tells what it did. What is given back is its next owner's.
    pub fn unsettled(&self) -> usize {
        match &self.held {
            Held::Owned { ownership, .. } => {
                let tracker = ownership.tracker();
                let LeftBehind { events, up_to } = self.left_behind;
                let still = tracker.low_watermark() < up_to;
                tracker.tracked().max(if still { events } else { 0 })
            }
            Held::Leaving { .. } => 0,
            Held::Unclaimed(_) | Held::Claiming | Held::Quarantined { .. } => {
                self.left_behind.events
            }
        }
    }

    /// The ownership ends without having settled everything.
    fn leave_behind(&mut self) {
        self.left_behind = LeftBehind {
            events: self.unsettled(),
            up_to: self.received_to,
        };
    }

    /// True when nothing more will be settled of what was received, be it because all is, or because
    /// what broke is not received again.
    pub(crate) fn is_drained(&self) -> bool {
        match &self.held {
            Held::Owned { .. } => self.is_settled(),
            // The claim tells what the ownership before it had written.
            Held::Unclaimed(_) | Held::Claiming => self.left_behind.events == 0,
            Held::Leaving { .. } | Held::Quarantined { .. } => true,
        }
    }

    /// Stops it with an alarm.
    pub fn quarantine(&mut self, reason: String) {
        tracing::error!(partition = %self.source_partition, %reason, "source partition stopped");
        self.meters.quarantined();
        self.end(&reason);
        self.leave_behind();
        self.held = Held::Quarantined {
            reason,
            awaited: false,
        };
    }

    /// It could not be given back: once more after the wait.
    pub fn leave_later(&mut self, not_before: Instant) {
        if let Held::Leaving { failures, .. } = self.held {
            self.held = Held::Leaving {
                not_before,
                failures: failures + 1,
            };
        }
    }

    /// How often it could not be given back so far.
    pub fn failures(&self) -> u32 {
        match self.held {
            Held::Leaving { failures, .. } => failures,
            _ => 0,
        }
    }

    /// When to look again although nothing moved.
    pub fn due(&self) -> Option<Instant> {
        match self.held {
            Held::Leaving { not_before, .. } => Some(not_before),
            Held::Owned { .. } => self.revoked,
            _ => None,
        }
    }

    /// True when nothing received is unsettled, and nothing emitted.
    pub fn is_settled(&self) -> bool {
        self.owned()
            .is_some_and(|(ownership, _)| ownership.is_settled())
    }

    /// True when a bounded partition was read to its end and everything in it is settled.
    pub fn is_finished(&self) -> bool {
        self.ended.is_some() && self.is_settled()
    }

    /// Looks at the slot and takes the next step where one is due. `claim_under_way` says that a claim
    /// of this partition has not returned, be it this slot's or that of an assignment before: two of
    /// them at once would fence each other.
    pub fn look(&mut self, now: Instant, claim_under_way: bool, random: u64) -> Action {
        self.look_at_ownership(now, random);
        let is_idle = !matches!(self.held, Held::Owned { .. } | Held::Leaving { .. });
        if self.revoked.is_some() && is_idle {
            // Nothing of it is received or unsettled. An alarm was said; who gets it next will meet
            // the same cause, or not.
            self.leave(now);
        }
        match self.held {
            Held::Unclaimed(terms) if !claim_under_way => {
                self.held = Held::Claiming;
                Action::Claim(terms)
            }
            Held::Leaving { not_before, .. } if !claim_under_way && not_before <= now => {
                Action::Release
            }
            Held::Quarantined {
                ref mut awaited, ..
            } if !claim_under_way => {
                *awaited = true;
                Action::AwaitDecision
            }
            _ => Action::Nothing,
        }
    }

    fn look_at_ownership(&mut self, now: Instant, random: u64) {
        let Held::Owned {
            ownership,
            committer,
        } = &self.held
        else {
            return;
        };
        if !committer.connected() {
            ownership.end(Standing::Broken {
                reason: "the committer died".to_owned(),
            });
        }
        let standing = ownership.standing();
        // What was emitted stays open work, and is its next owner's.
        let is_settled = ownership.tracker().tracked() == 0;
        if standing != Standing::Owned {
            self.leave_behind();
        }
        match standing {
            Standing::Owned if self.revoked.is_some() && is_settled => {
                self.end("given back");
                self.leave(now);
            }
            Standing::Owned if self.revoked.is_some_and(|until| until <= now) => {
                let limit_seconds = self.release_limit.as_secs_f64();
                tracing::warn!(partition = %self.source_partition, limit_seconds, "asked back and not settled in time; its next owner does the rest");
                self.end("given back unsettled");
                self.leave(now);
            }
            Standing::Owned => {}
            Standing::Stopped { reason } => self.quarantine(reason),
            Standing::Broken { .. } | Standing::Fenced if self.revoked.is_some() => self.leave(now),
            Standing::Broken { reason } => match self.restarts.spend(now) {
                Some(attempt) => {
                    self.meters.restarted();
                    tracing::warn!(partition = %self.source_partition, attempt, %reason, "ownership ended, claiming again");
                    self.held = Held::Unclaimed(ClaimTerms {
                        wait: self.back_off.wait(attempt, random),
                        ask_bus: false,
                    });
                }
                None => self.quarantine(format!(
                    "the restart budget is used up; the last reason: {reason}"
                )),
            },
            Standing::Fenced => self.look_at_fence(now, random),
        }
    }

    fn look_at_fence(&mut self, now: Instant, random: u64) {
        if active(Bug::ReclaimLeftOut) {
            self.held = Held::Claiming;
            return;
        }
        self.meters.fenced();
        let Some(attempt) = self.reclaims.spend(now) else {
            return self.quarantine(format!(
                "fenced: another process claimed it {} times within {} s while the bus assigned it to \
                 this one too. Nothing is lost. See to it that no two installations read one source under one \
                 name into one store, and that each process is a consumer of its own; then restart this \
                 node",
                RECLAIM_ATTEMPTS_MAX + 1,
                self.reclaims.window().as_secs()
            ));
        };
        tracing::warn!(partition = %self.source_partition, attempt, "fenced by another owner; claiming again if the bus still assigns it");
        self.held = Held::Unclaimed(ClaimTerms {
            wait: self.reclaim_back_off.wait(attempt, random),
            ask_bus: true,
        });
    }

    fn leave(&mut self, now: Instant) {
        self.held = Held::Leaving {
            not_before: now,
            failures: 0,
        };
    }
}

/// The status of a source from its slots, unless its bus has `failed` as a whole.
pub(super) fn status(
    slots: &BTreeMap<u32, Slot>,
    failed: Option<&str>,
    command: Command,
) -> SourceStatus {
    // What is broken is no reason to leave what is whole unsettled.
    if command == Command::Drain && !slots.values().all(Slot::is_drained) {
        return SourceStatus::Running;
    }
    if let Some(reason) = failed {
        return SourceStatus::Failed {
            reason: reason.to_owned(),
            is_whole: true,
        };
    }
    let reasons: Vec<String> = slots
        .iter()
        .filter_map(|(partition, slot)| match &slot.held {
            Held::Quarantined { reason, .. } => Some(format!("partition {partition}: {reason}")),
            _ => None,
        })
        .collect();
    if !reasons.is_empty() {
        return SourceStatus::Failed {
            reason: reasons.join("; "),
            is_whole: false,
        };
    }
    if command == Command::Drain {
        return SourceStatus::Drained;
    }
    if !slots.is_empty() && slots.values().all(Slot::is_finished) {
        return SourceStatus::Ended;
    }
    SourceStatus::Running
}

/// Makes the ownership of a claimed checkpoint and starts its committer.
pub(super) fn take_ownership(
    context: &Context,
    source: &Source,
    checkpoint: &Checkpoint,
    open_before: BTreeSet<TenantId>,
    commit_slots: Arc<Semaphore>,
    moved: Arc<Notify>,
) -> (Arc<Ownership>, Addr<Committer>) {
    let tracker = OffsetTracker::resume(&checkpoint.progress);
    let ownership = Arc::new(Ownership::new(
        checkpoint.source_partition.clone(),
        source.stream.clone(),
        checkpoint.epoch,
        source.bus.wants_settlements(),
        tracker,
        open_before,
        moved,
    ));
    let protocol = CommitProtocol::new(checkpoint, context.options.back_off);
    let counts = checkpoint.progress.counts;
    let (context_for, owned, bus) = (context.clone(), ownership.clone(), source.bus.clone());
    let committer = context
        .seams
        .placement
        .start(checkpoint.source_partition.clone(), move |_| {
            Committer::new(context_for, owned, bus, commit_slots, protocol, counts)
        });
    (ownership, committer)
}
