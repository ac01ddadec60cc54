//! The fault seam of the memory store: what a simulation may do to a call at its start and at its end.
//! Owns no randomness and no clock; a hook decides, from its seed, by the call's name.

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::commit::{CommitBatch, EntityName};
use tidegate_engine::position::SourcePartition;
use tidegate_engine::store::StoreError;

/// A call of the store, by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)] // Each is the method of `StateStore` of that name.
pub enum StoreOperation {
    Claim,
    Checkpoint,
    Checkpoints,
    Commit,
    StreamHeads,
    LoadEntities,
    TenantStandings,
    SourceTopics,
    Definitions,
    ActivateDefinition,
    EntitiesByStatus,
    Tenants,
    StreamPartitions,
    ChainAnchor,
    Segments,
    EventPositions,
    Entities,
    DeadLetters,
    DeadLetter,
    TenantsWithOpenWork,
    OpenWork,
    Upkeep,
}

/// One call, as a hook sees it.
#[derive(Clone, Copy, Debug)]
pub struct StoreCall<'c> {
    /// Which method.
    pub operation: StoreOperation,
    /// The source partition it is about, when it is about one.
    pub source_partition: Option<&'c SourcePartition>,
    /// The batch, when it is a commit.
    pub batch: Option<&'c Arc<CommitBatch>>,
}

/// How a call ended before its end is disturbed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallOutcome {
    /// A commit that is now durable.
    Committed,
    /// A commit that found surprises; nothing was written.
    Surprised {
        /// Keys that were known.
        known_keys: usize,
        /// Entities of another version.
        entities: usize,
        /// Entities that were busy.
        busy: usize,
    },
    /// A commit of another owner or revision; nothing was written.
    Fenced,
    /// Any other call that succeeded.
    Done,
    /// The store itself said no.
    Failed,
}

/// What happens at the start of a call, before it has any effect.
#[derive(Clone, Debug, Default)]
pub enum AtStart {
    /// Nothing.
    #[default]
    Proceed,
    /// The call fails and has no effect, ever. `OutcomeUnknown` here is the lost commit that was
    /// not done.
    Fail(StoreError),
    /// The call never returns and has no effect.
    Stall,
    /// The caller is told that the outcome is unknown, and the commit arrives later, right before
    /// the `after_calls`-th following call on any handle: a connection died while its COMMIT was
    /// still on the way. The usual checks then decide whether it takes effect. For other calls than
    /// commits it is the same as failing.
    Late {
        /// What the caller is told.
        error: StoreError,
        /// Which following call, 1 being the next one.
        after_calls: u32,
    },
}

/// What happens at the end of a call, when it has had its effect.
#[derive(Clone, Debug, Default)]
pub enum AtEnd {
    /// Nothing.
    #[default]
    Proceed,
    /// The caller is told this instead. `OutcomeUnknown` here is the lost reply.
    Fail(StoreError),
    /// The call never returns, although it had its effect.
    Stall,
}

/// A hook that disturbs calls. Every method has the quiet answer as its default.
pub trait StoreFaults: Send + Sync + 'static {
    /// How long the call is on its way to the store, and what becomes of it there.
    fn at_start(&self, call: &StoreCall<'_>) -> (Duration, AtStart) {
        let _ = call;
        (Duration::ZERO, AtStart::Proceed)
    }

    /// A call that was made to fail at its start has now failed; unless its caller is gone, it is told.
    fn failed(&self, call: &StoreCall<'_>, error: &StoreError) {
        let _ = (call, error);
    }

    /// How long the reply is on its way back, and what becomes of it.
    fn at_end(&self, call: &StoreCall<'_>, outcome: CallOutcome) -> (Duration, AtEnd) {
        let _ = (call, outcome);
        (Duration::ZERO, AtEnd::Proceed)
    }

    /// Entities of the batch that another transaction holds. Those that do not exist yet are passed
    /// over: a row that is not there cannot be locked.
    fn busy(&self, batch: &CommitBatch) -> Vec<EntityName> {
        let _ = batch;
        Vec::new()
    }

    /// A commit that was [`AtStart::Late`] has now arrived, with that outcome.
    fn arrived_late(&self, batch: &CommitBatch, outcome: CallOutcome) {
        let _ = (batch, outcome);
    }
}

/// The hook that disturbs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl StoreFaults for NoFaults {}
