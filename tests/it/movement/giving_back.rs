//! What was asked back is given back, whatever state it is in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::bus::memory::{BusFault, BusOperation};
use tidegate_connectors::store::memory::{AtStart, StoreOperation};
use tidegate_engine::bus::BusError;
use tidegate_engine::position::SourceName;

use super::{SECOND, Scene, Script, alarm, away, bus_away, on_virtual_time, unexpected, until};

/// Another consumer, to whom partition 0 is promised.
async fn goes_to_another(scene: &Scene, from: tidegate_connectors::bus::memory::ConsumerId) {
    let other = scene.broker.consumer();
    scene.broker.revoke(0, from, Some(other.id()));
    until("the other consumer has it", 30 * SECOND, || {
        scene.broker.holders(0) == [other.id()]
    })
    .await;
}

#[test]
fn a_release_that_fails_is_tried_again_until_the_bus_takes_it() {
    on_virtual_time(async {
        let script = Script {
            bus: Box::new(|operation, count| match operation {
                BusOperation::Release if count <= 3 => (Duration::ZERO, bus_away()),
                _ => (Duration::ZERO, BusFault::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        scene.append_many(0, 50);
        let (node, id) = scene.start(NodeOptions::default(), &[0]);
        scene.settled_within(0, 10 * SECOND).await;
        goes_to_another(&scene, id).await;
        assert_eq!(scene.script.bus_calls(BusOperation::Release), 4);
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn a_release_that_can_never_succeed_is_an_alarm() {
    on_virtual_time(async {
        let script = Script {
            bus: Box::new(|operation, _| match operation {
                BusOperation::Release => {
                    let error = BusError::Unreadable {
                        source_name: SourceName::new("orders").unwrap(),
                        detail: "scripted".to_owned(),
                    };
                    (Duration::ZERO, BusFault::Fail(error))
                }
                _ => (Duration::ZERO, BusFault::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (node, id) = scene.start(NodeOptions::default(), &[0]);
        tokio::time::sleep(SECOND).await;
        scene.broker.revoke(0, id, None);
        tokio::time::sleep(10 * SECOND).await;
        let reason = alarm(&node).await.expect("an alarm");
        assert!(reason.contains("cannot be given back"), "{reason}");
        assert_eq!(scene.script.bus_calls(BusOperation::Release), 1);
    });
}

#[test]
fn a_quarantined_partition_that_is_asked_back_is_given_back() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, _| match call.operation {
                StoreOperation::Commit => (Duration::ZERO, unexpected()),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        scene.append_many(0, 5);
        let (node, id) = scene.start(NodeOptions::default(), &[0]);
        tokio::time::sleep(5 * SECOND).await;
        let reason = alarm(&node).await.expect("the source partition is stopped");
        assert!(reason.contains("XX000"), "{reason}");
        goes_to_another(&scene, id).await;
        tokio::time::sleep(SECOND).await;
        assert_eq!(alarm(&node).await, None, "it is not this node's any more");
    });
}

#[test]
fn a_partition_asked_back_while_its_claim_waits_for_the_store_is_given_back() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, _| match call.operation {
                StoreOperation::Claim => (Duration::ZERO, AtStart::Fail(away())),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (_node, id) = scene.start(NodeOptions::default(), &[0]);
        tokio::time::sleep(20 * SECOND).await;
        goes_to_another(&scene, id).await;
        let claims = scene.script.claims().len();
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(scene.script.claims().len(), claims, "nobody claims it here");
    });
}

/// No commit arrives while the switch is on.
fn away_while(switch: &Arc<AtomicBool>) -> Script {
    let on = switch.clone();
    Script {
        store: Box::new(move |call, _| match call.operation {
            StoreOperation::Commit if on.load(Ordering::SeqCst) => {
                (Duration::ZERO, AtStart::Fail(away()))
            }
            _ => (Duration::ZERO, AtStart::Proceed),
        }),
        ..Script::default()
    }
}

#[test]
fn a_partition_asked_back_that_cannot_be_settled_in_time_goes_as_it_is_and_nothing_is_lost() {
    on_virtual_time(async {
        let switch = Arc::new(AtomicBool::new(true));
        let scene = Scene::new(1, away_while(&switch));
        scene.append_many(0, 50);
        let options = NodeOptions::default();
        let limit = options.release_limit;
        let (node, id) = scene.start(options.clone(), &[0]);
        let (next, next_id) = scene.start(options, &[]);
        tokio::time::sleep(5 * SECOND).await;
        scene.broker.revoke(0, id, Some(next_id));
        tokio::time::sleep(limit - SECOND).await;
        assert_eq!(scene.broker.holders(0), [id], "it may still be settled");
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(scene.broker.holders(0), [next_id]);
        switch.store(false, Ordering::SeqCst);
        scene.settled_within(0, 30 * SECOND).await;
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!((counts.applied, counts.duplicates), (50, 0));
        for node in [&node, &next] {
            assert_eq!(alarm(node).await, None);
        }
    });
}

#[test]
fn a_partition_asked_back_goes_in_time_also_while_the_source_waits_for_another_ones_lane() {
    on_virtual_time(async {
        let switch = Arc::new(AtomicBool::new(true));
        let scene = Scene::new(2, away_while(&switch));
        scene.append(0, "first", "one", "s");
        let options = NodeOptions {
            tenant_events_max: 10,
            ..NodeOptions::default()
        };
        let limit = options.release_limit;
        let (_node, id) = scene.start(options, &[0, 1]);
        tokio::time::sleep(SECOND).await;
        let other = scene.broker.consumer();
        scene.broker.revoke(0, id, Some(other.id()));
        tokio::time::sleep(SECOND).await;
        scene.append_many(1, 50);
        tokio::time::sleep(limit).await;
        assert_eq!(scene.broker.holders(0), [other.id()]);
    });
}

/// The store is away, so that nothing settles, no permit comes back and nothing more is received.
#[test]
fn what_is_asked_back_is_heard_while_no_record_may_be_received() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, _| match call.operation {
                StoreOperation::Commit => (Duration::ZERO, AtStart::Fail(away())),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(2, script);
        scene.append_many(0, 400);
        scene.append_many(1, 400);
        let options = NodeOptions {
            node_events_max: 100,
            receive_events_max: 50,
            tenant_events_max: 60,
            release_limit: 5 * SECOND,
            ..NodeOptions::default()
        };
        let (_node, id) = scene.start(options, &[0, 1]);
        tokio::time::sleep(10 * SECOND).await;
        let other = scene.broker.consumer();
        scene.broker.revoke(0, id, Some(other.id()));
        until("the other consumer has it", 10 * SECOND, || {
            scene.broker.holders(0) == [other.id()]
        })
        .await;
    });
}
