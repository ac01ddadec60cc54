//! Every key of the configuration: its meaning, unit, default and bounds. This text is the
//! documentation too: `deploy/config/reference.yaml` is written from it, and a test keeps them equal.

use std::path::PathBuf;

use tidegate_engine::limits;
use tidegate_engine::position::{SourceName, StreamName};
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
        /// The database file. It is created when it is not there, with its directory.
        path: PathBuf = PathBuf::from("tidegate.db");
    }

    /// Postgres 15 or later.
    pub struct PostgresSection {
        /// The address: `postgres://tidegate_engine@host:5432/database`. A password comes from outside:
        /// `postgres://tidegate_engine:${file:/run/secrets/password}@host/database`.
        url: Option<Secret> = None;
        /// The address as the tables' owner, for `tidegate migrate` only.
        migrate_url: Option<Secret> = None;
        /// Connections of one process. A commit holds one; more than the server has cores adds nothing.
        connections_max: u32 [1..=200] = 8;
        /// Milliseconds until a connection must be had from the pool.
        connect_timeout_ms: u64 [100..=600_000] = 10_000;
        /// Milliseconds after which the server gives a statement up.
        statement_timeout_ms: u64 [100..=600_000] = 30_000;
        /// Milliseconds after which the server gives up waiting for a lock.
        lock_timeout_ms: u64 [10..=600_000] = 2_000;
        /// Milliseconds after which the server ends a transaction whose client went silent.
        idle_in_transaction_timeout_ms: u64 [100..=600_000] = 10_000;
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
        node_events_max: usize [1..=10_000_000] = 50_000;
        /// Bytes of those events.
        node_bytes_max: usize [1_048_576..=1_099_511_627_776] = 268_435_456;
        /// Events of one tenant that are received and not yet settled: its share of the node.
        tenant_events_max: usize [1..=10_000_000] = 20_000;
        /// Bytes of those events.
        tenant_bytes_max: usize [1_048_576..=1_099_511_627_776] = 134_217_728;
        /// Events of one commit. 500 to 5,000 adds a fifth of throughput for eight times the latency.
        batch_events_max: usize [1..=limits::BATCH_EVENTS_MAX as u64] = 2_000;
        /// Payload bytes of one commit.
        batch_bytes_max: usize [1_024..=268_435_456] = 8_388_608;
        /// Commits in flight at once, each of another source partition.
        commits_max: usize [1..=256] = 4;
        /// Entities kept in memory for each source partition, so that hot ones are not read again.
        cached_entities_max: usize [1..=100_000_000] = 200_000;
        /// Restarts of one failing part within `restart_window_seconds` before it is set aside.
        restarts_max: u32 [0..=1_000] = 5;
        /// Seconds after which a restart is forgotten.
        restart_window_seconds: u64 [1..=86_400] = 60;
        /// Seconds without progress, with work waiting, after which a part counts as stalled.
        stall_after_seconds: u64 [1..=86_400] = 60;
        /// Seconds that a stop waits for what is in flight; the rest is done again after the start.
        drain_limit_seconds: u64 [0..=3_600] = 30;
    }

    /// How long an idempotency key is remembered.
    pub struct Dedupe {
        /// Hours. A key lives at least this long and at most twice as long. A broker's redelivery is
        /// covered for ever by the checkpoint, whatever stands here.
        window_hours: u64 [1..=8_760] = 168;
    }

    /// How long the log is kept.
    pub struct Retention {
        /// Days, or null to keep everything. Entities stay; a dropped log can no longer be replayed.
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
            if let Some(name) = &source.name {
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
            ("batch_events_max", self.batch_events_max),
            ("tenant_events_max", self.tenant_events_max),
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
        self.sources
            .iter()
            .enumerate()
            .filter(|(_, source)| source.tenant_from_event_unsafe)
            .map(|(index, _)| format!("sources[{index}].tenant_from_event_unsafe"))
            .collect()
    }
}
