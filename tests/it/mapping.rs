//! A bus whose records are no CloudEvents: headers and payload become events through a mapping, and state
//! once per mapped key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::operator::{Decision, DecisionError, Operator};
use tidegate::runtime::{RandomIds, RuntimeSpawner, SystemClock, arbiters};
use tidegate_actors::{Node, NodeOptions, NodeSeams, Source};
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_engine::bus::Start;
use tidegate_engine::checkpoint::Counts;
use tidegate_engine::event::{CausedBy, EventSource};
use tidegate_engine::headers::Headers;
use tidegate_engine::machine::{MachineSet, Processor};
use tidegate_engine::mapping::{Field, Mapping, Selector, TimeFormat};
use tidegate_engine::position::{Incarnation, SourceName, StreamName};
use tidegate_engine::store::{DeadLetterFilter, StateStore};
use tidegate_engine::tenant::{TenantBinding, TenantId};

use crate::node::Tally;

fn by_headers() -> Arc<Mapping> {
    let fields = [
        (Field::Id, "pointer", "/n"),
        (Field::Type, "literal", "tick"),
        (Field::Subject, "cel", "'on-' + headers['thing']"),
        (Field::IdempotencyKey, "header", "idempotency-key"),
        (Field::Tenant, "header", "x-tenant"),
    ]
    .map(|(field, word, text)| (field, Selector::parse(word, text, 1).unwrap()));
    let source = EventSource::new("/sources/things").unwrap();
    Arc::new(Mapping::compile(&fields, TimeFormat::Rfc3339, source).unwrap())
}

fn headers(all: &[(&str, &str)]) -> Headers {
    Headers::collect(
        all.iter()
            .map(|(name, value)| ((*name).into(), Bytes::copy_from_slice(value.as_bytes()))),
    )
}

fn settle(
    store: &MemoryStore,
    runtime: &tokio::runtime::Runtime,
    records: &[(&[(&str, &str)], &str)],
) -> Counts {
    let bus = MemoryBusHandle::new(SourceName::new("things").unwrap());
    bus.create_partition(0, Incarnation::new("one").unwrap());
    for (given, payload) in records {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        bus.append_with_headers(0, headers(given), payload).unwrap();
    }
    bus.finish(0);
    actix::System::new().block_on(async {
        let consumer = bus.consumer();
        bus.assign(0, consumer.id());
        let seams = NodeSeams {
            store: Arc::new(store.clone()),
            machines: MachineSet::new([Arc::new(Tally::new()) as Arc<dyn Processor>]),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            spawner: Arc::new(RuntimeSpawner(runtime.handle().clone())),
            placement: arbiters(1),
        };
        let source = Source {
            bus: Arc::new(consumer),
            stream: StreamName::new("things").unwrap(),
            tenant: TenantBinding::TrustedField,
            mapping: Some(by_headers()),
            secrets: tidegate_engine::secrets::SecretPolicy::Off,
            start: Start::Earliest,
        };
        let node = Node::start(NodeOptions::default(), seams, vec![source]);
        node.ended().await.unwrap();
        let counts = node.snapshot().await.counts();
        assert!(node.drain(Duration::from_secs(10)).await.drained);
        counts
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn r10_headers_become_attributes_and_their_key_takes_effect_once() {
    let runtime = runtime();
    let store = MemoryStore::new();
    let acme: &[_] = &[
        ("thing", "door"),
        ("Idempotency-Key", "k1"),
        ("x-tenant", "acme"),
    ];
    let again: &[_] = &[
        ("thing", "door"),
        ("idempotency-key", "k1"),
        ("X-Tenant", "acme"),
    ];
    let other_tenant: &[_] = &[
        ("thing", "door"),
        ("idempotency-key", "k1"),
        ("x-tenant", "bolt"),
    ];
    let counts = settle(
        &store,
        &runtime,
        &[
            (acme, r#"{"n":1}"#),
            // The same key and content, though headers that are not mapped differ in case and order.
            (again, r#"{"n":1}"#),
            (again, r#"{"n":2}"#),
            (other_tenant, r#"{"n":1}"#),
            (&[("thing", "door")], r#"{"n":3}"#),
            (&[("x-tenant", "acme")], r#"{"n":4}"#),
        ],
    );
    let seen = (
        counts.admitted,
        counts.duplicates,
        counts.conflicts,
        counts.unreadable,
    );
    assert_eq!(seen, (2, 1, 1, 2));
    for tenant in ["acme", "bolt"] {
        let tenant = TenantId::new(tenant).unwrap();
        let entities = runtime.block_on(store.entities(&tenant, None, 10)).unwrap();
        let keys: Vec<_> = entities.iter().map(|it| it.name.key.to_string()).collect();
        assert_eq!(keys, ["on-door"], "{tenant}");
    }
}

/// What could not be read is kept without its headers, so that reading it again might make another event.
#[test]
fn a_record_whose_headers_decide_is_not_read_again_without_them() {
    let runtime = runtime();
    let store = MemoryStore::new();
    let nobodys: &[_] = &[("thing", "door")];
    let counts = settle(&store, &runtime, &[(nobodys, r#"{"n":3}"#)]);
    assert_eq!(counts.unreadable, 1);
    let filter = DeadLetterFilter::default();
    let unassigned = TenantId::unassigned();
    let letters = runtime
        .block_on(store.dead_letters(&unassigned, filter, 10))
        .unwrap();
    assert_eq!(letters.len(), 1);
    let machines = MachineSet::default();
    let mappings = BTreeMap::from([(SourceName::new("things").unwrap(), by_headers())]);
    let operator = Operator {
        store: &store,
        machines: &machines,
        mappings: &mappings,
        clock: &SystemClock,
        ids: &RandomIds,
        owner: "test".to_owned(),
        by: CausedBy::new("operator:ada").unwrap(),
    };
    let id = letters[0].letter.id;
    let retry = Decision::Retry { stream: None };
    let refused = runtime.block_on(operator.decide(&unassigned, id, &retry));
    match refused {
        Err(DecisionError::Impossible { why, .. }) => assert!(why.contains("headers"), "{why}"),
        other => panic!("{other:?}"),
    }
    runtime
        .block_on(operator.decide(&unassigned, id, &Decision::Discard))
        .unwrap();
}
