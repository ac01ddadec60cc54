//! The StateStore seam: one transaction a batch, and the reads that claims, people and `verify` need.
//! Every call names its tenant; a store never returns another tenant's row.

use std::sync::Arc;

use bytes::Bytes;

use crate::chain::ChainHead;
use crate::checkpoint::Checkpoint;
use crate::clock::Timestamp;
use crate::commit::{CommitBatch, CommitReply, EntityName, Segment, StoredEntity, WorkPlace};
use crate::dead_letter::{DeadLetter, DeadLetterState};
use crate::error::ErrorKind;
use crate::event::{CorrelationId, EventId};
use crate::hash::Hash128;
use crate::position::{
    Incarnation, Offset, RecordPosition, Sequence, SourcePartition, StreamPartition,
};
use crate::state::{EntityKey, MachineName, Status};
use crate::tenant::{TenantId, TenantStanding, TenantsAsked};
use crate::topics::{SourceTopic, TopicsFound};

/// The code of an answer that came and cannot be read: what it answers may have been written.
pub const CODE_ANSWER: &str = "answer";

/// What can go wrong with a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store is away, busy, or gave the transaction up (deadlock, timeout): nothing was written.
    #[error("store is not available: {detail}")]
    Unavailable {
        /// What the driver said, without connection strings.
        detail: String,
    },
    /// The connection was lost around COMMIT: the checkpoint's revision tells what happened.
    #[error("outcome of the commit is not known: {detail}")]
    OutcomeUnknown {
        /// What the driver said.
        detail: String,
    },
    /// The database refused the values themselves (22001, 22003, 22P02, 54000 or a code of ours).
    #[error("store refused the values ({code}): {detail}")]
    Refused {
        /// The SQLSTATE, or the embedded store's own code.
        code: String,
        /// What it said, without values.
        detail: String,
    },
    /// Anything else: never taken for the event's fault.
    #[error("store failed unexpectedly ({code}): {detail}")]
    Unexpected {
        /// The SQLSTATE, or the embedded store's own code.
        code: String,
        /// What it said, without values.
        detail: String,
    },
    /// The store is not what this binary needs: schema, role or settings. Names what to type.
    #[error("store is not ready: {0}")]
    NotReady(String),
}

impl StoreError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. } => {
                ErrorKind::Transient
            }
            StoreError::Refused { .. } => ErrorKind::Permanent,
            StoreError::Unexpected { .. } | StoreError::NotReady(_) => ErrorKind::Bug,
        }
    }
}

/// A claim of a source partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Which one.
    pub source_partition: SourcePartition,
    /// The claimant's name, for people.
    pub owner: String,
    /// The source's instance as the bus sees it: written only when there is no checkpoint yet.
    pub incarnation: Incarnation,
    /// Where to start when there is no checkpoint yet.
    pub start: Offset,
}

/// Where a stream partition's log ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamHead {
    /// Whose log.
    pub stream_partition: StreamPartition,
    /// The sequence of the next record.
    pub next_sequence: Sequence,
    /// The chain's head.
    pub chain_head: ChainHead,
}

/// Where the log of a stream partition begins after retention dropped what was before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChainAnchor {
    /// Whose log.
    pub stream_partition: StreamPartition,
    /// The first sequence that is still there, or will be next.
    pub next_sequence: Sequence,
    /// The chain's head before it.
    pub chain_head: ChainHead,
}

/// A stored definition of a machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredDefinition {
    /// The machine.
    pub machine: MachineName,
    /// The author's version.
    pub version: u64,
    /// The content address.
    pub hash: Hash128,
    /// The text.
    pub text: String,
    /// True for the one that applies.
    pub active: bool,
}

/// A machine's definition to be stored, with what its view needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewDefinition {
    /// The machine.
    pub machine: MachineName,
    /// The author's version.
    pub version: u64,
    /// The content address.
    pub hash: Hash128,
    /// The text.
    pub text: Arc<str>,
    /// The declared fields with their type's name, in order: the columns of the machine's view.
    pub fields: Vec<(String, &'static str)>,
}

/// A dead letter as people see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredDeadLetter {
    /// What was written.
    pub letter: DeadLetter,
    /// Where it stands.
    pub state: DeadLetterState,
    /// Attempts so far, the first included.
    pub attempts: u32,
}

/// Which dead letters are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeadLetterFilter {
    /// Only in that state.
    pub state: Option<DeadLetterState>,
    /// Only behind that id (paging is by id).
    pub after: Option<Hash128>,
}

/// What the index of events is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventLookup {
    /// Events with that id: one a source that uses it.
    Id(EventId),
    /// Events of that correlation.
    Correlation(CorrelationId),
}

/// A piece of open work as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredOpenWork {
    /// Its identity.
    pub id: Hash128,
    /// Its place in the order of its tenant and source partition.
    pub place: WorkPlace,
    /// What it is.
    pub kind: String,
    /// The record that caused it.
    pub cause: RecordPosition,
    /// The event's JSON form.
    pub event: Bytes,
}

/// The upkeep that a store is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upkeep {
    /// Now.
    pub now: Timestamp,
    /// Rotate the dedupe tables when the current one is older than this many microseconds.
    pub dedupe_window_micros: i64,
    /// Drop log segments whose last record is older than this many microseconds; `None` keeps all. An
    /// open dead letter that points to a record holds its segment, and what stands behind it in its
    /// log; open work has its event with it and holds nothing.
    pub retention_micros: Option<i64>,
}

/// What a store did in its upkeep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UpkeepDone {
    /// The dedupe tables were rotated.
    pub rotated: bool,
    /// Segments that retention dropped; where counting would cost too much, an estimate.
    pub segments_dropped: u64,
    /// Segments that are older than what retention keeps, and stay for an open dead letter's sake.
    pub segments_held: u64,
    /// Records that the index of events does not know yet; `None` when the store was told to have none.
    pub index_lag_records: Option<u64>,
}

/// What a store can and cannot do; the contract suite skips a case only by one of these, and prints it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Several processes may write at once.
    pub concurrent_writers: bool,
    /// Roles and row-level security.
    pub roles: bool,
    /// It survives the end of the process.
    pub durable: bool,
}

/// Where state lives.
#[async_trait::async_trait]
pub trait StateStore: Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    // --- ownership and commit -----------------------------------------------------------------

    /// Takes a source partition: epoch + 1, and the checkpoint as it stands (made when there is none).
    async fn claim(&self, claim: Claim) -> Result<Checkpoint, StoreError>;

    /// A checkpoint as it stands.
    async fn checkpoint(
        &self,
        source_partition: &SourcePartition,
    ) -> Result<Option<Checkpoint>, StoreError>;

    /// Every checkpoint, in order of source partition.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError>;

    /// Commits a batch: all of it, durably, or nothing.
    async fn commit(&self, batch: Arc<CommitBatch>) -> Result<CommitReply, StoreError>;

    /// The heads of a tenant's stream partitions in one source partition.
    async fn stream_heads(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError>;

    /// The named entities (all of `tenant`), in any order; those that do not exist are left out.
    async fn load_entities(
        &self,
        tenant: &TenantId,
        names: Vec<EntityName>,
    ) -> Result<Vec<StoredEntity>, StoreError>;

    /// How tenants stand that events name: one answer a name, in their order. What it registers is durable
    /// before it answers, and is registered once whoever asks at the same time; a closed tenant stays so.
    async fn tenant_standings(
        &self,
        asked: TenantsAsked,
    ) -> Result<Vec<TenantStanding>, StoreError>;

    /// Every topic of the source that was ever found, in order of number, with what `found` adds taken up as
    /// [`take_up`](crate::topics::take_up) says; durable before it answers, and once whoever asks at the same
    /// time.
    async fn source_topics(&self, found: TopicsFound) -> Result<Vec<SourceTopic>, StoreError>;

    // --- definitions --------------------------------------------------------------------------

    /// Every stored definition, by machine and version.
    async fn definitions(&self) -> Result<Vec<StoredDefinition>, StoreError>;

    /// Stores a definition if its hash is new, and makes it the active one of its machine.
    /// Whether it *may* be is decided by the engine before, on what it read then; a version that is
    /// stored with another text meanwhile, or is below a stored one, is refused.
    async fn activate_definition(
        &self,
        definition: NewDefinition,
        at: Timestamp,
    ) -> Result<(), StoreError>;

    /// How many entities of a machine are in each status, over all tenants.
    async fn entities_by_status(
        &self,
        machine: &MachineName,
    ) -> Result<Vec<(Status, u64)>, StoreError>;

    // --- reads for people and `verify` ---------------------------------------------------------

    /// Every tenant that has anything stored, in order.
    async fn tenants(&self) -> Result<Vec<TenantId>, StoreError>;

    /// Every stream partition of a tenant, with its head, in order.
    async fn stream_partitions(&self, tenant: &TenantId) -> Result<Vec<StreamHead>, StoreError>;

    /// Where the log of a stream partition begins when retention dropped something.
    async fn chain_anchor(
        &self,
        stream_partition: &StreamPartition,
    ) -> Result<Option<ChainAnchor>, StoreError>;

    /// Segments that contain `from` or stand behind it, in order, at most `limit`.
    async fn segments(
        &self,
        stream_partition: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError>;

    /// Where a tenant's events stand that have that id or correlation, in order of stream, source
    /// partition and sequence, behind `after`, at most `limit`. From an index that upkeep carries on behind the log:
    /// [`UpkeepDone::index_lag_records`] says how far.
    async fn event_positions(
        &self,
        tenant: &TenantId,
        wanted: &EventLookup,
        after: Option<&RecordPosition>,
        limit: u32,
    ) -> Result<Vec<RecordPosition>, StoreError>;

    /// A tenant's entities in order of machine and key, behind `after`, at most `limit`.
    async fn entities(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError>;

    /// A tenant's dead letters in order of id, at most `limit`.
    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError>;

    /// How many open dead letters a tenant has; counted no further than `at_most`. A store that counts
    /// without reading them says so itself.
    async fn open_dead_letters(&self, tenant: &TenantId, at_most: u32) -> Result<u64, StoreError> {
        let open = DeadLetterFilter {
            state: Some(DeadLetterState::Open),
            after: None,
        };
        let letters = self.dead_letters(tenant, open, at_most).await?;
        Ok(letters.len() as u64)
    }

    /// One dead letter.
    async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError>;

    /// The tenants that have open work of one source partition, in order, behind `after`, at most `limit`.
    async fn tenants_with_open_work(
        &self,
        source_partition: &SourcePartition,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, StoreError>;

    /// A tenant's open work of one source partition, in order of place, behind `after`, at most `limit`.
    async fn open_work(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError>;

    // --- upkeep -------------------------------------------------------------------------------

    /// Rotation, partitions ahead, retention, and the index of events a piece further.
    async fn upkeep(&self, upkeep: Upkeep) -> Result<UpkeepDone, StoreError>;
}
