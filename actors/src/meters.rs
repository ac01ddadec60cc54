//! What the movement counts and times. Every handle is resolved once, when a source, an ownership or a
//! tenant begins; on the way of events a handle is an atomic addition a batch, and no label is made.
//! Without a recorder in the process, as in a simulation, each of them does nothing. Durations are those of
//! tokio's clock, which a simulation holds still.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use tidegate_engine::checkpoint::Counts;
use tidegate_engine::commit::{CommitBatch, CommitReply, Surprises};
use tidegate_engine::error::ErrorKind;
use tidegate_engine::position::{SourceName, SourcePartition};
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use crate::names;

/// The label of all tenants that have no series of their own. No tenant can be called so.
pub const OTHER_TENANTS: &str = "_other";

/// How many words there are for what becomes of an event.
const OUTCOMES: usize = 11;

/// What became of events, with the words of the label `outcome`.
fn outcomes(counts: &Counts) -> [(&'static str, u64); OUTCOMES] {
    [
        ("admitted", counts.admitted),
        ("duplicate", counts.duplicates),
        ("conflict", counts.conflicts),
        ("unreadable", counts.unreadable),
        ("looped_back", counts.looped_back),
        ("emitted", counts.emitted),
        ("applied", counts.applied),
        ("rejected", counts.rejected),
        ("ignored", counts.ignored),
        ("dead", counts.dead),
        ("unhandled", counts.unhandled),
    ]
}

fn receive_errors(source: &str, kind: ErrorKind) -> Counter {
    let labels = [
        ("source", source.to_owned()),
        ("kind", error_kind(kind).to_owned()),
    ];
    counter!(names::RECEIVE_ERRORS, &labels)
}

fn error_kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Transient => "transient",
        ErrorKind::Permanent => "permanent",
        ErrorKind::Fenced => "fenced",
        ErrorKind::Bug => "bug",
    }
}

/// What may become of a call of the store that fails.
const STORE_ERROR_KINDS: [&str; 5] = ["late", "unavailable", "unknown", "refused", "failed"];

/// The node's own meters, which all of its actors share.
#[derive(Debug)]
pub(crate) struct Meters {
    store: BTreeMap<StoreCall, Histogram>,
    tenants: TenantSeries,
}

/// A call of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum StoreCall {
    Commit,
    Checkpoint,
    Claim,
    StreamHeads,
    LoadEntities,
    TenantsWithOpenWork,
    OpenWork,
    TenantStandings,
}

impl StoreCall {
    const ALL: [Self; 8] = [
        Self::Commit,
        Self::Checkpoint,
        Self::Claim,
        Self::StreamHeads,
        Self::LoadEntities,
        Self::TenantsWithOpenWork,
        Self::OpenWork,
        Self::TenantStandings,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Checkpoint => "checkpoint",
            Self::Claim => "claim",
            Self::StreamHeads => "stream_heads",
            Self::LoadEntities => "load_entities",
            Self::TenantsWithOpenWork => "tenants_with_open_work",
            Self::OpenWork => "open_work",
            Self::TenantStandings => "tenant_standings",
        }
    }
}

impl Meters {
    /// The meters of a node that shows so many tenants by name.
    pub fn new(tenants_max: usize) -> Arc<Self> {
        let timer = |call: &StoreCall| {
            let timer = histogram!(names::STORE_SECONDS, "call" => call.as_str());
            (*call, timer)
        };
        // At 0 from the start: of a series that begins with its first error, no rate and no rule sees that one.
        for (call, kind) in StoreCall::ALL
            .iter()
            .flat_map(|call| STORE_ERROR_KINDS.map(|kind| (call, kind)))
        {
            counter!(names::STORE_ERRORS, "call" => call.as_str(), "kind" => kind).increment(0);
        }
        Arc::new(Self {
            store: StoreCall::ALL.iter().map(timer).collect(),
            tenants: TenantSeries::new(tenants_max),
        })
    }

    /// The store answered, or nobody waits for its answer any more (`None`).
    pub fn called<T>(
        &self,
        call: StoreCall,
        took: Duration,
        answer: Option<&Result<T, StoreError>>,
    ) {
        if let Some(timer) = self.store.get(&call) {
            timer.record(took.as_secs_f64());
        }
        let kind = match answer {
            Some(Ok(_)) => return,
            None => "late",
            Some(Err(StoreError::Unavailable { .. })) => "unavailable",
            Some(Err(StoreError::OutcomeUnknown { .. })) => "unknown",
            Some(Err(StoreError::Refused { .. })) => "refused",
            Some(Err(StoreError::Unexpected { .. } | StoreError::NotReady(_))) => "failed",
        };
        counter!(names::STORE_ERRORS, "call" => call.as_str(), "kind" => kind).increment(1);
    }

    /// The meters of a tenant.
    pub fn tenant(&self, tenant: &TenantId) -> Arc<TenantMeters> {
        self.tenants.of(tenant)
    }
}

/// Says which series a tenant's metrics are in, also for who counts beside the node.
#[derive(Clone, Debug)]
pub struct TenantLabels(pub(crate) Arc<Meters>);

impl TenantLabels {
    /// The label `tenant`: its name while there is room for one more, else [`OTHER_TENANTS`].
    pub fn of(&self, tenant: &TenantId) -> String {
        self.0.tenant(tenant).label().to_owned()
    }
}

/// Who has a series of its own: the first so many tenants of this process. They keep it for as long as it
/// lives, for a counter that goes away and comes back is read as a restart.
#[derive(Debug)]
struct TenantSeries {
    tenants_max: usize,
    named: Mutex<BTreeMap<TenantId, Arc<TenantMeters>>>,
    other: Arc<TenantMeters>,
}

impl TenantSeries {
    fn new(tenants_max: usize) -> Self {
        Self {
            tenants_max,
            named: Mutex::default(),
            other: Arc::new(TenantMeters::new(OTHER_TENANTS)),
        }
    }

    fn of(&self, tenant: &TenantId) -> Arc<TenantMeters> {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(meters) = named.get(tenant) {
            return meters.clone();
        }
        if named.len() >= self.tenants_max {
            return self.other.clone();
        }
        let meters = Arc::new(TenantMeters::new(tenant.as_str()));
        named.insert(tenant.clone(), meters.clone());
        meters
    }
}

/// The meters of a tenant, or of all that have none of their own.
#[derive(Debug)]
pub(crate) struct TenantMeters {
    label: String,
    outcomes: [Counter; OUTCOMES],
    lane_waits: Counter,
}

impl TenantMeters {
    fn new(label: &str) -> Self {
        let outcome = |(outcome, _)| counter!(names::TENANT_EVENTS, "tenant" => label.to_owned(), "outcome" => outcome);
        Self {
            label: label.to_owned(),
            outcomes: outcomes(&Counts::default()).map(outcome),
            lane_waits: counter!(names::LANE_WAITS, "tenant" => label.to_owned()),
        }
    }

    /// What its label `tenant` says.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// So much of the tenant's is durable.
    pub fn settled(&self, counts: &Counts) {
        add(&self.outcomes, counts);
    }

    /// A source waits because the tenant's lane is full.
    pub fn lane_is_full(&self) {
        self.lane_waits.increment(1);
    }
}

fn add(counters: &[Counter; OUTCOMES], counts: &Counts) {
    for (counter, (_, count)) in counters.iter().zip(outcomes(counts)) {
        if count > 0 {
            counter.increment(count);
        }
    }
}

/// The meters of a source.
#[derive(Clone, Debug)]
pub(crate) struct SourceMeters {
    source: String,
    received: Counter,
    routed: Counter,
    route_seconds: Histogram,
    redelivered: Counter,
    claims: Counter,
    restarts: Counter,
    fences: Counter,
    quarantines: Counter,
    tenants_created: Counter,
}

impl SourceMeters {
    pub fn new(source: &SourceName) -> Self {
        let source = source.as_str().to_owned();
        let one = |name: &'static str| counter!(name, "source" => source.clone());
        for kind in [
            ErrorKind::Transient,
            ErrorKind::Permanent,
            ErrorKind::Fenced,
            ErrorKind::Bug,
        ] {
            receive_errors(&source, kind).increment(0);
        }
        Self {
            received: verb_events(&source, "receive"),
            routed: verb_events(&source, "route"),
            route_seconds: verb_seconds(&source, "route"),
            redelivered: dedupe_hits(&source, "checkpoint"),
            claims: one(names::CLAIMS),
            restarts: one(names::RESTARTS),
            fences: one(names::FENCES),
            quarantines: one(names::QUARANTINES),
            tenants_created: one(names::TENANTS_CREATED),
            source,
        }
    }

    /// Deliveries came, and so many of them had been settled before.
    pub fn received(&self, events: usize, settled_before: usize) {
        self.received.increment(events as u64);
        self.redelivered.increment(settled_before as u64);
    }

    /// Events of one poll went to their tenants.
    pub fn routed(&self, events: usize, took: Duration) {
        self.routed.increment(events as u64);
        self.route_seconds.record(took.as_secs_f64());
    }

    /// A poll failed.
    pub fn receive_failed(&self, kind: ErrorKind) {
        receive_errors(&self.source, kind).increment(1);
    }

    /// A source partition is ours.
    pub fn claimed(&self) {
        self.claims.increment(1);
    }

    /// An ownership broke and is claimed again.
    pub fn restarted(&self) {
        self.restarts.increment(1);
    }

    /// Another owner ended an ownership.
    pub fn fenced(&self) {
        self.fences.increment(1);
    }

    /// Tenants were registered by their first event.
    pub fn tenants_created(&self, tenants: usize) {
        self.tenants_created.increment(tenants as u64);
    }

    /// A source partition was stopped with an alarm.
    pub fn quarantined(&self) {
        self.quarantines.increment(1);
    }
}

fn verb_events(source: &str, verb: &'static str) -> Counter {
    counter!(names::VERB_EVENTS, "source" => source.to_owned(), "verb" => verb)
}

fn verb_seconds(source: &str, verb: &'static str) -> Histogram {
    histogram!(names::VERB_SECONDS, "source" => source.to_owned(), "verb" => verb)
}

fn dedupe_hits(source: &str, found: &'static str) -> Counter {
    counter!(names::DEDUPE_HITS, "source" => source.to_owned(), "found" => found)
}

/// The meters of one ownership: what its partitions and its committer do.
#[derive(Debug)]
pub(crate) struct OwnershipMeters {
    admitted: Counter,
    applied: Counter,
    committed: Counter,
    settled: Counter,
    pub apply_seconds: Histogram,
    pub commit_seconds: Histogram,
    pub acknowledge_seconds: Histogram,
    pub slot_wait_seconds: Histogram,
    batch_events: Histogram,
    batch_bytes: Histogram,
    receipt_to_commit: Histogram,
    outcomes: [Counter; OUTCOMES],
    results: [Counter; RESULTS.len()],
    surprises: [Counter; 3],
    hits_in_memory: Counter,
    hits_in_store: Counter,
}

/// How the store may answer a commit.
const RESULTS: [&str; 7] = [
    "committed",
    "surprised",
    "fenced",
    "unknown",
    "unavailable",
    "refused",
    "failed",
];

impl OwnershipMeters {
    pub fn new(place: &SourcePartition) -> Self {
        let source = place.source.as_str();
        let partition = place.partition.to_string();
        let of_partition = |name: &'static str, label: &'static str, value: &'static str| {
            let labels = [
                ("source", source.to_owned()),
                ("partition", partition.clone()),
                (label, value.to_owned()),
            ];
            counter!(name, &labels)
        };
        let of_source = |name: &'static str| histogram!(name, "source" => source.to_owned());
        let surprise = |kind: &'static str| counter!(names::SURPRISES, "source" => source.to_owned(), "kind" => kind);
        Self {
            admitted: verb_events(source, "admit"),
            applied: verb_events(source, "apply"),
            committed: verb_events(source, "commit"),
            settled: verb_events(source, "settle"),
            apply_seconds: verb_seconds(source, "apply"),
            commit_seconds: verb_seconds(source, "commit"),
            acknowledge_seconds: verb_seconds(source, "acknowledge"),
            slot_wait_seconds: of_source(names::SLOT_WAIT_SECONDS),
            batch_events: of_source(names::BATCH_EVENTS),
            batch_bytes: of_source(names::BATCH_BYTES),
            receipt_to_commit: of_source(names::RECEIPT_TO_COMMIT),
            outcomes: outcomes(&Counts::default())
                .map(|(outcome, _)| of_partition(names::EVENTS, "outcome", outcome)),
            results: RESULTS.map(|result| of_partition(names::COMMITS, "result", result)),
            surprises: ["known_key", "entity", "busy"].map(surprise),
            hits_in_memory: dedupe_hits(source, "memory"),
            hits_in_store: dedupe_hits(source, "store"),
        }
    }

    /// A part of a batch was made.
    pub fn prepared(&self, counts: &Counts, took: Duration) {
        self.admitted.increment(counts.received());
        self.applied.increment(counts.admitted + counts.looped_back);
        self.apply_seconds.record(took.as_secs_f64());
    }

    /// A batch is handed to the store, be it again.
    pub fn handed_over(&self, events: usize) {
        self.committed.increment(events as u64);
    }

    /// The store answered for a batch.
    pub fn replied(&self, reply: &Result<CommitReply, StoreError>) {
        let result = match reply {
            Ok(CommitReply::Committed { .. }) => 0,
            Ok(CommitReply::Surprised(_)) => 1,
            Ok(CommitReply::Fenced) => 2,
            Err(StoreError::OutcomeUnknown { .. }) => 3,
            Err(StoreError::Unavailable { .. }) => 4,
            Err(StoreError::Refused { .. }) => 5,
            Err(StoreError::Unexpected { .. } | StoreError::NotReady(_)) => 6,
        };
        if let Some(counter) = self.results.get(result) {
            counter.increment(1);
        }
    }

    /// What stood in the way of a batch.
    pub fn surprised(&self, surprises: &Surprises) {
        let counts = [
            surprises.known_keys.len(),
            surprises.entities.len(),
            surprises.busy.len(),
        ];
        for (counter, count) in self.surprises.iter().zip(counts) {
            counter.increment(count as u64);
        }
    }

    /// A batch is durable, `since_made` after it was made. So many of its duplicates and conflicts were
    /// found by the store; memory knew the others.
    pub fn settled(
        &self,
        batch: &CommitBatch,
        events: usize,
        counts: &Counts,
        since_made: Duration,
        hits_in_store: u64,
    ) {
        self.settled.increment(events as u64);
        self.batch_events.record(events as f64);
        let log = batch.segments.iter().map(|segment| segment.body.len());
        let entities = batch.entities.iter().map(|entity| entity.data.len());
        self.batch_bytes
            .record(log.chain(entities).sum::<usize>() as f64);
        for segment in &batch.segments {
            let waited_micros = batch.at.0.saturating_sub(segment.first_at.0).max(0);
            let waited_seconds = waited_micros as f64 / 1e6;
            self.receipt_to_commit
                .record(waited_seconds + since_made.as_secs_f64());
        }
        add(&self.outcomes, counts);
        let hits = counts.duplicates + counts.conflicts;
        self.hits_in_store.increment(hits_in_store);
        self.hits_in_memory
            .increment(hits.saturating_sub(hits_in_store));
    }
}
