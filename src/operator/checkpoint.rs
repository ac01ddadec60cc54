//! Moves the checkpoint of a source partition to where a person says, as one commit of its own: the engine
//! goes on from there, whatever stood in the way. Owns the claim and the commit; where to is the person's.

use std::sync::Arc;

use tidegate_engine::checkpoint::{Checkpoint, DoneAbove, Progress};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitPath, CommitReply};
use tidegate_engine::limits::RECLAIM_ATTEMPTS_MAX;
use tidegate_engine::position::{Offset, SourcePartition};
use tidegate_engine::store::{Claim, StateStore, StoreError};

/// Why a checkpoint stands where it stood.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Nothing was ever settled of it.
    #[error("{0} has no checkpoint: its source's `start` says where it begins")]
    NotFound(SourcePartition),
    /// Somebody claims it at the same time, again and again.
    #[error("{0}: a node claims it at the same time, again and again; try later")]
    InTheWay(SourcePartition),
    /// The store failed, or its answer was lost.
    #[error("{0}; look with `tidegate partitions list`, and say it again where nothing has moved")]
    Store(#[from] StoreError),
}

/// Moves a checkpoint and gives it as it was. Nobody owns the partition then who did before.
pub async fn move_checkpoint(
    store: &dyn StateStore,
    source_partition: &SourcePartition,
    next_offset: Offset,
    (owner, at): (&str, Timestamp),
) -> Result<Checkpoint, MoveError> {
    let found = store.checkpoint(source_partition).await?;
    let found = found.ok_or_else(|| MoveError::NotFound(source_partition.clone()))?;
    for _ in 0..RECLAIM_ATTEMPTS_MAX {
        let claim = Claim {
            source_partition: source_partition.clone(),
            owner: owner.to_owned(),
            incarnation: found.incarnation.clone(),
            start: next_offset,
        };
        let claimed = store.claim(claim).await?;
        let batch = Arc::new(moved(&claimed, next_offset, at));
        match store.commit(batch).await? {
            CommitReply::Committed { .. } => return Ok(claimed),
            // A batch without keys and entities meets nothing that could surprise.
            CommitReply::Fenced | CommitReply::Surprised(_) => {}
        }
    }
    Err(MoveError::InTheWay(source_partition.clone()))
}

/// A commit of nothing but where to go on. What is settled beyond is forgotten with what it was settled in, and
/// so is the record by which the source was known.
fn moved(checkpoint: &Checkpoint, next_offset: Offset, at: Timestamp) -> CommitBatch {
    CommitBatch {
        source_partition: checkpoint.source_partition.clone(),
        epoch: checkpoint.epoch,
        revision: checkpoint.revision,
        path: CommitPath::Fast,
        tenants: Vec::new(),
        progress: Progress {
            next_offset,
            done_above: DoneAbove::default(),
            fingerprint: None,
            counts: checkpoint.progress.counts,
        },
        segments: Vec::new(),
        dedupe: Vec::new(),
        entities: Vec::new(),
        reads: Vec::new(),
        open_work: Vec::new(),
        work_done: Vec::new(),
        dead_letters: Vec::new(),
        dead_letter_updates: Vec::new(),
        at,
    }
}
