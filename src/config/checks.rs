//! What has to hold between keys, and what a configuration comes to: the node's bounds, the options that
//! give a protection up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_engine::bus::Start;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::follow_up;
use tidegate_engine::limits;
use tidegate_engine::mapping;
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::retry::BackOff;
use tidegate_engine::secrets::SecretPolicy;
use tidegate_engine::tenant::{self, TenantBinding};

use super::problem::Problems;
use super::sections::{
    Config, Dedupe, Http, Limits, Log, Machines, Node, PostgresSection, Retention, Secrets, Source,
    SourceKind, SqliteSection, StartAt, Store, StoreKind, Telemetry, UnknownTenants,
};
use super::setting::Check;
use crate::telemetry::Collector;

impl Check for Config {
    fn check(&self, line: u32, _path: &str, problems: &mut Problems) {
        let mut seen = Vec::new();
        let mut requested = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            if source.stream.as_ref().is_some_and(StreamName::is_internal) {
                problems.add(
                    line,
                    &format!("sources[{index}].stream"),
                    "what machines emit is kept under this name; take another",
                );
            }
            if let (SourceKind::Http, Some(stream)) = (source.kind, &source.stream) {
                if requested.contains(&stream) {
                    problems.add(
                        line,
                        &format!("sources[{index}].stream"),
                        format!(
                            "an earlier source of requests has the stream `{stream}` too: which of \
                             them would a request be for?"
                        ),
                    );
                }
                requested.push(stream);
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
        let (answers, closed_after) = (
            self.limits.store_answer_limit_seconds.saturating_mul(1_000),
            self.store.postgres.answer_timeout_ms,
        );
        if self.store.kind == StoreKind::Postgres && closed_after < answers {
            problems.add(
                line,
                "store.postgres.answer_timeout_ms",
                format!(
                    "{closed_after} is less than `limits.store_answer_limit_seconds`, {answers} ms: a commit that \
                     may still be answered would lose its connection"
                ),
            );
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
        needed("stream", self.stream.is_some());
        if self.kind == SourceKind::Http {
            let mut none = |key: &str, is_there: bool| {
                if is_there {
                    let what = "is not for requests: their tenant is that of their token";
                    problems.add(line, &format!("{path}.{key}"), what);
                }
            };
            none("paths", !self.paths.is_empty());
            none("tenant", self.tenant.is_some());
            none("tenant_from_event_unsafe", self.tenant_from_event_unsafe);
            none(
                "unknown_tenants",
                self.unknown_tenants == UnknownTenants::Create,
            );
            none("start", self.start.is_some());
            self.kafka.check_in(self, line, path, problems);
            self.mapping.check_in(self, path, problems);
            return;
        }
        if self.kind == SourceKind::File {
            needed("paths", !self.paths.is_empty());
        } else if !self.paths.is_empty() {
            problems.add(line, &format!("{path}.paths"), "is for `kind: file`");
        }
        self.kafka.check_in(self, line, path, problems);
        self.check_start(line, path, problems);
        self.mapping.check_in(self, path, problems);
        if self.kafka.tenant_of_topic.is_some() {
            return;
        }
        if self.unknown_tenants == UnknownTenants::Create && !self.tenant_from_event_unsafe {
            problems.add(
                line,
                &format!("{path}.unknown_tenants"),
                "is for sources whose events name their tenant (`tenant_from_event_unsafe: true`); here all \
                 belong to the source's `tenant`, which its first event creates: leave it out",
            );
        }
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

impl Check for Http {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let mut wrong = |key: &str, what: &str| problems.add(line, &format!("{path}.{key}"), what);
        match (&self.tls_certificate, &self.tls_key) {
            (Some(_), None) => wrong("tls_key", "is needed beside `tls_certificate`"),
            (None, Some(_)) => wrong("tls_certificate", "is needed beside `tls_key`"),
            _ => {}
        }
        let Some(listen) = &self.listen else { return };
        let Some(address) = listen_address(listen) else {
            return wrong(
                "listen",
                "expected `address:port`, such as `127.0.0.1:8080`",
            );
        };
        let is_exposed = !address.ip().is_loopback() && self.tls_certificate.is_none();
        if is_exposed && !self.unsafe_plaintext_listener {
            wrong(
                "listen",
                "other machines reach this address, and without TLS whoever is in between reads the \
                 tokens: name `tls_certificate` and `tls_key`, listen on 127.0.0.1, or say \
                 `unsafe_plaintext_listener: true`",
            );
        }
    }
}

impl Check for Telemetry {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let Some(endpoint) = &self.otlp_endpoint else {
            return;
        };
        let mut wrong = |what: &str| problems.add(line, &format!("{path}.otlp_endpoint"), what);
        if !cfg!(feature = "otel") {
            wrong(
                "this binary cannot send spans: build it with `cargo build --release --features otel`, \
                 or set null",
            );
        }
        let authority = endpoint.strip_prefix("http://");
        let is_address = |text: &str| {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_graphic() && !"?#@".contains(c))
        };
        if !authority.is_some_and(is_address) {
            wrong(
                "expected the address of a collector on or beside this machine, such as \
                 `http://127.0.0.1:4318`; it sends on over TLS",
            );
        }
    }
}

/// An address to listen on; `localhost` is 127.0.0.1.
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    text.parse().ok()
}

impl Check for SqliteSection {}
impl Check for PostgresSection {}
impl Check for Machines {}
impl Check for Dedupe {}
impl Check for Retention {}
impl Check for Log {}

impl Secrets {
    /// The policy of that name.
    pub fn policy(self) -> SecretPolicy {
        match self {
            Secrets::Refuse => SecretPolicy::Refuse,
            Secrets::Redact => SecretPolicy::Redact,
            Secrets::Report => SecretPolicy::Report,
            Secrets::Off => SecretPolicy::Off,
        }
    }
}

impl Limits {
    /// What becomes of unknown tenants, with the bound on it.
    pub fn unknown_tenants(&self, wanted: UnknownTenants) -> tenant::UnknownTenants {
        match wanted {
            UnknownTenants::DeadLetter => tenant::UnknownTenants::DeadLetter,
            UnknownTenants::Create => tenant::UnknownTenants::Create {
                created_max: self.created_tenants_max,
            },
        }
    }
}

impl Source {
    /// Where the tenant of its events comes from.
    pub fn tenant_binding(&self, limits: &Limits) -> TenantBinding {
        match &self.tenant {
            Some(tenant) => TenantBinding::Fixed(tenant.clone()),
            None if self.kafka.tenant_of_topic.is_some() => TenantBinding::OfPartition,
            None => TenantBinding::RegisteredField(limits.unknown_tenants(self.unknown_tenants)),
        }
    }

    /// Where a source partition of it begins that has no checkpoint.
    pub fn start(&self) -> Start {
        match self.start {
            None | Some(StartAt::Earliest) => Start::Earliest,
            Some(StartAt::Latest) => Start::Latest,
            // A configuration that was read is checked: there is a moment.
            Some(StartAt::Time) => Start::Time(self.start_moment().unwrap_or(Timestamp(0))),
            Some(StartAt::OffsetsOfGroup) => Start::OffsetsOfGroup,
        }
    }

    fn start_moment(&self) -> Option<Timestamp> {
        Timestamp::parse_rfc3339(self.start_time.as_deref()?)
    }

    fn check_start(&self, line: u32, path: &str, problems: &mut Problems) {
        let mut wrong = |key: &str, what: &str| problems.add(line, &format!("{path}.{key}"), what);
        let of_broker = matches!(self.start, Some(StartAt::Time | StartAt::OffsetsOfGroup));
        if of_broker && self.kind == SourceKind::File {
            wrong(
                "start",
                "a file knows neither: expected `earliest` or `latest`",
            );
        }
        let is_time = self.start == Some(StartAt::Time);
        match (is_time, &self.start_time) {
            (true, None) => wrong("start_time", "is needed with `start: time`"),
            (false, Some(_)) => wrong("start_time", "is read with `start: time` alone"),
            (true, Some(_)) if self.start_moment().is_none() => {
                wrong(
                    "start_time",
                    "expected RFC 3339, such as `2026-11-01T00:00:00Z`",
                );
            }
            _ => {}
        }
    }
}

impl Config {
    /// How the records of each source become events, where they are none by themselves.
    pub fn mappings(&self) -> BTreeMap<SourceName, Arc<mapping::Mapping>> {
        let compiled = |source: &Source| {
            let name = source.name.clone()?;
            let mapping = source.mapping.compiled(&name)?;
            Some((name, mapping))
        };
        self.sources.iter().filter_map(compiled).collect()
    }

    /// Where spans go, if anywhere.
    pub fn collector(&self) -> Option<Collector> {
        Some(Collector {
            endpoint: self.telemetry.otlp_endpoint.clone()?,
            sampled_per_mille: self.telemetry.otlp_sampled_per_mille,
            node: self.node.name.clone(),
        })
    }

    /// Sources whose records are known by their place alone.
    pub fn known_by_position(&self) -> Vec<SourceName> {
        let mappings = self.mappings().into_iter();
        mappings
            .filter(|(_, mapping)| mapping.uses_position())
            .map(|(name, _)| name)
            .collect()
    }

    /// Every option that is in force and gives a protection up. Each says `unsafe` in its name, and
    /// each is logged at start.
    pub fn unsafe_options(&self) -> Vec<String> {
        let mut in_force = Vec::new();
        if self.store.kind == StoreKind::Sqlite && self.store.sqlite.unsafe_synchronous_normal {
            in_force.push("store.sqlite.unsafe_synchronous_normal".to_owned());
        }
        if self.http.unsafe_plaintext_listener {
            in_force.push("http.unsafe_plaintext_listener".to_owned());
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
            batch_written_bytes_max: limits.batch_written_bytes_max,
            done_above_ranges_max: limits::DONE_ABOVE_FRAGMENTED,
            fair_quantum_bytes: limits.fair_quantum_bytes,
            commit_slots: limits.commits_max,
            memory: PartitionLimits {
                entities_max: limits.cached_entities_max,
                entities_bytes_max: limits.cached_entities_bytes_max,
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
            tenants_measured_max: self.telemetry.tenants_max,
        }
    }
}
