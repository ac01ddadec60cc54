//! Tenants whose entities another transaction holds: they wait, and keep nobody else from going on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::store::memory::{AtStart, StoreOperation};
use tidegate_engine::commit::CommitBatch;

use super::{SECOND, Scene, Script, alarm, on_virtual_time};

const BUSY: usize = 3;

/// Entities of the tenants `busy…` that a batch would write.
fn held(batch: &CommitBatch) -> Vec<tidegate_engine::commit::EntityName> {
    let names = batch.entities.iter().map(|write| write.name.clone());
    names
        .filter(|name| name.tenant.as_str().starts_with("busy"))
        .collect()
}

#[test]
fn a_tenant_whose_entities_are_held_is_offered_again_alone_while_the_rest_commits() {
    on_virtual_time(async {
        let switch = Arc::new(AtomicBool::new(false));
        let (alone, together) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (on, is_alone, is_together) = (switch.clone(), alone.clone(), together.clone());
        let script = Script {
            store: Box::new(|call, _| match call.operation {
                StoreOperation::Commit => (Duration::from_millis(5), AtStart::Proceed),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            busy: Box::new(move |batch| {
                let held = held(batch);
                if !on.load(Ordering::SeqCst) || held.is_empty() {
                    return Vec::new();
                }
                let seen = match batch.tenants.len() {
                    1 => &is_alone,
                    _ => &is_together,
                };
                seen.fetch_add(1, Ordering::SeqCst);
                held
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        for n in 0..BUSY {
            scene.append(0, &format!("busy{n}"), "first", "s");
        }
        scene.settled_within(0, 10 * SECOND).await;
        switch.store(true, Ordering::SeqCst);
        for n in 0..BUSY {
            scene.append(0, &format!("busy{n}"), "second", "s");
        }
        for n in 0..1_000 {
            scene.append(0, "rest", &n.to_string(), "s");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let applied = node.snapshot().await.counts().applied;
        assert_eq!(applied as usize, BUSY + 1_000, "the rest went on");
        let (alone, together) = (
            alone.load(Ordering::SeqCst),
            together.load(Ordering::SeqCst),
        );
        assert!(
            together <= 1,
            "{together} batches of others failed with them"
        );
        assert!(alone > 100, "{alone} times they were offered again");
        // In turns: an offer of each, and a batch of the rest between.
        assert!(alone < 1_200, "{alone} times they were offered again");
        switch.store(false, Ordering::SeqCst);
        scene.settled_within(0, SECOND).await;
        assert_eq!(alarm(&node).await, None);
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!(counts.applied as usize, 2 * BUSY + 1_000);
    });
}
