//! "JSON numbers: an integer within i64 binds as int (never uint), others as double; int and double mix
//! in arithmetic and comparison; a value converts to its field's declared type or it is an error; NaN,
//! infinities and overflow are errors."

use serde_json::json;

use super::{set_x, value_of};

/// The payloads of the table.
const VALUES: [&str; 7] = [
    r#"{"v":10}"#,
    r#"{"v":10.0}"#,
    r#"{"v":10.5}"#,
    r#"{"v":9007199254740993}"#,
    r#"{"v":"10"}"#,
    r#"{"v":null}"#,
    "{}",
];

/// For each type its initial value, and what a field of it keeps of each payload; `-` is an error.
const TABLE: [(&str, &str, [&str; 7]); 8] = [
    (
        "int",
        "0",
        ["10", "10", "-", "9007199254740993", "-", "-", "-"],
    ),
    (
        "double",
        "0.0",
        ["10.0", "10.0", "10.5", "-", "-", "-", "-"],
    ),
    (
        "decimal",
        "0",
        [
            "\"10\"",
            "\"10\"",
            "\"10.5\"",
            "\"9007199254740993\"",
            "\"10\"",
            "-",
            "-",
        ],
    ),
    ("string", "''", ["-", "-", "-", "-", "\"10\"", "-", "-"]),
    ("bool", "false", ["-"; 7]),
    ("timestamp", "'2026-01-01T00:00:00Z'", ["-"; 7]),
    ("list", "[]", ["-"; 7]),
    ("map", "{}", ["-"; 7]),
];

#[test]
fn a_value_converts_to_its_fields_type_or_it_is_an_error() {
    for (kind, initial, row) in TABLE {
        for (payload, expected) in VALUES.into_iter().zip(row) {
            let found = set_x(kind, initial, "event.data.v", payload);
            let text = found.as_ref().map_or("-".to_owned(), ToString::to_string);
            assert_eq!(text, expected, "{kind} of {payload}: {found:?}");
            if let Err(reason) = found {
                assert!(reason.starts_with("expression: m@1:15: "), "{reason}");
            }
        }
    }
}

#[test]
fn initial_values_convert_by_the_same_table() {
    for (kind, _, row) in TABLE {
        for (value, expected) in VALUES.into_iter().zip(row) {
            let Some(value) = value.strip_prefix(r#"{"v":"#) else {
                continue;
            };
            let value = value.trim_end_matches('}');
            let text = super::machine_text(&[("x", kind, value)], "to: a");
            match super::MachineDefinition::load("m.yaml", &text) {
                Ok(machine) => {
                    let initial = super::Processor::initial(machine.as_ref());
                    assert_eq!(initial.data.0["x"].to_string(), expected, "{kind} {value}");
                }
                Err(errors) => {
                    assert_eq!(expected, "-", "{kind} {value}: {}", super::shown(&errors));
                    assert_eq!(errors[0].path, "data.x.initial");
                }
            }
        }
    }
}

#[test]
fn every_type_keeps_what_fits_it() {
    let cases = [
        (
            "bool",
            "false",
            "event.data.v",
            r#"{"v":true}"#,
            json!(true),
        ),
        (
            "string",
            "''",
            "event.data.v",
            r#"{"v":"ü\n"}"#,
            json!("ü\n"),
        ),
        (
            "timestamp",
            "'2026-01-01T00:00:00Z'",
            "event.data.v",
            r#"{"v":"2026-11-22T08:17:00.5+02:00"}"#,
            json!("2026-11-22T06:17:00.500000Z"),
        ),
        (
            "timestamp",
            "'2026-01-01T00:00:00Z'",
            "timestamp(event.data.v) + duration('90m')",
            r#"{"v":"2026-11-22T06:17:00Z"}"#,
            json!("2026-11-22T07:47:00.000000Z"),
        ),
        (
            "list",
            "[]",
            "event.data.v",
            r#"{"v":[1,1.5,"a",null,{"b":[true]}]}"#,
            json!([1, 1.5, "a", null, { "b": [true] }]),
        ),
        (
            "map",
            "{}",
            "{'n': event.data.v, 'd': decimal('1.50')}",
            r#"{"v":{"z":1,"a":-0.0}}"#,
            json!({ "d": "1.5", "n": { "a": 0.0, "z": 1 } }),
        ),
        (
            "decimal",
            "0",
            "event.data.v",
            r#"{"v":"-0.10"}"#,
            json!("-0.1"),
        ),
        ("double", "0", "event.data.v", r#"{"v":-0.0}"#, json!(0.0)),
        (
            "int",
            "0",
            "decimal(event.data.v) * 100",
            r#"{"v":"12.34"}"#,
            json!(1234),
        ),
    ];
    for (kind, initial, expression, payload, expected) in cases {
        let found = set_x(kind, initial, expression, payload).expect(expression);
        assert_eq!(
            found.to_string(),
            expected.to_string(),
            "{kind}: {expression} of {payload}"
        );
    }
}

#[test]
fn json_integers_are_ints_and_never_uints() {
    for (payload, expression, expected) in [
        (r#"{"v":3}"#, "event.data.v - 5", json!(-2)),
        (r#"{"v":0}"#, "-event.data.v", json!(0)),
        (
            r#"{"v":9223372036854775807}"#,
            "event.data.v",
            json!(i64::MAX),
        ),
        (
            r#"{"v":-9223372036854775808}"#,
            "event.data.v",
            json!(i64::MIN),
        ),
        (
            r#"{"v":9223372036854775808}"#,
            "event.data.v",
            json!(9.223372036854776e18),
        ),
        (r#"{"v":[3]}"#, "event.data.v[0] - 5", json!(-2)),
        (r#"{"v":{"w":3}}"#, "event.data.v.w - 5", json!(-2)),
        (r#"{"v":1e3}"#, "event.data.v", json!(1000.0)),
    ] {
        let found = value_of(expression, payload).expect(expression);
        assert_eq!(
            found.to_string(),
            expected.to_string(),
            "{expression} of {payload}"
        );
    }
}

#[test]
fn int_double_and_decimal_mix_in_arithmetic() {
    for (expression, expected) in [
        ("1 + 2", json!(3)),
        ("1 + 2.5", json!(3.5)),
        ("2.5 - 1", json!(1.5)),
        ("2 * 1.5", json!(3.0)),
        ("7 / 2", json!(3)),
        ("-7 / 2", json!(-3)),
        ("7 / 2.0", json!(3.5)),
        ("7 % 4", json!(3)),
        ("decimal('0.1') + decimal('0.2')", json!("0.3")),
        ("decimal('0.1') + 1", json!("1.1")),
        ("2 * decimal('1.50')", json!("3")),
        ("decimal(1) / 8", json!("0.125")),
        ("decimal(0.1) - decimal('0.1')", json!("0")),
        ("-decimal('1.5')", json!("-1.5")),
        ("double(decimal('1.5')) + 1", json!(2.5)),
        ("int(decimal('-1.9'))", json!(-1)),
        ("int(1.9) + int('4')", json!(5)),
        ("double('1.5') + double(1)", json!(2.5)),
        ("string(decimal('1.50')) + string(2)", json!("1.52")),
        ("decimal('12.5') + decimal(12.5)", json!("25")),
    ] {
        let found = value_of(expression, "{}").expect(expression);
        assert_eq!(found.to_string(), expected.to_string(), "{expression}");
    }
}

#[test]
fn comparison_is_exact_between_kinds_at_every_depth() {
    for expression in [
        "1 < 1.5",
        "1.5 > 1",
        "2 >= 2.0",
        "1 == 1.0",
        "1.0 == 1",
        "!(1 != 1.0)",
        "9007199254740993 != 9007199254740992.0",
        "9007199254740993 > 9007199254740992.0",
        "9007199254740992.0 < 9007199254740993",
        "-9007199254740993 < -9007199254740992.0",
        "9223372036854775807 < 9223372036854775808.0",
        "-1 > -1.5",
        "-2 < -1.5",
        "decimal('1.50') == decimal('1.5')",
        "decimal('1.0') == 1",
        "1 < decimal('1.01')",
        "[1, 2.0] == [1.0, 2]",
        "[9007199254740993] != [9007199254740992.0]",
        "{'a': 1} == {'a': 1.0}",
        "1 in [1.0]",
        "!(1 in ['1'])",
        "'a' in {'a': 1}",
        "'a' != 1",
        "null == null",
        "null != 0",
        "'a' < 'b'",
        "timestamp('2026-01-01T00:00:00Z') == timestamp('2026-01-01T01:00:00+01:00')",
        "timestamp('2026-01-01T00:00:00Z') < timestamp('2026-01-01T00:00:01Z')",
        "duration('60s') == duration('1m')",
    ] {
        assert_eq!(value_of(expression, "{}"), Ok(json!(true)), "{expression}");
    }
}

#[test]
fn overflow_infinity_and_loss_are_errors() {
    let payload = r#"{"max":9223372036854775807,"big":1e308,"odd":9007199254740993,"z":0,"t":"x"}"#;
    for (expression, expected) in [
        ("event.data.max + 1", "`+`: overflow"),
        ("-event.data.max - 2", "`-`: overflow"),
        ("event.data.max * 2", "`*`: overflow"),
        ("event.data.big * 10", "`*`: overflow"),
        ("event.data.big + event.data.big", "`+`: overflow"),
        ("event.data.big / 1e-10", "`/`: overflow"),
        ("1 / event.data.z", "`/`: division by zero"),
        ("1.0 / event.data.z", "`/`: division by zero"),
        ("decimal(1) / event.data.z", "`/`: division by zero"),
        ("1 % event.data.z", "division by zero"),
        (
            "event.data.odd + 0.5",
            "an int that no double holds exactly meets a double",
        ),
        (
            "decimal('79228162514264337593543950335') + event.data.max",
            "`+`: overflow",
        ),
        (
            "decimal('0.00000000000001') * decimal('0.00000000000000000001')",
            "`*`: the exact result has more than 28 digits",
        ),
        (
            "decimal('7922816251426433759354395033') + decimal('0.01')",
            "`+`: the exact result has more than 28 digits",
        ),
        ("decimal('1.5') + 1.5", "a double and a decimal do not mix"),
        (
            "decimal('1.5') < 1.5",
            "`<` does not take (decimal, double)",
        ),
        ("decimal(event.data.t)", "`decimal`: expected a number"),
        (
            "double('NaN') == 1.0 || event.data.z == 0 && false",
            "`double`: overflow",
        ),
        ("double(event.data.t)", "`double`: the text is no number"),
        ("int(event.data.big)", "`int` cannot take this value"),
        ("event.data.t + 1", "`+` does not take (string, int)"),
        ("1 + event.data.t", "`+` does not take (int, string)"),
        ("event.data.t < 1", "`<` does not take (string, int)"),
        (
            "timestamp('0000-01-01T00:00:00Z')",
            "`timestamp`: expected RFC 3339",
        ),
        (
            "timestamp(event.data.max)",
            "`timestamp`: expected RFC 3339",
        ),
        (
            "timestamp('9999-12-31T23:59:59Z') + duration('1h')",
            "overflow",
        ),
    ] {
        // A constant would be an error of the definition, so that it is joined to the event.
        let expression = format!("event.data.z == 0 ? ({expression}) : null");
        let found = value_of(&expression, payload).expect_err(&expression);
        assert!(found.contains(expected), "{expression}: {found}");
    }
}

#[test]
fn a_number_that_no_double_holds_is_an_error_where_it_is_read_and_nowhere_else() {
    let payload = r#"{"v":1e400,"w":1,"deep":{"v":-1e400,"w":2},"n":-0}"#;
    assert_eq!(value_of("event.data.w", payload), Ok(json!(1)));
    assert_eq!(value_of("event.data.deep.w", payload), Ok(json!(2)));
    assert_eq!(
        value_of("[event.data.w, has(event.data.v)]", payload),
        Ok(json!([1, true]))
    );
    assert_eq!(
        value_of("has(event.data.v) && event.data.w == 1", payload),
        Ok(json!(true))
    );
    for path in [
        "event.data.v",
        "event.data.deep.v",
        "event.data.deep",
        "event.data",
    ] {
        let found = value_of(path, payload).expect_err(path);
        let expected = format!("`{path}` is a number or text that no value can hold");
        assert!(found.contains(&expected), "{found}");
    }
    // The others of one machine stay readable.
    assert_eq!(
        value_of("event.data.w == 1 || event.data.v == 1", payload),
        Ok(json!(true))
    );
    assert_eq!(set_x("int", "0", "event.data.n", payload), Ok(json!(0)));
}
