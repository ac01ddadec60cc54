//! Retention: of each log its beginning goes, its end stays verifiable, and nobody's pointer dangles.

use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::CommitReply;
use tidegate_engine::dead_letter::{
    DeadLetter, DeadLetterSource, DeadLetterState, DeadLetterUpdate,
};
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::DeadReason;
use tidegate_engine::position::{RecordPosition, Sequence, StreamName};
use tidegate_engine::record::Outcome;
use tidegate_engine::state::MachineName;
use tidegate_engine::store::{StateStore, Upkeep, UpkeepDone};
use tidegate_engine::verify::stored_record;

use super::letters::unreadable;
use super::log::{append, head_of, log_of};
use super::reading::{end_of, segments, verified_log, verified_records};
use super::{StoreUnderTest, begin, committed, days, patiently, upkeep_at};
use crate::contract::batch::{Entry, Writer, source_partition, tenant};

/// Upkeep that keeps so many days of the log.
pub(super) async fn upkeep_with(
    store: &dyn StateStore,
    now: Timestamp,
    keep_days: i64,
) -> UpkeepDone {
    let upkeep = Upkeep {
        retention_micros: Some(days(Timestamp(0), keep_days).0),
        ..upkeep_at(now)
    };
    patiently(|| store.upkeep(upkeep)).await
}

async fn retain(store: &dyn StateStore, now: Timestamp, keep_days: i64) -> u64 {
    upkeep_with(store, now, keep_days).await.segments_dropped
}

pub(super) async fn retention_of_an_idle_stream_leaves_an_anchor_that_the_next_event_goes_on_from(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let begun = begin();
    patiently(|| store.upkeep(upkeep_at(begun))).await;
    let place = log_of("acme", 0);
    let mut writer = Writer::claim(store, &place.source_partition, "a", begun)
        .await
        .unwrap();
    for events in [2, 3] {
        append(store, &mut writer, "acme", events).await;
    }
    let head = head_of(store, &place).await;
    let later = days(begun, 400);
    assert_eq!(retain(store, later, 30).await, 2);
    assert_eq!(segments(store, &place).await, Vec::new());
    assert_eq!(head_of(store, &place).await, head, "the head stays");
    let anchor = store.chain_anchor(&place).await.unwrap().unwrap();
    assert_eq!(anchor.stream_partition, place);
    assert_eq!(anchor.next_sequence, Sequence(5));
    assert_eq!(anchor.chain_head, head.chain_head);
    assert_eq!(retain(store, later, 30).await, 0, "nothing is left to drop");
    // A new owner, that knows nothing but the store, goes on.
    let mut writer = Writer::claim(store, &place.source_partition, "b", later)
        .await
        .unwrap();
    append(store, &mut writer, "acme", 1).await;
    let records = verified_log(store, &head_of(store, &place).await).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].sequence, Sequence(5));
    assert_eq!(store.chain_anchor(&place).await.unwrap(), Some(anchor));
}

pub(super) async fn retention_keeps_what_is_younger(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let begun = begin();
    let place = log_of("acme", 0);
    let mut writer = Writer::claim(store, &place.source_partition, "a", begun)
        .await
        .unwrap();
    for age in 0..4 {
        let now = days(begun, age * 100);
        patiently(|| store.upkeep(upkeep_at(now))).await;
        writer.now = now;
        append(store, &mut writer, "acme", 2).await;
        append(store, &mut writer, "bolt", 1).await;
    }
    let now = days(begun, 310);
    assert_eq!(retain(store, now, 1_000).await, 0);
    assert_eq!(store.chain_anchor(&place).await.unwrap(), None);
    // The segments of day 0 and 100 are older than 150 days, of both tenants.
    assert_eq!(retain(store, now, 150).await, 4);
    let anchor = store.chain_anchor(&place).await.unwrap().unwrap();
    assert_eq!(anchor.next_sequence, Sequence(4));
    let records = verified_log(store, &head_of(store, &place).await).await;
    assert_eq!(records.len(), 4);
    assert_eq!(verified_records(store, &tenant("bolt")).await.len(), 2);
    let mut writer = Writer::claim(store, &place.source_partition, "b", now)
        .await
        .unwrap();
    patiently(|| store.upkeep(upkeep_at(now))).await;
    append(store, &mut writer, "acme", 1).await;
    assert_eq!(verified_records(store, &tenant("acme")).await.len(), 5);
}

pub(super) async fn a_clock_that_stepped_back_leaves_no_hole_behind_retention(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let begun = begin();
    patiently(|| store.upkeep(upkeep_at(begun))).await;
    let place = log_of("acme", 0);
    let mut writer = Writer::claim(store, &place.source_partition, "a", begun)
        .await
        .unwrap();
    append(store, &mut writer, "acme", 2).await;
    let later = days(begun, 400);
    patiently(|| store.upkeep(upkeep_at(later))).await;
    writer.now = later;
    append(store, &mut writer, "acme", 2).await;
    // The next owner's clock is far behind.
    let mut writer = Writer::claim(store, &place.source_partition, "b", begun)
        .await
        .unwrap();
    append(store, &mut writer, "acme", 2).await;
    writer.now = later;
    append(store, &mut writer, "acme", 2).await;
    retain(store, days(later, 10), 100).await;
    // However much was dropped, what is left is one run from the anchor to the head.
    let records = verified_log(store, &head_of(store, &place).await).await;
    assert!(records.len() >= 4, "what is younger is still there");
    let end = segments(store, &place).await.last().map(end_of);
    assert_eq!(end, Some(Sequence(8)));
}

/// An open letter of `acme` about a record of a stream in partition 0.
fn letter_about(stream: &str, sequence: u64, id: u128, at: Timestamp) -> DeadLetter {
    DeadLetter::new(
        tenant("acme"),
        Hash128(id),
        DeadReason::Expression,
        "order.yaml:7".to_owned(),
        DeadLetterSource::Record {
            position: RecordPosition {
                stream: StreamName::new(stream).unwrap(),
                source_partition: source_partition("orders", 0),
                sequence: Sequence(sequence),
            },
            machine: MachineName::new("order").unwrap(),
            key: None,
        },
        at,
    )
}

/// What a letter points to can be read.
async fn is_readable(store: &dyn StateStore, letter: &DeadLetter) -> bool {
    let DeadLetterSource::Record { position, .. } = &letter.source else {
        panic!("a letter about a record");
    };
    let record = stored_record(store, &letter.tenant, position)
        .await
        .unwrap();
    record.is_some_and(|record| record.sequence == position.sequence)
}

/// Segments of two records at days 0, 100, 200 and 300 in two streams of `acme`, and of one in
/// `bolt`, which emits. Of `orders` the fourth record is dead, of `returns` the sixth; both letters.
async fn four_segments_with_two_dead_records(
    store: &dyn StateStore,
    writer: &mut Writer,
) -> Vec<DeadLetter> {
    let begun = writer.now;
    let mut letters = Vec::new();
    for round in 0..4 {
        writer.now = days(begun, round * 100);
        patiently(|| store.upkeep(upkeep_at(writer.now))).await;
        let bolt = format!("b{round}");
        let mut entries = vec![Entry::new("bolt", &bolt).creates(&bolt).emits(1)];
        let mut new = Vec::new();
        for number in [2 * round, 2 * round + 1].map(i64::unsigned_abs) {
            for (stream, dead) in [("orders", 3), ("returns", 5)] {
                let entry = Entry::new("acme", &format!("{stream}-{number}")).stream(stream);
                entries.push(if number == dead {
                    let id = u128::from(number);
                    new.push(letter_about(stream, number, id, writer.now));
                    entry.ends("o", Outcome::Dead)
                } else {
                    entry
                });
            }
        }
        let mut batch = writer.batch(&entries);
        batch.dead_letters = if round == 0 {
            // Has its bytes with it, so it holds nothing.
            let place = &writer.checkpoint.source_partition;
            vec![unreadable("acme", 99, place, writer.now)]
        } else {
            new.clone()
        };
        let reply = writer.commit_batch(store, batch).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
        letters.extend(new);
    }
    letters
}

pub(super) async fn retention_holds_what_an_open_dead_letter_points_to(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let letters = four_segments_with_two_dead_records(store, &mut writer).await;
    let now = days(writer.now, 200);
    let done = upkeep_with(store, now, 30).await;
    // The second and all behind it of `orders`, the third of `returns`.
    assert!(done.segments_held >= 5, "{done:?}");
    for letter in &letters {
        assert!(is_readable(store, letter).await, "{letter:?}");
    }
    // Nothing points to what is before, nor into the other tenant's beginning.
    assert!(done.segments_dropped >= 3, "{done:?}");
    let anchor = store.chain_anchor(&log_of("acme", 0)).await.unwrap();
    assert_eq!(anchor.unwrap().next_sequence, Sequence(2));
    for name in ["acme", "bolt"] {
        verified_records(store, &tenant(name)).await;
    }
    // Open work has its event with it: it outlives the record that caused it.
    let work = store
        .open_work(&tenant("bolt"), &place, None, 10)
        .await
        .unwrap();
    assert_eq!(work.len(), 4);
    // Once one letter is decided, the other still holds what it points to.
    writer.now = now;
    for (id, state) in [
        (3, DeadLetterState::Retried),
        (5, DeadLetterState::Discarded),
    ] {
        let mut batch = writer.batch(&[]);
        batch.tenants = vec![tenant("acme")];
        batch.dead_letter_updates = vec![DeadLetterUpdate {
            tenant: tenant("acme"),
            id: Hash128(id),
            state,
            at: now,
        }];
        let reply = writer.commit_batch(store, batch).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
        let done = upkeep_with(store, now, 30).await;
        assert!(done.segments_dropped > 0, "{done:?}");
        let still_held = id == 3;
        assert_eq!(is_readable(store, &letters[1]).await, still_held);
        assert_eq!(done.segments_held > 0, still_held, "{done:?}");
    }
    patiently(|| store.upkeep(upkeep_at(now))).await;
    committed(store, &mut writer, &[Entry::new("acme", "next")]).await;
    let records = verified_records(store, &tenant("acme")).await;
    assert_eq!(records.len(), 1, "all else is gone, and the chain goes on");
}
