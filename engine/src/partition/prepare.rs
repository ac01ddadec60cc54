//! Applies queued events on speculative state and writes their part of a batch.

use std::collections::VecDeque;
use std::sync::Arc;

use super::letters::{self, raw_id};
use super::logs::LogDraft;
use super::part::{Allowance, Part, Prepared};
use super::reads::LookedAt;
use super::{
    EntityRef, EntityValue, Heads, Origin, Overlay, PREPARED_MAX, Partition, Queued, Target,
};
use crate::admission::{Admission, Content, classify, conflict_id};
use crate::bus::Became;
use crate::clock::Timestamp;
use crate::commit::{DedupeMark, EntityWrite, OpenWork, WorkDone};
use crate::event::Event;
use crate::machine::{DeadReason, EventContext, Fault};
use crate::planted::{Bug, active};
use crate::position::{Offset, Sequence, Version};
use crate::record::{Effect, Outcome};
use crate::state::EntityState;
use crate::transition::{self, Transition};

/// A part in the making.
pub(super) struct Draft {
    pub part: Part,
    overlay: Overlay,
    pub source: LogDraft,
    pub internal: LogDraft,
    /// Entities that did not move when they were decided on, as they were.
    looked_at: Vec<LookedAt>,
    /// Of the event in hand; kept between events for its room.
    effects: Vec<Effect>,
    /// The last admission time that was written, as text.
    pub stamp: Option<(Timestamp, Arc<str>)>,
}

/// Why no more of a queue was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All of it was.
    Exhausted,
    /// The allowance is used up, or what follows is behind its offset.
    NotAllowed,
    /// The next event waits for entities.
    Waiting,
}

impl<P> Partition<P> {
    /// Applies queued events, in order, up to the allowance, and hands out their part of a batch. Emitted
    /// events go first, also those that the store still holds: received ones wait until none is left.
    pub fn prepare(&mut self, allowance: Allowance) -> Prepared {
        if self.overlays.len() >= PREPARED_MAX {
            return Prepared::Empty;
        }
        let (emitted, received) = self.prepared_events();
        let mut draft = self.draft(allowance);
        // The queues are lent out so that events can be read while speculation is written.
        let queue = std::mem::take(&mut self.emitted.queue);
        let mut end = self.take_from(&queue, emitted, &allowance, &mut draft);
        self.emitted.queue = queue;
        if end == End::Exhausted && self.has_stored_work() {
            end = End::Waiting;
        }
        if end == End::Exhausted {
            let queue = std::mem::take(&mut self.received.queue);
            end = self.take_from(&queue, received, &allowance, &mut draft);
            self.received.queue = queue;
        }
        match end {
            _ if draft.part.events > 0 => Prepared::Part(Box::new(self.finish(draft))),
            End::Waiting => Prepared::Waiting,
            End::Exhausted | End::NotAllowed => Prepared::Empty,
        }
    }

    /// Takes events from behind the first `first` of a queue into the draft.
    fn take_from(
        &mut self,
        queue: &VecDeque<Queued<P>>,
        first: usize,
        allowance: &Allowance,
        draft: &mut Draft,
    ) -> End {
        for (place, queued) in queue.iter().enumerate().skip(first) {
            let full = draft.part.events >= allowance.events_max
                || draft.part.bytes + queued.bytes > allowance.bytes_max
                || draft.part.written_bytes >= allowance.written_bytes_max;
            let too_far = match queued.origin {
                Origin::Delivered(offset) => {
                    allowance.before.is_some_and(|before| offset >= before)
                }
                Origin::Emitted(..) => false,
            };
            if too_far || full && draft.part.events > 0 {
                return End::NotAllowed;
            }
            if let Some(missing) = self.missing_entity(queued) {
                // Forgotten since it was looked at, unless a load of it is on its way.
                if !self.requested.contains(missing) {
                    let line = match queued.origin {
                        Origin::Delivered(_) => &mut self.received,
                        Origin::Emitted(..) => &mut self.emitted,
                    };
                    line.looked_through = line.looked_through.min(place);
                }
                return End::Waiting;
            }
            self.take_in(queued, draft);
        }
        End::Exhausted
    }

    fn draft(&self, allowance: Allowance) -> Draft {
        let heads: Heads = self
            .overlays
            .back()
            .map_or(self.heads, |overlay| overlay.heads);
        let mut source = LogDraft::new(heads.source);
        // Roughly what the records need: an event's own bytes and what the engine adds.
        let (_, bytes) = self.ready();
        source.reserve(bytes.min(allowance.bytes_max));
        Draft {
            part: Part {
                tenant: Some(self.stream_partition.tenant.clone()),
                ..Part::default()
            },
            overlay: Overlay {
                number: self.batches + 1,
                heads,
                ..Overlay::default()
            },
            source,
            internal: LogDraft::new(heads.internal),
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
        draft.part.events += 1;
        draft.part.bytes += queued.bytes;
        draft.overlay.bytes += queued.bytes;
        match &queued.origin {
            Origin::Delivered(offset) => {
                draft.overlay.received += 1;
                draft.part.offsets.push(*offset);
                self.take_delivered(queued, *offset, draft);
            }
            Origin::Emitted(place, _) => {
                draft.overlay.emitted += 1;
                draft.part.counts.looped_back += 1;
                let tenant = self.stream_partition.tenant.clone();
                draft.part.work_done.push(WorkDone {
                    tenant,
                    place: *place,
                });
                match &queued.content {
                    // Its open work is what makes it once, and is deleted with it: no key is asked for.
                    Content::Event { event, .. } => self.admit(draft, queued, event),
                    Content::Unreadable { payload, fault } => {
                        let detail = format!("{}: {}", fault.field, fault.reason);
                        let reason = DeadReason::Unreadable;
                        let id = raw_id(&self.stream_partition, &queued.origin, payload);
                        self.keep_raw(draft, queued, id, reason, detail, payload.clone());
                    }
                }
            }
        }
    }

    fn take_delivered(&mut self, queued: &Queued<P>, offset: Offset, draft: &mut Draft) {
        let (event, key, conflict) = match &queued.content {
            Content::Unreadable { payload, fault } => {
                draft.part.counts.unreadable += 1;
                let detail = format!("{}: {}", fault.field, fault.reason);
                let reason = DeadReason::Unreadable;
                let id = raw_id(&self.stream_partition, &queued.origin, payload);
                self.keep_unreadable(draft, &queued.origin, &detail);
                return self.keep_raw(draft, queued, id, reason, detail, payload.clone());
            }
            Content::Event {
                event,
                key,
                conflict,
            } => (event, *key, *conflict),
        };
        match classify(conflict, self.known_keys.get(&key).copied()) {
            Admission::Duplicate => {
                draft.part.counts.duplicates += 1;
                self.keep_settlement(draft, &queued.origin, || Became::Duplicate);
            }
            Admission::Conflict => {
                draft.part.counts.conflicts += 1;
                self.keep_settlement(draft, &queued.origin, || Became::Conflict);
                let id = conflict_id(&self.stream_partition.tenant, key, conflict);
                let detail = "the idempotency key was admitted with other content".to_owned();
                let payload = letters::stored_json(event);
                self.keep_raw(draft, queued, id, DeadReason::Conflict, detail, payload);
            }
            Admission::Admitted if self.is_lost(queued) => {
                draft.part.counts.unreadable += 1;
                self.admit(draft, queued, event);
            }
            Admission::Admitted => {
                draft.part.counts.admitted += 1;
                // Speculation until the batch is settled; it is forgotten no sooner, as the memory holds
                // twice what two batches admit.
                self.known_keys.put(&key, conflict, |_| false);
                draft.overlay.keys.push(key);
                draft.part.dedupe.push(DedupeMark {
                    tenant: self.stream_partition.tenant.clone(),
                    key,
                    conflict,
                    offset,
                });
                self.admit(draft, queued, event);
            }
        }
    }

    /// True when the store refuses even the event's log record: only its bytes can be kept.
    fn is_lost(&self, queued: &Queued<P>) -> bool {
        let condemned = self.condemned.get(&queued.origin.event());
        condemned.is_some_and(|condemned| condemned.times > 1)
    }

    fn admit(&mut self, draft: &mut Draft, queued: &Queued<P>, event: &Event) {
        let condemned = self.condemned.get(&queued.origin.event());
        let condemned = condemned.map(|condemned| condemned.detail.clone());
        if let Some(detail) = &condemned
            && self.is_lost(queued)
        {
            self.keep_unreadable(draft, &queued.origin, detail);
            let payload = letters::stored_json(event);
            let id = raw_id(&self.stream_partition, &queued.origin, &payload);
            let (reason, detail) = (DeadReason::Store, detail.clone());
            return self.keep_raw(draft, queued, id, reason, detail, payload);
        }
        let sequence = draft.log(&queued.origin).head.next_sequence;
        let context = EventContext {
            event,
            admitted_at: queued.admitted_at,
        };
        let mut effects = std::mem::take(&mut draft.effects);
        if queued.targets.is_empty() {
            draft.part.counts.unhandled += 1;
        }
        for target in &queued.targets {
            let transition = self.transition(target, &context, condemned.as_deref());
            let effect = self.keep(draft, queued, target, &context, sequence, transition);
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
        self.keep_settlement(draft, &queued.origin, || Became::Admitted {
            position: self.position_of(&queued.origin, sequence),
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
        queued: &Queued<P>,
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
            let position = self.position_of(&queued.origin, sequence);
            self.keep_fault(draft, context, &effect, position, fault);
        } else if let (Some(moved), Ok(entity)) = (moved, &target.entity) {
            let tenant = &self.stream_partition.tenant;
            if !moved.emitted.is_empty() {
                let position = self.position_of(&queued.origin, sequence);
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
                let emitted = work.iter().map(|work| work.event.len());
                draft.part.written_bytes += emitted.sum::<usize>();
                let before = draft.part.open_work.len() as u32;
                draft.part.open_work.extend(work.into_iter().map(|work| {
                    let number = before + work.number;
                    OpenWork { number, ..work }
                }));
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
        let Some(place) = self.entities.get(entity) else {
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
        draft.part.written_bytes += value.text.len();
        let was_moved = place.batch == value.batch;
        if was_moved {
            // Only its last state is written.
            draft.part.written_bytes -= place.text.len();
        }
        let before = self.remember(entity, value);
        if !was_moved {
            draft.overlay.moved.push((entity.clone(), before));
        }
    }

    fn finish(&mut self, draft: Draft) -> Part {
        let Draft {
            mut part,
            mut overlay,
            source,
            internal,
            looked_at,
            ..
        } = draft;
        overlay.heads = Heads {
            source: source.head,
            internal: internal.head,
        };
        part.segments
            .extend(source.finish(self.stream_partition.clone()));
        part.segments
            .extend(internal.finish(self.log_of(&self.internal)));
        part.segments
            .sort_unstable_by(|left, right| left.stream_partition.cmp(&right.stream_partition));
        overlay.open_work.clone_from(&part.open_work);
        if active(Bug::WorkNotDeleted) {
            part.work_done.clear();
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
        part.dead_letters.sort_by_key(|letter| letter.id);
        part.dead_letters.dedup_by_key(|letter| letter.id);
        self.batches = overlay.number;
        self.overlays.push_back(overlay);
        part
    }
}
