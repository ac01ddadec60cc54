//! Idle tenants cost nothing: their actors are put away and come back with their next event.

use std::time::Duration;

use tidegate_actors::{NodeHandle, NodeOptions};
use tidegate_connectors::store::memory::StoreOperation;
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantId;

use super::{SECOND, Scene, Script, on_virtual_time};

/// Supervisors, partitions, and lanes that committers know.
async fn actors(node: &NodeHandle) -> (usize, usize, usize) {
    let snapshot = node.snapshot().await;
    let partitions = |it: &tidegate_actors::node::TenantSnapshot| it.supervisor.partitions.len();
    let committers = snapshot.sources.iter().flat_map(|it| &it.partitions);
    (
        snapshot.tenants.len(),
        snapshot.tenants.iter().map(partitions).sum(),
        committers.map(|it| it.tenants).sum(),
    )
}

#[test]
fn ten_thousand_tenants_that_are_idle_have_no_actors_and_hold_no_permits() {
    const TENANTS: usize = 10_000;
    on_virtual_time(async {
        let scene = Scene::new(2, Script::default());
        let name = |n: usize| format!("t{n}");
        for n in 0..TENANTS {
            scene.append(0, &name(n), "first", "s");
        }
        let options = NodeOptions {
            passivate_after: 10 * SECOND,
            ..NodeOptions::default()
        };
        let (node, _) = scene.start(options, &[0, 1]);
        scene.settled_within(0, 60 * SECOND).await;
        let (tenants, partitions, _) = actors(&node).await;
        assert!(tenants <= TENANTS && partitions <= TENANTS, "one each");
        // One tenant stays busy, in another source partition.
        for round in 0..60 {
            scene.append(1, "busy", &format!("{round}"), "s");
            tokio::time::sleep(SECOND).await;
        }
        assert_eq!(actors(&node).await, (1, 1, 1), "only the busy tenant's");
        // What a poll may return, and nothing else.
        let unsettled = node.snapshot().await.unsettled_events;
        assert_eq!(unsettled, NodeOptions::default().receive_events_max);
        // They come back one by one, each where its log ended.
        let loads = scene.script.calls(StoreOperation::StreamHeads);
        for n in 0..10 {
            scene.append(0, &name(n), "second", "s");
        }
        scene.settled_within(0, 10 * SECOND).await;
        assert_eq!(scene.script.calls(StoreOperation::StreamHeads), loads + 10);
        for n in [0, 9, 10] {
            let tenant = TenantId::new(&name(n)).unwrap();
            let heads = scene.store.stream_partitions(&tenant).await.unwrap();
            let records = if n < 10 { 2 } else { 1 };
            assert_eq!(heads[0].next_sequence.0, records, "{tenant}");
            let entities = scene.store.entities(&tenant, None, 10).await.unwrap();
            assert_eq!(entities[0].version.0, records);
        }
        let checkpoint = scene.checkpoint(0).await.unwrap();
        assert_eq!(checkpoint.epoch.0, 1, "nothing was rebuilt for it");
    });
}

#[test]
fn a_tenant_whose_events_come_just_as_it_is_put_away_loses_none() {
    on_virtual_time(async {
        // An event every so often, around the time after which an idle one is put away.
        let options = NodeOptions {
            passivate_after: Duration::from_millis(500),
            watch_interval: Duration::from_millis(50),
            ..NodeOptions::default()
        };
        let scene = Scene::new(1, Script::default());
        let (node, _) = scene.start(options, &[0]);
        for n in 0..400_u64 {
            scene.append(0, &format!("t{}", n % 3), &n.to_string(), "s");
            tokio::time::sleep(Duration::from_millis(100 + 7 * (n * n % 151))).await;
        }
        scene.settled_within(0, 10 * SECOND).await;
        let checkpoint = scene.checkpoint(0).await.unwrap();
        assert_eq!(checkpoint.progress.counts.applied, 400);
        assert_eq!(checkpoint.epoch.0, 1, "no ownership ended");
        assert!(
            scene.script.calls(StoreOperation::StreamHeads) > 20,
            "they were put away again and again"
        );
        drop(node);
    });
}
