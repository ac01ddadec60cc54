//! What the embedded store promises beyond the contract of every store: one process, one file, nothing
//! stored ever changed, whole after a crash, and readable for people.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{AssertSqlSafe, Row as _, SqlitePool};
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition, tenant};
use tidegate_connectors::contract::store::outside::{CommitAndLose, Lost, Outside};
use tidegate_connectors::contract::store::reading::{dump, verified_records};
use tidegate_connectors::contract::store::{Reopen, StoreUnderTest, run_all};
use tidegate_connectors::store::sqlite::{SqliteOptions, SqliteStore};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitPath, CommitReply};
use tidegate_engine::machine::Definition;
use tidegate_engine::position::Version;
use tidegate_engine::state::MachineName;
use tidegate_engine::store::{NewDefinition, StateStore, StoreError, Upkeep};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(SqliteOptions::new(path)).await
}

fn place() -> tidegate_engine::position::SourcePartition {
    source_partition("orders", 0)
}

/// A second program on the same file, as the `sqlite3` shell is.
async fn shell(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new()
        .connect_with(SqliteConnectOptions::new().filename(path))
        .await
        .unwrap()
}

async fn numbers(shell: &SqlitePool, sql: &str) -> Vec<i64> {
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(shell).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn make() -> StoreUnderTest {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = Arc::new(open(&path).await.unwrap());
    let outside = Outside {
        commit_and_lose: commit_and_lose(&store, path.clone()),
        hold: None,
        try_to_change: None,
        pages: None,
    };
    let reopen: Reopen = Arc::new(move || {
        let path = path.clone();
        Box::pin(async move {
            let store: Arc<dyn StateStore> = Arc::new(open(&path).await.unwrap());
            store
        })
    });
    StoreUnderTest {
        keep: Box::new(directory),
        ..StoreUnderTest::new(store, reopen, outside)
    }
}

/// A commit that SQLite itself refuses to end, or one that is done when nobody is left to hear of it.
fn commit_and_lose(store: &Arc<SqliteStore>, path: PathBuf) -> Box<CommitAndLose> {
    // Not kept alive by this: the file may be opened again when its last user is gone.
    let store = Arc::downgrade(store);
    Box::new(move |batch, lost| {
        let (store, path) = (store.upgrade().unwrap(), path.clone());
        Box::pin(async move {
            if lost == Lost::Commit {
                store.on_commit(|| false).await;
                return store.commit(Arc::new(batch)).await;
            }
            // The transaction runs on a runtime of its own, which ends while SQLite is at the commit.
            let doomed = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .build()
                .unwrap();
            let (at_commit, reached) = tokio::sync::oneshot::channel();
            let (go_on, may_go_on) = std::sync::mpsc::sync_channel::<()>(1);
            let mut at_commit = Some(at_commit);
            store
                .on_commit(move || {
                    if let Some(at_commit) = at_commit.take() {
                        at_commit.send(()).unwrap();
                        may_go_on.recv().unwrap();
                    }
                    true
                })
                .await;
            let handle = doomed.handle().clone();
            let told = tokio::spawn(async move {
                let mut commit = store.commit(Arc::new(batch));
                let there = std::future::poll_fn(|context| {
                    let _there = handle.enter();
                    commit.as_mut().poll(context)
                });
                there.await
            });
            reached.await.unwrap();
            doomed.shutdown_background();
            go_on.send(()).unwrap();
            let told = told.await.unwrap();
            // Whoever gets the write lock after it comes after the commit.
            let shell = shell(&path).await;
            shell.begin_with("BEGIN IMMEDIATE").await.unwrap();
            shell.close().await;
            told
        })
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_store_keeps_the_contract() {
    run_all("sqlite", make).await;
}

/// Events that each make an entity and emit one event.
fn orders(numbers: std::ops::Range<usize>) -> Vec<Entry> {
    numbers
        .map(|n| {
            Entry::new("acme", &format!("k{n}"))
                .creates(&format!("o{n}"))
                .emits(1)
        })
        .collect()
}

/// A store with one segment, three entities, open work and a definition.
async fn filled(store: &dyn StateStore) -> Writer {
    let mut writer = Writer::claim(store, &place(), "a", NOW).await.unwrap();
    let entries = orders(0..3);
    let reply = writer.commit(store, &entries).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
    store
        .activate_definition(definition(&[("moves", "int")]), NOW)
        .await
        .unwrap();
    writer
}

fn definition(fields: &[(&str, &'static str)]) -> NewDefinition {
    let machine = MachineName::new("order").unwrap();
    let text = format!("machine: order\n# {fields:?}\n");
    let version = fields.len() as u64;
    NewDefinition {
        hash: Definition::hash_of(&machine, version, &text),
        machine,
        version,
        text: text.into(),
        fields: fields
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), *kind))
            .collect(),
    }
}

#[tokio::test]
async fn r08_stored_events_cannot_be_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = open(&path).await.unwrap();
    let mut writer = filled(&store).await;
    drop_all_but_the_last(&store, &mut writer).await;
    let before = dump(&store).await;
    let shell = shell(&path).await;
    let attempts = [
        "UPDATE segments SET body = '[]'",
        "UPDATE segments SET first_sequence = first_sequence + 1",
        "DELETE FROM segments",
        "DELETE FROM segments WHERE segment_id = 2",
        "INSERT OR REPLACE INTO segments SELECT * FROM segments",
        "REPLACE INTO segments SELECT segment_id, tenant_id, stream_partition_id,
            (SELECT next_sequence FROM stream_partitions), event_count, first_at, last_at,
            chain_head, '[]' FROM segments",
        "INSERT INTO segments SELECT NULL, tenant_id, stream_partition_id, 999, event_count,
            first_at, last_at, chain_head, body FROM segments",
        "INSERT INTO segments SELECT NULL, tenant_id, stream_partition_id, 0, event_count,
            first_at, last_at, chain_head, body FROM segments",
        "UPDATE OR REPLACE segments SET segment_id = 1",
        "UPDATE chain_anchors SET next_sequence = 0",
        "DELETE FROM chain_anchors",
        "INSERT OR REPLACE INTO chain_anchors SELECT * FROM chain_anchors",
        "INSERT INTO chain_anchors SELECT tenant_id, stream_partition_id, 99, chain_head, 0
           FROM chain_anchors",
        "UPDATE machine_definitions SET text = ''",
        "DELETE FROM machine_definitions",
        "INSERT OR REPLACE INTO machine_definitions SELECT * FROM machine_definitions",
        "UPDATE stream_partitions SET next_sequence = 0",
        "UPDATE source_partitions SET revision = revision - 1",
        "UPDATE source_partitions SET epoch = 0",
    ];
    for sql in attempts {
        let answer = sqlx::query(sql).execute(&shell).await;
        let error = answer.expect_err(sql).to_string();
        let told = error.contains("never change")
            || error.contains("retention alone")
            || error.contains("where its log ends")
            || error.contains("only grow");
        assert!(told, "{sql}: {error}");
    }
    assert_eq!(dump(&store).await, before);
}

/// One more batch, and retention of everything before it: so that there is an anchor too.
async fn drop_all_but_the_last(store: &dyn StateStore, writer: &mut Writer) {
    writer.now = Timestamp(NOW.0 + 10_000_000);
    let entries = orders(100..102);
    writer.commit(store, &entries).await.unwrap();
    let done = store
        .upkeep(Upkeep {
            now: writer.now,
            dedupe_window_micros: i64::MAX,
            retention_micros: Some(5_000_000),
        })
        .await
        .unwrap();
    assert_eq!(done.segments_dropped, 1);
}

#[tokio::test]
async fn a_second_start_is_refused_and_told_which_process_has_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let first = open(&path).await.unwrap();
    let error = open(&path).await.err().unwrap();
    assert!(matches!(error, StoreError::NotReady(_)));
    let text = error.to_string();
    assert!(text.contains("open in another process"), "{text}");
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    filled(&first).await;
    first.close().await.unwrap();
    drop(first);
    assert_eq!(dump(&open(&path).await.unwrap()).await.tenants.len(), 1);
}

#[tokio::test]
async fn a_file_of_something_else_is_refused_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    std::fs::write(
        &text,
        "not a database, but long enough to be looked at\n".repeat(100),
    )
    .unwrap();
    let other = directory.path().join("other.db");
    let pool = SqlitePool::connect_with(
        SqliteConnectOptions::new()
            .filename(&other)
            .create_if_missing(true),
    )
    .await
    .unwrap();
    sqlx::query("CREATE TABLE theirs (x)")
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    for (path, said) in [(&text, "no SQLite database"), (&other, "another program")] {
        let before = std::fs::read(path).unwrap();
        let error = open(path).await.err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(std::fs::read(path).unwrap(), before);
    }
    for (path, said) in [
        (
            directory.path().join("missing/tidegate.db"),
            "does not exist",
        ),
        (directory.path().to_owned(), "is a directory"),
    ] {
        let error = open(&path).await.err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// As a process leaves it that is killed between making the register and the first migration.
#[tokio::test]
async fn a_file_with_nothing_but_the_empty_table_of_migrations_is_ours() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole.db");
    open(&whole).await.unwrap().close().await.unwrap();
    let shell_of_whole = shell(&whole).await;
    let register: String =
        sqlx::query_scalar("SELECT sql FROM sqlite_schema WHERE name = '_sqlx_migrations'")
            .fetch_one(&shell_of_whole)
            .await
            .unwrap();
    shell_of_whole.close().await;
    let begun = directory.path().join("begun.db");
    let pool = SqlitePool::connect_with(
        SqliteConnectOptions::new()
            .filename(&begun)
            .create_if_missing(true),
    )
    .await
    .unwrap();
    sqlx::query(AssertSqlSafe(register))
        .execute(&pool)
        .await
        .unwrap();
    pool.close().await;
    let store = open(&begun).await.unwrap();
    assert!(store.checkpoints().await.unwrap().is_empty());
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    open(&path).await.unwrap().close().await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', 1, x'00', 0)",
    )
    .execute(&shell(&path).await)
    .await
    .unwrap();
    let error = open(&path).await.err().unwrap().to_string();
    assert!(error.contains("newer"), "{error}");
}

#[tokio::test]
#[cfg(unix)]
async fn what_is_stored_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = open(&path).await.unwrap();
    filled(&store).await;
    let mut files = 0;
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0);
        files += 1;
    }
    assert_eq!(
        files, 4,
        "the database, its log, its index of the log, the lock"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_that_was_dropped_in_the_middle_of_commits_is_whole_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let mut events = 0;
    for round in 0..10 {
        let store = Arc::new(open(&path).await.unwrap());
        let mut writer = Writer::claim(&*store, &place(), "a", NOW).await.unwrap();
        let entries = orders(events..events + 200);
        let reply = writer.commit(&*store, &entries).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }));
        events += 200;
        // One more, whose caller goes away at some point of it, and the store with it.
        let batch = Arc::new(writer.batch(&orders(events..events + 200)));
        let commit = {
            let (store, batch) = (Arc::clone(&store), Arc::clone(&batch));
            tokio::spawn(async move { store.commit(batch).await })
        };
        tokio::time::sleep(std::time::Duration::from_micros(round * 400)).await;
        commit.abort();
        drop(store);
        let store = open(&path).await.unwrap();
        let checkpoint = store.checkpoint(&place()).await.unwrap().unwrap();
        let done = checkpoint.revision.0 > batch.revision.0;
        events += if done { 200 } else { 0 };
        let admitted = checkpoint.progress.counts.admitted;
        assert_eq!(admitted, events as u64);
        assert_eq!(
            verified_records(&store, &tenant("acme")).await.len(),
            events
        );
    }
}

#[tokio::test]
async fn r25_a_crash_between_two_writes_of_a_commit_leaves_nothing_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = open(&path).await.unwrap();
    filled(&store).await;
    let before = dump(&store).await;
    // What a crash leaves behind: the files as they are while a transaction is open.
    let shell = shell(&path).await;
    let mut half = shell.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("UPDATE entities SET version = version + 1")
        .execute(&mut *half)
        .await
        .unwrap();
    let crashed = directory.path().join("crashed.db");
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", path.display());
        std::fs::copy(from, format!("{}{suffix}", crashed.display())).unwrap();
    }
    assert_eq!(dump(&open(&crashed).await.unwrap()).await, before);
}

#[tokio::test]
async fn somebody_who_holds_the_write_lock_makes_a_commit_wait_and_not_fail() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = Arc::new(open(&path).await.unwrap());
    let mut writer = Writer::claim(&*store, &place(), "a", NOW).await.unwrap();
    let shell = shell(&path).await;
    let held = shell.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let entries = orders(0..3);
    let commit = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { writer.commit(&*store, &entries).await })
    };
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!commit.is_finished());
    held.rollback().await.unwrap();
    let reply = commit.await.unwrap().unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
}

#[tokio::test]
async fn a_row_of_another_entity_is_never_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("tidegate.db")).await.unwrap();
    let writer = filled(&store).await;
    let before = dump(&store).await;
    let rows = store.entities(&tenant("acme"), None, 10).await.unwrap();
    for path in [CommitPath::Fast, CommitPath::Careful] {
        let entry = Entry::new("acme", "k9").moves("o0", Some(rows[1].row), Version(1));
        let mut batch = writer.batch(&[entry]);
        batch.path = path;
        let answer = store.commit(Arc::new(batch)).await;
        assert!(
            matches!(answer, Err(StoreError::Unexpected { .. })),
            "{answer:?}"
        );
        assert_eq!(dump(&store).await, before);
    }
}

#[tokio::test]
async fn people_read_events_states_and_dead_letters_as_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = open(&path).await.unwrap();
    filled(&store).await;
    let shell = shell(&path).await;
    let found = sqlx::query(
        "SELECT tenant, position, id, type, data, effects ->> '$[0].outcome', admitted_at
           FROM events ORDER BY sequence",
    )
    .fetch_all(&shell)
    .await
    .unwrap();
    assert_eq!(found.len(), 3);
    let text = |column: usize| found[1].get::<String, _>(column);
    assert_eq!(text(0), "acme");
    assert_eq!(text(1), "orders:orders/0:1");
    assert_eq!(text(2), "k1");
    assert_eq!(text(3), "order.placed");
    assert_eq!(text(4), "{\"amount_cents\":100}");
    assert_eq!(text(5), "applied");
    assert_eq!(text(6), NOW.to_rfc3339());
    let moves = "SELECT moves FROM state_order WHERE tenant = 'acme' AND key = 'o1'";
    assert_eq!(numbers(&shell, moves).await, [1]);
    // Names that need quotes, that stand in every view already, or that no path can say.
    let fields = [
        ("moves", "int"),
        ("key", "string"),
        ("Status", "string"),
        ("two words", "int"),
        ("it's \"quoted\"", "int"),
        ("$.x", "int"),
        ("näme", "list"),
    ];
    store
        .activate_definition(definition(&fields), NOW)
        .await
        .unwrap();
    sqlx::query(
        r#"UPDATE entities SET data = '{"moves":7,"two words":8,"it''s \"quoted\"":9,"$.x":10,"key":"in data","näme":[1, 2]}'"#,
    )
    .execute(&shell)
    .await
    .unwrap();
    let row = sqlx::query(
        r#"SELECT moves, "two words", "it's ""quoted""", "$.x", "field_Status", field_key, "näme", key
             FROM state_order WHERE key = 'o2'"#,
    )
    .fetch_one(&shell)
    .await
    .unwrap();
    let found: Vec<Option<i64>> = (0..5).map(|column| row.get(column)).collect();
    assert_eq!(found, [Some(7), Some(8), Some(9), Some(10), None]);
    assert_eq!(row.get::<String, _>(5), "in data");
    assert_eq!(row.get::<String, _>(6), "[1,2]");
    assert_eq!(row.get::<String, _>(7), "o2");
    let refused = store
        .activate_definition(definition(&[("a\u{0}b", "int"); 9]), NOW)
        .await;
    assert!(
        matches!(refused, Err(StoreError::Refused { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_counts_of_the_checkpoint_add_up_with_the_log_in_one_query() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = open(&path).await.unwrap();
    filled(&store).await;
    let differences = "SELECT s.admitted - (SELECT sum(event_count) FROM segments)
          FROM source_partitions s
         UNION ALL
        SELECT s.applied - (SELECT count(*) FROM events e, json_each(e.effects) f
                             WHERE f.value ->> '$.outcome' = 'applied')
          FROM source_partitions s";
    assert_eq!(numbers(&shell(&path).await, differences).await, [0, 0]);
}

#[tokio::test]
async fn the_index_of_events_is_built_anew_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = open(&path).await.unwrap();
    let mut writer = Writer::claim(&store, &place(), "a", NOW).await.unwrap();
    // More segments than one turn of the index takes.
    for first in 0..20 {
        writer
            .commit(&store, &orders(first * 3..first * 3 + 3))
            .await
            .unwrap();
    }
    let upkeep = Upkeep {
        now: NOW,
        dedupe_window_micros: i64::MAX,
        retention_micros: None,
    };
    let shell = shell(&path).await;
    let differing = "SELECT count(*) FROM events e FULL JOIN event_positions p
           ON p.tenant = e.tenant AND p.event_id = e.id AND p.correlation_id IS e.correlation_id
        WHERE p.position IS NOT e.position";
    assert_eq!(numbers(&shell, differing).await, [60]);
    for forget in [
        "",
        "DELETE FROM event_index; DELETE FROM event_index_progress",
    ] {
        sqlx::raw_sql(forget).execute(&shell).await.unwrap();
        let done = store.upkeep(upkeep).await.unwrap();
        assert_eq!(done.index_lag_records, Some(0));
        assert_eq!(numbers(&shell, differing).await, [0]);
    }
    // Each look-up goes by an index.
    for (sql, scan) in [
        (
            "SELECT * FROM event_positions WHERE tenant = 'acme' AND event_id = 'k1'",
            "event_index_by_event",
        ),
        (
            "SELECT * FROM event_positions WHERE tenant = 'acme' AND correlation_id = 'k1'",
            "event_index_by_correlation",
        ),
    ] {
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
        let plan = plan.fetch_all(&shell).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        assert!(steps.iter().any(|step| step.contains(scan)), "{steps:?}");
    }
    drop(store);
    let options = SqliteOptions {
        index_events: false,
        ..SqliteOptions::new(&path)
    };
    let store = SqliteStore::open(options).await.unwrap();
    assert_eq!(store.upkeep(upkeep).await.unwrap().index_lag_records, None);
}

#[tokio::test]
async fn the_index_of_events_goes_on_in_turns_and_steps_over_what_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let options = SqliteOptions {
        unsafe_synchronous_normal: true,
        ..SqliteOptions::new(&path)
    };
    let store = SqliteStore::open(options).await.unwrap();
    let mut busy = Writer::claim(&store, &place(), "a", NOW).await.unwrap();
    // More than one round of upkeep takes.
    for n in 0..2_050 {
        busy.commit(&store, &orders(n..n + 1)).await.unwrap();
    }
    let quiet = source_partition("invoices", 0);
    let mut quiet = Writer::claim(&store, &quiet, "a", NOW).await.unwrap();
    for key in ["first", "second", "third"] {
        let entry = Entry::new("acme", key).creates(&format!("o-{key}"));
        quiet.commit(&store, &[entry]).await.unwrap();
    }
    let shell = shell(&path).await;
    let spoil = "DROP TRIGGER segments_never_change; UPDATE segments SET body = 'no JSON' WHERE stream_partition_id =
                   (SELECT max(stream_partition_id) FROM stream_partitions) AND first_sequence = 1";
    sqlx::raw_sql(spoil).execute(&shell).await.unwrap();
    let upkeep = Upkeep {
        now: NOW,
        dedupe_window_micros: i64::MAX,
        retention_micros: None,
    };
    store.upkeep(upkeep).await.unwrap();
    let of_quiet = "SELECT count(*) FROM event_index WHERE stream_partition_id =
                      (SELECT max(stream_partition_id) FROM stream_partitions)";
    assert_eq!(numbers(&shell, of_quiet).await, [2]);
    let mut rounds = 0;
    while store.upkeep(upkeep).await.unwrap().index_lag_records != Some(0) {
        rounds += 1;
        assert!(rounds < 100);
    }
    let all = "SELECT count(*) FROM event_index";
    assert_eq!(numbers(&shell, all).await, [2_052]);
}
