//! "Maps are never iterated; comprehensions over lists only, one deep, 1,000 items; no regex or time
//! zones; expressions bounded at load; entity data at most 64 KiB."

use serde_json::json;

use super::{
    at, block, data_after, entity, first, go, loaded, machine_text, refused, shown, value_of,
};
use crate::limits::{ENTITY_DATA_BYTES_MAX, EXPRESSION_BYTES_MAX, EXPRESSION_NODES_MAX};
use crate::machine::{DeadReason, Processor};
use crate::transition;

/// The message for an expression that must not load.
fn refusal(expression: &str) -> String {
    let fields = [("x", "list", "[]"), ("m", "map", "{}")];
    shown(&refused(&machine_text(
        &fields,
        &format!("set:\n  x: |\n    {expression}"),
    )))
}

#[test]
fn maps_are_never_visited() {
    for expression in [
        "{'a': 1}.map(k, k)",
        "state.m.map(k, k)",
        "state.filter(k, true)",
        "[state.m.all(k, k == 'a')]",
    ] {
        assert!(
            refusal(expression).contains("a map is never visited"),
            "{expression}"
        );
    }
    let payload = r#"{"m":{"a":1},"l":[1]}"#;
    for expression in [
        "event.data.m.map(k, k)",
        "event.data.map(k, k)",
        "event.data.m.exists(k, k == 'a')",
        "(event.data.l == [1] ? {'a': 1} : {}).map(k, k)",
    ] {
        let found = value_of(expression, payload).expect_err(expression);
        assert!(
            found.contains("only lists are visited; a map has no order"),
            "{found}"
        );
    }
    // `+` of the library appends whatever iterates; ours does not.
    assert!(value_of("event.data.l + event.data.m", payload).is_err());
}

#[test]
fn comprehensions_are_one_deep() {
    for expression in [
        "event.data.l.map(i, [1].map(j, j))",
        "event.data.l.filter(i, event.data.l.exists(j, j == i))",
        "event.data.l.all(i, [1].all(j, j == i)) ? [] : []",
    ] {
        assert!(
            refusal(expression).contains("comprehensions are one deep"),
            "{expression}"
        );
    }
    assert_eq!(
        value_of(
            "event.data.l.map(i, i + 1).filter(j, j > 2)",
            r#"{"l":[1,2]}"#
        ),
        Ok(json!([3]))
    );
}

#[test]
fn a_comprehension_visits_at_most_1000_items() {
    let list = |items: usize| json!({ "l": vec![1; items] }).to_string();
    let expression = "event.data.l.all(i, i == 1)";
    assert_eq!(value_of(expression, &list(1_000)), Ok(json!(true)));
    let found = value_of(expression, &list(1_001)).expect_err("too many");
    assert!(found.contains("more than 1,000 items"), "{found}");
}

#[test]
fn what_is_not_deterministic_or_not_bounded_is_no_function() {
    for (expression, expected) in [
        (
            "[event.id.matches('a*')]",
            "there is no method `matches`; regular expressions are not available",
        ),
        (
            "[matches(event.id, 'a*')]",
            "there is no function `matches`; regular expressions are not available",
        ),
        (
            "[event.time.getHours('Europe/Berlin')]",
            "`getHours` takes no argument: there are no time zones; moments are in UTC",
        ),
        (
            "[now()]",
            "there is no function `now`; there is no clock: use `event.time`",
        ),
        ("[uuid()]", "machines are deterministic: use `event.id`"),
        ("[uint(1)]", "unsigned integers are not available"),
        (
            "[1u]",
            "unsigned integers are not available; leave the `u` out",
        ),
        ("[b'abc']", "bytes are not available"),
        ("[type(1)]", "there is no function `type`"),
        ("[dyn(1)]", "there is no function `dyn`"),
        ("[Thing{a: 1}]", "messages are not available"),
        ("[event.data.?a]", "not CEL"),
        ("[1e999]", "not CEL"),
    ] {
        let found = refusal(expression);
        assert!(found.contains(expected), "{expression}: {found}");
    }
}

#[test]
fn expressions_are_bounded_when_they_are_loaded() {
    let long = format!("['{}']", "x".repeat(EXPRESSION_BYTES_MAX));
    assert!(refusal(&long).contains("an expression has at most 2048 bytes"));
    let wide = format!("[{}]", vec!["1"; EXPRESSION_NODES_MAX].join(","));
    assert!(refusal(&wide).contains("an expression has at most 512 parts"));
    // Every way to nest: an evaluation never recurses deeper than its bound.
    for deep in [
        format!("[size('a'{})]", "+'b'".repeat(64)),
        format!("[{}true{}]", "!(".repeat(65), ")".repeat(65)),
        format!("[event.data{}]", "[0]".repeat(65)),
        format!("[event.id{}]", ".size()".repeat(65)),
        format!("[event.data{}]", ".map(i, i)".repeat(65)),
        format!("{}1{}", "[".repeat(65), "]".repeat(65)),
        format!("[{}1{}]", "int(".repeat(65), ")".repeat(65)),
    ] {
        let found = refusal(&deep);
        let told = found.contains("nests at most 64 deep") || found.contains("not CEL");
        assert!(told, "{deep}: {found}");
    }
    for deep in ["(", "[", "{1:", "int(", "!(", "[1].map(i,"].map(|open| open.repeat(150)) {
        assert!(
            refusal(&deep).contains("nested too deeply"),
            "{}",
            refusal(&deep)
        );
    }
    let path = format!("[event.data{}]", ".a".repeat(EXPRESSION_NODES_MAX));
    assert!(refusal(&path).contains("at most 512 parts"));
}

#[test]
fn the_deepest_expression_runs_on_the_stack_of_a_worker() {
    let deepest = format!("size(event.id{})", " + 'b'".repeat(60));
    assert_eq!(value_of(&deepest, "{}"), Ok(json!(62)));
    let visiting = format!("event.data.l.map(i, i{})", " + 1".repeat(55));
    assert_eq!(value_of(&visiting, r#"{"l":[1]}"#), Ok(json!([56])));
}

#[test]
fn plus_makes_nothing_larger_than_an_entity() {
    let payload = json!({ "s": "x".repeat(40_000) }).to_string();
    let found = value_of("size(event.data.s + event.data.s)", &payload).expect_err("too long");
    assert!(
        found.contains("longer than an expression may make"),
        "{found}"
    );
    assert_eq!(
        value_of("size(event.data.s + 'y')", &payload),
        Ok(json!(40_001))
    );
}

#[test]
fn what_one_evaluation_visits_and_copies_is_bounded() {
    let payload = |a: usize, b: usize| {
        let list = |items: usize, from: usize| (from..from + items).collect::<Vec<_>>();
        json!({ "a": list(a, 0), "b": list(b, 1_000_000), "s": "x".repeat(100_000) }).to_string()
    };
    // The largest lists that a comprehension visits, each item looked for in all of the other.
    let search = "size(event.data.a.filter(i, i in event.data.b))";
    assert_eq!(value_of(search, &payload(1_000, 1_000)), Ok(json!(0)));
    let small = payload(100, 10);
    let large = payload(1_000, 100_000);
    for expression in [
        search,
        // What `||` and `exists` swallow is refused again at once, and costs nothing more.
        "event.data.a.exists(i, i in event.data.b || [i] == event.data.b)",
        "size(event.data.a.map(i, event.data.b))",
        "size(event.data.a.map(i, {'b': event.data.b}))",
        "size(event.data.a.map(i, [[event.data.s, event.data.b]]))",
        "event.data.a.all(i, size(event.data.b + [i]) > 0)",
        "event.data.a.all(i, event.data == event.data)",
    ] {
        let found = value_of(expression, &large).expect_err(expression);
        let expected = "the values are too large for what this expression does with them";
        // A list of more than 65,536 items is refused before it is copied.
        let too_long = "longer than an expression may make";
        assert!(
            found.contains(expected) || found.contains(too_long),
            "{expression}: {found}"
        );
        assert!(
            expression.contains("event.data.s") || value_of(expression, &small).is_ok(),
            "{expression}"
        );
    }
    // Text counts by its bytes: 300 copies of 100,000 fit, 1,000 do not.
    let texts = |items| {
        value_of(
            "size(event.data.a.map(i, event.data.s))",
            &payload(items, 0),
        )
    };
    assert_eq!(texts(300), Ok(json!(300)));
    assert!(texts(1_000).is_err());
    // The budget is of one evaluation: what an earlier one spent is no part of the next.
    assert_eq!(value_of(search, &payload(1_000, 1_000)), Ok(json!(0)));
}

#[test]
fn entity_data_that_is_copied_at_each_use_counts() {
    let items: Vec<u32> = (0..10_000).collect();
    let machine = loaded(&machine_text(
        &[("l", "list", "[]"), ("x", "int", "0")],
        "set:\n  x: size(event.data.a.filter(i, size(state.l) > i))",
    ));
    let before = entity("a", 1, json!({ "l": items, "x": 0 }));
    let apply = |visited: u32| {
        let event = go(json!({ "a": (0..visited).collect::<Vec<_>>() }));
        data_after(machine.apply(&at(&event), &before)).map(|data| data["x"].clone())
    };
    assert_eq!(apply(100), Ok(json!(100)));
    let found = apply(1_000).expect_err("160 KB, a thousand times");
    assert!(found.contains("the values are too large"), "{found}");
}

#[test]
fn data_over_64_kib_is_dead_with_reason_size() {
    let machine = loaded(&machine_text(
        &[("x", "string", "''"), ("y", "string", "''")],
        "set:\n  x: event.data.s",
    ));
    // {"x":"…","y":""} around the text.
    let frame = r#"{"x":"","y":""}"#.len();
    let apply = |bytes: usize| {
        let event = go(json!({ "s": "x".repeat(bytes) }));
        let context = at(&event);
        let key = transition::key_of(machine.as_ref(), &context).expect("a key");
        transition::apply(machine.as_ref(), &context, &key, &machine.initial())
    };
    let fits = apply(ENTITY_DATA_BYTES_MAX - frame);
    assert_eq!(
        fits.moved.expect("it fits").text.len(),
        ENTITY_DATA_BYTES_MAX
    );
    let over = apply(ENTITY_DATA_BYTES_MAX - frame + 1);
    assert_eq!(over.fault.expect("a fault").reason, DeadReason::Size);
    assert!(over.moved.is_none());
}

#[test]
fn data_never_nests_deeper_than_it_can_be_read() {
    let machine = loaded(&machine_text(
        &[("x", "list", "[]")],
        &format!("set:\n  {}", "x: '[state.x]'"),
    ));
    let mut state = machine.initial();
    let refused_at =
        (0..200).find_map(
            |events| match data_after(machine.apply(&at(&go(json!({}))), &state)) {
                Ok(data) => {
                    state = entity("a", events, data);
                    None
                }
                Err(reason) => Some((events, reason)),
            },
        );
    let (events, reason) = refused_at.expect("the nesting is bounded");
    assert!((20..40).contains(&events), "{events}");
    assert!(reason.contains("nested deeper than 32 levels"), "{reason}");
}

#[test]
fn text_with_nul_is_refused() {
    // The bus refuses it in events; an expression could still write it.
    let text = machine_text(
        &[("x", "string", "''")],
        &format!(
            "set:\n  {}",
            block("x", "  event.id + '\\x00'").replace('\n', "\n  ")
        ),
    );
    let found = data_after(first(&loaded(&text), &go(json!({})))).expect_err("NUL");
    assert!(found.contains("U+0000"), "{found}");
}
