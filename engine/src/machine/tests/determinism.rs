//! R15: decisions are deterministic. The same input gives the same bytes under every hash seed and in
//! every process; machines in YAML and in Rust agree; what is rejected changes nothing; canonical state
//! survives every round trip.

use std::sync::{Arc, LazyLock};

use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::{Map, Value, json};

use super::order::ORDER_YAML;
use super::{at, event, loaded};
use crate::hash::hash_bytes;
use crate::machine::order::order_processor;
use crate::machine::{CompiledMachine, MachineDefinition, Processor, Verdict};
use crate::state::{EntityState, StateData};
use crate::transition;

/// splitmix64: cheap, seeded, and good enough to vary values.
pub(super) fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A machine that puts everything through the library's hash maps: map literals, payload objects, map
/// fields, whole states, equality, membership, errors inside maps.
const MAPS: &str = r#"
apiVersion: tidegate/v1
kind: Machine
machine: maps
version: 1
key: event.subject
initial: a
states: [a]
data:
  m: { type: map, initial: { z: 1, y: { x: 2, w: 3 } } }
  l: { type: list, initial: [] }
  same: { type: bool, initial: false }
events:
  go:
    - from: [a]
      when: event.data.m == {'a':1,'b':2,'c':3,'d':4,'e':5,'f':6,'g':7,'h':8} && 'h' in event.data.m
      set:
        m: "{'q': event.data.m, 'p': state.m, 'o': {'k': 1, 'j': 2, 'i': 3, 'h': 4}}"
        l: "[state, event.data, {'b': [1.5, 2], 'a': decimal('1.50')}]"
        same: state.m == {'y':{'w':3,'x':2},'z':1.0}
      emit:
        - type: went
          data: { all: next, was: state, got: event.data, m: "{'one': 1, 'two': 2, 'three': 3}" }
    - from: [a]
      when: has(event.data.fail)
      set:
        m: "{'f': event.data.fail, 'a': duration('1s'), 'b': {1: 2}, 'c': '\\x00', 'd': duration('2s'), 'e': {true: 1}}"
"#;

/// Everything that the machines say to a fixed run of events, as one text.
fn said() -> String {
    let mut said = String::new();
    let maps = MachineDefinition::load("maps.yaml", MAPS).expect("the machine loads");
    let keys = json!({ "a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6, "g": 7, "h": 8 });
    for data in [
        json!({ "m": keys, "n": [keys] }),
        json!({ "m": {}, "fail": 1 }),
        json!({ "m": {} }),
    ] {
        let event = event(json!({ "data": data }));
        said.push_str(&format!("{:?}\n", maps.apply(&at(&event), &maps.initial())));
    }
    let order = MachineDefinition::load("order.yaml", ORDER_YAML).expect("the machine loads");
    let mut state = order.initial();
    for (kind, data) in [
        (
            "order.placed",
            json!({ "total_cents": 1000, "b": 1, "a": 2 }),
        ),
        ("order.paid", json!({ "amount_cents": 400.0 })),
        ("order.paid", json!({ "amount_cents": "x" })),
        ("order.paid", json!({ "amount_cents": 600 })),
        ("order.paid", json!({})),
        ("order.shipped", json!({})),
    ] {
        let event = event(json!({ "type": kind, "data": data }));
        let verdict = order.apply(&at(&event), &state);
        said.push_str(&format!("{verdict:?}\n"));
        if let Verdict::Applied(change) = verdict {
            said.push_str(&change.data.to_canonical().expect("small"));
            state = EntityState {
                status: change.status,
                version: state.version.next(),
                data: change.data,
            };
        }
    }
    said
}

#[test]
fn r15_the_same_input_gives_the_same_bytes_under_a_thousand_hash_seeds() {
    let expected = said();
    assert!(
        expected.contains("Applied") && expected.contains("Dead") && expected.contains("Rejected")
    );
    // Each thread draws fresh keys for its hash maps from the system, as each process does, and each map
    // on it counts them up.
    for _ in 0..250 {
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(said)).collect();
        for thread in threads {
            assert_eq!(thread.join().expect("no panic"), expected);
        }
    }
}

#[test]
fn r15_other_processes_say_the_same_bytes() {
    const ASKED: &str = "TIDEGATE_TEST_SAY";
    let own = hash_bytes(said().as_bytes()).to_string();
    if std::env::var_os(ASKED).is_some() {
        println!("said {own}");
        return;
    }
    let binary = std::env::current_exe().expect("the path of this test binary");
    for _ in 0..3 {
        let output = std::process::Command::new(&binary)
            .args([
                "--exact",
                "--nocapture",
                "machine::tests::determinism::r15_other_processes_say_the_same_bytes",
            ])
            .env(ASKED, "1")
            .output()
            .expect("this test binary runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("said {own}")), "{text}");
    }
}

/// Compiled once: the properties below are about what it says, not about loading it.
static ORDER: LazyLock<Arc<CompiledMachine>> = LazyLock::new(|| loaded(ORDER_YAML));

/// One event of a random sequence.
fn order_event() -> impl Strategy<Value = Value> {
    let amount = prop_oneof![
        6 => (0_i64..1_500).prop_map(Value::from),
        1 => (0_i64..1_500).prop_map(|cents| json!(cents as f64)),
        1 => Just(json!(10.5)),
        1 => Just(json!("10")),
        1 => Just(Value::Null),
        1 => Just(json!(i64::MAX)),
        1 => Just(json!(-400)),
        1 => Just(json!("(absent)")),
    ];
    let kind = prop_oneof![
        3 => Just("order.placed"),
        6 => Just("order.paid"),
        2 => Just("order.shipped"),
        1 => Just("order.cancelled"),
    ];
    (kind, amount, 0_u8..12).prop_map(|(kind, amount, odd)| {
        let name = if kind == "order.placed" {
            "total_cents"
        } else {
            "amount_cents"
        };
        let mut data = json!({ "note": "…", name: amount });
        if data[name] == "(absent)" {
            data = json!({ "note": "…" });
        }
        match odd {
            0 => json!({ "type": kind, "data": data, "subject": "(absent)" }),
            1 => json!({ "type": kind, "data": "(absent)" }),
            2 => json!({ "type": kind, "data": data, "subject": "x".repeat(300) }),
            _ => json!({ "type": kind, "data": data }),
        }
    })
}

/// What a machine makes of one event, without the words of a fault: those name a file and a line.
#[derive(Debug, PartialEq)]
enum Said {
    Applied(String, String, Vec<(String, Option<String>, String)>),
    Rejected(String),
    Ignored,
    Dead(&'static str),
}

fn offer(machine: &dyn Processor, given: &Value, state: &mut EntityState) -> Said {
    let event = event(given.clone());
    let context = at(&event);
    if let Err(fault) = machine.key(&context) {
        return Said::Dead(fault.reason.as_str());
    }
    match machine.apply(&context, state) {
        Verdict::Applied(change) => {
            let text = change.data.to_canonical().expect("small").to_string();
            let emitted = change.emitted.iter().map(|emitted| {
                let subject = emitted.subject.as_ref().map(ToString::to_string);
                (
                    emitted.event_type.to_string(),
                    subject,
                    emitted.data.to_string(),
                )
            });
            let said = Said::Applied(change.status.to_string(), text, emitted.collect());
            *state = EntityState {
                status: change.status,
                version: state.version.next(),
                data: change.data,
            };
            said
        }
        Verdict::Rejected(reason) => Said::Rejected(reason),
        Verdict::Ignored => Said::Ignored,
        Verdict::Dead(fault) => Said::Dead(fault.reason.as_str()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn r15_the_order_machine_in_rust_and_in_yaml_agree_byte_for_byte(
        events in prop::collection::vec(order_event(), 1..16),
    ) {
        let yaml = &*ORDER;
        let rust = order_processor().expect("the machine is valid");
        let (mut in_yaml, mut in_rust) = (yaml.initial(), rust.initial());
        prop_assert_eq!(&in_yaml, &in_rust);
        for event in &events {
            let said = offer(yaml.as_ref(), event, &mut in_yaml);
            prop_assert_eq!(&said, &offer(&rust, event, &mut in_rust), "{}", event);
            prop_assert_eq!(&in_yaml, &in_rust);
        }
    }

    #[test]
    fn r15_what_is_not_applied_changes_nothing(
        events in prop::collection::vec(order_event(), 1..16),
    ) {
        let machine = &*ORDER;
        let mut state = machine.initial();
        for given in &events {
            let event = event(given.clone());
            let context = at(&event);
            let Ok(key) = transition::key_of(machine.as_ref(), &context) else {
                continue;
            };
            let before = (state.clone(), state.data.to_canonical());
            let transition = transition::apply(machine.as_ref(), &context, &key, &state);
            prop_assert_eq!(&before, &(state.clone(), state.data.to_canonical()));
            let applied = transition.effect.outcome == crate::record::Outcome::Applied;
            prop_assert_eq!(applied, transition.moved.is_some());
            prop_assert_eq!(applied, transition.effect.version.is_some());
            if let Some(moved) = transition.moved {
                prop_assert_eq!(moved.state.version, state.version.next());
                state = moved.state;
            }
        }
    }
}

/// A random JSON value; `size` counts the scalars made.
fn random_value(seed: &mut u64, depth: u32, size: &mut usize) -> Value {
    *size += 1;
    let choice = next(seed) % if depth == 0 { 8 } else { 10 };
    match choice {
        0 => Value::Null,
        1 => Value::from(next(seed).is_multiple_of(2)),
        2 => Value::from(next(seed) as i64),
        3 => Value::from((next(seed) % 2_000) as i64 - 1_000),
        4 => {
            // Any finite double, by its bits.
            let double = f64::from_bits(next(seed));
            Value::from(if double.is_finite() { double } else { 0.1 })
        }
        5 => Value::from((next(seed) % 1_000_000) as f64 / 1_000.0),
        6 | 7 => Value::from(random_text(seed)),
        8 => (0..next(seed) % 4)
            .map(|_| random_value(seed, depth - 1, size))
            .collect(),
        _ => Value::Object(
            (0..next(seed) % 4)
                .map(|_| (random_text(seed), random_value(seed, depth - 1, size)))
                .collect(),
        ),
    }
}

fn random_text(seed: &mut u64) -> String {
    const LETTERS: [char; 16] = [
        'a',
        'z',
        '0',
        ' ',
        '"',
        '\\',
        '/',
        '\n',
        '\u{1}',
        '\u{7f}',
        'ü',
        'ß',
        '\u{2028}',
        '漢',
        '\u{1F600}',
        '\u{10FFFF}',
    ];
    (0..next(seed) % 8)
        .map(|_| LETTERS[(next(seed) % 16) as usize])
        .collect()
}

#[test]
fn r15_canonical_state_round_trips_a_million_random_values() {
    let mut seed = 20_261_122;
    let mut values = 0;
    while values < 1_000_000 {
        let mut fields = Map::new();
        for _ in 0..(next(&mut seed) % 12) {
            let name = random_text(&mut seed);
            fields.insert(name, random_value(&mut seed, 3, &mut values));
        }
        let data = StateData(fields);
        let text = data.to_canonical().expect("small");
        let read = StateData::from_canonical(&text).expect("its own text");
        assert_eq!(read, data, "{text}");
        assert_eq!(read.to_canonical().as_ref(), Some(&text));
    }
}

#[test]
fn canonical_text_is_sorted_shortest_and_independent_of_insertion() {
    let mut one = Map::new();
    one.insert("b".to_owned(), json!(10.0));
    one.insert(
        "a".to_owned(),
        json!({ "z": 0.1, "y": 1e300, "x": [1, "\u{e9}"] }),
    );
    let mut two = Map::new();
    two.insert(
        "a".to_owned(),
        json!({ "y": 1e300, "x": [1, "é"], "z": 0.1 }),
    );
    two.insert("b".to_owned(), json!(10.0));
    let text = StateData(one).to_canonical().expect("small");
    assert_eq!(
        &*text,
        "{\"a\":{\"x\":[1,\"é\"],\"y\":1e+300,\"z\":0.1},\"b\":10.0}"
    );
    assert_eq!(Some(text), StateData(two).to_canonical());
}
