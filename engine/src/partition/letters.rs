//! The dead letters of a batch in the making: of an event that a machine could not take, and of a delivery
//! that never became one.

use super::part::Part;
use super::prepare::Draft;
use super::{Origin, Partition, Queued};
use crate::admission::{Content, unreadable_id};
use crate::dead_letter::{DeadLetter, DeadLetterSource, kind_of_fault};
use crate::event::{CorrelationId, Event, EventId, EventType};
use crate::hash::{Hash128, hash_fields};
use crate::machine::{DeadReason, EventContext, Fault};
use crate::position::{RecordPosition, StreamPartition};
use crate::record::Effect;
use crate::state::MachineName;
use crate::tenant::TenantId;

/// What an operator is told of a dead letter once it is durable: where to look, never a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Whose.
    pub tenant: TenantId,
    /// The dead letter.
    pub id: Hash128,
    /// Why.
    pub reason: DeadReason,
    /// Where in the definition, or which field and what was expected of it.
    pub cause: String,
    /// The machine for which a stored event is dead.
    pub machine: Option<MachineName>,
    /// The event, where the delivery could be read.
    pub event: Option<NoticedEvent>,
}

/// How an event is found again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoticedEvent {
    /// Its `id`.
    pub id: EventId,
    /// Its `type`.
    pub event_type: EventType,
    /// Its `correlationid`.
    pub correlation_id: Option<CorrelationId>,
}

impl NoticedEvent {
    fn of(event: &Event) -> Self {
        Self {
            id: event.id.clone(),
            event_type: event.event_type.clone(),
            correlation_id: event.correlation_id.clone(),
        }
    }
}

impl Part {
    fn keep(&mut self, letter: DeadLetter, event: Option<&Event>) {
        let machine = match &letter.source {
            DeadLetterSource::Record { machine, .. } => Some(machine.clone()),
            DeadLetterSource::Raw { .. } => None,
        };
        self.notices.push(Notice {
            tenant: letter.tenant.clone(),
            id: letter.id,
            reason: letter.reason,
            cause: kind_of_fault(letter.reason, &letter.detail).into_owned(),
            machine,
            event: event.map(NoticedEvent::of),
        });
        self.dead_letters.push(letter);
    }
}

impl<P> Partition<P> {
    pub(super) fn keep_fault(
        &self,
        draft: &mut Draft,
        context: &EventContext<'_>,
        effect: &Effect,
        position: RecordPosition,
        fault: Fault,
    ) {
        let tenant = self.stream_partition.tenant.clone();
        let id = hash_fields(
            "tidegate.dead-letter",
            &[
                tenant.as_str().as_bytes(),
                position.to_string().as_bytes(),
                effect.machine.as_str().as_bytes(),
            ],
        );
        let source = DeadLetterSource::Record {
            position,
            machine: effect.machine.clone(),
            key: effect.key.clone(),
        };
        let (reason, detail, at) = (fault.reason, fault.detail, context.admitted_at);
        let letter = DeadLetter::new(tenant, id, reason, detail, source, at);
        draft.part.keep(letter, Some(context.event));
    }

    pub(super) fn keep_raw(
        &self,
        draft: &mut Draft,
        queued: &Queued<P>,
        id: Hash128,
        reason: DeadReason,
        detail: String,
        payload: bytes::Bytes,
    ) {
        let source = DeadLetterSource::Raw {
            source_partition: self.stream_partition.source_partition.clone(),
            offset: match queued.origin {
                Origin::Delivered(offset) => Some(offset),
                Origin::Emitted(..) => None,
            },
            payload,
        };
        let tenant = self.stream_partition.tenant.clone();
        let letter = DeadLetter::new(tenant, id, reason, detail, source, queued.admitted_at);
        let event = match &queued.content {
            Content::Event { event, .. } => Some(event.as_ref()),
            Content::Unreadable { .. } => None,
        };
        draft.part.keep(letter, event);
    }
}

/// The identity of the letter of an event that is kept as its bytes alone.
pub(super) fn raw_id(
    stream_partition: &StreamPartition,
    origin: &Origin,
    payload: &[u8],
) -> Hash128 {
    match origin {
        Origin::Delivered(offset) => {
            unreadable_id(&stream_partition.source_partition, *offset, payload)
        }
        Origin::Emitted(place, _) => hash_fields(
            "tidegate.emitted-letter",
            &[
                stream_partition.tenant.as_str().as_bytes(),
                stream_partition.source_partition.to_string().as_bytes(),
                &place.revision.0.to_le_bytes(),
                &place.number.to_le_bytes(),
            ],
        ),
    }
}

/// An event as its bytes are kept where its record is not.
pub(super) fn stored_json(event: &Event) -> bytes::Bytes {
    let mut json = String::with_capacity(256 + event.data.stored_bytes().len());
    event.write_json(&mut json);
    bytes::Bytes::from(json)
}
