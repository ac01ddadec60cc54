//! What happens around a member: others join and go, names are taken, acknowledgements are a hint.

use std::time::Duration;

use tidegate_connectors::bus::kafka::{KafkaAssignment, KafkaBus};
use tidegate_engine::bus::{BusError, BusEvent, EventBus as _};
use tidegate_engine::position::Offset;

use super::{Stage, assigned, news, open, read, texts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_what_the_brokers_tools_see() {
    let Some(stage) = Stage::set("acknowledged", 1).await else {
        return;
    };
    for text in ["a", "b", "c"] {
        stage.write(0, text).await;
    }
    let committed = || stage.client.committed(&stage.topic, &stage.topic, 0);
    let bus = stage.bus("node-a");
    assigned(&bus, 1).await;
    bus.seek(0, Offset(0)).await.unwrap();
    read(&bus, 0, 3).await;
    assert_eq!(committed(), None, "nothing is told by itself");
    for told in [Offset(2), Offset(3)] {
        bus.acknowledge(0, told).await.unwrap();
        assert_eq!(committed(), Some(told));
        assert!(bus.still_assigned(0).await.unwrap());
        assert_eq!(committed(), Some(told), "asking tells nothing");
    }
}

/// Asking whether a partition is still ours leaves what an older consumer of the group has committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_consumers_position_outlives_the_question_who_owns() {
    let Some(stage) = Stage::set("older", 1).await else {
        return;
    };
    for text in ["a", "b", "c"] {
        stage.write(0, text).await;
    }
    stage
        .client
        .commit(&stage.topic, &stage.topic, 0, Offset(2));
    let bus = stage.bus("node-a");
    assigned(&bus, 1).await;
    assert!(bus.still_assigned(0).await.unwrap());
    let committed = stage.client.committed(&stage.topic, &stage.topic, 0);
    assert_eq!(committed, Some(Offset(2)));
}

/// Gives back what is asked for until so many partitions are held; returns them. An eager group deals all
/// out anew, so that only an assignment is the last word.
async fn held_by(
    bus: &KafkaBus,
    mut held: Vec<u32>,
    expected: usize,
    assignment: KafkaAssignment,
) -> Vec<u32> {
    let mut is_settled = false;
    while !is_settled || held.len() != expected {
        for event in news(bus).await.unwrap() {
            match event {
                BusEvent::Assigned { partition, .. } => {
                    held.push(partition);
                    is_settled = true;
                }
                BusEvent::Revoked { partition } => {
                    // Until it is released it is ours.
                    assert!(bus.still_assigned(partition).await.unwrap());
                    bus.release(partition).await.unwrap();
                    assert!(!bus.still_assigned(partition).await.unwrap());
                    held.retain(|it| *it != partition);
                    is_settled = assignment == KafkaAssignment::Cooperative;
                }
                other => panic!("expected assignments, found {other:?}"),
            }
        }
    }
    held.sort_unstable();
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_joins_gets_what_others_have_drained() {
    for assignment in [KafkaAssignment::Eager, KafkaAssignment::Cooperative] {
        let Some(stage) = Stage::set("joins", 4).await else {
            return;
        };
        let open = |node: &str| {
            let mut options = stage.options(node);
            options.assignment = assignment;
            open(options).unwrap()
        };
        let first = open("node-a");
        assigned(&first, 4).await;
        let second = open("node-b");
        let (mut all, of_second) = tokio::join!(
            held_by(&first, vec![0, 1, 2, 3], 2, assignment),
            held_by(&second, Vec::new(), 2, assignment)
        );
        all.extend(&of_second);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3], "{assignment:?}");
        // Each reads its own.
        stage.write(of_second[0], "x").await;
        second.seek(of_second[0], Offset(0)).await.unwrap();
        assert_eq!(texts(&read(&second, of_second[0], 1).await), ["x"]);
    }
}

/// Two nodes of one name: the group takes the younger, and the older stops with an alarm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_name_was_taken_loses_all_and_says_so() {
    let Some(stage) = Stage::set("fenced", 2).await else {
        return;
    };
    let first = stage.bus("node-a");
    assigned(&first, 2).await;
    let second = stage.bus("node-a");
    assigned(&second, 2).await;
    let mut lost = Vec::new();
    let error = loop {
        match news(&first).await {
            Ok(events) => lost.extend(events),
            Err(BusError::Unavailable { .. }) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(
        lost,
        [
            BusEvent::Lost { partition: 0 },
            BusEvent::Lost { partition: 1 }
        ]
    );
    let said = error.to_string();
    assert!(
        said.contains("`node-a.kafka`") && said.contains("node.name"),
        "{said}"
    );
    assert!(!first.still_assigned(0).await.unwrap());
    assert!(second.still_assigned(0).await.unwrap());
    let error = first.acknowledge(0, Offset(0)).await.unwrap_err();
    assert!(matches!(error, BusError::NotAssigned { .. }), "{error:?}");
}

/// A node that comes back under its name within the session's time gets its partitions, and others notice
/// nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_comes_back_under_its_name_has_its_partitions_again() {
    let Some(stage) = Stage::set("back", 2).await else {
        return;
    };
    let (first, second) = (stage.bus("node-a"), stage.bus("node-b"));
    let (of_first, of_second) = tokio::join!(
        held_by(&first, Vec::new(), 1, KafkaAssignment::Eager),
        held_by(&second, Vec::new(), 1, KafkaAssignment::Eager)
    );
    drop(first);
    let again = stage.bus("node-a");
    let all = assigned(&again, 1).await;
    assert_eq!(all[0].0, of_first[0]);
    let quiet = tokio::time::timeout(Duration::from_millis(500), news(&second)).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert!(second.still_assigned(of_second[0]).await.unwrap());
}
