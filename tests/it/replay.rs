//! The log alone gives the state again: after a backup, the loss of everything derived, and a restore.
//! The replay here is a model of its own, a few lines over stored texts; `verify` has another.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tidegate::machines;
use tidegate::runtime::SystemClock;
use tidegate_connectors::contract::store::reading::{entities, segments};
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_connectors::store::sqlite::{SqliteOptions, SqliteStore};
use tidegate_engine::clock::{Clock as _, Timestamp};
use tidegate_engine::event::Event;
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::EventContext;
use tidegate_engine::position::Version;
use tidegate_engine::record::{Record, RecordBody, split_segment};
use tidegate_engine::state::EntityKey;
use tidegate_engine::store::{StateStore, Upkeep};
use tidegate_engine::transition;
use tidegate_engine::verify::MachinesByHash;

use super::follow_up::{account, settle, tenant};
use crate::support::database::TestDatabase;

/// Status, version and the bytes of the data of each entity.
type States = BTreeMap<String, (String, u64, String)>;

/// One effect that moved an entity: what it was decided with, and the hash of the state after.
struct Step {
    definition: Hash128,
    event: Event,
    admitted_at: Timestamp,
    state_hash: u64,
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Events of ten accounts: applied, dead and, once an account is shut, rejected.
fn deliveries() -> Vec<String> {
    (0..400_i64)
        .map(|number| {
            let shut = number > 300 && number % 7 == 0;
            let amount = if number % 11 == 0 {
                json!("7")
            } else {
                json!(number * 13 % 97)
            };
            json!({
                "specversion": "1.0", "id": number.to_string(), "source": "/t",
                "type": if shut { "shut" } else { "paid" }, "tenantid": "acme",
                "subject": format!("account {}", number * 7 % 10), "data": { "amount": amount },
            })
            .to_string()
        })
        .collect()
}

/// Fills a store; its state.
fn fill(store: &Arc<dyn StateStore>, runtime: &tokio::runtime::Runtime) -> States {
    let activated = machines::activate(store.as_ref(), vec![account(1)], Timestamp(1));
    let machines = runtime.block_on(activated).unwrap();
    settle(Arc::clone(store), &machines, runtime, &deliveries());
    let states = runtime.block_on(states(store.as_ref()));
    assert_eq!(states.len(), 10);
    states
}

async fn states(store: &dyn StateStore) -> States {
    let stored = entities(store, &tenant()).await;
    let state = stored.into_iter().map(|entity| {
        let state = (
            entity.status.to_string(),
            entity.version.0,
            entity.data.to_string(),
        );
        (entity.name.key.to_string(), state)
    });
    state.collect()
}

/// The texts of the log: all that a backup of it has to hold.
async fn dump_log(store: &dyn StateStore) -> Vec<String> {
    let mut texts = Vec::new();
    for head in store.stream_partitions(&tenant()).await.unwrap() {
        for segment in segments(store, &head.stream_partition).await {
            let entries = split_segment(&segment.body).unwrap();
            texts.extend(entries.into_iter().map(|entry| entry.get().to_owned()));
        }
    }
    texts
}

/// Applies each entity's events again, in order of version, with the definitions that decided.
fn replay(log: &[String], machines: &MachinesByHash) -> States {
    let mut steps: BTreeMap<EntityKey, BTreeMap<Version, Step>> = BTreeMap::new();
    for text in log {
        let (record, _) = Record::read(text).unwrap();
        let RecordBody::Event(event) = record.body else {
            panic!("nobody decided anything here: {text}");
        };
        for effect in record.effects {
            if let (Some(key), Some(version)) = (effect.key, effect.version) {
                let step = Step {
                    definition: effect.definition,
                    event: event.clone(),
                    admitted_at: record.admitted_at,
                    state_hash: effect.state_hash.unwrap(),
                };
                steps.entry(key).or_default().insert(version, step);
            }
        }
    }
    let mut states = States::new();
    for (key, steps) in steps {
        let mut state = None;
        let mut text = String::new();
        for (version, step) in steps {
            let machine = machines[&step.definition].as_ref();
            let context = EventContext {
                event: &step.event,
                admitted_at: step.admitted_at,
            };
            let before = state.unwrap_or_else(|| machine.initial());
            let after = transition::apply(machine, &context, &key, &before);
            assert_eq!(
                after.effect.state_hash,
                Some(step.state_hash),
                "{key} {version}"
            );
            let moved = after.moved.unwrap();
            assert_eq!(moved.state.version, version);
            text = moved.text.to_string();
            state = Some(moved.state);
        }
        let last = state.unwrap();
        let found = (last.status.to_string(), last.version.0, text);
        states.insert(key.to_string(), found);
    }
    states
}

async fn replayed(store: &dyn StateStore) -> States {
    let machines = machines::by_hash(store, &[]).await.unwrap();
    replay(&dump_log(store).await, &machines)
}

#[test]
fn r20_the_log_of_the_memory_store_replays_to_the_same_state() {
    let runtime = runtime();
    let store: Arc<dyn StateStore> = Arc::new(MemoryStore::new());
    let before = fill(&store, &runtime);
    assert_eq!(runtime.block_on(replayed(store.as_ref())), before);
}

#[test]
fn r20_a_restored_backup_of_the_embedded_store_replays_to_the_same_state() {
    let runtime = runtime();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let backup = directory.path().join("backup.db");
    let open = || {
        runtime
            .block_on(SqliteStore::open(SqliteOptions::new(&path)))
            .unwrap()
    };
    let store: Arc<dyn StateStore> = Arc::new(open());
    let before = fill(&store, &runtime);
    let shell = |path| async move {
        let options = SqliteConnectOptions::new().filename(path);
        SqliteConnection::connect_with(&options).await.unwrap()
    };
    // While the store is open, as docs/sqlite.md has it.
    runtime.block_on(async {
        let mut shell = shell(&path).await;
        let into = sqlx::query("VACUUM INTO ?1").bind(backup.to_str().unwrap());
        into.execute(&mut shell).await.unwrap();
        shell.close().await.unwrap();
    });
    drop(store);
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap().path();
        if file != backup {
            std::fs::remove_file(file).unwrap();
        }
    }
    std::fs::rename(&backup, &path).unwrap();
    runtime.block_on(async {
        let mut shell = shell(&path).await;
        let derived = "DELETE FROM entities; DELETE FROM dead_letters; DELETE FROM event_index";
        shell.execute(derived).await.unwrap();
        shell.close().await.unwrap();
    });
    let store = open();
    assert_eq!(runtime.block_on(states(&store)), States::new());
    assert_eq!(runtime.block_on(replayed(&store)), before);
}

/// What a backup of the log in Postgres holds, in the order in which it is restored: the log itself, and the
/// names and definitions that it refers to by number.
const LOG_TABLES: [&str; 8] = [
    "tenants",
    "machines",
    "machine_definitions",
    "active_definitions",
    "source_partitions",
    "stream_partitions",
    "chain_anchors",
    "segments",
];

/// The log as `COPY` gives it, table by table.
async fn back_up(database: &TestDatabase) -> Vec<Vec<u8>> {
    let mut admin = database.admin().await;
    let mut backup = Vec::new();
    for table in LOG_TABLES {
        let sql = format!("copy (select * from tidegate.{table}) to stdout");
        let copied = admin.copy_out_raw(&sql).await.unwrap();
        backup.push(
            copied
                .map_ok(|bytes| bytes.to_vec())
                .try_concat()
                .await
                .unwrap(),
        );
    }
    backup
}

/// Puts it into a database that was migrated and holds nothing. Upkeep comes first: it makes the partitions
/// of the log.
async fn restore(database: &TestDatabase, backup: &[Vec<u8>]) {
    let upkeep = Upkeep {
        now: SystemClock.now(),
        dedupe_window_micros: i64::MAX / 2,
        retention_micros: None,
    };
    database.store().await.upkeep(upkeep).await.unwrap();
    let mut admin = database.admin().await;
    for (table, rows) in LOG_TABLES.iter().zip(backup) {
        let sql = format!("copy tidegate.{table} from stdin");
        let mut copy = admin.copy_in_raw(&sql).await.unwrap();
        copy.send(rows.as_slice()).await.unwrap();
        copy.finish().await.unwrap();
    }
}

#[test]
fn r20_a_restored_backup_of_the_log_in_postgres_replays_to_the_same_state() {
    let name = "r20_a_restored_backup_of_the_log_in_postgres_replays_to_the_same_state";
    let runtime = runtime();
    let Some(database) = runtime.block_on(TestDatabase::create(name)) else {
        return;
    };
    let store: Arc<dyn StateStore> = Arc::new(runtime.block_on(database.store()));
    let before = fill(&store, &runtime);
    let backup = runtime.block_on(back_up(&database));
    // Everything is gone with the database, roles included.
    drop(store);
    drop(database);
    let database = runtime.block_on(TestDatabase::create(name)).unwrap();
    runtime.block_on(async {
        restore(&database, &backup).await;
        let store = database.store().await;
        assert_eq!(states(&store).await, States::new());
        assert_eq!(back_up(&database).await, backup);
        // Also the hash that the log has of each state (see `replay`).
        assert_eq!(replayed(&store).await, before);
    });
}
