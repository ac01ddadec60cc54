//! A partition's part of a batch, and how much of one it may be.

use super::EventRef;
use super::letters::Notice;
use crate::bus::Settlement;
use crate::checkpoint::Counts;
use crate::commit::{DedupeMark, EntityRead, EntityWrite, OpenWork, Segment, WorkDone};
use crate::dead_letter::DeadLetter;
use crate::position::Offset;
use crate::tenant::TenantId;

/// How much of a batch one partition may fill.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allowance {
    /// Events at most.
    pub events_max: usize,
    /// Bytes at most; a first event that is larger goes alone.
    pub bytes_max: usize,
    /// Bytes of states and emitted events at most, which no delivery's size tells beforehand: the part ends
    /// with the event that reaches it.
    pub written_bytes_max: usize,
    /// Only deliveries in front of this offset, if there is one. Emitted events have none, and go.
    pub before: Option<Offset>,
}

/// What a partition can put into a batch.
#[derive(Debug)]
pub enum Prepared {
    /// Its part, to be settled or reset in the order of preparation.
    Part(Box<Part>),
    /// The next event waits for entities: load [`super::Partition::wanted`] first.
    Waiting,
    /// Nothing is queued that may go and is not prepared already.
    Empty,
}

/// One partition's part of a batch; arrays are sorted as [`crate::commit::CommitBatch`] asks.
#[derive(Debug, Default)]
pub struct Part {
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// Queued events in it: emitted ones, then received ones, duplicates and unreadable ones included.
    pub events: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Bytes of the states and the emitted events that it writes.
    pub written_bytes: usize,
    /// The offsets of the received ones, sorted.
    pub offsets: Vec<Offset>,
    /// The open work of the emitted ones.
    pub work_done: Vec<WorkDone>,
    /// What became of them.
    pub counts: Counts,
    /// The logs: a segment for each of the two to which something came.
    pub segments: Vec<Segment>,
    /// Marks of admitted keys.
    pub dedupe: Vec<DedupeMark>,
    /// Entities that moved.
    pub entities: Vec<EntityWrite>,
    /// Entities that were decided on and did not move.
    pub reads: Vec<EntityRead>,
    /// Emitted events.
    pub open_work: Vec<OpenWork>,
    /// Dead letters.
    pub dead_letters: Vec<DeadLetter>,
    /// What to tell of them once they are durable.
    pub notices: Vec<Notice>,
    /// What becomes of each delivery, in their order, where that is asked for.
    pub settlements: Vec<Settlement>,
}

impl Part {
    /// The event of a part that holds one.
    pub fn only_event(&self) -> Option<EventRef> {
        match (self.offsets.as_slice(), self.work_done.as_slice()) {
            ([offset], []) => Some(EventRef::Delivered(*offset)),
            ([], [done]) => Some(EventRef::Emitted(done.place)),
            _ => None,
        }
    }
}
