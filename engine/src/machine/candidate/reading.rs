//! Reads the section `events` of a definition.

use cel::common::value::Val;

use super::{Candidate, Effect, Emit, Handler, string, subject};
use crate::event::EventType;
use crate::limits::{MACHINE_CANDIDATES_MAX, MACHINE_EMITS_MAX, MACHINE_NAMES_MAX};
use crate::machine::definition::Reader;
use crate::machine::document::{Section, below, item, list, text, within};
use crate::machine::expression::{Expression, truth};
use crate::machine::field_type::{Misfit, to_json};
use crate::machine::load_error::{did_you_mean, listed};
use crate::machine::payload::PayloadPlan;
use crate::machine::variables::Place;
use crate::state::Status;
use crate::yaml::Node;

/// Reads the section `events`.
pub(in crate::machine) fn read_handlers(
    node: &Node,
    reader: &mut Reader<'_>,
) -> Option<Vec<Handler>> {
    let section = Section::open(node, "events", reader.problems)?;
    let entries = section.entries();
    let at = (section.line, "events");
    if entries.is_empty() {
        reader
            .problems
            .push(at.0, at.1, "a machine listens to at least one event type");
    }
    if !within(
        entries.len(),
        MACHINE_NAMES_MAX,
        "event types",
        at,
        reader.problems,
    ) {
        return None;
    }
    let mut handlers = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let path = below("events", &key.text);
        let event_type = read_event_type(&key.text, key.line, &path, reader);
        let Some(items) = list(node, &path, reader.problems) else {
            continue;
        };
        if !within(
            items.len(),
            MACHINE_CANDIDATES_MAX,
            "candidates",
            (node.line, &path),
            reader.problems,
        ) {
            continue;
        }
        let mut plan = PayloadPlan::default();
        let candidates: Vec<Candidate> = items
            .iter()
            .enumerate()
            .filter_map(|(index, node)| {
                read_candidate(node, &item(&path, index), &mut plan, reader)
            })
            .collect();
        note_shadowed(&candidates, &path, reader);
        handlers.extend(event_type.map(|event_type| Handler {
            event_type,
            plan,
            candidates,
        }));
    }
    handlers.sort_by(|left, right| left.event_type.cmp(&right.event_type));
    Some(handlers)
}

fn read_event_type(
    name: &str,
    line: u32,
    path: &str,
    reader: &mut Reader<'_>,
) -> Option<EventType> {
    EventType::new(name)
        .map_err(|error| {
            let message = format!("expected {}, found {}", error.expected, error.found);
            reader.problems.push(line, path, message);
        })
        .ok()
}

/// A candidate whose statuses are all taken by unconditional ones before it is never tried.
fn note_shadowed(candidates: &[Candidate], path: &str, reader: &mut Reader<'_>) {
    for (index, candidate) in candidates.iter().enumerate() {
        let taker = |status: &Status| {
            candidates
                .iter()
                .take(index)
                .find(|earlier| earlier.when.is_none() && earlier.from.contains(status))
        };
        let takers: Vec<&Candidate> = candidate.from.iter().filter_map(taker).collect();
        if let Some(first) = takers.first()
            && takers.len() == candidate.from.len()
        {
            let message = format!(
                "it is never tried: the candidate on line {} has no `when` and takes every such event",
                first.line
            );
            let hint = "put the candidate with the condition first".to_owned();
            reader
                .problems
                .push_with(candidate.line, &item(path, index), message, Some(hint));
        }
    }
}

fn read_candidate(
    node: &Node,
    path: &str,
    plan: &mut PayloadPlan,
    reader: &mut Reader<'_>,
) -> Option<Candidate> {
    const KEYS: [&str; 6] = ["from", "when", "to", "set", "emit", "reject"];
    let section = Section::read(node, path, &KEYS, reader.problems)?;
    let from = read_from(section, path, reader);
    let when = section.get("when").map(|node| {
        let path = below(path, "when");
        let expression = reader.expression(node, &path, Place::Candidate, plan)?;
        check_constant(&expression, &path, reader, |value| truth(value).map(drop));
        Some(expression)
    });
    let effect = match section.get("reject") {
        Some(node) => read_reject(section, node, path, plan, reader),
        None => read_change(section, path, plan, reader),
    };
    Some(Candidate {
        line: section.line,
        from: from?,
        when: match when {
            None => None,
            Some(expression) => Some(expression?),
        },
        effect: effect?,
    })
}

fn read_from(section: Section<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Vec<Status>> {
    let node = section.required("from", path, "[new]", reader.problems)?;
    let path = below(path, "from");
    let items = list(node, &path, reader.problems)?;
    let mut from: Vec<Status> = Vec::with_capacity(items.len());
    for (index, node) in items.iter().enumerate() {
        let path = item(&path, index);
        let status = reader.status(node, &path)?;
        if from.contains(&status) {
            let message = format!("the state `{status}` stands twice");
            reader.problems.push(node.line, &path, message);
        }
        from.push(status);
    }
    Some(from)
}

fn read_reject(
    section: Section<'_>,
    node: &Node,
    path: &str,
    plan: &mut PayloadPlan,
    reader: &mut Reader<'_>,
) -> Option<Effect> {
    for key in ["to", "set", "emit"] {
        if let Some(other) = section.get(key) {
            let message =
                format!("a candidate that rejects changes nothing, so `{key}` cannot stand here");
            reader.problems.push(other.line, &below(path, key), message);
        }
    }
    let path = below(path, "reject");
    let expression = reader.expression(node, &path, Place::Candidate, plan)?;
    check_constant(&expression, &path, reader, |value| string(value).map(drop));
    Some(Effect::Reject(expression))
}

fn read_change(
    section: Section<'_>,
    path: &str,
    plan: &mut PayloadPlan,
    reader: &mut Reader<'_>,
) -> Option<Effect> {
    let to = section
        .get("to")
        .map(|node| reader.status(node, &below(path, "to")));
    let set = section
        .get("set")
        .map(|node| read_set(node, &below(path, "set"), plan, reader));
    let emit = section
        .get("emit")
        .map(|node| read_emits(node, &below(path, "emit"), plan, reader));
    if to.is_none() && set.is_none() && emit.is_none() {
        let hint = "say what it does: `to`, `set`, `emit` or `reject`".to_owned();
        reader
            .problems
            .push_with(section.line, path, "the candidate does nothing", Some(hint));
    }
    Some(Effect::Change {
        to: match to {
            None => None,
            Some(status) => Some(status?),
        },
        set: set.unwrap_or_else(|| Some(Vec::new()))?,
        emit: emit.unwrap_or_else(|| Some(Vec::new()))?,
    })
}

fn read_set(
    node: &Node,
    path: &str,
    plan: &mut PayloadPlan,
    reader: &mut Reader<'_>,
) -> Option<Vec<(usize, Expression)>> {
    let section = Section::open(node, path, reader.problems)?;
    let mut set = Vec::with_capacity(section.entries().len());
    let mut complete = true;
    for (key, node) in section.entries() {
        let path = below(path, &key.text);
        let fields = reader.fields;
        let expression = reader.expression(node, &path, Place::Candidate, plan);
        let place = fields.iter().position(|field| field.name == key.text);
        match (place, expression) {
            (Some(place), Some(expression)) => {
                if let Some(field) = fields.get(place) {
                    check_constant(&expression, &path, reader, |value| {
                        field.kind.convert(value).map(drop)
                    });
                }
                set.push((place, expression));
            }
            (Some(_), None) => complete = false,
            (None, _) => {
                let names = fields.iter().map(|field| field.name.as_str());
                let suggestion = did_you_mean(&key.text, names.clone())
                    .or_else(|| Some(format!("`data` declares {}", listed(names))));
                let message = format!("there is no field `{}`", key.text);
                reader
                    .problems
                    .push_with(key.line, &path, message, suggestion);
                complete = false;
            }
        }
    }
    complete.then_some(set)
}

fn read_emits(
    node: &Node,
    path: &str,
    plan: &mut PayloadPlan,
    reader: &mut Reader<'_>,
) -> Option<Vec<Emit>> {
    let items = list(node, path, reader.problems)?;
    if !within(
        items.len(),
        MACHINE_EMITS_MAX,
        "emitted events",
        (node.line, path),
        reader.problems,
    ) {
        return None;
    }
    let emits: Vec<Option<Emit>> = items
        .iter()
        .enumerate()
        .map(|(index, node)| read_emit(node, &item(path, index), plan, reader))
        .collect();
    emits.into_iter().collect()
}

fn read_emit(
    node: &Node,
    path: &str,
    plan: &mut PayloadPlan,
    reader: &mut Reader<'_>,
) -> Option<Emit> {
    let section = Section::read(node, path, &["type", "subject", "data"], reader.problems)?;
    let event_type = section
        .required("type", path, "order.ready", reader.problems)
        .and_then(|node| {
            let path = below(path, "type");
            let name = text(node, &path, reader.problems)?;
            read_event_type(name, node.line, &path, reader)
        });
    let subject = section.get("subject").map(|node| {
        let path = below(path, "subject");
        let expression = reader.expression(node, &path, Place::Emit, plan)?;
        check_constant(&expression, &path, reader, |value| subject(value).map(drop));
        Some(expression)
    });
    let data = section
        .get("data")
        .map(|node| read_emit_data(node, &below(path, "data"), plan, reader));
    Some(Emit {
        event_type: event_type?,
        subject: match subject {
            None => None,
            Some(expression) => Some(expression?),
        },
        data: data.unwrap_or_else(|| Some(Vec::new()))?,
    })
}

fn read_emit_data(
    node: &Node,
    path: &str,
    plan: &mut PayloadPlan,
    reader: &mut Reader<'_>,
) -> Option<Vec<(String, Expression)>> {
    let section = Section::open(node, path, reader.problems)?;
    let mut data = Vec::with_capacity(section.entries().len());
    let mut complete = true;
    for (key, node) in section.entries() {
        let path = below(path, &key.text);
        match reader.expression(node, &path, Place::Emit, plan) {
            Some(expression) => {
                check_constant(&expression, &path, reader, |value| to_json(value).map(drop));
                data.push((key.text.clone(), expression));
            }
            None => complete = false,
        }
    }
    complete.then_some(data)
}

/// An expression that names nothing has one value for ever; when that does not fit, no event is needed
/// to know.
fn check_constant(
    expression: &Expression,
    path: &str,
    reader: &mut Reader<'_>,
    fits: impl FnOnce(&dyn Val) -> Result<(), Misfit>,
) {
    if !expression.is_constant() || !reader.sound {
        return;
    }
    if let Err(fault) = expression.evaluate_constant(fits) {
        reader.problems.push(expression.line(), path, fault.0);
    }
}
