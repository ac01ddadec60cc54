//! The section `tests` of a definition: given events, expected outcomes, entities and emitted events.
//! Owns how cases are read and run; what runs them is the engine's own transition, so a case sees what
//! production sees.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::definition::Reader;
use super::document::{Section, below, item, list, text, within};
use super::field::yaml_value;
use super::field_type::to_json;
use super::load_error::{did_you_mean, listed};
use super::processor::{EventContext, Processor};
use crate::clock::Timestamp;
use crate::event::{Event, EventType, Subject};
use crate::limits::MACHINE_TESTS_MAX;
use crate::record::Outcome;
use crate::state::{EntityKey, EntityState, Status};
use crate::transition;
use crate::yaml::{Node, Yaml};

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

/// Reads the section `tests`.
pub(super) fn read_cases(node: &Node, reader: &mut Reader<'_>) -> Vec<Case> {
    let Some(items) = list(node, "tests", reader.problems) else {
        return Vec::new();
    };
    if !within(
        items.len(),
        MACHINE_TESTS_MAX,
        "cases",
        (node.line, "tests"),
        reader.problems,
    ) {
        return Vec::new();
    }
    items
        .iter()
        .enumerate()
        .filter_map(|(index, node)| read_case(node, &item("tests", index), reader))
        .collect()
}

fn read_case(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Case> {
    let section = Section::read(node, path, &["name", "given", "expect"], reader.problems)?;
    let name = section
        .required("name", path, "paid in full", reader.problems)
        .and_then(|node| text(node, &below(path, "name"), reader.problems));
    let given = section
        .required(
            "given",
            path,
            "[{ type: order.placed, subject: o1 }]",
            reader.problems,
        )
        .and_then(|node| read_given(node, &below(path, "given"), reader));
    let expect = section
        .required("expect", path, "{ outcomes: [applied] }", reader.problems)
        .and_then(|node| {
            const KEYS: [&str; 3] = ["outcomes", "entities", "emitted"];
            Section::read(node, &below(path, "expect"), &KEYS, reader.problems)
        })?;
    let path = below(path, "expect");
    if expect.entries().is_empty() {
        reader
            .problems
            .push(expect.line, &path, "the case expects nothing");
    }
    let (given, count) = given?;
    Some(Case {
        name: name?.to_owned(),
        line: section.line,
        outcomes: read_outcomes(expect, &path, count, reader),
        entities: read_entities(expect, &path, reader),
        emitted: read_emitted(expect, &path, reader),
        given,
    })
}

/// The events that can be read, and how many there are to be.
fn read_given(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<(Vec<Event>, usize)> {
    let items = list(node, path, reader.problems)?;
    if !within(
        items.len(),
        MACHINE_TESTS_MAX,
        "given events",
        (node.line, path),
        reader.problems,
    ) {
        return None;
    }
    let mut events = Vec::with_capacity(items.len());
    for (index, node) in items.iter().enumerate() {
        let path = item(path, index);
        Section::open(node, &path, reader.problems)?;
        match read_event(node, index) {
            Ok(event) => events.push(event),
            Err(message) => reader.problems.push(node.line, &path, message),
        }
    }
    Some((events, items.len()))
}

/// An event as the bus would hand it over; what a case leaves out is filled in.
fn read_event(node: &Node, index: usize) -> Result<Event, String> {
    let Value::Object(given) = to_json(yaml_value(node).as_ref()).map_err(|misfit| misfit.0)?
    else {
        return Err("expected a mapping".to_owned());
    };
    let mut envelope = Map::from_iter([
        ("specversion".to_owned(), Value::from("1.0")),
        ("id".to_owned(), Value::from(format!("given-{index}"))),
        ("source".to_owned(), Value::from("/tests")),
        ("tenantid".to_owned(), Value::from("tests")),
    ]);
    envelope.extend(given);
    let json = Bytes::from(Value::Object(envelope).to_string());
    Event::read_json(&json).map_err(|unreadable| unreadable.to_string())
}

fn read_outcomes(
    expect: Section<'_>,
    path: &str,
    given: usize,
    reader: &mut Reader<'_>,
) -> Option<Vec<&'static str>> {
    let known = [
        Outcome::Applied.as_str(),
        Outcome::Rejected.as_str(),
        Outcome::Ignored.as_str(),
        Outcome::Dead.as_str(),
        UNHANDLED,
    ];
    let node = expect.get("outcomes")?;
    let path = below(path, "outcomes");
    let items = list(node, &path, reader.problems)?;
    if items.len() != given {
        let message = format!("{} outcomes for {given} given events", items.len());
        reader.problems.push(node.line, &path, message);
    }
    let mut outcomes = Vec::with_capacity(items.len());
    for (index, node) in items.iter().enumerate() {
        let path = item(&path, index);
        let Some(name) = text(node, &path, reader.problems) else {
            continue;
        };
        match known.into_iter().find(|outcome| *outcome == name) {
            Some(outcome) => outcomes.push(outcome),
            None => {
                let suggestion = did_you_mean(name, known)
                    .or_else(|| Some(format!("the outcomes are {}", listed(known))));
                let message = format!("there is no outcome `{name}`");
                reader
                    .problems
                    .push_with(node.line, &path, message, suggestion);
            }
        }
    }
    Some(outcomes)
}

fn read_entities(
    expect: Section<'_>,
    path: &str,
    reader: &mut Reader<'_>,
) -> Vec<(EntityKey, ExpectedEntity)> {
    let path = below(path, "entities");
    let Some(section) = expect
        .get("entities")
        .and_then(|node| Section::open(node, &path, reader.problems))
    else {
        return Vec::new();
    };
    let mut entities = Vec::with_capacity(section.entries().len());
    for (key, node) in section.entries() {
        let path = below(&path, &key.text);
        match EntityKey::new(&key.text) {
            Ok(entity) => {
                let expected = match node.value {
                    Yaml::Null => Some(ExpectedEntity::None),
                    _ => read_entity(node, &path, reader),
                };
                entities.extend(expected.map(|expected| (entity, expected)));
            }
            Err(error) => {
                let message = format!("expected {}, found {}", error.expected, error.found);
                reader.problems.push(key.line, &path, message);
            }
        }
    }
    entities
}

fn read_entity(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<ExpectedEntity> {
    let section = Section::read(node, path, &["status", "version", "data"], reader.problems)?;
    let status = section
        .get("status")
        .and_then(|node| reader.status(node, &below(path, "status")));
    let version = section.get("version").and_then(|node| match node.value {
        Yaml::Int(version) => u64::try_from(version).ok(),
        _ => {
            let message = format!("expected an integer, found {}", node.value.kind());
            reader
                .problems
                .push(node.line, &below(path, "version"), message);
            None
        }
    });
    let path = below(path, "data");
    let mut data = Map::new();
    let fields = section
        .get("data")
        .and_then(|node| Section::open(node, &path, reader.problems));
    for (key, node) in fields.iter().flat_map(Section::entries) {
        let path = below(&path, &key.text);
        let names = reader.fields.iter().map(|field| field.name.as_str());
        match reader.fields.iter().find(|field| field.name == key.text) {
            // The same table as for `set`, so that 10 and 10.0 compare as the field keeps them.
            Some(field) => match field.kind.convert(yaml_value(node).as_ref()) {
                Ok(value) => {
                    data.insert(key.text.clone(), value);
                }
                Err(misfit) if reader.sound => reader.problems.push(node.line, &path, misfit.0),
                Err(_) => {}
            },
            None => {
                let suggestion = did_you_mean(&key.text, names);
                let message = format!("there is no field `{}`", key.text);
                reader
                    .problems
                    .push_with(key.line, &path, message, suggestion);
            }
        }
    }
    Some(ExpectedEntity::Some {
        status,
        version,
        data,
    })
}

fn read_emitted(
    expect: Section<'_>,
    path: &str,
    reader: &mut Reader<'_>,
) -> Option<Vec<ExpectedEvent>> {
    let node = expect.get("emitted")?;
    let path = below(path, "emitted");
    let Yaml::List(items) = &node.value else {
        let message = format!("expected a list, found {}", node.value.kind());
        reader.problems.push(node.line, &path, message);
        return None;
    };
    let mut emitted = Vec::with_capacity(items.len());
    for (index, node) in items.iter().enumerate() {
        let path = item(&path, index);
        let section = Section::read(node, &path, &["type", "subject", "data"], reader.problems)?;
        let name = section
            .required("type", &path, "order.ready", reader.problems)
            .and_then(|node| text(node, &below(&path, "type"), reader.problems))?;
        let subject = section
            .get("subject")
            .and_then(|node| text(node, &below(&path, "subject"), reader.problems));
        let data = section
            .get("data")
            .and_then(|node| to_json(yaml_value(node).as_ref()).ok());
        emitted.push(ExpectedEvent {
            event_type: EventType::new(name).ok()?,
            subject: subject.map(str::to_owned),
            data,
        });
    }
    Some(emitted)
}
