//! What a person does to a dead letter: offers it again, or gives it up. Each is a commit of its own in
//! the source partition [`OPERATOR`], so that it is fenced, ordered and logged like everything else: a
//! stored event never changes, what happens to it later is a record that points to it. Pure: makes the
//! batch; whoever drives it reads the store before, and again when the batch is surprised.

use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Counts, Progress};
use crate::clock::Timestamp;
use crate::commit::{CommitBatch, EntityName, EntityRead, EntityWrite, Segment, StoredEntity};
use crate::commit_protocol::Terms;
use crate::dead_letter::{DeadLetter, DeadLetterState, DeadLetterUpdate};
use crate::event::{CausedBy, Event};
use crate::hash::Hash128;
use crate::machine::{EventContext, Fault, Processor};
use crate::partition::{Head, Part};
use crate::position::{
    Incarnation, Offset, RecordPosition, SourceName, SourcePartition, StreamName, StreamPartition,
    Version,
};
use crate::record::{Effect, FollowUpAction, Outcome, Record, RecordBody};
use crate::state::{EntityKey, EntityState, StateData};
use crate::tenant::TenantId;
use crate::transition::{self, Moved, Transition};

/// The name of the source whose partition 0 is where people's decisions are committed. Its offsets
/// count decisions. No configured source may have this name.
pub const OPERATOR: &str = "operator";

/// The source partition of people's decisions.
pub fn operator() -> SourcePartition {
    #[allow(clippy::expect_used)]
    SourcePartition {
        source: SourceName::new(OPERATOR).expect("the constant is a valid name"),
        partition: 0,
    }
}

/// The incarnation of that source: there is only ever one.
pub fn operator_incarnation() -> Incarnation {
    #[allow(clippy::expect_used)]
    Incarnation::new(OPERATOR).expect("the constant is a valid text")
}

/// Where a decision is written, and by whom.
#[derive(Clone, Debug)]
pub struct Desk<'d> {
    /// Whose dead letter it is.
    pub tenant: &'d TenantId,
    /// The checkpoint of [`operator`] as it was claimed, or as the last commit left it.
    pub checkpoint: &'d Checkpoint,
    /// The terms of the commit.
    pub terms: Terms,
    /// Now.
    pub at: Timestamp,
    /// Who decides.
    pub by: &'d CausedBy,
}

/// The stored event that a dead letter points to.
#[derive(Clone, Copy, Debug)]
pub struct Pointed<'p> {
    /// Its place.
    pub position: &'p RecordPosition,
    /// The event.
    pub event: &'p Event,
    /// When it was admitted: machines see the same time again.
    pub admitted_at: Timestamp,
}

impl Pointed<'_> {
    /// The event as machines see it.
    pub fn context(&self) -> EventContext<'_> {
        EventContext {
            event: self.event,
            admitted_at: self.admitted_at,
        }
    }
}

/// What a decision came to, once its batch is durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decided {
    /// The machine took the event: applied, rejected or ignored, with its reason.
    Took {
        /// Which.
        outcome: Outcome,
        /// The machine's reason, when it said no.
        reason: Option<String>,
    },
    /// The event is dead again, for this reason; the letter stays open with one attempt more.
    StillDead {
        /// Why.
        fault: Fault,
    },
    /// What was unreadable is an event now, admitted with these outcomes.
    Admitted(Counts),
    /// It will never take effect.
    GivenUp,
}

/// A batch and what it means.
#[derive(Clone, PartialEq, Debug)]
pub struct FollowUp {
    /// What is to be committed.
    pub batch: CommitBatch,
    /// What it comes to.
    pub decided: Decided,
}

/// Offers a stored event again to the one machine for which it is dead. `key` is what the machine says
/// now; `entity` is that entity as it stands.
pub fn retry(
    desk: &Desk<'_>,
    letter: Hash128,
    pointed: &Pointed<'_>,
    machine: &dyn Processor,
    key: Result<EntityKey, Fault>,
    entity: Option<&StoredEntity>,
    head: Head,
) -> FollowUp {
    let transition = match key {
        Ok(key) => match state_of(machine, entity) {
            Some(state) => transition::apply(machine, &pointed.context(), &key, &state),
            None => transition::dead(machine, Some(key), unreadable_entity()),
        },
        Err(fault) => transition::dead(machine, None, fault),
    };
    let Transition {
        effect,
        moved,
        fault,
    } = transition;
    if let Some(fault) = fault {
        return in_vain(desk, letter, fault);
    }
    let mut counts = Counts::default();
    match effect.outcome {
        Outcome::Applied => counts.applied = 1,
        Outcome::Rejected => counts.rejected = 1,
        Outcome::Ignored => counts.ignored = 1,
        Outcome::Dead | Outcome::Discarded => {}
    }
    let decided = Decided::Took {
        outcome: effect.outcome,
        reason: effect.reason.clone(),
    };
    let mut batch = desk.batch(letter, DeadLetterState::Retried);
    let position = desk.log(&mut batch, pointed, FollowUpAction::Retried, &effect, head);
    let name = effect.key.map(|key| EntityName {
        tenant: desk.tenant.clone(),
        machine: effect.machine,
        key,
    });
    if let (None, Some(name)) = (&moved, &name) {
        batch.reads.push(EntityRead {
            name: name.clone(),
            row: entity.map(|entity| entity.row),
            expected: entity.map_or(Version(0), |entity| entity.version),
        });
    }
    if let (Some(moved), Some(name)) = (moved, name) {
        if !moved.emitted.is_empty() {
            batch.open_work = transition::open_work_of(
                desk.tenant,
                pointed.event,
                &position,
                &machine.definition().machine,
                &moved.emitted,
                // As it would have been emitted at once; only when it is due is the decision's.
                pointed.admitted_at,
            );
            for work in &mut batch.open_work {
                work.due = desk.at;
            }
            counts.emitted = batch.open_work.len() as u64;
        }
        batch.entities.push(write(name, moved, entity, desk.at));
    }
    batch.progress.counts.add(&counts);
    FollowUp { batch, decided }
}

/// Gives a stored event up for the machine for which it is dead. `dead` is the effect that says so.
pub fn discard(
    desk: &Desk<'_>,
    letter: Hash128,
    pointed: &Pointed<'_>,
    dead: &Effect,
    head: Head,
) -> FollowUp {
    let effect = Effect {
        outcome: Outcome::Discarded,
        reason: None,
        version: None,
        state_hash: None,
        ..dead.clone()
    };
    let mut batch = desk.batch(letter, DeadLetterState::Discarded);
    desk.log(
        &mut batch,
        pointed,
        FollowUpAction::Discarded,
        &effect,
        head,
    );
    FollowUp {
        batch,
        decided: Decided::GivenUp,
    }
}

/// Gives up a letter without an event in the log, be it a delivery that never became one, or an event
/// that retention dropped: nothing is there, so no record points to it.
pub fn discard_raw(desk: &Desk<'_>, letter: Hash128) -> FollowUp {
    FollowUp {
        batch: desk.batch(letter, DeadLetterState::Discarded),
        decided: Decided::GivenUp,
    }
}

/// Counts an attempt that changed nothing; the letter stays open.
pub fn in_vain(desk: &Desk<'_>, letter: Hash128, fault: Fault) -> FollowUp {
    FollowUp {
        batch: desk.batch(letter, DeadLetterState::Open),
        decided: Decided::StillDead { fault },
    }
}

/// Admits what was unreadable and is an event now. `part` is what a partition of [`operator`] made of
/// it, at the offset [`Desk::offset`].
pub fn admit(desk: &Desk<'_>, letter: Hash128, part: Part) -> FollowUp {
    let counts = part.counts;
    let mut batch = desk.batch(letter, DeadLetterState::Retried);
    // The event's own tenant may be another than that of its letter.
    batch.tenants.extend(part.tenant);
    batch.tenants.sort();
    batch.tenants.dedup();
    batch.segments = part.segments;
    batch.dedupe = part.dedupe;
    batch.entities = part.entities;
    batch.reads = part.reads;
    batch.open_work = part.open_work;
    batch.dead_letters = part.dead_letters;
    batch.progress.counts.add(&counts);
    FollowUp {
        batch,
        decided: Decided::Admitted(counts),
    }
}

/// The batch of emitted events alone: `part` is what a partition of [`operator`] made of its open work. No
/// decision is in it, so the offset stays.
pub fn loop_back(progress: &Progress, terms: Terms, part: Part, at: Timestamp) -> CommitBatch {
    let mut progress = progress.clone();
    progress.counts.add(&part.counts);
    CommitBatch {
        source_partition: operator(),
        epoch: terms.epoch,
        revision: terms.revision,
        path: terms.path,
        tenants: part.tenant.into_iter().collect(),
        progress,
        segments: part.segments,
        dedupe: part.dedupe,
        entities: part.entities,
        reads: part.reads,
        open_work: part.open_work,
        work_done: part.work_done,
        dead_letters: part.dead_letters,
        dead_letter_updates: Vec::new(),
        at,
    }
}

impl Desk<'_> {
    /// The offset of this decision.
    pub fn offset(&self) -> Offset {
        self.checkpoint.progress.next_offset
    }

    /// The log in which decisions about events of a stream stand.
    pub fn stream_partition(&self, stream: &StreamName) -> StreamPartition {
        StreamPartition {
            tenant: self.tenant.clone(),
            stream: stream.clone(),
            source_partition: operator(),
        }
    }

    /// A batch that does nothing but move the checkpoint by one decision and the letter to `state`.
    fn batch(&self, letter: Hash128, state: DeadLetterState) -> CommitBatch {
        let mut progress = self.checkpoint.progress.clone();
        progress.next_offset = self.offset().next();
        CommitBatch {
            source_partition: operator(),
            epoch: self.terms.epoch,
            revision: self.terms.revision,
            path: self.terms.path,
            tenants: vec![self.tenant.clone()],
            progress,
            segments: Vec::new(),
            dedupe: Vec::new(),
            entities: Vec::new(),
            reads: Vec::new(),
            open_work: Vec::new(),
            work_done: Vec::new(),
            dead_letters: Vec::<DeadLetter>::new(),
            dead_letter_updates: vec![DeadLetterUpdate {
                tenant: self.tenant.clone(),
                id: letter,
                state,
                at: self.at,
            }],
            at: self.at,
        }
    }

    /// Adds the follow-up's record, and returns its place.
    fn log(
        &self,
        batch: &mut CommitBatch,
        pointed: &Pointed<'_>,
        action: FollowUpAction,
        effect: &Effect,
        head: Head,
    ) -> RecordPosition {
        let record = Record {
            sequence: head.next_sequence,
            offset: None,
            cause: None,
            admitted_at: self.at,
            body: RecordBody::FollowUp {
                of: pointed.position.clone(),
                action,
                by: self.by.clone(),
            },
            effects: vec![effect.clone()],
        };
        let mut body = String::from("[");
        let leaf = record.write(&mut body, &self.at.to_rfc3339());
        body.push(']');
        let stream_partition = self.stream_partition(&pointed.position.stream);
        batch.segments.push(Segment {
            stream_partition,
            first_sequence: head.next_sequence,
            count: 1,
            first_at: self.at,
            last_at: self.at,
            chain_head: head.chain_head.fold(leaf),
            body: Arc::from(body),
        });
        RecordPosition {
            stream: pointed.position.stream.clone(),
            source_partition: operator(),
            sequence: head.next_sequence,
        }
    }
}

fn state_of(machine: &dyn Processor, entity: Option<&StoredEntity>) -> Option<EntityState> {
    match entity {
        None => Some(machine.initial()),
        Some(stored) => Some(EntityState {
            status: stored.status.clone(),
            version: stored.version,
            data: StateData::from_canonical(&stored.data).ok()?,
        }),
    }
}

fn unreadable_entity() -> Fault {
    Fault {
        reason: crate::machine::DeadReason::Store,
        detail: "the entity's stored data cannot be read; run `tidegate verify`".to_owned(),
    }
}

fn write(
    name: EntityName,
    moved: Moved,
    entity: Option<&StoredEntity>,
    at: Timestamp,
) -> EntityWrite {
    EntityWrite {
        name,
        row: entity.map(|stored| stored.row),
        expected: entity.map_or(Version(0), |stored| stored.version),
        version: moved.state.version,
        status: moved.state.status,
        data: moved.text,
        changed_at: at,
    }
}
