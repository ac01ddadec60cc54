//! Machines in Rust: what they declare is checked once, and what they answer never leaks a value.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{at, entity, go};
use crate::event::EventType;
use crate::machine::typed::{Answer, Entity, Typed, TypedEvent, TypedMachine};
use crate::machine::{DeadReason, Fault, FieldType, MachineSet, Processor, Verdict};

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
            -1 => return Ok(Answer::reject("no").emit("refused", json!({}))),
            -2 => {
                return Ok(Answer::Ignore
                    .emit("refused", json!({}))
                    .emit("more", json!({})));
            }
            -3 => return Ok(Answer::Unmatched.emit("refused", json!({}))),
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
fn an_emission_by_an_answer_that_moves_nothing_is_said_and_not_dropped() {
    let machine = Typed::new(Counter::<0>).expect("a valid machine");
    for n in [-1, -2, -3] {
        let event = go(json!({ "n": n, "note": "x" }));
        let Verdict::Dead(fault) = machine.apply(&at(&event), &machine.initial()) else {
            panic!("{n}: not dead")
        };
        assert_eq!(
            fault.detail,
            "machine `counter`: `refused` is emitted by an answer that moves nothing"
        );
    }
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

#[derive(Default, Serialize, Deserialize)]
struct Rates {
    rate: f64,
    rates: Vec<f64>,
}

/// Divides by what the event says, also by nothing.
struct Divider;

impl TypedMachine for Divider {
    type Data = Rates;
    const NAME: &'static str = "divider";
    const VERSION: u64 = 1;
    const SOURCE: &'static str = "divider 1";
    const STATES: &'static [&'static str] = &["open"];
    const EVENTS: &'static [&'static str] = &["go", "go"];
    const FIELDS: &'static [(&'static str, FieldType)] =
        &[("rate", FieldType::Double), ("rates", FieldType::List)];

    fn apply(
        &self,
        event: &TypedEvent<'_>,
        mut entity: Entity<'_, Rates>,
    ) -> Result<Answer<Rates>, Fault> {
        let by: Rates = event.data()?;
        entity.data.rate = 0.0 / by.rate;
        entity.data.rates = by.rates.iter().map(|rate| 0.0 / rate).collect();
        Ok(entity.stay())
    }
}

#[test]
fn a_machine_that_computes_nan_does_not_end_its_entity() {
    let machine = Typed::new(Divider).expect("a valid machine");
    let apply = |data| machine.apply(&at(&go(data)), &machine.initial());
    for data in [
        json!({ "rate": 0.0, "rates": [] }),
        json!({ "rate": 1.0, "rates": [1.0, 0.0] }),
    ] {
        let Verdict::Dead(fault) = apply(data) else {
            panic!("not dead")
        };
        assert!(fault.detail.contains("NaN"), "{}", fault.detail);
    }
    let fine = apply(json!({ "rate": 1.0, "rates": [2.0] }));
    assert!(matches!(fine, Verdict::Applied(_)), "{fine:?}");
}

/// A part of data that has no default of JSON's own: every way in which serde nests a number.
#[derive(Clone, Default, Serialize, Deserialize)]
enum Part {
    #[default]
    Nothing,
    One(Option<f64>),
    Two(u8, Option<f32>),
    Named {
        rate: Option<f64>,
    },
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Wrapped(Option<f64>);

#[derive(Clone, Default, Serialize, Deserialize)]
struct Maybe {
    rates: std::collections::BTreeMap<String, Option<f64>>,
    list: (Vec<Option<f64>>, Wrapped, Part),
}

/// Keeps what the test hands it, in data whose numbers may be absent.
struct Keeper(Maybe);

impl TypedMachine for Keeper {
    type Data = Maybe;
    const NAME: &'static str = "keeper";
    const VERSION: u64 = 1;
    const SOURCE: &'static str = "keeper 1";
    const STATES: &'static [&'static str] = &["open"];
    const EVENTS: &'static [&'static str] = &["go"];
    const FIELDS: &'static [(&'static str, FieldType)] =
        &[("rates", FieldType::Map), ("list", FieldType::List)];

    fn apply(
        &self,
        _: &TypedEvent<'_>,
        mut entity: Entity<'_, Maybe>,
    ) -> Result<Answer<Maybe>, Fault> {
        entity.data = self.0.clone();
        Ok(entity.stay())
    }
}

#[test]
fn nan_where_nothing_may_stand_is_not_read_back_as_nothing() {
    let of = |rate: Option<f64>| {
        let data = Maybe::default;
        let narrow = rate.map(|rate| rate as f32);
        let rates = [("a".to_owned(), rate)].into_iter().collect();
        let list = |list| Maybe { list, ..data() };
        [
            Maybe { rates, ..data() },
            list((vec![None, rate], Wrapped(None), Part::Nothing)),
            list((Vec::new(), Wrapped(rate), Part::Nothing)),
            list((Vec::new(), Wrapped(None), Part::One(rate))),
            list((Vec::new(), Wrapped(None), Part::Two(1, narrow))),
            list((Vec::new(), Wrapped(None), Part::Named { rate })),
        ]
    };
    let event = go(json!({}));
    let apply = |data| {
        let machine = Typed::new(Keeper(data)).expect("a valid machine");
        machine.apply(&at(&event), &machine.initial())
    };
    for sound in of(Some(1.5)).into_iter().chain(of(None)) {
        let verdict = apply(sound);
        assert!(matches!(verdict, Verdict::Applied(_)), "{verdict:?}");
    }
    for rate in [f64::NAN, f64::INFINITY] {
        for (case, data) in of(Some(rate)).into_iter().enumerate() {
            let Verdict::Dead(fault) = apply(data) else {
                panic!("case {case} of {rate}: not dead")
            };
            assert!(fault.detail.contains("NaN"), "{}", fault.detail);
        }
    }
}

#[test]
fn a_type_that_a_machine_lists_twice_is_offered_to_it_once() {
    let machine: Arc<dyn Processor> = Arc::new(Typed::new(Divider).expect("a valid machine"));
    let set = MachineSet::new([machine]);
    let listening = EventType::new("go").expect("a type");
    assert_eq!(set.listening_to(&listening).count(), 1);
}
