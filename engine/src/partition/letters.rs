//! The dead letters of a batch in the making: of an event that a machine could not take, and of a delivery
//! that never became one.

use super::prepare::Draft;
use super::{Partition, Queued};
use crate::dead_letter::{DeadLetter, DeadLetterSource};
use crate::event::Event;
use crate::hash::{Hash128, hash_fields};
use crate::machine::{DeadReason, EventContext, Fault};
use crate::position::RecordPosition;
use crate::record::Effect;

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
        draft.part.dead_letters.push(DeadLetter::new(
            tenant,
            id,
            fault.reason,
            fault.detail,
            source,
            context.admitted_at,
        ));
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
            offset: queued.received.offset,
            payload,
        };
        let tenant = self.stream_partition.tenant.clone();
        draft.part.dead_letters.push(DeadLetter::new(
            tenant,
            id,
            reason,
            detail,
            source,
            queued.admitted_at,
        ));
    }
}

/// An event as its bytes are kept where its record is not.
pub(super) fn stored_json(event: &Event) -> bytes::Bytes {
    let mut json = String::with_capacity(256 + event.data.stored_bytes().len());
    event.write_json(&mut json);
    bytes::Bytes::from(json)
}
