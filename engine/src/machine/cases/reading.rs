//! Reads the section `tests` of a definition.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{Case, ExpectedEntity, ExpectedEvent, UNHANDLED};
use crate::event::{Event, EventType};
use crate::limits::MACHINE_TESTS_MAX;
use crate::machine::definition::Reader;
use crate::machine::document::{Section, below, item, list, text, within};
use crate::machine::field::yaml_value;
use crate::machine::field_type::to_json;
use crate::machine::load_error::{did_you_mean, listed};
use crate::record::Outcome;
use crate::state::EntityKey;
use crate::yaml::{Node, Yaml};

/// Reads the section `tests`.
pub(in crate::machine) fn read_cases(node: &Node, reader: &mut Reader<'_>) -> Vec<Case> {
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
