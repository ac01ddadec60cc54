//! What is wrong with a definition is told with file, line, path, message and suggestion, all at once.

use super::order::ORDER_YAML;
use super::{MachineDefinition, refused, shown};

/// Replaces one line of a text that it holds once.
fn with(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} stands once");
    text.replace(from, to)
}

/// A small machine that loads.
const SMALL: &str = "\
apiVersion: tidegate/v1
kind: Machine
machine: door
version: 1
key: event.subject
initial: shut
states: [shut, open]
data:
  turns: { type: int, initial: 0 }
  tags: { type: map, initial: {} }
events:
  door.opened:
    - from: [shut]
      when: event.data.by != ''
      to: open
      set:
        turns: state.turns + 1
      emit:
        - type: door.stood_open
          data: { turns: next.turns }
  door.shut:
    - from: [open]
      to: shut
    - from: [shut]
      reject: \"'already shut'\"
on_unmatched: reject
tests:
  - name: opened
    given:
      - { type: door.opened, subject: d1, data: { by: me } }
    expect:
      outcomes: [applied]
      entities: { d1: { status: open, version: 1, data: { turns: 1 } } }
";

#[test]
fn the_small_machine_loads() {
    MachineDefinition::load("m.yaml", SMALL).unwrap_or_else(|errors| panic!("{}", shown(&errors)));
}

/// (what to replace, by what, the error as it is shown)
const TABLE: &[(&str, &str, &str)] = &[
    // The header.
    (
        "tidegate/v1",
        "tidegate/v2",
        "m.yaml:1: apiVersion: expected `tidegate/v1`, found `tidegate/v2`",
    ),
    (
        "kind: Machine",
        "kind: machine",
        "m.yaml:2: kind: expected `Machine`, found `machine`",
    ),
    (
        "kind: Machine\n",
        "",
        "m.yaml:1: the key `kind` is missing; like `kind: Machine`",
    ),
    (
        "machine: door",
        "machine: Front Door",
        "m.yaml:3: machine: expected 1 to 63 of a-z, 0-9, `-` and `_`, beginning with a letter or digit, found `Front Door` (10 bytes)",
    ),
    (
        "machine: door",
        "machine: 7",
        "m.yaml:3: machine: expected text, found an integer; put it in quotes if it is meant as text",
    ),
    (
        "version: 1\nkey",
        "version: 0\nkey",
        "m.yaml:4: version: expected an integer from 1, found an integer",
    ),
    (
        "version: 1\nkey",
        "version: one\nkey",
        "m.yaml:4: version: expected an integer from 1, found text",
    ),
    (
        "machine: door",
        "machin: door",
        "m.yaml:3: there is no key `machin`; did you mean `machine`?",
    ),
    (
        "kind: Machine\n",
        "kind: Machine\nkind: Machine\n",
        "m.yaml:3: kind: `kind` stands twice, first on line 2",
    ),
    (
        "on_unmatched: reject",
        "on_unmatched: rejects",
        "m.yaml:26: on_unmatched: there is no choice `rejects`; did you mean `reject`?",
    ),
    // Key.
    (
        "key: event.subject",
        "key: state.turns",
        "m.yaml:5: key: `state` does not exist here: the entity is not known before its key",
    ),
    (
        "key: event.subject",
        "key: ''",
        "m.yaml:5: key: the expression is empty",
    ),
    (
        "key: event.subject",
        "key: [a]",
        "m.yaml:5: key: expected an expression, found a list; write CEL in quotes: \"[1, 2]\" or \"{'name': event.data.name}\"",
    ),
    // States.
    (
        "initial: shut",
        "initial: shutt",
        "m.yaml:6: initial: there is no state `shutt`; did you mean `shut`?",
    ),
    (
        "[shut, open]\ndata",
        "[shut, open, shut]\ndata",
        "m.yaml:7: states[2]: the state `shut` stands twice",
    ),
    (
        "[shut, open]\ndata",
        "[shut, open, Ajar]\ndata",
        "m.yaml:7: states[2]: expected 1 to 63 of a-z, 0-9, `-` and `_`, beginning with a letter or digit, found `Ajar` (4 bytes)",
    ),
    (
        "[shut, open]\ndata",
        "[shut, open, true]\ndata",
        "m.yaml:7: states[2]: expected text, found a boolean; put it in quotes if it is meant as text",
    ),
    (
        "[shut, open]\ndata",
        "[shut, open, ajar]\ndata",
        "m.yaml:7: states: no event ever leads to the state `ajar`; give a candidate `to: ajar`, or leave the state out",
    ),
    // Fields.
    (
        "turns: { type: int, initial: 0 }",
        "turns: { type: integer, initial: 0 }",
        "m.yaml:9: data.turns.type: there is no type `integer`; the types are `int`, `double`, `decimal`, `string`, `bool`, `timestamp`, `list` and `map`",
    ),
    (
        "turns: { type: int, initial: 0 }",
        "turns: { type: imt, initial: 0 }",
        "m.yaml:9: data.turns.type: there is no type `imt`; did you mean `int`?",
    ),
    (
        "turns: { type: int, initial: 0 }",
        "turns: { type: int, initial: zero }",
        "m.yaml:9: data.turns.initial: expected int, found string",
    ),
    (
        "turns: { type: int, initial: 0 }",
        "turns: { type: int, initial: 0.5 }",
        "m.yaml:9: data.turns.initial: this double is not exactly one int",
    ),
    (
        "turns: { type: int, initial: 0 }",
        "turns: { type: int }",
        "m.yaml:9: data.turns: the key `initial` is missing; like `initial: 0`",
    ),
    (
        "turns: { type: int, initial: 0 }",
        "turns: 0",
        "m.yaml:9: data.turns: expected a mapping, found an integer",
    ),
    (
        "  tags: { type: map",
        "  Tags: { type: map",
        "m.yaml:10: data.Tags: a field's name is a-z, 0-9 and `_`, beginning with a letter, at most 63 bytes",
    ),
    // Candidates.
    (
        "      to: open\n",
        "      to: opened\n",
        "m.yaml:15: events.door.opened[0].to: there is no state `opened`; did you mean `open`?",
    ),
    (
        "from: [open]",
        "from: [closed]",
        "m.yaml:22: events.door.shut[0].from[0]: there is no state `closed`; the states are `shut` and `open`",
    ),
    (
        "from: [open]",
        "from: []",
        "m.yaml:22: events.door.shut[0].from: the list is empty",
    ),
    (
        "    - from: [open]\n      to: shut\n",
        "    - to: shut\n",
        "m.yaml:22: events.door.shut[0]: the key `from` is missing; like `from: [new]`",
    ),
    (
        "    - from: [open]\n      to: shut\n",
        "    - from: [open]\n",
        "m.yaml:22: events.door.shut[0]: the candidate does nothing; say what it does: `to`, `set`, `emit` or `reject`",
    ),
    (
        "      reject: \"'already shut'\"",
        "      reject: \"'already shut'\"\n      to: open",
        "m.yaml:26: events.door.shut[1].to: a candidate that rejects changes nothing, so `to` cannot stand here",
    ),
    (
        "      reject: \"'already shut'\"",
        "      reject: already",
        "m.yaml:25: events.door.shut[1].reject: `already` is no variable; here there is `event`, `state`, `status` and `version`; text keeps its own quotes inside CEL: write \"'already'\"",
    ),
    (
        "      reject: \"'already shut'\"",
        "      reject: 7",
        "m.yaml:25: events.door.shut[1].reject: expected text, found int",
    ),
    (
        "    - from: [shut]\n      reject",
        "    - from: [open]\n      reject",
        "m.yaml:24: events.door.shut[1]: it is never tried: the candidate on line 22 has no `when` and takes every such event; put the candidate with the condition first",
    ),
    (
        "      when: event",
        "      wenn: event",
        "m.yaml:14: events.door.opened[0]: there is no key `wenn`; did you mean `when`?",
    ),
    (
        "when: event.data.by != ''",
        "when: 1",
        "m.yaml:14: events.door.opened[0].when: expected true or false, found int",
    ),
    // Names in expressions.
    (
        "when: event.data.by",
        "when: evnt.data.by",
        "m.yaml:14: events.door.opened[0].when: `evnt` is no variable; here there is `event`, `state`, `status` and `version`; did you mean `event`?",
    ),
    (
        "when: event.data.by",
        "when: turns",
        "m.yaml:14: events.door.opened[0].when: `turns` is no variable; here there is `event`, `state`, `status` and `version`; the field is `state.turns`",
    ),
    (
        "when: event.data.by",
        "when: next.turns",
        "m.yaml:14: events.door.opened[0].when: `next` does not exist here: only `emit` sees the fields after",
    ),
    (
        "turns: state.turns + 1",
        "turns: state.turn + 1",
        "m.yaml:17: events.door.opened[0].set.turns: `state` has no field `turn`; did you mean `turns`?",
    ),
    (
        "turns: state.turns + 1",
        "turns: state.status + 1",
        "m.yaml:17: events.door.opened[0].set.turns: `state` has no field `status`; `status` is a variable of its own",
    ),
    (
        "turns: state.turns + 1",
        "turns: state.turns.high + 1",
        "m.yaml:17: events.door.opened[0].set.turns: `state.turns` is declared `int` and has no fields",
    ),
    (
        "turns: state.turns + 1",
        "turn: state.turns + 1",
        "m.yaml:17: events.door.opened[0].set.turn: there is no field `turn`; did you mean `turns`?",
    ),
    (
        "turns: state.turns + 1",
        "turns: \"'one'\"",
        "m.yaml:17: events.door.opened[0].set.turns: expected int, found string",
    ),
    (
        "turns: state.turns + 1",
        "turns: 1 / 0",
        "m.yaml:17: events.door.opened[0].set.turns: `/`: division by zero",
    ),
    (
        "turns: state.turns + 1",
        "turns: ~",
        "m.yaml:17: events.door.opened[0].set.turns: expected int, found null",
    ),
    (
        "turns: state.turns + 1",
        "turns: state.turns +",
        "m.yaml:17: events.door.opened[0].set.turns: not CEL, at its column ",
    ),
    (
        "turns: state.turns + 1",
        "turns: int(state.turns",
        "put the whole expression in quotes or a block (`|`)",
    ),
    (
        "turns: state.turns + 1",
        "turns: sise(state.tags)",
        "m.yaml:17: events.door.opened[0].set.turns: there is no function `sise`; did you mean `size`?",
    ),
    (
        "turns: state.turns + 1",
        "turns: size(state.tags, 1)",
        "m.yaml:17: events.door.opened[0].set.turns: `size` takes 1 argument",
    ),
    (
        "turns: state.turns + 1",
        "turns: contains(event.id, '1')",
        "there is no function `contains`; `contains` is called on a value: `value.contains(…)`",
    ),
    (
        "turns: state.turns + 1",
        "turns: event.id.startWith('1')",
        "there is no method `startWith`; did you mean `startsWith`?",
    ),
    (
        "turns: state.turns + 1",
        "turns: event.data.l.map(1)",
        "`map` takes the name of a variable and an expression; `list.map(item, …)`",
    ),
    (
        "turns: state.turns + 1",
        "turns: event.data.l.map(event, 1).size()",
        "`event` is already the name of a variable",
    ),
    (
        "turns: state.turns + 1",
        "turns: size(event)",
        "`event` itself is no value; name an attribute, like `event.subject`, or `event.data`",
    ),
    (
        "turns: state.turns + 1",
        "turns: size(event.subjct)",
        "`event.subjct` looks like a mistyped attribute; did you mean `subject`? If it is an extension attribute, write `event['subjct']`",
    ),
    (
        "turns: state.turns + 1",
        "turns: size(event.Subject)",
        "`event.Subject` is no attribute: they are lower-case letters and digits; did you mean `subject`?",
    ),
    (
        "turns: state.turns + 1",
        "turns: size(event.amount_cents)",
        "the payload's fields are `event.data.amount_cents`",
    ),
    (
        "turns: state.turns + 1",
        "turns: size(event.subject.first)",
        "`event.subject` has no fields",
    ),
    (
        "turns: state.turns + 1",
        "turns: size(event.causedby)",
        "`event.causedby` is not for machines: it can be redacted, so no state may depend on it",
    ),
    (
        "turns: state.turns + 1",
        "turns: version.major",
        "`version` has no fields",
    ),
    // Emitted events.
    (
        "type: door.stood_open",
        "typ: door.stood_open",
        "m.yaml:19: events.door.opened[0].emit[0]: there is no key `typ`; did you mean `type`?",
    ),
    (
        "data: { turns: next.turns }",
        "data: { turns: next.turn }",
        "m.yaml:20: events.door.opened[0].emit[0].data.turns: `next` has no field `turn`; did you mean `turns`?",
    ),
    (
        "data: { turns: next.turns }",
        "data: next",
        "m.yaml:20: events.door.opened[0].emit[0].data: expected a mapping, found text",
    ),
    // Tests.
    (
        "outcomes: [applied]",
        "outcomes: [aplied]",
        "m.yaml:32: tests[0].expect.outcomes[0]: there is no outcome `aplied`; did you mean `applied`?",
    ),
    (
        "outcomes: [applied]",
        "outcomes: [applied, applied]",
        "m.yaml:32: tests[0].expect.outcomes: 2 outcomes for 1 given events",
    ),
    (
        "status: open, version",
        "status: opne, version",
        "m.yaml:33: tests[0].expect.entities.d1.status: there is no state `opne`; did you mean `open`?",
    ),
    (
        "data: { turns: 1 }",
        "data: { turn: 1 }",
        "m.yaml:33: tests[0].expect.entities.d1.data.turn: there is no field `turn`; did you mean `turns`?",
    ),
    (
        "data: { turns: 1 }",
        "data: { turns: '1' }",
        "m.yaml:33: tests[0].expect.entities.d1.data.turns: expected int, found string",
    ),
    (
        "{ type: door.opened, subject: d1, data",
        "{ subject: d1, data",
        "m.yaml:30: tests[0].given[0]: unreadable event: type: the attribute is missing",
    ),
    (
        "{ type: door.opened, subject: d1, data",
        "{ type: door.opened, Subject: d1, data",
        "m.yaml:30: tests[0].given[0]: unreadable event: Subject: attribute names are",
    ),
    (
        "tags: { type: map, initial: {} }",
        "version: { type: int, initial: 0 }\n  field_version: { type: int, initial: 0 }",
        "m.yaml:11: data.field_version: the field `version` is the column `field_version` of the machine's view",
    ),
    (
        "  - name: opened\n    given",
        "  - given",
        "m.yaml:28: tests[0]: the key `name` is missing; like `name: paid in full`",
    ),
];

/// The first YAML example of the reference is a whole machine.
#[test]
fn the_example_of_the_reference_loads_and_holds() {
    let reference = include_str!("../../../../docs/machines.md");
    let (_, rest) = reference.split_once("```yaml\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    let machine = super::loaded(example);
    for case in machine.cases() {
        let result = case.run(machine.as_ref());
        assert!(result.holds(), "{:#?}", result.differences);
    }
}

#[test]
fn each_mistake_is_told_with_its_line_path_and_suggestion() {
    for (from, to, expected) in TABLE {
        let errors = refused(&with(SMALL, from, to));
        let shown = shown(&errors);
        assert!(
            shown.contains(expected),
            "{from:?} → {to:?}\nexpected {expected}\nfound    {shown}"
        );
    }
}

#[test]
fn one_mistake_is_one_error() {
    for (from, to, expected) in TABLE {
        let text = with(SMALL, from, to);
        let errors = refused(&text);
        assert_eq!(errors.len(), 1, "{to:?} ({expected}): {}", shown(&errors));
    }
}

#[test]
fn all_errors_of_a_file_come_at_once_in_order_of_line() {
    let text = TABLE
        .iter()
        .filter(|(from, to, _)| {
            [
                "kind: machine",
                "initial: shutt",
                "turns: { type: imt, initial: 0 }",
                "      to: opened\n",
                "turns: state.turn + 1",
                "data: { turns: next.turn }",
                "on_unmatched: rejects",
                "outcomes: [aplied]",
            ]
            .contains(to)
                && !from.is_empty()
        })
        .fold(SMALL.to_owned(), |text, (from, to, _)| {
            with(&text, from, to)
        });
    let errors = refused(&text);
    let lines: Vec<u32> = errors.iter().map(|error| error.line).collect();
    assert_eq!(lines, [2, 6, 9, 15, 17, 20, 26, 32], "{}", shown(&errors));
}

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    let text = with(
        SMALL,
        "when: event.data.by != ''",
        "when: event.data.by != '' ? true : false",
    );
    let errors = refused(&text);
    assert_eq!(errors[0].line, 14, "{}", shown(&errors));
    assert!(
        shown(&errors).contains("stands in quotes or in a block"),
        "{}",
        shown(&errors)
    );
    assert_eq!(refused("").len(), 1);
    assert_eq!(
        refused("- a\n- b\n")[0].message,
        "expected a mapping, found a list"
    );
}

#[test]
fn words_without_quotes_of_their_own_are_shown_with_them() {
    for (text, shown_with) in [
        ("'it runs backwards'", "\"'it runs backwards'\""),
        ("no, it does not", "\"'no, it does not'\""),
    ] {
        let text = with(SMALL, "to: open", &format!("reject: {text}"));
        let shown = shown(&refused(&text));
        assert!(shown.contains(shown_with), "{shown}");
    }
    let text = with(SMALL, "to: open", "reject: 1 +");
    let shown = shown(&refused(&text));
    assert!(!shown.contains("quotes of its own"), "{shown}");
}

#[test]
fn an_expression_cut_by_flow_style_says_what_happened() {
    let text = with(
        SMALL,
        "data: { turns: next.turns }",
        "data: { turns: int(next.turns, 1) }",
    );
    let shown = shown(&refused(&text));
    assert!(shown.contains("YAML cut it"), "{shown}");
}

#[test]
fn any_mutilation_of_a_definition_is_an_error_and_never_a_panic() {
    // Every prefix, and every line left out: what an editor saves halfway.
    for cut in 0..ORDER_YAML.len() {
        if ORDER_YAML.is_char_boundary(cut) && cut % 7 == 0 {
            let _ = MachineDefinition::load("m.yaml", &ORDER_YAML[..cut]);
        }
    }
    let lines: Vec<&str> = ORDER_YAML.lines().collect();
    for left_out in 0..lines.len() {
        let text: Vec<&str> = lines
            .iter()
            .enumerate()
            .filter(|(line, _)| *line != left_out)
            .map(|(_, text)| *text)
            .collect();
        let _ = MachineDefinition::load("m.yaml", &text.join("\n"));
    }
}

#[test]
fn no_text_makes_the_expression_parser_panic() {
    const PARTS: [&str; 34] = [
        "event",
        "data",
        ".",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "'",
        "\"",
        "\\",
        "1",
        "1.5",
        "1u",
        "e9",
        "+",
        "-",
        "*",
        "/",
        "%",
        "&&",
        "||",
        "!",
        "in",
        "has",
        "map",
        "size",
        "\u{1F600}",
        " ",
        "\n",
    ];
    let mut seed = 7_u64;
    for _ in 0..400 {
        let mut expression = String::new();
        for _ in 0..(super::determinism::next(&mut seed) % 14) {
            let part = super::determinism::next(&mut seed) as usize % PARTS.len();
            expression.push_str(PARTS[part]);
        }
        let quoted = format!(
            "\"{}\"",
            expression
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n")
        );
        let _ = MachineDefinition::load("m.yaml", &with(SMALL, "state.turns + 1", &quoted));
    }
}
