//! A store call that never returns: nobody waits for it for ever, and nobody guesses what it did.

use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::store::memory::{AtEnd, AtStart, StoreOperation};
use tidegate_engine::store::StoreError;

use super::{SECOND, Scene, Script, alarm, on_virtual_time, unexpected};

/// One commit at a time in the whole node, and no stall before the time limit of an answer.
fn one_slot() -> NodeOptions {
    NodeOptions {
        commit_slots: 1,
        store_answer_limit: 20 * SECOND,
        stall_limit: 3_600 * SECOND,
        ..NodeOptions::default()
    }
}

/// Two partitions; the first commit hangs as the script says. Both are settled, once, without a claim.
fn goes_on(script: Script) {
    on_virtual_time(async {
        let scene = Scene::new(2, script);
        scene.append_many(0, 30);
        scene.append_many(1, 30);
        let (node, _) = scene.start(one_slot(), &[0, 1]);
        for partition in [0, 1] {
            scene.settled_within(partition, 60 * SECOND).await;
            let checkpoint = scene.checkpoint(partition).await.unwrap();
            assert_eq!(checkpoint.progress.counts.applied, 30);
            assert_eq!(checkpoint.epoch.0, 1, "its ownership went on");
        }
        assert_eq!(alarm(&node).await, None);
        let report = node.drain(10 * SECOND).await;
        assert!(report.drained, "{report:?}");
    });
}

#[test]
fn a_commit_that_never_arrives_gives_its_slot_back_and_is_made_again() {
    goes_on(Script {
        store: Box::new(|call, count| match call.operation {
            StoreOperation::Commit if count == 1 => (Duration::ZERO, AtStart::Stall),
            _ => (Duration::ZERO, AtStart::Proceed),
        }),
        ..Script::default()
    });
}

#[test]
fn a_commit_that_is_durable_and_never_answers_is_settled_by_its_revision() {
    goes_on(Script {
        reply: Box::new(|call, count| match call.operation {
            StoreOperation::Commit if count == 1 => AtEnd::Stall,
            _ => AtEnd::Proceed,
        }),
        ..Script::default()
    });
}

#[test]
fn a_commit_that_arrives_after_its_time_limit_takes_effect_once() {
    goes_on(Script {
        store: Box::new(|call, count| match call.operation {
            // The checkpoint that is read meanwhile does not show it yet, or does: both are right.
            StoreOperation::Commit if count == 1 => (21 * SECOND, AtStart::Proceed),
            StoreOperation::Checkpoint => (2 * SECOND, AtStart::Proceed),
            _ => (Duration::ZERO, AtStart::Proceed),
        }),
        ..Script::default()
    });
}

#[test]
fn a_checkpoint_that_is_never_read_is_asked_for_again() {
    goes_on(Script {
        store: Box::new(|call, count| match call.operation {
            StoreOperation::Commit if count == 1 => (Duration::ZERO, AtStart::Stall),
            // Two are read before the claims.
            StoreOperation::Checkpoint if count == 3 => (Duration::ZERO, AtStart::Stall),
            _ => (Duration::ZERO, AtStart::Proceed),
        }),
        ..Script::default()
    });
}

#[test]
fn a_claim_that_never_returns_is_made_again() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, count| match call.operation {
                StoreOperation::Claim if count == 1 => (Duration::ZERO, AtStart::Stall),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = Scene::new(1, script);
        scene.append_many(0, 5);
        let (_node, _) = scene.start(one_slot(), &[0]);
        scene.settled_within(0, 60 * SECOND).await;
        assert_eq!(scene.script.claims().len(), 2);
    });
}

/// One slot, and commits that take so long.
fn in_turns(commit: Duration, partitions: u32) -> (Scene, NodeOptions) {
    let script = Script {
        store: Box::new(move |call, _| match call.operation {
            StoreOperation::Commit => (commit, AtStart::Proceed),
            _ => (Duration::ZERO, AtStart::Proceed),
        }),
        ..Script::default()
    };
    let scene = Scene::new(partitions, script);
    for partition in 0..partitions {
        scene.append_many(partition, 10);
    }
    let options = NodeOptions {
        commit_slots: 1,
        ..NodeOptions::default()
    };
    (scene, options)
}

#[test]
fn a_commit_that_waits_for_its_turn_is_no_stall() {
    on_virtual_time(async {
        let limit = NodeOptions::default().stall_limit;
        let (scene, options) = in_turns(limit * 2 / 3, 4);
        let (node, _) = scene.start(options, &[0, 1, 2, 3]);
        for partition in 0..4 {
            scene.settled_within(partition, 10 * limit).await;
        }
        assert_eq!(scene.script.claims().len(), 4, "no ownership ended");
        assert_eq!(alarm(&node).await, None);
    });
}

#[test]
fn a_commit_that_has_its_turn_and_is_not_answered_is_a_stall() {
    on_virtual_time(async {
        let limit = NodeOptions::default().stall_limit;
        let (scene, options) = in_turns(100 * limit, 2);
        let (_node, _) = scene.start(options, &[0, 1]);
        tokio::time::sleep(limit + 5 * SECOND).await;
        assert_eq!(
            scene.script.claims().len(),
            2 + 1,
            "the one that has the slot"
        );
    });
}

#[test]
fn r25_an_alarm_says_that_nothing_was_written_only_where_that_is_known() {
    for (is_known, said) in [
        (true, "nothing of the batch was written"),
        (false, "not known"),
    ] {
        on_virtual_time(async {
            let script = Script {
                store: Box::new(move |call, count| {
                    let answer = match call.operation {
                        StoreOperation::Commit if is_known => unexpected(),
                        StoreOperation::Commit => AtStart::Fail(StoreError::OutcomeUnknown {
                            detail: "scripted".to_owned(),
                        }),
                        // One is read before the claim.
                        StoreOperation::Checkpoint if count == 2 => unexpected(),
                        _ => AtStart::Proceed,
                    };
                    (Duration::ZERO, answer)
                }),
                ..Script::default()
            };
            let scene = Scene::new(1, script);
            scene.append_many(0, 5);
            let (node, _) = scene.start(NodeOptions::default(), &[0]);
            tokio::time::sleep(5 * SECOND).await;
            let reason = alarm(&node).await.expect("an alarm");
            assert!(reason.contains(said), "{reason}");
        });
    }
}
