//! Machines in Rust: what they declare is checked once, and what they answer never leaks a value.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{at, entity, go};
use crate::machine::typed::{Answer, Entity, Typed, TypedEvent, TypedMachine};
use crate::machine::{DeadReason, Fault, FieldType, Processor, Verdict};

#[derive(Default, Serialize, Deserialize)]
struct Data {
    n: i64,
    note: String,
}

/// A machine whose only difference is what it declares of its fields.
struct Counter<const DECLARED: usize>;

const DECLARATIONS: [&[(&str, FieldType)]; 4] = [
    &[("n", FieldType::Int), ("note", FieldType::String)],
    &[("n", FieldType::Int)],
    &[("n", FieldType::Int), ("note", FieldType::Int)],
    &[
        ("n", FieldType::Int),
        ("note", FieldType::String),
        ("more", FieldType::Int),
    ],
];

impl<const DECLARED: usize> TypedMachine for Counter<DECLARED> {
    type Data = Data;
    const NAME: &'static str = "counter";
    const VERSION: u64 = 1;
    const SOURCE: &'static str = "counter 1";
    const STATES: &'static [&'static str] = &["open", "shut"];
    const EVENTS: &'static [&'static str] = &["go"];
    const FIELDS: &'static [(&'static str, FieldType)] = DECLARATIONS[DECLARED];

    fn apply(
        &self,
        event: &TypedEvent<'_>,
        mut entity: Entity<'_, Data>,
    ) -> Result<Answer<Data>, Fault> {
        let Data { n, note } = event.data()?;
        match n {
            0 => return Ok(Answer::Ignore),
            1 => return Ok(Answer::Unmatched),
            2 => return Ok(entity.to("nowhere")),
            _ => {}
        }
        entity.data = Data { n, note };
        Ok(entity.to("shut").emit("shut", json!({ "b": 1, "a": 2 })))
    }
}

#[test]
fn what_a_machine_declares_is_what_its_data_has() {
    assert!(Typed::new(Counter::<0>).is_ok());
    for (error, expected) in [
        (Typed::new(Counter::<1>).err(), "`note`"),
        (Typed::new(Counter::<2>).err(), "`note`"),
        (Typed::new(Counter::<3>).err(), "`more`"),
    ] {
        let error = error.expect("refused").to_string();
        assert!(
            error.starts_with("fields: ") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn answers_become_verdicts() {
    let machine = Typed::new(Counter::<0>).expect("a valid machine");
    let before = entity("open", 4, json!({ "n": 0, "note": "" }));
    let apply = |n: i64| machine.apply(&at(&go(json!({ "n": n, "note": "x" }))), &before);
    assert_eq!(apply(0), Verdict::Ignored);
    assert_eq!(
        apply(1),
        Verdict::Rejected("no transition takes `go` in status `open`".to_owned())
    );
    let Verdict::Dead(fault) = apply(2) else {
        panic!("not dead")
    };
    assert_eq!(
        fault.detail,
        "machine `counter`: `nowhere` is no declared state"
    );
    let Verdict::Applied(change) = apply(3) else {
        panic!("not applied")
    };
    assert_eq!(change.status.as_str(), "shut");
    assert_eq!(
        change.data.to_canonical().as_deref(),
        Some(r#"{"n":3,"note":"x"}"#)
    );
    assert_eq!(&*change.emitted[0].data, r#"{"a":2,"b":1}"#);
    assert_eq!(
        machine.key(&at(&go(json!({})))).map(|key| key.to_string()),
        Ok("k".to_owned())
    );
}

#[test]
fn a_payload_that_does_not_fit_is_dead_without_its_values() {
    let machine = Typed::new(Counter::<0>).expect("a valid machine");
    let event = go(json!({ "n": "hunter2", "note": 4711 }));
    let Verdict::Dead(fault) = machine.apply(&at(&event), &machine.initial()) else {
        panic!("not dead")
    };
    assert_eq!(fault.reason, DeadReason::Expression);
    assert_eq!(
        fault.detail,
        "machine `counter`: the data of this `go` does not fit"
    );
    let foreign = entity("open", 1, json!({ "other": true }));
    let event = go(json!({ "n": 3, "note": "" }));
    let Verdict::Dead(fault) = machine.apply(&at(&event), &foreign) else {
        panic!("not dead")
    };
    assert!(
        fault.detail.contains("another definition wrote it"),
        "{}",
        fault.detail
    );
}
