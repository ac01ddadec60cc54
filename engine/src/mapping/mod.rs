//! The mapping: how a source's own JSON becomes events. One component for every bus; compiled from the
//! configuration, pure, and strict: what it makes of a delivery is an event or a refusal that names the
//! field and where it was looked for, never the value.

mod pointer;
mod selector;
#[cfg(test)]
mod tests;
mod time_format;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::error::InvalidValue;
use crate::event::{
    AttributeText, CausationId, CorrelationId, Event, EventData, EventId, EventSource, EventTime,
    EventType, IdempotencyKey, Subject, Unreadable,
};
use crate::headers::Headers;
use crate::json_text;
use crate::limits;
use crate::machine::{DeliveryPlan, DeliveryScope, Objection};
use crate::position::{Offset, SourceInstance};
use crate::tenant::TenantId;

pub use pointer::Pointer;
pub use selector::Selector;
pub use time_format::TimeFormat;

use pointer::PointerPlan;
use selector::{Compiled, Found, Opened};

/// The media type of everything that a mapping reads.
const JSON: &str = "application/json";

/// A field of the event that can be mapped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Field {
    /// `id`: with the source, the natural idempotency key.
    Id,
    /// `type`.
    Type,
    /// `subject`.
    Subject,
    /// `time`.
    Time,
    /// `source`.
    Source,
    /// `idempotencykey`.
    IdempotencyKey,
    /// `correlationid`.
    CorrelationId,
    /// `causationid`.
    CausationId,
    /// `tenantid`.
    Tenant,
}

impl Field {
    /// Its name in the configuration, and in refusals.
    pub fn key(self) -> &'static str {
        match self {
            Field::Id => "id",
            Field::Type => "type",
            Field::Subject => "subject",
            Field::Time => "time",
            Field::Source => "source",
            Field::IdempotencyKey => "idempotency_key",
            Field::CorrelationId => "correlation_id",
            Field::CausationId => "causation_id",
            Field::Tenant => "tenant",
        }
    }

    /// What would follow from one value for all events, where that is never meant.
    fn why_never_constant(self) -> Option<&'static str> {
        match self {
            Field::Id | Field::IdempotencyKey => {
                Some("every event would be taken for the first one again")
            }
            Field::Tenant => Some("a tenant that is always the same is the source's `tenant`"),
            _ => None,
        }
    }
}

/// A bus's delivery as a mapping sees it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'i> {
    /// What stood beside the payload.
    pub headers: &'i Headers,
    /// The payload.
    pub payload: &'i Bytes,
}

/// What is wrong with one field of a mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappingFault {
    /// The field.
    pub field: Field,
    /// What is wrong with it, and what to write.
    pub objection: Objection,
}

/// A compiled mapping.
#[derive(Debug)]
pub struct Mapping {
    rules: Vec<(Field, Compiled)>,
    time_format: TimeFormat,
    /// What `source` is when it is not mapped.
    source: EventSource,
    pointers: PointerPlan,
    plan: DeliveryPlan,
    uses_headers: bool,
    uses_position: bool,
}

impl Mapping {
    /// Compiles a mapping: where each field is taken from, how `time` is written, and the `source` of
    /// events when it is not mapped. `id` and `type` have to be mapped.
    pub fn compile(
        fields: &[(Field, Selector)],
        time_format: TimeFormat,
        source: EventSource,
    ) -> Result<Self, Vec<MappingFault>> {
        let mut faults = Vec::new();
        let mut mapping = Self {
            rules: Vec::with_capacity(fields.len()),
            time_format,
            source,
            pointers: PointerPlan::default(),
            plan: DeliveryPlan::default(),
            uses_headers: false,
            uses_position: false,
        };
        for (field, selector) in fields {
            if *selector == Selector::Position {
                mapping.uses_position = true;
                if *field != Field::Id {
                    let message =
                        "`position` is what tells a record from every other: it is for `id` alone";
                    faults.push(fault(*field, message, None));
                }
            }
            match selector.compile(&mut mapping.pointers, &mut mapping.plan) {
                Ok(compiled) => {
                    mapping.uses_headers |= compiled.uses_headers();
                    mapping.rules.push((*field, compiled));
                }
                Err(objections) => {
                    faults.extend(objections.into_iter().map(|objection| MappingFault {
                        field: *field,
                        objection,
                    }));
                }
            }
        }
        for (field, example) in [
            (
                Field::Id,
                "`id: { pointer: /id }`; for records that have none, `id: position` takes their place in the \
                 source, and takes what is sent again for new",
            ),
            (Field::Type, "`type: { pointer: /type }`, or a literal"),
        ] {
            if !fields.iter().any(|(mapped, _)| *mapped == field) {
                faults.push(fault(field, "is needed", Some(format!("like {example}"))));
            }
        }
        mapping.check_constants(&mut faults);
        if faults.is_empty() {
            Ok(mapping)
        } else {
            Err(faults)
        }
    }

    /// Finds what no delivery could mend: a field that is the same for every event and must not be, or that
    /// is nothing it may be.
    fn check_constants(&self, faults: &mut Vec<MappingFault>) {
        let nothing = Opened {
            payload: &Bytes::new(),
            headers: &Headers::NONE,
            place: None,
            pointed: Vec::new(),
            scope: DeliveryScope::new(&self.plan, &EventData::Absent, &Headers::NONE),
        };
        for (field, compiled) in &self.rules {
            if !compiled.is_constant() {
                continue;
            }
            if let Some(why) = field.why_never_constant() {
                let message = format!("is the same for every event: {why}");
                faults.push(fault(*field, &message, None));
                continue;
            }
            let checked = match field {
                Field::Time => self.time(&nothing).map(drop),
                _ => self.text(*field, &nothing, AttributeText::shared).map(drop),
            };
            if let Err(refusal) = checked {
                faults.push(fault(*field, &refusal.reason, None));
            }
        }
    }

    /// True when a header decides anything, so that a payload alone cannot be read again.
    pub fn uses_headers(&self) -> bool {
        self.uses_headers
    }

    /// True when a record's place in its source is its id, so that what is sent again is a new event.
    pub fn uses_position(&self) -> bool {
        self.uses_position
    }

    /// True when the tenant is taken from what was delivered.
    pub fn maps_tenant(&self) -> bool {
        self.rule(Field::Tenant).is_some()
    }

    /// Makes an event of one delivery. `bound` is the tenant of everything from the source, for a mapping
    /// that takes none from what is delivered.
    pub fn envelope(
        &self,
        input: Input<'_>,
        bound: Option<&TenantId>,
    ) -> Result<Event, Unreadable> {
        self.envelope_at(None, input, bound)
    }

    /// The same of a delivery whose place in its source is known, for a mapping whose `id` is that.
    pub fn envelope_at(
        &self,
        place: Option<(&SourceInstance, Offset)>,
        input: Input<'_>,
        bound: Option<&TenantId>,
    ) -> Result<Event, Unreadable> {
        let json = self.json(input)?;
        let data = EventData::Json(input.payload.slice_ref(json.as_bytes()));
        let pointed = self.pointers.read(json).map_err(|error| {
            let at = format!("line {}, column {}", error.line(), error.column());
            Unreadable::new("(payload)", format!("cannot be looked into, at {at}"))
        })?;
        let opened = Opened {
            payload: input.payload,
            headers: input.headers,
            place: place
                .filter(|_| self.uses_position)
                .map(|(instance, offset)| ByteString::from(instance.place(offset))),
            pointed,
            scope: DeliveryScope::new(&self.plan, &data, input.headers),
        };
        let tenant = self.tenant(&opened, bound)?;
        let source = self.text(Field::Source, &opened, EventSource::shared)?;
        Ok(Event {
            tenant,
            id: self.required(Field::Id, &opened, EventId::shared)?,
            source: source.unwrap_or_else(|| self.source.clone()),
            event_type: self.required(Field::Type, &opened, EventType::shared)?,
            subject: self.text(Field::Subject, &opened, Subject::shared)?,
            time: self.time(&opened)?,
            data_content_type: Some(AttributeText::shared(ByteString::from_static(JSON))?),
            data_schema: None,
            correlation_id: self.text(Field::CorrelationId, &opened, CorrelationId::shared)?,
            causation_id: self.text(Field::CausationId, &opened, CausationId::shared)?,
            idempotency_key: self.text(Field::IdempotencyKey, &opened, IdempotencyKey::shared)?,
            caused_by: None,
            extensions: Vec::new(),
            data: EventData::Json(input.payload.slice_ref(json.as_bytes())),
        })
    }

    /// The payload as strict JSON text, without the white space around it.
    fn json<'i>(&self, input: Input<'i>) -> Result<&'i str, Unreadable> {
        let refused = |reason: String| Unreadable::new("(payload)", reason);
        if self.uses_headers && input.headers.is_cut() {
            let reason = format!(
                "more than {} headers or {} bytes of them, so that one that decides may be missing",
                limits::HEADERS_MAX,
                limits::HEADERS_BYTES_MAX
            );
            return Err(Unreadable::new("(headers)", reason));
        }
        let (length, most) = (input.payload.len(), limits::DELIVERY_BYTES_MAX);
        if length > most {
            return Err(refused(format!(
                "{length} bytes, at most {most} are accepted"
            )));
        }
        let text = std::str::from_utf8(input.payload)
            .map_err(|error| refused(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| {
            // Never in the parser's own words: those may quote what they found.
            refused(format!(
                "not one JSON value: line {}, column {}",
                error.line(),
                error.column()
            ))
        })?;
        // The envelope is the first level of nesting.
        json_text::check(raw.get(), 1).map_err(|fault| refused(fault.to_string()))?;
        Ok(raw.get())
    }

    fn rule(&self, field: Field) -> Option<&Compiled> {
        let mut rules = self.rules.iter();
        rules
            .find(|(mapped, _)| *mapped == field)
            .map(|(_, compiled)| compiled)
    }

    /// A field that is text: what was sent as a number stands there as its digits.
    fn text<T>(
        &self,
        field: Field,
        delivery: &Opened<'_>,
        build: fn(ByteString) -> Result<T, InvalidValue>,
    ) -> Result<Option<T>, Unreadable> {
        let Some(rule) = self.rule(field) else {
            return Ok(None);
        };
        let refused = |what: String| {
            let reason = format!("{} {what}", rule.shown());
            Unreadable::new(field.key(), reason)
        };
        let expected = |what: &str| {
            refused(format!(
                "{what}; expected text, or a number without an exponent"
            ))
        };
        let text = match rule.find(delivery).map_err(|found| expected(&found))? {
            Found::Nothing => return Ok(None),
            Found::Text(text) => text,
            Found::Number(number) => match digits(&number) {
                Some(digits) => ByteString::from(digits),
                None => return Err(expected("finds a number with an exponent")),
            },
            Found::Double(_) => {
                return Err(refused(
                    "comes to a double, which may be another number than the one that was sent; \
                     write `string(…)` around it, or take it with `pointer`"
                        .to_owned(),
                ));
            }
            Found::Moment(_) => {
                return Err(refused(
                    "comes to a timestamp; write `string(…)` around it".to_owned(),
                ));
            }
        };
        build(text).map(Some).map_err(|error| {
            refused(format!(
                "finds what it cannot be; expected {}",
                error.expected
            ))
        })
    }

    fn required<T>(
        &self,
        field: Field,
        delivery: &Opened<'_>,
        build: fn(ByteString) -> Result<T, InvalidValue>,
    ) -> Result<T, Unreadable> {
        self.text(field, delivery, build)?.ok_or_else(|| {
            let shown = self
                .rule(field)
                .map_or_else(|| "the mapping".to_owned(), Compiled::shown);
            let reason = format!(
                "{shown} finds nothing, and no event is without it; correct the mapping, or have the \
                 producer send it"
            );
            Unreadable::new(field.key(), reason)
        })
    }

    fn tenant(
        &self,
        delivery: &Opened<'_>,
        bound: Option<&TenantId>,
    ) -> Result<TenantId, Unreadable> {
        match bound {
            Some(bound) if !self.maps_tenant() => Ok(bound.clone()),
            _ => self.required(Field::Tenant, delivery, |text| TenantId::new(&text)),
        }
    }

    fn time(&self, delivery: &Opened<'_>) -> Result<Option<EventTime>, Unreadable> {
        let Some(rule) = self.rule(Field::Time) else {
            return Ok(None);
        };
        let format = self.time_format;
        let refused = |what: &str| {
            let reason = format!("{} {what}; expected {}", rule.shown(), format.expected());
            Unreadable::new(Field::Time.key(), reason)
        };
        let read = |text: &str| {
            let unfit = "finds no moment of this format between the years 1 and 9999";
            format.parse(text).ok_or_else(|| refused(unfit))
        };
        let moment = match rule.find(delivery).map_err(|found| refused(&found))? {
            Found::Nothing => return Ok(None),
            Found::Moment(moment) => moment,
            Found::Text(text) => {
                let moment = read(&text)?;
                if !format.is_number() {
                    // Kept as it was written.
                    let text = AttributeText::shared(text)?;
                    return Ok(Some(EventTime { text, moment }));
                }
                moment
            }
            Found::Number(_) | Found::Double(_) if !format.is_number() => {
                return Err(refused("finds a number, and `format` says otherwise"));
            }
            Found::Number(number) => read(&number)?,
            Found::Double(double) => read(&double.to_string())?,
        };
        written(moment).map(Some)
    }
}

/// A moment that was not sent as RFC 3339, written so.
fn written(moment: Timestamp) -> Result<EventTime, Unreadable> {
    let text = AttributeText::shared(ByteString::from(moment.to_rfc3339()))?;
    Ok(EventTime { text, moment })
}

fn fault(field: Field, message: &str, suggestion: Option<String>) -> MappingFault {
    MappingFault {
        field,
        objection: Objection {
            message: message.to_owned(),
            suggestion,
        },
    }
}

/// A JSON number's own digits; `None` with an exponent, which may be written in many ways.
fn digits(number: &str) -> Option<&str> {
    match number {
        "-0" => Some("0"),
        number if number.contains(['e', 'E']) => None,
        number => Some(number),
    }
}
