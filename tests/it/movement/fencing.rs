//! Who owns what: an owner that was fenced asks before it claims again, and no more than five times; a
//! node never has two claims of one partition under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::bus::memory::{BusFault, BusOperation};
use tidegate_connectors::store::memory::{AtStart, StoreOperation};
use tidegate_engine::limits::RECLAIM_ATTEMPTS_MAX;
use tidegate_engine::position::{Incarnation, Offset};
use tidegate_engine::store::{Claim, StateStore};
use tokio::time::Instant;

use super::{SECOND, Scene, Script, alarm, on_virtual_time, source_partition, until};

/// Somebody else claims partition 0.
async fn claimed_by_another(scene: &Scene) {
    let claim = Claim {
        source_partition: source_partition(0),
        owner: "another".to_owned(),
        incarnation: Incarnation::new("one").unwrap(),
        start: Offset(0),
    };
    scene.store.claim(claim).await.unwrap();
}

#[test]
fn a_fenced_owner_that_the_bus_still_assigns_claims_again_after_a_wait_and_goes_on() {
    on_virtual_time(async {
        let scene = Scene::new(1, Script::default());
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        scene.append_many(0, 20);
        scene.settled_within(0, 10 * SECOND).await;
        claimed_by_another(&scene).await;
        let fenced_at = Instant::now();
        scene.append(0, "t", "one-more", "s1");
        scene.settled_within(0, 10 * SECOND).await;
        let claims = scene.script.claims();
        assert_eq!(claims.len(), 2);
        let waited = claims[1] - fenced_at;
        let first = NodeOptions::default().reclaim_wait_first;
        assert!(
            first / 2 <= waited && waited <= first + SECOND,
            "{waited:?}"
        );
        assert_eq!(scene.script.bus_calls(BusOperation::StillAssigned), 1);
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn a_fenced_owner_that_the_bus_does_not_assign_any_more_never_claims_again() {
    on_virtual_time(async {
        // From the first commit on the bus tells nothing for a minute, as a broker does that is slow to
        // tell a client which it takes for dead.
        let silent = Arc::new(AtomicBool::new(false));
        let (falls_silent, is_silent) = (silent.clone(), silent.clone());
        let script = Script {
            store: Box::new(move |call, _| {
                if call.operation == StoreOperation::Commit {
                    falls_silent.store(true, Ordering::SeqCst);
                }
                (Duration::ZERO, AtStart::Proceed)
            }),
            bus: Box::new(move |operation, _| match operation {
                BusOperation::Receive if is_silent.load(Ordering::SeqCst) => {
                    (60 * SECOND, BusFault::Proceed)
                }
                _ => (Duration::ZERO, BusFault::Proceed),
            }),
            is_deaf: true,
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (node, id) = scene.start(NodeOptions::default(), &[0]);
        tokio::time::sleep(SECOND).await;
        claimed_by_another(&scene).await;
        scene.append_many(0, 3);
        until("the events are received", 10 * SECOND, || {
            scene.script.calls(StoreOperation::Commit) > 0
        })
        .await;
        scene.broker.lose(0, id);
        tokio::time::sleep(30 * SECOND).await;
        assert_eq!(scene.script.claims().len(), 1, "it did not claim again");
        assert_eq!(scene.script.bus_calls(BusOperation::StillAssigned), 1);
        assert_eq!(alarm(&node).await, None);
        // Given to us anew, it is claimed anew.
        silent.store(false, Ordering::SeqCst);
        scene.broker.assign(0, id);
        scene.settled_within(0, 60 * SECOND).await;
        assert_eq!(scene.script.claims().len(), 2);
    });
}

#[test]
fn r26_fenced_five_times_is_claimed_again_and_the_sixth_time_is_an_alarm() {
    on_virtual_time(async {
        let scene = Scene::new(1, Script::default());
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        tokio::time::sleep(SECOND).await;
        for round in 1..=RECLAIM_ATTEMPTS_MAX + 1 {
            assert_eq!(alarm(&node).await, None, "round {round}");
            assert_eq!(scene.script.claims().len(), round as usize);
            claimed_by_another(&scene).await;
            scene.append(0, "t", &format!("round-{round}"), "s1");
            if round <= RECLAIM_ATTEMPTS_MAX {
                scene.settled_within(0, 20 * SECOND).await;
            }
        }
        tokio::time::sleep(30 * SECOND).await;
        let reason = alarm(&node).await.expect("an alarm");
        assert!(
            reason.contains("fenced") && reason.contains("restart this node"),
            "{reason}"
        );
        let claims = scene.script.claims();
        assert_eq!(claims.len(), RECLAIM_ATTEMPTS_MAX as usize + 1);
    });
}

#[test]
fn claims_of_one_partition_follow_each_other_and_the_last_assignment_holds() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, _| match call.operation {
                StoreOperation::Claim => (SECOND, AtStart::Proceed),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        scene.append_many(0, 20);
        let (node, id) = scene.start(NodeOptions::default(), &[0]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        scene.broker.assign(0, id);
        tokio::time::sleep(Duration::from_millis(300)).await;
        scene.broker.lose(0, id);
        scene.broker.assign(0, id);
        scene.settled_within(0, 10 * SECOND).await;
        let under_way_at_most = scene.script.seen.lock().unwrap().claims_under_way.1;
        assert_eq!(under_way_at_most, 1, "claims at once");
        assert_eq!(scene.script.claims().len(), 2, "the first, and the last");
        let checkpoint = scene.checkpoint(0).await.unwrap();
        assert_eq!(checkpoint.epoch.0, 2, "nobody was fenced");
        assert_eq!(alarm(&node).await, None);
    });
}
