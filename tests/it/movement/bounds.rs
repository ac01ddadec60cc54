//! The bounds of the movement, felt one by one: at its limit each holds, and what is one more waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_actors::{NodeHandle, NodeOptions, NodeSnapshot};
use tidegate_connectors::bus::memory::NoFaults;
use tidegate_connectors::store::memory::{AtStart, StoreOperation};
use tidegate_engine::commit::Segment;
use tidegate_engine::dead_letter::DeadLetterState;
use tidegate_engine::limits::DONE_ABOVE_FRAGMENTED;
use tidegate_engine::machine::DeadReason;
use tidegate_engine::partition::PREPARED_MAX;
use tidegate_engine::record::split_segment;
use tidegate_engine::store::{DeadLetterFilter, StateStore, StoreError};
use tidegate_engine::tenant::TenantId;
use tokio::time::Instant;

use super::{SECOND, Scene, Script, alarm, another_source, away, on_virtual_time};

/// A script whose store is away, or hangs, for as long as the switch is on.
fn stalled(switch: &Arc<AtomicBool>, fails: bool) -> Script {
    let on = switch.clone();
    Script {
        store: Box::new(move |call, _| {
            let is_commit = call.operation == StoreOperation::Commit;
            match (is_commit && on.load(Ordering::SeqCst), fails) {
                (true, true) => (SECOND, AtStart::Fail(away())),
                (true, false) => (60 * SECOND, AtStart::Proceed),
                (false, _) => (Duration::ZERO, AtStart::Proceed),
            }
        }),
        ..Script::default()
    }
}

/// Small bounds that are all felt.
fn small() -> NodeOptions {
    NodeOptions {
        node_events_max: 500,
        node_bytes_max: 1024 * 1024,
        tenant_events_max: 200,
        tenant_bytes_max: 512 * 1024,
        receive_events_max: 100,
        receive_bytes_max: 64 * 1024,
        batch_events_max: 50,
        ..NodeOptions::default()
    }
}

/// Every queue that a snapshot shows is within its bound.
fn check(snapshot: &NodeSnapshot, options: &NodeOptions) {
    assert!(snapshot.unsettled_events <= options.node_events_max);
    assert!(snapshot.unsettled_bytes <= options.node_bytes_max);
    for tenant in &snapshot.tenants {
        assert!(tenant.lane_events <= options.tenant_events_max);
        assert!(tenant.lane_bytes <= options.tenant_bytes_max);
        for partition in &tenant.supervisor.partitions {
            assert!(partition.unsettled_events <= options.tenant_events_max);
            assert!(partition.prepared_batches <= PREPARED_MAX);
            assert!(partition.loads_in_flight <= 1);
        }
    }
    for partition in snapshot.sources.iter().flat_map(|it| &it.partitions) {
        assert!(partition.in_flight_events <= options.batch_events_max);
    }
}

/// Looks ten times a second, and returns the most that was unsettled.
async fn watch(node: &NodeHandle, options: &NodeOptions, time: Duration) -> usize {
    let (end, mut most) = (Instant::now() + time, 0);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let snapshot = node.snapshot().await;
        check(&snapshot, options);
        most = most.max(snapshot.unsettled_events);
    }
    most
}

/// At full load the store stalls for a minute: memory stays within its bounds, nothing is lost.
fn a_stalled_minute(fails: bool) {
    const TENANTS: usize = 4;
    const EVENTS: usize = 6_000;
    on_virtual_time(async {
        let switch = Arc::new(AtomicBool::new(false));
        let scene = Scene::new(2, stalled(&switch, fails));
        let (options, mut made) = (small(), 0);
        let (node, _) = scene.start(options.clone(), &[0, 1]);
        for n in 0..EVENTS {
            let (id, tenant) = (n.to_string(), format!("t{}", n % TENANTS));
            scene.append((n % 2) as u32, &tenant, &id, &format!("s{}", n % 7));
            made += 1;
            if n == EVENTS / 4 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                switch.store(true, Ordering::SeqCst);
            }
        }
        let most = watch(&node, &options, 60 * SECOND).await;
        assert!(
            most > options.node_events_max / 2,
            "{most} events at most: the bounds were not felt"
        );
        switch.store(false, Ordering::SeqCst);
        watch(&node, &options, 90 * SECOND).await;
        let mut applied = 0;
        for partition in [0, 1] {
            scene.settled_within(partition, 60 * SECOND).await;
            applied += scene
                .checkpoint(partition)
                .await
                .unwrap()
                .progress
                .counts
                .applied;
        }
        assert_eq!(applied, made, "each once");
        assert_eq!(alarm(&node).await, None);
        let report = node.drain(10 * SECOND).await;
        assert!(report.drained, "{report:?}");
    });
}

#[test]
fn r45_a_database_that_is_away_for_a_minute_at_full_load_meets_back_pressure_and_nothing_is_lost() {
    a_stalled_minute(true);
}

#[test]
fn r45_a_database_that_hangs_for_a_minute_at_full_load_meets_back_pressure_and_nothing_is_lost() {
    a_stalled_minute(false);
}

#[test]
fn r26_a_full_lane_takes_not_one_event_more_and_goes_on_when_it_is_settled() {
    on_virtual_time(async {
        let switch = Arc::new(AtomicBool::new(true));
        let scene = Scene::new(1, stalled(&switch, true));
        let options = NodeOptions {
            tenant_events_max: 10,
            batch_events_max: 3,
            ..small()
        };
        let lane =
            |snapshot: &NodeSnapshot| snapshot.tenants.first().map_or(0, |it| it.lane_events);
        let (node, _) = scene.start(options.clone(), &[0]);
        scene.append_many(0, 10);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(lane(&node.snapshot().await), 10, "as many as fit");
        scene.append(0, "t", "one-more", "s1");
        watch(&node, &options, 20 * SECOND).await;
        assert_eq!(lane(&node.snapshot().await), 10, "not one more");
        let received = node.snapshot().await.sources[0].partitions[0].tracked_events;
        assert_eq!(received, 11, "it was received, and waits with the source");
        switch.store(false, Ordering::SeqCst);
        scene.settled_within(0, 30 * SECOND).await;
        assert_eq!(lane(&node.snapshot().await), 0);
    });
}

#[test]
fn r26_idle_sources_hold_half_of_the_node_at_most_and_leave_a_busy_one_moving() {
    const IDLE: usize = 200;
    on_virtual_time(async {
        let scene = Scene::new(1, Script::default());
        let idle: Vec<_> = (0..IDLE)
            .map(|n| another_source(&format!("idle{n}"), Arc::new(NoFaults)))
            .collect();
        let sources = idle.iter().map(|(_, source)| source.clone()).collect();
        let options = NodeOptions::default();
        let (node, _) = scene.start_beside(sources, options.clone(), &[0]);
        tokio::time::sleep(SECOND).await;
        let snapshot = node.snapshot().await;
        assert!(snapshot.unsettled_events <= options.node_events_max / 2);
        assert!(snapshot.unsettled_bytes <= options.node_bytes_max / 2);
        // More than the node takes at once, and an event that is larger than a poll.
        scene.append_many(0, 2_000);
        let large = serde_json::json!({
            "specversion": "1.0", "id": "large", "source": "/test", "type": "tick",
            "tenantid": "t", "subject": "s0", "data": "x".repeat(900 * 1024),
        });
        scene.broker.append(0, large.to_string()).unwrap();
        scene.append_many(0, 2_100);
        scene.settled_within(0, 60 * SECOND).await;
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!(counts.applied, 2_101);
        check(&node.snapshot().await, &options);
        // An idle one that is not idle any more is read as before.
        let (broker, _) = &idle[7];
        let event = serde_json::json!({
            "specversion": "1.0", "id": "late", "source": "/test", "type": "tick",
            "tenantid": "t", "subject": "s0",
        });
        broker.append(0, event.to_string()).unwrap();
        tokio::time::sleep(SECOND).await;
        let applied = node.snapshot().await.sources[7].partitions[0]
            .counts
            .applied;
        assert_eq!(applied, 1);
    });
}

#[test]
fn r26_a_poison_event_stops_at_its_attempts_and_the_partition_moves_on() {
    on_virtual_time(async {
        let refused = || StoreError::Refused {
            code: "22P02".to_owned(),
            detail: "scripted".to_owned(),
        };
        let script = Script {
            store: Box::new(move |call, _| {
                let is_poison = |segment: &Segment| {
                    let records = split_segment(&segment.body).unwrap();
                    let mut texts = records.iter().map(|it| it.get());
                    texts.any(|it| it.contains("poison") && !it.contains("\"outcome\":\"dead\""))
                };
                let poison = call
                    .batch
                    .is_some_and(|batch| batch.segments.iter().any(is_poison));
                let answer = if poison {
                    AtStart::Fail(refused())
                } else {
                    AtStart::Proceed
                };
                (Duration::ZERO, answer)
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        scene.append_many(0, 10);
        scene.append(0, "t", "poison", "s3");
        for n in 0..10 {
            scene.append(0, "t", &format!("behind-{n}"), "s3");
        }
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        scene.settled_within(0, 60 * SECOND).await;
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!((counts.applied, counts.dead), (20, 1));
        // The whole batch, then one by one up to the one at fault, once more without it, then the rest.
        let commits = scene.script.calls(StoreOperation::Commit);
        assert!(commits <= 25, "{commits} commits");
        let letters = scene
            .store
            .dead_letters(
                &TenantId::new("t").unwrap(),
                DeadLetterFilter::default(),
                10,
            )
            .await
            .unwrap();
        let found: Vec<_> = letters
            .iter()
            .map(|it| (it.letter.reason, it.state))
            .collect();
        assert_eq!(found, [(DeadReason::Store, DeadLetterState::Open)]);
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn r45_a_tenant_that_does_not_get_going_lets_the_others_go_only_as_far_as_a_checkpoint_can_tell() {
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    on_virtual_time(async move {
        let script = Script {
            store: Box::new(move |call, count| {
                if let Some(batch) = call.batch {
                    seen.fetch_max(batch.progress.done_above.0.len(), Ordering::SeqCst);
                }
                match call.operation {
                    // Of the tenant that comes first.
                    StoreOperation::StreamHeads if count == 1 => (5 * SECOND, AtStart::Proceed),
                    StoreOperation::Commit => (Duration::from_millis(1), AtStart::Proceed),
                    _ => (Duration::ZERO, AtStart::Proceed),
                }
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        for n in 0..5_000 {
            scene.append(0, "slow", &n.to_string(), "s");
            scene.append(0, "quick", &n.to_string(), "s");
        }
        let options = NodeOptions {
            batch_events_max: 100,
            receive_events_max: 500,
            ..NodeOptions::default()
        };
        let (node, _) = scene.start(options, &[0]);
        tokio::time::sleep(4 * SECOND).await;
        let applied = node.snapshot().await.counts().applied as usize;
        assert!(
            applied >= DONE_ABOVE_FRAGMENTED,
            "the other went on: {applied}"
        );
        scene.settled_within(0, 60 * SECOND).await;
        assert_eq!(alarm(&node).await, None);
        assert_eq!(node.snapshot().await.counts().applied, 10_000);
    });
    let most = most.load(Ordering::SeqCst);
    assert!(
        most <= DONE_ABOVE_FRAGMENTED + 2 * 100 + DONE_ABOVE_FRAGMENTED,
        "{most} ranges"
    );
}
