//! Values at their edges: text of every kind, the largest entity and batch, numbers at their limits.

use tidegate_engine::checkpoint::{DoneAbove, DoneRange, Fingerprint};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitReply};
use tidegate_engine::hash::Hash128;
use tidegate_engine::limits::{BATCH_EVENTS_MAX, DONE_ABOVE_RANGES_MAX, ENTITY_DATA_BYTES_MAX};
use tidegate_engine::position::{Offset, Version};
use tidegate_engine::record::{Outcome, RecordBody};
use tidegate_engine::state::{EntityKey, MachineName, StateData, Status};
use tidegate_engine::store::{StateStore, StoreError};

use super::letters::unreadable;
use super::reading::{dump, entities, verified_records};
use super::{StoreUnderTest, begin, committed, submit};
use crate::contract::batch::{Entry, EntryEffect, Writer, source_partition, tenant};
use crate::store::batch_form;

/// Text that encodings, escapes, collations, patterns or statements trip over.
const TEXTS: [&str; 16] = [
    "plain",
    "'; drop table events; --",
    "\"quoted\" and \\back\\slashed\\",
    "{\"looks\":\"like json\"}",
    "%_*?[a]^$",
    "${name} {{name}} $1 :name ?",
    "tab-less but  spaced ",
    "äöüß ÅÄÖ ñ",
    "e\u{301} is not é",
    "日本語 한국어 中文",
    "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{202e}reversed",
    "🦀👩\u{200d}👩\u{200d}👧",
    "\u{80}\u{9f} C1",
    "\u{2028}\u{2029}\u{feff}\u{200b}",
    "\u{fffd}\u{fffe}\u{ffff}",
    "\u{10ffff}",
];

/// JSON whose bytes a parsed or re-written form would not give back.
const PAYLOADS: [&str; 10] = [
    "null",
    "\"\"",
    "{\"b\":1,\"a\":2, \"c\" : [ ] }",
    "[10,10.0,1e1,1E+1,-0,-0.0,1e100000,0.1]",
    "[9007199254740993,18446744073709551615,-9223372036854775808]",
    "\"\\u0001\\u001f\\u007f\\n\\t\\r\\b\\f\"",
    "\"\\\\u0000 is six characters\"",
    "\"\\ud83e\\udd80 \\/ \\u00e9\"",
    "{\"\":{\"\":{\"\":[[[[]]]]}}}",
    "{\"__proto__\":1,\"key\":\"\\\"}],[{\\\"\"}",
];

/// Ids of events, correlation and causation among it: each entry's are its key.
pub(super) async fn r04_text_comes_back_byte_for_byte(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let mut entries = Vec::new();
    for (index, text) in TEXTS.iter().enumerate() {
        let mut fields = serde_json::Map::new();
        fields.insert((*text).to_owned(), (*text).into());
        fields.insert("floats".to_owned(), [0.1, 1e-7, 1e300].as_slice().into());
        let data = StateData(fields).to_canonical().unwrap();
        let effect = EntryEffect {
            read: true,
            machine: MachineName::new("order").unwrap(),
            key: EntityKey::new(text).unwrap(),
            outcome: Outcome::Applied,
            row: None,
            expected: Version(0),
            status: Status::new("placed").unwrap(),
            data,
        };
        let payload = PAYLOADS[index % PAYLOADS.len()];
        entries.push(
            Entry::new("acme", text)
                .data(payload)
                .effect(effect)
                .emits(1),
        );
    }
    let batch = writer.batch(&entries);
    committed(store, &mut writer, &entries).await;
    let records = verified_records(store, &tenant("acme")).await;
    assert_eq!(records.len(), entries.len());
    for (record, entry) in records.iter().zip(&entries) {
        assert_eq!(record.body, RecordBody::Event(entry.event()));
        assert_eq!(record.effects[0].key, Some(entry.effects[0].key.clone()));
    }
    let found = entities(store, &tenant("acme")).await;
    assert_eq!(found.len(), batch.entities.len());
    for (found, written) in found.iter().zip(&batch.entities) {
        assert_eq!(found.name, written.name);
        assert_eq!(found.data, written.data);
    }
    let names: Vec<_> = batch.entities.iter().map(|it| it.name.clone()).collect();
    let loaded = store.load_entities(&tenant("acme"), names).await.unwrap();
    assert_eq!(loaded.len(), found.len());
    let work = store
        .open_work(&tenant("acme"), &place, None, 100)
        .await
        .unwrap();
    let mut events: Vec<_> = work.into_iter().map(|work| work.event).collect();
    let mut expected: Vec<_> = batch.open_work.iter().map(|it| it.event.clone()).collect();
    events.sort();
    expected.sort();
    assert_eq!(events, expected);
}

pub(super) async fn the_largest_entity_is_stored(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut writer = Writer::claim(store, &source_partition("orders", 0), "a", begin())
        .await
        .unwrap();
    // Text that hardly compresses, up to the limit to the byte.
    let mut text = String::with_capacity(ENTITY_DATA_BYTES_MAX);
    let mut random = 1_u64;
    while text.len() < ENTITY_DATA_BYTES_MAX - "{\"t\":\"\"}".len() {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        text.push(char::from(
            b'a' + u8::try_from((random >> 40) % 26).unwrap(),
        ));
    }
    let data = StateData::from_canonical(&format!("{{\"t\":\"{text}\"}}")).unwrap();
    let data = data.to_canonical().unwrap();
    assert_eq!(data.len(), ENTITY_DATA_BYTES_MAX);
    let longest_key = "ü".repeat(128);
    let mut effect = EntryEffect {
        read: true,
        machine: MachineName::new(&"m".repeat(63)).unwrap(),
        key: EntityKey::new(&longest_key).unwrap(),
        outcome: Outcome::Applied,
        row: None,
        expected: Version(0),
        status: Status::new(&"s".repeat(63)).unwrap(),
        data: data.clone(),
    };
    let created = Entry::new("acme", "k1").effect(effect.clone());
    let rows = committed(store, &mut writer, &[created]).await;
    let found = entities(store, &tenant("acme")).await;
    assert_eq!(found[0].data, data);
    effect.row = Some(rows[0]);
    effect.expected = Version(1);
    let payload = format!("\"{}\"", "p".repeat(512 * 1024));
    let moved = Entry::new("acme", "k2").data(&payload).effect(effect);
    committed(store, &mut writer, std::slice::from_ref(&moved)).await;
    let found = entities(store, &tenant("acme")).await;
    assert_eq!((found[0].version, &found[0].data), (Version(2), &data));
    assert_eq!(found[0].name.key.as_str(), longest_key);
    let records = verified_records(store, &tenant("acme")).await;
    assert_eq!(records[1].body, RecordBody::Event(moved.event()));
}

pub(super) async fn a_batch_at_its_limits_is_committed(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let entries: Vec<Entry> = (0..BATCH_EVENTS_MAX)
        .map(|index| {
            let name = format!("tenant-{}", index % 100);
            Entry::new(&name, &format!("k{index}"))
                .creates(&format!("o{index}"))
                .emits(u32::from(index % 10 == 0))
        })
        .collect();
    let mut batch = writer.batch(&entries);
    batch.progress.done_above = DoneAbove(
        (0..1_000)
            .map(|range| DoneRange {
                first: Offset(20_000 + range * 3),
                last: Offset(20_001 + range * 3),
            })
            .collect(),
    );
    let reply = writer.commit_batch(store, batch).await.unwrap();
    let CommitReply::Committed { new_rows } = reply else {
        panic!("expected a commit, found {reply:?}");
    };
    assert_eq!(new_rows.len(), BATCH_EVENTS_MAX);
    // All of it again is one long list of surprises.
    match writer.commit(store, &entries).await.unwrap() {
        CommitReply::Surprised(surprises) => {
            assert_eq!(surprises.known_keys.len(), BATCH_EVENTS_MAX);
            assert_eq!(surprises.entities.len(), BATCH_EVENTS_MAX);
        }
        other => panic!("expected surprises, found {other:?}"),
    }
    let moved: Vec<Entry> = new_rows
        .iter()
        .zip(writer.batch(&entries).entities)
        .map(|(row, write)| {
            let key = write.name.key.as_str();
            Entry::new(write.name.tenant.as_str(), &format!("again-{key}")).moves(
                key,
                Some(*row),
                Version(1),
            )
        })
        .collect();
    committed(store, &mut writer, &moved).await;
    assert_eq!(store.tenants().await.unwrap().len(), 100);
    for name in ["tenant-0", "tenant-99"] {
        let records = verified_records(store, &tenant(name)).await;
        assert_eq!(records.len(), 2 * BATCH_EVENTS_MAX / 100);
        let found = entities(store, &tenant(name)).await;
        assert!(found.iter().all(|entity| entity.version == Version(2)));
    }
    let work = store
        .open_work(&tenant("tenant-0"), &place, None, 10_000)
        .await;
    assert_eq!(work.unwrap().len(), BATCH_EVENTS_MAX / 100);
}

pub(super) async fn r26_a_batch_beyond_a_limit_is_refused_whole(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let before = dump(store).await;
    let events = |count: usize| {
        let entries = (0..count).map(|it| Entry::new("acme", &format!("k{it}")));
        writer.batch(&entries.collect::<Vec<_>>())
    };
    let mut fragmented = events(1);
    fragmented.progress.done_above = DoneAbove(
        (0..=DONE_ABOVE_RANGES_MAX as u64)
            .map(|range| DoneRange {
                first: Offset(10 + range * 2),
                last: Offset(10 + range * 2),
            })
            .collect(),
    );
    let mut large = writer.batch(&[Entry::new("acme", "k").creates("o")]);
    large.entities[0].data = "x".repeat(ENTITY_DATA_BYTES_MAX + 1).into();
    for (what, batch) in [
        ("records", events(BATCH_EVENTS_MAX + 1)),
        ("ranges", fragmented),
        ("bytes of data", large),
    ] {
        let answer = submit(store, &batch).await;
        assert!(
            matches!(&answer, Err(StoreError::Unexpected { code, detail })
                if code == batch_form::CODE_FORM && detail.contains(what)),
            "{what}: the store answered {answer:?}"
        );
        assert_eq!(dump(store).await, before, "{what}");
    }
}

type Edge = (&'static str, fn(&mut CommitBatch));

/// What fits eight signed bytes is what every database can hold.
const I64_MAX: u64 = i64::MAX as u64;

const EXACT: [Edge; 5] = [
    ("the highest offset of a broker", |it| {
        it.progress.next_offset = Offset(I64_MAX);
        it.progress.done_above = DoneAbove(vec![DoneRange {
            first: Offset(I64_MAX - 2),
            last: Offset(I64_MAX - 1),
        }]);
        it.progress.fingerprint = Some(Fingerprint {
            offset: Offset(I64_MAX - 1),
            hash: Hash128(u128::MAX),
        });
    }),
    ("the highest counts", |it| {
        it.progress.counts.admitted = I64_MAX;
        it.progress.counts.emitted = I64_MAX;
        it.progress.counts.looped_back = I64_MAX - 1;
    }),
    ("the highest version", |it| {
        it.entities[0].version = Version(I64_MAX);
    }),
    ("the highest and lowest hashes", |it| {
        it.dedupe[0].key = Hash128(0);
        it.dedupe[0].conflict = Hash128(u128::MAX);
        it.open_work[0].id = Hash128(0);
        it.open_work[1].id = Hash128(u128::MAX);
    }),
    ("times before 1970 and after 2100", |it| {
        it.entities[0].changed_at = Timestamp(-1);
        it.open_work[0].due = Timestamp(-86_400_000_000_000_000);
        it.open_work[1].due = Timestamp(4_102_444_800_000_001);
        it.dead_letters[0].at = Timestamp(-1);
    }),
];

const EXACT_OR_REFUSED: [Edge; 5] = [
    ("an offset beyond eight signed bytes", |it| {
        it.progress.next_offset = Offset(u64::MAX);
    }),
    ("a count beyond eight signed bytes", |it| {
        it.progress.counts.duplicates = u64::MAX;
    }),
    ("a version beyond eight signed bytes", |it| {
        it.entities[0].version = Version(I64_MAX + 1);
    }),
    ("the end of time", |it| {
        it.dead_letters[0].at = Timestamp(i64::MAX);
    }),
    ("the beginning of time", |it| {
        it.dead_letters[0].at = Timestamp(i64::MIN);
    }),
];

/// Commits an edge for a partition of its own and compares what is stored; false when refused.
async fn is_stored(store: &dyn StateStore, partition: u32, edge: Edge) -> bool {
    let (what, set) = edge;
    let place = source_partition("orders", partition);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let name = format!("tenant-{partition}");
    let mut batch = writer.batch(&[Entry::new(&name, "k1").creates("o1").emits(2)]);
    batch.dead_letters = vec![unreadable(&name, 1, &place, writer.now)];
    set(&mut batch);
    let before = dump(store).await;
    match submit(store, &batch).await {
        Ok(CommitReply::Committed { .. }) => writer.settle(&batch),
        Err(StoreError::Refused { .. }) => {
            assert_eq!(dump(store).await, before, "{what}: something was written");
            return false;
        }
        other => panic!("{what}: expected a commit or a refusal, found {other:?}"),
    }
    let checkpoint = store.checkpoint(&place).await.unwrap();
    assert_eq!(checkpoint, Some(writer.checkpoint), "{what}");
    let tenant = tenant(&name);
    let found = entities(store, &tenant).await;
    assert_eq!(found[0].version, batch.entities[0].version, "{what}");
    let letter = store.dead_letter(&tenant, Hash128(1)).await.unwrap();
    assert_eq!(letter.unwrap().letter, batch.dead_letters[0], "{what}");
    let work = store.open_work(&tenant, &place, None, 10).await.unwrap();
    let found: Vec<_> = work.iter().map(|work| work.id).collect();
    let expected: Vec<_> = batch.open_work.iter().map(|it| it.id).collect();
    assert_eq!(found, expected, "{what}");
    true
}

pub(super) async fn numbers_at_their_edges_are_stored_exactly_or_refused(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let mut partition = 0;
    for edge in EXACT {
        assert!(
            is_stored(store, partition, edge).await,
            "{}: must be stored",
            edge.0
        );
        partition += 1;
    }
    for edge in EXACT_OR_REFUSED {
        is_stored(store, partition, edge).await;
        partition += 1;
    }
    let highest = i32::MAX as u32;
    let nothing: Edge = ("the highest partition", |_| {});
    assert!(is_stored(store, highest, nothing).await);
}
