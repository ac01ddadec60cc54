//! Events that name their tenant, where the store may not know it: whose rows come of them, and whose not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidegate_actors::{NodeOptions, Source};
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::store::memory::{AtStart, MemoryStore, StoreOperation};
use tidegate_engine::access::{AccessStore, TenantState};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::dead_letter::DeadLetterSource;
use tidegate_engine::position::{Offset, SourceName, SourcePartition};
use tidegate_engine::store::{DeadLetterFilter, StateStore};
use tidegate_engine::tenant::{TenantBinding, TenantId, UnknownTenants};
use tokio::time::Instant;

use super::{SECOND, Scene, Script, alarm, another_source, away, on_virtual_time, until};

const UP_TO_TEN: UnknownTenants = UnknownTenants::Create { created_max: 10 };
const AT: Timestamp = Timestamp(1_700_000_000_000_000);

fn tenant(name: &str) -> TenantId {
    if name == "_unassigned" {
        return TenantId::unassigned();
    }
    TenantId::new(name).unwrap()
}

fn place() -> SourcePartition {
    SourcePartition {
        source: SourceName::new("named").unwrap(),
        partition: 0,
    }
}

/// A source whose events name their tenant.
fn named(scene: &Scene, unknown: UnknownTenants) -> (MemoryBusHandle, Source) {
    let (broker, mut source) = another_source("named", scene.script.clone());
    source.tenant = TenantBinding::RegisteredField(unknown);
    (broker, source)
}

/// One event of each of these tenants, in that order.
fn append(broker: &MemoryBusHandle, from: usize, tenants: &[&str]) {
    for (number, tenant) in tenants.iter().enumerate() {
        let event = json!({
            "specversion": "1.0", "id": (from + number).to_string(), "source": "/test",
            "type": "tick", "tenantid": tenant, "subject": "s",
        });
        broker.append(0, event.to_string()).unwrap();
    }
}

async fn settled(store: &MemoryStore) -> Offset {
    let checkpoint = store.checkpoint(&place()).await.unwrap();
    checkpoint.map_or(Offset(0), |it| it.progress.next_offset)
}

async fn all_settled(scene: &Scene, broker: &MemoryBusHandle, limit: Duration) {
    let until = Instant::now() + limit;
    while settled(&scene.store).await != broker.end(0).unwrap() {
        assert!(Instant::now() < until, "not settled within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the store has of a tenant: entities, records of its log, and what its dead letters say.
async fn rows(store: &MemoryStore, name: &str) -> (usize, u64, Vec<String>) {
    let tenant = tenant(name);
    let entities = store.entities(&tenant, None, 100).await.unwrap();
    let logs = store.stream_partitions(&tenant).await.unwrap();
    let letters = store
        .dead_letters(&tenant, DeadLetterFilter::default(), 100)
        .await
        .unwrap();
    (
        entities.len(),
        logs.iter().map(|head| head.next_sequence.0).sum(),
        letters.into_iter().map(|it| it.letter.detail).collect(),
    )
}

async fn has_nothing(store: &MemoryStore, name: &str) {
    assert_eq!(rows(store, name).await, (0, 0, Vec::new()), "{name}");
}

#[test]
fn r02_an_event_of_an_unknown_tenant_is_kept_unassigned_and_that_tenant_has_no_row() {
    on_virtual_time(async {
        let scene = Scene::new(0, Script::default());
        scene
            .store
            .create_tenant(&tenant("acme"), AT)
            .await
            .unwrap();
        let (broker, source) = named(&scene, UnknownTenants::DeadLetter);
        append(&broker, 0, &["acme", "bolt", "acme"]);
        let (node, _) = scene.start_beside(vec![source], NodeOptions::default(), &[]);
        all_settled(&scene, &broker, 10 * SECOND).await;
        assert_eq!(rows(&scene.store, "acme").await, (1, 2, Vec::new()));
        has_nothing(&scene.store, "bolt").await;
        assert_eq!(scene.store.tenant(&tenant("bolt")).await.unwrap(), None);
        let (entities, records, letters) = rows(&scene.store, "_unassigned").await;
        assert_eq!((entities, records, letters.len()), (0, 0, 1));
        assert!(
            letters[0].contains("there is no tenant `bolt`"),
            "{letters:?}"
        );
        assert!(
            letters[0].contains("tidegate tenants create bolt"),
            "{letters:?}"
        );
        // The bytes are the delivery's own, so that they can be read again.
        let kept = scene
            .store
            .dead_letters(&TenantId::unassigned(), DeadLetterFilter::default(), 9)
            .await
            .unwrap();
        match &kept[0].letter.source {
            DeadLetterSource::Raw {
                payload, offset, ..
            } => {
                assert_eq!(*offset, Some(Offset(1)));
                assert!(payload.starts_with(b"{") && payload.ends_with(b"}"));
            }
            other => panic!("{other:?}"),
        }
        let tenants = scene.store.tenants().await.unwrap();
        assert!(!tenants.contains(&tenant("bolt")), "{tenants:?}");
        // Who creates it is not made to wait.
        scene
            .store
            .create_tenant(&tenant("bolt"), AT)
            .await
            .unwrap();
        append(&broker, 3, &["bolt"]);
        all_settled(&scene, &broker, 10 * SECOND).await;
        assert_eq!(rows(&scene.store, "bolt").await, (1, 1, Vec::new()));
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn r02_a_tenant_that_is_created_on_first_sight_gets_its_own_rows_and_nobody_elses() {
    on_virtual_time(async {
        let scene = Scene::new(0, Script::default());
        let (broker, source) = named(&scene, UP_TO_TEN);
        append(
            &broker,
            0,
            &["acme", "bolt", "acme", "Not-A-Name", "_unassigned"],
        );
        let (_node, _) = scene.start_beside(vec![source], NodeOptions::default(), &[]);
        all_settled(&scene, &broker, 10 * SECOND).await;
        assert_eq!(rows(&scene.store, "acme").await, (1, 2, Vec::new()));
        assert_eq!(rows(&scene.store, "bolt").await, (1, 1, Vec::new()));
        // No name that `tenants create` refuses is made here.
        let (entities, records, letters) = rows(&scene.store, "_unassigned").await;
        assert_eq!((entities, records, letters.len()), (0, 0, 2), "{letters:?}");
        let listed = scene.store.list_tenants(None, 10).await.unwrap();
        let mut names: Vec<String> = listed.iter().map(|it| it.id.to_string()).collect();
        // Its dead letters register the reserved one, as ever.
        names.retain(|name| name != "_unassigned");
        assert_eq!(names, ["acme", "bolt"]);
    });
}

#[test]
fn beyond_the_bound_events_are_kept_and_no_tenant_is_made() {
    on_virtual_time(async {
        let scene = Scene::new(0, Script::default());
        let (broker, source) = named(&scene, UnknownTenants::Create { created_max: 2 });
        append(&broker, 0, &["t1", "t2", "t3", "t4", "t1"]);
        let (_node, _) = scene.start_beside(vec![source], NodeOptions::default(), &[]);
        all_settled(&scene, &broker, 10 * SECOND).await;
        assert_eq!(rows(&scene.store, "t1").await, (1, 2, Vec::new()));
        assert_eq!(rows(&scene.store, "t2").await, (1, 1, Vec::new()));
        for name in ["t3", "t4"] {
            has_nothing(&scene.store, name).await;
            assert_eq!(scene.store.tenant(&tenant(name)).await.unwrap(), None);
        }
        let (_, _, letters) = rows(&scene.store, "_unassigned").await;
        assert_eq!(letters.len(), 2);
        for letter in letters {
            assert!(letter.contains("`limits.created_tenants_max`"), "{letter}");
        }
    });
}

#[test]
fn r02_a_closed_tenant_is_not_created_again_and_gets_no_row() {
    on_virtual_time(async {
        let scene = Scene::new(0, Script::default());
        let (broker, source) = named(&scene, UP_TO_TEN);
        append(&broker, 0, &["acme"]);
        let (_node, _) = scene.start_beside(vec![source], NodeOptions::default(), &[]);
        all_settled(&scene, &broker, 10 * SECOND).await;
        scene.store.close_tenant(&tenant("acme"), AT).await.unwrap();
        // That a tenant is open is believed for five seconds.
        tokio::time::sleep(6 * SECOND).await;
        append(&broker, 1, &["acme", "bolt"]);
        all_settled(&scene, &broker, 10 * SECOND).await;
        assert_eq!(rows(&scene.store, "acme").await, (1, 1, Vec::new()));
        assert_eq!(rows(&scene.store, "bolt").await, (1, 1, Vec::new()));
        let (_, _, letters) = rows(&scene.store, "_unassigned").await;
        assert_eq!(letters.len(), 1);
        assert!(
            letters[0].contains("tenant `acme` is closed"),
            "{letters:?}"
        );
        let acme = scene.store.tenant(&tenant("acme")).await.unwrap().unwrap();
        assert_eq!(acme.state, TenantState::Closed);
    });
}

/// The store is away, answers nobody, and is away again, for minutes: the delivery waits.
#[test]
fn while_nobody_can_say_whether_a_tenant_exists_its_events_wait_and_none_is_dead() {
    for unknown in [UnknownTenants::DeadLetter, UP_TO_TEN] {
        on_virtual_time(async move {
            let script = Script {
                store: Box::new(|call, count| match (call.operation, count) {
                    (StoreOperation::TenantStandings, 3) => (Duration::ZERO, AtStart::Stall),
                    (StoreOperation::TenantStandings, 1..=30) => {
                        (Duration::ZERO, AtStart::Fail(away()))
                    }
                    _ => (Duration::ZERO, AtStart::Proceed),
                }),
                ..Script::default()
            };
            let scene = Scene::new(0, script);
            scene
                .store
                .create_tenant(&tenant("acme"), AT)
                .await
                .unwrap();
            let (broker, source) = named(&scene, unknown);
            append(&broker, 0, &["acme", "acme", "bolt"]);
            let (node, _) = scene.start_beside(vec![source], NodeOptions::default(), &[]);
            let script = Arc::clone(&scene.script);
            let asked = move || script.calls(StoreOperation::TenantStandings);
            until("asked again and again", 600 * SECOND, || asked() >= 20).await;
            assert_eq!(settled(&scene.store).await, Offset(0));
            for name in ["acme", "bolt", "_unassigned"] {
                has_nothing(&scene.store, name).await;
            }
            all_settled(&scene, &broker, 600 * SECOND).await;
            assert_eq!(rows(&scene.store, "acme").await, (1, 2, Vec::new()));
            let (of_bolt, unassigned) = match unknown {
                UnknownTenants::Create { .. } => ((1, 1, Vec::new()), 0),
                UnknownTenants::DeadLetter => ((0, 0, Vec::new()), 1),
            };
            assert_eq!(rows(&scene.store, "bolt").await, of_bolt);
            assert_eq!(rows(&scene.store, "_unassigned").await.2.len(), unassigned);
            assert_eq!(alarm(&node).await, None);
        });
    }
}
