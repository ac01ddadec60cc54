//! What every part of one run shares: the trace, the count of faults, what was found wrong, the store's
//! tables and the broker. Both outlive every node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::commit::CommitBatch;
use tidegate_engine::position::{
    Epoch, Incarnation, Offset, Sequence, SourceName, SourcePartition, StreamPartition,
};
use tidegate_engine::store::StateStore;
use tokio::time::Instant;

use crate::census::Quiet;
use crate::check::{Check, Violation};
use crate::faults::{Counts, Fault, Rates};
use crate::trace::{LINES_MAX, Trace};
use crate::workload::PARTITIONS;

/// The name of the one source.
pub const SOURCE: &str = "orders";

/// The code of an error that no store is known to return.
pub const UNEXPECTED_CODE: &str = "SIM99";

/// Stage by the world, its nodes and their seams.
pub struct Stage {
    pub store: MemoryStore,
    pub broker: MemoryBusHandle,
    pub rates: Rates,
    /// Work waiting and no progress for so long is a stall, to the nodes.
    pub stall_limit: Duration,
    started: Instant,
    /// Faults of calls happen only while this holds.
    chaos: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    trace: Trace,
    counts: Counts,
    violations: Vec<Violation>,
    quiet: Quiet,
    /// Every claim in order: partition, claimant, epoch.
    claims: Vec<(u32, String, Epoch)>,
    /// Each source partition as it stood when somebody last looked.
    seen: BTreeMap<u32, Checkpoint>,
    /// Ownerships that an unexpected error must have stopped.
    stopped: Vec<(u32, Epoch)>,
    /// Commits that took effect.
    commits: u64,
    /// Which of them wrote the segment that begins there.
    written_by: BTreeMap<(StreamPartition, Sequence), u64>,
}

impl Stage {
    pub fn new(rates: Rates, stall_limit: Duration) -> Arc<Self> {
        let broker = MemoryBusHandle::new(SourceName::new(SOURCE).unwrap());
        for partition in 0..PARTITIONS {
            broker.create_partition(partition, Incarnation::new("one").unwrap());
        }
        Arc::new(Self {
            store: MemoryStore::new(),
            broker,
            rates,
            stall_limit,
            started: Instant::now(),
            chaos: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn set_chaos(&self, on: bool) {
        self.chaos.store(on, Ordering::SeqCst);
    }

    pub fn is_chaotic(&self) -> bool {
        self.chaos.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a line to the trace. False when the trace is full: nothing moves any more.
    pub fn trace(&self, who: &str, what: &str) -> bool {
        let line = format!("{:>10} {who} {what}", self.elapsed().as_micros());
        let mut state = self.state();
        if state.trace.len() >= LINES_MAX {
            if state.violations.is_empty() {
                let what = format!("{LINES_MAX} seam calls: something goes round in circles");
                let check = Check::Settled;
                state.violations.push(Violation { check, what });
            }
            return false;
        }
        state.trace.add(line);
        true
    }

    /// A fault took effect.
    pub fn count(&self, fault: Fault) {
        self.state().counts.add(fault, 1);
    }

    /// Something that is no fault, and that a run must have met.
    pub fn saw(&self, see: impl FnOnce(&mut Quiet)) {
        see(&mut self.state().quiet);
    }

    pub fn quiet(&self) -> Quiet {
        self.state().quiet
    }

    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// Something that must never be was seen.
    pub fn violation(&self, check: Check, what: String) {
        let mut state = self.state();
        let at = self.started.elapsed().as_micros();
        state.trace.add(format!("{at:>10} ! {check:?}: {what}"));
        state.violations.push(Violation { check, what });
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.state().violations.clone()
    }

    /// Reads the trace.
    pub fn with_trace<T>(&self, read: impl FnOnce(&Trace) -> T) -> T {
        read(&self.state().trace)
    }

    // --- claims and checkpoints ----------------------------------------------------------------

    pub fn claimed(&self, partition: u32, by: &str, epoch: Epoch) {
        self.state().claims.push((partition, by.to_owned(), epoch));
    }

    /// Who claimed a partition, in order, from the `skip`-th claim of all on.
    pub fn claimants(&self, partition: u32, skip: usize) -> Vec<String> {
        let state = self.state();
        let claims = state
            .claims
            .iter()
            .skip(skip)
            .filter(|claim| claim.0 == partition);
        claims.map(|claim| claim.1.clone()).collect()
    }

    /// Claims so far, of every partition.
    pub fn claims(&self) -> usize {
        self.state().claims.len()
    }

    /// A checkpoint as the tables hold it now. Nothing disturbs this handle, so nothing waits.
    pub fn checkpoint(&self, partition: u32) -> Option<Checkpoint> {
        let source_partition = source_partition(partition);
        let read = self.store.checkpoint(&source_partition).now_or_never();
        read.expect("an undisturbed store never waits")
            .expect("an undisturbed store never fails")
    }

    /// The first record of a partition below `end` that is not settled in the checkpoint as it stands.
    /// What is settled above the watermark counts: nobody will ever ask for it again.
    pub fn first_unsettled(&self, partition: u32, end: Offset) -> Option<Offset> {
        let progress = self.checkpoint(partition).map(|it| it.progress);
        let is_settled = |offset: &Offset| {
            progress.as_ref().is_some_and(|progress| {
                *offset < progress.next_offset || progress.done_above.contains(*offset)
            })
        };
        let records = self.broker.records(partition);
        let below = records
            .into_iter()
            .map(|record| record.0)
            .filter(|offset| *offset < end);
        below.into_iter().find(|offset| !is_settled(offset))
    }

    /// Looks at a commit that took effect: nobody of a later epoch had claimed its source partition.
    /// Asks no table, so that it can be called while the store is at it.
    pub fn check_owner(&self, partition: u32, epoch: Epoch) {
        let state = self.state();
        let claims = state.claims.iter().filter(|claim| claim.0 == partition);
        let owner = claims.map(|claim| claim.2).max();
        drop(state);
        if owner != Some(epoch) {
            self.violation(
                Check::Owned,
                format!("epoch {epoch} committed to partition {partition}, which {owner:?} owns"),
            );
        }
    }

    /// After an unexpected error no commit of that ownership may follow.
    pub fn must_stop(&self, partition: u32, epoch: Epoch) {
        self.state().stopped.push((partition, epoch));
    }

    /// A commit took effect, after all that did before.
    pub fn committed(&self, batch: &CommitBatch) {
        let mut state = self.state();
        state.commits += 1;
        let number = state.commits;
        for segment in &batch.segments {
            let start = (segment.stream_partition.clone(), segment.first_sequence);
            state.written_by.insert(start, number);
        }
    }

    /// The number of the commit that wrote the segment which begins there.
    pub fn written_by(&self, place: &StreamPartition, first: Sequence) -> Option<u64> {
        let state = self.state();
        state.written_by.get(&(place.clone(), first)).copied()
    }

    /// Looks at a checkpoint after a commit: it only ever grows, and by one revision a commit.
    pub fn look_after_commit(&self, partition: u32, epoch: Epoch) {
        if self.state().stopped.contains(&(partition, epoch)) {
            self.violation(
                Check::Stopped,
                format!("partition {partition}: epoch {epoch} went on after an unexpected error"),
            );
        }
        self.check_owner(partition, epoch);
        self.look(partition);
    }

    /// Looks at a checkpoint: nothing in it ever goes back.
    pub fn look(&self, partition: u32) {
        let Some(now) = self.checkpoint(partition) else {
            return;
        };
        let before = self.state().seen.insert(partition, now.clone());
        let Some(before) = before else { return };
        let grew = now.epoch >= before.epoch
            && now.revision >= before.revision
            && now.progress.next_offset >= before.progress.next_offset
            && now.progress.counts.received() >= before.progress.counts.received()
            && now.progress.counts.admitted >= before.progress.counts.admitted;
        if !grew {
            self.violation(
                Check::Checkpoint,
                format!("partition {partition} went back: {before:?} became {now:?}"),
            );
        }
    }
}

pub fn source_partition(partition: u32) -> SourcePartition {
    SourcePartition {
        source: SourceName::new(SOURCE).unwrap(),
        partition,
    }
}
