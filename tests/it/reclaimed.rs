//! A source that is claimed again while it is being read: its bus is asked to go back, and answers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::runtime::{RandomIds, RuntimeSpawner, SystemClock, arbiters};
use tidegate_actors::{Node, NodeOptions, NodeSeams, Source};
use tidegate_connectors::bus::file::{FileBus, FileInput};
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_engine::bus::Start;
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::machine::{MachineSet, Processor};
use tidegate_engine::position::{SourceName, SourcePartition, StreamName};
use tidegate_engine::store::{Claim, StateStore};
use tidegate_engine::tenant::{TenantBinding, TenantId};

use crate::node::Tally;

const EVENTS: u64 = 20_000;
const TIMES: u64 = 4;

async fn claimed_by_another(store: &MemoryStore, checkpoint: Checkpoint) {
    let claim = Claim {
        source_partition: checkpoint.source_partition,
        owner: "another".to_owned(),
        incarnation: checkpoint.incarnation,
        start: checkpoint.progress.next_offset,
    };
    store.claim(claim).await.unwrap();
}

#[test]
#[allow(clippy::too_many_lines, reason = "one scene, told from input to sums")]
fn a_file_that_is_claimed_again_while_it_is_read_is_read_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.ndjson");
    let lines: String = (0..EVENTS)
        .map(|n| {
            let event = json!({
                "specversion": "1.0", "id": format!("e{n}"), "source": "/test", "type": "tick",
                "tenantid": "acme", "subject": format!("s{}", n % 50),
            });
            format!("{event}\n")
        })
        .collect();
    std::fs::write(&path, lines).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let place = SourcePartition {
        source: SourceName::new("files").unwrap(),
        partition: 0,
    };
    let store = MemoryStore::new();
    let shared: Arc<dyn StateStore> = Arc::new(store.clone());
    actix::System::new().block_on(async {
        let bus = FileBus::open(place.source.clone(), vec![FileInput::Path(path)])
            .await
            .unwrap();
        let seams = NodeSeams {
            store: shared.clone(),
            machines: MachineSet::new([Arc::new(Tally::new()) as Arc<dyn Processor>]),
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            spawner: Arc::new(RuntimeSpawner(runtime.handle().clone())),
            placement: arbiters(1),
        };
        let source = Source {
            bus: Arc::new(bus),
            stream: StreamName::new("orders").unwrap(),
            tenant: TenantBinding::TrustedField,
            mapping: None,
            secrets: tidegate_engine::secrets::SecretPolicy::Off,
            start: Start::Earliest,
        };
        // Small batches and polls, so that most of the file is still to be read each time.
        let options = NodeOptions {
            batch_events_max: 100,
            receive_events_max: 50,
            tenant_events_max: 500,
            reclaim_wait_first: Duration::from_millis(5),
            ..NodeOptions::default()
        };
        let node = Node::start(options, seams, vec![source]);
        let read = async {
            let mut fenced = 0;
            while fenced < TIMES {
                let checkpoint = store.checkpoint(&place).await.unwrap();
                let settled = checkpoint
                    .as_ref()
                    .map_or(0, |it| it.progress.counts.admitted);
                if settled > EVENTS / 2 * fenced / TIMES {
                    claimed_by_another(&store, checkpoint.unwrap()).await;
                    fenced += 1;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            node.ended().await
        };
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("the source ends")
            .unwrap();
        let report = node.drain(Duration::from_secs(10)).await;
        assert!(report.drained, "{report:?}");
    });
    runtime.block_on(async {
        let checkpoint = shared.checkpoint(&place).await.unwrap().unwrap();
        // The node's first claim, ours, and its own after each of ours.
        assert_eq!(checkpoint.epoch.0, 1 + 2 * TIMES);
        assert_eq!(checkpoint.progress.counts.admitted, EVENTS);
        let acme = TenantId::new("acme").unwrap();
        let mut sum = 0;
        for entity in shared.entities(&acme, None, 1_000).await.unwrap() {
            let data: Value = serde_json::from_str(&entity.data).unwrap();
            assert_eq!(data["count"].as_u64(), Some(entity.version.0));
            sum += entity.version.0;
        }
        assert_eq!(sum, EVENTS);
    });
}
