//! The owner of a source partition: claims, builds, commits and goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitReply};
use tidegate_engine::position::{Sequence, SourcePartition, StreamPartition};
use tidegate_engine::store::{StateStore, StoreError};

use super::draft::Draft;
use super::{Entry, claim_of};

/// The owner of one source partition: knows its checkpoint and where each of its logs ends.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The checkpoint as it stands.
    pub checkpoint: Checkpoint,
    /// Where each stream partition goes on; those not listed begin.
    pub heads: BTreeMap<StreamPartition, (Sequence, ChainHead)>,
    /// The admission time of the next batch.
    pub now: Timestamp,
}

impl Writer {
    /// Claims a source partition and reads where its logs end.
    pub async fn claim(
        store: &dyn StateStore,
        source_partition: &SourcePartition,
        owner: &str,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let checkpoint = store.claim(claim_of(source_partition, owner)).await?;
        let mut heads = BTreeMap::new();
        for tenant in store.tenants().await? {
            for head in store.stream_heads(&tenant, source_partition).await? {
                let end = (head.next_sequence, head.chain_head);
                heads.insert(head.stream_partition, end);
            }
        }
        Ok(Self {
            checkpoint,
            heads,
            now,
        })
    }

    /// The batch that admits these events, in this order, one offset each. Entities that several of
    /// them move are folded into one write.
    pub fn batch(&self, entries: &[Entry]) -> CommitBatch {
        let mut draft = Draft::new(self);
        for entry in entries {
            draft.take_in(entry);
        }
        draft.finish()
    }

    /// Goes on behind a batch that was committed.
    pub fn settle(&mut self, batch: &CommitBatch) {
        self.checkpoint.revision = batch.revision.next();
        self.checkpoint.progress = batch.progress.clone();
        for segment in &batch.segments {
            let next = Sequence(segment.first_sequence.0 + u64::from(segment.count));
            self.heads
                .insert(segment.stream_partition.clone(), (next, segment.chain_head));
        }
    }

    /// Commits these events, and goes on behind them when they are durable.
    pub async fn commit(
        &mut self,
        store: &dyn StateStore,
        entries: &[Entry],
    ) -> Result<CommitReply, StoreError> {
        let batch = self.batch(entries);
        self.commit_batch(store, batch).await
    }

    /// Commits a batch of this writer, and goes on behind it when it is durable.
    pub async fn commit_batch(
        &mut self,
        store: &dyn StateStore,
        batch: CommitBatch,
    ) -> Result<CommitReply, StoreError> {
        let batch = Arc::new(batch);
        let reply = store.commit(Arc::clone(&batch)).await?;
        if matches!(reply, CommitReply::Committed { .. }) {
            self.settle(&batch);
        }
        Ok(reply)
    }
}
