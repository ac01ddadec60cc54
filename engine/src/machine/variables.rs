//! What an expression may name: the variables `event`, `state`, `status`, `version` and `next` of machines
//! and `payload` and `headers` of mappings, which of them exist where, and how a path from one of them is found in what a machine is given.

use std::sync::OnceLock;

use cel::common::types::{CelBool, CelInt, CelString, CelTimestamp};
use cel::common::value::{CowVal, Val};

use super::field::Field;
use super::field_type::map_from_json;
use super::moment;
use super::operators::boolean;
use super::payload::{Payload, PayloadPlan, Slot};
use super::processor::EventContext;
use crate::event::{Event, EventData};
use crate::headers::{HeaderValue, Headers};
use crate::state::{EntityState, StateData};

/// Where an expression stands, which decides what it may name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// `key`: only `event`, since the entity is not known yet.
    Key,
    /// `when`, `reject` and `set`.
    Candidate,
    /// `emit`: also `next`.
    Emit,
    /// A mapping: what a bus delivered, before it is an event.
    Delivery,
}

impl Place {
    /// The variables that exist here.
    pub(super) fn variables(self) -> &'static [&'static str] {
        match self {
            Place::Key => &["event"],
            Place::Candidate => &["event", "state", "status", "version"],
            Place::Emit => &["event", "state", "status", "version", "next"],
            Place::Delivery => &["payload", "headers"],
        }
    }
}

/// An attribute of the envelope.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Attribute {
    Id,
    Source,
    Type,
    Subject,
    Time,
    TenantId,
    CorrelationId,
    CausationId,
    IdempotencyKey,
    DataContentType,
    DataSchema,
    Extension(Box<str>),
}

impl Attribute {
    /// The attributes that every envelope knows, by their name in CloudEvents.
    pub(super) const KNOWN: [(&'static str, Attribute); 11] = [
        ("id", Attribute::Id),
        ("source", Attribute::Source),
        ("type", Attribute::Type),
        ("subject", Attribute::Subject),
        ("time", Attribute::Time),
        ("tenantid", Attribute::TenantId),
        ("correlationid", Attribute::CorrelationId),
        ("causationid", Attribute::CausationId),
        ("idempotencykey", Attribute::IdempotencyKey),
        ("datacontenttype", Attribute::DataContentType),
        ("dataschema", Attribute::DataSchema),
    ];

    fn text<'e>(&self, event: &'e Event) -> Option<&'e str> {
        match self {
            Attribute::Id => Some(event.id.as_str()),
            Attribute::Source => Some(event.source.as_str()),
            Attribute::Type => Some(event.event_type.as_str()),
            Attribute::Subject => event.subject.as_ref().map(AsRef::as_ref),
            Attribute::TenantId => Some(event.tenant.as_str()),
            Attribute::CorrelationId => event.correlation_id.as_ref().map(AsRef::as_ref),
            Attribute::CausationId => event.causation_id.as_ref().map(AsRef::as_ref),
            Attribute::IdempotencyKey => event.idempotency_key.as_ref().map(AsRef::as_ref),
            Attribute::DataContentType => event.data_content_type.as_ref().map(AsRef::as_ref),
            Attribute::DataSchema => event.data_schema.as_ref().map(AsRef::as_ref),
            Attribute::Time | Attribute::Extension(_) => None,
        }
    }
}

/// A path that an expression names, resolved when the definition was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Variable {
    Attribute(Attribute),
    HasAttribute(Attribute),
    Payload(usize),
    HasPayload(usize),
    Header(Box<str>),
    HasHeader(Box<str>),
    Field(usize),
    NextField(usize),
    Fields,
    NextFields,
    Status,
    Version,
}

/// What an evaluation is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum About<'e> {
    Event(EventContext<'e>),
    Delivery {
        data: &'e EventData,
        headers: &'e Headers,
    },
}

impl<'e> About<'e> {
    fn context(self) -> Option<EventContext<'e>> {
        match self {
            About::Event(context) => Some(context),
            About::Delivery { .. } => None,
        }
    }

    fn event(self) -> Option<&'e Event> {
        self.context().map(|context| context.event)
    }

    fn data(self) -> &'e EventData {
        match self {
            About::Event(context) => &context.event.data,
            About::Delivery { data, .. } => data,
        }
    }

    fn header(self, name: &str) -> HeaderValue<'e> {
        match self {
            About::Event(_) => HeaderValue::Absent,
            About::Delivery { headers, .. } => headers.get(name),
        }
    }
}

/// What one evaluation sees.
#[derive(Debug)]
pub(super) struct Scope<'s, 'e> {
    pub(super) about: About<'e>,
    pub(super) plan: &'s PayloadPlan,
    /// Read at the first use and shared by every expression of one event.
    pub(super) payload: &'s OnceLock<Payload<'e>>,
    pub(super) fields: &'s [Field],
    /// Absent for `key`.
    pub(super) entity: Option<&'s EntityState>,
    /// Only for `emit`.
    pub(super) next: Option<&'s StateData>,
}

impl<'e> Scope<'_, 'e> {
    /// The value of a variable, or `None` when it is absent.
    pub(super) fn value<'b>(&'b self, variable: &Variable) -> Option<CowVal<'b, 'b>> {
        match variable {
            Variable::Attribute(attribute) => self.attribute(attribute),
            Variable::HasAttribute(attribute) => {
                let present = match attribute {
                    Attribute::Time => true,
                    Attribute::Extension(name) => self.extension(name).is_some(),
                    known => known.text(self.about.event()?).is_some(),
                };
                Some(boolean(present))
            }
            Variable::Payload(slot) => match self.slot(*slot)? {
                Slot::Value(bound) => Some(CowVal::Borrowed(bound.as_val())),
                Slot::Broken | Slot::Absent | Slot::Unusable | Slot::Present => None,
            },
            Variable::HasPayload(slot) => match self.slot(*slot)? {
                Slot::Value(_) | Slot::Present | Slot::Unusable => Some(boolean(true)),
                Slot::Absent => Some(boolean(false)),
                Slot::Broken => None,
            },
            Variable::Header(name) => match self.about.header(name) {
                HeaderValue::One(value) => {
                    let text = std::str::from_utf8(value).ok()?;
                    Some(CowVal::owned(CelString::from(text)))
                }
                HeaderValue::Absent | HeaderValue::Several => None,
            },
            Variable::HasHeader(name) => {
                Some(boolean(self.about.header(name) != HeaderValue::Absent))
            }
            Variable::Field(place) => self.field(*place, &self.entity?.data),
            Variable::NextField(place) => self.field(*place, self.next?),
            Variable::Fields => Some(CowVal::owned(map_from_json(&self.entity?.data.0))),
            Variable::NextFields => Some(CowVal::owned(map_from_json(&self.next?.0))),
            Variable::Status => Some(CowVal::owned(CelString::from(self.entity?.status.as_str()))),
            Variable::Version => {
                let version = i64::try_from(self.entity?.version.0).ok()?;
                Some(CowVal::owned(CelInt::from(version)))
            }
        }
    }

    /// Why a variable has no value, in words that hold none.
    pub(super) fn absence(&self, variable: &Variable) -> &'static str {
        match variable {
            Variable::Payload(slot) | Variable::HasPayload(slot) => match self.slot(*slot) {
                Some(Slot::Broken) => "is absent, and so is what encloses it",
                Some(Slot::Unusable) => "is a number or text that no value can hold",
                _ => "is absent",
            },
            Variable::Header(name) => match self.about.header(name) {
                HeaderValue::Absent => "is absent",
                HeaderValue::One(_) => "is not UTF-8 text",
                HeaderValue::Several => "stands there several times with different values",
            },
            Variable::Field(_) | Variable::NextField(_) => {
                "holds what another definition stored, not its declared type"
            }
            _ => "is absent",
        }
    }

    fn slot(&self, slot: usize) -> Option<&Slot<'e>> {
        self.payload
            .get_or_init(|| self.plan.read(self.about.data()))
            .get(slot)
    }

    fn attribute<'b>(&'b self, attribute: &Attribute) -> Option<CowVal<'b, 'b>> {
        match attribute {
            Attribute::Time => time(&self.about.context()?).map(CowVal::owned),
            Attribute::Extension(name) => {
                let json = self.extension(name)?;
                // At most a string, a boolean or a 32-bit integer, so a parse costs nothing to speak of.
                let value: serde_json::Value = serde_json::from_str(json).ok()?;
                Some(CowVal::Owned(owned(&value)))
            }
            known => {
                let text = known.text(self.about.event()?)?;
                Some(CowVal::owned(CelString::from(text)))
            }
        }
    }

    fn extension(&self, name: &str) -> Option<&str> {
        self.about
            .event()?
            .extensions
            .iter()
            .find(|extension| &*extension.name == name)
            .map(|extension| &*extension.json)
    }

    fn field<'b>(&'b self, place: usize, data: &'b StateData) -> Option<CowVal<'b, 'b>> {
        let field = self.fields.get(place)?;
        let stored = data.get(field.name.as_str()).unwrap_or(&field.initial);
        field.kind.bind(stored).map(CowVal::Owned)
    }
}

fn time(context: &EventContext<'_>) -> Option<CelTimestamp> {
    moment::to_cel(context.time())
}

fn owned(value: &serde_json::Value) -> Box<dyn Val> {
    match value {
        serde_json::Value::String(text) => Box::new(CelString::from(text.clone())),
        serde_json::Value::Bool(bool) => Box::new(CelBool::from(*bool)),
        other => Box::new(CelInt::from(other.as_i64().unwrap_or_default())),
    }
}
