//! Tenants are kept apart: no row of another one is ever written or returned, whatever their names.

use tidegate_engine::commit::CommitReply;
use tidegate_engine::dead_letter::{DeadLetterState, DeadLetterUpdate};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::Version;
use tidegate_engine::store::{DeadLetterFilter, StateStore, StoreError};
use tidegate_engine::tenant::UNASSIGNED;

use super::letters::unreadable;
use super::reading::{dump, verified_records};
use super::{StoreUnderTest, begin, committed, submit};
use crate::contract::batch::{Entry, Writer, entity_name, source_partition, tenant};
use crate::store::batch_form;

pub(super) async fn r38_a_row_of_a_tenant_that_is_not_named_is_refused(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let known = Entry::new("bolt", "known").creates("there");
    committed(store, &mut writer, &[known]).await;
    let mut kept = writer.batch(&[]);
    kept.tenants = vec![tenant("bolt")];
    kept.dead_letters = vec![unreadable("bolt", 1, &place, writer.now)];
    let reply = writer.commit_batch(store, kept).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
    let before = dump(store).await;
    // One row of tenant `bolt` at a time, in each array, in a batch that names only `acme`.
    let own = writer.batch(&[Entry::new("acme", "k1").creates("o1").emits(1)]);
    let foreign = writer.batch(&[Entry::new("bolt", "k1").creates("o1").emits(1)]);
    for array in 0..6 {
        let mut batch = own.clone();
        match array {
            0 => batch.segments.extend(foreign.segments.clone()),
            1 => batch.dedupe.extend(foreign.dedupe.clone()),
            2 => batch.entities.extend(foreign.entities.clone()),
            3 => batch.open_work.extend(foreign.open_work.clone()),
            4 => batch.dead_letters = vec![unreadable("bolt", 2, &place, writer.now)],
            _ => {
                batch.dead_letter_updates = vec![DeadLetterUpdate {
                    tenant: tenant("bolt"),
                    id: Hash128(1),
                    state: DeadLetterState::Discarded,
                    at: writer.now,
                }];
            }
        }
        let answer = submit(store, &batch).await;
        assert!(
            matches!(&answer, Err(StoreError::Unexpected { code, .. })
                if code == batch_form::CODE_FORM),
            "array {array}: the store answered {answer:?}"
        );
        assert_eq!(dump(store).await, before, "array {array}");
    }
    let reply = writer.commit_batch(store, own).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
}

/// Writes the same streams, keys, entities, work and dead-letter ids for each of the tenants, each
/// with its own name in every value, and sees that every read returns that tenant's rows alone.
async fn keep_apart(store: &dyn StateStore, names: &[&str]) {
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let entries: Vec<Entry> = names
        .iter()
        .map(|name| {
            Entry::new(name, "k1")
                .data(&format!("{{\"of\":\"{name}\"}}"))
                .creates("o1")
                .emits(1)
        })
        .collect();
    let mut batch = writer.batch(&entries);
    for write in &mut batch.entities {
        write.data = std::sync::Arc::from(format!("{{\"of\":\"{}\"}}", write.name.tenant));
    }
    for name in &batch.tenants {
        let mut letter = unreadable(name.as_str(), 1, &place, writer.now);
        letter.detail = format!("of {name}");
        batch.dead_letters.push(letter);
    }
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
    let mut sorted: Vec<_> = names.iter().map(|name| tenant(name)).collect();
    sorted.sort();
    assert_eq!(store.tenants().await.unwrap(), sorted);
    for name in sorted {
        let heads = store.stream_partitions(&name).await.unwrap();
        assert_eq!(heads.len(), 1, "{name}");
        assert_eq!(heads[0].stream_partition.tenant, name);
        let same = store.stream_heads(&name, &place).await.unwrap();
        assert_eq!(same, heads);
        let records = verified_records(store, &name).await;
        assert_eq!(records.len(), 1, "{name}");
        let stored = format!("{:?}", records[0].body);
        assert!(stored.contains(name.as_str()));
        let entities = store.entities(&name, None, 1_000).await.unwrap();
        assert_eq!(entities.len(), 1, "{name}");
        assert_eq!(entities[0].name, entity_name(name.as_str(), "o1"));
        assert_eq!(&*entities[0].data, format!("{{\"of\":\"{name}\"}}"));
        let own = vec![entity_name(name.as_str(), "o1")];
        assert_eq!(store.load_entities(&name, own).await.unwrap(), entities);
        let filter = DeadLetterFilter::default();
        let letters = store.dead_letters(&name, filter, 1_000).await.unwrap();
        assert_eq!(letters.len(), 1, "{name}");
        assert_eq!(letters[0].letter.detail, format!("of {name}"));
        let same = store.dead_letter(&name, Hash128(1)).await.unwrap();
        assert_eq!(same, letters.into_iter().next());
        let work = store.open_work(&name, &place, None, 1_000).await.unwrap();
        assert_eq!(work.len(), 1, "{name}");
    }
}

pub(super) async fn no_read_returns_a_row_of_another_tenant(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    keep_apart(store, &["acme", "bolt", "coil"]).await;
    // A tenant without anything has nothing.
    let nobody = tenant("nobody");
    let place = source_partition("orders", 0);
    assert_eq!(store.stream_partitions(&nobody).await.unwrap(), vec![]);
    assert_eq!(store.stream_heads(&nobody, &place).await.unwrap(), vec![]);
    assert_eq!(store.entities(&nobody, None, 10).await.unwrap(), vec![]);
    let filter = DeadLetterFilter::default();
    let letters = store.dead_letters(&nobody, filter, 10).await.unwrap();
    assert_eq!(letters, vec![]);
    let letter = store.dead_letter(&nobody, Hash128(1)).await.unwrap();
    assert_eq!(letter, None);
    assert_eq!(
        store.open_work(&nobody, &place, None, 10).await.unwrap(),
        vec![]
    );
    // One tenant's call with another's name: an error or nothing, never the row.
    for (caller, name) in [("acme", "bolt"), ("nobody", "acme")] {
        let names = vec![entity_name(name, "o1")];
        let found = store.load_entities(&tenant(caller), names).await;
        assert!(
            found.as_ref().map_or(true, Vec::is_empty),
            "{caller} read {found:?}"
        );
    }
    assert!(!store.tenants().await.unwrap().contains(&nobody));
    // Moving one tenant's entity leaves the others' alone.
    let mut writer = Writer::claim(store, &place, "b", begin()).await.unwrap();
    let row = store.entities(&tenant("bolt"), None, 1).await.unwrap()[0].row;
    let entry = Entry::new("bolt", "k2").moves("o1", Some(row), Version(1));
    committed(store, &mut writer, &[entry]).await;
    for (name, version) in [("acme", 1), ("bolt", 2), ("coil", 1)] {
        let found = store.entities(&tenant(name), None, 10).await.unwrap();
        assert_eq!(found[0].version, Version(version), "{name}");
    }
}

pub(super) async fn tenants_with_hostile_names_are_kept_apart(subject: StoreUnderTest) {
    // Names that a pattern, a cast, a keyword, a prefix or a list separator could confuse.
    let longest = "x".repeat(63);
    let nearly = format!("{}y", "x".repeat(62));
    let names = [
        "a",
        "a_",
        "a-",
        "ab",
        "a_b",
        "a-b",
        "axb",
        "0",
        "00",
        "1",
        "01",
        "1e3",
        "null",
        "true",
        "public",
        "tidegate",
        "pg_catalog",
        "postgres",
        "select",
        "tenants",
        "order",
        UNASSIGNED,
        "unassigned",
        &longest,
        &nearly,
    ];
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    keep_apart(subject.store.as_ref(), &names).await;
}
