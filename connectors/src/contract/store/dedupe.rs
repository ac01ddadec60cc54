//! The two dedupe tables and their rotation.

use tidegate_engine::commit::CommitReply;
use tidegate_engine::store::Upkeep;

use super::{StoreUnderTest, begin, committed, patiently, rotate, upkeep_at};
use crate::contract::batch::{Entry, Writer, source_partition};

/// One day: the window of these cases.
const WINDOW_MICROS: i64 = 24 * 3_600 * 1_000_000;

async fn is_known(subject: &StoreUnderTest, writer: &mut Writer, entry: &Entry) -> bool {
    let store = subject.store.as_ref();
    let entries = std::slice::from_ref(entry);
    match writer.commit(store, entries).await.unwrap() {
        CommitReply::Surprised(surprises) => {
            assert_eq!(surprises.known_keys.len(), 1);
            assert_eq!(surprises.known_keys[0].conflict, entry.conflict_hash());
            true
        }
        CommitReply::Committed { .. } => false,
        CommitReply::Fenced => panic!("expected an answer about the key, found a fence"),
    }
}

async fn rotates(subject: &StoreUnderTest, at_micros: i64) -> bool {
    let mut upkeep = upkeep_at(begin());
    upkeep.now.0 = at_micros;
    upkeep.dedupe_window_micros = WINDOW_MICROS;
    patiently(|| subject.store.upkeep(upkeep)).await.rotated
}

pub(super) async fn a_key_lives_between_one_and_two_windows(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    // In the future, so that a store's own beginning is older.
    let mut now = begin();
    now.0 += WINDOW_MICROS;
    rotate(store, &mut now).await;
    let begun = now.0;
    let entry = Entry::new("acme", "k1");
    committed(store, &mut writer, std::slice::from_ref(&entry)).await;
    assert!(!rotates(&subject, begun + WINDOW_MICROS).await);
    assert!(is_known(&subject, &mut writer, &entry).await);
    assert!(rotates(&subject, begun + WINDOW_MICROS + 1).await);
    assert!(is_known(&subject, &mut writer, &entry).await, "one window");
    assert!(!rotates(&subject, begun + 2 * WINDOW_MICROS + 1).await);
    assert!(is_known(&subject, &mut writer, &entry).await, "nearly two");
    assert!(rotates(&subject, begun + 2 * WINDOW_MICROS + 2).await);
    assert!(
        !is_known(&subject, &mut writer, &entry).await,
        "two windows"
    );
}

pub(super) async fn one_key_of_two_tenants_is_two_keys(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let mut now = begin();
    for name in ["acme", "bolt", "acme-2"] {
        let entry = Entry::new(name, "k1");
        committed(store, &mut writer, std::slice::from_ref(&entry)).await;
        assert!(is_known(&subject, &mut writer, &entry).await);
        rotate(store, &mut now).await;
        assert!(is_known(&subject, &mut writer, &entry).await);
    }
    let both = [Entry::new("acme", "k2"), Entry::new("bolt", "k2")];
    committed(store, &mut writer, &both).await;
}

pub(super) async fn rotation_keeps_the_younger_table_and_its_conflict_hashes(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let mut now = begin();
    rotate(store, &mut now).await;
    let named = |round: u32| {
        Entry::new("acme", &format!("k{round}")).data(&format!("{{\"round\":{round}}}"))
    };
    for round in 0..6 {
        committed(store, &mut writer, &[named(round)]).await;
        rotate(store, &mut now).await;
        // The one before this is dropped by this rotation, this one is kept by it.
        assert!(is_known(&subject, &mut writer, &named(round)).await);
        if round > 0 {
            assert!(!is_known(&subject, &mut writer, &named(round - 1)).await);
        }
    }
    // A rotation that is not due does nothing at all.
    let upkeep = Upkeep {
        dedupe_window_micros: WINDOW_MICROS,
        ..upkeep_at(now)
    };
    for _ in 0..3 {
        assert!(!patiently(|| store.upkeep(upkeep)).await.rotated);
    }
    assert!(is_known(&subject, &mut writer, &named(5)).await);
}
