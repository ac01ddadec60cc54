//! What a machine does with an event: literals and CEL, variables, candidates, keys, `on_unmatched`.

use serde_json::json;

use super::{
    ADMITTED, at, data_after, entity, event, first, go, loaded, machine_text, set_x, value_of,
};
use crate::machine::{DeadReason, Processor, Verdict};

/// A machine with two states and a candidate list under `go`.
fn two_states(on_unmatched: &str, candidates: &str) -> String {
    format!(
        "apiVersion: tidegate/v1\nkind: Machine\nmachine: m\nversion: 3\nkey: event.subject\ninitial: a\nstates: [a, b]\ndata:\n  n: {{ type: int, initial: 0 }}\nevents:\n  go:\n{candidates}on_unmatched: {on_unmatched}\n"
    )
}

#[test]
fn candidates_are_tried_in_order_by_status_and_then_by_when() {
    let machine = loaded(&two_states(
        "reject",
        "    - from: [b]\n      reject: \"'was b'\"\n    - from: [a]\n      when: event.data.n > 10\n      to: b\n      set: { n: event.data.n }\n    - from: [a]\n      when: event.data.n > 5\n      set: { n: event.data.n * 2 }\n    - from: [a]\n      when: event.data.n > 3\n      set: { n: -1 }\n",
    ));
    let apply = |n: i64, status: &str| {
        machine.apply(
            &at(&go(json!({ "n": n }))),
            &entity(status, 1, json!({ "n": 7 })),
        )
    };
    let Verdict::Applied(high) = apply(11, "a") else {
        panic!("not applied")
    };
    assert_eq!((high.status.as_str(), &high.data.0["n"]), ("b", &json!(11)));
    let Verdict::Applied(middle) = apply(6, "a") else {
        panic!("not applied")
    };
    // Without `to` the status stays.
    assert_eq!(
        (middle.status.as_str(), &middle.data.0["n"]),
        ("a", &json!(12))
    );
    let Verdict::Applied(low) = apply(4, "a") else {
        panic!("not applied")
    };
    assert_eq!(low.data.0["n"], json!(-1));
    assert_eq!(apply(11, "b"), Verdict::Rejected("was b".to_owned()));
    assert_eq!(
        apply(1, "a"),
        Verdict::Rejected("no transition takes `go` in status `a`".to_owned())
    );
}

#[test]
fn on_unmatched_rejects_ignores_or_asks_a_person() {
    let candidates = "    - from: [a]\n      when: false\n      to: b\n";
    let unmatched = |choice| {
        let machine = loaded(&two_states(choice, candidates));
        first(&machine, &go(json!({})))
    };
    assert!(matches!(unmatched("reject"), Verdict::Rejected(_)));
    assert_eq!(unmatched("ignore"), Verdict::Ignored);
    let Verdict::Dead(fault) = unmatched("dead_letter") else {
        panic!("not dead")
    };
    assert_eq!(fault.reason, DeadReason::Unmatched);
    // The default says no: an author who says nothing must not lose events silently.
    let text = two_states("reject", candidates).replace("on_unmatched: reject\n", "");
    assert!(matches!(
        first(&loaded(&text), &go(json!({}))),
        Verdict::Rejected(_)
    ));
}

#[test]
fn set_reads_the_state_before() {
    let text = machine_text(
        &[("x", "int", "1"), ("y", "int", "2")],
        "set:\n  x: state.y\n  y: state.x",
    );
    let swapped = data_after(first(&loaded(&text), &go(json!({}))));
    assert_eq!(swapped, Ok(json!({ "x": 2, "y": 1 })));
}

#[test]
fn variables_are_event_state_status_and_version() {
    let text = machine_text(
        &[("x", "list", "[]"), ("m", "map", "{ a: 1 }")],
        "set:\n  x: \"[status, version, size(state), state.m.a, state['m']['a'], event.data.v]\"",
    );
    let machine = loaded(&text);
    let before = entity("a", 41, json!({ "x": [], "m": { "a": 1 } }));
    let after = data_after(machine.apply(&at(&go(json!({ "v": true }))), &before));
    assert_eq!(
        after.map(|data| data["x"].clone()),
        Ok(json!(["a", 41, 2, 1, 1, true]))
    );
}

#[test]
fn an_event_shows_its_attributes() {
    let machine = loaded(&machine_text(
        &[("x", "list", "[]")],
        "set:\n  x: \"[event.id, event.source, event.type, event.subject, event.tenantid, event.correlationid, event.causationid, event.idempotencykey, event.datacontenttype, event.dataschema, event.partitionkey, event.sequencenumber, event.urgent, event['sbject']]\"",
    ));
    let full = event(json!({
        "correlationid": "c", "causationid": "d", "idempotencykey": "i", "datacontenttype": "application/json",
        "dataschema": "/schema", "partitionkey": "p", "sequencenumber": -7, "urgent": true, "sbject": "ext", "data": 1,
    }));
    let expected = json!([
        "e1",
        "/s",
        "go",
        "k",
        "acme",
        "c",
        "d",
        "i",
        "application/json",
        "/schema",
        "p",
        -7,
        true,
        "ext"
    ]);
    assert_eq!(
        data_after(first(&machine, &full)),
        Ok(json!({ "x": expected }))
    );
}

#[test]
fn event_time_is_the_envelopes_else_the_admission_time() {
    let machine = loaded(&machine_text(
        &[("x", "timestamp", "'2026-01-01T00:00:00Z'")],
        "set:\n  x: event.time",
    ));
    let own = event(json!({ "time": "2020-02-29T12:00:00+01:00" }));
    assert_eq!(
        data_after(first(&machine, &own)),
        Ok(json!({ "x": "2020-02-29T11:00:00.000000Z" }))
    );
    let none = event(json!({}));
    assert_eq!(
        data_after(first(&machine, &none)),
        Ok(json!({ "x": ADMITTED.to_rfc3339() }))
    );
    assert_eq!(
        value_of(
            "[timestamp('2026-11-22T23:30:00+02:00').getHours(), event.time.getFullYear(), event.time.getDayOfWeek()]",
            "{}"
        ),
        Ok(json!([21, 2026, 0]))
    );
}

#[test]
fn a_key_is_text_of_1_to_256_bytes_or_an_int() {
    let with_key = |key: &str| {
        let text =
            machine_text(&[], "to: a").replace("key: event.subject", &super::block("key", key));
        loaded(&text)
    };
    let key = |expression: &str, data: serde_json::Value| {
        let event = go(data);
        with_key(expression)
            .key(&at(&event))
            .map(|key| key.as_str().to_owned())
    };
    assert_eq!(key("event.subject", json!({})), Ok("k".to_owned()));
    assert_eq!(
        key("event.data.id", json!({ "id": 42 })),
        Ok("42".to_owned())
    );
    assert_eq!(
        key("event.data.id", json!({ "id": -42 })),
        Ok("-42".to_owned())
    );
    assert_eq!(
        key("event.tenantid + '/' + event.data.id", json!({ "id": "7" })),
        Ok("acme/7".to_owned())
    );
    let longest = "k".repeat(256);
    assert_eq!(key("event.data.id", json!({ "id": longest })), Ok(longest));
    let too_long = "ü".repeat(129);
    for data in [
        json!({}),
        json!({ "id": "" }),
        json!({ "id": too_long }),
        json!({ "id": "a\nb" }),
        json!({ "id": 1.5 }),
        json!({ "id": 1.0 }),
        json!({ "id": null }),
        json!({ "id": true }),
        json!({ "id": ["k"] }),
        json!({ "id": { "k": 1 } }),
    ] {
        let fault = key("event.data.id", data.clone()).expect_err("a fault");
        assert_eq!(fault.reason, DeadReason::Key, "{data}");
        assert!(
            fault
                .detail
                .starts_with("m@1:6: expression `event.data.id`: "),
            "{}",
            fault.detail
        );
        assert!(!fault.detail.contains('ü'), "{}", fault.detail);
    }
}

#[test]
fn a_yaml_number_bool_or_null_is_itself_and_text_is_cel() {
    for (kind, initial, value, expected) in [
        ("int", "0", "5", json!(5)),
        ("double", "0", "5", json!(5.0)),
        ("double", "0", "5.5", json!(5.5)),
        ("bool", "false", "true", json!(true)),
        ("int", "0", "'5'", json!(5)),
        ("string", "''", "\"'5'\"", json!("5")),
        ("decimal", "0", "1.50", json!("1.5")),
    ] {
        let text = machine_text(&[("x", kind, initial)], &format!("set:\n  x: {value}"));
        let after = data_after(first(&loaded(&text), &go(json!({}))));
        assert_eq!(
            after.map(|data| data["x"].to_string()),
            Ok(expected.to_string()),
            "{value}"
        );
    }
    let emits = machine_text(
        &[],
        "emit:\n  - type: t\n    data: { a: 1, b: 1.5, c: true, d: null, e: ~, f: \"'x'\" }",
    );
    let Verdict::Applied(change) = first(&loaded(&emits), &go(json!({}))) else {
        panic!("not applied")
    };
    assert_eq!(
        &*change.emitted[0].data,
        r#"{"a":1,"b":1.5,"c":true,"d":null,"e":null,"f":"x"}"#
    );
}

#[test]
fn reject_gives_its_reason_and_it_must_be_text() {
    let rejecting = |expression: &str| {
        let text = machine_text(&[("n", "int", "7")], &super::block("reject", expression));
        first(&loaded(&text), &go(json!({ "why": "because", "n": 1 })))
    };
    assert_eq!(
        rejecting("event.data.why"),
        Verdict::Rejected("because".to_owned())
    );
    assert_eq!(
        rejecting("'only ' + string(state.n) + ' left'"),
        Verdict::Rejected("only 7 left".to_owned())
    );
    assert!(
        matches!(rejecting("event.data.n"), Verdict::Dead(fault) if fault.reason == DeadReason::Expression)
    );
}

#[test]
fn when_must_be_true_or_false() {
    for (data, expected) in [
        (json!({ "v": 1 }), "expected true or false, found int"),
        (
            json!({ "v": "true" }),
            "expected true or false, found string",
        ),
        (json!({ "v": null }), "expected true or false, found null"),
    ] {
        let machine = loaded(&machine_text(&[], "when: event.data.v\nto: a"));
        let Verdict::Dead(fault) = first(&machine, &go(data)) else {
            panic!("not dead")
        };
        assert!(fault.detail.ends_with(expected), "{}", fault.detail);
    }
}

#[test]
fn data_has_exactly_the_declared_fields_after_an_event() {
    let machine = loaded(&machine_text(
        &[("new", "int", "5"), ("kept", "int", "0")],
        "set:\n  kept: state.kept + state.new",
    ));
    // An entity that an earlier definition wrote: it knew `gone` and did not know `new`.
    let before = entity("a", 3, json!({ "gone": 1, "kept": 10 }));
    let after = data_after(machine.apply(&at(&go(json!({}))), &before));
    assert_eq!(after, Ok(json!({ "kept": 15, "new": 5 })));
}

#[test]
fn strings_and_lists_have_their_methods() {
    let payload = r#"{"s":"Überweisung","l":[3,1,2],"m":{"a":1}}"#;
    for (expression, expected) in [
        ("size(event.data.s)", json!(11)),
        ("event.data.s.size()", json!(11)),
        ("event.data.s.contains('weis')", json!(true)),
        ("event.data.s.startsWith('Ü')", json!(true)),
        ("event.data.s.endsWith('x')", json!(false)),
        ("event.data.s + '!'", json!("Überweisung!")),
        ("size(event.data.l) + size(event.data.m)", json!(4)),
        ("event.data.l + [4]", json!([3, 1, 2, 4])),
        ("event.data.l.map(i, i * 2)", json!([6, 2, 4])),
        ("event.data.l.map(i, i > 1, i * 1.5)", json!([4.5, 3.0])),
        ("event.data.l.filter(i, i >= 2)", json!([3, 2])),
        (
            "event.data.l.filter(i, i >= 2).map(i, i + 1)",
            json!([4, 3]),
        ),
        ("event.data.l.exists_one(i, i == 2.0)", json!(true)),
        ("event.data.l.all(i, i in [1, 2, 3.0])", json!(true)),
        (
            "event.data.l.map(i, {'n': i, 'of': size(event.data.l)})[0].of",
            json!(3),
        ),
        ("event.data.m.a", json!(1)),
        ("'a' in event.data.m", json!(true)),
        (
            "event.data.m[event.data.l.size() == 3 ? 'a' : 'b']",
            json!(1),
        ),
        (
            "event.data == {'s': event.data.s, 'l': [3, 1, 2], 'm': {'a': 1.0}}",
            json!(true),
        ),
    ] {
        let found = value_of(expression, payload).expect(expression);
        assert_eq!(found.to_string(), expected.to_string(), "{expression}");
    }
    assert_eq!(
        set_x("list", "[]", "state.x + [event.id]", "{}"),
        Ok(json!(["e1"]))
    );
}
