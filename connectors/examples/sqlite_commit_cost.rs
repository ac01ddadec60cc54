//! What a commit costs the embedded store: wall time, CPU of SQLite's own threads and bytes written, in
//! microseconds and bytes an event, over a growing dedupe table and a fixed set of entities.
//!
//! `cargo run --release -p tidegate-connectors --features contract --example sqlite_commit_cost -- DIRECTORY [name=value…]`
//!
//! `events` in all, `batch` of a commit, `entities`, `cache` and `page` in bytes, `checkpoint` in pages,
//! `keys` (`table`: as it is; `index`: rows in order of arrival with an index beside them; `none`: no dedupe
//! rows), `rotate=1` (a rotation before the last quarter, so that it is probed against a full older table).

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a measurement: it asks the real clock, and stops at the first surprise"
)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, SqliteConnection};
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_connectors::store::sqlite::{SqliteOptions, SqliteStore};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitReply, EntityRow};
use tidegate_engine::position::Version;
use tidegate_engine::store::{StateStore, Upkeep};

const TENANTS: usize = 5;
const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

/// What this process used since it began.
#[derive(Clone, Copy, Default)]
struct Used {
    sqlite_cpu: Duration,
    written_bytes: u64,
}

fn used() -> Used {
    let mut used = Used::default();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("tidegate-sqlite") {
            let stat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            let nanos = stat.split(' ').next().and_then(|text| text.parse().ok());
            used.sqlite_cpu += Duration::from_nanos(nanos.unwrap_or_default());
        }
    }
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    used.written_bytes = line.unwrap().parse().unwrap();
    used
}

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn number(&self, name: &str, default: u64) -> u64 {
        self.0
            .get(name)
            .map_or(default, |text| text.parse().unwrap())
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// A store in an own file, with what is asked for otherwise than the store itself would make it.
async fn open(path: &Path, arguments: &Arguments) -> SqliteStore {
    let plain = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    if arguments.0.contains_key("page") {
        let mut shell = SqliteConnection::connect_with(&plain).await.unwrap();
        let page = arguments.number("page", 4096);
        let sql = format!("PRAGMA page_size = {page}; VACUUM; PRAGMA application_id = 1414087749");
        shell.execute(AssertSqlSafe(sql)).await.unwrap();
        shell.close().await.unwrap();
    }
    let mut options = SqliteOptions::new(path);
    options.cache_bytes = arguments.number("cache", options.cache_bytes);
    options.index_events = false;
    let store = SqliteStore::open(options).await.unwrap();
    if arguments.text("keys") == "index" {
        let mut shell = SqliteConnection::connect_with(&plain).await.unwrap();
        for table in ["dedupe_0", "dedupe_1"] {
            let sql = format!(
                "DROP TABLE {table}; CREATE TABLE {table} (tenant_id INTEGER NOT NULL, key BLOB NOT NULL,
                 conflict BLOB NOT NULL, source_partition_id INTEGER NOT NULL,
                 source_offset INTEGER NOT NULL, UNIQUE (tenant_id, key)) STRICT"
            );
            shell.execute(AssertSqlSafe(sql)).await.unwrap();
        }
        shell.close().await.unwrap();
    }
    store
}

/// One source partition with entities of its own.
struct Load {
    writer: Writer,
    entities: Vec<(Option<EntityRow>, Version)>,
    random: u64,
    events: u64,
    dedupe: bool,
}

impl Load {
    fn next(&mut self) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// Commits one batch; how long the store took.
    async fn commit(&mut self, store: &SqliteStore, batch: u64) -> (Duration, Used) {
        let mut touched: Vec<usize> = Vec::new();
        let mut entries = Vec::new();
        for _ in 0..batch {
            let entity = usize::try_from(self.next()).unwrap() % self.entities.len();
            self.events += 1;
            let name = format!("tenant-{}", entity % TENANTS);
            let entry = Entry::new(&name, &format!("{:032x}", u128::from(self.events)));
            // An entity once a batch: the fold of several is the engine's work.
            entries.push(if touched.contains(&entity) {
                entry
            } else {
                touched.push(entity);
                let (row, version) = self.entities[entity];
                entry.moves(&format!("entity-{entity:08}"), row, version)
            });
        }
        let mut batch = self.writer.batch(&entries);
        if !self.dedupe {
            batch.dedupe.clear();
        }
        let batch = Arc::new(batch);
        let before = used();
        let begun = Instant::now();
        let reply = store.commit(Arc::clone(&batch)).await.unwrap();
        let spent = begun.elapsed();
        let after = used();
        let CommitReply::Committed { new_rows } = reply else {
            panic!("{reply:?}");
        };
        self.writer.settle(&batch);
        let mut new_rows = new_rows.into_iter();
        for write in &batch.entities {
            let entity: usize = write.name.key.as_str()["entity-".len()..].parse().unwrap();
            let row = write.row.or_else(|| new_rows.next());
            self.entities[entity] = (row, write.version);
        }
        let used = Used {
            sqlite_cpu: after.sqlite_cpu - before.sqlite_cpu,
            written_bytes: after.written_bytes - before.written_bytes,
        };
        (spent, used)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().expect("a directory on a real disk"));
    let arguments = arguments.map(|argument| {
        let (name, value) = argument.split_once('=').expect("name=value");
        (name.to_owned(), value.to_owned())
    });
    let arguments = Arguments(arguments.collect());
    let path = directory.join("cost.db");
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
    let store = open(&path, &arguments).await;
    let batch = arguments.number("batch", 1_000);
    let commits = arguments.number("events", 2_000_000) / batch;
    let entities = usize::try_from(arguments.number("entities", 100_000)).unwrap();
    let place = source_partition("orders", 0);
    let mut load = Load {
        writer: Writer::claim(&store, &place, "cost", NOW).await.unwrap(),
        entities: vec![(None, Version(0)); entities],
        random: 7,
        events: 0,
        dedupe: arguments.text("keys") != "none",
    };
    println!("quarter  events/s  wall µs  sqlite cpu µs  bytes written, an event");
    for quarter in 1..=4 {
        if quarter == 4 && arguments.0.contains_key("rotate") {
            for now in [NOW, Timestamp(NOW.0 + 1)] {
                let upkeep = Upkeep {
                    now,
                    dedupe_window_micros: 0,
                    retention_micros: None,
                };
                store.upkeep(upkeep).await.unwrap();
            }
        }
        let (mut spent, mut used) = (Duration::ZERO, Used::default());
        for _ in 0..commits / 4 {
            let (wall, more) = load.commit(&store, batch).await;
            spent += wall;
            used.sqlite_cpu += more.sqlite_cpu;
            used.written_bytes += more.written_bytes;
        }
        let events = (commits / 4 * batch) as f64;
        println!(
            "{quarter:>7}  {:>8.0}  {:>7.2}  {:>13.2}  {:>13.0}",
            events / spent.as_secs_f64(),
            spent.as_secs_f64() * 1e6 / events,
            used.sqlite_cpu.as_secs_f64() * 1e6 / events,
            used.written_bytes as f64 / events
        );
    }
    store.close().await.unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    println!("file: {} MB", size / 1_000_000);
}
