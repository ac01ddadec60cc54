//! What stands in the way of a batch comes back as one whole list, whichever path the store takes.

use tidegate_engine::commit::{CommitBatch, EntityName, StoredEntity};
use tidegate_engine::commit::{CommitPath, CommitReply, EntityRow, KnownKey, Surprises};
use tidegate_engine::position::Version;
use tidegate_engine::store::StateStore;

use super::reading::dump;
use super::{StoreUnderTest, begin, committed, rotate, submit};
use crate::contract::batch::{Entry, Writer, entity_name, source_partition};

/// Places of the arrays: first, middle ones and last.
const PLACES: usize = 5;

/// An event for each place, in the order in which their keys are sorted in the dedupe array.
fn by_key_place() -> Vec<Entry> {
    let mut entries: Vec<Entry> = (0..PLACES)
        .map(|place| Entry::new("acme", &format!("k{place}")))
        .collect();
    entries.sort_by_key(Entry::key_hash);
    entries
}

/// The reply to a batch on both paths, which must be the same, and must not have written anything.
async fn surprises(store: &dyn StateStore, batch: &CommitBatch) -> Surprises {
    let before = dump(store).await;
    let mut found = Vec::new();
    for path in [CommitPath::Fast, CommitPath::Careful] {
        let mut batch = batch.clone();
        batch.path = path;
        match submit(store, &batch).await {
            Ok(CommitReply::Surprised(surprises)) => found.push(surprises),
            other => panic!("{path:?}: expected surprises, found {other:?}"),
        }
    }
    assert_eq!(dump(store).await, before, "something was written");
    let mut found = found.into_iter().map(sorted);
    let (fast, careful) = (found.next().unwrap(), found.next().unwrap());
    assert_eq!(fast, careful, "the two paths differ");
    fast
}

/// The order of the list is the store's own.
fn sorted(mut surprises: Surprises) -> Surprises {
    surprises
        .known_keys
        .sort_by(|left, right| (&left.tenant, left.key).cmp(&(&right.tenant, right.key)));
    surprises
        .entities
        .sort_by(|left, right| left.0.cmp(&right.0));
    surprises.busy.sort();
    surprises
}

fn known(entry: &Entry) -> KnownKey {
    KnownKey {
        tenant: entry.tenant.clone(),
        key: entry.key_hash(),
        conflict: entry.conflict_hash(),
    }
}

async fn stored(store: &dyn StateStore, name: &EntityName) -> Option<StoredEntity> {
    let mut found = store
        .load_entities(&name.tenant, vec![name.clone()])
        .await
        .unwrap();
    found.pop()
}

async fn known_key_at_every_place(subject: StoreUnderTest, rotated: bool) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let mut now = begin();
    rotate(store, &mut now).await;
    for place in 0..PLACES {
        let mut entries = by_key_place();
        for entry in &mut entries {
            // Fresh keys in each round, the sorting of the places kept by sorting again.
            entry.key = format!("{place}-{}", entry.key);
        }
        entries.sort_by_key(Entry::key_hash);
        let earlier = entries[place].clone();
        committed(store, &mut writer, std::slice::from_ref(&earlier)).await;
        if rotated {
            rotate(store, &mut now).await;
        }
        // The key comes again with other content: the conflict hash that stands is the first one.
        entries[place].data = "{\"amount_cents\":999}".to_owned();
        let batch = writer.batch(&entries);
        assert_eq!(batch.dedupe[place].key, earlier.key_hash());
        let found = surprises(store, &batch).await;
        assert_eq!(
            found,
            Surprises {
                known_keys: vec![known(&earlier)],
                ..Surprises::default()
            },
            "place {place}"
        );
        // Without it, the rest is committed.
        entries.remove(place);
        committed(store, &mut writer, &entries).await;
    }
}

pub(super) async fn a_known_key_is_found_at_every_place_with_its_conflict_hash(
    subject: StoreUnderTest,
) {
    known_key_at_every_place(subject, false).await;
}

pub(super) async fn a_known_key_of_the_older_table_is_found_at_every_place(
    subject: StoreUnderTest,
) {
    known_key_at_every_place(subject, true).await;
}

pub(super) async fn an_entity_of_another_version_is_returned_as_it_is(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let creating: Vec<Entry> = (0..PLACES)
        .map(|place| Entry::new("acme", &format!("c{place}")).creates(&format!("o{place}")))
        .collect();
    let rows = committed(store, &mut writer, &creating).await;
    let moving = |place: usize, expected: Version, round: &str| {
        Entry::new("acme", &format!("{round}-{place}")).moves(
            &format!("o{place}"),
            Some(rows[place]),
            expected,
        )
    };
    for place in 0..PLACES {
        let name = entity_name("acme", &format!("o{place}"));
        let before = stored(store, &name).await.unwrap();
        // Too high a version, and too low a one after somebody else has moved the entity.
        for wrong in [Version(before.version.0 + 1), Version(before.version.0 + 3)] {
            let entries: Vec<Entry> = (0..PLACES)
                .map(|other| {
                    let right = Version(1 + place as u64);
                    moving(other, if other == place { wrong } else { right }, "try")
                })
                .collect();
            let found = surprises(store, &writer.batch(&entries)).await;
            let expected = Surprises {
                entities: vec![(name.clone(), Some(before.clone()))],
                ..Surprises::default()
            };
            assert_eq!(found, expected, "place {place}");
        }
        let all: Vec<Entry> = (0..PLACES)
            .map(|other| moving(other, Version(1 + place as u64), &format!("all{place}")))
            .collect();
        committed(store, &mut writer, &all).await;
        let late = writer.batch(&[moving(place, Version(1 + place as u64), "late")]);
        let found = surprises(store, &late).await;
        let now = stored(store, &name).await.unwrap();
        assert_eq!(now.version, Version(2 + place as u64));
        assert_eq!(found.entities, vec![(name, Some(now))]);
    }
}

pub(super) async fn an_entity_that_is_new_to_the_batch_alone_is_returned(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    for place in 0..PLACES {
        let there = format!("{place}-o{place}");
        committed(
            store,
            &mut writer,
            &[Entry::new("acme", &format!("{place}-first")).creates(&there)],
        )
        .await;
        let entries: Vec<Entry> = (0..PLACES)
            .map(|other| {
                Entry::new("acme", &format!("{place}-k{other}"))
                    .creates(&format!("{place}-o{other}"))
            })
            .collect();
        let found = surprises(store, &writer.batch(&entries)).await;
        let name = entity_name("acme", &there);
        let expected = Surprises {
            entities: vec![(name.clone(), stored(store, &name).await)],
            ..Surprises::default()
        };
        assert!(expected.entities[0].1.is_some());
        assert_eq!(found, expected, "place {place}");
    }
}

pub(super) async fn an_entity_that_is_not_there_is_returned_as_absent(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let there: Vec<Entry> = (0..PLACES)
        .map(|place| Entry::new("acme", &format!("c{place}")).creates(&format!("{place}-there")))
        .collect();
    let rows = committed(store, &mut writer, &there).await;
    for absent in 0..PLACES {
        let entries: Vec<Entry> = (0..PLACES)
            .map(|place| {
                let entry = Entry::new("acme", &format!("{absent}-{place}"));
                if place == absent {
                    let nowhere = Some(EntityRow(i64::MAX));
                    entry.moves(&format!("{place}-absent"), nowhere, Version(3))
                } else {
                    entry.moves(&format!("{place}-there"), Some(rows[place]), Version(1))
                }
            })
            .collect();
        let found = surprises(store, &writer.batch(&entries)).await;
        let name = entity_name("acme", &format!("{absent}-absent"));
        let expected = Surprises {
            entities: vec![(name, None)],
            ..Surprises::default()
        };
        assert_eq!(found, expected, "place {absent}");
    }
}

pub(super) async fn every_mixture_of_surprises_is_returned_whole(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let mut now = begin();
    rotate(store, &mut now).await;
    // Of three places, each event may be known (in the older or the current table) and each entity
    // may be at another version: 64 mixtures.
    for (table, key) in ["older", "older-2", "current"].iter().enumerate() {
        if table == 2 {
            rotate(store, &mut now).await;
        }
        committed(store, &mut writer, &[Entry::new("acme", key)]).await;
    }
    let creating: Vec<Entry> = (0..3)
        .map(|place| Entry::new("acme", &format!("c{place}")).creates(&format!("o{place}")))
        .collect();
    let rows = committed(store, &mut writer, &creating).await;
    for mixture in 1_u32..64 {
        let mut expected = Surprises::default();
        let mut entries = Vec::new();
        for place in 0..3_usize {
            let is_known = mixture & (1 << place) != 0;
            let is_moved = mixture & (8 << place) != 0;
            let key = if is_known {
                ["older", "older-2", "current"][place].to_owned()
            } else {
                format!("mix-{mixture}-{place}")
            };
            let entity = format!("o{place}");
            let version = if is_moved { Version(4) } else { Version(1) };
            let entry = Entry::new("acme", &key);
            if is_known {
                expected.known_keys.push(known(&entry));
            }
            if is_moved {
                let name = entity_name("acme", &entity);
                let as_is = stored(store, &name).await;
                expected.entities.push((name, as_is));
            }
            entries.push(entry.moves(&entity, Some(rows[place]), version));
        }
        let found = surprises(store, &writer.batch(&entries)).await;
        assert_eq!(found, sorted(expected), "mixture {mixture:06b}");
    }
}

pub(super) async fn the_fence_comes_before_surprises(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut zombie = Writer::claim(store, &place, "zombie", begin())
        .await
        .unwrap();
    let entries = [Entry::new("acme", "k1").creates("o1")];
    committed(store, &mut zombie, &entries).await;
    Writer::claim(store, &place, "successor", begin())
        .await
        .unwrap();
    for path in [CommitPath::Fast, CommitPath::Careful] {
        let mut batch = zombie.batch(&entries);
        batch.path = path;
        assert_eq!(submit(store, &batch).await.unwrap(), CommitReply::Fenced);
    }
}
