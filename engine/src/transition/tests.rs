//! What a machine emits is kept, whole, or its cause is dead: nothing is left out on the way.

use std::sync::Arc;

use bytes::Bytes;

use super::{apply, open_work_of};
use crate::clock::Timestamp;
use crate::event::{Event, EventType};
use crate::limits::{ENTITY_DATA_BYTES_MAX, JSON_DEPTH_MAX, MACHINE_EMITS_MAX};
use crate::machine::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, Processor, Verdict,
};
use crate::position::{RecordPosition, Sequence, SourceName, SourcePartition, StreamName, Version};
use crate::record::Outcome;
use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};

/// When every event here is admitted.
const ADMITTED: Timestamp = Timestamp(1_795_328_220_000_000);

/// Emits what it was told to.
struct Emitter {
    definition: Definition,
    emitted: Vec<Emitted>,
}

impl Emitter {
    fn new(payloads: Vec<String>) -> Self {
        let (machine, open) = (
            MachineName::new("emitter").unwrap(),
            Status::new("open").unwrap(),
        );
        let emitted = payloads.into_iter().map(|data| Emitted {
            event_type: EventType::new("made").unwrap(),
            subject: None,
            data: Arc::from(data),
        });
        Self {
            definition: Definition {
                hash: Definition::hash_of(&machine, 1, ""),
                machine,
                version: 1,
                text: Arc::from(""),
                states: vec![open.clone()],
                initial: open,
                fields: Vec::new(),
            },
            emitted: emitted.collect(),
        }
    }
}

impl Processor for Emitter {
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
        Ok(EntityKey::new("one").unwrap())
    }

    fn apply(&self, _: &EventContext<'_>, entity: &EntityState) -> Verdict {
        Verdict::Applied(Change {
            status: entity.status.clone(),
            data: entity.data.clone(),
            emitted: self.emitted.clone(),
        })
    }
}

/// A cause whose every attribute is as long as an attribute may be.
fn cause() -> Event {
    let long = |first: &str| format!("{first}{}", "é".repeat(511));
    let (id, source, correlation) = (long("i/"), long("s/"), long("c/"));
    let json = serde_json::json!({
        "specversion": "1.0", "id": id, "source": source, "type": "go", "tenantid": "acme",
        "correlationid": correlation, "subject": "one",
    });
    Event::read_json(&Bytes::from(json.to_string())).unwrap()
}

fn transition_of(payloads: Vec<String>) -> super::Transition {
    let (machine, cause) = (Emitter::new(payloads), cause());
    let context = EventContext {
        event: &cause,
        admitted_at: ADMITTED,
    };
    let key = machine.key(&context).unwrap();
    apply(&machine, &context, &key, &machine.initial())
}

#[test]
fn what_cannot_be_read_as_an_event_again_makes_its_cause_dead() {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let long = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let many = |count: usize| vec!["1".to_owned(); count];
    let one = |data: &str| vec![data.to_owned()];
    for (payloads, expected) in [
        (many(MACHINE_EMITS_MAX), None),
        (many(MACHINE_EMITS_MAX + 1), Some(DeadReason::Size)),
        (one(&long(ENTITY_DATA_BYTES_MAX)), None),
        (
            one(&long(ENTITY_DATA_BYTES_MAX + 1)),
            Some(DeadReason::Size),
        ),
        (one(&nested(JSON_DEPTH_MAX - 1)), None),
        (one(&nested(JSON_DEPTH_MAX)), Some(DeadReason::Expression)),
        (one("{\"a\":1,\"a\":2}"), Some(DeadReason::Expression)),
        (one("\"\\u0000\""), Some(DeadReason::Expression)),
        (one("no json"), Some(DeadReason::Expression)),
        (one(""), Some(DeadReason::Expression)),
        (one("1} , {"), Some(DeadReason::Expression)),
        // The one at fault stands behind one that is well.
        (
            vec!["1".to_owned(), "{".to_owned()],
            Some(DeadReason::Expression),
        ),
    ] {
        let shown: String = payloads.concat().chars().take(40).collect();
        let transition = transition_of(payloads);
        let found = transition.fault.as_ref().map(|fault| fault.reason);
        assert_eq!(found, expected, "{shown}");
        let dead = transition.effect.outcome == Outcome::Dead;
        assert_eq!(
            (dead, transition.moved.is_none()),
            (expected.is_some(), expected.is_some()),
            "{shown}: dead, and nothing else happened"
        );
    }
}

#[test]
fn r04_every_emitted_event_becomes_open_work_that_reads_back_as_it_was_made() {
    let payloads = vec!["{\"n\":1}".to_owned(), "[2]".to_owned(), "null".to_owned()];
    let (cause, moved) = (cause(), transition_of(payloads.clone()).moved.unwrap());
    let machine = MachineName::new("m".repeat(63).as_str()).unwrap();
    let position = RecordPosition {
        stream: StreamName::new("orders").unwrap(),
        source_partition: SourcePartition {
            source: SourceName::new("orders").unwrap(),
            partition: 0,
        },
        sequence: Sequence(7),
    };
    let work = open_work_of(
        &cause.tenant,
        &cause,
        &position,
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
