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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use crate::clock::Timestamp;
    use crate::dead_letter::{DeadLetter, DeadLetterSource};
    use crate::event::{Event, EventType};
    use crate::hash::Hash128;
    use crate::limits::REASON_CHARS_MAX;
    use crate::machine::{
        Change, DeadReason, Definition, Emitted, EventContext, Fault, Processor, Verdict,
    };
    use crate::position::{
        RecordPosition, Sequence, SourceName, SourcePartition, StreamName, Version,
    };
    use crate::record::Outcome;
    use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};
    use crate::tenant::TenantId;
    use crate::transition::{self, Transition};

    /// A machine that answers what it is told to, whatever the event.
    struct Answers {
        definition: Definition,
        verdict: Verdict,
    }

    impl Processor for Answers {
        fn definition(&self) -> &Definition {
            &self.definition
        }
        fn event_types(&self) -> &[EventType] {
            &[]
        }
        fn initial(&self) -> EntityState {
            EntityState {
                status: self.definition.initial.clone(),
                version: Version(0),
                data: StateData::default(),
            }
        }
        fn key(&self, _: &EventContext<'_>) -> Result<EntityKey, Fault> {
            Ok(EntityKey::new("k").unwrap())
        }
        fn apply(&self, _: &EventContext<'_>, _: &EntityState) -> Verdict {
            self.verdict.clone()
        }
    }

    fn answered(verdict: Verdict) -> Transition {
        let machine = MachineName::new("m").unwrap();
        let answers = Answers {
            definition: Definition {
                hash: Definition::hash_of(&machine, 1, ""),
                machine,
                version: 1,
                text: Arc::from(""),
                states: vec![Status::new("a").unwrap()],
                initial: Status::new("a").unwrap(),
                fields: [
                    ("int", "int"),
                    ("double", "double"),
                    ("decimal", "decimal"),
                    ("string", "string"),
                    ("bool", "bool"),
                    ("timestamp", "timestamp"),
                    ("list", "list"),
                    ("map", "map"),
                ]
                .map(|(name, kind)| (name.to_owned(), kind))
                .to_vec(),
            },
            verdict,
        };
        let event = Event::read_json(&bytes::Bytes::from_static(
            br#"{"specversion":"1.0","id":"1","source":"/s","type":"go","tenantid":"acme"}"#,
        ))
        .unwrap();
        let context = EventContext {
            event: &event,
            admitted_at: Timestamp(1),
        };
        let key = EntityKey::new("k").unwrap();
        transition::apply(&answers, &context, &key, &answers.initial())
    }

    fn sound() -> Value {
        json!({
            "int": 1, "double": 1.5, "decimal": "1.5", "string": "\\u0000 is no NUL", "bool": true,
            "timestamp": "2026-01-01T00:00:00Z", "list": [null], "map": {"a": {}},
        })
    }

    fn change(data: Value, emitted: Vec<Emitted>) -> Verdict {
        let Value::Object(data) = data else {
            panic!("data is an object")
        };
        Verdict::Applied(Change {
            status: Status::new("a").unwrap(),
            data: StateData(data),
            emitted,
        })
    }

    fn emitted(data: &str) -> Emitted {
        Emitted {
            event_type: EventType::new("out").unwrap(),
            subject: None,
            data: Arc::from(data),
        }
    }

    fn nested(levels: usize) -> String {
        format!("{}{}", "[".repeat(levels), "]".repeat(levels))
    }

    #[test]
    fn what_no_store_or_reader_could_take_is_dead_whoever_made_it() {
        let sixteen = vec![emitted("{}"); 16];
        let sound_one = answered(change(sound(), sixteen));
        assert_eq!(sound_one.effect.outcome, Outcome::Applied, "{sound_one:?}");
        assert_eq!(sound_one.moved.unwrap().emitted.len(), 16);

        let deep: Value = serde_json::from_str(&nested(33)).unwrap();
        let large = format!("\"{}\"", "x".repeat(64 * 1024));
        let with = |field: &str, value: Value| {
            let mut data = sound();
            data[field] = value;
            change(data, Vec::new())
        };
        let mut without = sound();
        without.as_object_mut().unwrap().remove("bool");
        let emits = |data: &str| change(sound(), vec![emitted(data)]);
        let (expression, size) = (DeadReason::Expression, DeadReason::Size);
        let cases = [
            // What `serde_json` makes of NaN.
            (with("double", json!(f64::NAN)), expression, "`double`"),
            (with("int", json!(1.5)), expression, "`int`"),
            (with("int", json!(u64::MAX)), expression, "`int`"),
            (with("decimal", json!("1e5")), expression, "`decimal`"),
            (with("string", json!(null)), expression, "`string`"),
            (with("bool", json!(0)), expression, "`bool`"),
            (with("timestamp", json!("soon")), expression, "`timestamp`"),
            (with("list", json!({})), expression, "`list`"),
            (with("map", json!([])), expression, "`map`"),
            (change(without, Vec::new()), expression, "`bool`"),
            (with("string", json!("a\0b")), expression, "U+0000"),
            (with("string", json!("\\\0")), expression, "U+0000"),
            (with("map", json!({"a\0": 1})), expression, "U+0000"),
            (with("list", deep), expression, "nest deeper"),
            (with("string", json!("x".repeat(64 * 1024))), size, "65536"),
            (
                change(sound(), vec![emitted("{}"); 17]),
                size,
                "more than 16",
            ),
            (emits(&large), size, "larger than 65536"),
            (
                emits("{\"a\":\"\\u0000\"}"),
                expression,
                "could not be read",
            ),
            (emits("{\"a\":1,\"a\":2}"), expression, "could not be read"),
            (emits("{"), expression, "could not be read"),
            (emits(&nested(32)), expression, "could not be read"),
        ];
        for (verdict, reason, part) in cases {
            let found = answered(verdict);
            assert!(found.moved.is_none(), "{part}: {found:?}");
            assert_eq!(found.effect.outcome, Outcome::Dead, "{part}");
            let fault = found.fault.unwrap();
            assert_eq!(fault.reason, reason, "{part}: {}", fault.detail);
            assert!(fault.detail.contains(part), "{part}: {}", fault.detail);
        }
    }

    #[test]
    fn what_a_fault_says_is_cut_and_without_nul_in_the_log_and_in_its_letter() {
        let detail = format!("\0{}", "ü".repeat(REASON_CHARS_MAX * 2));
        let kept = "ü".repeat(REASON_CHARS_MAX);
        let dead = answered(Verdict::Dead(Fault {
            reason: DeadReason::Expression,
            detail: detail.clone(),
        }));
        assert_eq!(dead.fault.unwrap().detail, kept);
        assert_eq!(dead.effect.reason, Some(format!("expression: {kept}")));
        let letter = DeadLetter::new(
            TenantId::new("acme").unwrap(),
            Hash128(1),
            DeadReason::Expression,
            detail,
            DeadLetterSource::Record {
                position: RecordPosition {
                    stream: StreamName::new("s").unwrap(),
                    source_partition: SourcePartition {
                        source: SourceName::new("s").unwrap(),
                        partition: 0,
                    },
                    sequence: Sequence(0),
                },
                machine: MachineName::new("m").unwrap(),
                key: None,
            },
            Timestamp(1),
        );
        assert_eq!(letter.detail, kept);
    }
}
