//! Rows that somebody else holds, and what one transaction writes.

use sqlx::{AssertSqlSafe, Executor as _};
use tidegate_connectors::contract::batch::{Entry, Writer, entity_name, source_partition};
use tidegate_connectors::store::postgres::PostgresStore;
use tidegate_engine::commit::{CommitPath, CommitReply, EntityRow};
use tidegate_engine::position::Version;
use tidegate_engine::store::StateStore as _;

use super::now;
use crate::support::database::TestDatabase;

const PLACES: usize = 5;

/// What stands in the way at which place of a batch: first, middle, last.
#[derive(Clone, Copy, Debug)]
struct Obstacles {
    busy: usize,
    moved: Option<usize>,
    known: Option<usize>,
}

fn cases() -> Vec<Obstacles> {
    let places = [0, PLACES / 2, PLACES - 1];
    let mut cases = Vec::new();
    for turn in 0..3 {
        let [busy, moved, known] = [0, 1, 2].map(|it| places[(turn + it) % 3]);
        for (moved, known) in [
            (None, None),
            (Some(moved), None),
            (None, Some(known)),
            (Some(moved), Some(known)),
        ] {
            cases.push(Obstacles { busy, moved, known });
        }
    }
    cases
}

fn key(place: usize) -> String {
    format!("o{place}")
}

async fn five_entities(store: &PostgresStore, writer: &mut Writer) -> Vec<EntityRow> {
    let created: Vec<Entry> = (0..PLACES)
        .map(|place| Entry::new("acme", &format!("c{place}")).creates(&key(place)))
        .collect();
    match writer.commit(store, &created).await.unwrap() {
        CommitReply::Committed { new_rows } => new_rows,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_rows_are_named_at_every_place_alone_and_mixed() {
    let name = "busy_rows_are_named_at_every_place_alone_and_mixed";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let rows = five_entities(&store, &mut writer).await;
    let mut blocker = database.admin().await;
    let mut version = Version(1);
    // Whoever does not know that a row is held begins on the fast path, and hears the same of it.
    let paths = [CommitPath::Careful, CommitPath::Fast];
    let both = cases()
        .into_iter()
        .flat_map(|case| paths.map(|path| (case, path)));
    for (round, (case, path)) in both.enumerate() {
        let entry = |place: usize| {
            let known = case.known == Some(place);
            let id = if known {
                "c0".to_owned()
            } else {
                format!("{round}-{place}")
            };
            let moved = case.moved == Some(place);
            let expected = if moved { version.next() } else { version };
            Entry::new("acme", &id).moves(&key(place), Some(rows[place]), expected)
        };
        let sql = format!(
            "begin; select from tidegate.entities where key = '{}' for update",
            key(case.busy)
        );
        blocker.execute(AssertSqlSafe(sql)).await.unwrap();
        let mut batch = writer.batch(&(0..PLACES).map(entry).collect::<Vec<_>>());
        batch.path = path;
        let reply = writer.commit_batch(&store, batch).await.unwrap();
        let CommitReply::Surprised(surprises) = reply else {
            panic!("{case:?}: {reply:?}");
        };
        assert_eq!(
            surprises.busy,
            [entity_name("acme", &key(case.busy))],
            "{case:?}"
        );
        let moved: Vec<_> = surprises.entities.iter().map(|(name, _)| name).collect();
        let expected: Vec<_> = case
            .moved
            .map(|at| entity_name("acme", &key(at)))
            .into_iter()
            .collect();
        assert_eq!(moved, expected.iter().collect::<Vec<_>>(), "{case:?}");
        let known = surprises.known_keys.len();
        assert_eq!(known, usize::from(case.known.is_some()), "{case:?}");
        // The rest is not held up by it, and it comes in when it is free.
        let free = |place: usize| {
            Entry::new("acme", &format!("free-{round}-{place}")).moves(
                &key(place),
                Some(rows[place]),
                version,
            )
        };
        let rest: Vec<Entry> = (0..PLACES)
            .filter(|it| *it != case.busy)
            .map(free)
            .collect();
        let reply = writer.commit(&store, &rest).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{case:?}");
        blocker.execute("rollback").await.unwrap();
        let reply = writer.commit(&store, &[free(case.busy)]).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{case:?}");
        version = version.next();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_a_state_and_its_record_are_written_by_one_transaction() {
    let name = "r07_a_state_and_its_record_are_written_by_one_transaction";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    for round in 0..5_u64 {
        let entries: Vec<Entry> = (0..=round)
            .map(|entity| {
                let entry = Entry::new("acme", &format!("{round}-{entity}"));
                let row = EntityRow(i64::try_from(entity + 1).unwrap());
                let row = (round > entity).then_some(row);
                entry.moves(&format!("o{entity}"), row, Version(round - entity))
            })
            .collect();
        let reply = writer.commit(&store, &entries).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
    }
    assert_eq!(
        store
            .entities(&entity_name("acme", "o0").tenant, None, 9)
            .await
            .unwrap()
            .len(),
        5
    );
    // Of each entity: the transaction of its row, and that of the segment with its last version.
    let mut admin = database.admin().await;
    let apart: Vec<String> = sqlx::query_scalar(
        "select e.key from tidegate.entities e
          where not exists (
                select from tidegate.segments s, json_array_elements(s.body::json) r,
                            json_array_elements(r -> 'effects') f
                 where f ->> 'key' = e.key and (f ->> 'version')::int8 = e.version
                   and s.xmin = e.xmin)",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert_eq!(apart, Vec::<String>::new());
}
