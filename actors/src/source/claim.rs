//! A claim: epoch + 1, the checkpoint as it stands, and the proof that the source is still the one it
//! was written for.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_engine::bus::{EventBus, Start};
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::error::ErrorKind;
use tidegate_engine::position::{Incarnation, SourcePartition};
use tidegate_engine::store::Claim;

use crate::seams::Context;

/// What a claim needs.
pub(super) struct Request {
    pub context: Context,
    pub bus: Arc<dyn EventBus>,
    pub start: Start,
    pub source_partition: SourcePartition,
    pub incarnation: Incarnation,
    pub wait: Duration,
}

/// What came of it: the checkpoint under our epoch, or the reason why an operator has to decide.
pub(super) struct Claimed {
    pub source_partition: SourcePartition,
    pub checkpoint: Result<Checkpoint, String>,
}

/// What went wrong, and whether to try again.
struct Failure {
    kind: ErrorKind,
    detail: String,
}

impl Request {
    /// Claims, and tries again for as long as the store or the bus is only away. A panic is an answer
    /// too: without one the partition would be claimed for ever.
    pub async fn run(self) -> Claimed {
        let source_partition = self.source_partition.clone();
        let claimed = AssertUnwindSafe(self.claim()).catch_unwind().await;
        claimed.unwrap_or_else(|_| Claimed {
            source_partition,
            checkpoint: Err("its claim panicked; restart this node".to_owned()),
        })
    }

    async fn claim(self) -> Claimed {
        tokio::time::sleep(self.wait).await;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let failure = match self.attempt().await {
                Ok(checkpoint) => {
                    return Claimed {
                        source_partition: self.source_partition,
                        checkpoint: Ok(checkpoint),
                    };
                }
                Err(failure) => failure,
            };
            if failure.kind != ErrorKind::Transient {
                return Claimed {
                    source_partition: self.source_partition,
                    checkpoint: Err(failure.detail),
                };
            }
            tracing::warn!(partition = %self.source_partition, attempt, error = %failure.detail, "not claimed, trying again");
            let random = self.context.seams.ids.next_u64();
            tokio::time::sleep(self.context.options.back_off.wait(attempt, random)).await;
        }
    }

    async fn attempt(&self) -> Result<Checkpoint, Failure> {
        let store = &self.context.seams.store;
        let partition = self.source_partition.partition;
        let start = match store.checkpoint(&self.source_partition).await? {
            Some(checkpoint) => checkpoint.progress.next_offset,
            None => self.bus.start_offset(partition, self.start).await?,
        };
        let claim = Claim {
            source_partition: self.source_partition.clone(),
            owner: self.context.options.name.clone(),
            incarnation: self.incarnation.clone(),
            start,
        };
        let checkpoint = store.claim(claim).await?;
        self.check_source(&checkpoint).await?;
        Ok(checkpoint)
    }

    /// The last settled record must still be there, as it was.
    async fn check_source(&self, checkpoint: &Checkpoint) -> Result<(), Failure> {
        let other = |what: String| Failure {
            kind: ErrorKind::Permanent,
            detail: format!(
                "{}: {what}. The source was re-created, replaced or truncated: what the checkpoint calls settled is \
                 not what is there now. Nothing was read. Give the new source a name of its own, or restore the old one",
                self.source_partition
            ),
        };
        if checkpoint.incarnation != self.incarnation {
            return Err(other(format!(
                "the checkpoint belongs to incarnation `{}`, the source is `{}`",
                checkpoint.incarnation, self.incarnation
            )));
        }
        let Some(fingerprint) = checkpoint.progress.fingerprint else {
            return Ok(());
        };
        let found = self
            .bus
            .fingerprint_at(self.source_partition.partition, fingerprint.offset)
            .await?;
        match found {
            Some(hash) if hash == fingerprint.hash => Ok(()),
            Some(_) => Err(other(format!(
                "another record stands at offset {}",
                fingerprint.offset
            ))),
            None => Err(other(format!(
                "no record stands at offset {}",
                fingerprint.offset
            ))),
        }
    }
}

impl From<tidegate_engine::store::StoreError> for Failure {
    fn from(error: tidegate_engine::store::StoreError) -> Self {
        Self {
            kind: error.kind(),
            detail: error.to_string(),
        }
    }
}

impl From<tidegate_engine::bus::BusError> for Failure {
    fn from(error: tidegate_engine::bus::BusError) -> Self {
        Self {
            kind: error.kind(),
            detail: error.to_string(),
        }
    }
}
