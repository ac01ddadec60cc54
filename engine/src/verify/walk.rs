//! Walks the log of one stream partition: checks sequences, leaves and chain, and hands out records.

use std::collections::VecDeque;

use super::{CheckedFor, Findings, Place};
use crate::chain::ChainHead;
use crate::commit::Segment;
use crate::position::{Sequence, StreamPartition};
use crate::record::{Record, split_segment};
use crate::store::{StateStore, StoreError, StreamHead};

/// Where the walk through one stream partition stands.
pub(super) struct Walk {
    /// Whose log.
    pub(super) stream_partition: StreamPartition,
    /// Records that retention dropped before the first one here.
    pub(super) dropped: u64,
    next: Sequence,
    /// `None` behind a record that could not be read: the next segment's head is taken as it stands.
    chain: Option<ChainHead>,
    ready: VecDeque<Record>,
    ended: bool,
    /// The log ends before the head that the store keeps.
    ends_early: bool,
    /// Only the first pass reports what is wrong with the log itself.
    reports: bool,
}

impl Walk {
    /// Begins at the anchor that retention left, else at sequence 0.
    pub(super) async fn begin(
        store: &dyn StateStore,
        stream_partition: StreamPartition,
        reports: bool,
    ) -> Result<Self, StoreError> {
        let anchor = store.chain_anchor(&stream_partition).await?;
        let (next, chain) = anchor.map_or((Sequence(0), ChainHead::default()), |anchor| {
            (anchor.next_sequence, anchor.chain_head)
        });
        Ok(Self {
            stream_partition,
            dropped: next.0,
            next,
            chain: Some(chain),
            ready: VecDeque::new(),
            ended: false,
            ends_early: false,
            reports,
        })
    }

    /// The next record, if it is read already.
    pub(super) fn peek(&self) -> Option<&Record> {
        self.ready.front()
    }

    /// Takes the next record.
    pub(super) fn pop(&mut self) -> Option<Record> {
        self.ready.pop_front()
    }

    /// Reads on until a record is ready or the log ends.
    pub(super) async fn fill(
        &mut self,
        store: &dyn StateStore,
        segments_max: u32,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        while self.ready.is_empty() && !self.ended {
            let segments = store
                .segments(&self.stream_partition, self.next, segments_max.max(1))
                .await?;
            if segments.is_empty() {
                self.ended = true;
            }
            for segment in &segments {
                self.take_in(segment, findings);
            }
        }
        Ok(())
    }

    /// True when the head is beyond what was read, and the log did not end before.
    pub(super) fn is_behind(&self, head: &StreamHead) -> bool {
        head.next_sequence > self.next && !self.ends_early
    }

    /// Compares where the log ended with the head that the store keeps. That the log grew while it was
    /// read is no difference.
    pub(super) async fn check_end(
        &mut self,
        store: &dyn StateStore,
        head: &StreamHead,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        if head.next_sequence > self.next {
            let behind = store.segments(&self.stream_partition, self.next, 1).await?;
            if !behind.is_empty() {
                return Ok(());
            }
            self.ends_early = true;
            self.differ(
                findings,
                CheckedFor::Sequence,
                self.next,
                format!("records up to sequence {}", head.next_sequence.0 - 1),
                "the log's end".to_owned(),
            );
        } else if let Some(chain) = self.chain
            && (head.next_sequence != self.next || chain != head.chain_head)
        {
            self.differ(
                findings,
                CheckedFor::Chain,
                self.next,
                format!("the log's end here with chain head {chain}"),
                format!("{} with {}", head.next_sequence, head.chain_head),
            );
        }
        Ok(())
    }

    fn take_in(&mut self, segment: &Segment, findings: &mut Findings) {
        if self.reports {
            findings.report.segments += 1;
        }
        if segment.first_sequence != self.next {
            self.differ(
                findings,
                CheckedFor::Sequence,
                self.next,
                format!("a segment that begins at sequence {}", self.next),
                format!("one that begins at {}", segment.first_sequence),
            );
            self.chain = None;
        }
        let entries = match split_segment(&segment.body) {
            Ok(entries) => entries,
            Err(error) => {
                self.differ(
                    findings,
                    CheckedFor::Record,
                    segment.first_sequence,
                    "a segment that can be read".to_owned(),
                    error.to_string(),
                );
                self.leave(segment);
                return;
            }
        };
        if entries.len() as u64 != u64::from(segment.count) || entries.is_empty() {
            self.differ(
                findings,
                CheckedFor::Sequence,
                segment.first_sequence,
                format!("a segment of {} records", segment.count),
                format!("{} records", entries.len()),
            );
        }
        let mut expected = segment.first_sequence;
        for entry in entries {
            self.take_entry(entry.get(), expected, findings);
            expected = expected.next();
        }
        if let Some(chain) = self.chain
            && chain != segment.chain_head
        {
            self.differ(
                findings,
                CheckedFor::Chain,
                segment.first_sequence,
                format!("chain head {} behind this segment", segment.chain_head),
                format!("{chain} over its records"),
            );
        }
        self.leave(segment);
    }

    fn take_entry(&mut self, text: &str, expected: Sequence, findings: &mut Findings) {
        findings.progress.records_done += 1;
        if self.reports {
            findings.report.records += 1;
        }
        match Record::read(text) {
            Ok((record, leaf)) => {
                self.chain = self.chain.map(|chain| chain.fold(leaf));
                if record.sequence != expected {
                    self.differ(
                        findings,
                        CheckedFor::Sequence,
                        expected,
                        format!("sequence {expected}"),
                        record.sequence.to_string(),
                    );
                }
                self.ready.push_back(record);
            }
            Err(error) => {
                self.chain = None;
                self.differ(
                    findings,
                    CheckedFor::Record,
                    expected,
                    "a record that is as it was written".to_owned(),
                    error.to_string(),
                );
            }
        }
    }

    /// Goes on behind a segment, by what it says of itself.
    fn leave(&mut self, segment: &Segment) {
        self.chain = Some(segment.chain_head);
        let behind = segment
            .first_sequence
            .0
            .saturating_add(u64::from(segment.count));
        // Never backwards, or a segment that lies about itself would be read for ever.
        self.next = Sequence(behind.max(self.next.0 + 1));
    }

    fn differ(
        &self,
        findings: &mut Findings,
        checked_for: CheckedFor,
        sequence: Sequence,
        expected: String,
        found: String,
    ) {
        if self.reports {
            let place = Place::Log {
                stream_partition: self.stream_partition.clone(),
                sequence,
            };
            findings.differ(checked_for, place, expected, found);
        }
    }
}
