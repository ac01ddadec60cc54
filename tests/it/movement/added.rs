//! Partitions that are added to a topic: read from their beginning, behind what the older ones had then.

use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::bus::memory::{BusFault, BusOperation};
use tidegate_connectors::store::memory::StoreOperation;
use tidegate_engine::position::Incarnation;

use super::{SECOND, Scene, Script, alarm, bus_away, on_virtual_time};

/// Adds partition 2 to 0 and 1, with a record.
fn grow(scene: &Scene) {
    let one = Incarnation::new("one").unwrap();
    scene.broker.add_partition(2, one, &[0, 1]);
    scene.append(2, "t", "moved", "s1");
}

#[test]
fn an_added_partition_waits_for_what_the_older_ones_had() {
    on_virtual_time(async {
        let scene = Scene::new(2, Script::default());
        scene.append_many(0, 5);
        scene.append_many(1, 5);
        grow(&scene);
        // Partition 1 is nobody's, as when its node is away.
        let (node, id) = scene.start(NodeOptions::default(), &[0, 2]);
        scene.settled_within(0, 5 * SECOND).await;
        tokio::time::sleep(300 * SECOND).await;
        assert_eq!(scene.checkpoint(2).await, None);
        scene.broker.assign(1, id);
        scene.settled_within(1, 5 * SECOND).await;
        scene.settled_within(2, 5 * SECOND).await;
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn an_added_partition_waits_for_no_more_than_was_there_when_it_came() {
    on_virtual_time(async {
        let scene = Scene::new(2, Script::default());
        scene.append_many(0, 5);
        grow(&scene);
        let (_node, id) = scene.start(NodeOptions::default(), &[2]);
        tokio::time::sleep(10 * SECOND).await;
        // Partition 1 was empty then, and stands still from now on.
        scene.append_many(1, 5);
        scene.broker.assign(0, id);
        scene.settled_within(2, 5 * SECOND).await;
        assert_eq!(scene.checkpoint(1).await, None);
    });
}

#[test]
fn an_added_partition_that_waits_is_given_back_unread() {
    on_virtual_time(async {
        let scene = Scene::new(2, Script::default());
        scene.append_many(0, 5);
        grow(&scene);
        let (_node, id) = scene.start(NodeOptions::default(), &[2]);
        tokio::time::sleep(10 * SECOND).await;
        scene.broker.revoke(2, id, None);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(scene.script.bus_calls(BusOperation::Release), 1);
        assert_eq!(scene.script.calls(StoreOperation::Claim), 0);
        let (_other, _) = scene.start(NodeOptions::default(), &[0, 1, 2]);
        scene.settled_within(2, 10 * SECOND).await;
    });
}

#[test]
fn a_broker_that_is_away_does_not_let_an_added_partition_go_ahead() {
    on_virtual_time(async {
        let script = Script {
            bus: Box::new(|operation, count| {
                let is_away = operation == BusOperation::ComesBehind && count < 5;
                let fault = if is_away {
                    bus_away()
                } else {
                    BusFault::Proceed
                };
                (Duration::ZERO, fault)
            }),
            ..Script::default()
        };
        let scene = Scene::new(2, script);
        scene.append_many(0, 5);
        grow(&scene);
        let (_node, id) = scene.start(NodeOptions::default(), &[2]);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(scene.script.bus_calls(BusOperation::ComesBehind), 5);
        assert_eq!(scene.checkpoint(2).await, None);
        scene.broker.assign(0, id);
        scene.settled_within(2, 5 * SECOND).await;
    });
}
