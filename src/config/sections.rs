//! Every key of the configuration: its meaning, unit, default and bounds. This text is the
//! documentation too: `deploy/config/reference.yaml` is written from it, and a test keeps them equal.

use std::path::PathBuf;
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_engine::follow_up;
use tidegate_engine::limits;
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::retry::BackOff;
use tidegate_engine::tenant::TenantId;

use super::problem::Problems;
use super::setting::{Check, Secret};
use crate::{choice, section};

choice! {
    /// Which store.
    pub enum StoreKind {
        /// The embedded one.
        Sqlite = "sqlite",
        /// A server.
        Postgres = "postgres",
    }

    /// What stands between a process and its Postgres.
    pub enum PoolerKind {
        /// Nothing, or a pooler that keeps prepared statements apart.
        None = "none",
        /// One that gives the connection to others after each transaction.
        Transaction = "transaction",
    }

    /// Which bus.
    pub enum SourceKind {
        /// Files of newline-delimited JSON.
        File = "file",
    }

    /// Where a source begins that has no checkpoint yet.
    pub enum StartAt {
        /// With the oldest record.
        Earliest = "earliest",
        /// With the next record.
        Latest = "latest",
    }

    /// How much is logged.
    pub enum LogLevel {
        /// Nothing.
        Off = "off",
        /// What went wrong.
        Error = "error",
        /// And what may.
        Warn = "warn",
        /// And what happened.
        Info = "info",
        /// And how.
        Debug = "debug",
        /// Everything; still never a payload.
        Trace = "trace",
    }

    /// How a log line looks.
    pub enum LogFormat {
        /// Text on a terminal, JSON everywhere else.
        Auto = "auto",
        /// One JSON object a line.
        Json = "json",
        /// For people.
        Text = "text",
    }
}

section! {
    /// The whole configuration.
    pub struct Config {
        /// This process.
        node: Node = Node::default();
        /// Where state lives.
        store: Store = Store::default();
        /// How events move entities.
        machines: Machines = Machines::default();
        /// Where events come from. Each has its own checkpoint.
        sources: Vec<Source> = Vec::new();
        /// What bounds memory, batches and waiting.
        limits: Limits = Limits::default();
        /// How long an idempotency key is remembered.
        dedupe: Dedupe = Dedupe::default();
        /// How long the log is kept.
        retention: Retention = Retention::default();
        /// What is said on standard error.
        log: Log = Log::default();
    }

    /// This process.
    pub struct Node {
        /// The name that stands in checkpoints as their owner, for people. Give each process its own.
        name: String = "tidegate".to_owned();
    }

    /// Where state lives.
    pub struct Store {
        /// `sqlite`: a file of this process alone. `postgres`: a server that several processes share.
        kind: StoreKind = StoreKind::Sqlite;
        /// Read when `kind` is `sqlite`.
        sqlite: SqliteSection = SqliteSection::default();
        /// Read when `kind` is `postgres`.
        postgres: PostgresSection = PostgresSection::default();
    }

    /// The embedded store.
    pub struct SqliteSection {
        /// The database file, on a local disk. It is created when it is not there.
        path: PathBuf = PathBuf::from("tidegate.db");
        /// Connections that read beside the one that writes.
        readers_max: u32 [1..=64] = 4;
        /// Bytes of memory for pages of the connection that writes.
        cache_bytes: u64 [1_048_576..=68_719_476_736] = 67_108_864;
        /// Bytes of memory that may tell which idempotency keys are surely new. With more keys than
        /// fit, each is asked for: slower, and as right.
        dedupe_filter_bytes_max: usize [1_048_576..=68_719_476_736] = 16_777_216;
        /// Upkeep goes on with the index behind the view `event_positions`: off the hot path, but in
        /// turns with the commits.
        index_events: bool = true;
        /// Do not wait for the disk at each commit: a power cut may lose the last ones, and with them
        /// the promise of exactly once.
        unsafe_synchronous_normal: bool = false;
    }

    /// Postgres 15 or later.
    pub struct PostgresSection {
        /// The address: `postgres://tidegate_engine@host:5432/database`. A password comes from outside:
        /// `postgres://tidegate_engine:${file:/run/secrets/password}@host/database`. Over a network add
        /// `?sslmode=verify-full`: without it TLS is taken when the server offers it, and its
        /// certificate is not checked.
        url: Option<Secret> = None;
        /// The address for `tidegate migrate`: as somebody who may create in the database. `url` when
        /// it is null.
        migrate_url: Option<Secret> = None;
        /// What the names of the roles begin with. Roles belong to the whole server: two databases
        /// that must not reach each other need two prefixes.
        role_prefix: String = "tidegate".to_owned();
        /// Connections of one process: one for each of `limits.commits_max`, and at least one that reads.
        connections_max: u32 [1..=200] = 8;
        /// Milliseconds until a connection must be had from the pool.
        acquire_timeout_ms: u64 [100..=600_000] = 10_000;
        /// `transaction` behind a pooler in transaction mode that does not know prepared statements:
        /// four round trips a commit. `none` otherwise: one.
        pooler: PoolerKind = PoolerKind::None;
        /// Bytes of memory that may tell which idempotency keys are surely new. With more keys than
        /// fit, each is asked for: slower, and as right.
        dedupe_filter_bytes_max: usize [1_048_576..=68_719_476_736] = 67_108_864;
        /// Upkeep goes on with the index behind `tidegate.event_positions`: off the hot path, but it
        /// costs the server about as much for each event as the rest of its commit.
        index_events: bool = true;
    }

    /// How events move entities.
    pub struct Machines {
        /// Files, and directories of which every `*.yaml` and `*.yml` is read.
        paths: Vec<PathBuf> = Vec::new();
    }

    /// Where events come from.
    pub struct Source {
        /// Its name, unique in the installation and never changed: its checkpoints are kept under it.
        name: Option<SourceName> = None;
        /// `file`: newline-delimited JSON, one CloudEvents object a line.
        kind: SourceKind = SourceKind::File;
        /// The files. Each is one source partition, numbered in this order.
        paths: Vec<PathBuf> = Vec::new();
        /// The name that the log of these events gets.
        stream: Option<StreamName> = None;
        /// The tenant that every event belongs to. Events that name another are refused.
        tenant: Option<TenantId> = None;
        /// Believe the `tenantid` of each event instead. Only for sources no client writes to directly.
        tenant_from_event_unsafe: bool = false;
        /// Where to begin when there is no checkpoint yet: `earliest` or `latest`.
        start: StartAt = StartAt::Earliest;
    }

    /// What bounds memory, batches and waiting.
    pub struct Limits {
        /// Events that are received and not yet settled, over all tenants.
        node_events_max: usize [1..=10_000_000] = 100_000;
        /// Bytes of those events. Beside them the process has what it keeps in memory of entities, keys
        /// and emitted events: `cached_entities_max`, `cached_keys_max`, `emitted_bytes_max`.
        node_bytes_max: usize [4_194_304..=4_294_967_295] = 268_435_456;
        /// Events of one tenant that are received and not yet settled: its share of the node.
        tenant_events_max: usize [1..=10_000_000] = 25_000;
        /// Bytes of those events.
        tenant_bytes_max: usize [4_194_304..=4_294_967_295] = 67_108_864;
        /// Events asked of a source at once.
        receive_events_max: usize [1..=limits::RECEIVE_EVENTS_MAX as u64] = 2_000;
        /// Payload bytes asked of a source at once. One event may have 1 MiB.
        receive_bytes_max: usize [1_048_576..=268_435_456] = 2_097_152;
        /// Events of one commit, at most: a commit is only as large as what waits for it. Under full load
        /// 5,000 carry a fifth more than 1,000, and an event waits for five times as many others.
        batch_events_max: usize [1..=limits::BATCH_EVENTS_MAX as u64] = 5_000;
        /// Bytes of one commit, by the average size of what each tenant has ready.
        batch_bytes_max: usize [1_024..=268_435_456] = 4_194_304;
        /// Bytes that one tenant may put into a commit before it is the next tenant's turn.
        fair_quantum_bytes: usize [1_024..=16_777_216] = 65_536;
        /// Commits in flight at once, each of another source partition.
        commits_max: usize [1..=256] = 4;
        /// Entities kept in memory with their data, so that hot ones are not read again. Each tenant has
        /// an equal share for each source partition in which it had events within the last minute, at
        /// least 256.
        cached_entities_max: usize [1_000..=100_000_000] = 1_000_000;
        /// Idempotency keys kept in memory in such shares, so that a duplicate of a recent event costs no
        /// commit. Beside them the keys of events that are not yet settled.
        cached_keys_max: usize [1_000..=100_000_000] = 2_000_000;
        /// Bytes of emitted events that wait in memory for their turn, in such shares of at least 64 KiB.
        /// What is more waits in the store.
        emitted_bytes_max: usize [65_536..=4_294_967_295] = 67_108_864;
        /// Entities read from the store at once.
        load_entities_max: usize [1..=100_000] = 2_000;
        /// Milliseconds before the first retry of what failed for now; doubled each time.
        retry_first_ms: u64 [1..=60_000] = 20;
        /// Milliseconds between two retries at most.
        retry_max_ms: u64 [1..=600_000] = 5_000;
        /// Milliseconds that a tenant waits whose entities another process is writing.
        busy_wait_ms: u64 [1..=60_000] = 20;
        /// Restarts of a failing source partition within `restart_window_seconds` before it is set
        /// aside.
        restarts_max: u32 [0..=1_000] = 10;
        /// Seconds after which a restart is forgotten.
        restart_window_seconds: u64 [1..=86_400] = 60;
        /// Milliseconds for which a source partition that another process took is let alone before it is
        /// claimed again, if the source still assigns it to this one. Doubled each time, five times
        /// within `restart_window_seconds`; then it is set aside.
        reclaim_wait_first_ms: u64 [1..=60_000] = 500;
        /// Seconds for which a source partition that the source asks back is drained. Then it is given
        /// back as it is, and whoever gets it next does the rest.
        release_limit_seconds: u64 [1..=3_600] = 30;
        /// Seconds that a commit or claim waits for the store's answer. Then its outcome counts as
        /// unknown, and the checkpoint is asked. Keep it above the server's `statement_timeout` (30 s
        /// as migrated), so that the server speaks first.
        store_answer_limit_seconds: u64 [1..=86_400] = 45;
        /// Seconds without progress, with work waiting, after which a part is taken for stalled and
        /// restarted.
        stall_limit_seconds: u64 [1..=86_400] = 30;
        /// Milliseconds between two looks for what failed or stalled.
        watch_interval_ms: u64 [10..=60_000] = 1_000;
        /// Seconds without events after which a tenant's part of a source partition is put away.
        passivate_after_seconds: u64 [1..=86_400] = 60;
        /// Seconds for which a start waits for a store that is away: not up yet, restarting, out of
        /// reach. 0 tries once. What waiting cannot mend ends it at once.
        start_limit_seconds: u64 [0..=86_400] = 60;
        /// Seconds that a stop waits for what is in flight; the rest is done again after the start.
        drain_limit_seconds: u64 [0..=3_600] = 30;
        /// Seconds between two rounds of the store's upkeep: dedupe, retention, partitions.
        upkeep_interval_seconds: u64 [1..=86_400] = 60;
    }

    /// How long an idempotency key is remembered.
    pub struct Dedupe {
        /// Hours. The store knows a key for at least this long and at most twice as long; a process that
        /// keeps it in memory may know it for longer. A broker's redelivery is
        /// covered for ever by the checkpoint, whatever stands here.
        window_hours: u64 [1..=8_760] = 168;
    }

    /// How long the log is kept.
    pub struct Retention {
        /// Days, or null to keep everything. Entities stay; a dropped log can no longer be replayed.
        /// Dead letters stay as well, decided ones too, with the bytes of what never entered the log,
        /// and so do emitted events that wait.
        log_days: Option<u64> [1..=36_500] = None;
    }

    /// What is said on standard error.
    pub struct Log {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`. TIDEGATE_LOG and --log-level come first.
        level: LogLevel = LogLevel::Info;
        /// `json`, `text`, or `auto`: text on a terminal and JSON everywhere else.
        format: LogFormat = LogFormat::Auto;
    }
}

impl Check for Config {
    fn check(&self, line: u32, _path: &str, problems: &mut Problems) {
        let mut seen = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            if source.stream.as_ref().is_some_and(StreamName::is_internal) {
                problems.add(
                    line,
                    &format!("sources[{index}].stream"),
                    "what machines emit is kept under this name; take another",
                );
            }
            if let Some(name) = &source.name {
                if name.as_str() == follow_up::OPERATOR {
                    problems.add(
                        line,
                        &format!("sources[{index}].name"),
                        "people's decisions are kept under this name; take another",
                    );
                }
                if seen.contains(&name) {
                    problems.add(
                        line,
                        &format!("sources[{index}].name"),
                        format!("`{name}` is the name of an earlier source too"),
                    );
                }
                seen.push(name);
            }
        }
        let (commits, connections) = (
            self.limits.commits_max,
            self.store.postgres.connections_max as usize,
        );
        if self.store.kind == StoreKind::Postgres && commits >= connections {
            problems.add(
                line,
                "store.postgres.connections_max",
                format!(
                    "{connections} is not more than `limits.commits_max`, {commits}: each commit \
                     in flight needs a connection, and so does who reads"
                ),
            );
        }
    }
}

impl Check for Node {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let fits = (1..=limits::NAME_BYTES_MAX).contains(&self.name.len())
            && !self.name.chars().any(char::is_control);
        if !fits {
            problems.add(
                line,
                &format!("{path}.name"),
                format!("expected 1 to {} bytes of text", limits::NAME_BYTES_MAX),
            );
        }
    }
}

impl Check for Store {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        if self.kind == StoreKind::Postgres && self.postgres.url.is_none() {
            problems.add(
                line,
                &format!("{path}.postgres.url"),
                "is needed when `kind` is `postgres`",
            );
        }
    }
}

impl Check for Source {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let mut needed = |key: &str, is_there: bool| {
            if !is_there {
                problems.add(line, &format!("{path}.{key}"), "is needed");
            }
        };
        needed("name", self.name.is_some());
        needed("paths", !self.paths.is_empty());
        needed("stream", self.stream.is_some());
        match (&self.tenant, self.tenant_from_event_unsafe) {
            (Some(_), true) => problems.add(
                line,
                &format!("{path}.tenant"),
                "is given, and `tenant_from_event_unsafe` too; only one decides",
            ),
            (None, false) => problems.add(
                line,
                &format!("{path}.tenant"),
                "is needed (or `tenant_from_event_unsafe: true`, which believes each event)",
            ),
            _ => {}
        }
    }
}

impl Check for Limits {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let mut at_most = |small: (&str, usize), large: (&str, usize)| {
            if small.1 > large.1 {
                problems.add(
                    line,
                    &format!("{path}.{}", small.0),
                    format!("{} is more than `{}`, {}", small.1, large.0, large.1),
                );
            }
        };
        at_most(
            ("tenant_events_max", self.tenant_events_max),
            ("node_events_max", self.node_events_max),
        );
        at_most(
            ("tenant_bytes_max", self.tenant_bytes_max),
            ("node_bytes_max", self.node_bytes_max),
        );
        at_most(
            ("receive_events_max", self.receive_events_max),
            ("node_events_max", self.node_events_max),
        );
        at_most(
            ("receive_bytes_max", self.receive_bytes_max),
            ("node_bytes_max", self.node_bytes_max),
        );
    }
}

impl Check for SqliteSection {}
impl Check for PostgresSection {}
impl Check for Machines {}
impl Check for Dedupe {}
impl Check for Retention {}
impl Check for Log {}

impl Config {
    /// Every option that is in force and gives a protection up. Each says `unsafe` in its name, and
    /// each is logged at start.
    pub fn unsafe_options(&self) -> Vec<String> {
        let mut in_force = Vec::new();
        if self.store.kind == StoreKind::Sqlite && self.store.sqlite.unsafe_synchronous_normal {
            in_force.push("store.sqlite.unsafe_synchronous_normal".to_owned());
        }
        for (index, source) in self.sources.iter().enumerate() {
            if source.tenant_from_event_unsafe {
                in_force.push(format!("sources[{index}].tenant_from_event_unsafe"));
            }
        }
        in_force
    }

    /// The bounds as a node takes them.
    pub fn node_options(&self) -> NodeOptions {
        let limits = &self.limits;
        NodeOptions {
            name: self.node.name.clone(),
            node_events_max: limits.node_events_max,
            node_bytes_max: limits.node_bytes_max,
            tenant_events_max: limits.tenant_events_max,
            tenant_bytes_max: limits.tenant_bytes_max,
            receive_events_max: limits.receive_events_max,
            receive_bytes_max: limits.receive_bytes_max,
            batch_events_max: limits.batch_events_max,
            batch_bytes_max: limits.batch_bytes_max,
            done_above_ranges_max: limits::DONE_ABOVE_FRAGMENTED,
            fair_quantum_bytes: limits.fair_quantum_bytes,
            commit_slots: limits.commits_max,
            memory: PartitionLimits {
                entities_max: limits.cached_entities_max,
                known_keys_max: limits.cached_keys_max,
                emitted_bytes_max: limits.emitted_bytes_max,
            },
            load_entities_max: limits.load_entities_max,
            back_off: BackOff {
                first: Duration::from_millis(limits.retry_first_ms),
                max: Duration::from_millis(limits.retry_max_ms),
            },
            busy_wait: Duration::from_millis(limits.busy_wait_ms),
            restarts_max: limits.restarts_max,
            restart_window: Duration::from_secs(limits.restart_window_seconds),
            reclaim_wait_first: Duration::from_millis(limits.reclaim_wait_first_ms),
            release_limit: Duration::from_secs(limits.release_limit_seconds),
            store_answer_limit: Duration::from_secs(limits.store_answer_limit_seconds),
            stall_limit: Duration::from_secs(limits.stall_limit_seconds),
            watch_interval: Duration::from_millis(limits.watch_interval_ms),
            passivate_after: Duration::from_secs(limits.passivate_after_seconds),
        }
    }
}
