//! A store that keeps the time of its commits. Owns the stopwatch only: every call goes on as it is.

use std::sync::{Arc, Mutex, PoisonError};

use hdrhistogram::Histogram;
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::{Clock as _, Timestamp};
use tidegate_engine::commit::{
    CommitBatch, CommitReply, EntityName, Segment, StoredEntity, WorkPlace,
};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::{RecordPosition, Sequence, SourcePartition, StreamPartition};
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::store::{
    Capabilities, ChainAnchor, Claim, DeadLetterFilter, EventLookup, NewDefinition, StateStore,
    StoreError, StoredDeadLetter, StoredDefinition, StoredOpenWork, StreamHead, Upkeep, UpkeepDone,
};
use tidegate_engine::tenant::{TenantId, TenantStanding, TenantsAsked};
use tidegate_engine::topics::{SourceTopic, TopicsFound};

use crate::runtime::SystemClock;

/// Three digits say more than a machine repeats.
const DIGITS: u8 = 3;

/// Microseconds that the histogram tells apart at most: a commit of ten minutes is counted as that.
const MICROS_MAX: u64 = 600_000_000;

/// A store, and how long its commits took.
pub struct TimedStore {
    store: Arc<dyn StateStore>,
    commits: Mutex<Histogram<u64>>,
}

impl TimedStore {
    /// Measures `store`.
    pub fn new(store: Arc<dyn StateStore>) -> Result<Self, hdrhistogram::CreationError> {
        let commits = Mutex::new(Histogram::new_with_bounds(1, MICROS_MAX, DIGITS)?);
        Ok(Self { store, commits })
    }

    /// The times of every commit that took place, in microseconds. What met a surprise and wrote
    /// nothing is not among them.
    pub fn commits(&self) -> Histogram<u64> {
        self.commits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[async_trait::async_trait]
impl StateStore for TimedStore {
    async fn commit(&self, batch: Arc<CommitBatch>) -> Result<CommitReply, StoreError> {
        let began = SystemClock.now();
        let reply = self.store.commit(batch).await;
        if let Ok(CommitReply::Committed { .. }) = &reply {
            let micros = u64::try_from(SystemClock.now().0 - began.0).unwrap_or(0);
            self.commits
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .saturating_record(micros);
        }
        reply
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    async fn claim(&self, claim: Claim) -> Result<Checkpoint, StoreError> {
        self.store.claim(claim).await
    }

    async fn checkpoint(&self, at: &SourcePartition) -> Result<Option<Checkpoint>, StoreError> {
        self.store.checkpoint(at).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.store.checkpoints().await
    }

    async fn stream_heads(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        self.store.stream_heads(tenant, source_partition).await
    }

    async fn load_entities(
        &self,
        tenant: &TenantId,
        names: Vec<EntityName>,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        self.store.load_entities(tenant, names).await
    }

    async fn tenant_standings(
        &self,
        asked: TenantsAsked,
    ) -> Result<Vec<TenantStanding>, StoreError> {
        self.store.tenant_standings(asked).await
    }

    async fn source_topics(&self, found: TopicsFound) -> Result<Vec<SourceTopic>, StoreError> {
        self.store.source_topics(found).await
    }

    async fn definitions(&self) -> Result<Vec<StoredDefinition>, StoreError> {
        self.store.definitions().await
    }

    async fn activate_definition(
        &self,
        definition: NewDefinition,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.store.activate_definition(definition, at).await
    }

    async fn entities_by_status(
        &self,
        machine: &MachineName,
    ) -> Result<Vec<(Status, u64)>, StoreError> {
        self.store.entities_by_status(machine).await
    }

    async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        self.store.tenants().await
    }

    async fn stream_partitions(&self, tenant: &TenantId) -> Result<Vec<StreamHead>, StoreError> {
        self.store.stream_partitions(tenant).await
    }

    async fn chain_anchor(&self, at: &StreamPartition) -> Result<Option<ChainAnchor>, StoreError> {
        self.store.chain_anchor(at).await
    }

    async fn segments(
        &self,
        stream_partition: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        self.store.segments(stream_partition, from, limit).await
    }

    async fn entities(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        self.store.entities(tenant, after, limit).await
    }

    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        self.store.dead_letters(tenant, filter, limit).await
    }

    async fn open_dead_letters(&self, tenant: &TenantId, at_most: u32) -> Result<u64, StoreError> {
        self.store.open_dead_letters(tenant, at_most).await
    }

    async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        self.store.dead_letter(tenant, id).await
    }

    async fn tenants_with_open_work(
        &self,
        source_partition: &SourcePartition,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, StoreError> {
        let store = &self.store;
        store
            .tenants_with_open_work(source_partition, after, limit)
            .await
    }

    async fn open_work(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        let store = &self.store;
        store
            .open_work(tenant, source_partition, after, limit)
            .await
    }

    async fn event_positions(
        &self,
        tenant: &TenantId,
        wanted: &EventLookup,
        after: Option<&RecordPosition>,
        limit: u32,
    ) -> Result<Vec<RecordPosition>, StoreError> {
        let store = &self.store;
        store.event_positions(tenant, wanted, after, limit).await
    }

    async fn upkeep(&self, upkeep: Upkeep) -> Result<UpkeepDone, StoreError> {
        self.store.upkeep(upkeep).await
    }
}
