//! What a machine hands back is kept, whole, or its event is dead: nothing is left out on the way, and
//! nothing is let through that no store or reader could take.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Transition, apply, open_work_of};
use crate::clock::Timestamp;
use crate::dead_letter::{DeadLetter, DeadLetterSource};
use crate::event::{Event, EventType};
use crate::hash::Hash128;
use crate::limits::{ENTITY_DATA_BYTES_MAX, JSON_DEPTH_MAX, MACHINE_EMITS_MAX, REASON_CHARS_MAX};
use crate::machine::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, Processor, Verdict,
};
use crate::position::{RecordPosition, Sequence, SourceName, SourcePartition, StreamName, Version};
use crate::record::Outcome;
use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};
use crate::tenant::TenantId;

/// When every event here is admitted.
const ADMITTED: Timestamp = Timestamp(1_795_328_220_000_000);

/// A machine that answers what it is told to, whatever the event. It has a field of every type.
struct Answers {
    definition: Definition,
    verdict: Verdict,
}

impl Answers {
    fn new(verdict: Verdict) -> Self {
        let machine = MachineName::new("m").unwrap();
        Self {
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
        }
    }
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

/// A cause whose every attribute is as long as an attribute may be.
fn cause() -> Event {
    let long = |first: &str| format!("{first}{}", "é".repeat(511));
    let (id, source, correlation) = (long("i/"), long("s/"), long("c/"));
    let json = json!({
        "specversion": "1.0", "id": id, "source": source, "type": "go", "tenantid": "acme",
        "correlationid": correlation, "subject": "one",
    });
    Event::read_json(&Bytes::from(json.to_string())).unwrap()
}

fn answered(verdict: Verdict) -> Transition {
    let (machine, cause) = (Answers::new(verdict), cause());
    let context = EventContext {
        event: &cause,
        admitted_at: ADMITTED,
    };
    let key = machine.key(&context).unwrap();
    apply(&machine, &context, &key, &machine.initial())
}

fn position() -> RecordPosition {
    RecordPosition {
        stream: StreamName::new("orders").unwrap(),
        source_partition: SourcePartition {
            source: SourceName::new("orders").unwrap(),
            partition: 0,
        },
        sequence: Sequence(7),
    }
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

/// Sound data but for one field.
fn with(field: &str, value: Value) -> Verdict {
    let mut data = sound();
    data[field] = value;
    change(data, Vec::new())
}

/// Sound data, and an emitted event for each payload.
fn emits_each(payloads: &[String]) -> Verdict {
    let emitted = payloads.iter().map(|data| Emitted {
        event_type: EventType::new("made").unwrap(),
        subject: None,
        data: Arc::from(data.as_str()),
    });
    change(sound(), emitted.collect())
}

fn emits(data: &str) -> Verdict {
    emits_each(&[data.to_owned()])
}

fn many(count: usize) -> Verdict {
    emits_each(&vec!["1".to_owned(); count])
}

/// JSON text of that many bytes.
fn long(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}

fn deep(levels: usize) -> Value {
    serde_json::from_str(&nested(levels, "")).unwrap()
}

fn nested(levels: usize, inside: &str) -> String {
    format!("{}{inside}{}", "[".repeat(levels), "]".repeat(levels))
}

#[test]
fn what_is_just_within_the_bounds_is_kept() {
    for (case, verdict) in [
        change(sound(), Vec::new()),
        many(MACHINE_EMITS_MAX),
        emits(&long(ENTITY_DATA_BYTES_MAX)),
        emits(&nested(JSON_DEPTH_MAX - 1, "1")),
        emits("{}"),
        with("list", deep(JSON_DEPTH_MAX)),
    ]
    .into_iter()
    .enumerate()
    {
        let found = answered(verdict);
        assert_eq!(found.effect.outcome, Outcome::Applied, "{case}: {found:?}");
    }
}

#[test]
fn what_no_store_or_reader_could_take_is_dead_whoever_made_it() {
    let mut without = sound();
    without.as_object_mut().unwrap().remove("bool");

    let (expression, size) = (DeadReason::Expression, DeadReason::Size);
    let unreadable = "could not be read";
    for (verdict, reason, part) in [
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
        (
            with("list", deep(JSON_DEPTH_MAX + 1)),
            expression,
            "nest deeper",
        ),
        (with("string", json!("x".repeat(64 * 1024))), size, "65536"),
        (many(MACHINE_EMITS_MAX + 1), size, "more than 16"),
        (
            emits(&long(ENTITY_DATA_BYTES_MAX + 1)),
            size,
            "larger than 65536",
        ),
        (emits(&nested(JSON_DEPTH_MAX, "1")), expression, unreadable),
        (emits(&nested(JSON_DEPTH_MAX, "")), expression, unreadable),
        (emits("{\"a\":1,\"a\":2}"), expression, unreadable),
        (emits("\"\\u0000\""), expression, unreadable),
        (emits("{\"a\":\"\\u0000\"}"), expression, unreadable),
        (emits("no json"), expression, unreadable),
        (emits("{"), expression, unreadable),
        (emits(""), expression, unreadable),
        (emits("1} , {"), expression, unreadable),
        // The one at fault stands behind one that is well.
        (
            emits_each(&["1".to_owned(), "{".to_owned()]),
            expression,
            unreadable,
        ),
    ] {
        let shown: String = format!("{part}: {verdict:?}").chars().take(400).collect();
        let found = answered(verdict);
        assert!(found.moved.is_none(), "{shown}: nothing else happens");
        assert_eq!(found.effect.outcome, Outcome::Dead, "{shown}");
        let fault = found.fault.unwrap();
        assert_eq!(fault.reason, reason, "{shown}: {}", fault.detail);
        assert!(fault.detail.contains(part), "{shown}: {}", fault.detail);
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
    let source = DeadLetterSource::Record {
        position: position(),
        machine: MachineName::new("m").unwrap(),
        key: None,
    };
    let tenant = TenantId::new("acme").unwrap();
    let reason = DeadReason::Expression;
    let letter = DeadLetter::new(tenant, Hash128(1), reason, detail, source, ADMITTED);
    assert_eq!(letter.detail, kept);
}

#[test]
fn r04_every_emitted_event_becomes_open_work_that_reads_back_as_it_was_made() {
    let payloads = ["{\"n\":1}", "[2]", "null"].map(str::to_owned);
    let (cause, moved) = (cause(), answered(emits_each(&payloads)).moved.unwrap());
    assert_eq!(moved.emitted.len(), payloads.len(), "none is left out");
    let machine = MachineName::new("m".repeat(63).as_str()).unwrap();
    let work = open_work_of(
        &cause.tenant,
        &cause,
        &position(),
        &machine,
        &moved.emitted,
        ADMITTED,
    );
    assert_eq!(work.len(), payloads.len(), "none is left out");
    for (index, (work, payload)) in work.iter().zip(&payloads).enumerate() {
        let read = Event::read_json(&work.event).unwrap();
        let made = cause.emit(
            &machine,
            &moved.emitted[index],
            cause.emitted_id(&machine, index),
            ADMITTED,
        );
        assert_eq!(read, made);
        assert_eq!(read.data.stored_bytes(), payload.as_bytes());
        assert_eq!(read.correlation_id, cause.correlation_id);
        let named = read.causation_id.as_ref().map(|it| it.as_str().to_owned());
        assert_eq!(named.as_deref(), Some(cause.id.as_str()));
        assert_eq!((read.hops(), read.id.as_str()), (1, &*work.id.to_string()));
    }
}
