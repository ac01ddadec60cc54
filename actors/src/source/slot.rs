//! One assigned source partition, from assignment to release.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tidegate_engine::checkpoint::{Checkpoint, OffsetTracker};
use tidegate_engine::commit_protocol::CommitProtocol;
use tidegate_engine::position::{Incarnation, Offset};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::{Command, Source, SourceStatus};
use crate::committer::Committer;
use crate::ownership::{Ownership, Standing};
use crate::restart::RestartBudget;
use crate::seams::Context;

/// How we hold a source partition.
pub(crate) enum Held {
    /// A claim is under way.
    Claiming,
    /// It is ours.
    Owned {
        ownership: Arc<Ownership>,
        committer: Addr<Committer>,
    },
    /// Stopped with an alarm; an operator decides.
    Quarantined { reason: String },
}

/// One assigned source partition.
pub(crate) struct Slot {
    pub incarnation: Incarnation,
    pub held: Held,
    budget: RestartBudget,
    /// Behind its last record, once a bounded one was read to its end.
    pub ended: Option<Offset>,
    /// To be given back once everything received is settled.
    pub revoked: bool,
}

/// What has to be done about a slot.
pub(crate) enum Action {
    Nothing,
    Reclaim { attempt: u32, reason: String },
    Quarantined { reason: String },
    Release,
}

impl Slot {
    pub fn new(incarnation: Incarnation, restarts_max: u32, restart_window: Duration) -> Self {
        let budget = RestartBudget::new(restarts_max, restart_window);
        Self {
            incarnation,
            held: Held::Claiming,
            budget,
            ended: None,
            revoked: false,
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

    /// True when nothing received is unsettled.
    pub fn is_settled(&self) -> bool {
        self.owned()
            .is_some_and(|(ownership, _)| ownership.tracker().tracked() == 0)
    }

    /// True when a bounded partition was read to its end and everything in it is settled.
    pub fn is_finished(&self) -> bool {
        self.ended.is_some() && self.is_settled()
    }

    /// Looks at the ownership and takes the next step where one is due.
    pub fn look(&mut self, now: Instant) -> Action {
        let Held::Owned {
            ownership,
            committer,
        } = &self.held
        else {
            return Action::Nothing;
        };
        if !committer.connected() {
            ownership.end(Standing::Broken {
                reason: "the committer died".to_owned(),
            });
        }
        match ownership.standing() {
            Standing::Owned if self.revoked && ownership.tracker().tracked() == 0 => {
                self.end("given back");
                Action::Release
            }
            Standing::Owned => Action::Nothing,
            Standing::Broken { reason } => match self.budget.spend(now) {
                Some(attempt) => {
                    self.held = Held::Claiming;
                    Action::Reclaim { attempt, reason }
                }
                None => {
                    let reason =
                        format!("the restart budget is used up; the last reason: {reason}");
                    self.held = Held::Quarantined {
                        reason: reason.clone(),
                    };
                    Action::Quarantined { reason }
                }
            },
            Standing::Stopped { reason } => {
                self.held = Held::Quarantined {
                    reason: reason.clone(),
                };
                Action::Quarantined { reason }
            }
        }
    }
}

/// The status of a source from its slots.
pub(super) fn status(slots: &BTreeMap<u32, Slot>, command: Command) -> SourceStatus {
    let reasons: Vec<String> = slots
        .iter()
        .filter_map(|(partition, slot)| match &slot.held {
            Held::Quarantined { reason } => Some(format!("partition {partition}: {reason}")),
            _ => None,
        })
        .collect();
    if !reasons.is_empty() {
        return SourceStatus::Failed {
            reason: reasons.join("; "),
        };
    }
    if command == Command::Drain {
        let drained = slots
            .values()
            .all(|slot| slot.is_settled() || matches!(slot.held, Held::Claiming));
        return if drained {
            SourceStatus::Drained
        } else {
            SourceStatus::Running
        };
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
    commit_slots: Arc<Semaphore>,
    moved: Arc<Notify>,
) -> (Arc<Ownership>, Addr<Committer>) {
    let tracker = OffsetTracker::resume(&checkpoint.progress);
    let ownership = Arc::new(Ownership::new(
        checkpoint.source_partition.clone(),
        source.stream.clone(),
        checkpoint.epoch,
        tracker,
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
