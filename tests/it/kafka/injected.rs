//! Errors that a broker answers with, injected: whatever the client is told, records come in order and each
//! once, and who asks whether a partition is still ours hears the truth.

use std::time::Duration;

use bytes::Bytes;
use tidegate_connectors::bus::kafka::{KafkaBus, KafkaOptions};
use tidegate_connectors::contract::kafka::KafkaClient;
use tidegate_connectors::contract::kafka::injecting::{Fault, InjectingCluster, Request};
use tidegate_engine::bus::{BusError, BusEvent, EventBus as _, Start};
use tidegate_engine::position::{Offset, SourceName};

use super::{assigned, news, open, read, texts};

const TOPIC: &str = "topic";

/// A cluster with a topic of one partition, and records in it.
struct Stage {
    cluster: InjectingCluster,
    client: KafkaClient,
    written: usize,
}

impl Stage {
    async fn set(records: usize) -> Self {
        let cluster = InjectingCluster::new(3);
        cluster.make_topic(TOPIC, 1);
        let client = KafkaClient::new(&cluster.brokers().join(","));
        let mut stage = Self {
            cluster,
            client,
            written: 0,
        };
        stage.write(records).await;
        stage
    }

    async fn write(&mut self, records: usize) {
        for number in self.written..self.written + records {
            let payload = Bytes::from(number.to_string());
            self.client.write(TOPIC, 0, payload).await;
        }
        self.written += records;
    }

    fn bus(&self) -> KafkaBus {
        let source = SourceName::new("kafka").unwrap();
        let topics = vec![TOPIC.to_owned()];
        let brokers = self.cluster.brokers();
        open(KafkaOptions::new(
            source, "node-a", "group", brokers, topics,
        ))
        .unwrap()
    }

    /// The bus, which reads from the beginning.
    async fn reading(&self) -> KafkaBus {
        let bus = self.bus();
        assigned_patiently(&bus).await;
        bus.seek(0, Offset(0)).await.unwrap();
        bus
    }
}

/// Waits until the partition is assigned. What is wrong on the way passes.
async fn assigned_patiently(bus: &KafkaBus) {
    loop {
        match news(bus).await {
            Ok(events) => {
                let is_it = matches!(events[..], [BusEvent::Assigned { partition: 0, .. }]);
                assert!(is_it, "expected an assignment, found {events:?}");
                return;
            }
            Err(BusError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The next records are exactly these, in order.
async fn next_are(bus: &KafkaBus, numbers: std::ops::Range<usize>) {
    let expected: Vec<String> = numbers.map(|number| number.to_string()).collect();
    assert_eq!(texts(&read(bus, 0, expected.len()).await), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetches_that_fail_lose_nothing_and_change_no_order() {
    let mut stage = Stage::set(20).await;
    let bus = stage.reading().await;
    next_are(&bus, 0..20).await;
    let mut from = 20;
    for faults in [
        vec![Fault::NotLeader; 3],
        vec![Fault::NoLeader, Fault::TimedOut, Fault::Disconnected],
        vec![Fault::Disconnected; 5],
    ] {
        stage.cluster.answer(Request::Fetch, &faults);
        stage.write(20).await;
        next_are(&bus, from..from + 20).await;
        from += 20;
    }
    assert_eq!(bus.end_offset(0).await.unwrap(), Some(Offset(80)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_leader_moves_and_goes_away_is_read_on() {
    let mut stage = Stage::set(10).await;
    stage.cluster.lead(TOPIC, 0, 1);
    let bus = stage.reading().await;
    next_are(&bus, 0..10).await;
    stage.cluster.lead(TOPIC, 0, 2);
    stage.write(10).await;
    next_are(&bus, 10..20).await;
    stage.cluster.set_up(2, false);
    stage.cluster.lead(TOPIC, 0, 3);
    stage.write(10).await;
    next_are(&bus, 20..30).await;
    stage.cluster.set_up(2, true);
    stage.cluster.slow(3, Duration::from_millis(300));
    stage.write(3).await;
    next_are(&bus, 30..33).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_not_ready_is_waited_for() {
    let stage = Stage::set(5).await;
    let cluster = &stage.cluster;
    cluster.answer(Request::FindCoordinator, &[Fault::NoCoordinator; 2]);
    let coming = [Fault::Loading, Fault::NotCoordinator, Fault::Rebalancing];
    cluster.answer(Request::JoinGroup, &coming);
    cluster.answer(Request::SyncGroup, &[Fault::Rebalancing]);
    let bus = stage.reading().await;
    next_are(&bus, 0..5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_that_are_not_told_are_asked_again() {
    let stage = Stage::set(5).await;
    let faults = [Fault::NotLeader, Fault::TimedOut, Fault::NoLeader];
    // Where an assigned partition ends is asked before it is read.
    stage.cluster.answer(Request::ListOffsets, &faults);
    let bus = stage.reading().await;
    next_are(&bus, 0..5).await;
    stage.cluster.answer(Request::ListOffsets, &faults);
    let mut last = None;
    for _ in 0..10 {
        match bus.start_offset(0, Start::Latest).await {
            Ok(offset) => {
                last = Some(offset);
                break;
            }
            Err(BusError::Unavailable { .. }) => {}
            Err(error) => panic!("expected an answer or `Unavailable`, found: {error}"),
        }
    }
    assert_eq!(last, Some(Offset(5)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_group_says_of_a_commit_is_told_as_it_is() {
    let stage = Stage::set(5).await;
    let bus = stage.reading().await;
    next_are(&bus, 0..5).await;
    bus.acknowledge(0, Offset(3)).await.unwrap();
    assert!(bus.still_assigned(0).await.unwrap());
    // The group deals out anew: nobody knows yet.
    stage
        .cluster
        .answer(Request::OffsetCommit, &[Fault::Rebalancing]);
    let unsure = bus.still_assigned(0).await;
    assert!(
        matches!(unsure, Err(BusError::Unavailable { .. })),
        "{unsure:?}"
    );
    for refusal in [Fault::UnknownMember, Fault::OldGeneration] {
        let stage = Stage::set(1).await;
        let bus = stage.reading().await;
        stage.cluster.answer(Request::OffsetCommit, &[refusal]);
        assert!(!bus.still_assigned(0).await.unwrap(), "{refusal:?}");
    }
    assert_eq!(
        stage.client.committed("group", TOPIC, 0),
        Some(Offset(3)),
        "what was refused was not committed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_whose_range_was_lost_is_read_again_from_where_it_is_claimed() {
    let mut stage = Stage::set(5).await;
    let bus = stage.reading().await;
    next_are(&bus, 0..5).await;
    for round in 1..3 {
        stage.cluster.answer(Request::Fetch, &[Fault::OutOfRange]);
        stage.write(1).await;
        let mut told = Vec::new();
        while told.len() < 2 {
            told.extend(news(&bus).await.unwrap());
        }
        assert!(
            matches!(
                told[..],
                [
                    BusEvent::Lost { partition: 0 },
                    BusEvent::Assigned { partition: 0, .. }
                ]
            ),
            "{told:?}"
        );
        bus.seek(0, Offset(5)).await.unwrap();
        next_are(&bus, 5..5 + round).await;
    }
}

/// An eager member has to assign everything anew for it: nothing of the others is lost or comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_where_they_are_when_one_range_was_lost() {
    const TWO: &str = "two";
    let cluster = InjectingCluster::new(3);
    cluster.make_topic(TWO, 2);
    // Each has a broker of its own, so that one answer concerns one of them.
    for (partition, broker) in [(0, 1), (1, 2)] {
        cluster.lead(TWO, partition, broker);
    }
    let client = KafkaClient::new(&cluster.brokers().join(","));
    let mut written = 0;
    let mut write = async |records: u32| {
        for number in written..written + records {
            for partition in 0..2 {
                let payload = Bytes::from(number.to_string());
                client.write(TWO, partition, payload).await;
            }
        }
        written += records;
    };
    write(5).await;
    let source = SourceName::new("kafka").unwrap();
    let topics = vec![TWO.to_owned()];
    let options = KafkaOptions::new(source, "node-a", "group", cluster.brokers(), topics);
    let bus = open(options).unwrap();
    assert_eq!(assigned(&bus, 2).await.len(), 2);
    for partition in 0..2 {
        bus.seek(partition, Offset(0)).await.unwrap();
    }
    let mut read = [Vec::new(), Vec::new()];
    let mut lost = 0;
    // An answer to a fetch from before an assignment is one that the client ignores: the next round asks again.
    for round in 1..=20 {
        if round > 1 {
            cluster.answer(Request::Fetch, &[Fault::OutOfRange]);
            write(5).await;
        }
        let until = round * 5;
        while read.iter().any(|all| all.len() < until) {
            for event in news(&bus).await.unwrap() {
                match event {
                    BusEvent::Delivered {
                        partition,
                        deliveries,
                    } => {
                        read[partition as usize].extend(deliveries.iter().map(|it| it.offset.0));
                    }
                    BusEvent::Lost { .. } => lost += 1,
                    BusEvent::Assigned { partition, .. } => {
                        let next = read[partition as usize].len() as u64;
                        bus.seek(partition, Offset(next)).await.unwrap();
                    }
                    other => panic!("expected records or a loss, found {other:?}"),
                }
            }
        }
        let expected: Vec<u64> = (0..until as u64).collect();
        assert_eq!(read, [expected.clone(), expected]);
        if lost >= 3 {
            return;
        }
    }
    panic!("three losses in twenty rounds, found {lost}");
}
