//! Entities: rows, versions, pages and counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_engine::commit::{CommitBatch, CommitReply, EntityName, EntityRow};
use tidegate_engine::dead_letter::{DeadLetterState, DeadLetterUpdate};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::{Epoch, Version};
use tidegate_engine::record::Outcome;
use tidegate_engine::state::{EntityKey, MachineName, Status, state_hash};
use tidegate_engine::store::StoreError;

use super::reading::{dump, entities, verified_records};
use super::{StoreUnderTest, begin, committed, submit};
use crate::contract::batch::{Entry, EntryEffect, Writer, entity_name, source_partition, tenant};

fn effect(machine: &str, key: &str, status: &str) -> EntryEffect {
    EntryEffect {
        read: true,
        machine: MachineName::new(machine).unwrap(),
        key: EntityKey::new(key).unwrap(),
        outcome: Outcome::Applied,
        row: None,
        expected: Version(0),
        status: Status::new(status).unwrap(),
        data: Arc::from("{}"),
    }
}

pub(super) async fn new_rows_are_numbered_in_the_order_of_the_batch(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let first = committed(store, &mut writer, &[Entry::new("acme", "k").creates("o5")]).await;
    // New ones around one that exists, over two tenants.
    let entries = [
        Entry::new("acme", "k9").creates("o9"),
        Entry::new("acme", "k5").moves("o5", Some(first[0]), Version(1)),
        Entry::new("acme", "k1").creates("o1"),
        Entry::new("bolt", "k5").creates("o5"),
    ];
    let batch = writer.batch(&entries);
    let reply = writer.commit_batch(store, batch.clone()).await.unwrap();
    let CommitReply::Committed { new_rows } = reply else {
        panic!("expected a commit, found {reply:?}");
    };
    let new: Vec<_> = batch
        .entities
        .iter()
        .filter(|write| write.expected == Version(0))
        .collect();
    assert_eq!(new.len(), 3);
    assert_eq!(new_rows.len(), 3);
    for (write, row) in new.iter().zip(&new_rows) {
        let names = vec![write.name.clone()];
        let found = store
            .load_entities(&write.name.tenant, names)
            .await
            .unwrap();
        assert_eq!(found[0].row, *row, "{:?}", write.name);
    }
    let mut all = new_rows.clone();
    all.extend(first);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 4, "no two entities share a row");
}

pub(super) async fn an_entity_keeps_its_row_and_gets_what_was_written(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let rows = committed(
        store,
        &mut writer,
        &[Entry::new("acme", "k0").creates("o1")],
    )
    .await;
    // Several versions in one batch are one write.
    let entries: Vec<Entry> = (1..4)
        .map(|version| {
            Entry::new("acme", &format!("k{version}")).moves("o1", Some(rows[0]), Version(version))
        })
        .collect();
    let no_new_rows = committed(store, &mut writer, &entries).await;
    assert_eq!(no_new_rows, Vec::new());
    let names = vec![entity_name("acme", "o1"), entity_name("acme", "o2")];
    let found = store.load_entities(&tenant("acme"), names).await.unwrap();
    assert_eq!(found.len(), 1, "what does not exist is left out");
    assert_eq!(found[0].row, rows[0]);
    assert_eq!(found[0].version, Version(4));
    assert_eq!(&*found[0].data, "{\"key\":\"k3\",\"moves\":4}");
    let nothing = store.load_entities(&tenant("acme"), Vec::new()).await;
    assert_eq!(nothing.unwrap(), Vec::new());
}

pub(super) async fn a_row_of_another_tenant_is_never_written(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let entries = [
        Entry::new("acme", "k1").creates("o1"),
        Entry::new("bolt", "k1").creates("o1"),
    ];
    let rows = committed(store, &mut writer, &entries).await;
    let before = dump(store).await;
    // The right name, key and version, and the row of the other tenant's entity of that name.
    let stolen = Entry::new("acme", "k2").moves("o1", Some(rows[1]), Version(1));
    let answer = submit(store, &writer.batch(&[stolen])).await;
    assert!(
        !matches!(
            answer,
            Ok(CommitReply::Committed { .. } | CommitReply::Fenced)
        ),
        "the store answered {answer:?}"
    );
    assert_eq!(dump(store).await, before);
}

pub(super) async fn entities_are_paged_in_order_of_bytes(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    // A language's order would put these otherwise: case, accents, punctuation, length.
    let keys = [
        "a",
        "A",
        "B",
        "b",
        "ä",
        "z",
        "a b",
        "a-b",
        "a_b",
        "ab",
        "-a",
        "1",
        "10",
        "9",
        "é",
        "e\u{301}",
        "日本",
        "\u{10ffff}",
        "Ω",
        "ß",
        "ss",
    ];
    let mut entries = Vec::new();
    for (index, machine) in ["a-b", "a", "ab", "a_b"].iter().enumerate() {
        for key in keys {
            for name in ["acme", "acme-2", "bolt"] {
                entries.push(
                    Entry::new(name, &format!("{name}-{index}-{key}"))
                        .effect(effect(machine, key, "new")),
                );
            }
        }
    }
    committed(store, &mut writer, &entries).await;
    for name in ["acme", "acme-2", "bolt"] {
        let mut expected: Vec<EntityName> = Vec::new();
        for machine in ["a-b", "a", "ab", "a_b"] {
            expected.extend(keys.map(|key| EntityName {
                tenant: tenant(name),
                machine: MachineName::new(machine).unwrap(),
                key: EntityKey::new(key).unwrap(),
            }));
        }
        expected.sort();
        for limit in [1, 7, 1_000] {
            let mut found: Vec<EntityName> = Vec::new();
            loop {
                let after = found
                    .last()
                    .map(|last| (last.machine.clone(), last.key.clone()));
                let page = store.entities(&tenant(name), after, limit).await.unwrap();
                assert!(page.len() <= limit as usize);
                if page.is_empty() {
                    break;
                }
                found.extend(page.into_iter().map(|entity| entity.name));
            }
            assert_eq!(found, expected, "pages of {limit}");
        }
    }
    assert_eq!(entities(store, &tenant("nobody")).await, Vec::new());
}

pub(super) async fn entities_are_counted_by_status_over_all_tenants(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    let mut entries = Vec::new();
    for (tenant, machine, status, count) in [
        ("acme", "order", "placed", 3),
        ("acme", "order", "paid", 1),
        ("bolt", "order", "placed", 2),
        ("bolt", "payment", "placed", 5),
    ] {
        for index in 0..count {
            let name = format!("{machine}-{status}-{index}");
            entries.push(Entry::new(tenant, &name).effect(effect(machine, &name, status)));
        }
    }
    committed(store, &mut writer, &entries).await;
    for (machine, expected) in [
        ("order", vec![("paid", 1), ("placed", 5)]),
        ("payment", vec![("placed", 5)]),
        ("parcel", vec![]),
    ] {
        let machine = MachineName::new(machine).unwrap();
        let mut found = store.entities_by_status(&machine).await.unwrap();
        found.sort();
        let found: Vec<_> = found
            .iter()
            .map(|(status, count)| (status.as_str(), *count))
            .collect();
        assert_eq!(found, expected);
    }
}

/// Entities that a random operation may move, of two tenants.
const ENTITIES: usize = 8;

/// One random operation of several writers: moved as expected, or stale, fenced or refused.
fn operation(model: &Model, random: &mut u64, round: u32) -> (usize, Vec<Entry>, u64) {
    let mut next = |below: u64| {
        // Numerical Recipes' generator: the same operations for every store.
        *random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) % below
    };
    let writer = usize::try_from(next(3)).unwrap();
    let kind = next(6);
    let first = usize::try_from(next(ENTITIES as u64)).unwrap();
    let entries = (0..=next(4))
        .map(|number| {
            let entity = (first + usize::try_from(number).unwrap()) % ENTITIES;
            let (name, key) = Model::name(entity);
            let (row, version) = model.entities[entity];
            // Stale, or ahead of what anybody has written.
            let off_by = if kind == 0 { 1 + next(2) } else { 0 };
            let row = row.or((off_by > 0).then_some(EntityRow(i64::MAX)));
            let expected = Version(version.0 + off_by);
            Entry::new(name, &format!("{round}-{number}")).moves(&key, row, expected)
        })
        .collect();
    (writer, entries, kind)
}

/// What the store must hold.
struct Model {
    entities: Vec<(Option<EntityRow>, Version)>,
}

impl Model {
    fn name(entity: usize) -> (&'static str, String) {
        (["acme", "bolt"][entity % 2], format!("o{entity}"))
    }

    fn settle(&mut self, batch: &CommitBatch, new_rows: Vec<EntityRow>) {
        let mut new_rows = new_rows.into_iter();
        for write in &batch.entities {
            let entity: usize = write.name.key.as_str()[1..].parse().unwrap();
            let row = write.row.or_else(|| new_rows.next());
            self.entities[entity] = (row, write.version);
        }
    }
}

pub(super) async fn r07_no_state_changes_without_its_record(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let places: Vec<_> = (0..3).map(|it| source_partition("orders", it)).collect();
    let mut writers = Vec::new();
    for place in &places {
        writers.push(Writer::claim(store, place, "a", begin()).await.unwrap());
    }
    let mut model = Model {
        entities: vec![(None, Version(0)); ENTITIES],
    };
    let (mut random, mut changed, mut refused) = (11, 0, 0);
    for round in 0..300 {
        let (which, entries, kind) = operation(&model, &mut random, round);
        let writer = &mut writers[which];
        let mut batch = writer.batch(&entries);
        match kind {
            1 => batch.epoch = Epoch(batch.epoch.0 - 1),
            2 => {
                batch.dead_letter_updates = vec![DeadLetterUpdate {
                    tenant: batch.tenants[0].clone(),
                    id: Hash128(77),
                    state: DeadLetterState::Retried,
                    at: writer.now,
                }];
            }
            _ => {}
        }
        match submit(store, &batch).await {
            Ok(CommitReply::Committed { new_rows }) => {
                assert!(kind > 2, "operation {kind} was committed");
                writer.settle(&batch);
                model.settle(&batch, new_rows);
                changed += batch.entities.len();
            }
            Ok(CommitReply::Surprised(_) | CommitReply::Fenced)
            | Err(StoreError::Refused { .. }) => {
                assert!(kind <= 2, "operation {kind} was refused");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(changed > 300 && refused > 100, "{changed}, {refused}");
    // Of each entity every version stands once in the log, and the last one is the state.
    for name in ["acme", "bolt"] {
        let mut recorded: BTreeMap<EntityKey, BTreeMap<Version, u64>> = BTreeMap::new();
        for record in verified_records(store, &tenant(name)).await {
            for effect in record.effects {
                let versions = recorded.entry(effect.key.unwrap()).or_default();
                let before = versions.insert(effect.version.unwrap(), effect.state_hash.unwrap());
                assert_eq!(before, None, "a version with two records");
                changed -= 1;
            }
        }
        for entity in entities(store, &tenant(name)).await {
            let versions = recorded.remove(&entity.name.key).unwrap();
            let gapless: Vec<_> = (1..=entity.version.0).map(Version).collect();
            assert_eq!(versions.keys().copied().collect::<Vec<_>>(), gapless);
            let state = state_hash(&entity.status, &entity.data);
            assert_eq!(versions[&entity.version], state, "{:?}", entity.name);
        }
        assert_eq!(recorded, BTreeMap::new(), "records of no entity");
    }
    assert_eq!(changed, 0, "changes and records");
}
