//! The names of this crate's metrics, each with its kind, unit, labels and meaning: the text that
//! `/metrics` gives as HELP and `docs/OPERATING.md` as description; a test holds these against each other.

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows while the process lives; from 0 at its start.
    Counter,
    /// How it is now.
    Gauge,
    /// How often values were at most so large.
    Histogram,
}

impl Kind {
    /// The word of Prometheus' text format.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric: its name and what is said of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// Its name, by Prometheus' conventions.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its values count.
    pub unit: &'static str,
    /// Its labels. Never a token, a payload, a key or a subject.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// The metrics of a crate: a constant for each name, and the list of all of them.
#[macro_export]
macro_rules! metrics_of_crate {
    ($($constant:ident = $kind:ident $name:literal, $unit:literal, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: &str = $name;
        )*

        /// All of them.
        pub const ALL: &[$crate::names::Metric] = &[$($crate::names::Metric {
            name: $constant,
            kind: $crate::names::Kind::$kind,
            unit: $unit,
            labels: &[$($label),*],
            help: $help,
        }),*];
    };
}

metrics_of_crate! {
    VERB_EVENTS = Counter "tidegate_verb_events_total", "events", ["source", "verb"],
        "Events that passed a verb of their life: receive, route, admit, apply, commit or settle. Between commit and settle stands what was tried again; acknowledge speaks for all events before an offset and counts none";
    VERB_SECONDS = Histogram "tidegate_verb_seconds", "seconds", ["source", "verb"],
        "Time that a verb took for one batch: route (with the wait for permits), apply, commit (from the node's slot to the store's answer) or acknowledge";
    SLOT_WAIT_SECONDS = Histogram "tidegate_commit_slot_wait_seconds", "seconds", ["source"],
        "Time that a batch waited for one of the node's commits_max slots";
    BATCH_EVENTS = Histogram "tidegate_batch_events", "events", ["source"],
        "Events of a committed batch, emitted ones included";
    BATCH_BYTES = Histogram "tidegate_batch_bytes", "bytes", ["source"],
        "Bytes of log and entities that a committed batch writes";
    RECEIPT_TO_COMMIT = Histogram "tidegate_receipt_to_commit_seconds", "seconds", ["source"],
        "Time from receipt until the commit, of the oldest event of each tenant's part of a batch: no other event of that part took longer";
    EVENTS = Counter "tidegate_events_total", "events", ["source", "partition", "outcome"],
        "Events and effects by what became of them, counted when that is durable: admitted, duplicate, conflict, unreadable, looped_back, emitted; applied, rejected, ignored, dead, unhandled";
    TENANT_EVENTS = Counter "tidegate_tenant_events_total", "events", ["tenant", "outcome"],
        "The same by tenant. Tenants beyond telemetry.tenants_max are together `_other`";
    COMMITS = Counter "tidegate_commits_total", "commits", ["source", "partition", "result"],
        "Answers to commits: committed, surprised (applied again), fenced, unknown (the checkpoint is asked), unavailable, refused, failed";
    SURPRISES = Counter "tidegate_surprises_total", "surprises", ["source", "kind"],
        "What stood in the way of batches, which were then applied again: known_key, entity (another moved it), busy (another holds it)";
    DEDUPE_HITS = Counter "tidegate_dedupe_hits_total", "events", ["source", "found"],
        "Deliveries that had been settled before, by where that was found: checkpoint (by offset), memory or store (by idempotency key)";
    RECEIVE_ERRORS = Counter "tidegate_receive_errors_total", "errors", ["source", "kind"],
        "Polls of the bus that failed: transient, permanent, fenced or bug";
    CLAIMS = Counter "tidegate_claims_total", "claims", ["source"],
        "Source partitions that were claimed";
    RESTARTS = Counter "tidegate_restarts_total", "restarts", ["source"],
        "Ownerships that broke or stalled, and were claimed again";
    FENCES = Counter "tidegate_fences_total", "fences", ["source"],
        "Ownerships that another owner ended";
    QUARANTINES = Counter "tidegate_quarantines_total", "partitions", ["source"],
        "Source partitions that were stopped with an alarm";
    TENANTS_CREATED = Counter "tidegate_tenants_created_total", "tenants", ["source"],
        "Tenants that a source with `unknown_tenants: create` registered by their first event";
    LANE_WAITS = Counter "tidegate_lane_waits_total", "waits", ["tenant"],
        "Times that a source waited because a tenant's lane was full";
    STORE_SECONDS = Histogram "tidegate_store_seconds", "seconds", ["call"],
        "Time that the store took for a call of the node, failed ones included";
    STORE_ERRORS = Counter "tidegate_store_errors_total", "errors", ["call", "kind"],
        "Calls of the store that failed: unavailable, unknown, refused, failed or late (no answer within limits.store_answer_limit_seconds)";
}
