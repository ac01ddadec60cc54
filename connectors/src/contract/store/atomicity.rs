//! One batch is one transaction: all of it is visible, or nothing is.

use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitReply, WorkDone, WorkPlace};
use tidegate_engine::dead_letter::{DeadLetterState, DeadLetterUpdate};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::{Epoch, Revision, Sequence, Version};
use tidegate_engine::store::StoreError;

use super::letters::unreadable;
use super::reading::{dump, verified_records};
use super::{StoreUnderTest, begin, committed, submit};
use crate::contract::batch::{Entry, Writer, entity_name, source_partition, tenant};
use crate::store::batch_form;

/// A batch with something in every array, over two tenants and three streams.
fn full_batch(writer: &Writer) -> CommitBatch {
    let mut batch = writer.batch(&[
        Entry::new("acme", "f1").creates("o1").emits(2),
        Entry::new("acme", "f2").stream("returns").creates("o2"),
        Entry::new("bolt", "f3").creates("o1").emits(1),
        Entry::new("acme", "f4").creates("o3"),
    ]);
    let place = &writer.checkpoint.source_partition;
    batch.dead_letters = vec![
        unreadable("acme", 1, place, writer.now),
        unreadable("bolt", 1, place, writer.now),
    ];
    batch.dead_letter_updates = vec![update("acme", 1, DeadLetterState::Open, writer.now)];
    batch
}

fn update(name: &str, id: u128, state: DeadLetterState, at: Timestamp) -> DeadLetterUpdate {
    DeadLetterUpdate {
        tenant: tenant(name),
        id: Hash128(id),
        state,
        at,
    }
}

pub(super) async fn everything_of_a_batch_is_visible_together(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    let batch = full_batch(&writer);
    let reply = writer.commit_batch(store, batch.clone()).await.unwrap();
    let CommitReply::Committed { new_rows } = reply else {
        panic!("expected a commit, found {reply:?}");
    };
    assert_eq!(new_rows.len(), 4);
    let found = dump(store).await;
    assert_eq!(found.checkpoints, vec![writer.checkpoint.clone()]);
    let names: Vec<_> = found.tenants.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, batch.tenants);
    let segments: Vec<_> = found
        .tenants
        .iter()
        .flat_map(|(_, of_tenant)| of_tenant.segments.clone())
        .collect();
    assert_eq!(segments, batch.segments);
    let mut rows = Vec::new();
    for (write, row) in batch.entities.iter().zip(&new_rows) {
        let stored = store
            .load_entities(&write.name.tenant, vec![write.name.clone()])
            .await
            .unwrap();
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].row, *row);
        assert_eq!(stored[0].version, write.version);
        assert_eq!(stored[0].status, write.status);
        assert_eq!(stored[0].data, write.data);
        rows.push(stored[0].row);
    }
    rows.sort();
    rows.dedup();
    assert_eq!(rows.len(), 4, "every entity has a row of its own");
    let work: usize = found.tenants.iter().map(|(_, it)| it.open_work.len()).sum();
    assert_eq!(work, 3);
    let letters: Vec<_> = found
        .tenants
        .iter()
        .flat_map(|(_, of_tenant)| of_tenant.dead_letters.clone())
        .collect();
    assert_eq!(letters.len(), 2);
    assert_eq!(letters[0].letter, batch.dead_letters[0]);
    assert_eq!((letters[0].attempts, letters[1].attempts), (2, 1));
    for (name, records) in [("acme", 3), ("bolt", 1)] {
        assert_eq!(verified_records(store, &tenant(name)).await.len(), records);
    }
}

/// Something that stands in the way of a batch, and what the store answers.
type Obstacle = (&'static str, fn(&mut CommitBatch), fn(&Answer) -> bool);
type Answer = Result<CommitReply, StoreError>;

fn fenced(answer: &Answer) -> bool {
    matches!(answer, Ok(CommitReply::Fenced))
}

fn surprised(answer: &Answer) -> bool {
    matches!(answer, Ok(CommitReply::Surprised(surprises)) if !surprises.is_empty())
}

fn unexpected(answer: &Answer) -> bool {
    matches!(answer, Err(StoreError::Unexpected { .. }))
}

const OBSTACLES: [Obstacle; 8] = [
    ("an old epoch", |it| it.epoch = Epoch(1), fenced),
    ("an old revision", |it| it.revision = Revision(0), fenced),
    (
        "a known key at the last place",
        |it| {
            let known = Entry::new("bolt", "known").key_hash();
            let mut mark = it.dedupe.last().unwrap().clone();
            mark.key = known;
            it.dedupe.push(mark);
            it.dedupe
                .sort_by(|left, right| (&left.tenant, left.key).cmp(&(&right.tenant, right.key)));
        },
        surprised,
    ),
    (
        "an entity that is there already",
        |it| {
            let last = it.entities.last_mut().unwrap();
            last.name = entity_name("bolt", "there");
        },
        surprised,
    ),
    (
        "an entity that is not there",
        |it| {
            let last = it.entities.last_mut().unwrap();
            last.expected = Version(5);
            last.version = Version(6);
            last.row = Some(tidegate_engine::commit::EntityRow(i64::MAX));
        },
        surprised,
    ),
    (
        "a gap in the last stream's log",
        |it| it.segments.last_mut().unwrap().first_sequence = Sequence(9),
        unexpected,
    ),
    (
        "a dead letter that is not there",
        |it| {
            it.dead_letter_updates
                .push(update("bolt", 77, DeadLetterState::Retried, it.at));
        },
        |answer| {
            matches!(answer, Err(StoreError::Refused { code, .. })
                if code == batch_form::CODE_DEAD_LETTER_NOT_OPEN)
        },
    ),
    (
        "a tenant that is not named",
        |it| {
            it.tenants.pop();
        },
        unexpected,
    ),
];

pub(super) async fn r25_a_batch_over_several_streams_is_written_whole_or_not_at_all(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    let mut writer = Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    let known = Entry::new("bolt", "known").creates("there");
    committed(store, &mut writer, &[known]).await;
    let before = dump(store).await;
    let batch = full_batch(&writer);
    for (what, obstruct, answers) in OBSTACLES {
        let mut obstructed = batch.clone();
        obstruct(&mut obstructed);
        let answer = submit(store, &obstructed).await;
        assert!(answers(&answer), "{what}: the store answered {answer:?}");
        assert_eq!(dump(store).await, before, "{what}: something was written");
    }
    // Not even a dedupe mark was left: the same keys are admitted now.
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
}

pub(super) async fn a_batch_without_events_moves_only_the_checkpoint(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    let mut batch = writer.batch(&[]);
    batch.progress.next_offset.0 += 5;
    batch.progress.counts.duplicates = 5;
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert_eq!(
        reply,
        CommitReply::Committed {
            new_rows: Vec::new()
        }
    );
    let found = dump(store).await;
    assert_eq!(found.checkpoints, vec![writer.checkpoint]);
    assert_eq!(found.tenants, Vec::new());
}

type Deform = (&'static str, fn(&mut CommitBatch));

const DEFORMED: [Deform; 15] = [
    ("tenants in another order", |it| it.tenants.reverse()),
    ("segments in another order", |it| it.segments.reverse()),
    ("dedupe in another order", |it| it.dedupe.reverse()),
    ("entities in another order", |it| it.entities.reverse()),
    ("open work in another order", |it| it.open_work.reverse()),
    ("work done twice", |it| {
        let done = WorkDone {
            tenant: it.tenants[0].clone(),
            place: WorkPlace {
                revision: Revision(0),
                number: 0,
            },
        };
        it.work_done = vec![done.clone(), done];
    }),
    ("dead letters in another order", |it| {
        it.dead_letters.reverse()
    }),
    ("a key twice", |it| {
        it.dedupe.insert(0, it.dedupe[0].clone())
    }),
    ("an entity twice", |it| {
        it.entities.insert(0, it.entities[0].clone());
    }),
    ("a segment twice", |it| {
        it.segments.insert(0, it.segments[0].clone());
    }),
    ("a dead letter twice", |it| {
        it.dead_letters.insert(0, it.dead_letters[0].clone());
    }),
    ("an update twice", |it| {
        it.dead_letter_updates
            .insert(0, it.dead_letter_updates[0].clone());
    }),
    ("a segment of another source partition", |it| {
        it.segments[0].stream_partition.source_partition = source_partition("other", 0);
    }),
    ("an update without its row", |it| {
        it.entities[0].expected = Version(1);
        it.entities[0].version = Version(2);
        it.entities[0].row = None;
    }),
    ("an entity that stays at its version", |it| {
        it.entities[0].version = it.entities[0].expected;
    }),
];

pub(super) async fn a_batch_out_of_form_is_an_unexpected_error(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "node-a", begin())
        .await
        .unwrap();
    let batch = full_batch(&writer);
    let before = dump(store).await;
    for (what, deform) in DEFORMED {
        let mut deformed = batch.clone();
        deform(&mut deformed);
        assert_ne!(deformed, batch, "{what}: nothing was deformed");
        let answer = submit(store, &deformed).await;
        assert!(
            matches!(&answer, Err(StoreError::Unexpected { code, .. })
                if code == batch_form::CODE_FORM),
            "{what}: the store answered {answer:?}"
        );
        assert_eq!(dump(store).await, before, "{what}: something was written");
    }
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
}
