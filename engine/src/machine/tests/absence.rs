//! "An absent field is an evaluation error, not false; `has()` asks. An error gives `dead` with reason
//! `expression`, file, line and expression, never the values; later candidates are not tried."

use serde_json::json;

use super::{data_after, event, first, go, loaded, machine_text, value_of};
use crate::machine::{DeadReason, Verdict};

#[test]
fn an_absent_field_is_an_error_and_later_candidates_are_not_tried() {
    let text = machine_text(&[("x", "int", "0")], "when: event.data.n > 0\nset:\n  x: 1")
        + "    - from: [a]\n      set:\n        x: 2\n";
    let machine = loaded(&text);
    let fault = |data| match first(&machine, &go(data)) {
        Verdict::Dead(fault) => fault,
        other => panic!("{other:?}"),
    };
    let absent = fault(json!({}));
    assert_eq!(absent.reason, DeadReason::Expression);
    assert_eq!(
        absent.detail,
        "m@1:13: expression `event.data.n > 0`: `event.data.n` is absent"
    );
    let wrong = fault(json!({ "n": "0" }));
    assert_eq!(
        wrong.detail,
        "m@1:13: expression `event.data.n > 0`: `>` does not take (string, int)"
    );
    // False, on the other hand, is an answer.
    assert_eq!(
        data_after(first(&machine, &go(json!({ "n": 0 })))),
        Ok(json!({ "x": 2 }))
    );
    assert_eq!(
        data_after(first(&machine, &go(json!({ "n": 1 })))),
        Ok(json!({ "x": 1 }))
    );
}

#[test]
fn has_asks_at_every_depth() {
    let payload = r#"{"a":{"b":{"c":1}},"n":null,"l":[{"p":1},{}],"s":"t","k-y":1}"#;
    for (expression, expected) in [
        ("has(event.data.a)", true),
        ("has(event.data.z)", false),
        ("has(event.data.a.b.c)", true),
        ("has(event.data.a.b.z)", false),
        ("has(event.data.n)", true),
        ("has(event.data.a.b.c) && event.data.a.b.c == 1", true),
        ("has(event.data.z) && event.data.z == 1", false),
        ("event.data.n == null", true),
        ("event.data['k-y'] == 1", true),
        ("event['data'].a.b.c == 1", true),
        ("has(event.data.l[0].p)", true),
        ("has(event.data.l[1].p)", false),
        ("event.data.l.exists(item, has(item.p))", true),
        ("event.data.l.all(item, has(item.p))", false),
        ("has(event.data)", true),
        ("has(event.subject)", true),
        ("has(event.correlationid)", false),
        ("has(event.partitionkey)", false),
        ("has(event.time)", true),
        ("has(state.x)", true),
        ("!has(event.data.a.q) || event.data.a.q == 1", true),
    ] {
        assert_eq!(
            value_of(expression, payload),
            Ok(json!(expected)),
            "{expression}"
        );
    }
    for (expression, expected) in [
        (
            "has(event.data.z.b)",
            "`event.data.z.b` is absent, and so is what encloses it",
        ),
        (
            "has(event.data.s.b)",
            "`event.data.s.b` is absent, and so is what encloses it",
        ),
        (
            "event.data.z.b",
            "`event.data.z.b` is absent, and so is what encloses it",
        ),
        ("event.data.l[2]", "an index is out of bounds"),
        ("event.data.l[1].p", "a field or key is absent"),
        ("event.data.a[event.subject]", "a field or key is absent"),
        ("event.correlationid", "`event.correlationid` is absent"),
        ("event.partitionkey", "`event.partitionkey` is absent"),
    ] {
        let found = value_of(expression, payload).expect_err(expression);
        assert!(found.contains(expected), "{expression}: {found}");
    }
}

#[test]
fn an_event_without_json_data_has_no_data() {
    let machine = loaded(&machine_text(
        &[("x", "bool", "false")],
        "set:\n  x: has(event.data)",
    ));
    let absent = event(json!({ "data": "(absent)" }));
    let bytes = event(json!({ "data_base64": "AAEC" }));
    for event in [&absent, &bytes] {
        assert_eq!(
            data_after(first(&machine, event)),
            Ok(json!({ "x": false }))
        );
    }
    let null = event(json!({ "data": null }));
    assert_eq!(data_after(first(&machine, &null)), Ok(json!({ "x": true })));
}

#[test]
fn logic_absorbs_errors_as_cel_says() {
    for (expression, expected) in [
        ("event.data.z == 1 || true", Ok(json!(true))),
        ("true || event.data.z == 1", Ok(json!(true))),
        ("event.data.z == 1 && false", Ok(json!(false))),
        ("event.data.y ? event.data.z : 1", Ok(json!(1))),
    ] {
        assert_eq!(
            value_of(expression, r#"{"y":false}"#),
            expected,
            "{expression}"
        );
    }
    for expression in [
        "event.data.z == 1 || false",
        "event.data.z == 1 && true",
        "!event.data.z",
    ] {
        assert!(value_of(expression, "{}").is_err(), "{expression}");
    }
}

#[test]
fn an_error_never_holds_a_value() {
    const SECRET: &str = "hunter2-4711";
    let payload = format!(
        r#"{{"s":"{SECRET}","n":471147114711,"l":["{SECRET}"],"m":{{"{SECRET}":"{SECRET}"}},"b":true}}"#
    );
    for expression in [
        "event.data.s + 1",
        "1 + event.data.s",
        "event.data.s - 1",
        "event.data.s * event.data.n",
        "event.data.s / 2",
        "event.data.s % 2",
        "event.data.s < 1",
        "event.data.n < event.data.s",
        "event.data.s in event.data.n",
        "event.data.s && true",
        "!event.data.s",
        "-event.data.s",
        "event.data.s ? 1 : 2",
        "int(event.data.s)",
        "double(event.data.s)",
        "decimal(event.data.s)",
        "bool(event.data.s)",
        "string(event.data.l)",
        "timestamp(event.data.s)",
        "duration(event.data.s)",
        "size(event.data.n)",
        "event.data.n.size()",
        "event.data.n.contains(event.data.s)",
        "event.data.s.startsWith(event.data.n)",
        "event.data.s.getHours()",
        "event.data.l[event.data.s]",
        "event.data.l[event.data.n]",
        "event.data.m[event.data.n]",
        "event.data.s[0]",
        "event.data.m[event.data.s + 'x']",
        "{event.data.s: 1, event.data.s: 2}",
        "{event.data.l: 1}",
        "event.data.n * event.data.n",
        "event.data.m.map(k, k)",
        "event.data.s.map(c, c)",
        "event.data.l.map(i, i + 1)",
        "event.data.l.all(i, i)",
        "event.data.l.exists(i, i > 1)",
        "event.data.l.filter(i, i)",
        "event.data.l + event.data.m",
        "event.data.l + event.data.s",
    ] {
        let found = value_of(expression, &payload).expect_err(expression);
        assert!(
            !found.contains(SECRET) && !found.contains("4711"),
            "{expression}: {found}"
        );
        assert!(
            found.contains("m@1:15: expression `"),
            "{expression}: {found}"
        );
    }
    // The same for what an expression makes and its place refuses.
    for (kind, initial) in [
        ("int", "0"),
        ("bool", "false"),
        ("map", "{}"),
        ("timestamp", "'2026-01-01T00:00:00Z'"),
    ] {
        let found = super::set_x(kind, initial, "event.data.s", &payload).expect_err(kind);
        assert!(!found.contains(SECRET), "{found}");
    }
}
