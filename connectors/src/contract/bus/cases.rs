//! The promises of a bus, one function each.

use bytes::Bytes;
use tidegate_engine::bus::{BusError, ReceiveLimit, Start};
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::position::Offset;

use super::reader::{Reader, WIDE};
use super::{BusUnderTest, records};

/// The partition of ordinary records, the one with sizes, and the one without any.
const ORDINARY: u32 = 0;
const SIZED: u32 = 1;
const EMPTY: u32 = 2;

fn payloads(partition: u32) -> Vec<Bytes> {
    records()[partition as usize].clone()
}

async fn assigned(subject: &BusUnderTest) -> Reader {
    Reader::assigned(&subject.bus, records().len()).await
}

pub(super) async fn every_partition_is_assigned_once_and_silent_before_its_seek(
    subject: BusUnderTest,
) {
    let mut reader = assigned(&subject).await;
    reader.assigned.sort_unstable();
    assert_eq!(reader.assigned, vec![ORDINARY, SIZED, EMPTY]);
    reader.stays_quiet().await;
}

pub(super) async fn records_come_in_order_with_the_bytes_that_were_written(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    for partition in [ORDINARY, SIZED, EMPTY] {
        reader.seek_earliest(partition).await;
    }
    for partition in [SIZED, ORDINARY] {
        let expected = payloads(partition);
        let found = reader.read(partition, expected.len()).await;
        let found: Vec<_> = found.into_iter().map(|it| it.payload).collect();
        assert_eq!(found, expected);
    }
    assert!(reader.delivered[&EMPTY].is_empty());
}

pub(super) async fn a_seek_again_delivers_again_from_there(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    reader.seek_earliest(ORDINARY).await;
    let all = reader.read(ORDINARY, payloads(ORDINARY).len()).await;
    for from in [3, 0, all.len() - 1, 5] {
        reader.seek(ORDINARY, all[from].offset).await;
        let found = reader.read(ORDINARY, all.len() - from).await;
        assert_eq!(found, all[from..]);
    }
    // In the middle of reading, too: what was fetched ahead is not delivered behind a seek.
    for from in [2, 6, 1] {
        reader.seek(ORDINARY, all[0].offset).await;
        let two = ReceiveLimit {
            events_max: 2,
            ..WIDE
        };
        reader.step(two).await;
        reader.seek(ORDINARY, all[from].offset).await;
        let found = reader.read(ORDINARY, all.len() - from).await;
        assert_eq!(found, all[from..]);
    }
}

pub(super) async fn a_receive_that_is_dropped_has_taken_nothing_and_stops_no_seek(
    subject: BusUnderTest,
) {
    const PARTITIONS: [u32; 3] = [ORDINARY, SIZED, EMPTY];
    let two = ReceiveLimit {
        events_max: 2,
        ..WIDE
    };
    let mut reader = Reader::new(&subject.bus);
    let mut dropped = 0;
    // Dropped at its first wait, or some polls later.
    let mut polls = (0_u32..).map(|turn| 1 + turn % 16);
    while reader.assigned.len() < PARTITIONS.len() {
        dropped += u32::from(reader.step_within(two, polls.next().unwrap()).await);
    }
    for partition in PARTITIONS {
        reader.seek_earliest(partition).await;
    }
    for round in 0..20 {
        let expected = payloads(ORDINARY);
        while reader.delivered[&ORDINARY].len() < expected.len() {
            dropped += u32::from(reader.step_within(two, polls.next().unwrap()).await);
        }
        let found = reader.delivered[&ORDINARY].iter();
        let found: Vec<_> = found.map(|it| it.payload.clone()).collect();
        assert_eq!(found, expected, "round {round}");
        // Whatever the receive before it has left behind, the position can be moved.
        reader.step_within(two, 1).await;
        reader.seek_earliest(ORDINARY).await;
    }
    println!("  {dropped} receives were dropped");
}

pub(super) async fn one_partition_moves_without_the_others(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    reader.seek_earliest(ORDINARY).await;
    let ordinary = reader.read(ORDINARY, payloads(ORDINARY).len()).await;
    reader.seek_earliest(SIZED).await;
    reader.read(SIZED, payloads(SIZED).len()).await;
    assert_eq!(reader.delivered[&ORDINARY], ordinary);
    reader.seek(ORDINARY, ordinary[4].offset).await;
    let again = reader.read(ORDINARY, ordinary.len() - 4).await;
    assert_eq!(again, ordinary[4..]);
    assert_eq!(reader.delivered[&SIZED].len(), payloads(SIZED).len());
}

pub(super) async fn no_more_events_than_asked_for(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    for events_max in [1, 3] {
        reader.seek_earliest(ORDINARY).await;
        reader.seek_earliest(SIZED).await;
        let limit = ReceiveLimit { events_max, ..WIDE };
        let wanted = payloads(ORDINARY).len() + payloads(SIZED).len();
        let mut records = 0;
        while records < wanted {
            // The reader itself checks the limit, over all partitions of one receive.
            records += reader.step(limit).await;
        }
        assert_eq!(records, wanted);
    }
}

pub(super) async fn no_more_bytes_than_asked_for_but_a_first_record_alone(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    // Room for two of the ordinary sizes; the large record fits no limit and must come all the same.
    for bytes_max in [1, 250] {
        reader.seek_earliest(SIZED).await;
        let limit = ReceiveLimit { bytes_max, ..WIDE };
        let expected = payloads(SIZED);
        while reader.delivered[&SIZED].len() < expected.len() {
            reader.step(limit).await;
        }
        let found: Vec<_> = reader.delivered[&SIZED]
            .iter()
            .map(|it| it.payload.clone())
            .collect();
        assert_eq!(found, expected);
    }
}

pub(super) async fn a_fingerprint_is_that_of_the_record_at_exactly_that_offset(
    subject: BusUnderTest,
) {
    let mut reader = assigned(&subject).await;
    reader.seek_earliest(ORDINARY).await;
    let all = reader.read(ORDINARY, payloads(ORDINARY).len()).await;
    let bus = &subject.bus;
    for delivery in &all {
        let found = bus.fingerprint_at(ORDINARY, delivery.offset).await.unwrap();
        assert_eq!(found, Some(hash_bytes(&delivery.payload)));
        // Between two records, where the source has such offsets.
        for hole in delivery.offset.0 + 1..delivery.next.0.min(delivery.offset.0 + 3) {
            let found = bus.fingerprint_at(ORDINARY, Offset(hole)).await.unwrap();
            assert_eq!(found, None, "there is no record at {hole}");
        }
    }
    let behind = all.last().unwrap().next;
    let found = bus.fingerprint_at(ORDINARY, behind).await.unwrap();
    assert_eq!(found, None);
    let found = bus.fingerprint_at(EMPTY, Offset(0)).await.unwrap();
    assert_eq!(found, None);
    // Asking moves nothing.
    reader.seek(ORDINARY, all[1].offset).await;
    bus.fingerprint_at(ORDINARY, all[5].offset).await.unwrap();
    assert_eq!(reader.read(ORDINARY, all.len() - 1).await, all[1..]);
}

pub(super) async fn earliest_is_the_first_record_and_latest_is_behind_the_last(
    subject: BusUnderTest,
) {
    let mut reader = assigned(&subject).await;
    reader.seek_earliest(ORDINARY).await;
    let all = reader.read(ORDINARY, payloads(ORDINARY).len()).await;
    let bus = &subject.bus;
    let earliest = bus.start_offset(ORDINARY, Start::Earliest).await.unwrap();
    assert!(earliest <= all[0].offset);
    let latest = bus.start_offset(ORDINARY, Start::Latest).await.unwrap();
    assert!(all.last().unwrap().offset < latest);
    let (first, last) = (
        bus.start_offset(EMPTY, Start::Earliest).await.unwrap(),
        bus.start_offset(EMPTY, Start::Latest).await.unwrap(),
    );
    assert_eq!(first, last, "nothing is between the ends of nothing");
}

pub(super) async fn an_end_is_told_once_a_seek(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    for _ in 0..2 {
        for partition in [ORDINARY, SIZED, EMPTY] {
            reader.seek_earliest(partition).await;
        }
        while reader.ended.values().any(Vec::is_empty) {
            reader.step(WIDE).await;
        }
        for partition in [ORDINARY, SIZED] {
            let all = &reader.delivered[&partition];
            assert_eq!(all.len(), payloads(partition).len(), "the end comes last");
            let behind = all.last().unwrap().next;
            assert!(behind <= reader.ended[&partition][0]);
        }
    }
    for (partition, ends) in &reader.ended {
        assert_eq!(ends.len(), 1, "ends of partition {partition}");
    }
    reader.stays_quiet().await;
}

pub(super) async fn an_acknowledgement_never_moves_delivery(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    reader.seek_earliest(ORDINARY).await;
    let all = reader.read(ORDINARY, payloads(ORDINARY).len()).await;
    let bus = &subject.bus;
    let three = ReceiveLimit {
        events_max: 3,
        ..WIDE
    };
    reader.seek(ORDINARY, all[0].offset).await;
    reader.step(three).await;
    // Ahead of what was read, and then behind it.
    bus.acknowledge(ORDINARY, all[6].next).await.unwrap();
    reader.step(three).await;
    bus.acknowledge(ORDINARY, all[1].next).await.unwrap();
    assert_eq!(reader.read(ORDINARY, all.len()).await, all);
    // What was acknowledged can still be read again: the store says where to go on.
    bus.acknowledge(ORDINARY, all.last().unwrap().next)
        .await
        .unwrap();
    reader.seek(ORDINARY, all[2].offset).await;
    assert_eq!(reader.read(ORDINARY, all.len() - 2).await, all[2..]);
}

pub(super) async fn the_end_offset_is_behind_the_last_record(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    reader.seek_earliest(ORDINARY).await;
    let all = reader.read(ORDINARY, payloads(ORDINARY).len()).await;
    if let Some(end) = subject.bus.end_offset(ORDINARY).await.unwrap() {
        assert!(all.last().unwrap().offset < end);
        if subject.capabilities.grows {
            (subject.append)(ORDINARY, Bytes::from_static(b"{\"late\":true}")).await;
            let all = reader.read(ORDINARY, all.len() + 1).await;
            let later = subject.bus.end_offset(ORDINARY).await.unwrap();
            assert!(later.is_some_and(|later| later > all.last().unwrap().offset));
        }
    }
}

pub(super) async fn a_seek_behind_the_end_is_an_error(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    let latest = subject
        .bus
        .start_offset(ORDINARY, Start::Latest)
        .await
        .unwrap();
    // A checkpoint that is ahead of its source belongs to another instance of it.
    let error = match subject.bus.seek(ORDINARY, Offset(latest.0 + 1_000)).await {
        Err(error) => error,
        Ok(()) => match reader.try_step(WIDE).await {
            Err(error) => error,
            Ok(_) => panic!("a seek behind the end was taken in silence"),
        },
    };
    assert!(matches!(error, BusError::Unreadable { .. }), "{error:?}");
}

pub(super) async fn a_partition_that_is_not_there_is_an_error(subject: BusUnderTest) {
    let _reader = assigned(&subject).await;
    let bus = &subject.bus;
    let nowhere = 77;
    for error in [
        bus.seek(nowhere, Offset(0)).await.unwrap_err(),
        bus.acknowledge(nowhere, Offset(0)).await.unwrap_err(),
        bus.release(nowhere).await.unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                BusError::NotAssigned { .. } | BusError::Unreadable { .. }
            ),
            "{error:?}"
        );
    }
}

pub(super) async fn what_was_given_back_is_not_assigned_any_more(subject: BusUnderTest) {
    assigned(&subject).await;
    subject.bus.release(SIZED).await.unwrap();
    for (partition, expected) in [(ORDINARY, true), (SIZED, false), (EMPTY, true)] {
        let found = subject.bus.still_assigned(partition).await.unwrap();
        assert_eq!(found, expected, "partition {partition}");
    }
}

pub(super) async fn a_waiting_receive_is_woken_by_a_new_record(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    for partition in [ORDINARY, SIZED, EMPTY] {
        reader.seek_earliest(partition).await;
    }
    for partition in [ORDINARY, SIZED] {
        reader.read(partition, payloads(partition).len()).await;
    }
    for round in 0..3_usize {
        let payload = Bytes::from(format!("{{\"round\":{round}}}"));
        let append = {
            let (append, payload) = (subject.append.clone(), payload.clone());
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                append(EMPTY, payload).await;
            })
        };
        let found = reader.read(EMPTY, round + 1).await;
        assert_eq!(found[round].payload, payload);
        append.await.unwrap();
    }
}

pub(super) async fn latest_delivers_only_what_arrives_later(subject: BusUnderTest) {
    let mut reader = assigned(&subject).await;
    let latest = subject
        .bus
        .start_offset(ORDINARY, Start::Latest)
        .await
        .unwrap();
    reader.seek(ORDINARY, latest).await;
    let late = Bytes::from_static(b"{\"late\":true}");
    (subject.append)(ORDINARY, late.clone()).await;
    let found = reader.read(ORDINARY, 1).await;
    assert_eq!(found[0].payload, late);
    assert!(latest <= found[0].offset);
    reader.stays_quiet().await;
}
