//! The store as a node reaches it: calls take time, fail, lose their outcome, meet busy rows and refuse
//! values, as the seed says. Everything that happens is traced, and counted when it took effect.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_connectors::store::memory::{
    AtEnd, AtStart, CallOutcome, StoreCall, StoreFaults, StoreOperation,
};
use tidegate_engine::commit::{CommitBatch, EntityName};
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::record::split_segment;
use tidegate_engine::store::StoreError;

use crate::control::Control;
use crate::faults::Fault;
use crate::seed::Dice;
use crate::stage::{Stage, UNEXPECTED_CODE};
use crate::workload::{POISON, VENOM};

/// Calls that a late commit may let pass.
const LATE_CALLS_MAX: u64 = 40;

/// The way of one process to the store.
pub struct StoreSeam {
    pub stage: Arc<Stage>,
    pub control: Arc<Control>,
    pub dice: Mutex<Dice>,
    /// Stalled calls that are under way: when each returns, it counts.
    pub stalled: Mutex<Vec<String>>,
}

impl StoreSeam {
    /// How long a call or reply is on its way.
    fn travel(&self, dice: &mut Dice) -> Duration {
        if dice.chance(self.stage.rates.slow) {
            dice.millis(1, 40)
        } else {
            Duration::ZERO
        }
    }

    fn trace(&self, line: &str) -> bool {
        self.stage.trace(&self.control.name, line)
    }

    fn fail_at_start(&self, call: &StoreCall<'_>, dice: &mut Dice, stalls: bool) -> AtStart {
        let rates = &self.stage.rates;
        if call.operation == StoreOperation::Commit {
            if dice.chance(rates.unknown_not_committed) {
                return AtStart::Fail(unknown("the connection was lost before COMMIT arrived"));
            }
            if dice.chance(rates.unknown_late) {
                let error = unknown("the connection was lost while COMMIT was on its way");
                return AtStart::Late {
                    error,
                    after_calls: dice.between(0, LATE_CALLS_MAX) as u32,
                };
            }
        }
        if dice.chance(rates.store_transient) {
            return AtStart::Fail(StoreError::Unavailable {
                detail: "simulated".to_owned(),
            });
        }
        // Of a call that stalls nobody may hear the answer any more.
        let heard = call.operation != StoreOperation::Checkpoint && !stalls;
        if dice.chance(rates.unexpected) && heard {
            if let Some(batch) = call.batch {
                self.stage
                    .must_stop(batch.source_partition.partition, batch.epoch);
            }
            let (code, detail) = (UNEXPECTED_CODE.to_owned(), "simulated".to_owned());
            return AtStart::Fail(StoreError::Unexpected { code, detail });
        }
        AtStart::Proceed
    }

    fn count_outcome(&self, outcome: CallOutcome) {
        match outcome {
            CallOutcome::Fenced => self.stage.count(Fault::Fenced),
            CallOutcome::Surprised {
                known_keys,
                entities,
                busy,
            } => {
                let found = [
                    (known_keys, Fault::KnownKey),
                    (entities, Fault::OtherVersion),
                    (busy, Fault::BusyRow),
                ];
                for (_, fault) in found.into_iter().filter(|(times, _)| *times > 0) {
                    self.stage.count(fault);
                }
            }
            CallOutcome::Committed | CallOutcome::Done | CallOutcome::Failed => {}
        }
    }
}

impl StoreFaults for StoreSeam {
    fn at_start(&self, call: &StoreCall<'_>) -> (Duration, AtStart) {
        let name = describe(call);
        if !self.control.lives_on() || !self.trace(&format!("> {name}")) {
            return (Duration::ZERO, AtStart::Stall);
        }
        let mut dice = self.dice.lock().unwrap();
        let mut delay = self.travel(&mut dice);
        let fault = match call.batch.and_then(|batch| refusal(batch)) {
            Some(error) => AtStart::Fail(error),
            None if self.stage.is_chaotic() => {
                let stalls = dice.chance(self.stage.rates.stall);
                if stalls {
                    delay = self.stage.stall_limit * 3 / 2 + dice.millis(0, 2_000);
                    self.stalled.lock().unwrap().push(name.clone());
                }
                self.fail_at_start(call, &mut dice, stalls)
            }
            None => AtStart::Proceed,
        };
        match &fault {
            AtStart::Proceed => {}
            AtStart::Fail(error) => drop(self.trace(&format!("< {name}: {error}"))),
            AtStart::Late { after_calls, .. } => {
                self.trace(&format!(
                    "< {name}: unknown, arrives after {after_calls} calls"
                ));
            }
            AtStart::Stall => {}
        }
        (delay, fault)
    }

    fn failed(&self, _: &StoreCall<'_>, error: &StoreError) {
        match error {
            StoreError::OutcomeUnknown { .. } => self.stage.count(Fault::UnknownNotCommitted),
            StoreError::Unavailable { .. } => self.stage.count(Fault::StoreTransient),
            StoreError::Refused { .. } => self.stage.count(Fault::RefusedValue),
            // Counted when it made an operator come.
            _ => {}
        }
    }

    fn at_end(&self, call: &StoreCall<'_>, outcome: CallOutcome) -> (Duration, AtEnd) {
        let name = describe(call);
        let partition = call.source_partition.map(|place| place.partition);
        self.count_outcome(outcome);
        if let (Some(partition), StoreOperation::Claim, CallOutcome::Done) =
            (partition, call.operation, outcome)
            && let Some(checkpoint) = self.stage.checkpoint(partition)
        {
            self.stage
                .claimed(partition, &self.control.name, checkpoint.epoch);
        }
        if let (Some(batch), CallOutcome::Committed) = (call.batch, outcome) {
            self.stage.committed(batch);
            self.stage
                .look_after_commit(batch.source_partition.partition, batch.epoch);
        }
        let mut stalled = self.stalled.lock().unwrap();
        if let Some(place) = stalled.iter().position(|waiting| *waiting == name) {
            stalled.remove(place);
            self.stage.count(Fault::Stalled);
        }
        drop(stalled);
        if !self.control.lives_on() || !self.trace(&format!("< {name}: {outcome:?}")) {
            return (Duration::ZERO, AtEnd::Stall);
        }
        let mut dice = self.dice.lock().unwrap();
        let delay = self.travel(&mut dice);
        let loses_reply = outcome == CallOutcome::Committed
            && self.stage.is_chaotic()
            && dice.chance(self.stage.rates.unknown_committed);
        if loses_reply {
            self.stage.count(Fault::UnknownCommitted);
            self.trace(&format!("< {name}: reply lost"));
            return (
                delay,
                AtEnd::Fail(unknown("the connection was lost after COMMIT")),
            );
        }
        (delay, AtEnd::Proceed)
    }

    fn busy(&self, batch: &CommitBatch) -> Vec<EntityName> {
        let mut dice = self.dice.lock().unwrap();
        if batch.entities.is_empty()
            || !self.stage.is_chaotic()
            || !dice.chance(self.stage.rates.busy)
        {
            return Vec::new();
        }
        vec![
            batch.entities[dice.index(batch.entities.len())]
                .name
                .clone(),
        ]
    }

    fn arrived_late(&self, batch: &CommitBatch, outcome: CallOutcome) {
        self.stage.count(Fault::UnknownLate);
        let (place, epoch, revision) = (&batch.source_partition, batch.epoch, batch.revision);
        if outcome == CallOutcome::Committed {
            self.stage.committed(batch);
            self.stage.check_owner(place.partition, epoch);
        }
        self.trace(&format!(
            "late commit {place} e{epoch} r{revision}: {outcome:?}"
        ));
    }
}

fn unknown(detail: &str) -> StoreError {
    StoreError::OutcomeUnknown {
        detail: detail.to_owned(),
    }
}

/// A call's name and, for a commit, the hash of everything in it.
fn describe(call: &StoreCall<'_>) -> String {
    let place = call
        .source_partition
        .map_or_else(String::new, |place| format!(" {}", place.partition));
    let Some(batch) = call.batch else {
        return format!("{:?}{place}", call.operation);
    };
    let hash = format!("{}", hash_bytes(format!("{batch:?}").as_bytes()));
    let received = batch.progress.counts.received();
    format!(
        "Commit{place} e{} r{} {:?} to {received} {}",
        batch.epoch,
        batch.revision,
        batch.path,
        &hash[..8]
    )
}

/// What a database with a stricter mind than ours says to some values: never to the same event again
/// once it is dead, unless even the event itself is too much.
fn refusal(batch: &CommitBatch) -> Option<StoreError> {
    let refused = batch.segments.iter().any(|segment| {
        segment.body.contains(VENOM)
            || segment.body.contains(POISON)
                && split_segment(&segment.body).unwrap().iter().any(|record| {
                    record.get().contains(POISON) && !record.get().contains("\"outcome\":\"dead\"")
                })
    });
    refused.then(|| StoreError::Refused {
        code: "22P02".to_owned(),
        detail: "simulated".to_owned(),
    })
}
