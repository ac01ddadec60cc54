//! What a person does to dead letters: each decision is a commit of its own, in the log, replayable, and
//! taken once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tidegate::machines;
use tidegate::operator::{Decision, DecisionError, Operator};
use tidegate::runtime::{RandomIds, RuntimeSpawner, SystemClock, arbiters};
use tidegate_actors::{Node, NodeOptions, NodeSeams, Source};
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_engine::bus::Start;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::dead_letter::{DeadLetterSource, DeadLetterState};
use tidegate_engine::event::CausedBy;
use tidegate_engine::follow_up::Decided;
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::{DeadReason, MachineDefinition, MachineSet, Processor};
use tidegate_engine::position::{
    Incarnation, Offset, RecordPosition, Sequence, SourceName, SourcePartition, StreamName,
    StreamPartition,
};
use tidegate_engine::record::{Outcome, Record, RecordBody, split_segment};
use tidegate_engine::state::MachineName;
use tidegate_engine::store::{DeadLetterFilter, StateStore, StoredDeadLetter};
use tidegate_engine::tenant::{TenantBinding, TenantId};
use tidegate_engine::verify::{VerifyOptions, stored_record, verify};

/// Version 1 takes numbers; version 2 takes text too.
pub(super) fn account(version: u64) -> Arc<dyn Processor> {
    let amount = match version {
        1 => "event.data.amount",
        _ => "int(event.data.amount)",
    };
    let text = format!(
        "apiVersion: tidegate/v1\nkind: Machine\nmachine: account\nversion: {version}\n\
         key: event.subject\ninitial: open\nstates: [open, shut]\n\
         data:\n  total: {{ type: int, initial: 0 }}\n\
         events:\n  paid:\n    - from: [open]\n      set:\n        total: state.total + {amount}\n\
         \x20     emit:\n        - {{ type: booked }}\n    - from: [shut]\n      reject: \"'shut'\"\n\
         \x20 shut:\n    - from: [open]\n      to: shut\n"
    );
    MachineDefinition::load("account.yaml", &text).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Settles deliveries of one source partition with a node of its own.
pub(super) fn settle(
    store: Arc<dyn StateStore>,
    machines: &MachineSet,
    runtime: &tokio::runtime::Runtime,
    deliveries: &[String],
) {
    let bus = MemoryBusHandle::new(SourceName::new("pay").unwrap());
    bus.create_partition(0, Incarnation::new("one").unwrap());
    for delivery in deliveries {
        bus.append(0, delivery.clone()).unwrap();
    }
    bus.finish(0);
    actix::System::new().block_on(async {
        let consumer = bus.consumer();
        bus.assign(0, consumer.id());
        let seams = NodeSeams {
            store,
            machines: machines.clone(),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            spawner: Arc::new(RuntimeSpawner(runtime.handle().clone())),
            placement: arbiters(1),
        };
        let source = Source {
            bus: Arc::new(consumer),
            stream: StreamName::new("payments").unwrap(),
            tenant: TenantBinding::Fixed(tenant()),
            mapping: None,
            secrets: tidegate_engine::secrets::SecretPolicy::Off,
            start: Start::Earliest,
        };
        let node = Node::start(NodeOptions::default(), seams, vec![source]);
        node.ended().await.unwrap();
        assert!(node.drain(Duration::from_secs(10)).await.drained);
    });
}

struct Fixture {
    store: MemoryStore,
    machines: MachineSet,
    runtime: tokio::runtime::Runtime,
}

pub(super) fn tenant() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn event(id: &str, event_type: &str, data: serde_json::Value) -> String {
    json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": event_type,
        "tenantid": "acme", "subject": "k", "data": data,
    })
    .to_string()
}

impl Fixture {
    /// Settles deliveries with version 1 of the machine.
    fn with(deliveries: &[String]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = MemoryStore::new();
        let machines = runtime
            .block_on(machines::activate(&store, vec![account(1)], Timestamp(1)))
            .unwrap();
        settle(Arc::new(store.clone()), &machines, &runtime, deliveries);
        Self {
            store,
            machines,
            runtime,
        }
    }

    /// Activates version 2.
    fn upgrade(&mut self) {
        self.machines = self
            .runtime
            .block_on(machines::activate(
                &self.store,
                vec![account(2)],
                Timestamp(2),
            ))
            .unwrap();
    }

    fn letters(&self) -> Vec<StoredDeadLetter> {
        let filter = DeadLetterFilter::default();
        self.runtime
            .block_on(self.store.dead_letters(&tenant(), filter, 100))
            .unwrap()
    }

    fn letter(&self, reason: DeadReason) -> StoredDeadLetter {
        let letters = self.letters();
        let mut of = letters.into_iter().filter(|l| l.letter.reason == reason);
        of.next().unwrap()
    }

    fn decide(&self, id: Hash128, decision: &Decision) -> Result<Decided, DecisionError> {
        let mappings = BTreeMap::new();
        let operator = Operator {
            mappings: &mappings,
            store: &self.store,
            machines: &self.machines,
            clock: &SystemClock,
            ids: &RandomIds,
            owner: "test".to_owned(),
            by: CausedBy::new("operator:ada").unwrap(),
        };
        let tenant = tenant();
        self.runtime
            .block_on(operator.decide(&tenant, id, decision))
    }

    fn state(&self) -> (u64, String) {
        let entities = self
            .runtime
            .block_on(self.store.entities(&tenant(), None, 10))
            .unwrap();
        (entities[0].version.0, entities[0].data.to_string())
    }

    fn verify(&self) {
        let report = self.runtime.block_on(async {
            let machines = machines::by_hash(&self.store, &[]).await.unwrap();
            let options = VerifyOptions::default();
            verify(&self.store, &machines, &options, &mut |_| {}).await
        });
        assert_eq!(report.unwrap().differences, []);
    }
}

const RETRY: Decision = Decision::Retry { stream: None };

#[test]
fn a_retried_event_takes_effect_once_on_the_state_as_it_is_now_and_replays() {
    let mut fixture = Fixture::with(&[
        event("1", "paid", json!({"amount": 5})),
        event("2", "paid", json!({"amount": "10"})),
        event("3", "paid", json!({"amount": 7})),
    ]);
    let letter = fixture.letter(DeadReason::Expression);
    let id = letter.letter.id;
    // With the machine that could not read it, it is dead again: one attempt more, nothing else.
    let decided = fixture.decide(id, &RETRY).unwrap();
    assert!(matches!(decided, Decided::StillDead { .. }), "{decided:?}");
    let letter = fixture.letter(DeadReason::Expression);
    assert_eq!((letter.state, letter.attempts), (DeadLetterState::Open, 2));
    assert_eq!(fixture.state(), (2, "{\"total\":12}".to_owned()));
    fixture.verify();

    fixture.upgrade();
    let decided = fixture.decide(id, &RETRY).unwrap();
    let applied = Decided::Took {
        outcome: Outcome::Applied,
        reason: None,
    };
    assert_eq!(decided, applied);
    assert_eq!(fixture.state(), (3, "{\"total\":22}".to_owned()));
    assert_eq!(
        fixture.letter(DeadReason::Expression).state,
        DeadLetterState::Retried
    );
    // The follow-up stands in the log, points to the event and names who did it.
    let at = "payments:operator/0:0".parse().unwrap();
    let record = fixture
        .runtime
        .block_on(stored_record(&fixture.store, &tenant(), &at))
        .unwrap()
        .unwrap();
    let RecordBody::FollowUp { of, by, .. } = record.body else {
        panic!("{record:?}")
    };
    assert_eq!(of.to_string(), "payments:pay/0:1");
    assert_eq!(by.as_str(), "operator:ada");
    // What it emitted is taken up with it, in the log of the same source partition.
    let at = "internal:operator/0:0".parse().unwrap();
    let emitted = fixture
        .runtime
        .block_on(stored_record(&fixture.store, &tenant(), &at))
        .unwrap()
        .unwrap();
    assert_eq!(
        emitted.cause.unwrap().to_string(),
        "payments:operator/0:0",
        "the retry, not the event"
    );
    let RecordBody::Event(emitted) = emitted.body else {
        panic!("no event")
    };
    let place = tidegate_engine::follow_up::operator();
    let open = fixture.store.tenants_with_open_work(&place, None, 10);
    assert_eq!(fixture.runtime.block_on(open).unwrap(), []);
    // Its time is the cause's: without one in the envelope, when the cause was admitted, not retried.
    let acme = tenant();
    let cause = stored_record(&fixture.store, &acme, &of);
    let cause = fixture.runtime.block_on(cause).unwrap().unwrap();
    let time = emitted.time.unwrap().text;
    assert_eq!(time.as_str(), cause.admitted_at.to_rfc3339());
    assert!(record.admitted_at > cause.admitted_at);
    fixture.verify();

    let again = fixture.decide(id, &RETRY).unwrap_err();
    assert!(matches!(again, DecisionError::NotOpen { .. }), "{again}");
    assert_eq!(fixture.state().0, 3);
}

#[test]
fn a_retry_that_the_machine_refuses_is_closed_with_its_reason() {
    let mut fixture = Fixture::with(&[
        event("1", "paid", json!({"amount": "10"})),
        event("2", "shut", json!({})),
    ]);
    fixture.upgrade();
    let id = fixture.letter(DeadReason::Expression).letter.id;
    let decided = fixture.decide(id, &RETRY).unwrap();
    let refused = Decided::Took {
        outcome: Outcome::Rejected,
        reason: Some("shut".to_owned()),
    };
    assert_eq!(decided, refused);
    fixture.verify();
}

#[test]
fn what_is_discarded_never_takes_effect() {
    let mut fixture = Fixture::with(&[
        event("1", "paid", json!({"amount": 5})),
        event("2", "paid", json!({"amount": "10"})),
    ]);
    fixture.upgrade();
    let id = fixture.letter(DeadReason::Expression).letter.id;
    assert_eq!(
        fixture.decide(id, &Decision::Discard).unwrap(),
        Decided::GivenUp
    );
    let letter = fixture.letter(DeadReason::Expression);
    assert_eq!(
        (letter.state, letter.attempts),
        (DeadLetterState::Discarded, 1)
    );
    let retried = fixture.decide(id, &RETRY).unwrap_err();
    assert_eq!(
        retried.to_string(),
        format!("dead letter {id} is discarded already")
    );
    assert_eq!(fixture.state(), (1, "{\"total\":5}".to_owned()));
    fixture.verify();
}

#[test]
fn what_never_became_an_event_is_read_again_or_given_up() {
    let conflict = event("1", "paid", json!({"amount": 6}));
    let fixture = Fixture::with(&[
        event("1", "paid", json!({"amount": 5})),
        conflict,
        "no event".to_owned(),
    ]);
    let unreadable = fixture.letter(DeadReason::Unreadable);
    let decided = fixture.decide(unreadable.letter.id, &RETRY).unwrap();
    assert!(matches!(decided, Decided::StillDead { .. }), "{decided:?}");
    assert_eq!(fixture.letter(DeadReason::Unreadable).attempts, 2);

    let conflict = fixture.letter(DeadReason::Conflict);
    let error = fixture.decide(conflict.letter.id, &RETRY).unwrap_err();
    assert!(error.to_string().contains("discard it"), "{error}");
    for letter in [unreadable, conflict] {
        let given_up = fixture.decide(letter.letter.id, &Decision::Discard);
        assert_eq!(given_up.unwrap(), Decided::GivenUp);
    }
    assert!(
        fixture
            .letters()
            .iter()
            .all(|letter| letter.state == DeadLetterState::Discarded)
    );
    fixture.verify();
    let missing = fixture.decide(Hash128(7), &RETRY).unwrap_err();
    assert!(matches!(missing, DecisionError::NotFound { .. }));
}

#[test]
fn bytes_that_became_readable_are_admitted_like_any_event() {
    // The source believed no tenant but its own; what it kept under that tenant is a good event.
    let fixture = Fixture::with(&[event("1", "paid", json!({"amount": 5}))]);
    let letter = fixture.keep_raw(event("2", "paid", json!({"amount": 9})));
    let error = fixture.decide(letter, &RETRY);
    // Its source partition has one stream of this tenant: that is the one.
    let Ok(Decided::Admitted(counts)) = error else {
        panic!("{error:?}")
    };
    assert_eq!((counts.admitted, counts.applied), (1, 1));
    assert_eq!(fixture.state(), (2, "{\"total\":14}".to_owned()));
    fixture.verify();
    // The same once more, under another letter: its key is known by now.
    let letter = fixture.keep_raw(event("2", "paid", json!({"amount": 9})));
    let Ok(Decided::Admitted(counts)) = fixture.decide(letter, &RETRY) else {
        panic!("admitted before")
    };
    assert_eq!((counts.admitted, counts.duplicates), (0, 1));
    assert_eq!(fixture.state().0, 2);
    fixture.verify();
}

#[test]
fn a_letter_whose_event_retention_dropped_can_still_be_closed() {
    let fixture = Fixture::with(&[event("1", "paid", json!({"amount": 5}))]);
    let letter = fixture.keep_beyond_retention();
    let error = fixture.decide(letter, &RETRY).unwrap_err();
    assert!(error.to_string().contains("discard the letter"), "{error}");
    assert_eq!(
        fixture.decide(letter, &Decision::Discard).unwrap(),
        Decided::GivenUp
    );
    let letter = fixture.letter(DeadReason::Expression);
    assert_eq!(letter.state, DeadLetterState::Discarded);
    assert_eq!(fixture.state(), (1, "{\"total\":5}".to_owned()));
}

#[test]
fn two_people_who_decide_at_once_decide_once() {
    let mut fixture = Fixture::with(&[
        event("1", "paid", json!({"amount": 5})),
        event("2", "paid", json!({"amount": "10"})),
    ]);
    fixture.upgrade();
    let id = fixture.letter(DeadReason::Expression).letter.id;
    let fixture = Arc::new(fixture);
    let decided: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let fixture = fixture.clone();
                scope.spawn(move || fixture.decide(id, &RETRY))
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let won = decided.iter().filter(|decided| decided.is_ok()).count();
    assert_eq!(won, 1, "{decided:?}");
    assert_eq!(fixture.state(), (2, "{\"total\":15}".to_owned()));
    fixture.verify();
}

impl Fixture {
    /// Keeps bytes as unreadable, as an earlier release would have that could not read them.
    fn keep_raw(&self, payload: String) -> Hash128 {
        self.keep(DeadReason::Unreadable, |source_partition| {
            DeadLetterSource::Raw {
                source_partition,
                offset: Some(Offset(90)),
                payload: Bytes::from(payload),
            }
        })
    }

    /// Keeps a letter about an event that is not in the log, as retention leaves it.
    fn keep_beyond_retention(&self) -> Hash128 {
        self.keep(DeadReason::Expression, |source_partition| {
            DeadLetterSource::Record {
                position: RecordPosition {
                    stream: StreamName::new("payments").unwrap(),
                    source_partition,
                    sequence: Sequence(7_000),
                },
                machine: MachineName::new("account").unwrap(),
                key: None,
            }
        })
    }

    /// Commits a letter behind the source's back.
    fn keep(
        &self,
        reason: DeadReason,
        source: impl FnOnce(SourcePartition) -> DeadLetterSource,
    ) -> Hash128 {
        use tidegate_engine::commit::{CommitBatch, CommitPath, CommitReply};
        use tidegate_engine::dead_letter::DeadLetter;
        let source_partition = SourcePartition {
            source: SourceName::new("pay").unwrap(),
            partition: 0,
        };
        self.runtime.block_on(async {
            let mut checkpoint = self
                .store
                .checkpoint(&source_partition)
                .await
                .unwrap()
                .unwrap();
            checkpoint.progress.counts.unreadable += u64::from(reason == DeadReason::Unreadable);
            let id = Hash128(u128::from(checkpoint.revision.0));
            let letter = DeadLetter::new(
                tenant(),
                id,
                reason,
                "as an earlier release said it".to_owned(),
                source(source_partition.clone()),
                Timestamp(3),
            );
            let batch = CommitBatch {
                source_partition,
                epoch: checkpoint.epoch,
                revision: checkpoint.revision,
                path: CommitPath::Fast,
                tenants: vec![tenant()],
                progress: checkpoint.progress,
                segments: Vec::new(),
                dedupe: Vec::new(),
                entities: Vec::new(),
                reads: Vec::new(),
                open_work: Vec::new(),
                work_done: Vec::new(),
                dead_letters: vec![letter],
                dead_letter_updates: Vec::new(),
                at: Timestamp(3),
            };
            let reply = self.store.commit(Arc::new(batch)).await.unwrap();
            assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
            id
        })
    }
}

/// Ids that a careless layer would trim, escape, fold or re-encode.
const IDS: [&str; 8] = [
    "c-1",
    "  spaced \u{a0}",
    "quote ' \" \\ / \\u0041 \\n",
    "${env:HOME} {{x}} %s $1 ?",
    "é e\u{301} ﬁ \u{212b}",
    "日本語 \u{202e}rtl \u{200b}",
    "\u{1f980}\u{fffd}\u{10ffff}",
    "null",
];

#[test]
fn r04_correlation_and_causation_ids_are_the_same_bytes_all_the_way() {
    let mut deliveries = Vec::new();
    for (number, correlation) in IDS.iter().enumerate() {
        let causation = IDS[IDS.len() - 1 - number];
        for (kind, amount) in [("good", json!(1)), ("dead", json!("1"))] {
            deliveries.push(
                json!({
                    "specversion": "1.0", "id": format!("{kind}-{number}"), "source": "/t",
                    "type": "paid", "tenantid": "acme", "subject": "k",
                    "correlationid": correlation, "causationid": causation,
                    "data": { "amount": amount },
                })
                .to_string(),
            );
        }
    }
    let mut fixture = Fixture::with(&deliveries);
    fixture.upgrade();
    let letters = fixture.letters();
    assert_eq!(letters.len(), IDS.len());
    for letter in letters {
        let decided = fixture.decide(letter.letter.id, &RETRY).unwrap();
        assert!(matches!(decided, Decided::Took { .. }), "{decided:?}");
        // The letter points to the stored event: what a person reads and retries has its ids.
        let DeadLetterSource::Record { position, .. } = &letter.letter.source else {
            panic!("{letter:?}");
        };
        check_stored(&fixture, position);
    }
    // The log from bus to store, whatever became of each.
    for sequence in 0..deliveries.len() {
        check_stored(
            &fixture,
            &format!("payments:pay/0:{sequence}").parse().unwrap(),
        );
    }
    // What the machine emitted, at once or by the retry: the cause's correlation, the cause as causation.
    let pay = SourcePartition {
        source: SourceName::new("pay").unwrap(),
        partition: 0,
    };
    for (place, kind) in [
        (pay, "good"),
        (tidegate_engine::follow_up::operator(), "dead"),
    ] {
        let acme = tenant();
        let log = StreamPartition {
            tenant: acme,
            stream: StreamName::internal(),
            source_partition: place,
        };
        let segments = fixture.store.segments(&log, Sequence(0), 100);
        let segments = fixture.runtime.block_on(segments).unwrap();
        let records = segments
            .iter()
            .flat_map(|it| split_segment(&it.body).unwrap());
        let mut found: Vec<_> = records
            .map(|record| {
                let record = Record::read(record.get()).unwrap().0;
                let RecordBody::Event(event) = record.body else {
                    panic!("no event")
                };
                let causation = event.causation_id.unwrap().to_string();
                (causation, event.correlation_id.unwrap().to_string())
            })
            .collect();
        found.sort();
        let expected = IDS.iter().enumerate();
        let expected = expected.map(|(number, id)| (format!("{kind}-{number}"), (*id).to_owned()));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
    // Replay reads the same bytes: every leaf and every state hash fits.
    fixture.verify();
}

/// A stored event carries the ids that were sent for its number.
fn check_stored(fixture: &Fixture, at: &RecordPosition) {
    let acme = tenant();
    let record = stored_record(&fixture.store, &acme, at);
    let record = fixture.runtime.block_on(record).unwrap().unwrap();
    let RecordBody::Event(event) = record.body else {
        panic!("no event at {at}");
    };
    let number: usize = event.id.as_str()["good-".len()..].parse().unwrap();
    assert_eq!(event.correlation_id.unwrap().as_str(), IDS[number]);
    let causation = event.causation_id.unwrap();
    assert_eq!(causation.as_str(), IDS[IDS.len() - 1 - number]);
}
