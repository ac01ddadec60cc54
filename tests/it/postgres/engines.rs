//! Two whole engines on one database: what they agree on is the database's work alone.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::runtime::{RandomIds, RuntimeSpawner, SystemClock, arbiters};
use tidegate_actors::{Node, NodeOptions, NodeSeams, Source};
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::contract::store::reading::verified_records;
use tidegate_connectors::store::postgres::{PostgresOptions, PostgresStore};
use tidegate_engine::bus::Start;
use tidegate_engine::machine::{MachineSet, Processor};
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::position::{Incarnation, Offset, SourceName, SourcePartition, StreamName};
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::{TenantBinding, TenantId};

use crate::node::Tally;
use crate::support::database::TestDatabase;

const KEYS: u64 = 10_000;
/// Keys that are raced for at once: both engines get them together.
const BLOCK: u64 = 250;
const ENTITIES: u64 = 50;
const BATCH: usize = 50;

/// What one engine said at its end.
struct Ended {
    applied: u64,
    duplicates: u64,
}

/// The source of one engine, which is nobody else's.
fn source_of(engine: usize) -> SourcePartition {
    SourcePartition {
        source: SourceName::new(&format!("engine-{engine}")).unwrap(),
        partition: 0,
    }
}

/// A process's worth of engine: runtime, actors, connections and caches of its own. It ends with its source.
fn start_engine(bus: &MemoryBusHandle, url: String) -> std::thread::JoinHandle<Ended> {
    let consumer = bus.consumer();
    bus.assign(0, consumer.id());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // No filter of keys: the database is asked for each of them.
        let options = PostgresOptions {
            dedupe_filter_bytes_max: 0,
            ..PostgresOptions::new(url)
        };
        let store = runtime.block_on(PostgresStore::connect(options)).unwrap();
        let snapshot = actix::System::new().block_on(async {
            let seams = NodeSeams {
                store: Arc::new(store),
                machines: MachineSet::new([Arc::new(Tally::new()) as Arc<dyn Processor>]),
                clock: Arc::new(SystemClock),
                ids: Arc::new(RandomIds),
                spawner: Arc::new(RuntimeSpawner(runtime.handle().clone())),
                placement: arbiters(1),
            };
            let source = Source {
                bus: Arc::new(consumer),
                stream: StreamName::new("orders").unwrap(),
                tenant: TenantBinding::TrustedField,
                mapping: None,
                secrets: tidegate_engine::secrets::SecretPolicy::Off,
                start: Start::Earliest,
            };
            // Nothing is remembered beyond the batches that are under way: of entities what one batch
            // and the one behind it need, of keys what a partition needs at least.
            let options = NodeOptions {
                batch_events_max: BATCH,
                memory: PartitionLimits {
                    entities_max: 2 * BATCH,
                    entities_bytes_max: usize::MAX,
                    known_keys_max: 0,
                    emitted_bytes_max: 0,
                },
                ..NodeOptions::default()
            };
            let node = Node::start(options, seams, vec![source]);
            tokio::time::timeout(Duration::from_secs(300), node.ended())
                .await
                .expect("the source ends")
                .unwrap();
            let snapshot = node.snapshot().await;
            let report = node.drain(Duration::from_secs(10)).await;
            assert!(report.drained, "{report:?}");
            snapshot
        });
        let counts = snapshot.counts();
        Ended {
            applied: counts.applied,
            duplicates: counts.duplicates,
        }
    })
}

async fn settled(store: &dyn StateStore, engine: usize) -> Offset {
    let checkpoint = store.checkpoint(&source_of(engine)).await.unwrap();
    checkpoint.map_or(Offset(0), |it| it.progress.next_offset)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn r43_two_engines_race_ten_thousand_equal_keys_with_caches_off() {
    let name = "r43_two_engines_race_ten_thousand_equal_keys_with_caches_off";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let buses = [0, 1].map(|engine| {
        let bus = MemoryBusHandle::new(source_of(engine).source);
        bus.create_partition(0, Incarnation::new("one").unwrap());
        bus
    });
    let engines = [0, 1].map(|engine| start_engine(&buses[engine], database.engine_url()));
    for block in 0..KEYS / BLOCK {
        for key in block * BLOCK..(block + 1) * BLOCK {
            let event = json!({
                "specversion": "1.0", "id": format!("k{key}"), "source": "/test", "type": "tick",
                "tenantid": "acme", "subject": format!("s{}", key % ENTITIES), "data": {"n": key},
            });
            for bus in &buses {
                bus.append(0, event.to_string()).unwrap();
            }
        }
        // The next keys when both are done with these: neither gets ahead of the other.
        let end = Offset((block + 1) * BLOCK);
        for engine in [0, 1] {
            while settled(&store, engine).await < end {
                assert!(!engines[engine].is_finished(), "engine {engine} is gone");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    for bus in &buses {
        bus.finish(0);
    }
    let ended = tokio::task::spawn_blocking(|| engines.map(|it| it.join().unwrap()))
        .await
        .unwrap();
    println!(
        "{KEYS} equal keys; applied by the engines: {} and {}",
        ended[0].applied, ended[1].applied
    );
    assert_eq!(ended[0].applied + ended[1].applied, KEYS);
    for engine in &ended {
        assert_eq!(engine.applied + engine.duplicates, KEYS);
        assert!(engine.applied > 0, "there was no race");
    }
    let acme = TenantId::new("acme").unwrap();
    assert_eq!(verified_records(&store, &acme).await.len() as u64, KEYS);
    let entities = store.entities(&acme, None, 1_000).await.unwrap();
    assert_eq!(entities.len() as u64, ENTITIES);
    for entity in entities {
        let data: Value = serde_json::from_str(&entity.data).unwrap();
        assert_eq!(
            data["count"].as_u64(),
            Some(KEYS / ENTITIES),
            "{}",
            entity.name.key
        );
        assert_eq!(entity.version.0, KEYS / ENTITIES);
    }
}
