//! Emitted events: type literal, subject and data CEL, `next` the fields after.

use serde_json::json;

use super::{data_after, event, first, go, loaded, machine_text};
use crate::machine::{DeadReason, Verdict};

#[test]
fn emit_sees_the_fields_after_and_before() {
    let machine = loaded(&machine_text(
        &[("x", "int", "1")],
        "set:\n  x: state.x + 1\nemit:\n  - type: one\n    subject: event.subject + '/1'\n    data: { after: next.x, before: state.x, all: next, status: status, version: version }\n  - type: two",
    ));
    let Verdict::Applied(change) = first(&machine, &go(json!({}))) else {
        panic!("not applied")
    };
    let [one, two] = change.emitted.as_slice() else {
        panic!("{:?}", change.emitted)
    };
    assert_eq!(one.event_type.as_str(), "one");
    assert_eq!(
        one.subject.as_ref().map(|subject| subject.as_str()),
        Some("k/1")
    );
    assert_eq!(
        &*one.data,
        r#"{"after":2,"all":{"x":2},"before":1,"status":"a","version":0}"#
    );
    // The engine fills in the cause's subject; no data is an empty object.
    assert_eq!(
        (two.event_type.as_str(), &two.subject, &*two.data),
        ("two", &None, "{}")
    );
}

#[test]
fn a_faulty_emission_is_dead_and_changes_nothing() {
    for (emit, expected) in [
        (
            "- type: t\n    data: { a: event.data.z }",
            "`event.data.z` is absent",
        ),
        (
            "- type: t\n    subject: event.data.n",
            "expected text, found int",
        ),
        (
            "- type: t\n    subject: event.data.e",
            "expected 1 to 1024 bytes",
        ),
        (
            "- type: t\n    data: { a: duration(event.data.d) }",
            "a duration has no JSON form",
        ),
    ] {
        let machine = loaded(&machine_text(
            &[("x", "int", "1")],
            &format!("set:\n  x: 2\nemit:\n  {emit}"),
        ));
        let event = event(json!({ "data": { "n": 1, "e": "", "d": "1h" } }));
        let found = data_after(first(&machine, &event)).expect_err(emit);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn emitted_data_is_bounded() {
    let machine = loaded(&machine_text(
        &[],
        "emit:\n  - type: t\n    data: { a: event.data.big }",
    ));
    let Verdict::Dead(fault) = first(&machine, &go(json!({ "big": "x".repeat(70_000) }))) else {
        panic!("not dead")
    };
    assert_eq!(fault.reason, DeadReason::Size);
    assert!(matches!(
        first(&machine, &go(json!({ "big": "x".repeat(60_000) }))),
        Verdict::Applied(_)
    ));
}
