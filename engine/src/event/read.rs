//! The strict reading of a CloudEvents JSON object: every refusal names the attribute and what was
//! expected, and never shows the payload.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    AttributeText, CausationId, CausedBy, CorrelationId, Event, EventData, EventId, EventSource,
    EventTime, EventType, Extension, IdempotencyKey, Subject,
};
use crate::clock::Timestamp;
use crate::error::InvalidValue;
use crate::json_text::{self, JsonFault};
use crate::limits;
use crate::tenant::TenantId;

/// Why a delivery is no event: which field, and what is wrong with it. Never the payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unreadable event: {field}: {reason}")]
pub struct Unreadable {
    /// The attribute at fault, or `(envelope)`.
    pub field: String,
    /// What was expected and found.
    pub reason: String,
}

impl Unreadable {
    /// A refusal of one field.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl From<InvalidValue> for Unreadable {
    fn from(error: InvalidValue) -> Self {
        Self::new(error.what, error.without_value())
    }
}

impl Event {
    /// Reads one CloudEvents JSON object, strictly. The payload stays a slice of `delivery`.
    pub fn read_json(delivery: &Bytes) -> Result<Self, Unreadable> {
        Self::read_json_for(delivery, None)
    }

    /// The same for a source whose events all belong to `tenant`: there an event need not name it.
    pub fn read_json_for(delivery: &Bytes, tenant: Option<&TenantId>) -> Result<Self, Unreadable> {
        if delivery.len() > limits::DELIVERY_BYTES_MAX {
            return Err(Unreadable::new(
                "(envelope)",
                format!(
                    "{} bytes, at most {} are accepted",
                    delivery.len(),
                    limits::DELIVERY_BYTES_MAX
                ),
            ));
        }
        let text = std::str::from_utf8(delivery).map_err(|e| {
            Unreadable::new(
                "(envelope)",
                format!("not UTF-8 at byte {}", e.valid_up_to()),
            )
        })?;
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|e| unreadable_json(&e))?;
        fields.into_event(delivery, tenant)
    }
}

const TOO_MANY: &str = "too many attributes";

/// The raw values of one envelope, in the order of the source text.
struct Fields<'d> {
    attributes: Vec<(Cow<'d, str>, &'d RawValue)>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object with CloudEvents attributes")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut attributes: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(16);
                // Twice the extensions' bound: the envelope's own attributes and data come on top.
                while attributes.len() < 2 * limits::EXTENSIONS_MAX
                    && let Some(name) = map.next_key::<CowKey<'de>>()?
                {
                    attributes.push((name.0, map.next_value()?));
                }
                if map.next_key::<CowKey<'de>>()?.is_some() {
                    return Err(serde::de::Error::custom(TOO_MANY));
                }
                Ok(Fields { attributes })
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

const NO_CLOUD_EVENT: &str =
    "the attribute is missing: this is no CloudEvents object; JSON of your own needs a `mapping`";

/// A key that borrows when it can (`Cow` alone always copies).
struct CowKey<'d>(Cow<'d, str>);

impl<'de> Deserialize<'de> for CowKey<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = CowKey<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an attribute name")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(CowKey(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(CowKey(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl Fields<'_> {
    fn into_event(self, delivery: &Bytes, tenant: Option<&TenantId>) -> Result<Event, Unreadable> {
        let is_cloud_event = self
            .attributes
            .iter()
            .any(|(name, _)| name == "specversion");
        self.read(delivery, tenant)
            .map_err(|fault| match is_cloud_event {
                true => fault,
                // Whatever else is wrong with it, it was never meant as one.
                false => Unreadable::new("specversion", NO_CLOUD_EVENT),
            })
    }

    fn read(self, delivery: &Bytes, tenant: Option<&TenantId>) -> Result<Event, Unreadable> {
        let mut known: Known<'_> = Known::default();
        let mut extensions = Vec::new();
        for (place, (name, raw)) in self.attributes.iter().enumerate() {
            if self
                .attributes
                .iter()
                .take(place)
                .any(|(earlier, _)| earlier == name)
            {
                return Err(Unreadable::new(shown(name), "the attribute stands twice"));
            }
            if !known.take(name, raw) {
                extensions.push(extension(name, raw)?);
            }
        }
        if extensions.len() > limits::EXTENSIONS_MAX {
            return Err(Unreadable::new(
                "(envelope)",
                format!(
                    "{} extension attributes, at most {}",
                    extensions.len(),
                    limits::EXTENSIONS_MAX
                ),
            ));
        }
        extensions.sort_by(|left, right| left.name.cmp(&right.name));
        known.into_event(extensions, delivery, tenant)
    }
}

/// The attributes that the engine knows, as raw JSON.
#[derive(Default)]
struct Known<'d> {
    specversion: Option<&'d RawValue>,
    id: Option<&'d RawValue>,
    source: Option<&'d RawValue>,
    event_type: Option<&'d RawValue>,
    subject: Option<&'d RawValue>,
    time: Option<&'d RawValue>,
    data_content_type: Option<&'d RawValue>,
    data_schema: Option<&'d RawValue>,
    tenant: Option<&'d RawValue>,
    correlation_id: Option<&'d RawValue>,
    causation_id: Option<&'d RawValue>,
    idempotency_key: Option<&'d RawValue>,
    caused_by: Option<&'d RawValue>,
    data: Option<&'d RawValue>,
    data_base64: Option<&'d RawValue>,
}

impl<'d> Known<'d> {
    /// Keeps a known attribute; false when the name is none of ours. A JSON null counts as absent,
    /// as CloudEvents asks.
    fn take(&mut self, name: &str, raw: &'d RawValue) -> bool {
        let place = match name {
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.event_type,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            "datacontenttype" => &mut self.data_content_type,
            "dataschema" => &mut self.data_schema,
            "tenantid" => &mut self.tenant,
            "correlationid" => &mut self.correlation_id,
            "causationid" => &mut self.causation_id,
            "idempotencykey" => &mut self.idempotency_key,
            "causedby" => &mut self.caused_by,
            "data" => &mut self.data,
            "data_base64" => &mut self.data_base64,
            _ => return false,
        };
        if raw.get() != "null" || name == "data" {
            *place = Some(raw);
        }
        true
    }

    fn into_event(
        self,
        extensions: Vec<Extension>,
        delivery: &Bytes,
        tenant: Option<&TenantId>,
    ) -> Result<Event, Unreadable> {
        let tenant = match (self.tenant, tenant) {
            (None, Some(tenant)) => tenant.clone(),
            (named, _) => TenantId::new(&string(required(named, "tenantid")?, "tenantid")?)?,
        };
        let version = required(self.specversion, "specversion")?;
        if string(version, "specversion")? != "1.0" {
            return Err(Unreadable::new("specversion", "only \"1.0\" is known"));
        }
        let of = |raw: &RawValue, field: &str| shared(raw, field, delivery);
        let event = Event {
            tenant,
            id: EventId::shared(of(required(self.id, "id")?, "id")?)?,
            source: EventSource::shared(of(required(self.source, "source")?, "source")?)?,
            event_type: EventType::shared(of(required(self.event_type, "type")?, "type")?)?,
            subject: optional(self.subject, "subject", of, Subject::shared)?,
            time: self.time.map(|raw| event_time(raw, delivery)).transpose()?,
            data_content_type: optional(
                self.data_content_type,
                "datacontenttype",
                of,
                AttributeText::shared,
            )?,
            data_schema: optional(self.data_schema, "dataschema", of, AttributeText::shared)?,
            correlation_id: optional(
                self.correlation_id,
                "correlationid",
                of,
                CorrelationId::shared,
            )?,
            causation_id: optional(self.causation_id, "causationid", of, CausationId::shared)?,
            idempotency_key: optional(
                self.idempotency_key,
                "idempotencykey",
                of,
                IdempotencyKey::shared,
            )?,
            caused_by: optional(self.caused_by, "causedby", of, CausedBy::shared)?,
            extensions,
            data: payload(self.data, self.data_base64, delivery)?,
        };
        Ok(event)
    }
}

fn required<'d>(raw: Option<&'d RawValue>, field: &str) -> Result<&'d RawValue, Unreadable> {
    raw.ok_or_else(|| Unreadable::new(field, "the attribute is missing"))
}

fn string<'d>(raw: &'d RawValue, field: &str) -> Result<Cow<'d, str>, Unreadable> {
    let text = raw.get();
    match text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        Some(_) => serde_json::from_str::<String>(text)
            .map(Cow::Owned)
            .map_err(|_| Unreadable::new(field, "not a JSON string: an escape means no character")),
        None => Err(Unreadable::new(field, "expected a JSON string")),
    }
}

/// The same as a slice of the delivery, where no escape stands in it.
fn shared(raw: &RawValue, field: &str, delivery: &Bytes) -> Result<ByteString, Unreadable> {
    Ok(match string(raw, field)? {
        Cow::Borrowed(text) => ByteString::try_from(delivery.slice_ref(text.as_bytes()))
            .unwrap_or_else(|_| ByteString::from(text)),
        Cow::Owned(text) => ByteString::from(text),
    })
}

fn optional<T>(
    raw: Option<&RawValue>,
    field: &str,
    of: impl Fn(&RawValue, &str) -> Result<ByteString, Unreadable>,
    build: fn(ByteString) -> Result<T, InvalidValue>,
) -> Result<Option<T>, Unreadable> {
    let Some(raw) = raw else { return Ok(None) };
    let value = build(of(raw, field)?).map_err(|error| Unreadable {
        field: field.to_owned(),
        reason: error.without_value(),
    })?;
    Ok(Some(value))
}

fn event_time(raw: &RawValue, delivery: &Bytes) -> Result<EventTime, Unreadable> {
    let text = shared(raw, "time", delivery)?;
    let moment = Timestamp::parse_rfc3339(&text)
        .ok_or_else(|| Unreadable::new("time", "expected RFC 3339, like 2026-11-22T06:17:00Z"))?;
    Ok(EventTime {
        text: AttributeText::shared(text)?,
        moment,
    })
}

fn payload(
    data: Option<&RawValue>,
    data_base64: Option<&RawValue>,
    delivery: &Bytes,
) -> Result<EventData, Unreadable> {
    match (data, data_base64) {
        (Some(_), Some(_)) => Err(Unreadable::new(
            "data_base64",
            "`data` is there too; only one is allowed",
        )),
        (Some(raw), None) => {
            // The envelope is the first level of nesting.
            json_text::check(raw.get(), 1)
                .map_err(|fault: JsonFault| Unreadable::new("data", fault.to_string()))?;
            Ok(EventData::Json(delivery.slice_ref(raw.get().as_bytes())))
        }
        (None, Some(raw)) => {
            let text = string(raw, "data_base64")?;
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(text.as_bytes())
                .map_err(|e| Unreadable::new("data_base64", format!("not base64: {e}")))?;
            Ok(EventData::Base64(Bytes::copy_from_slice(text.as_bytes())))
        }
        (None, None) => Ok(EventData::Absent),
    }
}

fn extension(name: &str, raw: &RawValue) -> Result<Extension, Unreadable> {
    let valid_name = (1..=limits::NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !valid_name {
        return Err(Unreadable::new(
            shown(name),
            "attribute names are 1 to 63 lower-case letters and digits (CloudEvents 1.0)",
        ));
    }
    let text = raw.get();
    match text.bytes().next() {
        Some(b'"') => {
            AttributeText::new(&string(raw, name)?)
                .map_err(|error| Unreadable::new(name, error.without_value()))?;
        }
        Some(b't' | b'f') => {}
        Some(b'-' | b'0'..=b'9') if text.parse::<i32>().is_ok() => {}
        _ => {
            return Err(Unreadable::new(
                name,
                "expected a string, a boolean or a 32-bit integer",
            ));
        }
    }
    Ok(Extension {
        name: Arc::from(name),
        json: Arc::from(text),
    })
}

/// Says where, and never in the parser's own words: those quote what they found.
fn unreadable_json(error: &serde_json::Error) -> Unreadable {
    use serde_json::error::Category;
    let (line, column) = (error.line(), error.column());
    let reason = match error.classify() {
        Category::Data if error.to_string().starts_with(TOO_MANY) => {
            format!("more than {} attributes", 2 * limits::EXTENSIONS_MAX)
        }
        Category::Data => "expected one JSON object".to_owned(),
        Category::Eof => format!("the JSON ends early, at line {line}, column {column}"),
        Category::Syntax | Category::Io => {
            format!("not JSON at line {line}, column {column}")
        }
    };
    Unreadable::new("(envelope)", reason)
}

fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(40).collect()
}
