//! The node over the in-memory seams, on real threads: what is received is settled, once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::config::Config;
use tidegate::ingest::{Ended, Plan, UpkeepPlan};
use tidegate::runtime::{RandomIds, RuntimeSpawner, SystemClock, arbiters};
use tidegate_actors::{Node, NodeOptions, NodeSeams, Source};
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::store::memory::{
    AtStart, MemoryStore, StoreCall, StoreFaults, StoreOperation,
};
use tidegate_engine::bus::Start;
use tidegate_engine::event::EventType;
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::{
    Change, Definition, EventContext, Fault, MachineSet, Processor, Verdict,
};
use tidegate_engine::position::{Incarnation, SourceName, StreamName, Version};
use tidegate_engine::state::{EntityKey, EntityState, MachineName, StateData, Status};
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::{TenantBinding, TenantId};

/// Counts events by subject.
pub(crate) struct Tally {
    definition: Definition,
    types: Vec<EventType>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let (machine, status) = (
            MachineName::new("tally").unwrap(),
            Status::new("open").unwrap(),
        );
        let definition = Definition {
            machine: machine.clone(),
            version: 1,
            text: Arc::from("tally 1"),
            hash: Definition::hash_of(&machine, 1, "tally 1"),
            states: vec![status.clone()],
            initial: status,
            fields: vec![("count".to_owned(), "int")],
        };
        Self {
            definition,
            types: vec![EventType::new("tick").unwrap()],
        }
    }
}

impl Processor for Tally {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn event_types(&self) -> &[EventType] {
        &self.types
    }

    fn initial(&self) -> EntityState {
        let mut data = StateData::default();
        data.0.insert("count".to_owned(), json!(0));
        EntityState {
            status: self.definition.initial.clone(),
            version: Version(0),
            data,
        }
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        Ok(EntityKey::new(context.event.subject.as_ref().unwrap().as_str()).unwrap())
    }

    fn apply(&self, _: &EventContext<'_>, entity: &EntityState) -> Verdict {
        let mut data = entity.data.clone();
        let count = data.get("count").and_then(Value::as_i64).unwrap_or(0);
        data.0.insert("count".to_owned(), json!(count + 1));
        Verdict::Applied(Change {
            status: entity.status.clone(),
            data,
            emitted: Vec::new(),
        })
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one scene, told from input to sums")]
fn what_is_received_is_settled_once() {
    const PARTITIONS: u32 = 3;
    const EVENTS: usize = 5_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let bus = MemoryBusHandle::new(SourceName::new("orders").unwrap());
    for partition in 0..PARTITIONS {
        bus.create_partition(partition, Incarnation::new("one").unwrap());
        for n in 0..EVENTS {
            // Every tenth event stands twice, and every subject is in every partition.
            let id = if n % 10 == 9 { n - 1 } else { n };
            let event = json!({
                "specversion": "1.0", "id": format!("{partition}-{id}"), "source": "/test", "type": "tick",
                "tenantid": format!("t{}", id % 4), "subject": format!("s{}", id % 50), "data": {"n": id},
            });
            bus.append(partition, event.to_string()).unwrap();
        }
        bus.finish(partition);
    }
    let store = MemoryStore::new();
    let shared: Arc<dyn StateStore> = Arc::new(store.clone());
    let snapshot = actix::System::new().block_on(async {
        let consumer = bus.consumer();
        for partition in 0..PARTITIONS {
            bus.assign(partition, consumer.id());
        }
        let seams = NodeSeams {
            store: shared.clone(),
            machines: MachineSet::new([Arc::new(Tally::new()) as Arc<dyn Processor>]),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            spawner: Arc::new(RuntimeSpawner(runtime.handle().clone())),
            placement: arbiters(2),
        };
        let source = Source {
            bus: Arc::new(consumer),
            stream: StreamName::new("orders").unwrap(),
            tenant: TenantBinding::TrustedField,
            mapping: None,
            secrets: tidegate_engine::secrets::SecretPolicy::Off,
            start: Start::Earliest,
        };
        let node = Node::start(NodeOptions::default(), seams, vec![source]);
        tokio::time::timeout(Duration::from_secs(60), node.ended())
            .await
            .expect("the sources end")
            .unwrap();
        let snapshot = node.snapshot().await;
        let report = node.drain(Duration::from_secs(10)).await;
        assert!(report.drained, "{report:?}");
        snapshot
    });
    let counts = snapshot.counts();
    let (total, duplicates) = (
        u64::from(PARTITIONS) * EVENTS as u64,
        u64::from(PARTITIONS) * EVENTS as u64 / 10,
    );
    assert_eq!(
        (counts.admitted, counts.duplicates),
        (total - duplicates, duplicates)
    );
    assert_eq!(
        (counts.applied, counts.received()),
        (counts.admitted, total)
    );
    let mut sum = 0;
    runtime.block_on(async {
        for tenant in 0..4 {
            let tenant = TenantId::new(&format!("t{tenant}")).unwrap();
            for entity in shared.entities(&tenant, None, 1_000).await.unwrap() {
                let data: Value = serde_json::from_str(&entity.data).unwrap();
                assert_eq!(data["count"].as_u64(), Some(entity.version.0));
                sum += entity.version.0;
            }
        }
    });
    assert_eq!(sum, counts.applied);
    assert_ne!(Tally::new().definition.hash, Hash128(0));
}

/// Upkeep that never returns.
struct HungUpkeep;

impl StoreFaults for HungUpkeep {
    fn at_start(&self, call: &StoreCall<'_>) -> (Duration, AtStart) {
        match call.operation {
            StoreOperation::Upkeep => (Duration::ZERO, AtStart::Stall),
            _ => (Duration::ZERO, AtStart::Proceed),
        }
    }
}

#[test]
fn upkeep_that_never_returns_keeps_no_node_from_ending() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let bus = MemoryBusHandle::new(SourceName::new("orders").unwrap());
    bus.create_partition(0, Incarnation::new("one").unwrap());
    bus.finish(0);
    let consumer = bus.consumer();
    bus.assign(0, consumer.id());
    let plan = Plan {
        store: Arc::new(MemoryStore::new().with_faults(Arc::new(HungUpkeep))),
        machines: MachineSet::new([Arc::new(Tally::new()) as Arc<dyn Processor>]),
        options: NodeOptions::default(),
        sources: vec![Source {
            bus: Arc::new(consumer),
            stream: StreamName::new("orders").unwrap(),
            tenant: TenantBinding::TrustedField,
            mapping: None,
            secrets: tidegate_engine::secrets::SecretPolicy::Off,
            start: Start::Earliest,
        }],
        drain_limit: Duration::from_secs(1),
        upkeep: UpkeepPlan::of(&Config::default()),
        front: None,
        goes_on: false,
        replaced: None,
    };
    let began = tokio::time::Instant::now();
    let ended = tidegate::ingest::run(plan, &runtime, &mut |_| {}).unwrap();
    assert!(matches!(ended, Ended::Done), "{ended:?}");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    runtime.shutdown_background();
}
