//! What is read: from where, which offsets have holes, what stands beside a record, and when the end is
//! reached.

use std::time::Duration;

use bytes::Bytes;
use tidegate_engine::bus::{BusError, BusEvent, EventBus as _, Start};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::headers::HeaderValue;
use tidegate_engine::position::Offset;

use super::{Stage, assigned, ends_at, news, open, read, texts};

/// R41. Aborted records and transactions' marks are no events: when the last event was read, nothing is
/// left to be read, also for who comes later and finds nothing but them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r41_aborted_transactions_at_the_end_are_no_lag() {
    let Some(stage) = Stage::set("r41-aborted", 1).await else {
        return;
    };
    let (client, topic) = (&stage.client, &stage.topic);
    stage.write(0, "first").await;
    let records = |count: usize| vec![Bytes::from_static(b"in a transaction"); count];
    client.transaction(topic, 0, &records(1), true).await;
    client.transaction(topic, 0, &records(50), false).await;
    let bus = stage.bus("node-a");
    assigned(&bus, 1).await;
    bus.seek(0, Offset(0)).await.unwrap();
    let all = read(&bus, 0, 2).await;
    assert_eq!(texts(&all), ["first", "in a transaction"]);
    let behind_last = all[1].next;
    ends_at(&bus, 0, behind_last).await;
    // More of them, while it reads.
    client.transaction(topic, 0, &records(50), false).await;
    ends_at(&bus, 0, behind_last).await;
    // From the checkpoint on there is not one record.
    bus.seek(0, behind_last).await.unwrap();
    ends_at(&bus, 0, behind_last).await;
    // A record behind them is one.
    let later = stage.write(0, "later").await;
    assert!(later > behind_last);
    assert_eq!(texts(&read(&bus, 0, 1).await), ["later"]);
    ends_at(&bus, 0, later.next()).await;
    let found = bus.fingerprint_at(0, behind_last).await.unwrap();
    assert_eq!(found, None, "an aborted record is none");
    let found = bus.fingerprint_at(0, later).await.unwrap();
    assert_eq!(found, Some(hash_bytes(b"later")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_starts_where_its_rule_says() {
    let Some(stage) = Stage::set("start", 1).await else {
        return;
    };
    let (first, second) = (
        stage.write(0, "first").await,
        stage.write(0, "second").await,
    );
    let bus = stage.bus("node-a");
    assigned(&bus, 1).await;
    let start = async |start| bus.start_offset(0, start).await.unwrap();
    assert_eq!(start(Start::Earliest).await, first);
    assert_eq!(start(Start::Latest).await, second.next());
    assert_eq!(start(Start::Time(Timestamp(0))).await, first);
    let far = Timestamp(4_000_000_000_000_000);
    assert_eq!(start(Start::Time(far)).await, second.next());
    stage.client.truncate(&stage.topic, 0, second).await;
    assert_eq!(start(Start::Earliest).await, second);
    // Nothing begins by itself: the broker's own position is never asked for, and what is not sought is
    // not read.
    stage
        .client
        .commit("somebody-else", &stage.topic, 0, second);
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(500), news(&bus)).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_beside_a_record_comes_with_it() {
    let Some(stage) = Stage::set("headers", 1).await else {
        return;
    };
    let headers: [(&str, &[u8]); 4] = [
        ("ce_id", b"41"),
        ("ce_source", "/zürich".as_bytes()),
        ("content-type", b"application/json"),
        ("bytes", &[0, 255]),
    ];
    let payload = Bytes::from_static(b"{\"amount\":1}");
    let (client, topic) = (&stage.client, &stage.topic);
    client.write_with_headers(topic, 0, &headers, payload).await;
    let bus = stage.bus("node-a");
    assigned(&bus, 1).await;
    bus.seek(0, Offset(0)).await.unwrap();
    let all = read(&bus, 0, 1).await;
    for (name, value) in headers {
        assert_eq!(all[0].headers.get(name), HeaderValue::One(value));
    }
}

/// A range that retention took while it was to be read is told by assigning the partition anew: its claim
/// then sees that the last settled record is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_is_lost_is_never_skipped() {
    let Some(stage) = Stage::set("lost-range", 1).await else {
        return;
    };
    for number in 0..10 {
        stage.write(0, &number.to_string()).await;
    }
    let bus = stage.bus("node-a");
    assigned(&bus, 1).await;
    bus.seek(0, Offset(0)).await.unwrap();
    read(&bus, 0, 10).await;
    stage.client.truncate(&stage.topic, 0, Offset(8)).await;
    let error = bus.seek(0, Offset(3)).await.unwrap_err();
    assert!(matches!(error, BusError::Unreadable { .. }), "{error:?}");
    assert!(error.to_string().contains("8 to 10"), "{error}");
    let found = bus.fingerprint_at(0, Offset(2)).await.unwrap();
    assert_eq!(found, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_topics_are_one_source() {
    let Some(stage) = Stage::set("several", 2).await else {
        return;
    };
    let other = super::name("several");
    stage.client.make_topic(&other, 1, &[]).await;
    let mut options = stage.options("node-a");
    options.topics.push(other.clone());
    let bus = open(options).unwrap();
    let all = assigned(&bus, 3).await;
    let numbers: Vec<u32> = all.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 65_536]);
    let topics = [&stage.topic, &stage.topic, &other];
    for ((_, incarnation), topic) in all.iter().zip(topics) {
        assert!(incarnation.as_str().ends_with(&format!("/{topic}")));
    }
    stage
        .client
        .write(&other, 0, Bytes::from_static(b"x"))
        .await;
    for number in numbers {
        bus.seek(number, Offset(0)).await.unwrap();
    }
    assert_eq!(texts(&read(&bus, 65_536, 1).await), ["x"]);
    bus.acknowledge(65_536, Offset(1)).await.unwrap();
    let committed = stage.client.committed(&stage.topic, &other, 0);
    assert_eq!(committed, Some(Offset(1)));
}

/// What is not received is held back at the broker, and comes in order when it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stands_still_holds_little_and_goes_on() {
    const RECORDS: usize = 300;
    let Some(stage) = Stage::set("still", 1).await else {
        return;
    };
    let pad = "p".repeat(10_000);
    for number in 0..RECORDS {
        stage.write(0, &format!("{number} {pad}")).await;
    }
    let mut options = stage.options("node-a");
    options.fetched_bytes_max = 64 * 1024;
    (options.buffered_bytes_max, options.buffered_events_max) = (64 * 1024, 64);
    let bus = open(options).unwrap();
    assigned(&bus, 1).await;
    bus.seek(0, Offset(0)).await.unwrap();
    // Time in which a reader without bounds would have it all.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let first = news(&bus).await.unwrap();
    let [BusEvent::Delivered { deliveries, .. }] = &first[..] else {
        panic!("expected records, found {first:?}");
    };
    assert!(deliveries.len() < 30, "{} waited", deliveries.len());
    let rest = read(&bus, 0, RECORDS - deliveries.len()).await;
    for (number, delivery) in (0..).zip(deliveries.iter().chain(&rest)) {
        assert_eq!(delivery.offset, Offset(number));
        assert!(
            delivery
                .payload
                .starts_with(format!("{number} ").as_bytes())
        );
    }
}

/// A partition is sought as soon as it is assigned, which is when its client may still ask for other things,
/// and is read while more comes: nothing is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_skipped_behind_a_seek_that_comes_at_once() {
    const PARTITIONS: usize = 4;
    let Some(stage) = Stage::set("at-once", PARTITIONS).await else {
        return;
    };
    let records = |from: usize, to: usize| -> Vec<Bytes> {
        (from..to)
            .map(|number| Bytes::from(number.to_string()))
            .collect()
    };
    for partition in 0..PARTITIONS as u32 {
        let first = records(0, 3_000);
        stage.client.write_all(&stage.topic, partition, first).await;
    }
    for round in 0..4 {
        let bus = stage.bus("node-a");
        for (partition, _) in assigned(&bus, PARTITIONS).await {
            bus.seek(partition, Offset(0)).await.unwrap();
        }
        // Longer than a client waits before it asks again.
        tokio::time::sleep(Duration::from_millis(800)).await;
        let more = 3_000 + 10 * round;
        for partition in 0..PARTITIONS as u32 {
            let more = records(more, more + 10);
            stage.client.write_all(&stage.topic, partition, more).await;
        }
        let mut next = [0; PARTITIONS];
        while next.iter().any(|next| *next < more as u64 + 10) {
            for event in news(&bus).await.unwrap() {
                let BusEvent::Delivered {
                    partition,
                    deliveries,
                } = event
                else {
                    panic!("expected records, found {event:?}");
                };
                for delivery in deliveries {
                    assert_eq!(delivery.offset.0, next[partition as usize], "{round}");
                    next[partition as usize] += 1;
                }
            }
        }
    }
}
