//! One ownership of a source partition: what its source task, its committer and the tenants' partitions
//! share from claim to loss. A new claim makes a new one; whatever still holds the old one is a zombie
//! whose messages are dropped and whose commits the store fences.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_engine::checkpoint::OffsetTracker;
use tidegate_engine::position::{Epoch, Offset, SourcePartition, StreamName};
use tokio::sync::Notify;

/// How an ownership stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// We own it.
    Owned,
    /// Another owner has it: drop everything, and claim again only if the bus still assigns it to us.
    Fenced,
    /// Lost or broken: drop everything, claim again if it is still assigned.
    Broken {
        /// What happened, for the log.
        reason: String,
    },
    /// Stopped with an alarm: an operator decides.
    Stopped {
        /// What happened and what to do.
        reason: String,
    },
}

/// One ownership of a source partition.
#[derive(Debug)]
pub struct Ownership {
    /// Which source partition.
    pub source_partition: SourcePartition,
    /// The stream that its events become.
    pub stream: StreamName,
    /// The epoch of the claim.
    pub epoch: Epoch,
    /// Somebody waits for what becomes of each delivery.
    pub wants_settlements: bool,
    /// Notes receipt before routing and settlement after the commit; both sides touch it briefly and
    /// never across an await.
    tracker: Mutex<OffsetTracker>,
    standing: Mutex<Standing>,
    /// Rung whenever the tracker or the standing moved: the source task looks then.
    moved: std::sync::Arc<Notify>,
}

impl Ownership {
    /// A fresh ownership. `moved` is the bell of its source task.
    pub fn new(
        source_partition: SourcePartition,
        stream: StreamName,
        epoch: Epoch,
        wants_settlements: bool,
        tracker: OffsetTracker,
        moved: std::sync::Arc<Notify>,
    ) -> Self {
        Self {
            source_partition,
            stream,
            epoch,
            wants_settlements,
            tracker: Mutex::new(tracker),
            standing: Mutex::new(Standing::Owned),
            moved,
        }
    }

    /// The tracker; a panic elsewhere while it was held left it usable (each of its steps is whole).
    pub fn tracker(&self) -> MutexGuard<'_, OffsetTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// True while we own it.
    pub fn is_owned(&self) -> bool {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) == Standing::Owned
    }

    /// Ends the ownership; the first reason stays.
    pub fn end(&self, standing: Standing) {
        let mut current = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == Standing::Owned {
            *current = standing;
        }
        drop(current);
        self.moved.notify_one();
    }

    /// Marks offsets as settled and returns the low watermark.
    pub fn settle(&self, offsets: &[Offset]) -> Offset {
        let mut tracker = self.tracker();
        for offset in offsets {
            tracker.settle(*offset);
        }
        let low_watermark = tracker.low_watermark();
        drop(tracker);
        self.moved.notify_one();
        low_watermark
    }
}
