//! The durable position of a source partition, and the tracker that moves it. The store's checkpoint,
//! never the broker's offset, decides where a source partition resumes and what in it is already done.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::hash::Hash128;
use crate::limits::TRACKED_RECORDS_MAX;
use crate::planted::{Bug, active};
use crate::position::{Epoch, Incarnation, Offset, Revision, SourcePartition};

/// How often each outcome happened in a source partition, ever. What was delivered adds up:
/// `received = admitted + duplicates + conflicts + unreadable`. What machines emitted adds up by itself:
/// `emitted = looped_back + what is open work`. Every event of either is `unhandled` or has one effect per
/// machine that listens, but for a looped back one of which the store refuses even the record: it is kept
/// as a dead letter alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Deliveries that got a sequence number.
    pub admitted: u64,
    /// Deliveries dropped because their key was known.
    pub duplicates: u64,
    /// Deliveries whose key was known with other content.
    pub conflicts: u64,
    /// Deliveries that are no event.
    pub unreadable: u64,
    /// Effects that moved an entity.
    pub applied: u64,
    /// Effects that a machine refused.
    pub rejected: u64,
    /// Effects that a machine did not care about.
    pub ignored: u64,
    /// Effects that need a person.
    pub dead: u64,
    /// Admitted and looped back events to which no machine listens.
    pub unhandled: u64,
    /// Events emitted by machines.
    pub emitted: u64,
    /// Emitted events that were taken up again; they are no deliveries, and not `admitted` ones.
    pub looped_back: u64,
}

impl Counts {
    /// Adds another count, field by field.
    pub fn add(&mut self, other: &Counts) {
        self.admitted += other.admitted;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.unreadable += other.unreadable;
        self.applied += other.applied;
        self.rejected += other.rejected;
        self.ignored += other.ignored;
        self.dead += other.dead;
        self.unhandled += other.unhandled;
        self.emitted += other.emitted;
        self.looped_back += other.looped_back;
    }

    /// Deliveries that were settled, whatever became of them.
    pub fn received(&self) -> u64 {
        self.admitted + self.duplicates + self.conflicts + self.unreadable
    }
}

/// A record below the low watermark, by which a re-created or truncated source is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The record's offset.
    pub offset: Offset,
    /// The hash of its bytes.
    pub hash: Hash128,
}

/// A run of offsets: every record received from `first` to `last` (both included) is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DoneRange {
    /// First offset.
    pub first: Offset,
    /// Last offset.
    pub last: Offset,
}

/// What is settled beyond the low watermark, in order and without overlap; bounded.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DoneAbove(pub Vec<DoneRange>);

impl DoneAbove {
    /// True when the record at `offset` is settled.
    pub fn contains(&self, offset: Offset) -> bool {
        let after = self.0.partition_point(|range| range.first <= offset);
        after
            .checked_sub(1)
            .and_then(|index| self.0.get(index))
            .is_some_and(|range| offset <= range.last)
    }
}

/// The part of a checkpoint that a commit writes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    /// The low watermark: below it everything is settled.
    pub next_offset: Offset,
    /// What is settled beyond it.
    pub done_above: DoneAbove,
    /// A settled record to recognise the source by.
    pub fingerprint: Option<Fingerprint>,
    /// Outcomes so far.
    pub counts: Counts,
}

/// The durable row of a source partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Whose row it is.
    pub source_partition: SourcePartition,
    /// The ownership that may commit.
    pub epoch: Epoch,
    /// Who claimed that epoch: a node's name, for people.
    pub owner: String,
    /// Commits so far.
    pub revision: Revision,
    /// Which instance of the source it belongs to.
    pub incarnation: Incarnation,
    /// Where it stands.
    pub progress: Progress,
}

impl Checkpoint {
    /// The offset behind everything that is settled.
    pub fn settled_end(&self) -> Offset {
        let Progress {
            next_offset,
            done_above,
            ..
        } = &self.progress;
        let last = done_above.0.last().map(|range| Offset(range.last.0 + 1));
        last.map_or(*next_offset, |end| end.max(*next_offset))
    }
}

/// What the tracker knows of one received record.
#[derive(Clone, Copy, Debug)]
struct Tracked {
    offset: Offset,
    next: Offset,
    fingerprint: Option<Hash128>,
    settled: bool,
}

/// Follows the records of one source partition from receipt to settlement. Goes by what was received,
/// so holes in the offsets (transactions, compaction) do not stop the watermark.
#[derive(Debug)]
pub struct OffsetTracker {
    next_offset: Offset,
    resumed: DoneAbove,
    fingerprint: Option<Fingerprint>,
    records: VecDeque<Tracked>,
}

/// True when the watermark goes on from `at` over a settled record at `offset`: whatever lies between holds no
/// record.
fn reaches(at: Offset, offset: Offset) -> bool {
    at == offset || !active(Bug::ContiguousOffsets)
}

/// What the tracker says of a received record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receipt {
    /// New: route it.
    New,
    /// Settled already, by this owner or an earlier one: drop it.
    AlreadyDone,
}

impl OffsetTracker {
    /// Resumes at a checkpoint.
    pub fn resume(progress: &Progress) -> Self {
        Self {
            next_offset: progress.next_offset,
            resumed: progress.done_above.clone(),
            fingerprint: progress.fingerprint,
            records: VecDeque::new(),
        }
    }

    /// Takes note of a received record. `next` is the offset right behind it. Records come in
    /// order of offset; what stands before one already received is a redelivery.
    pub fn receive(
        &mut self,
        offset: Offset,
        next: Offset,
        fingerprint: Option<Hash128>,
    ) -> Receipt {
        let seen = self
            .records
            .back()
            .is_some_and(|last| offset <= last.offset);
        if offset < self.next_offset || seen {
            return Receipt::AlreadyDone;
        }
        let settled = !active(Bug::ResumeWithoutDoneAbove) && self.resumed.contains(offset);
        self.records.push_back(Tracked {
            offset,
            next,
            fingerprint,
            settled,
        });
        self.advance();
        if settled {
            Receipt::AlreadyDone
        } else {
            Receipt::New
        }
    }

    /// Marks a received record as settled.
    pub fn settle(&mut self, offset: Offset) {
        if let Some(record) = self.find(offset) {
            record.settled = true;
        }
        self.advance();
    }

    /// The low watermark.
    pub fn low_watermark(&self) -> Offset {
        self.next_offset
    }

    /// The oldest received record that is not settled.
    pub fn oldest_unsettled(&self) -> Option<Offset> {
        self.records.front().map(|record| record.offset)
    }

    /// Records received and not yet below the watermark.
    pub fn tracked(&self) -> usize {
        self.records.len()
    }

    /// The progress as it would stand if `also_settled` (sorted) were settled too: what a commit writes.
    /// `counts` come from the caller.
    pub fn progress_with(&self, also_settled: &[Offset], counts: Counts) -> Progress {
        let mut next_offset = self.next_offset;
        let mut fingerprint = self.fingerprint;
        let mut ranges: Vec<DoneRange> = Vec::new();
        let mut joined = true;
        let mut extend = false;
        let mut also = also_settled.iter().peekable();
        for record in &self.records {
            while also.next_if(|offset| **offset < record.offset).is_some() {}
            let settled =
                record.settled || also.next_if(|offset| **offset == record.offset).is_some();
            if joined && settled && reaches(next_offset, record.offset) {
                next_offset = record.next;
                if let Some(hash) = record.fingerprint {
                    fingerprint = Some(Fingerprint {
                        offset: record.offset,
                        hash,
                    });
                }
                continue;
            }
            joined = false;
            if !settled {
                extend = false;
            } else if extend && let Some(range) = ranges.last_mut() {
                range.last = record.offset;
            } else {
                ranges.push(DoneRange {
                    first: record.offset,
                    last: record.offset,
                });
                extend = true;
            }
        }
        // What an earlier owner settled beyond what we have received so far stays settled.
        let received_to = self
            .records
            .back()
            .map_or(next_offset, |record| record.offset.next());
        for range in &self.resumed.0 {
            if range.last < received_to.max(next_offset) {
                continue;
            }
            match ranges.last_mut() {
                Some(open) if extend && range.first <= open.last => open.last = range.last,
                _ => ranges.push(DoneRange {
                    first: range.first.max(received_to),
                    last: range.last,
                }),
            }
        }
        Progress {
            next_offset,
            done_above: DoneAbove(ranges),
            fingerprint,
            counts,
        }
    }

    /// Where settling has to end for now. While `done_above` has `ranges_max` ranges or more: behind the
    /// oldest `window` records that are not settled, in flight and not yet routed ones included; what is
    /// settled within adds no more ranges than the window has records. While too much is settled above the
    /// watermark: behind the oldest `window` records, settled or not, so that no more comes above it.
    pub fn settle_before(&self, ranges_max: usize, window: usize) -> Option<Offset> {
        let behind = if self.records.len() >= TRACKED_RECORDS_MAX {
            self.records.get(window)
        } else if self.ranges() >= ranges_max {
            let mut unsettled = self.records.iter().filter(|record| !record.settled);
            unsettled.nth(window)
        } else {
            return None;
        };
        let received_to = || self.records.back().map(|last| last.offset.next());
        behind.map(|record| record.offset).or_else(received_to)
    }

    /// Ranges that `done_above` would have now.
    fn ranges(&self) -> usize {
        let mut ranges = self.resumed.0.len();
        let mut extend = false;
        for record in &self.records {
            if record.settled && !extend {
                ranges += 1;
            }
            extend = record.settled;
        }
        ranges
    }

    fn find(&mut self, offset: Offset) -> Option<&mut Tracked> {
        let index = self
            .records
            .binary_search_by(|record| record.offset.cmp(&offset))
            .ok()?;
        self.records.get_mut(index)
    }

    fn advance(&mut self) {
        while let Some(record) = self.records.front().filter(|record| record.settled) {
            if !reaches(self.next_offset, record.offset) {
                break;
            }
            self.next_offset = record.next;
            if let Some(hash) = record.fingerprint {
                self.fingerprint = Some(Fingerprint {
                    offset: record.offset,
                    hash,
                });
            }
            self.records.pop_front();
        }
        let next_offset = self.next_offset;
        if self
            .resumed
            .0
            .first()
            .is_some_and(|range| range.last < next_offset)
        {
            self.resumed.0.retain(|range| range.last >= next_offset);
        }
    }
}

#[cfg(test)]
mod tests;
