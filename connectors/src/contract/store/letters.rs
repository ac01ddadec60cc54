//! Dead letters and open work: kept once, moved on by updates, read in order.

use bytes::Bytes;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitReply};
use tidegate_engine::dead_letter::{
    DeadLetter, DeadLetterSource, DeadLetterState, DeadLetterUpdate,
};
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::DeadReason;
use tidegate_engine::position::{Offset, RecordPosition, Sequence, SourcePartition, StreamName};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{DeadLetterFilter, StateStore, StoreError};

use super::reading::{dead_letters, dump};
use super::{StoreUnderTest, begin, submit};
use crate::contract::batch::{Entry, Writer, source_partition, tenant};
use crate::store::batch_form;

/// A delivery that is no event, kept under that id.
pub(super) fn unreadable(
    name: &str,
    id: u128,
    place: &SourcePartition,
    at: Timestamp,
) -> DeadLetter {
    DeadLetter::new(
        tenant(name),
        Hash128(id),
        DeadReason::Unreadable,
        "id: the attribute is missing".to_owned(),
        DeadLetterSource::Raw {
            source_partition: place.clone(),
            offset: Some(Offset(u64::try_from(id & 0xffff).unwrap())),
            payload: Bytes::from(format!("no event {id}")),
        },
        at,
    )
}

fn update(name: &str, id: u128, state: DeadLetterState, at: Timestamp) -> DeadLetterUpdate {
    DeadLetterUpdate {
        tenant: tenant(name),
        id: Hash128(id),
        state,
        at,
    }
}

async fn commit(store: &dyn StateStore, writer: &mut Writer, batch: CommitBatch) {
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
}

async fn keep(store: &dyn StateStore, writer: &mut Writer, mut letters: Vec<DeadLetter>) {
    letters.sort_by(|left, right| (&left.tenant, left.id).cmp(&(&right.tenant, right.id)));
    let mut batch = writer.batch(&[]);
    batch.tenants = letters.iter().map(|letter| letter.tenant.clone()).collect();
    batch.tenants.dedup();
    batch.dead_letters = letters;
    commit(store, writer, batch).await;
}

async fn move_on(store: &dyn StateStore, writer: &mut Writer, updates: Vec<DeadLetterUpdate>) {
    let mut batch = writer.batch(&[]);
    batch.tenants = updates.iter().map(|update| update.tenant.clone()).collect();
    batch.tenants.dedup();
    batch.dead_letter_updates = updates;
    commit(store, writer, batch).await;
}

pub(super) async fn a_dead_letter_written_twice_is_kept_once(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let first = unreadable("acme", 7, &place, writer.now);
    keep(store, &mut writer, vec![first.clone()]).await;
    let mut again = first.clone();
    again.detail = "another detail".to_owned();
    let twin = unreadable("bolt", 7, &place, writer.now);
    keep(store, &mut writer, vec![again, twin.clone()]).await;
    let found = dead_letters(store, &tenant("acme")).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].letter, first, "the first one stays as it was");
    assert_eq!(found[0].state, DeadLetterState::Open);
    assert_eq!(found[0].attempts, 1);
    let other = store
        .dead_letter(&tenant("bolt"), Hash128(7))
        .await
        .unwrap();
    assert_eq!(other.unwrap().letter, twin, "one id of two tenants is two");
    // One that was decided is not opened again by being written again.
    let given_up = update("acme", 7, DeadLetterState::Discarded, writer.now);
    assert_eq!(
        store.open_dead_letters(&tenant("acme"), 10).await.unwrap(),
        1
    );
    move_on(store, &mut writer, vec![given_up]).await;
    assert_eq!(
        store.open_dead_letters(&tenant("acme"), 10).await.unwrap(),
        0
    );
    assert_eq!(
        store.open_dead_letters(&tenant("bolt"), 10).await.unwrap(),
        1
    );
    assert_eq!(
        store.open_dead_letters(&tenant("bolt"), 0).await.unwrap(),
        0
    );
    assert_eq!(
        store.open_dead_letters(&tenant("none"), 9).await.unwrap(),
        0
    );
    keep(store, &mut writer, vec![first]).await;
    let found = store
        .dead_letter(&tenant("acme"), Hash128(7))
        .await
        .unwrap();
    assert_eq!(found.unwrap().state, DeadLetterState::Discarded);
}

pub(super) async fn an_update_moves_an_open_dead_letter_and_counts_attempts(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let now = writer.now;
    let letters = (1..=3).map(|id| unreadable("acme", id, &place, now));
    keep(store, &mut writer, letters.collect()).await;
    for _ in 0..2 {
        let in_vain = update("acme", 1, DeadLetterState::Open, now);
        move_on(store, &mut writer, vec![in_vain]).await;
    }
    let decided = vec![
        update("acme", 1, DeadLetterState::Retried, now),
        update("acme", 2, DeadLetterState::Discarded, now),
    ];
    move_on(store, &mut writer, decided).await;
    let found: Vec<_> = dead_letters(store, &tenant("acme"))
        .await
        .iter()
        .map(|it| (it.letter.id.0, it.state, it.attempts))
        .collect();
    // A retry is an attempt, giving up is none.
    let expected = vec![
        (1, DeadLetterState::Retried, 4),
        (2, DeadLetterState::Discarded, 1),
        (3, DeadLetterState::Open, 1),
    ];
    assert_eq!(found, expected);
}

pub(super) async fn an_update_of_a_dead_letter_that_is_not_open_is_refused_with_its_batch(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let now = writer.now;
    let letters = (1..=3).map(|id| unreadable("acme", id, &place, now));
    keep(store, &mut writer, letters.collect()).await;
    let others = unreadable("bolt", 9, &place, now);
    keep(store, &mut writer, vec![others]).await;
    let decided = vec![
        update("acme", 1, DeadLetterState::Retried, now),
        update("acme", 2, DeadLetterState::Discarded, now),
    ];
    move_on(store, &mut writer, decided).await;
    let before = dump(store).await;
    // Retried, discarded, never there, and another tenant's.
    for id in [1, 2, 8, 9] {
        for state in [
            DeadLetterState::Open,
            DeadLetterState::Retried,
            DeadLetterState::Discarded,
        ] {
            let mut batch = writer.batch(&[Entry::new("acme", "k1").creates("o1")]);
            batch.dead_letter_updates = vec![
                update("acme", id, state, now),
                update("acme", 3, DeadLetterState::Retried, now),
            ];
            batch.dead_letter_updates.sort_by_key(|it| it.id);
            let answer = submit(store, &batch).await;
            assert!(
                matches!(&answer, Err(StoreError::Refused { code, .. })
                    if code == batch_form::CODE_DEAD_LETTER_NOT_OPEN),
                "letter {id} to {state:?}: the store answered {answer:?}"
            );
            assert_eq!(dump(store).await, before);
        }
    }
}

pub(super) async fn dead_letters_are_paged_and_filtered(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let now = writer.now;
    // Ids over the whole range: their order is that of unsigned bytes.
    let mut ids: Vec<u128> = (0..20).map(|it| it * (u128::MAX / 19)).collect();
    ids.extend([1, u128::from(u64::MAX), u128::MAX >> 1, 1 << 127]);
    ids.sort_unstable();
    ids.dedup();
    let letters = ids.iter().map(|id| unreadable("acme", *id, &place, now));
    keep(store, &mut writer, letters.collect()).await;
    let others = ids.iter().map(|id| unreadable("bolt", *id, &place, now));
    keep(store, &mut writer, others.collect()).await;
    let decided = ids.iter().step_by(3);
    let decided = decided.map(|id| update("acme", *id, DeadLetterState::Retried, now));
    move_on(store, &mut writer, decided.collect()).await;
    let open: Vec<u128> = ids
        .iter()
        .enumerate()
        .filter(|(place, _)| place % 3 != 0)
        .map(|(_, id)| *id)
        .collect();
    for (state, expected) in [(None, &ids), (Some(DeadLetterState::Open), &open)] {
        for limit in [1, 4, 1_000] {
            let mut found: Vec<u128> = Vec::new();
            loop {
                let after = found.last().map(|id| Hash128(*id));
                let filter = DeadLetterFilter { state, after };
                let page = store
                    .dead_letters(&tenant("acme"), filter, limit)
                    .await
                    .unwrap();
                assert!(page.len() <= limit as usize);
                if page.is_empty() {
                    break;
                }
                assert!(page.iter().all(|it| it.letter.tenant == tenant("acme")));
                found.extend(page.iter().map(|it| it.letter.id.0));
            }
            assert_eq!(found, *expected, "{state:?}, pages of {limit}");
        }
    }
    let absent = store.dead_letter(&tenant("acme"), Hash128(2)).await;
    assert_eq!(absent.unwrap(), None);
}

pub(super) async fn the_bytes_of_an_unreadable_delivery_come_back_as_they_were(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let payloads = [
        Bytes::new(),
        Bytes::from_static(b"\0"),
        Bytes::from_static(&[0xff, 0xfe, 0x00, 0x80, b'"', b'\\', b'\'']),
        Bytes::from((0..=255).collect::<Vec<u8>>()),
        Bytes::from(vec![0xa5; 1024 * 1024]),
    ];
    let mut letters = Vec::new();
    for (id, payload) in payloads.iter().enumerate() {
        let mut letter = unreadable("acme", id as u128, &place, writer.now);
        letter.detail = "(envelope): not UTF-8 at byte 0 – `\u{fffd}\"'".to_owned();
        letter.source = DeadLetterSource::Raw {
            source_partition: place.clone(),
            // That of an emitted event has none.
            offset: (id > 0).then_some(Offset(id as u64)),
            payload: payload.clone(),
        };
        letters.push(letter);
    }
    // And one of each reason that points to a record, with and without a key.
    for (index, reason) in DeadReason::ALL.into_iter().enumerate() {
        let source = DeadLetterSource::Record {
            position: RecordPosition {
                stream: StreamName::new("returns").unwrap(),
                source_partition: place.clone(),
                sequence: Sequence(index as u64),
            },
            machine: MachineName::new("order").unwrap(),
            key: (index % 2 == 0).then(|| EntityKey::new("日本 'o\"1'").unwrap()),
        };
        let id = Hash128(100 + index as u128);
        let detail = "order.yaml:7:3".to_owned();
        letters.push(DeadLetter::new(
            tenant("acme"),
            id,
            reason,
            detail,
            source,
            writer.now,
        ));
    }
    keep(store, &mut writer, letters.clone()).await;
    let found: Vec<_> = dead_letters(store, &tenant("acme"))
        .await
        .into_iter()
        .map(|stored| stored.letter)
        .collect();
    assert_eq!(found, letters);
}
