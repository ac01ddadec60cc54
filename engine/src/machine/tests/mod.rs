//! Tests of machines: a table for each sentence of DESIGN.md 3 "Machines, exactly".

mod absence;
mod bounds;
mod cases;
mod determinism;
mod emitted;
mod load;
mod numbers;
mod order;
mod semantics;
mod typed;
mod upgrades;

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{CompiledMachine, EventContext, LoadError, MachineDefinition, Processor, Verdict};
use crate::clock::Timestamp;
use crate::event::Event;
use crate::state::{EntityState, StateData, Status};

/// 2026-11-22T06:17:00Z, the admission time of every event here.
pub(super) const ADMITTED: Timestamp = Timestamp(1_795_328_220_000_000);

/// A machine that must load.
pub(super) fn loaded(text: &str) -> Arc<CompiledMachine> {
    MachineDefinition::load("m.yaml", text)
        .unwrap_or_else(|errors| panic!("{}\n{text}", shown(&errors)))
}

/// What is wrong with a machine that must not load.
pub(super) fn refused(text: &str) -> Vec<LoadError> {
    match MachineDefinition::load("m.yaml", text) {
        Ok(_) => panic!("loaded:\n{text}"),
        Err(errors) => errors,
    }
}

/// Errors, one a line.
pub(super) fn shown(errors: &[LoadError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// A machine with fields, whose one candidate on `go` is given.
pub(super) fn machine_text(fields: &[(&str, &str, &str)], candidate: &str) -> String {
    let mut text = String::from(
        "apiVersion: tidegate/v1\nkind: Machine\nmachine: m\nversion: 1\nkey: event.subject\ninitial: a\nstates: [a]\n",
    );
    if !fields.is_empty() {
        text.push_str("data:\n");
        for (name, kind, initial) in fields {
            text.push_str(&format!(
                "  {name}: {{ type: {kind}, initial: {initial} }}\n"
            ));
        }
    }
    text.push_str("events:\n  go:\n    - from: [a]\n");
    for line in candidate.lines() {
        text.push_str(&format!("      {line}\n"));
    }
    text
}

/// A value as a block scalar, so that no quoting of YAML's is in the way.
pub(super) fn block(key: &str, expression: &str) -> String {
    format!("{key}: |\n  {expression}")
}

/// The event `go` with this payload.
pub(super) fn go(data: Value) -> Event {
    event(json!({ "type": "go", "data": data }))
}

/// An event, completed with what every envelope needs.
pub(super) fn event(given: Value) -> Event {
    let mut envelope = json!({
        "specversion": "1.0", "id": "e1", "source": "/s", "type": "go", "subject": "k", "tenantid": "acme",
    });
    for (name, value) in given.as_object().expect("an object") {
        envelope[name] = value.clone();
        if value == "(absent)" {
            envelope.as_object_mut().expect("an object").remove(name);
        }
    }
    read(&envelope.to_string())
}

/// An event from its JSON text, which may hold numbers that no `Value` does.
pub(super) fn read(json: &str) -> Event {
    Event::read_json(&Bytes::from(json.to_owned()))
        .unwrap_or_else(|error| panic!("{error}: {json}"))
}

/// What the machine makes of an event and an entity in its initial state.
pub(super) fn first(machine: &CompiledMachine, event: &Event) -> Verdict {
    machine.apply(&at(event), &machine.initial())
}

/// The event as a machine sees it.
pub(super) fn at(event: &Event) -> EventContext<'_> {
    EventContext {
        event,
        admitted_at: ADMITTED,
    }
}

/// An entity in a state.
pub(super) fn entity(status: &str, version: u64, data: Value) -> EntityState {
    let Value::Object(data) = data else {
        panic!("data is an object")
    };
    EntityState {
        status: Status::new(status).expect("a status"),
        version: crate::position::Version(version),
        data: StateData(data),
    }
}

/// The data after, or why there is none.
pub(super) fn data_after(verdict: Verdict) -> Result<Value, String> {
    match verdict {
        Verdict::Applied(change) => Ok(Value::Object(change.data.0)),
        Verdict::Dead(fault) => Err(format!("{}: {}", fault.reason.as_str(), fault.detail)),
        other => Err(format!("{other:?}")),
    }
}

/// Sets the field `x` of a type to an expression on `go` with this payload text.
pub(super) fn set_x(
    kind: &str,
    initial: &str,
    expression: &str,
    data: &str,
) -> Result<Value, String> {
    let candidate = format!("set:\n  x: |\n    {expression}");
    let machine = loaded(&machine_text(&[("x", kind, initial)], &candidate));
    let event = read(&format!(
        r#"{{"specversion":"1.0","id":"e1","source":"/s","type":"go","subject":"k","tenantid":"acme","data":{data}}}"#
    ));
    data_after(first(&machine, &event)).map(|data| data["x"].clone())
}

/// The value of an expression as JSON, through a list that takes any value.
pub(super) fn value_of(expression: &str, data: &str) -> Result<Value, String> {
    set_x("list", "[]", &format!("[{expression}]"), data).map(|list| list[0].clone())
}
