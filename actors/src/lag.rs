//! How long the oldest record that is not settled has been known of. Pure; its owner brings the time.

use std::collections::VecDeque;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::position::Offset;

/// Marks kept. With more, the newest takes later offsets in under its own, earlier moment: the lag is then
/// said too large, never too small.
const MARKS_MAX: usize = 1_024;

/// When offsets of a source partition came to be known, and when they were written.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// When each was known.
    known: Line,
    /// When each was written, as far as the bus says so: a backlog is older than what is known of it.
    recorded: Line,
    /// The end of the source partition, as the bus said it last.
    end: Option<Offset>,
}

/// Offsets and moments.
#[derive(Debug, Default)]
struct Line {
    /// Everything before the offset, and not before the offset of an earlier one, is of the moment or later.
    /// Offsets grow.
    marks: VecDeque<(Offset, Timestamp)>,
}

impl Line {
    fn add(&mut self, end: Offset, at: Timestamp, settled: Offset) {
        self.forget(settled);
        let is_full = self.marks.len() >= MARKS_MAX;
        match self.marks.back_mut() {
            Some((known, _)) if end <= *known => {}
            Some((known, _)) if is_full => *known = end,
            _ if end > settled => self.marks.push_back((end, at)),
            _ => {}
        }
    }

    fn oldest(&mut self, settled: Offset) -> Option<Timestamp> {
        self.forget(settled);
        self.marks.front().map(|(_, at)| *at)
    }

    fn forget(&mut self, settled: Offset) {
        while self.marks.front().is_some_and(|(end, _)| *end <= settled) {
            self.marks.pop_front();
        }
    }
}

impl Marks {
    /// Everything before `end` is known now, since it was received or since the bus says where it ends.
    /// Everything before `settled` is settled.
    pub fn known(&mut self, end: Offset, at: Timestamp, settled: Offset) {
        self.known.add(end, at, settled);
    }

    /// What was received up to `end` was written then, or later.
    pub fn recorded(&mut self, end: Offset, at: Timestamp, settled: Offset) {
        self.recorded.add(end, at, settled);
    }

    /// Where the source partition ends, as the bus says.
    pub fn ends(&mut self, end: Offset, at: Timestamp, settled: Offset) {
        self.end = Some(end);
        self.known(end, at, settled);
    }

    /// Since when the oldest record that is not settled has been waiting: since it was written, where that is
    /// known, else since it has been known of.
    pub fn oldest(&mut self, settled: Offset) -> Option<Timestamp> {
        let known = self.known.oldest(settled)?;
        let recorded = self.recorded.oldest(settled);
        Some(recorded.map_or(known, |recorded| recorded.min(known)))
    }

    /// The end of the source partition, as the bus said it last.
    pub fn end(&self) -> Option<Offset> {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use tidegate_engine::clock::Timestamp;
    use tidegate_engine::position::Offset;

    use super::{MARKS_MAX, Marks};

    #[test]
    fn the_oldest_unsettled_record_is_as_old_as_what_first_told_of_it() {
        let mut marks = Marks::default();
        assert_eq!(marks.oldest(Offset(0)), None);
        marks.known(Offset(10), Timestamp(1), Offset(0));
        // The bus knows more than was received; its receipt later makes nobody younger.
        marks.ends(Offset(30), Timestamp(2), Offset(0));
        marks.known(Offset(20), Timestamp(3), Offset(0));
        assert_eq!(marks.oldest(Offset(9)), Some(Timestamp(1)));
        assert_eq!(marks.oldest(Offset(10)), Some(Timestamp(2)));
        assert_eq!(marks.oldest(Offset(29)), Some(Timestamp(2)));
        assert_eq!(
            marks.oldest(Offset(30)),
            None,
            "everything known is settled"
        );
        marks.ends(Offset(30), Timestamp(4), Offset(30));
        assert_eq!(marks.oldest(Offset(30)), None, "nothing new");
        assert_eq!(marks.end(), Some(Offset(30)));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_errs_to_the_older_side() {
        let mut marks = Marks::default();
        for number in 1..=10 * MARKS_MAX as u64 {
            marks.known(Offset(number), Timestamp(number as i64), Offset(0));
        }
        assert_eq!(marks.known.marks.len(), MARKS_MAX);
        let last = Offset(10 * MARKS_MAX as u64 - 1);
        assert_eq!(marks.oldest(last), Some(Timestamp(MARKS_MAX as i64)));
    }

    #[test]
    fn r41_a_backlog_is_as_old_as_its_oldest_record() {
        let mut marks = Marks::default();
        marks.ends(Offset(100), Timestamp(5_000), Offset(0));
        marks.recorded(Offset(10), Timestamp(1_000), Offset(0));
        marks.recorded(Offset(20), Timestamp(2_000), Offset(0));
        assert_eq!(marks.oldest(Offset(0)), Some(Timestamp(1_000)));
        assert_eq!(marks.oldest(Offset(10)), Some(Timestamp(2_000)));
        // Of what was not received yet it is only known that it is there.
        assert_eq!(marks.oldest(Offset(20)), Some(Timestamp(5_000)));
        assert_eq!(marks.oldest(Offset(100)), None);
    }
}
