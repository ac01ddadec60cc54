//! Machines in Rust with their data as a struct. [`TypedMachine`] is what an author writes, [`Typed`]
//! makes a [`Processor`] of it; [`super::order`] is the example to copy. The semantics are those of a
//! definition in YAML: the same verdicts, the same bytes.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::field_type::{FieldType, from_json};
use super::finite;
use super::numbers::exact_int;
use super::processor::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, Processor, Verdict,
    unmatched_reason,
};
use crate::error::InvalidValue;
use crate::event::{Event, EventData, EventType, Subject};
use crate::position::Version;
use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};

/// A machine written in Rust. It must be pure: no clock, no randomness, no I/O, no state of its own that
/// changes. Everything it decides follows from the event and the entity.
pub trait TypedMachine: Send + Sync + 'static {
    /// The entity's data. Its default is the data of an entity before its first event; as JSON it has
    /// exactly the fields of [`TypedMachine::FIELDS`].
    type Data: Serialize + DeserializeOwned + Default;

    /// The machine's name.
    const NAME: &'static str;
    /// The version; raised with every change of behaviour.
    const VERSION: u64;
    /// What is hashed and stored as the definition. `include_str!` of the machine's own source file: then
    /// a change of the code without a new version is refused, as it is for YAML.
    const SOURCE: &'static str;
    /// Every status; the first is that of an entity before its first event.
    const STATES: &'static [&'static str];
    /// The event types it listens to.
    const EVENTS: &'static [&'static str];
    /// The fields of the data with their types: the columns of the machine's view.
    const FIELDS: &'static [(&'static str, FieldType)];

    /// The key of the entity that the event concerns; its subject, unless this says otherwise.
    fn key(&self, event: &TypedEvent<'_>) -> Result<EntityKey, Fault> {
        event.subject_as_key()
    }

    /// What the event does to the entity. `Err` makes the event dead; nothing changes.
    fn apply(
        &self,
        event: &TypedEvent<'_>,
        entity: Entity<'_, Self::Data>,
    ) -> Result<Answer<Self::Data>, Fault>;
}

/// The event that a typed machine is given.
#[derive(Clone, Copy, Debug)]
pub struct TypedEvent<'e> {
    /// The event and its admission time.
    pub context: EventContext<'e>,
}

impl<'e> TypedEvent<'e> {
    /// The envelope.
    pub fn envelope(&self) -> &'e Event {
        self.context.event
    }

    /// The event type's text, to match on.
    pub fn kind(&self) -> &'e str {
        self.context.event.event_type.as_str()
    }

    /// The payload as `T`. What does not fit is a fault that names the type of the event, never a value.
    pub fn data<T: Deserialize<'e>>(&self) -> Result<T, Fault> {
        let json: &[u8] = match &self.context.event.data {
            EventData::Json(json) => json,
            EventData::Absent | EventData::Base64(_) => b"null",
        };
        // The library's message quotes the value, so it is dropped.
        serde_json::from_slice(json)
            .map_err(|_| fault(format!("the data of this `{}` does not fit", self.kind())))
    }

    /// The subject as the key of an entity.
    pub fn subject_as_key(&self) -> Result<EntityKey, Fault> {
        let subject = self.context.event.subject.as_ref();
        let key = subject.map(|subject| EntityKey::new(subject.as_str()));
        match key {
            Some(Ok(key)) => Ok(key),
            Some(Err(error)) => Err(key_fault(format!("expected {}", error.expected))),
            None => Err(key_fault("the event has no subject".to_owned())),
        }
    }
}

/// A fault of the machine's own reading or arithmetic.
pub fn fault(detail: impl Into<String>) -> Fault {
    Fault {
        reason: DeadReason::Expression,
        detail: detail.into(),
    }
}

fn key_fault(detail: String) -> Fault {
    Fault {
        reason: DeadReason::Key,
        detail,
    }
}

/// The entity that a typed machine is given.
#[derive(Debug)]
pub struct Entity<'s, D> {
    /// Its status before the event.
    pub status: &'s str,
    /// Its version before the event, 0 before the first.
    pub version: Version,
    /// Its data before the event, to be changed and handed back.
    pub data: D,
}

impl<'s, D> Entity<'s, D> {
    /// Moves the entity to a status, with the data as it now is.
    pub fn to(self, status: &'static str) -> Answer<D> {
        Answer::Change {
            status: Some(status),
            data: self.data,
            emitted: Vec::new(),
        }
    }

    /// Keeps the status, with the data as it now is.
    pub fn stay(self) -> Answer<D> {
        Answer::Change {
            status: None,
            data: self.data,
            emitted: Vec::new(),
        }
    }
}

/// What a typed machine makes of an event.
#[derive(Debug)]
pub enum Answer<D> {
    /// The entity moves; see [`Entity::to`] and [`Entity::stay`].
    Change {
        /// The status after; the same as before when absent.
        status: Option<&'static str>,
        /// The data after.
        data: D,
        /// Emitted events, in order.
        emitted: Vec<Emission>,
    },
    /// The machine says no.
    Reject(String),
    /// The machine does not care.
    Ignore,
    /// No transition fits: says no, with a reason that names the type and the status.
    Unmatched,
    /// The machine contradicts itself, as with [`Answer::emit`] on a refusal: the event is dead.
    Faulty(Fault),
}

/// An event that a typed machine emits.
#[derive(Clone, PartialEq, Debug)]
pub struct Emission {
    /// Its type.
    pub event_type: &'static str,
    /// Its subject; the cause's when absent.
    pub subject: Option<Subject>,
    /// Its data.
    pub data: Value,
}

impl<D> Answer<D> {
    /// Says no, with a reason.
    pub fn reject(reason: impl Into<String>) -> Self {
        Answer::Reject(reason.into())
    }

    /// Also emits an event, whose subject is the cause's. Only an entity that moves emits: on any other
    /// answer this makes the event dead, since neither the answer nor the emission can be left out.
    ///
    /// JSON has no NaN, and `json!` has written null for it before anything here could see it: numbers
    /// that are computed are the machine's to check.
    pub fn emit(self, event_type: &'static str, data: Value) -> Self {
        match self {
            Answer::Change {
                status,
                data: after,
                mut emitted,
            } => {
                emitted.push(Emission {
                    event_type,
                    subject: None,
                    data,
                });
                Answer::Change {
                    status,
                    data: after,
                    emitted,
                }
            }
            faulty @ Answer::Faulty(_) => faulty,
            Answer::Reject(_) | Answer::Ignore | Answer::Unmatched => Answer::Faulty(fault(
                format!("`{event_type}` is emitted by an answer that moves nothing"),
            )),
        }
    }
}

/// Reads a JSON number that is a whole number within 64 bits, 10.0 included, as an `int` field of a YAML
/// machine does. For `#[serde(deserialize_with = "…")]`.
pub fn int<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    number
        .as_i64()
        .or_else(|| exact_int(number.as_f64()?))
        .ok_or_else(|| serde::de::Error::custom("not a whole number within 64 bits"))
}

/// A [`TypedMachine`] as a [`Processor`].
#[derive(Debug)]
pub struct Typed<M> {
    machine: M,
    definition: Definition,
    event_types: Vec<EventType>,
    initial: EntityState,
}

impl<M: TypedMachine> Typed<M> {
    /// Checks what the machine declares, once.
    pub fn new(machine: M) -> Result<Self, InvalidValue> {
        let name = MachineName::new(M::NAME)?;
        let states = M::STATES
            .iter()
            .map(|state| Status::new(state))
            .collect::<Result<Vec<Status>, InvalidValue>>()?;
        let mut event_types = M::EVENTS
            .iter()
            .map(|event_type| EventType::new(event_type))
            .collect::<Result<Vec<EventType>, InvalidValue>>()?;
        event_types.sort();
        let Some(initial) = states.first().cloned() else {
            return Err(InvalidValue::new("states", "at least one", "none"));
        };
        let data = encoded(&M::Data::default())
            .ok_or_else(|| InvalidValue::new("data", "a struct of named fields", M::NAME))?;
        check_fields(M::FIELDS, &data)?;
        Ok(Self {
            machine,
            definition: Definition {
                hash: Definition::hash_of(&name, M::VERSION, M::SOURCE),
                machine: name,
                version: M::VERSION,
                text: Arc::from(M::SOURCE),
                states,
                initial: initial.clone(),
                fields: M::FIELDS
                    .iter()
                    .map(|(name, kind)| ((*name).to_owned(), kind.as_str()))
                    .collect(),
            },
            event_types,
            initial: EntityState {
                status: initial,
                version: Version(0),
                data,
            },
        })
    }

    fn answered(
        &self,
        answer: Answer<M::Data>,
        context: &EventContext<'_>,
        before: &EntityState,
    ) -> Result<Verdict, Fault> {
        let (status, data, emitted) = match answer {
            Answer::Reject(reason) => return Ok(Verdict::Rejected(reason)),
            Answer::Ignore => return Ok(Verdict::Ignored),
            Answer::Faulty(fault) => return Err(fault),
            Answer::Unmatched => {
                let reason = unmatched_reason(&context.event.event_type, &before.status);
                return Ok(Verdict::Rejected(reason));
            }
            Answer::Change {
                status,
                data,
                emitted,
            } => (status, data, emitted),
        };
        let states = &self.definition.states;
        let status = match status {
            None => before.status.clone(),
            Some(name) => states
                .iter()
                .find(|state| state.as_str() == name)
                .cloned()
                .ok_or_else(|| fault(format!("`{name}` is no declared state")))?,
        };
        // JSON has no NaN and writes null for it, also deep inside; in an `Option` that would be read
        // back as nothing.
        if !finite::is_finite(&data) {
            return Err(fault("the data has a NaN or an infinity in it"));
        }
        let data = encoded(&data).ok_or_else(|| fault("the data has no JSON form"))?;
        // What cannot be read again would be an entity that no event can ever move.
        M::Data::deserialize(&data.0).map_err(|_| fault("the data could not be read again"))?;
        let emitted = emitted
            .into_iter()
            .map(|emission| {
                let event_type = EventType::new(emission.event_type)
                    .map_err(|error| fault(error.to_string()))?;
                Ok(Emitted {
                    event_type,
                    subject: emission.subject,
                    data: Arc::from(emission.data.to_string()),
                })
            })
            .collect::<Result<Vec<Emitted>, Fault>>()?;
        Ok(Verdict::Applied(Change {
            status,
            data,
            emitted,
        }))
    }

    /// Every detail names the machine, since there is no file and line.
    fn named(mut fault: Fault) -> Fault {
        fault.detail = format!("machine `{}`: {}", M::NAME, fault.detail);
        fault
    }
}

/// The struct as entity data; `None` for what is no struct of named fields.
fn encoded<D: Serialize>(data: &D) -> Option<StateData> {
    match serde_json::to_value(data) {
        Ok(Value::Object(fields)) => Some(StateData(fields)),
        _ => None,
    }
}

/// The declared fields are exactly those of the data, each of its type.
fn check_fields(
    declared: &[(&'static str, FieldType)],
    data: &StateData,
) -> Result<(), InvalidValue> {
    let names: Vec<&str> = declared.iter().map(|(name, _)| *name).collect();
    for (name, value) in &data.0 {
        if !names.contains(&name.as_str()) {
            return Err(InvalidValue::new("fields", "every field of the data", name));
        }
        let fits = declared
            .iter()
            .find(|(known, _)| known == name)
            .is_some_and(|(_, kind)| kind.convert(from_json(value).as_ref()).as_ref() == Ok(value));
        if !fits {
            return Err(InvalidValue::new(
                "fields",
                "the type that the data has",
                name,
            ));
        }
    }
    match names.iter().find(|name| data.get(name).is_none()) {
        Some(name) => Err(InvalidValue::new("fields", "only fields of the data", name)),
        None => Ok(()),
    }
}

impl<M: TypedMachine> Processor for Typed<M> {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn event_types(&self) -> &[EventType] {
        &self.event_types
    }

    fn initial(&self) -> EntityState {
        self.initial.clone()
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        let event = TypedEvent { context: *context };
        self.machine.key(&event).map_err(Self::named)
    }

    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        let event = TypedEvent { context: *context };
        let answer = M::Data::deserialize(&entity.data.0)
            .map_err(|_| fault("the stored data does not fit: another definition wrote it"))
            .and_then(|data| {
                let before = Entity {
                    status: entity.status.as_str(),
                    version: entity.version,
                    data,
                };
                self.machine.apply(&event, before)
            });
        answer
            .and_then(|answer| self.answered(answer, context, entity))
            .unwrap_or_else(|fault| Verdict::Dead(Self::named(fault)))
    }
}
