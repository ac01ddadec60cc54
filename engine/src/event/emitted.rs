//! The event that a machine emits: stamped from its cause, with an identity that is the same however
//! often it is derived. Every part of it is valid by its type, so that making one cannot fail and none
//! is ever left out; what a machine may get wrong (its payload) is checked before, in the transition.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use super::{
    AttributeText, CausationId, Event, EventData, EventId, EventSource, EventTime, Extension,
};
use crate::clock::Timestamp;
use crate::hash::{Hash128, hash_fields};
use crate::machine::Emitted;
use crate::state::MachineName;

/// The extension attribute that counts hops of emitted events.
pub const HOPS_ATTRIBUTE: &str = "tidegatehops";

impl Event {
    /// The identity of the `index`-th event that `machine` emits for this one.
    pub fn emitted_id(&self, machine: &MachineName, index: usize) -> Hash128 {
        hash_fields(
            "tidegate.emitted",
            &[
                self.tenant.as_str().as_bytes(),
                self.source.as_str().as_bytes(),
                self.id.as_str().as_bytes(),
                &self.idempotency_hash().to_bytes(),
                machine.as_str().as_bytes(),
                &(index as u64).to_le_bytes(),
            ],
        )
    }

    /// The event of that identity, which `machine` emits for this one. `at` is when this one was
    /// admitted.
    pub fn emit(
        &self,
        machine: &MachineName,
        emitted: &Emitted,
        id: Hash128,
        at: Timestamp,
    ) -> Event {
        Event {
            tenant: self.tenant.clone(),
            id: EventId(ByteString::from(id.to_string())),
            source: EventSource(ByteString::from(format!("/machines/{machine}"))),
            event_type: emitted.event_type.clone(),
            subject: emitted.subject.clone().or_else(|| self.subject.clone()),
            time: Some(self.time.clone().unwrap_or_else(|| EventTime {
                text: AttributeText(ByteString::from(at.to_rfc3339())),
                moment: at,
            })),
            data_content_type: None,
            data_schema: None,
            correlation_id: self.correlation_id.clone(),
            // An id of another event, under the same rule.
            causation_id: Some(CausationId(self.id.0.clone())),
            idempotency_key: None,
            caused_by: self.caused_by.clone(),
            extensions: vec![Extension {
                name: Arc::from(HOPS_ATTRIBUTE),
                json: Arc::from(self.hops().saturating_add(1).to_string()),
            }],
            data: EventData::Json(Bytes::copy_from_slice(emitted.data.as_bytes())),
        }
    }

    /// The hops of emitted events that this one has behind it.
    pub fn hops(&self) -> u8 {
        self.extensions
            .iter()
            .find(|extension| &*extension.name == HOPS_ATTRIBUTE)
            .and_then(|extension| extension.json.parse().ok())
            .unwrap_or(0)
    }
}
