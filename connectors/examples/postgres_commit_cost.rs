//! What a commit costs Postgres: events a second, and CPU microseconds an event of the backends and of
//! the whole server, over a growing or a fixed set of entities.
//!
//! `cargo run -p tidegate-connectors --example postgres_commit_cost -- ADMIN_URL [batch] [connections] [seconds] [options…]`
//!
//! Options: `new` (every event makes an entity), `nodedupe` (no dedupe rows), `careful`, `pooler`,
//! `older` (a rotation in between, so that the older table is full and filtered),
//! `nofilter` (the same without room for a filter). Runs on this machine's server alone: CPU is read from
//! `/proc`.

#![allow(
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a measurement: it asks the real clock, and reads from top to bottom"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tidegate_connectors::store::postgres::{
    Pooler, PostgresOptions, PostgresStore, RoleMode, RolePrefix, migrate,
};
use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::{Counts, DoneAbove, Progress};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{
    CommitBatch, CommitPath, CommitReply, DedupeMark, EntityName, EntityRow, EntityWrite, Segment,
};
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::position::{
    Incarnation, Offset, Revision, Sequence, SourceName, SourcePartition, StreamName,
    StreamPartition, Version,
};
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::store::{Claim, StateStore, Upkeep};
use tidegate_engine::tenant::TenantId;

const ENTITIES: usize = 100_000;
const TENANTS: usize = 5;

#[derive(Clone, Copy)]
struct Load {
    batch: usize,
    new: bool,
    dedupe: bool,
    path: CommitPath,
}

/// One source partition's writer with entities of its own, so that nothing is shared.
struct Writer {
    store: PostgresStore,
    place: SourcePartition,
    epoch: tidegate_engine::position::Epoch,
    revision: Revision,
    offset: u64,
    sequences: BTreeMap<TenantId, u64>,
    entities: Vec<(EntityName, Option<EntityRow>, Version)>,
    random: SmallRng,
    load: Load,
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp(since.as_micros() as i64)
}

fn tenant(index: usize) -> TenantId {
    TenantId::new(&format!("tenant-{}", index % TENANTS)).unwrap()
}

fn record_text(sequence: u64, offset: u64, key: &str) -> String {
    // What `Record::write` makes of a 300-byte order event, with random digits where real ones differ.
    let id = hash_bytes(&offset.to_le_bytes());
    format!(
        "{{\"sequence\":{sequence},\"offset\":{offset},\"admitted_at\":\"2026-11-22T07:00:00.000000Z\",\
         \"event\":{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/shops/berlin-7\",\
         \"type\":\"order.paid\",\"subject\":\"{key}\",\"tenantid\":\"tenant-1\",\
         \"time\":\"2026-11-22T06:59:59.123456Z\",\"correlationid\":\"{id}\",\
         \"data\":{{\"amount_cents\":{},\"currency\":\"EUR\",\"method\":\"card\"}}}},\
         \"effects\":[{{\"machine\":\"order\",\"definition\":\"0123456789abcdef0123456789abcdef\",\
         \"key\":\"{key}\",\"outcome\":\"applied\",\"version\":{},\"state\":\"{:016x}\"}}],\"leaf\":\"{id}\"}}",
        offset % 10_000,
        offset % 50 + 1,
        (id.0 >> 64) as u64
    )
}

impl Writer {
    async fn claim(store: PostgresStore, partition: u32, load: Load) -> Self {
        let place = SourcePartition {
            source: SourceName::new("bench").unwrap(),
            partition,
        };
        let checkpoint = store
            .claim(Claim {
                source_partition: place.clone(),
                owner: "bench".to_owned(),
                incarnation: Incarnation::new("i").unwrap(),
                start: Offset(0),
            })
            .await
            .unwrap();
        Self {
            store,
            place,
            epoch: checkpoint.epoch,
            revision: checkpoint.revision,
            offset: 0,
            sequences: BTreeMap::new(),
            entities: Vec::new(),
            random: SmallRng::seed_from_u64(u64::from(partition)),
            load,
        }
    }

    fn entity(&self, index: usize) -> EntityName {
        EntityName {
            tenant: tenant(index),
            machine: MachineName::new("order").unwrap(),
            key: EntityKey::new(&format!("order-{}-{index:08}", self.place.partition)).unwrap(),
        }
    }

    /// A batch of so many events, each of another entity.
    fn batch(&mut self, chosen: &[usize]) -> CommitBatch {
        let at = now();
        let mut segments: BTreeMap<TenantId, (u64, u32, String)> = BTreeMap::new();
        let mut dedupe = Vec::new();
        let mut entities = Vec::new();
        for &index in chosen {
            let (name, row, version) = self.entities[index].clone();
            let offset = self.offset;
            self.offset += 1;
            let next = self.sequences.entry(name.tenant.clone()).or_default();
            let (_, count, body) = segments
                .entry(name.tenant.clone())
                .or_insert_with(|| (*next, 0, String::from("[")));
            if *count > 0 {
                body.push(',');
            }
            body.push_str(&record_text(*next, offset, name.key.as_str()));
            *count += 1;
            *next += 1;
            if self.load.dedupe {
                let mut seed = offset.to_le_bytes().to_vec();
                seed.extend(self.place.partition.to_le_bytes());
                dedupe.push(DedupeMark {
                    tenant: name.tenant.clone(),
                    key: hash_bytes(&seed),
                    conflict: Hash128(u128::from(offset) * 7),
                    offset: Offset(offset),
                });
            }
            entities.push(EntityWrite {
                name,
                row,
                expected: version,
                version: version.next(),
                status: Status::new("placed").unwrap(),
                data: Arc::from(format!(
                    "{{\"currency\":\"EUR\",\"paid_cents\":{},\"total_cents\":{}}}",
                    offset % 10_000,
                    offset % 9_000
                )),
                changed_at: at,
            });
        }
        dedupe.sort_by(|a, b| (&a.tenant, a.key).cmp(&(&b.tenant, b.key)));
        entities.sort_by(|a, b| a.name.cmp(&b.name));
        CommitBatch {
            source_partition: self.place.clone(),
            epoch: self.epoch,
            revision: self.revision,
            path: self.load.path,
            tenants: segments.keys().cloned().collect(),
            progress: Progress {
                next_offset: Offset(self.offset),
                done_above: DoneAbove::default(),
                fingerprint: None,
                counts: Counts::default(),
            },
            segments: segments
                .into_iter()
                .map(|(tenant, (first, count, body))| Segment {
                    stream_partition: StreamPartition {
                        tenant,
                        stream: StreamName::new("orders").unwrap(),
                        source_partition: self.place.clone(),
                    },
                    first_sequence: Sequence(first),
                    count,
                    first_at: at,
                    last_at: at,
                    chain_head: ChainHead::default(),
                    body: Arc::from(body + "]"),
                })
                .collect(),
            dedupe,
            entities,
            reads: Vec::new(),
            open_work: Vec::new(),
            work_done: Vec::new(),
            dead_letters: Vec::new(),
            dead_letter_updates: Vec::new(),
            at,
        }
    }

    /// Commits events of these entities; time spent waiting for the store.
    async fn commit(&mut self, chosen: &[usize]) -> Duration {
        let batch = Arc::new(self.batch(chosen));
        let begun = Instant::now();
        let reply = self.store.commit(Arc::clone(&batch)).await.unwrap();
        let spent = begun.elapsed();
        let CommitReply::Committed { new_rows } = reply else {
            panic!("{reply:?}");
        };
        self.revision = self.revision.next();
        let mut new_rows = new_rows.into_iter();
        let by_name: BTreeMap<&EntityName, &EntityWrite> = batch
            .entities
            .iter()
            .map(|write| (&write.name, write))
            .collect();
        let mut rows = BTreeMap::new();
        for write in batch
            .entities
            .iter()
            .filter(|write| write.expected == Version(0))
        {
            rows.insert(&write.name, new_rows.next().unwrap());
        }
        for &index in chosen {
            let (name, row, version) = &mut self.entities[index];
            *version = by_name[name].version;
            if let Some(made) = rows.get(name) {
                *row = Some(*made);
            }
        }
        spent
    }

    fn choose(&mut self) -> Vec<usize> {
        if self.load.new {
            let from = self.entities.len();
            for index in from..from + self.load.batch {
                let name = self.entity(index);
                self.entities.push((name, None, Version(0)));
            }
            return (from..from + self.load.batch).collect();
        }
        let count = self.entities.len();
        let mut chosen = std::collections::BTreeSet::new();
        while chosen.len() < self.load.batch {
            chosen.insert(self.random.random_range(0..count));
        }
        chosen.into_iter().collect()
    }

    async fn fill(&mut self, entities: usize) {
        for index in 0..entities {
            let name = self.entity(index);
            self.entities.push((name, None, Version(0)));
        }
        let all: Vec<usize> = (0..entities).collect();
        for chunk in all.chunks(1_000) {
            self.commit(chunk).await;
        }
    }

    async fn run(&mut self, seconds: u64) -> (u64, Duration) {
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut waited = Duration::ZERO;
        let mut events = 0;
        while Instant::now() < until {
            let chosen = self.choose();
            waited += self.commit(&chosen).await;
            events += chosen.len() as u64;
        }
        (events, waited)
    }
}

/// CPU microseconds of one process so far.
fn cpu_micros(pid: i32) -> u64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return 0;
    };
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A tick is a hundredth of a second on Linux.
    ticks * 10_000
}

async fn pids(admin: &mut PgConnection, database: &str) -> (Vec<i32>, Vec<i32>) {
    let rows = sqlx::query(
        "select pid, coalesce(datname = $1 and usename like '%engine', false) from pg_stat_activity",
    )
    .bind(database)
    .fetch_all(admin)
    .await
    .unwrap();
    let all: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    let backends = rows
        .iter()
        .filter(|row| row.get(1))
        .map(|row| row.get(0))
        .collect();
    (backends, all)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let admin_url = args.get(1).expect("the administrator's connection string");
    let number = |at: usize, default: u64| {
        args.get(at)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let (batch, connections, seconds) = (number(2, 500), number(3, 1), number(4, 5));
    let has = |name: &str| args.iter().any(|arg| arg == name);
    let load = Load {
        batch: batch as usize,
        new: has("new"),
        dedupe: !has("nodedupe"),
        path: if has("careful") {
            CommitPath::Careful
        } else {
            CommitPath::Fast
        },
    };
    let database = format!("tg_cost_{}", std::process::id());
    let mut admin = PgConnection::connect(admin_url).await.unwrap();
    let sql = format!("create database {database}");
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
    let base = admin_url.rsplit_once('/').unwrap().0.to_owned();
    let prefix = RolePrefix::new(&database).unwrap();
    migrate(&format!("{base}/{database}"), RoleMode::Create, &prefix)
        .await
        .unwrap();
    let (scheme, host) = base.split_once("://").unwrap();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let mut options = PostgresOptions::new(format!(
        "{scheme}://{}:cost@{host}/{database}",
        prefix.role("engine")
    ));
    let sql = format!("alter role {} password 'cost'", prefix.role("engine"));
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
    if has("pooler") {
        options.pooler = Pooler::Transaction;
    }
    if has("nofilter") {
        options.dedupe_filter_bytes_max = 0;
    }
    options.connections_max = connections as u32;
    options.index_events = false;
    let store = PostgresStore::connect(options).await.unwrap();
    let mut writers = Vec::new();
    for partition in 0..connections as u32 {
        let mut writer = Writer::claim(store.clone(), partition, load).await;
        if !load.new {
            writer.fill(ENTITIES / connections as usize).await;
        }
        writers.push(writer);
    }
    if has("older") || has("nofilter") {
        for step in 0..2 {
            let done = store
                .upkeep(Upkeep {
                    now: Timestamp(now().0 + step),
                    dedupe_window_micros: 0,
                    retention_micros: None,
                })
                .await
                .unwrap();
            println!("rotated: {}", done.rotated);
        }
    }
    // Warm: plans, caches, the filter.
    for writer in &mut writers {
        for _ in 0..10 {
            let chosen = writer.choose();
            writer.commit(&chosen).await;
        }
    }
    let sql = "checkpoint";
    admin.execute(sql).await.unwrap();
    admin
        .execute("select pg_stat_statements_reset()")
        .await
        .ok();
    let (backends, all) = pids(&mut admin, &database).await;
    let before: u64 = backends.iter().copied().map(cpu_micros).sum();
    let all_before: u64 = all.iter().copied().map(cpu_micros).sum();
    let begun = Instant::now();
    let running: Vec<_> = writers
        .into_iter()
        .map(|mut writer| tokio::spawn(async move { writer.run(seconds).await }))
        .collect();
    let mut events = 0;
    let mut waited = Duration::ZERO;
    for task in running {
        let (done, spent) = task.await.unwrap();
        events += done;
        waited += spent;
    }
    let wall = begun.elapsed();
    let after: u64 = backends.iter().copied().map(cpu_micros).sum();
    let all_after: u64 = all.iter().copied().map(cpu_micros).sum();
    println!(
        "batch {batch}, {connections} connections: {events} events, {:.0}/s wall, {:.0}/s while waiting \
         for the store; backends {:.2} us/event, server {:.2} us/event",
        events as f64 / wall.as_secs_f64(),
        events as f64 * connections as f64 / waited.as_secs_f64(),
        (after - before) as f64 / events as f64,
        (all_after - all_before) as f64 / events as f64,
    );
    store.close().await;
    let sql = format!("drop database {database} with (force)");
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
    for role in ["owner", "writer", "engine", "reader", "admin"] {
        let sql = format!("drop role {}", prefix.role(role));
        admin.execute(AssertSqlSafe(sql)).await.unwrap();
    }
}
