//! What a node says when it ends: of all its sources, and of all that they received.

use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::node::DrainReport;
use tidegate_actors::{NodeHandle, NodeOptions};
use tidegate_connectors::bus::memory::{BusFault, BusOperation, NoFaults};
use tidegate_connectors::store::memory::{AtEnd, AtStart, StoreOperation};
use tokio::time::Instant;

use super::{
    SECOND, Scene, Script, another_source, on_virtual_time, source_partition, unexpected,
    unreadable,
};

#[test]
fn a_source_that_fails_is_told_while_another_runs() {
    on_virtual_time(async {
        let script = Script {
            bus: Box::new(|operation, count| match operation {
                BusOperation::Receive if count > 1 => (SECOND, unreadable()),
                _ => (Duration::ZERO, BusFault::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (_broker, runs) = another_source("runs", Arc::new(NoFaults));
        let (node, _) = scene.start_beside(vec![runs], NodeOptions::default(), &[0]);
        let failed = tokio::time::timeout(10 * SECOND, node.ended()).await;
        let failed = failed.expect("it is told at once").unwrap_err();
        assert_eq!(failed.source_name.as_str(), "orders");
    });
}

/// Receives 15 events that the script keeps from being settled, and drains.
async fn drain(scene: &Scene, limit: Duration) -> (DrainReport, Duration) {
    scene.append_many(0, 15);
    let (node, _): (NodeHandle, _) = scene.start(NodeOptions::default(), &[0]);
    tokio::time::sleep(SECOND).await;
    let began = Instant::now();
    let report = node.drain(limit).await;
    (report, began.elapsed())
}

#[test]
fn what_broke_while_it_was_drained_is_unsettled_and_the_report_says_so() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, _| match call.operation {
                StoreOperation::LoadEntities => (Duration::ZERO, AtStart::Stall),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (report, took) = drain(&scene, 600 * SECOND).await;
        assert_eq!(scene.script.claims().len(), 2, "it stalled and was rebuilt");
        assert_eq!((report.drained, report.unsettled_events), (false, 15));
        assert!(took < 60 * SECOND, "it does not wait for what cannot come");
    });
}

#[test]
fn what_was_set_aside_while_it_was_drained_is_unsettled_and_the_report_says_so() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, _| match call.operation {
                StoreOperation::Commit => (5 * SECOND, unexpected()),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (report, _) = drain(&scene, 60 * SECOND).await;
        assert_eq!((report.drained, report.unsettled_events), (false, 15));
    });
}

#[test]
fn what_broke_and_was_written_after_all_is_settled() {
    on_virtual_time(async {
        let script = Script {
            reply: Box::new(|call, _| match call.operation {
                StoreOperation::Commit => AtEnd::Stall,
                _ => AtEnd::Proceed,
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        let (report, _) = drain(&scene, 60 * SECOND).await;
        assert_eq!(scene.script.claims().len(), 2, "it stalled and was rebuilt");
        assert_eq!((report.drained, report.unsettled_events), (true, 0));
    });
}

#[test]
fn what_is_whole_is_drained_also_beside_what_was_set_aside_before() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, _| {
                let first = call.source_partition == Some(&source_partition(0));
                match call.operation {
                    StoreOperation::Commit if first => (Duration::ZERO, unexpected()),
                    StoreOperation::Commit => (5 * SECOND, AtStart::Proceed),
                    _ => (Duration::ZERO, AtStart::Proceed),
                }
            }),
            ..Script::default()
        };
        let scene = Scene::new(2, script);
        scene.append_many(0, 15);
        scene.append_many(1, 15);
        let (node, _) = scene.start(NodeOptions::default(), &[0, 1]);
        let failed = tokio::time::timeout(3 * SECOND, node.ended()).await;
        assert!(failed.is_ok_and(|ended| ended.is_err()), "one is set aside");
        let report = node.drain(60 * SECOND).await;
        assert!(scene.is_settled(1).await, "the other is settled first");
        assert_eq!((report.drained, report.unsettled_events), (false, 15));
    });
}
