//! Claims, epochs, revisions and the checkpoint itself.

use std::sync::Arc;

use tidegate_engine::checkpoint::{Counts, DoneAbove, DoneRange, Fingerprint, Progress};
use tidegate_engine::commit::CommitReply;
use tidegate_engine::hash::Hash128;
use tidegate_engine::limits::DONE_ABOVE_RANGES_MAX;
use tidegate_engine::position::{Epoch, Incarnation, Offset, Revision};
use tidegate_engine::store::Claim;

use super::reading::dump;
use super::{StoreUnderTest, begin, committed, patiently, submit};
use crate::contract::batch::{Entry, Writer, claim_of, source_partition};

pub(super) async fn a_first_claim_makes_the_checkpoint_at_the_given_start(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 3);
    assert_eq!(store.checkpoint(&place).await.unwrap(), None);
    let claim = Claim {
        start: Offset(42),
        ..claim_of(&place, "node-a")
    };
    let checkpoint = store.claim(claim).await.unwrap();
    assert_eq!(checkpoint.source_partition, place);
    assert_eq!(checkpoint.epoch, Epoch(1));
    assert_eq!(checkpoint.owner, "node-a");
    assert_eq!(checkpoint.revision, Revision(0));
    assert_eq!(checkpoint.incarnation.as_str(), "first");
    assert_eq!(
        checkpoint.progress,
        Progress {
            next_offset: Offset(42),
            done_above: DoneAbove::default(),
            fingerprint: None,
            counts: Counts::default(),
        }
    );
    assert_eq!(store.checkpoint(&place).await.unwrap(), Some(checkpoint));
}

pub(super) async fn a_claim_raises_the_epoch_and_keeps_everything_else(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    committed(store, &mut writer, &[Entry::new("acme", "k1")]).await;
    for (epoch, owner) in [(2, "node-a"), (3, "node-b")] {
        let claim = Claim {
            incarnation: Incarnation::new("second").unwrap(),
            start: Offset(999),
            ..claim_of(&place, owner)
        };
        let checkpoint = store.claim(claim).await.unwrap();
        assert_eq!(checkpoint.epoch, Epoch(epoch));
        assert_eq!(checkpoint.owner, owner);
        assert_eq!(checkpoint.revision, Revision(1));
        // The claimant compares the incarnations; the store keeps the one it has.
        assert_eq!(checkpoint.incarnation.as_str(), "first");
        assert_eq!(checkpoint.progress, writer.checkpoint.progress);
    }
}

pub(super) async fn until_the_first_commit_a_claim_takes_over_the_incarnation(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let claim = |incarnation: &str, start: u64| Claim {
        incarnation: Incarnation::new(incarnation).unwrap(),
        start: Offset(start),
        ..claim_of(&place, "node-a")
    };
    for (epoch, incarnation, start, expected) in [
        (1, "empty", 7, 7),
        // The same one keeps the start that it was first given.
        (2, "empty", 9, 7),
        (3, "begins-a", 3, 3),
    ] {
        let checkpoint = store.claim(claim(incarnation, start)).await.unwrap();
        assert_eq!(checkpoint.epoch, Epoch(epoch));
        assert_eq!(checkpoint.revision, Revision(0));
        assert_eq!(checkpoint.incarnation.as_str(), incarnation);
        assert_eq!(checkpoint.progress.next_offset, Offset(expected));
        assert_eq!(store.checkpoint(&place).await.unwrap(), Some(checkpoint));
    }
    let mut writer = Writer::claim(store, &place, "node-b", begin())
        .await
        .unwrap();
    let owned = writer.checkpoint.incarnation.clone();
    committed(store, &mut writer, &[Entry::new("acme", "k1")]).await;
    let checkpoint = store.claim(claim("begins-b", 0)).await.unwrap();
    assert_eq!(checkpoint.incarnation, owned);
    assert_eq!(checkpoint.progress, writer.checkpoint.progress);
}

pub(super) async fn checkpoints_come_in_order_of_source_partition(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let places = [("b", 2), ("a-b", 0), ("b", 10), ("a", 7), ("a_b", 0)];
    for (source, number) in places {
        let place = source_partition(source, number);
        store.claim(claim_of(&place, "node-a")).await.unwrap();
    }
    let found: Vec<_> = store.checkpoints().await.unwrap();
    let mut expected = places.map(|(source, number)| source_partition(source, number));
    expected.sort();
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.source_partition, *expected);
    }
}

pub(super) async fn an_old_epoch_is_fenced_and_writes_nothing(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut zombie = Writer::claim(store, &place, "zombie", begin())
        .await
        .unwrap();
    committed(store, &mut zombie, &[Entry::new("acme", "k0")]).await;
    let mut successor = Writer::claim(store, &place, "successor", begin())
        .await
        .unwrap();
    let before = dump(store).await;
    let entries = [Entry::new("acme", "k1").creates("o1").emits(1)];
    let reply = zombie.commit(store, &entries).await.unwrap();
    assert_eq!(reply, CommitReply::Fenced);
    assert_eq!(dump(store).await, before);
    // Not even the dedupe mark was left.
    committed(store, &mut successor, &entries).await;
}

pub(super) async fn another_revision_is_fenced_and_writes_nothing(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    let entries = [Entry::new("acme", "k1").creates("o1")];
    let twin = writer.batch(&entries);
    committed(store, &mut writer, &[Entry::new("acme", "k0")]).await;
    let before = dump(store).await;
    // The same owner's lost twin, and a revision that is not there yet.
    assert_eq!(submit(store, &twin).await.unwrap(), CommitReply::Fenced);
    let mut ahead = writer.batch(&entries);
    ahead.revision = Revision(2);
    assert_eq!(submit(store, &ahead).await.unwrap(), CommitReply::Fenced);
    assert_eq!(dump(store).await, before);
    committed(store, &mut writer, &entries).await;
    let revision = store.checkpoint(&place).await.unwrap().unwrap().revision;
    assert_eq!(revision, Revision(2));
}

pub(super) async fn a_source_partition_that_nobody_claimed_is_fenced(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let writer = Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    let before = dump(store).await;
    for place in [source_partition("orders", 1), source_partition("other", 0)] {
        let mut elsewhere = writer.clone();
        elsewhere.checkpoint.source_partition = place;
        for epoch in [0, 1] {
            elsewhere.checkpoint.epoch = Epoch(epoch);
            let batch = elsewhere.batch(&[Entry::new("acme", "k1")]);
            assert_eq!(submit(store, &batch).await.unwrap(), CommitReply::Fenced);
        }
    }
    assert_eq!(dump(store).await, before);
}

pub(super) async fn of_two_claimers_only_the_later_one_commits(subject: StoreUnderTest) {
    let first = subject.store.as_ref();
    let second = subject.second().await;
    let second = second.as_ref();
    let place = source_partition("orders", 0);
    for round in 0..5 {
        let (earlier, later) = if round % 2 == 0 {
            (first, second)
        } else {
            (second, first)
        };
        let mut loser = Writer::claim(earlier, &place, "earlier", begin())
            .await
            .unwrap();
        let mut winner = Writer::claim(later, &place, "later", begin())
            .await
            .unwrap();
        let entries = [Entry::new("acme", &format!("k{round}"))];
        let reply = loser.commit(earlier, &entries).await.unwrap();
        assert_eq!(reply, CommitReply::Fenced);
        committed(later, &mut winner, &entries).await;
        let reply = loser.commit(earlier, &entries).await.unwrap();
        assert_eq!(reply, CommitReply::Fenced);
    }
}

pub(super) async fn racing_claimers_get_different_epochs(subject: StoreUnderTest) {
    const CLAIMERS: u64 = 16;
    let place = source_partition("orders", 0);
    let second = subject.second().await;
    let claims: Vec<_> = (0..CLAIMERS)
        .map(|claimer| {
            let store = Arc::clone(if claimer % 2 == 0 {
                &subject.store
            } else {
                &second
            });
            let place = place.clone();
            tokio::spawn(async move {
                let owner = format!("node-{claimer}");
                patiently(|| store.claim(claim_of(&place, &owner))).await
            })
        })
        .collect();
    let mut epochs = Vec::new();
    let mut last = None;
    for claim in claims {
        let checkpoint = claim.await.unwrap();
        epochs.push(checkpoint.epoch);
        if checkpoint.epoch == Epoch(CLAIMERS) {
            last = Some(checkpoint);
        }
    }
    epochs.sort();
    assert_eq!(epochs, (1..=CLAIMERS).map(Epoch).collect::<Vec<_>>());
    assert_eq!(subject.store.checkpoint(&place).await.unwrap(), last);
}

pub(super) async fn a_checkpoint_is_read_back_as_it_was_written(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "näh \"'; -- 节点", begin())
        .await
        .unwrap();
    let mut batch = writer.batch(&[Entry::new("acme", "k1")]);
    let ranges = (0..DONE_ABOVE_RANGES_MAX as u64).map(|range| DoneRange {
        first: Offset(10 + range * 1_000_003),
        last: Offset(12 + range * 1_000_003),
    });
    batch.progress = Progress {
        next_offset: Offset(7),
        done_above: DoneAbove(ranges.collect()),
        fingerprint: Some(Fingerprint {
            offset: Offset(6),
            hash: Hash128(u128::MAX - 1),
        }),
        counts: Counts {
            admitted: 1,
            duplicates: 2,
            conflicts: 3,
            unreadable: 4,
            applied: 5,
            rejected: 6,
            ignored: 7,
            dead: 8,
            unhandled: 9,
            emitted: 10,
            looped_back: 11,
        },
    };
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
    let found = store.checkpoint(&place).await.unwrap().unwrap();
    assert_eq!(found, writer.checkpoint);
    let claimed = store.claim(claim_of(&place, "node-b")).await.unwrap();
    assert_eq!(claimed.progress, writer.checkpoint.progress);
}
