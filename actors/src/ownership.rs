//! One ownership of a source partition: what its source task, its committer and the tenants' partitions
//! share from claim to loss. A new claim makes a new one; whatever still holds the old one is a zombie
//! whose messages are dropped and whose commits the store fences.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_engine::checkpoint::OffsetTracker;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::position::{Epoch, Offset, SourcePartition, StreamName};
use tidegate_engine::tenant::TenantId;
use tokio::sync::Notify;

use crate::lag::Marks;
use crate::meters::OwnershipMeters;

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
    /// When what is not settled came to be known. Taken after the tracker, where both are.
    marks: Mutex<Marks>,
    pub(crate) meters: OwnershipMeters,
    standing: Mutex<Standing>,
    /// Tenants with open work of before the claim, whose partitions have not told of it yet.
    open_before: Mutex<BTreeSet<TenantId>>,
    /// The committer knows of nothing that is to be done, emitted events included.
    idle: AtomicBool,
    /// Rung whenever the tracker or the standing moved: the source task looks then.
    moved: std::sync::Arc<Notify>,
}

impl Ownership {
    /// A fresh ownership. `open_before` are the tenants with open work of before it; `moved` is the bell of
    /// its source task.
    pub fn new(
        source_partition: SourcePartition,
        stream: StreamName,
        epoch: Epoch,
        wants_settlements: bool,
        tracker: OffsetTracker,
        open_before: BTreeSet<TenantId>,
        moved: std::sync::Arc<Notify>,
    ) -> Self {
        Self {
            meters: OwnershipMeters::new(&source_partition),
            source_partition,
            stream,
            epoch,
            wants_settlements,
            tracker: Mutex::new(tracker),
            marks: Mutex::default(),
            standing: Mutex::new(Standing::Owned),
            open_before: Mutex::new(open_before),
            idle: AtomicBool::new(true),
            moved,
        }
    }

    /// The tracker; a panic elsewhere while it was held left it usable (each of its steps is whole).
    pub fn tracker(&self) -> MutexGuard<'_, OffsetTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything before `next` was received by now; the first of it was written then, where that is known.
    pub fn received(&self, next: Offset, at: Timestamp, recorded: Option<Timestamp>) {
        let settled = self.tracker().low_watermark();
        let mut marks = self.marks();
        marks.known(next, at, settled);
        if let Some(recorded) = recorded {
            marks.recorded(next, recorded.min(at), settled);
        }
    }

    /// The bus says now where the source partition ends.
    pub fn ends(&self, end: Offset, at: Timestamp) {
        let settled = self.tracker().low_watermark();
        self.marks().ends(end, at, settled);
    }

    /// Since when the oldest record that is not settled has been waiting, as far as is known, and where the bus says that the
    /// source partition ends.
    pub fn lag(&self) -> (Option<Timestamp>, Option<Offset>) {
        let settled = self.tracker().low_watermark();
        let mut marks = self.marks();
        (marks.oldest(settled), marks.end())
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// True for a tenant whose open work of before the claim nobody has told of yet.
    pub fn has_open_work(&self, tenant: &TenantId) -> bool {
        self.open_before().contains(tenant)
    }

    /// The committer knows of a tenant's open work now.
    pub fn brought_up(&self, tenant: &TenantId) {
        if self.open_before().remove(tenant) {
            self.moved.notify_one();
        }
    }

    /// The committer has something to do, or nothing more.
    pub fn set_idle(&self, idle: bool) {
        if self.idle.swap(idle, Ordering::AcqRel) != idle {
            self.moved.notify_one();
        }
    }

    /// True when no emitted event waits, as far as this ownership knows: it was told of all there were
    /// before it.
    pub fn is_idle(&self) -> bool {
        self.open_before().is_empty() && self.idle.load(Ordering::Acquire)
    }

    /// True when everything that was received and everything that was emitted is settled.
    pub fn is_settled(&self) -> bool {
        // In this order: before the tracker settles a batch, its committer is said to be busy.
        self.tracker().tracked() == 0 && self.is_idle()
    }

    fn open_before(&self) -> MutexGuard<'_, BTreeSet<TenantId>> {
        self.open_before
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
