//! Segments and heads: the log is gapless, and its chain holds across all of it.

use tidegate_engine::commit::CommitReply;
use tidegate_engine::dead_letter::{DeadLetter, DeadLetterSource};
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::DeadReason;
use tidegate_engine::position::{RecordPosition, Sequence, StreamName, StreamPartition};
use tidegate_engine::record::{Outcome, RecordBody};
use tidegate_engine::store::{StateStore, StoreError, StreamHead};

use super::letters::unreadable;
use super::reading::{dead_letters, dump, verified_records};
use super::{StoreUnderTest, begin, committed, submit};
use crate::contract::batch::{Entry, Writer, source_partition, tenant};
use crate::store::batch_form;

/// The log of stream `orders` in a partition of source `orders`.
pub(super) fn log_of(name: &str, partition: u32) -> StreamPartition {
    StreamPartition {
        tenant: tenant(name),
        stream: StreamName::new("orders").unwrap(),
        source_partition: source_partition("orders", partition),
    }
}

/// The head of a log that is there.
pub(super) async fn head_of(store: &dyn StateStore, place: &StreamPartition) -> StreamHead {
    let heads = store
        .stream_heads(&place.tenant, &place.source_partition)
        .await
        .unwrap();
    let found: Vec<_> = heads
        .into_iter()
        .filter(|head| head.stream_partition == *place)
        .collect();
    assert_eq!(found.len(), 1, "one head of {place}");
    found.into_iter().next().unwrap()
}

/// Commits so many events in one segment.
pub(super) async fn append(store: &dyn StateStore, writer: &mut Writer, name: &str, events: u64) {
    let next = writer.checkpoint.progress.next_offset.0;
    let place = writer.checkpoint.source_partition.to_string();
    let entries: Vec<Entry> = (next..next + events)
        .map(|offset| Entry::new(name, &format!("{place}:{offset}")))
        .collect();
    committed(store, writer, &entries).await;
}

pub(super) async fn segments_are_paged_from_any_sequence(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    // Segments of 3, 1 and 4 records: 0..3, 3..4, 4..8.
    for events in [3, 1, 4] {
        append(store, &mut writer, "acme", events).await;
        append(store, &mut writer, "bolt", 1).await;
    }
    let place = log_of("acme", 0);
    for (from, limit, expected) in [
        (0, 10, vec![0, 3, 4]),
        (2, 10, vec![0, 3, 4]),
        (3, 10, vec![3, 4]),
        (4, 10, vec![4]),
        (7, 10, vec![4]),
        (8, 10, vec![]),
        (999, 10, vec![]),
        (0, 1, vec![0]),
        (2, 2, vec![0, 3]),
        (3, 1, vec![3]),
    ] {
        let found = store.segments(&place, Sequence(from), limit).await.unwrap();
        let firsts: Vec<_> = found.iter().map(|it| it.first_sequence.0).collect();
        assert_eq!(firsts, expected, "from {from}, at most {limit}");
    }
    let nowhere = store.segments(&log_of("acme", 1), Sequence(0), 10).await;
    assert_eq!(nowhere.unwrap(), Vec::new());
    assert_eq!(verified_records(store, &tenant("acme")).await.len(), 8);
    assert_eq!(store.chain_anchor(&place).await.unwrap(), None);
}

pub(super) async fn a_segment_that_leaves_a_gap_or_overlaps_is_refused(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    append(store, &mut writer, "acme", 3).await;
    let before = dump(store).await;
    // Of a log that goes on at 3, and of one that begins.
    for (name, wrong) in [
        ("acme", vec![0, 2, 4, u64::from(u32::MAX)]),
        ("bolt", vec![1, 3]),
    ] {
        for first in wrong {
            let mut batch = writer.batch(&[Entry::new(name, "new")]);
            batch.segments[0].first_sequence = Sequence(first);
            let answer = submit(store, &batch).await;
            assert!(
                matches!(&answer, Err(StoreError::Unexpected { code, .. })
                    if code == batch_form::CODE_LOG_GAP),
                "{name} at {first}: the store answered {answer:?}"
            );
            assert_eq!(dump(store).await, before, "{name} at {first}");
        }
    }
    append(store, &mut writer, "acme", 1).await;
    append(store, &mut writer, "bolt", 1).await;
}

pub(super) async fn heads_are_the_same_after_a_restart(subject: StoreUnderTest) {
    let StoreUnderTest {
        store,
        reopen,
        keep: _keep,
        ..
    } = subject;
    let begun = begin();
    let mut writers = Vec::new();
    for partition in 0..2 {
        let place = source_partition("orders", partition);
        let mut writer = Writer::claim(store.as_ref(), &place, "a", begun)
            .await
            .unwrap();
        let entries = [
            Entry::new("acme", &format!("{partition}-1")).creates(&format!("o{partition}")),
            Entry::new("acme", &format!("{partition}-2")).stream("returns"),
            Entry::new("bolt", &format!("{partition}-3")).emits(2),
        ];
        committed(store.as_ref(), &mut writer, &entries).await;
        writers.push(writer);
    }
    let before = dump(store.as_ref()).await;
    drop(store);
    let store = reopen().await;
    let store = store.as_ref();
    assert_eq!(dump(store).await, before);
    for writer in writers {
        let place = writer.checkpoint.source_partition.clone();
        let mut resumed = Writer::claim(store, &place, "b", begun).await.unwrap();
        assert_eq!(resumed.heads, writer.heads);
        // The dedupe marks were kept too.
        let known = [Entry::new("bolt", &format!("{}-3", place.partition))];
        let reply = resumed.commit(store, &known).await.unwrap();
        assert!(matches!(reply, CommitReply::Surprised(_)), "{reply:?}");
        append(store, &mut resumed, "acme", 2).await;
    }
    for name in ["acme", "bolt"] {
        verified_records(store, &tenant(name)).await;
    }
}

pub(super) async fn r36_sequences_are_gapless_and_chains_hold_after_a_storm(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let places: Vec<_> = (0..3).map(|it| source_partition("orders", it)).collect();
    let mut writers: Vec<Writer> = Vec::new();
    for place in &places {
        writers.push(Writer::claim(store, place, "a", begin()).await.unwrap());
    }
    let mut admitted = 0;
    let mut random = 7_u64;
    for round in 0..200_u64 {
        // Numerical Recipes' generator: the same storm for every store.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let which = usize::try_from(random >> 33).unwrap() % places.len();
        let name = ["acme", "bolt"][usize::try_from(random >> 40).unwrap() % 2];
        let entries: Vec<Entry> = (0..1 + (random >> 50) % 4)
            .map(|it| Entry::new(name, &format!("{round}-{it}")))
            .collect();
        match (random >> 20) % 5 {
            // A zombie: claimed again by somebody else meanwhile.
            0 => {
                let mut zombie = writers[which].clone();
                writers[which] = Writer::claim(store, &places[which], "b", begin())
                    .await
                    .unwrap();
                let reply = zombie.commit(store, &entries).await.unwrap();
                assert_eq!(reply, CommitReply::Fenced);
            }
            // A twin: the same batch twice, as after a lost reply.
            1 => {
                let batch = writers[which].batch(&entries);
                committed(store, &mut writers[which], &entries).await;
                admitted += entries.len();
                assert_eq!(submit(store, &batch).await.unwrap(), CommitReply::Fenced);
            }
            // A redelivery: everything that it brings is known.
            2 if round > 0 => {
                committed(store, &mut writers[which], &entries).await;
                admitted += entries.len();
                let reply = writers[which].commit(store, &entries).await.unwrap();
                assert!(matches!(reply, CommitReply::Surprised(_)), "{reply:?}");
            }
            _ => {
                committed(store, &mut writers[which], &entries).await;
                admitted += entries.len();
            }
        }
    }
    let mut found = 0;
    for name in ["acme", "bolt"] {
        found += verified_records(store, &tenant(name)).await.len();
    }
    assert_eq!(found, admitted);
}

pub(super) async fn r47_every_event_has_its_outcome_and_the_counts_add_up(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let mut batch = writer.batch(&[
        Entry::new("acme", "k1").creates("o1").emits(1),
        Entry::new("acme", "k2").ends("o2", Outcome::Rejected),
        Entry::new("acme", "k3").ends("o3", Outcome::Ignored),
        Entry::new("acme", "k4").ends("o4", Outcome::Dead),
        Entry::new("acme", "k5"),
    ]);
    // Beside them: two redeliveries, one delivery that is no event, one conflicting key.
    batch.progress.counts.duplicates = 2;
    batch.progress.counts.unreadable = 1;
    batch.progress.counts.conflicts = 1;
    batch.progress.next_offset.0 += 4;
    let dead = DeadLetter::new(
        tenant("acme"),
        Hash128(1),
        DeadReason::Expression,
        "order.yaml:7".to_owned(),
        DeadLetterSource::Record {
            position: RecordPosition {
                stream: StreamName::new("orders").unwrap(),
                source_partition: place.clone(),
                sequence: Sequence(3),
            },
            machine: tidegate_engine::state::MachineName::new("order").unwrap(),
            key: None,
        },
        writer.now,
    );
    let mut conflict = unreadable("acme", 3, &place, writer.now);
    conflict.reason = DeadReason::Conflict;
    batch.dead_letters = vec![dead, unreadable("acme", 2, &place, writer.now), conflict];
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));

    let counts = store
        .checkpoint(&place)
        .await
        .unwrap()
        .unwrap()
        .progress
        .counts;
    let records = verified_records(store, &tenant("acme")).await;
    assert_eq!(records.len() as u64, counts.admitted);
    assert!(
        records
            .iter()
            .all(|record| matches!(record.body, RecordBody::Event(_)))
    );
    let with = |outcome: Outcome| {
        let effects = records.iter().flat_map(|record| &record.effects);
        effects.filter(|effect| effect.outcome == outcome).count() as u64
    };
    assert_eq!(with(Outcome::Applied), counts.applied);
    assert_eq!(with(Outcome::Rejected), counts.rejected);
    assert_eq!(with(Outcome::Ignored), counts.ignored);
    assert_eq!(with(Outcome::Dead), counts.dead);
    let unhandled = records.iter().filter(|it| it.effects.is_empty()).count();
    assert_eq!(unhandled as u64, counts.unhandled);
    let letters = dead_letters(store, &tenant("acme")).await;
    let expected = counts.dead + counts.unreadable + counts.conflicts;
    assert_eq!(letters.len() as u64, expected);
    let work = store
        .open_work(&tenant("acme"), &place, None, 10)
        .await
        .unwrap();
    assert_eq!(work.len() as u64, counts.emitted);
    assert_eq!(counts.received(), writer.checkpoint.progress.next_offset.0);
}
