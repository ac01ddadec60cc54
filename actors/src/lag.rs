//! How long the oldest record that is not settled has been known of. Pure; its owner brings the time.

use std::collections::VecDeque;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::position::Offset;

/// Marks kept. With more, the newest takes later offsets in under its own, earlier moment: the lag is then
/// said too large, never too small.
const MARKS_MAX: usize = 1_024;

/// When offsets of a source partition came to be known.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Everything before the offset was known at the moment. Both grow.
    marks: VecDeque<(Offset, Timestamp)>,
    /// The end of the source partition, as the bus said it last.
    end: Option<Offset>,
}

impl Marks {
    /// Everything before `end` is known now, since it was received or since the bus says where it ends.
    /// Everything before `settled` is settled.
    pub fn known(&mut self, end: Offset, at: Timestamp, settled: Offset) {
        self.forget(settled);
        let is_full = self.marks.len() >= MARKS_MAX;
        match self.marks.back_mut() {
            Some((known, _)) if end <= *known => {}
            Some((known, _)) if is_full => *known = end,
            _ if end > settled => self.marks.push_back((end, at)),
            _ => {}
        }
    }

    /// Where the source partition ends, as the bus says.
    pub fn ends(&mut self, end: Offset, at: Timestamp, settled: Offset) {
        self.end = Some(end);
        self.known(end, at, settled);
    }

    /// Since when the oldest record that is not settled has been known of.
    pub fn oldest(&mut self, settled: Offset) -> Option<Timestamp> {
        self.forget(settled);
        self.marks.front().map(|(_, at)| *at)
    }

    /// The end of the source partition, as the bus said it last.
    pub fn end(&self) -> Option<Offset> {
        self.end
    }

    fn forget(&mut self, settled: Offset) {
        while self.marks.front().is_some_and(|(end, _)| *end <= settled) {
            self.marks.pop_front();
        }
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
        assert_eq!(marks.marks.len(), MARKS_MAX);
        let last = Offset(10 * MARKS_MAX as u64 - 1);
        assert_eq!(marks.oldest(last), Some(Timestamp(MARKS_MAX as i64)));
    }
}
