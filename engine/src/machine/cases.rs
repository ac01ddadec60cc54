//! The section `tests` of a definition: given events, expected outcomes, entities and emitted events.
//! Owns how cases are read and run; what runs them is the engine's own transition, so a case sees what
//! production sees.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::document::{below, item};
use super::processor::{EventContext, Processor};
use crate::clock::Timestamp;
use crate::event::{Event, EventType, Subject};
use crate::record::Outcome;
use crate::state::{EntityKey, EntityState, Status};
use crate::transition;

mod reading;

pub(super) use reading::read_cases;

/// What becomes of an event that the machine does not listen to.
const UNHANDLED: &str = "unhandled";

/// The admission time of a case's first event, 2026-01-01T00:00:00Z; each later one is a second later.
/// Fixed, since a case that passes today passes for ever.
const FIRST_ADMITTED: Timestamp = Timestamp(1_767_225_600_000_000);

/// A case of a definition's section `tests`.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The line it begins on.
    pub line: u32,
    given: Vec<Event>,
    outcomes: Option<Vec<&'static str>>,
    entities: Vec<(EntityKey, ExpectedEntity)>,
    emitted: Option<Vec<ExpectedEvent>>,
}

/// What an entity is expected to be.
#[derive(Clone, PartialEq, Debug)]
enum ExpectedEntity {
    /// No event created it.
    None,
    /// Every named part is equal; what is not named is not looked at.
    Some {
        status: Option<Status>,
        version: Option<u64>,
        data: Map<String, Value>,
    },
}

#[derive(Clone, PartialEq, Debug)]
struct ExpectedEvent {
    event_type: EventType,
    subject: Option<String>,
    data: Option<Value>,
}

/// What became of a case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// The line it begins on.
    pub line: u32,
    /// What is not as expected, in order; empty when the case holds.
    pub differences: Vec<Difference>,
}

/// One thing that is not as expected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What it is: `outcomes[1]`, `entities.o1.data.paid_cents`.
    pub path: String,
    /// What the case expects.
    pub expected: String,
    /// What the machine did, with its reason where it gave one.
    pub found: String,
}

impl CaseResult {
    /// True when everything is as expected.
    pub fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: expected {}, found {}",
            self.path, self.expected, self.found
        )
    }
}

impl Case {
    /// The events that it gives, in order.
    pub fn given(&self) -> &[Event] {
        &self.given
    }

    /// Runs the case on a machine: usually the one whose definition it stands in, but any with the same
    /// events will do. Emitted events are compared, not fed back.
    pub fn run(&self, machine: &dyn Processor) -> CaseResult {
        let mut run = Run::default();
        for (index, event) in self.given.iter().enumerate() {
            let seconds = i64::try_from(index).unwrap_or(i64::MAX / 2_000_000);
            let context = EventContext {
                event,
                admitted_at: Timestamp(FIRST_ADMITTED.0 + seconds * 1_000_000),
            };
            run.offer(machine, &context);
        }
        CaseResult {
            name: self.name.clone(),
            line: self.line,
            differences: self.differences(&run),
        }
    }

    fn differences(&self, run: &Run) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut note = |path: String, expected: String, found: String| {
            if expected != found {
                differences.push(Difference {
                    path,
                    expected,
                    found,
                });
            }
        };
        for (index, expected) in self.outcomes.iter().flatten().enumerate() {
            if let Some((outcome, reason)) = run.outcomes.get(index)
                && outcome != expected
            {
                let found = match reason {
                    Some(reason) => format!("{outcome} ({reason})"),
                    None => (*outcome).to_owned(),
                };
                note(item("outcomes", index), (*expected).to_owned(), found);
            }
        }
        for (key, expected) in &self.entities {
            compare_entity(key, expected, run.entities.get(key), &mut note);
        }
        if let Some(expected) = &self.emitted {
            compare_emitted(expected, &run.emitted, &mut note);
        }
        differences
    }
}

/// What happened while a case ran.
#[derive(Default)]
struct Run {
    outcomes: Vec<(&'static str, Option<String>)>,
    entities: BTreeMap<EntityKey, EntityState>,
    emitted: Vec<Found>,
}

struct Found {
    event_type: EventType,
    subject: Option<Subject>,
    data: Value,
}

impl Run {
    fn offer(&mut self, machine: &dyn Processor, context: &EventContext<'_>) {
        if !machine.event_types().contains(&context.event.event_type) {
            self.outcomes.push((UNHANDLED, None));
            return;
        }
        let key = match transition::key_of(machine, context) {
            Ok(key) => key,
            Err(fault) => {
                let reason = format!("{}: {}", fault.reason.as_str(), fault.detail);
                self.outcomes.push((Outcome::Dead.as_str(), Some(reason)));
                return;
            }
        };
        let before = self.entities.get(&key).cloned();
        let before = before.unwrap_or_else(|| machine.initial());
        let transition = transition::apply(machine, context, &key, &before);
        let effect = transition.effect;
        self.outcomes.push((effect.outcome.as_str(), effect.reason));
        if let Some(moved) = transition.moved {
            self.entities.insert(key, moved.state);
            self.emitted
                .extend(moved.emitted.into_iter().map(|emitted| Found {
                    event_type: emitted.event_type,
                    subject: emitted.subject.or_else(|| context.event.subject.clone()),
                    data: serde_json::from_str(&emitted.data).unwrap_or(Value::Null),
                }));
        }
    }
}

fn compare_entity(
    key: &EntityKey,
    expected: &ExpectedEntity,
    found: Option<&EntityState>,
    note: &mut impl FnMut(String, String, String),
) {
    let path = below("entities", key.as_str());
    match (expected, found) {
        (ExpectedEntity::None, None) => {}
        (ExpectedEntity::None, Some(found)) => note(
            path,
            "no entity".to_owned(),
            format!("one in status {}", found.status),
        ),
        (ExpectedEntity::Some { .. }, None) => {
            note(path, "an entity".to_owned(), "none".to_owned());
        }
        (
            ExpectedEntity::Some {
                status,
                version,
                data,
            },
            Some(found),
        ) => {
            if let Some(status) = status {
                let path = below(&path, "status");
                note(path, status.to_string(), found.status.to_string());
            }
            if let Some(version) = version {
                let path = below(&path, "version");
                note(path, version.to_string(), found.version.0.to_string());
            }
            for (name, value) in data {
                let shown = found
                    .data
                    .get(name)
                    .map_or("nothing".to_owned(), Value::to_string);
                note(below(&below(&path, "data"), name), value.to_string(), shown);
            }
        }
    }
}

fn compare_emitted(
    expected: &[ExpectedEvent],
    found: &[Found],
    note: &mut impl FnMut(String, String, String),
) {
    for index in 0..expected.len().max(found.len()) {
        let path = item("emitted", index);
        match (expected.get(index), found.get(index)) {
            (Some(expected), Some(found)) => {
                let kind = |event_type: &EventType| event_type.to_string();
                note(
                    below(&path, "type"),
                    kind(&expected.event_type),
                    kind(&found.event_type),
                );
                if let Some(subject) = &expected.subject {
                    let found = found.subject.as_ref().map_or("none", Subject::as_str);
                    note(below(&path, "subject"), subject.clone(), found.to_owned());
                }
                if let Some(data) = &expected.data {
                    note(
                        below(&path, "data"),
                        data.to_string(),
                        found.data.to_string(),
                    );
                }
            }
            (Some(expected), None) => {
                note(path, expected.event_type.to_string(), "nothing".to_owned());
            }
            (None, Some(found)) => note(path, "nothing".to_owned(), found.event_type.to_string()),
            (None, None) => {}
        }
    }
}
