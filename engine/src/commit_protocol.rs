//! The commit protocol of one source partition: a pure state machine, shared by every store, so that
//! the simulation runs the riskiest code. It says when a batch may be handed over, what a reply means,
//! and how an outcome that nobody knows becomes known. It never touches a store or a clock.

use crate::checkpoint::Checkpoint;
use crate::commit::{CommitPath, CommitReply, EntityRow, Surprises};
use crate::error::ErrorKind;
use crate::limits::BATCH_EVENTS_MAX;
use crate::planted::{Bug, active};
use crate::position::{Epoch, Revision};
use crate::retry::{BackOff, Disposition, dispose};
use crate::store::{CODE_ANSWER, StoreError};

/// The terms under which the next batch is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Our ownership.
    pub epoch: Epoch,
    /// The revision that the checkpoint must have.
    pub revision: Revision,
    /// How the store goes about it.
    pub path: CommitPath,
    /// One event at a time, while the event is looked for that the store refuses.
    pub one_event: bool,
    /// How often the most that a batch may hold is halved: once for each surprise in a row after the first
    /// few. Whoever shares entities that others move all the time gets on with small batches.
    pub halved: u32,
    /// Events at most, while batches fail for now again and again: one may be too much for the store's
    /// limits of time or memory, and would be for ever.
    pub events_max: usize,
}

/// What the owner does next.
#[derive(Clone, PartialEq, Debug)]
pub enum Next {
    /// The batch is durable: settle it. Rows of new entities are known unless the reply was lost.
    Settle {
        /// Rows of the entities that were new, when the reply arrived.
        new_rows: Option<Vec<EntityRow>>,
    },
    /// Nothing was written: drop the speculation, take the surprises in, apply again.
    Reapply(Surprises),
    /// Nothing was written, or nobody knows: hand the same batch over again after the wait.
    SubmitAgain(std::time::Duration),
    /// The batch failed again and again: drop the speculation, apply again, and hand over a smaller one at
    /// once; see [`Terms::events_max`].
    MakeSmaller,
    /// Nobody knows: read the checkpoint after the wait, then call [`CommitProtocol::on_checkpoint`].
    ReadCheckpoint(std::time::Duration),
    /// The batch held one event and the store refuses its values: it is dead. Apply again.
    Condemn {
        /// The refusal, without values.
        detail: String,
    },
    /// Not ours any more: drop everything.
    Drop,
    /// Something of ours was written, and it may be another batch than the one in flight: drop
    /// everything and claim again, the store knows.
    ClaimAgain,
    /// Stop this source partition with an alarm.
    Stop {
        /// What happened.
        detail: String,
        /// Nothing of ours was written, for certain. Otherwise only the next claim tells.
        nothing_written: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Idle,
    InFlight,
    Unknown,
    Over,
}

/// The state of one ownership's commits.
#[derive(Debug)]
pub struct CommitProtocol {
    epoch: Epoch,
    revision: Revision,
    stage: Stage,
    attempt: u32,
    surprised_in_a_row: u32,
    /// The most that a batch may hold since one failed again and again.
    smaller: Smaller,
    /// Events that go one at a time from here on: so many as stood in a batch whose values were refused.
    one_event_left: usize,
    /// What batches of unknown outcome are under way for this revision.
    at_large: AtLarge,
    back_off: BackOff,
}

/// The most that a batch may hold after some failed again and again: halved each time, and doubled again
/// while batches get through. Where doubling fails, it is tried after twice as many.
#[derive(Debug)]
struct Smaller {
    events_max: Option<usize>,
    committed: u32,
    /// Commits before the next doubling.
    committed_enough: u32,
    /// It was doubled since it was halved.
    doubled: bool,
}

impl Default for Smaller {
    fn default() -> Self {
        Self {
            events_max: None,
            committed: 0,
            committed_enough: 1,
            doubled: false,
        }
    }
}

impl Smaller {
    fn than(&mut self, events: usize) {
        self.events_max = Some((events / 2).max(1));
        self.committed = 0;
        if std::mem::take(&mut self.doubled) {
            self.committed_enough = (2 * self.committed_enough).min(COMMITS_BEFORE_DOUBLED_MAX);
        }
    }

    fn committed(&mut self) {
        let Some(events_max) = self.events_max else {
            // Nothing is held back, and it works: what was learned of earlier trouble is forgotten.
            self.committed_enough = (self.committed_enough / 2).max(1);
            return;
        };
        self.committed += 1;
        if self.committed >= self.committed_enough {
            self.committed = 0;
            self.doubled = true;
            self.events_max = Some(events_max * 2).filter(|doubled| *doubled < BATCH_EVENTS_MAX);
        }
    }
}

/// Batches of this revision that may still arrive: one of them at most will be written, and the
/// checkpoint's revision does not say which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AtLarge {
    /// None.
    None,
    /// Only the one in flight, however often it was handed over.
    TheSame,
    /// One that was given up meanwhile for another.
    Another,
}

/// Surprises in a row after which the careful path goes first: the fast path would only be paid on top.
const SURPRISES_BEFORE_CAREFUL: u32 = 2;

/// Attempts at one batch before it is made smaller: most failures pass, and a smaller batch helps none of
/// those.
const ATTEMPTS_BEFORE_SMALLER: u32 = 4;

/// Commits at most before a batch may be twice as large again.
const COMMITS_BEFORE_DOUBLED_MAX: u32 = 1_024;

impl CommitProtocol {
    /// Begins at a claimed checkpoint.
    pub fn new(checkpoint: &Checkpoint, back_off: BackOff) -> Self {
        Self {
            epoch: checkpoint.epoch,
            revision: checkpoint.revision,
            stage: Stage::Idle,
            attempt: 0,
            surprised_in_a_row: 0,
            smaller: Smaller::default(),
            one_event_left: 0,
            at_large: AtLarge::None,
            back_off,
        }
    }

    /// The ownership.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// True when a batch may be handed over: one commit is in flight per source partition.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// The terms of the batch that is handed over now (`ahead` 0) or right after the one in flight
    /// (`ahead` 1).
    pub fn terms(&self, ahead: u64) -> Terms {
        Terms {
            epoch: self.epoch,
            revision: Revision(self.revision.0 + ahead),
            path: if self.surprised_in_a_row >= SURPRISES_BEFORE_CAREFUL {
                CommitPath::Careful
            } else {
                CommitPath::Fast
            },
            one_event: self.one_event_left > 0,
            halved: self
                .surprised_in_a_row
                .saturating_sub(SURPRISES_BEFORE_CAREFUL),
            events_max: self.smaller.events_max.unwrap_or(usize::MAX),
        }
    }

    /// The batch was handed over.
    pub fn submitted(&mut self) {
        assert!(
            matches!(self.stage, Stage::Idle),
            "one commit in flight per source partition: a second was handed over in {:?}",
            self.stage
        );
        self.stage = Stage::InFlight;
        self.attempt += 1;
    }

    /// The store answered for the batch in flight, whose events are `events` many. `random` jitters the
    /// wait.
    pub fn on_reply(
        &mut self,
        reply: Result<CommitReply, StoreError>,
        events: usize,
        random: u64,
    ) -> Next {
        assert!(
            matches!(self.stage, Stage::InFlight),
            "a reply without a batch in flight: {:?}",
            self.stage
        );
        match reply {
            Ok(CommitReply::Committed { new_rows }) => self.committed(Some(new_rows), events),
            Ok(CommitReply::Surprised(surprises)) => {
                self.given_up();
                self.surprised_in_a_row = self.surprised_in_a_row.saturating_add(1);
                Next::Reapply(surprises)
            }
            // What was handed over before may have arrived meanwhile: then it is our own revision that
            // stands in the way.
            Ok(CommitReply::Fenced) if self.at_large != AtLarge::None => {
                self.stage = Stage::Unknown;
                Next::ReadCheckpoint(std::time::Duration::ZERO)
            }
            Ok(CommitReply::Fenced) => self.over(Next::Drop),
            Err(StoreError::OutcomeUnknown { .. }) => {
                if active(Bug::UnknownOutcomeTakenForCommitted) {
                    return self.committed(None, events);
                }
                self.stage = Stage::Unknown;
                if self.at_large == AtLarge::None {
                    self.at_large = AtLarge::TheSame;
                }
                Next::ReadCheckpoint(self.back_off.wait(self.attempt, random))
            }
            Err(error) => {
                let is_answer =
                    matches!(&error, StoreError::Unexpected { code, .. } if code == CODE_ANSWER);
                if is_answer && self.at_large == AtLarge::None {
                    self.at_large = AtLarge::TheSame;
                }
                self.failed(&error, events, random)
            }
        }
    }

    /// The checkpoint was read after an unknown outcome (or could not be, which asks for another try).
    /// `events` is how many are in the batch in flight.
    pub fn on_checkpoint(
        &mut self,
        read: Result<Option<Checkpoint>, StoreError>,
        events: usize,
        random: u64,
    ) -> Next {
        assert!(
            matches!(self.stage, Stage::Unknown),
            "a checkpoint that nobody asked for: {:?}",
            self.stage
        );
        let checkpoint = match read {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => {
                return self.stop("the checkpoint is gone from the store".to_owned());
            }
            Err(error) if error.kind() == ErrorKind::Transient => {
                self.attempt += 1;
                return Next::ReadCheckpoint(self.back_off.wait(self.attempt, random));
            }
            Err(error) => {
                return self.stop(error.to_string());
            }
        };
        if checkpoint.epoch != self.epoch {
            return self.over(Next::Drop);
        }
        if checkpoint.revision == self.revision {
            return self.again(self.back_off.wait(self.attempt, random), events);
        }
        if checkpoint.revision == self.revision.next() {
            if self.at_large == AtLarge::Another {
                return self.over(Next::ClaimAgain);
            }
            return self.committed(None, events);
        }
        self.over(Next::Drop)
    }

    fn committed(&mut self, new_rows: Option<Vec<EntityRow>>, events: usize) -> Next {
        self.revision = self.revision.next();
        self.at_large = AtLarge::None;
        self.stage = Stage::Idle;
        self.attempt = 0;
        self.surprised_in_a_row = 0;
        self.smaller.committed();
        self.one_event_left = self.one_event_left.saturating_sub(events);
        Next::Settle { new_rows }
    }

    fn failed(&mut self, error: &StoreError, events: usize, random: u64) -> Next {
        match dispose(error.kind(), self.attempt, &self.back_off, random) {
            Disposition::RetryAfter(wait) => self.again(wait, events),
            Disposition::Condemn => {
                self.given_up();
                if events <= 1 {
                    return Next::Condemn {
                        detail: error.to_string(),
                    };
                }
                self.one_event_left = events;
                Next::Reapply(Surprises::default())
            }
            Disposition::Drop => self.over(Next::Drop),
            Disposition::Stop => self.stop(error.to_string()),
        }
    }

    /// Nothing of the batch was written, and it may be handed over again. Every other time after the first
    /// few it is halved instead, and goes at once: a store that is away is still asked after a wait.
    fn again(&mut self, wait: std::time::Duration, events: usize) -> Next {
        let is_stuck = self.attempt >= ATTEMPTS_BEFORE_SMALLER && self.attempt.is_multiple_of(2);
        if is_stuck && events > 1 {
            self.smaller.than(events);
            self.given_up_but_counted();
            return Next::MakeSmaller;
        }
        self.stage = Stage::Idle;
        Next::SubmitAgain(wait)
    }

    /// The batch in flight will be made anew, and differently.
    fn given_up(&mut self) {
        self.attempt = 0;
        self.given_up_but_counted();
    }

    fn given_up_but_counted(&mut self) {
        self.stage = Stage::Idle;
        if self.at_large == AtLarge::TheSame {
            self.at_large = AtLarge::Another;
        }
    }

    fn stop(&mut self, detail: String) -> Next {
        self.over(Next::Stop {
            detail,
            // A batch of unknown outcome may have arrived, or may still.
            nothing_written: self.at_large == AtLarge::None,
        })
    }

    fn over(&mut self, next: Next) -> Next {
        self.stage = Stage::Over;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::{CommitProtocol, Next};
    use crate::checkpoint::{Checkpoint, Counts, DoneAbove, Progress};
    use crate::commit::{CommitReply, KnownKey, Surprises};
    use crate::hash::Hash128;
    use crate::position::{Epoch, Incarnation, Offset, Revision, SourceName, SourcePartition};
    use crate::retry::BackOff;
    use crate::store::StoreError;
    use crate::tenant::TenantId;

    fn checkpoint(epoch: u64, revision: u64) -> Checkpoint {
        Checkpoint {
            source_partition: SourcePartition {
                source: SourceName::new("orders").unwrap(),
                partition: 0,
            },
            epoch: Epoch(epoch),
            owner: "a".to_owned(),
            revision: Revision(revision),
            incarnation: Incarnation::new("one").unwrap(),
            progress: Progress {
                next_offset: Offset(0),
                done_above: DoneAbove::default(),
                fingerprint: None,
                counts: Counts::default(),
            },
        }
    }

    fn in_flight() -> CommitProtocol {
        let mut protocol = CommitProtocol::new(&checkpoint(3, 7), BackOff::default());
        protocol.submitted();
        protocol
    }

    #[test]
    fn a_batch_that_is_surprised_again_and_again_is_halved_until_it_gets_through() {
        let mut protocol = CommitProtocol::new(&checkpoint(3, 7), BackOff::default());
        for in_a_row in 0..40 {
            assert_eq!(protocol.terms(0).halved, u32::saturating_sub(in_a_row, 2));
            protocol.submitted();
            let surprised = Ok(CommitReply::Surprised(Surprises::default()));
            let next = protocol.on_reply(surprised, 10, 0);
            assert!(matches!(next, Next::Reapply(_)), "{next:?}");
        }
        protocol.submitted();
        let new_rows = Vec::new();
        protocol.on_reply(Ok(CommitReply::Committed { new_rows }), 1, 0);
        assert_eq!(protocol.terms(0).halved, 0);
    }

    fn away() -> StoreError {
        StoreError::Unavailable {
            detail: "57014: canceling statement due to statement timeout".to_owned(),
        }
    }

    #[test]
    fn a_batch_that_is_too_much_for_the_store_is_made_smaller_until_it_gets_through() {
        const FITS: usize = 30;
        let mut protocol = CommitProtocol::new(&checkpoint(3, 7), BackOff::default());
        let (mut attempts, mut written) = (0, 0);
        while written < 1_000 {
            protocol.submitted();
            attempts += 1;
            let events = protocol.terms(0).events_max.min(500);
            if events <= FITS {
                written += events;
                let new_rows = Vec::new();
                protocol.on_reply(Ok(CommitReply::Committed { new_rows }), events, 0);
                continue;
            }
            // The answer may come, or be lost.
            let mut next = if attempts % 3 == 0 {
                protocol.on_reply(Err(unknown()), events, 0)
            } else {
                protocol.on_reply(Err(away()), events, 0)
            };
            if matches!(next, Next::ReadCheckpoint(_)) {
                let revision = protocol.terms(0).revision.0;
                next = protocol.on_checkpoint(Ok(Some(checkpoint(3, revision))), events, 0);
            }
            let expected = matches!(next, Next::SubmitAgain(_) | Next::MakeSmaller);
            assert!(expected, "{next:?}");
        }
        assert!(attempts < 200, "{attempts} attempts for 1,000 events");
    }

    #[test]
    fn one_event_that_fails_for_now_is_handed_over_again_for_ever() {
        let mut protocol = CommitProtocol::new(&checkpoint(3, 7), BackOff::default());
        for _ in 0..100 {
            protocol.submitted();
            let next = protocol.on_reply(Err(away()), 1, 0);
            assert!(matches!(next, Next::SubmitAgain(_)), "{next:?}");
        }
    }

    #[test]
    fn our_own_late_commit_is_no_other_owner() {
        for (found, expected) in [
            ((3, 8), Next::Settle { new_rows: None }),
            ((4, 8), Next::Drop),
            ((3, 9), Next::Drop),
        ] {
            let mut protocol = in_flight();
            protocol.on_reply(Err(unknown()), 5, 0);
            let next = protocol.on_checkpoint(Ok(Some(checkpoint(3, 7))), 5, 0);
            assert!(matches!(next, Next::SubmitAgain(_)), "{next:?}");
            protocol.submitted();
            // The first attempt has arrived meanwhile.
            let next = protocol.on_reply(Ok(CommitReply::Fenced), 5, 0);
            assert!(matches!(next, Next::ReadCheckpoint(_)), "{next:?}");
            let next = protocol.on_checkpoint(Ok(Some(checkpoint(found.0, found.1))), 5, 0);
            assert_eq!(next, expected);
        }
        assert_eq!(
            in_flight().on_reply(Ok(CommitReply::Fenced), 5, 0),
            Next::Drop
        );
    }

    fn unknown() -> StoreError {
        StoreError::OutcomeUnknown {
            detail: "connection lost".to_owned(),
        }
    }

    #[test]
    fn an_unknown_outcome_is_decided_by_the_revision() {
        for (found, settled) in [
            ((3, 8), Some(true)),
            ((3, 7), Some(false)),
            ((4, 8), None),
            ((3, 9), None),
        ] {
            let mut protocol = in_flight();
            assert!(matches!(
                protocol.on_reply(Err(unknown()), 5, 0),
                Next::ReadCheckpoint(_)
            ));
            let next = protocol.on_checkpoint(Ok(Some(checkpoint(found.0, found.1))), 5, 0);
            match settled {
                Some(true) => assert_eq!(next, Next::Settle { new_rows: None }),
                Some(false) => assert!(matches!(next, Next::SubmitAgain(_))),
                None => assert_eq!(next, Next::Drop),
            }
        }
    }

    /// Found by the simulation: the first batch, given up for a surprise, arrives late, and the second,
    /// whose outcome is unknown too, must not be taken for it.
    #[test]
    fn a_revision_that_moved_does_not_say_which_of_two_batches_was_written() {
        let mut protocol = in_flight();
        let wait = protocol.on_reply(Err(unknown()), 5, 0);
        assert!(matches!(wait, Next::ReadCheckpoint(_)));
        let again = protocol.on_checkpoint(Ok(Some(checkpoint(3, 7))), 5, 0);
        assert!(matches!(again, Next::SubmitAgain(_)));
        protocol.submitted();
        let surprised = Ok(CommitReply::Surprised(Surprises::default()));
        let anew = protocol.on_reply(surprised, 5, 0);
        assert!(matches!(anew, Next::Reapply(_)));
        protocol.submitted();
        let wait = protocol.on_reply(Err(unknown()), 6, 0);
        assert!(matches!(wait, Next::ReadCheckpoint(_)));
        let next = protocol.on_checkpoint(Ok(Some(checkpoint(3, 8))), 5, 0);
        assert_eq!(next, Next::ClaimAgain);
    }

    #[test]
    fn only_the_one_event_that_is_refused_alone_is_condemned() {
        let refused = || StoreError::Refused {
            code: "22P02".to_owned(),
            detail: "no".to_owned(),
        };
        let mut protocol = in_flight();
        let next = protocol.on_reply(Err(refused()), 2, 0);
        assert_eq!(next, Next::Reapply(Surprises::default()));
        assert!(protocol.terms(0).one_event);
        protocol.submitted();
        let committed = CommitReply::Committed {
            new_rows: Vec::new(),
        };
        protocol.on_reply(Ok(committed.clone()), 1, 0);
        assert!(
            protocol.terms(0).one_event,
            "the event at fault is still ahead"
        );
        protocol.submitted();
        let next = protocol.on_reply(Err(refused()), 1, 0);
        assert!(matches!(next, Next::Condemn { .. }));
        protocol.submitted();
        protocol.on_reply(Ok(committed), 1, 0);
        assert!(!protocol.terms(0).one_event);
    }

    #[test]
    fn r25_an_unexpected_error_stops_and_condemns_nothing() {
        let mut protocol = in_flight();
        let error = StoreError::Unexpected {
            code: "XX000".to_owned(),
            detail: "no".to_owned(),
        };
        assert!(matches!(
            protocol.on_reply(Err(error), 1, 0),
            Next::Stop {
                nothing_written: true,
                ..
            }
        ));
    }

    #[test]
    fn r25_what_stops_after_an_unknown_outcome_does_not_say_that_nothing_was_written() {
        let error = || StoreError::Unexpected {
            code: "XX000".to_owned(),
            detail: "no".to_owned(),
        };
        let is_unknown = |next| {
            matches!(
                next,
                Next::Stop {
                    nothing_written: false,
                    ..
                }
            )
        };
        for read in [Ok(None), Err(error())] {
            let mut protocol = in_flight();
            protocol.on_reply(Err(unknown()), 5, 0);
            assert!(is_unknown(protocol.on_checkpoint(read, 5, 0)));
        }
        // Handed over again and refused: the first one may still arrive.
        let mut protocol = in_flight();
        protocol.on_reply(Err(unknown()), 5, 0);
        protocol.on_checkpoint(Ok(Some(checkpoint(3, 7))), 5, 0);
        protocol.submitted();
        assert!(is_unknown(protocol.on_reply(Err(error()), 5, 0)));
    }

    #[test]
    fn surprises_in_a_row_take_the_careful_path_first() {
        let mut protocol = in_flight();
        for _ in 0..2 {
            let known = KnownKey {
                tenant: TenantId::new("t").unwrap(),
                key: Hash128(1),
                conflict: Hash128(2),
            };
            let surprises = Surprises {
                known_keys: vec![known],
                ..Surprises::default()
            };
            protocol.on_reply(Ok(CommitReply::Surprised(surprises)), 5, 0);
            protocol.submitted();
        }
        assert_eq!(protocol.terms(0).path, crate::commit::CommitPath::Careful);
    }

    #[test]
    #[should_panic(expected = "one commit in flight")]
    fn a_second_batch_in_flight_is_a_bug_that_stops_at_once() {
        in_flight().submitted();
    }
}
