//! The memory store: the semantics of the SQL stores in ordered maps behind one lock. It is the store
//! of the simulation and of tests, and it is the shortest text that says what a commit means. It
//! outlives a crashed system (clones share the tables) and never the process.
//!
//! **A commit** asks in this order, and writes only when every answer is yes: is the batch in form
//! ([`super::batch_form`]); is its writer still the owner, at that revision (else `Fenced`); is no key
//! known in either dedupe table and every entity at its expected version (else all of the surprises at
//! once); does each segment begin where its log ends, is each entity in the row that is named, is each
//! dead letter open that is to be updated, is all work there that is done (else an error with a code). Under one lock the fast and the
//! careful path are the same path, and no row is ever busy but by an injected fault.
//!
//! **Every call** is synchronous inside the lock; what may wait stands before and after it, where a
//! [`StoreFaults`] hook can delay, fail or stall the call. A clone made by
//! [`MemoryStore::with_faults`] has a hook of its own over the same tables: two nodes are disturbed
//! apart, and a checker reads undisturbed.
//!
//! **Time** comes in with the calls: a batch's own and [`Upkeep::now`]. The first upkeep begins the
//! dedupe window; before it, no key is ever forgotten.

mod access;
mod faults;
mod reads;
mod tables;
mod upkeep;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::Timestamp;
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
use tidegate_engine::topics::{SourceTopic, TopicsFound, take_up};

pub use faults::{AtEnd, AtStart, CallOutcome, NoFaults, StoreCall, StoreFaults, StoreOperation};
use tables::Tables;

use super::process_leases::ProcessLeases;

/// A store in memory.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
    faults: Arc<dyn StoreFaults>,
}

#[derive(Default)]
struct Shared {
    tables: Tables,
    /// Commits that were sent and have not arrived (see [`AtStart::Late`]), in order of sending.
    late: Vec<Late>,
    leases: ProcessLeases,
}

struct Late {
    batch: Arc<CommitBatch>,
    /// It arrives right before the call that finds 1 here.
    calls_before: u32,
    faults: Arc<dyn StoreFaults>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").finish_non_exhaustive()
    }
}

impl MemoryStore {
    /// An empty store that nothing disturbs.
    pub fn new() -> Self {
        Self {
            shared: Arc::default(),
            faults: Arc::new(NoFaults),
        }
    }

    /// The same tables, with calls disturbed by `faults`.
    #[must_use]
    pub fn with_faults(&self, faults: Arc<dyn StoreFaults>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            faults,
        }
    }

    /// Commits that were sent and have not arrived yet.
    pub fn commits_on_their_way(&self) -> usize {
        self.lock().late.len()
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic inside is a bug of ours in front of the writes; what is stored is still whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call: its way here, its effect under the lock, its way back.
    async fn call<T>(
        &self,
        call: StoreCall<'_>,
        effect: impl FnOnce(&mut Tables) -> Result<T, StoreError> + Send,
        outcome: impl FnOnce(&T) -> CallOutcome + Send,
    ) -> Result<T, StoreError> {
        let (delay, start) = self.faults.at_start(&call);
        travel(delay).await;
        match start {
            AtStart::Proceed => {}
            AtStart::Fail(error) => {
                self.faults.failed(&call, &error);
                return Err(error);
            }
            AtStart::Late { error, after_calls } => {
                if let Some(batch) = call.batch {
                    self.lock().late.push(Late {
                        batch: Arc::clone(batch),
                        calls_before: after_calls,
                        faults: Arc::clone(&self.faults),
                    });
                }
                return Err(error);
            }
            AtStart::Stall => return std::future::pending().await,
        }
        let result = {
            let mut shared = self.lock();
            shared.let_late_commits_arrive();
            effect(&mut shared.tables)
        };
        let seen = result.as_ref().map_or(CallOutcome::Failed, outcome);
        let (delay, end) = self.faults.at_end(&call, seen);
        travel(delay).await;
        match end {
            AtEnd::Proceed => result,
            AtEnd::Fail(error) => Err(error),
            AtEnd::Stall => std::future::pending().await,
        }
    }

    /// A call that only reads or that has no outcome of its own.
    async fn plain<T>(
        &self,
        operation: StoreOperation,
        source_partition: Option<&SourcePartition>,
        effect: impl FnOnce(&mut Tables) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let call = StoreCall {
            operation,
            source_partition,
            batch: None,
        };
        self.call(call, effect, |_| CallOutcome::Done).await
    }
}

impl Shared {
    /// Counts one more call against the commits on their way and lets those arrive that are due.
    fn let_late_commits_arrive(&mut self) {
        let mut waiting = Vec::with_capacity(self.late.len());
        for mut late in std::mem::take(&mut self.late) {
            if late.calls_before > 1 {
                late.calls_before -= 1;
                waiting.push(late);
            } else {
                let reply = self.tables.commit(&late.batch, &[]);
                let outcome = reply.as_ref().map_or(CallOutcome::Failed, commit_outcome);
                late.faults.arrived_late(&late.batch, outcome);
            }
        }
        self.late = waiting;
    }
}

fn commit_outcome(reply: &CommitReply) -> CallOutcome {
    match reply {
        CommitReply::Committed { .. } => CallOutcome::Committed,
        CommitReply::Surprised(surprises) => CallOutcome::Surprised {
            known_keys: surprises.known_keys.len(),
            entities: surprises.entities.len(),
            busy: surprises.busy.len(),
        },
        CommitReply::Fenced => CallOutcome::Fenced,
    }
}

/// No timer at all for no delay: a timer would yield and change the order of everything else.
async fn travel(delay: std::time::Duration) {
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
}

#[async_trait::async_trait]
impl StateStore for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            concurrent_writers: true,
            roles: false,
            durable: false,
        }
    }

    async fn claim(&self, claim: Claim) -> Result<Checkpoint, StoreError> {
        let source_partition = claim.source_partition.clone();
        self.plain(
            StoreOperation::Claim,
            Some(&source_partition),
            move |tables| Ok(tables.claim(claim)),
        )
        .await
    }

    async fn checkpoint(
        &self,
        source_partition: &SourcePartition,
    ) -> Result<Option<Checkpoint>, StoreError> {
        self.plain(
            StoreOperation::Checkpoint,
            Some(source_partition),
            |tables| Ok(tables.checkpoints.get(source_partition).cloned()),
        )
        .await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.plain(StoreOperation::Checkpoints, None, |tables| {
            Ok(tables.checkpoints.values().cloned().collect())
        })
        .await
    }

    async fn commit(&self, batch: Arc<CommitBatch>) -> Result<CommitReply, StoreError> {
        let call = StoreCall {
            operation: StoreOperation::Commit,
            source_partition: Some(&batch.source_partition),
            batch: Some(&batch),
        };
        let busy = self.faults.busy(&batch);
        self.call(call, |tables| tables.commit(&batch, &busy), commit_outcome)
            .await
    }

    async fn stream_heads(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        self.plain(
            StoreOperation::StreamHeads,
            Some(source_partition),
            |tables| Ok(tables.stream_heads(tenant, Some(source_partition))),
        )
        .await
    }

    async fn load_entities(
        &self,
        tenant: &TenantId,
        names: Vec<EntityName>,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        self.plain(StoreOperation::LoadEntities, None, |tables| {
            tables.load_entities(tenant, &names)
        })
        .await
    }

    async fn tenant_standings(
        &self,
        asked: TenantsAsked,
    ) -> Result<Vec<TenantStanding>, StoreError> {
        self.plain(StoreOperation::TenantStandings, None, |tables| {
            Ok(tables.access.standings(&asked))
        })
        .await
    }

    async fn source_topics(&self, found: TopicsFound) -> Result<Vec<SourceTopic>, StoreError> {
        self.plain(StoreOperation::SourceTopics, None, |tables| {
            let known = tables.topics.entry(found.source).or_default();
            take_up(known, &found.topics)?;
            Ok(known.clone())
        })
        .await
    }

    async fn definitions(&self) -> Result<Vec<StoredDefinition>, StoreError> {
        self.plain(StoreOperation::Definitions, None, |tables| {
            Ok(tables.definitions.values().cloned().collect())
        })
        .await
    }

    async fn activate_definition(
        &self,
        definition: NewDefinition,
        _at: Timestamp,
    ) -> Result<(), StoreError> {
        self.plain(StoreOperation::ActivateDefinition, None, |tables| {
            tables.activate_definition(definition)
        })
        .await
    }

    async fn entities_by_status(
        &self,
        machine: &MachineName,
    ) -> Result<Vec<(Status, u64)>, StoreError> {
        self.plain(StoreOperation::EntitiesByStatus, None, |tables| {
            Ok(tables.entities_by_status(machine))
        })
        .await
    }

    async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        self.plain(StoreOperation::Tenants, None, |tables| {
            Ok(tables.tenants.keys().cloned().collect())
        })
        .await
    }

    async fn stream_partitions(&self, tenant: &TenantId) -> Result<Vec<StreamHead>, StoreError> {
        self.plain(StoreOperation::StreamPartitions, None, |tables| {
            Ok(tables.stream_heads(tenant, None))
        })
        .await
    }

    async fn chain_anchor(
        &self,
        stream_partition: &StreamPartition,
    ) -> Result<Option<ChainAnchor>, StoreError> {
        self.plain(
            StoreOperation::ChainAnchor,
            Some(&stream_partition.source_partition),
            |tables| Ok(tables.chain_anchor(stream_partition)),
        )
        .await
    }

    async fn segments(
        &self,
        stream_partition: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        self.plain(
            StoreOperation::Segments,
            Some(&stream_partition.source_partition),
            |tables| Ok(tables.segments(stream_partition, from, limit)),
        )
        .await
    }

    async fn event_positions(
        &self,
        tenant: &TenantId,
        wanted: &EventLookup,
        after: Option<&RecordPosition>,
        limit: u32,
    ) -> Result<Vec<RecordPosition>, StoreError> {
        self.plain(StoreOperation::EventPositions, None, |tables| {
            Ok(tables.event_positions(tenant, wanted, after, limit))
        })
        .await
    }

    async fn entities(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        self.plain(StoreOperation::Entities, None, |tables| {
            Ok(tables.entities_of(tenant, after, limit))
        })
        .await
    }

    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        self.plain(StoreOperation::DeadLetters, None, |tables| {
            Ok(tables.dead_letters_of(tenant, filter, limit))
        })
        .await
    }

    async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        self.plain(StoreOperation::DeadLetter, None, |tables| {
            Ok(tables.dead_letter(tenant, id).cloned())
        })
        .await
    }

    async fn tenants_with_open_work(
        &self,
        source_partition: &SourcePartition,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, StoreError> {
        self.plain(
            StoreOperation::TenantsWithOpenWork,
            Some(source_partition),
            |tables| Ok(tables.tenants_with_open_work(source_partition, after, limit)),
        )
        .await
    }

    async fn open_work(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        self.plain(StoreOperation::OpenWork, Some(source_partition), |tables| {
            Ok(tables.open_work_of(tenant, source_partition, after, limit))
        })
        .await
    }

    async fn upkeep(&self, upkeep: Upkeep) -> Result<UpkeepDone, StoreError> {
        self.plain(StoreOperation::Upkeep, None, |tables| {
            Ok(tables.upkeep(upkeep))
        })
        .await
    }
}

#[cfg(test)]
mod tests;
