//! Every key of the configuration: its meaning, unit, default and bounds. This text is the
//! documentation too: `deploy/config/reference.yaml` is written from it, and a test keeps them equal.

use std::path::PathBuf;

use tidegate_engine::limits;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::tenant::TenantId;

use super::kafka::Kafka;
use super::mapping::Mapping;
use super::setting::Secret;
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
        /// Requests to `http.listen`.
        Http = "http",
        /// Topics of Kafka, as a member of a consumer group.
        Kafka = "kafka",
    }

    /// What the events of a source of requests are, and so which scope a token needs.
    pub enum Publish {
        /// They say what happened: `publish:fact`.
        Fact = "fact",
        /// They ask for something: `publish:intent`.
        Intent = "intent",
    }

    /// What is done with an event whose payload holds what looks like a secret.
    pub enum Secrets {
        /// It is not taken.
        Refuse = "refuse",
        /// It is taken with `[redacted]` in place of each such value.
        Redact = "redact",
        /// It is taken as it is, and a log line says where.
        Report = "report",
        /// Nothing looks.
        Off = "off",
    }

    /// What becomes of events whose tenant nobody created.
    pub enum UnknownTenants {
        /// They are kept as dead letters of `_unassigned`.
        DeadLetter = "dead_letter",
        /// The first of them creates it.
        Create = "create",
    }

    /// Where a source begins that has no checkpoint yet.
    pub enum StartAt {
        /// With the oldest record.
        Earliest = "earliest",
        /// With the next record.
        Latest = "latest",
        /// With the first record of `start_time` or later.
        Time = "time",
        /// Where a consumer group has got to.
        OffsetsOfGroup = "offsets_of_group",
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

    /// Where log lines go.
    pub enum LogStream {
        /// Standard error: beside data.
        Stderr = "stderr",
        /// Standard output: for `tidegate run`, which writes no data.
        Stdout = "stdout",
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
        /// Where `tidegate run` takes requests.
        http: Http = Http::default();
        /// What bounds memory, batches and waiting.
        limits: Limits = Limits::default();
        /// How long an idempotency key is remembered.
        dedupe: Dedupe = Dedupe::default();
        /// How long the log is kept.
        retention: Retention = Retention::default();
        /// What is said of what happens.
        log: Log = Log::default();
        /// What is measured.
        telemetry: Telemetry = Telemetry::default();
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
        /// The address for `tidegate migrate`, as somebody who may create in the database, and for
        /// `tidegate tenants` and `tidegate tokens`, as a member of the role `…_admin` at least. `url`
        /// when it is null.
        migrate_url: Option<Secret> = None;
        /// What the names of the roles begin with. Roles belong to the whole server: two databases
        /// that must not reach each other need two prefixes.
        role_prefix: String = "tidegate".to_owned();
        /// Connections of one process: one for each of `limits.commits_max`, and at least one that reads.
        connections_max: u32 [1..=200] = 8;
        /// Milliseconds until a connection must be had from the pool.
        acquire_timeout_ms: u64 [100..=600_000] = 10_000;
        /// Milliseconds that a statement waits for the server's answer. Then its connection is closed and
        /// replaced: one that a firewall forgot never answers. Keep it above the server's
        /// `statement_timeout` (30 s as migrated).
        answer_timeout_ms: u64 [1_000..=86_400_000] = 45_000;
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
        /// `file`: newline-delimited JSON, one object a line. `http`: what requests to `/v1/events` and
        /// `/v1/streams/STREAM` hand in; their tenant is that of their token. `kafka`: topics of a cluster.
        kind: SourceKind = SourceKind::File;
        /// The files. Each is one source partition, numbered in this order.
        paths: Vec<PathBuf> = Vec::new();
        /// Read when `kind` is `kafka`.
        kafka: Kafka = Kafka::default();
        /// The name that the log of these events gets.
        stream: Option<StreamName> = None;
        /// The tenant that every event belongs to. Events that name another are refused.
        tenant: Option<TenantId> = None;
        /// Believe the `tenantid` of each event instead. Only for sources no client writes to directly.
        tenant_from_event_unsafe: bool = false;
        /// With `tenant_from_event_unsafe`: what becomes of an event whose tenant does not exist.
        /// `dead_letter` keeps it under `_unassigned` until somebody creates the tenant and retries it;
        /// `create` creates the tenant, up to `limits.created_tenants_max`. A closed one stays closed.
        unknown_tenants: UnknownTenants = UnknownTenants::DeadLetter;
        /// How records that are no CloudEvents become events (docs/mapping.md). Each key says where its
        /// attribute is taken from, in exactly one way: `{ header: x-id }`, `{ pointer: /order/id }` (a
        /// JSON pointer), `{ cel: "'order.' + payload.kind" }` or `{ literal: order.placed }`. Without any
        /// of them a record is a CloudEvents object.
        mapping: Mapping = Mapping::default();
        /// What is done with an event whose payload holds what looks like a password, key or token: `refuse`
        /// it (what is stored can never be taken out again), `redact` the value, `report` it in the log,
        /// or `off` (docs/secrets.md).
        secrets: Secrets = Secrets::Refuse;
        /// Of requests: `fact` or `intent`. Their tokens need the scope `publish:fact` or `publish:intent`.
        publish: Publish = Publish::Fact;
        /// Where to begin when there is no checkpoint yet. Of files `earliest`, which null means too, or
        /// `latest`. Of Kafka, where it has to be said, also `time` and `offsets_of_group`.
        start: Option<StartAt> = None;
        /// With `start: time`: the moment, RFC 3339.
        start_time: Option<String> = None;
    }

    /// Where `tidegate run` takes requests.
    pub struct Http {
        /// `address:port`, or null: nowhere.
        listen: Option<String> = None;
        /// The certificate chain, PEM. Read again when it changes.
        tls_certificate: Option<PathBuf> = None;
        /// Its private key, PEM.
        tls_key: Option<PathBuf> = None;
        /// Take requests from other machines without TLS: whoever is in between reads the tokens.
        unsafe_plaintext_listener: bool = false;
        /// Slots of each source of requests, over all nodes: a node leases one, so at least as many as
        /// nodes.
        slots: u32 [1..=256] = 16;
        /// Seconds for which a slot stays with a node that says nothing any more.
        lease_seconds: u64 [3..=300] = 15;
        /// Bytes of one body, also after it is decompressed.
        body_bytes_max: usize [1_048_576..=268_435_456] = 8_388_608;
        /// Bytes that one compressed byte may become, beyond a first 64 KiB.
        body_ratio_max: usize [1..=1_000] = 100;
        /// Bytes of all bodies together, of the events in them, and of answers from what is stored. Then requests
        /// are answered 503.
        bodies_bytes_max: usize [33_554_432..=68_719_476_736] = 268_435_456;
        /// Seconds for a body to arrive.
        body_seconds: u64 [1..=600] = 30;
        /// Seconds until what was handed in must be committed; then the answer is that its outcome is
        /// not known here.
        answer_seconds: u64 [1..=600] = 30;
        /// Events of each source of requests that wait for their commit.
        pending_events_max: usize [1..=10_000_000] = 20_000;
        /// Bytes of these.
        pending_bytes_max: usize [1_048_576..=68_719_476_736] = 67_108_864;
        /// Connections of each of the two threads that take requests.
        connections_max: usize [1..=100_000] = 1_000;
        /// Events a second that each tenant may send, or null. More are answered 429.
        tenant_events_per_second: Option<u64> [1..=1_000_000] = None;
        /// Open `GET /v1/stream` of this node. Each may hold a segment of the log and 256 KiB. One more
        /// is answered 503.
        streams_max: usize [1..=100_000] = 200;
        /// Open ones of one tenant. One more is answered 429.
        tenant_streams_max: usize [1..=100_000] = 20;
        /// Milliseconds between two looks of an open stream at the store for what is new.
        stream_poll_ms: u64 [10..=60_000] = 500;
        /// Seconds for which a client may leave unread what was sent to it, of a stream or of any other
        /// answer (the latter on Linux); ten seconds later its connection is closed.
        stream_slow_seconds: u64 [1..=600] = 30;
    }

    /// What bounds memory, batches and waiting.
    pub struct Limits {
        /// Events that are received and not yet settled, over all tenants.
        node_events_max: usize [1..=10_000_000] = 100_000;
        /// Bytes of those events. Beside them the process has what it keeps in memory of entities, keys
        /// and emitted events (`cached_entities_bytes_max`, `cached_keys_max`, `emitted_bytes_max`), and of
        /// each commit under way what it writes (`batch_written_bytes_max`), and that of the one behind it.
        node_bytes_max: usize [4_194_304..=4_294_967_295] = 268_435_456;
        /// Events of one tenant that are received and not yet settled: its share of the node.
        tenant_events_max: usize [1..=10_000_000] = 25_000;
        /// Bytes of those events.
        tenant_bytes_max: usize [4_194_304..=4_294_967_295] = 67_108_864;
        /// Tenants that sources with `unknown_tenants: create` may create, all together, ever: whoever
        /// writes what they read chooses the names. Events of further ones are kept as dead letters.
        created_tenants_max: u32 [0..=1_000_000] = 1_000;
        /// Events asked of a source at once.
        receive_events_max: usize [1..=limits::RECEIVE_EVENTS_MAX as u64] = 2_000;
        /// Payload bytes asked of a source at once. One event may have 1 MiB.
        receive_bytes_max: usize [1_048_576..=268_435_456] = 2_097_152;
        /// Events of one commit, at most: a commit is only as large as what waits for it. Under full load
        /// 5,000 carry a fifth more than 1,000, and an event waits for five times as many others.
        batch_events_max: usize [1..=limits::BATCH_EVENTS_MAX as u64] = 5_000;
        /// Bytes of one commit, by the average size of what each tenant has ready.
        batch_bytes_max: usize [1_024..=268_435_456] = 4_194_304;
        /// Bytes of the entities' new data and of emitted events of one commit. One event may write more.
        batch_written_bytes_max: usize [65_536..=268_435_456] = 16_777_216;
        /// Bytes that one tenant may put into a commit before it is the next tenant's turn.
        fair_quantum_bytes: usize [1_024..=16_777_216] = 65_536;
        /// Commits in flight at once, each of another source partition.
        commits_max: usize [1..=256] = 4;
        /// Entities kept in memory with their data, so that hot ones are not read again. Each tenant has
        /// an equal share for each source partition in which it had events within the last minute, at
        /// least 256.
        cached_entities_max: usize [1_000..=100_000_000] = 500_000;
        /// Bytes of their data, in such shares. What one event needs is there however large it is.
        cached_entities_bytes_max: usize [1_048_576..=68_719_476_736] = 268_435_456;
        /// Idempotency keys kept in memory in such shares, so that a duplicate of a recent event costs no
        /// commit. Beside them the keys of events that are not yet settled.
        cached_keys_max: usize [1_000..=100_000_000] = 1_000_000;
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

    /// What is said of what happens.
    pub struct Log {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`. TIDEGATE_LOG and --log-level come first.
        level: LogLevel = LogLevel::Info;
        /// `json`, `text`, or `auto`: text on a terminal and JSON everywhere else.
        format: LogFormat = LogFormat::Auto;
        /// `stderr`, or `stdout` for a node whose log is collected there. Commands that write data write it
        /// to standard output whatever stands here.
        stream: LogStream = LogStream::Stderr;
    }

    /// What is measured.
    pub struct Telemetry {
        /// Tenants whose metrics have a series of their own: the first so many that a process meets. The
        /// others are together `_other`.
        tenants_max: usize [0..=10_000] = 100;
        /// Tell the lag of sources of Kafka also as `kafka_consumergroup_lag{consumergroup, topic, partition}`,
        /// which boards and autoscalers know.
        kafka_exporter_names: bool = false;
        /// The OpenTelemetry collector that spans go to, as OTLP over HTTP: `http://127.0.0.1:4318`. One
        /// on this machine or beside it, for the connection is plain. Needs a binary with the feature
        /// `otel`. Or null: nowhere.
        otlp_endpoint: Option<String> = None;
        /// Of 1,000 spans, how many are sent: by chance, and each tree of them whole.
        otlp_sampled_per_mille: u32 [0..=1_000] = 1_000;
    }
}
