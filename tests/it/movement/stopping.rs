//! How a node ends, and how it sees that something has: drain in order, stall, and the snapshots that
//! tests, operators and this file read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_actors::{NodeOptions, SourceStatus};
use tidegate_connectors::bus::memory::BusOperation;
use tidegate_connectors::store::memory::{AtStart, StoreOperation};
use tidegate_engine::position::{Offset, Sequence};

use super::{SECOND, Scene, Script, alarm, away, on_virtual_time, until};

/// Commits take so long.
fn slow(commit: Duration) -> Script {
    Script {
        store: Box::new(move |call, _| match call.operation {
            StoreOperation::Commit => (commit, AtStart::Proceed),
            _ => (Duration::ZERO, AtStart::Proceed),
        }),
        ..Script::default()
    }
}

/// Few at a time.
fn small() -> NodeOptions {
    NodeOptions {
        node_events_max: 60,
        receive_events_max: 20,
        batch_events_max: 10,
        ..NodeOptions::default()
    }
}

#[test]
fn a_drain_receives_nothing_more_settles_what_was_received_and_then_stops() {
    on_virtual_time(async {
        let scene = Scene::new(1, slow(SECOND));
        scene.append_many(0, 200);
        let (node, id) = scene.start(small(), &[0]);
        until("some are received", 10 * SECOND, || {
            scene.script.calls(StoreOperation::Commit) >= 2
        })
        .await;
        let polls = scene.script.bus_calls(BusOperation::Receive);
        let unsettled = node.snapshot().await.sources[0].partitions[0].tracked_events;
        assert!(unsettled > 0, "there is something to drain");
        let report = node.drain(60 * SECOND).await;
        assert!(report.drained && report.unsettled_events == 0, "{report:?}");
        assert_eq!(scene.script.bus_calls(BusOperation::Receive), polls);
        let settled = scene.checkpoint(0).await.unwrap().progress;
        assert!(settled.next_offset < Offset(200), "it did not read on");
        assert_eq!(settled.counts.applied, settled.next_offset.0);
        // What was settled last is acknowledged too, and nothing is committed after the end.
        let commits = scene.script.calls(StoreOperation::Commit);
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(scene.script.calls(StoreOperation::Commit), commits);
        let acknowledged = scene.broker.acknowledged(0).last().copied();
        assert_eq!(acknowledged, Some((id, settled.next_offset)));
        // The next node goes on where this one ended.
        scene.broker.drop_consumer(id);
        let (_node, _) = scene.start(small(), &[0]);
        scene.settled_within(0, 60 * SECOND).await;
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!((counts.applied, counts.duplicates), (200, 0));
    });
}

#[test]
fn a_drain_that_cannot_end_in_time_says_what_is_left_and_the_next_node_does_it() {
    on_virtual_time(async {
        let switch = Arc::new(AtomicBool::new(true));
        let on = switch.clone();
        let script = Script {
            store: Box::new(move |call, _| match call.operation {
                StoreOperation::Commit if on.load(Ordering::SeqCst) => {
                    (Duration::ZERO, AtStart::Fail(away()))
                }
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        scene.append_many(0, 15);
        let (node, id) = scene.start(small(), &[0]);
        tokio::time::sleep(5 * SECOND).await;
        let began = tokio::time::Instant::now();
        let report = node.drain(7 * SECOND).await;
        assert_eq!((report.drained, report.unsettled_events), (false, 15));
        assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
        switch.store(false, Ordering::SeqCst);
        tokio::time::sleep(20 * SECOND).await;
        let before = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!(before.applied, 0, "a node that ended commits nothing");
        scene.broker.drop_consumer(id);
        let (_node, _) = scene.start(small(), &[0]);
        scene.settled_within(0, 10 * SECOND).await;
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!(counts.applied, 15);
    });
}

/// Loads of entities hang, the first `times` of them.
fn hanging_loads(times: u64) -> Script {
    Script {
        store: Box::new(move |call, count| match call.operation {
            StoreOperation::LoadEntities if count <= times => (Duration::ZERO, AtStart::Stall),
            _ => (Duration::ZERO, AtStart::Proceed),
        }),
        ..Script::default()
    }
}

#[test]
fn work_that_waits_and_does_not_move_is_a_stall_and_is_rebuilt_from_the_store() {
    on_virtual_time(async {
        let options = NodeOptions::default();
        let limit = options.stall_limit;
        let scene = Scene::new(1, hanging_loads(1));
        scene.append_many(0, 20);
        let (node, _) = scene.start(options, &[0]);
        tokio::time::sleep(limit - SECOND).await;
        assert_eq!(scene.script.claims().len(), 1, "not before its limit");
        scene.settled_within(0, 5 * SECOND).await;
        assert_eq!(scene.script.claims().len(), 2);
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!(counts.applied, 20);
        // Idle is no stall.
        tokio::time::sleep(10 * limit).await;
        assert_eq!(scene.script.claims().len(), 2);
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn a_read_that_never_returns_is_asked_again_while_other_tenants_go_on() {
    on_virtual_time(async {
        let options = NodeOptions::default();
        let limit = options.store_answer_limit;
        let scene = Scene::new(1, hanging_loads(1));
        scene.append(0, "slow", "1", "o1");
        let (node, _) = scene.start(options, &[0]);
        tokio::time::sleep(SECOND).await;
        // Somebody else's commits all the while: to the source partition nothing stalls.
        for n in 0..limit.as_secs() {
            scene.append(0, "busy", &n.to_string(), "o1");
            tokio::time::sleep(SECOND).await;
        }
        scene.settled_within(0, 5 * SECOND).await;
        assert_eq!(scene.script.claims().len(), 1, "nothing was rebuilt");
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn r26_what_stalls_again_and_again_uses_its_restart_budget_up_and_is_set_aside() {
    on_virtual_time(async {
        let options = NodeOptions {
            restarts_max: 3,
            restart_window: 600 * SECOND,
            ..NodeOptions::default()
        };
        let limit = options.stall_limit;
        let scene = Scene::new(2, hanging_loads(u64::MAX));
        scene.append_many(0, 20);
        let (node, _) = scene.start(options, &[0, 1]);
        tokio::time::sleep(6 * limit).await;
        let reason = alarm(&node).await.expect("an alarm");
        assert!(
            reason.contains("partition 0") && reason.contains("stalled"),
            "{reason}"
        );
        assert_eq!(
            scene.script.claims().len(),
            1 + 4,
            "partition 1, and 0 with three restarts"
        );
        let owned = &node.snapshot().await.sources[0].partitions;
        assert_eq!(owned.len(), 1, "the other partition goes on");
        assert_eq!(node.snapshot().await.unsettled_events, small_poll());
    });
}

/// Permits that a poll that waits holds.
fn small_poll() -> usize {
    NodeOptions::default().receive_events_max
}

#[test]
fn every_actor_shows_what_it_holds() {
    on_virtual_time(async {
        let scene = Scene::new(1, slow(10 * SECOND));
        scene.append_many(0, 25);
        let options = NodeOptions {
            tenant_events_max: 1_000,
            ..small()
        };
        let (node, _) = scene.start(options, &[0]);
        tokio::time::sleep(SECOND).await;
        let snapshot = node.snapshot().await;
        let source = &snapshot.sources[0];
        assert_eq!(source.status, SourceStatus::Running);
        let committer = &source.partitions[0];
        assert_eq!(committer.source_partition, super::source_partition(0));
        assert_eq!((committer.epoch.0, committer.low_watermark), (1, Offset(0)));
        assert_eq!(
            (committer.tracked_events, committer.in_flight_events),
            (25, 10)
        );
        assert_eq!(committer.ready_events, 5, "ten in flight, ten behind them");
        assert_eq!(
            (committer.commits, committer.surprises, committer.tenants),
            (0, 0, 1)
        );
        assert_eq!(committer.counts.received(), 0);
        let tenant = &snapshot.tenants[0];
        assert_eq!(
            (tenant.supervisor.tenant.as_str(), tenant.lane_events),
            ("t", 25)
        );
        assert!(tenant.lane_bytes > 25 * 100 && snapshot.unsettled_bytes >= tenant.lane_bytes);
        let partition = &tenant.supervisor.partitions[0];
        assert_eq!(partition.stream_partition.tenant.as_str(), "t");
        assert_eq!(
            (partition.unsettled_events, partition.prepared_batches),
            (25, 2)
        );
        assert_eq!(partition.loads_in_flight, 0);
        assert_eq!(
            partition.heads.map(|it| it.source.next_sequence),
            Some(Sequence(0))
        );
        // The lane's, and those of the poll that waits.
        assert_eq!(snapshot.unsettled_events, 25 + 20);
        scene.settled_within(0, 60 * SECOND).await;
        tokio::time::sleep(SECOND).await;
        let snapshot = node.snapshot().await;
        let committer = &snapshot.sources[0].partitions[0];
        assert_eq!(
            (committer.commits, committer.low_watermark),
            (3, Offset(25))
        );
        assert_eq!((committer.tracked_events, committer.ready_events), (0, 0));
        assert_eq!(committer.counts, snapshot.counts());
        assert_eq!(committer.counts.applied, 25);
        let tenant = &snapshot.tenants[0];
        assert_eq!((tenant.lane_events, tenant.lane_bytes), (0, 0));
        let partition = &tenant.supervisor.partitions[0];
        assert_eq!(
            (partition.unsettled_events, partition.prepared_batches),
            (0, 0)
        );
        assert_eq!(
            partition.heads.map(|it| it.source.next_sequence),
            Some(Sequence(25))
        );
    });
}
