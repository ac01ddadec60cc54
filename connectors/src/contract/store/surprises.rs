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
    let found = replies(store, batch).await;
    assert_eq!(dump(store).await, before, "something was written");
    found
}

/// The reply to a batch on both paths, which must be the same.
async fn replies(store: &dyn StateStore, batch: &CommitBatch) -> Surprises {
    let mut found = Vec::new();
    for path in [CommitPath::Fast, CommitPath::Careful] {
        let mut batch = batch.clone();
        batch.path = path;
        match submit(store, &batch).await {
            Ok(CommitReply::Surprised(surprises)) => found.push(surprises),
            other => panic!("{path:?}: expected surprises, found {other:?}"),
        }
    }
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

/// What may stand in the way of one entity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InTheWay {
    /// Nothing: it is as the batch expects.
    Nothing,
    /// It is at another version.
    Moved,
    /// The batch expects it, and it is not there.
    Absent,
    /// The batch makes it, and it is there.
    NewToTheBatch,
    /// It is as expected, and somebody holds its row.
    Busy,
    /// The batch only looks at it, and it is at another version.
    ReadMoved,
    /// The batch saw that it is not there, and it is.
    ReadThere,
}

/// One of a kind for each of three places, in every combination.
fn every_three(kinds: &[InTheWay]) -> Vec<[InTheWay; 3]> {
    let with = |rest: &[InTheWay; 3], place: usize| {
        let rest = *rest;
        kinds.iter().map(move |kind| {
            let mut three = rest;
            three[place] = *kind;
            three
        })
    };
    let mut all = vec![[InTheWay::Nothing; 3]];
    for place in 0..3 {
        all = all.iter().flat_map(|it| with(it, place)).collect();
    }
    all
}

/// What mixtures are made of: keys that are known, and entities, those from 3 on held by somebody.
struct Stock {
    rows: Vec<EntityRow>,
    entities: Vec<Option<StoredEntity>>,
}

impl Stock {
    /// Two in the older table, one in the current one.
    const KNOWN: [&str; 3] = ["older", "older-2", "current"];

    async fn laid_in(store: &dyn StateStore, writer: &mut Writer) -> Self {
        let mut now = begin();
        rotate(store, &mut now).await;
        for (table, key) in Self::KNOWN.iter().enumerate() {
            if table == 2 {
                rotate(store, &mut now).await;
            }
            committed(store, writer, &[Entry::new("acme", key)]).await;
        }
        let creating: Vec<Entry> = (0..6)
            .map(|place| Entry::new("acme", &format!("c{place}")).creates(&format!("o{place}")))
            .collect();
        let rows = committed(store, writer, &creating).await;
        let mut entities = Vec::new();
        for place in 0..6 {
            entities.push(stored(store, &entity_name("acme", &format!("o{place}"))).await);
        }
        Self { rows, entities }
    }

    /// An event with that in the way of its entity, and what must be said of it.
    fn entry(&self, entry: Entry, place: usize, kind: InTheWay, said: &mut Surprises) -> Entry {
        let at = if kind == InTheWay::Busy {
            place + 3
        } else {
            place
        };
        let (key, row, as_is) = (
            format!("o{at}"),
            Some(self.rows[at]),
            self.entities[at].clone(),
        );
        let (key, row, version, found) = match kind {
            InTheWay::Nothing | InTheWay::Busy => (key, row, Version(1), None),
            InTheWay::Moved | InTheWay::ReadMoved => (key, row, Version(4), Some(as_is)),
            InTheWay::NewToTheBatch | InTheWay::ReadThere => (key, None, Version(0), Some(as_is)),
            InTheWay::Absent => {
                let nowhere = Some(EntityRow(i64::MAX));
                (format!("absent-{place}"), nowhere, Version(3), Some(None))
            }
        };
        if matches!(kind, InTheWay::ReadMoved | InTheWay::ReadThere) {
            said.entities
                .extend(found.map(|as_is| (entity_name("acme", &key), as_is)));
            return entry.refused(&key, row, version);
        }
        let name = entity_name("acme", &key);
        if kind == InTheWay::Busy {
            said.busy.push(name.clone());
        }
        said.entities.extend(found.map(|as_is| (name, as_is)));
        entry.moves(&key, row, version)
    }
}

pub(super) async fn every_mixture_of_surprises_is_returned_whole(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let stock = Stock::laid_in(store, &mut writer).await;
    let mut kinds = vec![
        InTheWay::Nothing,
        InTheWay::Moved,
        InTheWay::Absent,
        InTheWay::NewToTheBatch,
        InTheWay::ReadMoved,
        InTheWay::ReadThere,
    ];
    let mut holds = Vec::new();
    match &subject.outside.hold {
        Some(hold) => {
            kinds.push(InTheWay::Busy);
            for place in 3..6 {
                holds.push(hold(entity_name("acme", &format!("o{place}"))).await);
            }
        }
        None => println!("  capability `concurrent_writers`: without rows that somebody holds"),
    }
    let before = dump(store).await;
    // Any of the events may be known beside it: every set of places comes with entities of every kind.
    for (number, three) in every_three(&kinds).into_iter().enumerate() {
        for known_places in [number % 8, (number / 8 + number) % 8] {
            let mut expected = Surprises::default();
            let mut entries = Vec::new();
            for (place, kind) in three.into_iter().enumerate() {
                let is_known = known_places & (1 << place) != 0;
                let fresh = format!("mix-{number}-{place}");
                let key = if is_known {
                    Stock::KNOWN[place]
                } else {
                    &fresh
                };
                let entry = Entry::new("acme", key);
                expected.known_keys.extend(is_known.then(|| known(&entry)));
                entries.push(stock.entry(entry, place, kind, &mut expected));
            }
            if expected.is_empty() {
                continue;
            }
            // A batch that wrote anything would fence all that follow.
            let found = replies(store, &writer.batch(&entries)).await;
            assert_eq!(found, sorted(expected), "{three:?}, {known_places:03b}");
        }
    }
    assert_eq!(dump(store).await, before, "something was written");
    for release in holds {
        release().await;
    }
}

pub(super) async fn what_is_only_looked_at_has_to_be_as_it_was_seen(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let mut other = Writer::claim(store, &source_partition("orders", 1), "b", begin())
        .await
        .unwrap();
    for place in 0..PLACES {
        // What a batch sees: one entity that is there and one that is not, between others that it moves.
        let (there, absent) = (format!("{place}-there"), format!("{place}-absent"));
        let rows = committed(
            store,
            &mut other,
            &[Entry::new("acme", &format!("{place}-c")).creates(&there)],
        )
        .await;
        let deciding = |round: &str, seen: Version, makes: bool| -> Vec<Entry> {
            (0..PLACES)
                .map(|at| {
                    let entry = Entry::new("acme", &format!("{place}-{round}-{at}"));
                    match (at == place, makes) {
                        (false, _) => entry.creates(&format!("{place}-{round}-own{at}")),
                        (true, false) => entry.refused(&there, Some(rows[0]), seen),
                        (true, true) => entry.refused(&absent, None, Version(0)),
                    }
                })
                .collect()
        };
        // As it was seen, the decision stands, and changes nothing of it.
        let before = stored(store, &entity_name("acme", &there)).await;
        committed(store, &mut writer, &deciding("first", Version(1), false)).await;
        committed(store, &mut writer, &deciding("none", Version(0), true)).await;
        assert_eq!(stored(store, &entity_name("acme", &there)).await, before);
        assert_eq!(stored(store, &entity_name("acme", &absent)).await, None);
        // Somebody else moves the one and makes the other.
        let moves = Entry::new("acme", &format!("{place}-m"))
            .moves(&there, Some(rows[0]), Version(1))
            .creates(&absent);
        committed(store, &mut other, &[moves]).await;
        for (round, makes, name) in [("late", false, &there), ("too-late", true, &absent)] {
            let batch = writer.batch(&deciding(round, Version(1), makes));
            let found = surprises(store, &batch).await;
            let name = entity_name("acme", name);
            let as_is = stored(store, &name).await;
            assert!(as_is.is_some());
            let expected = Surprises {
                entities: vec![(name, as_is)],
                ..Surprises::default()
            };
            assert_eq!(found, expected, "place {place}");
        }
        committed(store, &mut writer, &deciding("again", Version(2), false)).await;
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
