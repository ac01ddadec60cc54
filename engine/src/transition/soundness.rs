//! What a machine may hand back, checked for every [`Processor`](crate::machine::Processor) alike. What a
//! definition in YAML cannot make, a Rust one can: a NaN that JSON turns into null, text that a database
//! refuses, an event nobody can read. Let through, it would be an entity that no later event can move, or
//! a batch that no store takes.

use serde::de::IgnoredAny;
use serde_json::Value;

use crate::json_text;
use crate::limits::{ENTITY_DATA_BYTES_MAX, JSON_DEPTH_MAX, MACHINE_EMITS_MAX};
use crate::machine::{Change, DeadReason, Definition, Emitted, Fault, FieldType};

/// Refuses a change that could not be stored, read again, or offered. `text` is its canonical data.
pub(super) fn check(definition: &Definition, change: &Change, text: &str) -> Result<(), Fault> {
    let machine = &definition.machine;
    for (name, kind) in &definition.fields {
        let holds = change
            .data
            .get(name)
            .is_some_and(|value| FieldType::from_name(kind).is_none_or(|kind| kind.holds(value)));
        if !holds {
            let detail = format!("machine `{machine}`: the field `{name}` would hold no {kind}");
            return Err(unsound(detail));
        }
    }
    for (name, value) in &change.data.0 {
        if !readable(value, 0) {
            let detail = format!(
                "machine `{machine}`: the field `{name}` would nest deeper than {JSON_DEPTH_MAX} levels"
            );
            return Err(unsound(detail));
        }
    }
    if has_nul(text) {
        let detail = format!("machine `{machine}`: the data would hold U+0000");
        return Err(unsound(detail));
    }
    if change.emitted.len() > MACHINE_EMITS_MAX {
        let detail = format!("machine `{machine}`: more than {MACHINE_EMITS_MAX} emitted events");
        return Err(too_large(detail));
    }
    change
        .emitted
        .iter()
        .try_for_each(|emitted| check_emitted(definition, emitted))
}

fn check_emitted(definition: &Definition, emitted: &Emitted) -> Result<(), Fault> {
    let (machine, event_type) = (&definition.machine, &emitted.event_type);
    if emitted.data.len() > ENTITY_DATA_BYTES_MAX {
        return Err(too_large(format!(
            "machine `{machine}`: the data of an emitted `{event_type}` would be larger than \
             {ENTITY_DATA_BYTES_MAX} bytes"
        )));
    }
    // As the bus reads it: inside an envelope.
    let sound = serde_json::from_str::<IgnoredAny>(&emitted.data).is_ok()
        && json_text::check(&emitted.data, 1).is_ok();
    if sound {
        Ok(())
    } else {
        Err(unsound(format!(
            "machine `{machine}`: the data of an emitted `{event_type}` could not be read as an event's"
        )))
    }
}

/// True while nothing nests deeper than readers go.
fn readable(value: &Value, depth: usize) -> bool {
    match value {
        Value::Array(items) => {
            depth < JSON_DEPTH_MAX && items.iter().all(|item| readable(item, depth + 1))
        }
        Value::Object(object) => {
            depth < JSON_DEPTH_MAX && object.values().all(|item| readable(item, depth + 1))
        }
        _ => true,
    }
}

/// True when a text of canonical JSON holds U+0000, which it can only write as an escape.
fn has_nul(text: &str) -> bool {
    text.match_indices("\\u0000").any(|(at, _)| {
        let before = text.as_bytes().get(..at).unwrap_or_default();
        let backslashes = before
            .iter()
            .rev()
            .take_while(|byte| **byte == b'\\')
            .count();
        // An even number of them are backslashes themselves.
        backslashes % 2 == 0
    })
}

fn unsound(detail: String) -> Fault {
    Fault {
        reason: DeadReason::Expression,
        detail,
    }
}

fn too_large(detail: String) -> Fault {
    Fault {
        reason: DeadReason::Size,
        detail,
    }
}
