//! A source that can never be read again: it says so, and goes on saying so.

use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::bus::memory::{BusFault, BusOperation};

use super::{SECOND, Scene, Script, alarm, on_virtual_time, unreadable};

/// The first poll finds the bus unreadable for good.
fn unreadable_at_first() -> Script {
    Script {
        bus: Box::new(|operation, count| match operation {
            BusOperation::Receive if count == 1 => (Duration::ZERO, unreadable()),
            _ => (Duration::ZERO, BusFault::Proceed),
        }),
        ..Script::default()
    }
}

#[test]
fn a_source_that_fails_before_its_first_assignment_stays_failed_and_claims_nothing() {
    on_virtual_time(async {
        let scene = Scene::new(1, unreadable_at_first());
        scene.append_many(0, 5);
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        tokio::time::sleep(20 * SECOND).await;
        let reason = alarm(&node).await.expect("an alarm");
        assert!(reason.contains("cannot be read"), "{reason}");
        let failed = tokio::time::timeout(SECOND, node.ended()).await;
        let failed = failed.expect("it is told at once").unwrap_err();
        assert!(failed.reason.contains("cannot be read"), "{failed}");
        assert_eq!(scene.script.claims().len(), 0);
        let began = tokio::time::Instant::now();
        let report = node.drain(60 * SECOND).await;
        assert!(!report.drained, "{report:?}");
        assert!(began.elapsed() < SECOND, "there is nothing to wait for");
    });
}
