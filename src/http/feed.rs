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

/// Logs that marks may name: their text is the id of every event that is sent.
pub const LOGS_MAX: usize = 1_000;

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
        for (index, ((stream, source_partition), next)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{stream}:{source_partition}:{next}")?;
        }
        Ok(())
    }
}

impl Marks {
    /// `start`, or positions with commas between.
    pub fn parse(text: &str) -> Option<Self> {
        let mut marks = Self::default();
        if text == START {
            return Some(marks);
        }
        for text in text.split(',') {
            let at: RecordPosition = text.parse().ok()?;
            let is_second = marks
                .0
                .insert((at.stream, at.source_partition), at.sequence);
            if is_second.is_some() || marks.0.len() > LOGS_MAX {
                return None;
            }
        }
        Some(marks)
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
    /// Records in order, each with its sequence; `None` for one that cannot be read.
    Records(Vec<(Sequence, Option<Record>)>),
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
        Some(segment) => Piece::Records(records(&segment, next)),
    })
}

fn records(segment: &Segment, next: Sequence) -> Vec<(Sequence, Option<Record>)> {
    let entries = split_segment(&segment.body).unwrap_or_default();
    let mut entries = entries.into_iter();
    let mut records = Vec::new();
    for number in 0..u64::from(segment.count) {
        let sequence = Sequence(segment.first_sequence.0 + number);
        let entry = entries.next();
        if sequence >= next {
            let record = entry.and_then(|entry| Record::read(entry.get()).ok());
            records.push((sequence, record.map(|(record, _)| record)));
        }
    }
    records
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
        ] {
            let marks = Marks::parse(text).expect("marks");
            assert_eq!(marks.to_string(), text);
        }
        for wrong in [
            "",
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
