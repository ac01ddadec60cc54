//! A tenant's logs as one feed: each log in order of sequence, none of its records left out. Owns the marks
//! that say how far a reader came in each; never puts an order between logs, for there is none.

use std::collections::BTreeMap;

use tidegate_engine::commit::Segment;
use tidegate_engine::position::{
    RecordPosition, Sequence, SourcePartition, StreamName, StreamPartition,
};
use tidegate_engine::record::{Record, split_segment};
use tidegate_engine::store::{StateStore, StoreError, StreamHead};
use tidegate_engine::tenant::TenantId;

/// Logs that marks may name: a client that comes back names them all in a header.
pub const LOGS_MAX: usize = 1_000;

/// Up to so many logs their marks are the id of every event; of more they stand once in a while.
const LOGS_EACH_EVENT_MAX: usize = 32;

/// The mark of a reader who has read nothing. An empty text would be no id.
const START: &str = "start";

/// How far a reader came: of each log the sequence of the record that comes next. A log without a mark is
/// read from its beginning, so that one which is new misses nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Marks(BTreeMap<(StreamName, SourcePartition), Sequence>);

impl std::fmt::Display for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str(START);
        }
        let mut before = None;
        for ((stream, at), next) in &self.0 {
            let comma = if before.is_some() { "," } else { "" };
            let of = Some((stream, &at.source));
            if of == before {
                write!(f, "{comma}{}:{next}", at.partition)?;
            } else {
                write!(f, "{comma}{stream}:{at}:{next}")?;
            }
            before = of;
        }
        Ok(())
    }
}

impl Marks {
    /// `start`, or positions with commas between. What is the same as in the one before may be left out:
    /// `orders:api/0:17,1:5`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut marks = Self::default();
        if text == START {
            return Some(marks);
        }
        let mut before: Option<(StreamName, SourcePartition)> = None;
        for text in text.split(',') {
            let (log, next) = match (text.split_once(':')?, &before) {
                ((partition, next), Some((stream, at))) if !next.contains(':') => {
                    let at = SourcePartition {
                        source: at.source.clone(),
                        partition: partition.parse().ok()?,
                    };
                    ((stream.clone(), at), Sequence(next.parse().ok()?))
                }
                _ => {
                    let at: RecordPosition = text.parse().ok()?;
                    ((at.stream, at.source_partition), at.sequence)
                }
            };
            before = Some(log.clone());
            let is_second = marks.0.insert(log, next);
            if is_second.is_some() || marks.0.len() > LOGS_MAX {
                return None;
            }
        }
        Some(marks)
    }

    /// Names a log, from its beginning if it did not yet. False when there are too many.
    pub fn name(&mut self, log: &StreamPartition) -> bool {
        let log = (log.stream.clone(), log.source_partition.clone());
        if !self.0.contains_key(&log) && self.0.len() >= LOGS_MAX {
            return false;
        }
        self.0.entry(log).or_default();
        true
    }

    /// Short enough to stand at every event.
    pub fn are_short(&self) -> bool {
        self.0.len() <= LOGS_EACH_EVENT_MAX
    }

    /// Behind everything that is there.
    pub fn at(heads: &[StreamHead]) -> Self {
        let marks = heads.iter().map(|head| {
            let log = &head.stream_partition;
            let log = (log.stream.clone(), log.source_partition.clone());
            (log, head.next_sequence)
        });
        Self(marks.collect())
    }

    /// The first mark that no log reaches: it is of another store, or was made up.
    pub fn beyond(&self, heads: &[StreamHead]) -> Option<String> {
        let ends = Self::at(heads);
        let beyond = self.0.iter().find(|(log, next)| {
            let end = ends.0.get(log).copied().unwrap_or_default();
            **next > end
        });
        beyond
            .map(|((stream, source_partition), next)| format!("{stream}:{source_partition}:{next}"))
    }

    /// What comes next of a log.
    pub fn next(&self, log: &StreamPartition) -> Sequence {
        let log = (log.stream.clone(), log.source_partition.clone());
        self.0.get(&log).copied().unwrap_or_default()
    }

    /// What is before `next` was read.
    pub fn advance(&mut self, log: &StreamPartition, next: Sequence) {
        let log = (log.stream.clone(), log.source_partition.clone());
        self.0.insert(log, next);
    }
}

/// The heads of a tenant's logs, or of those of one stream.
pub async fn heads(
    store: &dyn StateStore,
    tenant: &TenantId,
    stream: Option<&StreamName>,
) -> Result<Vec<StreamHead>, StoreError> {
    let mut heads = store.stream_partitions(tenant).await?;
    heads.retain(|head| stream.is_none_or(|stream| head.stream_partition.stream == *stream));
    Ok(heads)
}

/// What comes next of a log of which something does.
pub enum Piece {
    /// A segment with what comes next in it.
    Segment(Segment),
    /// Retention dropped what stood before.
    DroppedBefore(Sequence),
}

/// The next piece of a log from `next`, which is before its head: a segment at most.
pub async fn piece(
    store: &dyn StateStore,
    log: &StreamPartition,
    next: Sequence,
    head: Sequence,
) -> Result<Piece, StoreError> {
    // Head and segment were committed together: what is not there now was dropped.
    let found = store.segments(log, next, 1).await?.into_iter().next();
    Ok(match found {
        None => Piece::DroppedBefore(head),
        Some(segment) if segment.first_sequence > next => {
            Piece::DroppedBefore(segment.first_sequence)
        }
        Some(segment) => Piece::Segment(segment),
    })
}

/// The records of a segment from `next` in order, each with its sequence; `None` for one that cannot be read.
/// Each is read when it is asked for: while a client is slow its text waits, and a record is many times that.
pub fn records(
    segment: &Segment,
    next: Sequence,
) -> impl Iterator<Item = (Sequence, Option<Record>)> + Send {
    let entries = split_segment(&segment.body).unwrap_or_default();
    let mut entries = entries.into_iter();
    let first = segment.first_sequence;
    (0..u64::from(segment.count)).filter_map(move |number| {
        let sequence = Sequence(first.0 + number);
        let entry = entries.next();
        if sequence < next {
            return None;
        }
        let record = entry.and_then(|entry| Record::read(entry.get()).ok());
        Some((sequence, record.map(|(record, _)| record)))
    })
}

#[cfg(test)]
mod tests {
    use super::Marks;

    #[test]
    fn marks_are_read_back_as_they_were_written_and_nothing_else_is_one() {
        for text in [
            "start",
            "orders:api/0:12",
            "internal:api/0:0,orders:api/1:5",
            "internal:api/0:3,orders:api/0:17,1:5,11:0,orders:files/0:9,1:9",
        ] {
            let marks = Marks::parse(text).expect("marks");
            assert_eq!(marks.to_string(), text);
        }
        let written_out = "orders:api/0:17,orders:api/1:5";
        let marks = Marks::parse(written_out).expect("marks");
        assert_eq!(marks.to_string(), "orders:api/0:17,1:5");
        for wrong in [
            "",
            "1:5",
            "a:b/0:1,0:2",
            "a:b/0:1,x:2",
            "a:b/0:1,1:",
            "now",
            "a:b/0",
            "a:b/0:1,",
            "a:b/0:1,a:b/0:2",
            "a:b/0:-1",
        ] {
            assert_eq!(Marks::parse(wrong), None, "{wrong}");
        }
    }
}
