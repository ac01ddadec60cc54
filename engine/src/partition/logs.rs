//! The logs of a batch in the making: the records of its received events, and those of its emitted ones.

use std::sync::Arc;

use super::{Head, Partition};
use crate::clock::Timestamp;
use crate::commit::Segment;
use crate::event::Event;
use crate::position::{RecordPosition, Sequence, StreamName, StreamPartition};
use crate::record::{Effect, Entry, EntryBody};

use super::prepare::Draft;
use super::queue::{Origin, Queued};

/// What a batch adds to one log.
pub(super) struct LogDraft {
    pub head: Head,
    first_sequence: Sequence,
    count: u32,
    first_at: Option<Timestamp>,
    last_at: Timestamp,
    body: String,
}

impl LogDraft {
    /// Nothing yet, behind `head`.
    pub fn new(head: Head) -> Self {
        Self {
            head,
            first_sequence: head.next_sequence,
            count: 0,
            first_at: None,
            last_at: Timestamp(0),
            body: String::new(),
        }
    }

    /// Makes room for so many bytes of records.
    pub fn reserve(&mut self, bytes: usize) {
        self.body.reserve(bytes);
    }

    fn write(&mut self, entry: &Entry<'_>, at: Timestamp) {
        self.body.push(if self.count == 0 { '[' } else { ',' });
        self.first_at.get_or_insert(at);
        self.last_at = at;
        self.count += 1;
        let leaf = entry.write(&mut self.body);
        self.head.chain_head = self.head.chain_head.fold(leaf);
        self.head.next_sequence = entry.sequence.next();
    }

    /// The segment of `stream_partition` that it is, if there is any record in it.
    pub fn finish(mut self, stream_partition: StreamPartition) -> Option<Segment> {
        let first_at = self.first_at?;
        self.body.push(']');
        Some(Segment {
            stream_partition,
            first_sequence: self.first_sequence,
            count: self.count,
            first_at,
            last_at: self.last_at,
            chain_head: self.head.chain_head,
            body: Arc::from(self.body),
        })
    }
}

impl Draft {
    /// The log that an event of this origin goes to.
    pub fn log(&mut self, origin: &Origin) -> &mut LogDraft {
        match origin {
            Origin::Delivered(_) => &mut self.source,
            Origin::Emitted(..) => &mut self.internal,
        }
    }
}

impl<P> Partition<P> {
    /// The position of an event of this origin with that sequence.
    pub(super) fn position_of(&self, origin: &Origin, sequence: Sequence) -> RecordPosition {
        RecordPosition {
            stream: match origin {
                Origin::Delivered(_) => self.stream_partition.stream.clone(),
                Origin::Emitted(..) => self.internal.clone(),
            },
            source_partition: self.stream_partition.source_partition.clone(),
            sequence,
        }
    }

    /// The log of that stream, of the same tenant and source partition.
    pub(super) fn log_of(&self, stream: &StreamName) -> StreamPartition {
        StreamPartition {
            stream: stream.clone(),
            ..self.stream_partition.clone()
        }
    }

    /// Writes an event's record into its log.
    pub(super) fn write(
        &self,
        draft: &mut Draft,
        queued: &Queued<P>,
        event: &Event,
        sequence: Sequence,
        effects: &[Effect],
    ) {
        let at = queued.admitted_at;
        let stamp = match &draft.stamp {
            Some((stamped, text)) if *stamped == at => text.clone(),
            _ => {
                let text: Arc<str> = Arc::from(at.to_rfc3339());
                draft.stamp = Some((at, text.clone()));
                text
            }
        };
        let (offset, cause) = match &queued.origin {
            Origin::Delivered(offset) => (Some(*offset), None),
            Origin::Emitted(_, cause) => (None, Some(cause)),
        };
        let entry = Entry {
            sequence,
            offset,
            cause,
            admitted_at_text: &stamp,
            body: EntryBody::Event(event),
            effects,
        };
        draft.log(&queued.origin).write(&entry, at);
    }
}
