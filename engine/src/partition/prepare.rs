//! Applies queued events on speculative state and writes their part of a batch.

use std::sync::Arc;

use super::letters::{self, Notice};
use super::reads::LookedAt;
use super::{EntityRef, EntityValue, Head, Overlay, PREPARED_MAX, Partition, Queued, Target};
use crate::admission::{Admission, Content, classify, conflict_id, unreadable_id};
use crate::bus::{Became, Settlement};
use crate::checkpoint::Counts;
use crate::clock::Timestamp;
use crate::commit::{DedupeMark, EntityRead, EntityWrite, OpenWork, Segment};
use crate::dead_letter::DeadLetter;
use crate::event::Event;
use crate::hash::Hash128;
use crate::machine::{DeadReason, EventContext, Fault};
use crate::planted::{Bug, active};
use crate::position::{Offset, RecordPosition, Sequence, Version};
use crate::record::{Effect, Entry, EntryBody, Outcome};
use crate::state::EntityState;
use crate::tenant::TenantId;
use crate::transition::{self, Transition};

/// How much of a batch one partition may fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Events at most.
    pub events_max: usize,
    /// Bytes at most; a first event that is larger goes alone.
    pub bytes_max: usize,
    /// Only events in front of this offset, if there is one.
    pub before: Option<Offset>,
}

/// What a partition can put into a batch.
#[derive(Debug)]
pub enum Prepared {
    /// Its part, to be settled or reset in the order of preparation.
    Part(Box<Part>),
    /// The next event waits for entities: load [`Partition::wanted`] first.
    Waiting,
    /// Nothing is queued that may go and is not prepared already.
    Empty,
}

/// One partition's part of a batch; arrays are sorted as [`crate::commit::CommitBatch`] asks.
#[derive(Debug, Default)]
pub struct Part {
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// Queued events in it, duplicates and unreadable ones included.
    pub events: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Their offsets, sorted.
    pub offsets: Vec<Offset>,
    /// What became of them.
    pub counts: Counts,
    /// The log: one segment, or none when nothing was admitted.
    pub segment: Option<Segment>,
    /// Marks of admitted keys.
    pub dedupe: Vec<DedupeMark>,
    /// Entities that moved.
    pub entities: Vec<EntityWrite>,
    /// Entities that were decided on and did not move.
    pub reads: Vec<EntityRead>,
    /// Emitted events.
    pub open_work: Vec<OpenWork>,
    /// Dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// What to tell of them once they are durable.
    pub notices: Vec<Notice>,
    /// What becomes of each delivery, in their order, where that is asked for.
    pub settlements: Vec<Settlement>,
}

/// A part in the making.
pub(super) struct Draft {
    pub part: Part,
    overlay: Overlay,
    body: String,
    first_sequence: Sequence,
    first_at: Option<Timestamp>,
    last_at: Timestamp,
    /// Entities that did not move when they were decided on, as they were.
    looked_at: Vec<LookedAt>,
    /// Of the event in hand; kept between events for its room.
    effects: Vec<Effect>,
    stamp: Option<(Timestamp, Arc<str>)>,
}

impl<P> Partition<P> {
    /// Applies queued events, in order, up to the allowance, and hands out their part of a batch.
    pub fn prepare(&mut self, allowance: Allowance) -> Prepared {
        let waits = |queued: &Queued<P>| {
            let before = allowance.before;
            before.is_some_and(|before| queued.received.offset >= before)
        };
        let first = self.prepared_events();
        if self.queue.get(first).is_none_or(waits) || self.overlays.len() >= PREPARED_MAX {
            return Prepared::Empty;
        }
        let mut draft = self.draft(allowance);
        // The queue is lent out so that events can be read while speculation is written.
        let queue = std::mem::take(&mut self.queue);
        for (place, queued) in queue.iter().enumerate().skip(first) {
            let full = draft.part.events >= allowance.events_max
                || draft.part.bytes + queued.received.bytes > allowance.bytes_max;
            if waits(queued) || full && draft.part.events > 0 {
                break;
            }
            if let Some(missing) = self.missing_entity(queued) {
                // Forgotten since it was looked at, unless a load of it is on its way.
                if !self.requested.contains(missing) {
                    self.looked_through = self.looked_through.min(place);
                }
                break;
            }
            self.take_in(queued, &mut draft);
        }
        self.queue = queue;
        if draft.part.events == 0 {
            return Prepared::Waiting;
        }
        Prepared::Part(Box::new(self.finish(draft)))
    }

    fn draft(&self, allowance: Allowance) -> Draft {
        let head: Head = self
            .overlays
            .back()
            .map_or(self.head, |overlay| overlay.head);
        // Roughly what the records need: an event's own bytes and what the engine adds.
        let (_, bytes) = self.ready();
        let mut body = String::with_capacity(bytes.min(allowance.bytes_max));
        body.push('[');
        Draft {
            part: Part {
                tenant: Some(self.stream_partition.tenant.clone()),
                ..Part::default()
            },
            overlay: Overlay {
                number: self.batches + 1,
                head,
                ..Overlay::default()
            },
            body,
            first_sequence: head.next_sequence,
            first_at: None,
            last_at: Timestamp(0),
            looked_at: Vec::new(),
            effects: Vec::new(),
            stamp: None,
        }
    }

    /// The first entity that the event needs and that is not known. Those that are known stay so until the
    /// event is applied.
    fn missing_entity<'q>(&mut self, queued: &'q Queued<P>) -> Option<&'q EntityRef> {
        let pinned = self.pinned();
        let mut entities = queued
            .targets
            .iter()
            .filter_map(|target| target.entity.as_ref().ok());
        entities.find(|entity| !self.entities.touch(entity, &pinned))
    }

    fn take_in(&mut self, queued: &Queued<P>, draft: &mut Draft) {
        let offset = queued.received.offset;
        draft.part.events += 1;
        draft.part.bytes += queued.received.bytes;
        draft.part.offsets.push(offset);
        draft.overlay.events += 1;
        draft.overlay.bytes += queued.received.bytes;
        match &queued.received.content {
            Content::Unreadable { payload, fault } => {
                draft.part.counts.unreadable += 1;
                let id = unreadable_id(&self.stream_partition.source_partition, offset, payload);
                let detail = format!("{}: {}", fault.field, fault.reason);
                self.keep_unreadable(draft, offset, &detail);
                self.keep_raw(
                    draft,
                    queued,
                    id,
                    DeadReason::Unreadable,
                    detail,
                    payload.clone(),
                );
            }
            Content::Event {
                event,
                key,
                conflict,
            } => match classify(*conflict, self.known_keys.get(key).copied()) {
                Admission::Duplicate => {
                    draft.part.counts.duplicates += 1;
                    self.keep_settlement(draft, offset, || Became::Duplicate);
                }
                Admission::Conflict => {
                    self.keep_settlement(draft, offset, || Became::Conflict);
                    draft.part.counts.conflicts += 1;
                    let id = conflict_id(&self.stream_partition.tenant, *key, *conflict);
                    let detail = "the idempotency key was admitted with other content".to_owned();
                    self.keep_raw(
                        draft,
                        queued,
                        id,
                        DeadReason::Conflict,
                        detail,
                        letters::stored_json(event),
                    );
                }
                Admission::Admitted => self.admit(draft, queued, event, *key, *conflict),
            },
        }
    }

    fn admit(
        &mut self,
        draft: &mut Draft,
        queued: &Queued<P>,
        event: &Event,
        key: Hash128,
        conflict: Hash128,
    ) {
        let offset = queued.received.offset;
        let condemned = self
            .condemned
            .get(&offset)
            .map(|condemned| (condemned.times, condemned.detail.clone()));
        if let Some((times, detail)) = &condemned
            && *times > 1
        {
            // Even its log record is refused: only its bytes can be kept.
            draft.part.counts.unreadable += 1;
            self.keep_unreadable(draft, offset, detail);
            let payload = letters::stored_json(event);
            let id = unreadable_id(&self.stream_partition.source_partition, offset, &payload);
            return self.keep_raw(
                draft,
                queued,
                id,
                DeadReason::Store,
                detail.clone(),
                payload,
            );
        }
        draft.part.counts.admitted += 1;
        // Speculation until the batch is settled; it is forgotten no sooner, as the memory holds twice
        // what two batches admit.
        self.known_keys.put(&key, conflict, |_| false);
        draft.overlay.keys.push(key);
        let tenant = self.stream_partition.tenant.clone();
        draft.part.dedupe.push(DedupeMark {
            tenant,
            key,
            conflict,
            offset,
        });
        let sequence = draft.overlay.head.next_sequence;
        let context = EventContext {
            event,
            admitted_at: queued.admitted_at,
        };
        let mut effects = std::mem::take(&mut draft.effects);
        if queued.targets.is_empty() {
            draft.part.counts.unhandled += 1;
        }
        for target in &queued.targets {
            let refused = condemned.as_ref().map(|(_, detail)| detail.as_str());
            let transition = self.transition(target, &context, refused);
            let effect = self.keep(draft, target, &context, sequence, transition);
            // What the store has condemned is dead whatever its entity is.
            if effect.outcome != Outcome::Applied
                && condemned.is_none()
                && let Ok(entity) = &target.entity
            {
                let seen = self.looked_at(entity, draft.overlay.number);
                draft.looked_at.extend(seen);
            }
            effects.push(effect);
        }
        self.write(draft, queued, event, sequence, &effects);
        self.keep_settlement(draft, offset, || Became::Admitted {
            position: self.position_of(sequence),
            effects: effects.clone(),
        });
        effects.clear();
        draft.effects = effects;
    }

    fn transition(
        &self,
        target: &Target,
        context: &EventContext<'_>,
        refused: Option<&str>,
    ) -> Transition {
        let machine = target.machine.as_ref();
        let entity = match &target.entity {
            Ok(entity) => entity,
            Err(fault) => return transition::dead(machine, None, fault.clone()),
        };
        let key = &entity.key;
        if let Some(detail) = refused {
            let fault = Fault {
                reason: DeadReason::Store,
                detail: detail.to_owned(),
            };
            return transition::dead(machine, Some(key.clone()), fault);
        }
        let Some(value) = self.entities.get(entity) else {
            unreachable!("an event is only taken in when its entities are known");
        };
        match value.state(machine) {
            Ok(state) => transition::apply(machine, context, key, &state),
            Err(fault) => transition::dead(machine, Some(key.clone()), fault),
        }
    }

    /// Takes a transition into the draft and returns the effect that the log records.
    fn keep(
        &mut self,
        draft: &mut Draft,
        target: &Target,
        context: &EventContext<'_>,
        sequence: Sequence,
        transition: Transition,
    ) -> Effect {
        let Transition {
            effect,
            moved,
            fault,
        } = transition;
        let counts = &mut draft.part.counts;
        match effect.outcome {
            Outcome::Applied => counts.applied += 1,
            Outcome::Rejected => counts.rejected += 1,
            Outcome::Ignored => counts.ignored += 1,
            Outcome::Dead | Outcome::Discarded => counts.dead += 1,
        }
        if let Some(fault) = fault {
            let position = self.position_of(sequence);
            self.keep_fault(draft, context, &effect, position, fault);
        } else if let (Some(moved), Ok(entity)) = (moved, &target.entity) {
            let tenant = &self.stream_partition.tenant;
            if !moved.emitted.is_empty() {
                let position = self.position_of(sequence);
                let machine = &target.machine.definition().machine;
                let work = transition::open_work_of(
                    tenant,
                    context.event,
                    &position,
                    machine,
                    &moved.emitted,
                    context.admitted_at,
                );
                draft.part.counts.emitted += work.len() as u64;
                draft.part.open_work.extend(work);
            }
            self.move_entity(draft, entity, moved.state, moved.text, context.admitted_at);
        }
        effect
    }

    fn move_entity(
        &mut self,
        draft: &mut Draft,
        entity: &EntityRef,
        state: EntityState,
        text: Arc<str>,
        changed_at: Timestamp,
    ) {
        let Some(place) = self.entities.get_mut(entity) else {
            unreachable!("an entity is only moved when it is known");
        };
        let value = EntityValue {
            row: place.row,
            version: state.version,
            status: Some(state.status),
            text,
            changed_at,
            batch: draft.overlay.number,
        };
        if place.batch == value.batch {
            *place = value;
        } else {
            let before = self.remember(entity, value);
            draft.overlay.moved.push((entity.clone(), before));
        }
    }

    fn position_of(&self, sequence: Sequence) -> RecordPosition {
        RecordPosition {
            stream: self.stream_partition.stream.clone(),
            source_partition: self.stream_partition.source_partition.clone(),
            sequence,
        }
    }

    fn write(
        &self,
        draft: &mut Draft,
        queued: &Queued<P>,
        event: &Event,
        sequence: Sequence,
        effects: &[Effect],
    ) {
        if draft.first_at.is_some() {
            draft.body.push(',');
        }
        draft.first_at.get_or_insert(queued.admitted_at);
        draft.last_at = queued.admitted_at;
        let stamp = match &draft.stamp {
            Some((at, text)) if *at == queued.admitted_at => text.clone(),
            _ => {
                let text: Arc<str> = Arc::from(queued.admitted_at.to_rfc3339());
                draft.stamp = Some((queued.admitted_at, text.clone()));
                text
            }
        };
        let entry = Entry {
            sequence,
            offset: Some(queued.received.offset),
            admitted_at_text: &stamp,
            body: EntryBody::Event(event),
            effects,
        };
        let leaf = entry.write(&mut draft.body);
        draft.overlay.head.chain_head = draft.overlay.head.chain_head.fold(leaf);
        draft.overlay.head.next_sequence = sequence.next();
    }

    fn finish(&mut self, draft: Draft) -> Part {
        let Draft {
            mut part,
            mut overlay,
            mut body,
            looked_at,
            first_sequence,
            first_at,
            last_at,
            ..
        } = draft;
        body.push(']');
        if let Some(first_at) = first_at {
            part.segment = Some(Segment {
                stream_partition: self.stream_partition.clone(),
                first_sequence,
                count: part.counts.admitted as u32,
                first_at,
                last_at,
                chain_head: overlay.head.chain_head,
                body: Arc::from(body),
            });
        }
        part.offsets.sort_unstable();
        if !active(Bug::UnsortedArrays) {
            part.dedupe.sort_unstable_by_key(|mark| mark.key);
            let moved = &mut overlay.moved;
            moved.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        }
        part.reads = self.reads_of(looked_at, &overlay);
        part.entities.reserve(overlay.moved.len());
        for (index, (entity, before)) in overlay.moved.iter().enumerate() {
            let Some(EntityValue {
                row,
                version,
                status: Some(status),
                text,
                changed_at,
                ..
            }) = self.entities.get(entity)
            else {
                unreachable!("what an unsettled batch moved is kept");
            };
            let expected = before.as_ref().map_or(Version(0), |value| value.version);
            part.entities.push(EntityWrite {
                name: self.name_of(entity),
                row: *row,
                expected,
                version: *version,
                status: status.clone(),
                data: text.clone(),
                changed_at: *changed_at,
            });
            if expected == Version(0) {
                overlay.created.push(index);
            }
        }
        part.open_work.sort_by_key(|work| work.id);
        part.dead_letters.sort_by_key(|letter| letter.id);
        part.dead_letters.dedup_by_key(|letter| letter.id);
        self.batches = overlay.number;
        self.overlays.push_back(overlay);
        part
    }
}
