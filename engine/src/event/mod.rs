//! The event: a CloudEvents 1.0 envelope with our extensions, and its payload bytes as they came.
//! Owns its parts, its identity and its stored JSON form; reading it strictly is `read.rs`. Never looks
//! inside the payload beyond its shape.

pub mod binary;
mod emitted;
mod read;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::hash::{Hash128, hash_fields};
use crate::tenant::TenantId;

pub use emitted::HOPS_ATTRIBUTE;
pub use read::Unreadable;

crate::shared_text_type!(
    /// CloudEvents `id`: with `source`, the natural idempotency key.
    EventId, "id", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// CloudEvents `source`.
    EventSource, "source", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// CloudEvents `type`: what machines listen to.
    EventType, "type", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// CloudEvents `subject`.
    Subject, "subject", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// Extension `correlationid`: carried unchanged through everything an event causes.
    CorrelationId, "correlationid", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// Extension `causationid`: the id of the event that caused this one.
    CausationId, "causationid", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// Extension `idempotencykey`: the producer's "same effect".
    IdempotencyKey, "idempotencykey", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// Extension `causedby`: the credential that caused the event.
    CausedBy, "causedby", crate::text::attribute_rule
);
crate::shared_text_type!(
    /// Any other attribute's text.
    AttributeText, "attribute", crate::text::attribute_rule
);

/// CloudEvents `time`, kept as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventTime {
    /// The RFC 3339 text as it came.
    pub text: AttributeText,
    /// The moment it names.
    pub moment: Timestamp,
}

/// A payload, byte for byte as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventData {
    /// No `data` at all.
    Absent,
    /// `data`: JSON text.
    Json(Bytes),
    /// `data_base64`: the base64 text as it came (checked to decode).
    Base64(Bytes),
}

impl EventData {
    /// Tells payloads of equal bytes and different meaning apart in a hash.
    fn kind(&self) -> &'static [u8] {
        match self {
            EventData::Absent => b"absent",
            EventData::Json(_) => b"json",
            EventData::Base64(_) => b"base64",
        }
    }

    /// The payload's bytes as they are stored, empty when absent.
    pub fn stored_bytes(&self) -> &[u8] {
        match self {
            EventData::Absent => &[],
            EventData::Json(bytes) | EventData::Base64(bytes) => bytes,
        }
    }
}

/// The immutable fact. Fields are public to read; a value is only ever made by [`Event::read_json`]
/// or whole by code that already holds valid parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The tenant; there is no event without one.
    pub tenant: TenantId,
    /// `id`.
    pub id: EventId,
    /// `source`.
    pub source: EventSource,
    /// `type`.
    pub event_type: EventType,
    /// `subject`.
    pub subject: Option<Subject>,
    /// `time`.
    pub time: Option<EventTime>,
    /// `datacontenttype`; absent means JSON.
    pub data_content_type: Option<AttributeText>,
    /// `dataschema`.
    pub data_schema: Option<AttributeText>,
    /// `correlationid`.
    pub correlation_id: Option<CorrelationId>,
    /// `causationid`.
    pub causation_id: Option<CausationId>,
    /// `idempotencykey`.
    pub idempotency_key: Option<IdempotencyKey>,
    /// `causedby`.
    pub caused_by: Option<CausedBy>,
    /// Every other extension attribute, in order of name.
    pub extensions: Vec<Extension>,
    /// The payload.
    pub data: EventData,
}

/// An extension attribute that means nothing to the engine and is carried as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extension {
    /// The attribute's name: lower-case letters and digits.
    pub name: Arc<str>,
    /// Its value as JSON text: a string, an integer or a boolean.
    pub json: Arc<str>,
}

impl Event {
    /// The hash under which this event is admitted once: the explicit key, else `source` and `id`.
    pub fn idempotency_hash(&self) -> Hash128 {
        match &self.idempotency_key {
            Some(key) => hash_fields("tidegate.key.explicit", &[key.as_str().as_bytes()]),
            None => hash_fields(
                "tidegate.key.source-id",
                &[self.source.as_str().as_bytes(), self.id.as_str().as_bytes()],
            ),
        }
    }

    /// What two events with one key must share to be the same event. Nothing that we, tracing or
    /// transport stamp counts.
    pub fn conflict_hash(&self) -> Hash128 {
        let subject = self.subject.as_ref().map_or("", Subject::as_str);
        let content_type = self.data_content_type.as_ref();
        hash_fields(
            "tidegate.conflict",
            &[
                self.event_type.as_str().as_bytes(),
                self.source.as_str().as_bytes(),
                subject.as_bytes(),
                content_type.map_or("", AttributeText::as_str).as_bytes(),
                self.data.kind(),
                self.data.stored_bytes(),
            ],
        )
    }

    /// Appends the stored JSON form: attributes in a fixed order, the payload byte for byte.
    pub fn write_json(&self, out: &mut String) {
        out.push_str("{\"specversion\":\"1.0\"");
        let mut text = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":");
                write_json_string(out, value);
            }
        };
        text("id", Some(self.id.as_str()));
        text("source", Some(self.source.as_str()));
        text("type", Some(self.event_type.as_str()));
        text("subject", self.subject.as_ref().map(Subject::as_str));
        text("time", self.time.as_ref().map(|time| time.text.as_str()));
        text(
            "datacontenttype",
            self.data_content_type.as_ref().map(AttributeText::as_str),
        );
        text(
            "dataschema",
            self.data_schema.as_ref().map(AttributeText::as_str),
        );
        text("tenantid", Some(self.tenant.as_str()));
        text(
            "correlationid",
            self.correlation_id.as_ref().map(CorrelationId::as_str),
        );
        text(
            "causationid",
            self.causation_id.as_ref().map(CausationId::as_str),
        );
        text(
            "idempotencykey",
            self.idempotency_key.as_ref().map(IdempotencyKey::as_str),
        );
        text("causedby", self.caused_by.as_ref().map(CausedBy::as_str));
        for extension in &self.extensions {
            let _ = write!(out, ",\"{}\":{}", extension.name, extension.json);
        }
        match &self.data {
            EventData::Absent => {}
            EventData::Json(json) => {
                out.push_str(",\"data\":");
                out.push_str(std::str::from_utf8(json).unwrap_or("null"));
            }
            EventData::Base64(text) => {
                out.push_str(",\"data_base64\":\"");
                out.push_str(std::str::from_utf8(text).unwrap_or_default());
                out.push('"');
            }
        }
        out.push('}');
    }
}

/// Appends `text` as a JSON string.
pub fn write_json_string(out: &mut String, text: &str) {
    // All bytes are looked at, so that the compiler looks at many at once.
    let escapes = text.bytes().fold(false, |found, b| {
        found | (b < 0x20) | (b == b'"') | (b == b'\\')
    });
    if !escapes {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}
