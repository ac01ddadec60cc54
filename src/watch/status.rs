//! How a source partition stands, by what it does and not by how much it lags: from a window of looks at what
//! is settled and what is behind. Pure; its owner brings the looks.

use std::collections::VecDeque;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::position::Offset;

/// Looks kept, a second apart.
const LOOKS_MAX: usize = 30;

const LOOK_MICROS: i64 = 1_000_000;

/// How it stands, and the value that its metric has. 3 is that of one that is stopped, which nobody looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Nothing is behind, or it comes nearer to the end.
    Ok = 0,
    /// It moves, and more arrives than it settles.
    Slow = 1,
    /// Records wait and nothing was settled in the whole window.
    Stalled = 2,
    /// What is settled went back.
    Rewound = 4,
}

#[derive(Clone, Copy)]
struct Look {
    at: Timestamp,
    settled: Offset,
    behind: u64,
}

/// The looks at one source partition.
#[derive(Default)]
pub struct Window {
    looks: VecDeque<Look>,
}

impl Window {
    /// One look; one that comes sooner than a second after the one before says nothing new.
    pub fn look(&mut self, at: Timestamp, settled: Offset, behind: u64) -> Status {
        let last = self.looks.back();
        if last.is_none_or(|last| at.0 - last.at.0 >= LOOK_MICROS) {
            if self.looks.len() >= LOOKS_MAX {
                self.looks.pop_front();
            }
            self.looks.push_back(Look {
                at,
                settled,
                behind,
            });
        }
        self.status()
    }

    fn status(&self) -> Status {
        let (Some(first), Some(last)) = (self.looks.front(), self.looks.back()) else {
            return Status::Ok;
        };
        let pairs = || self.looks.iter().zip(self.looks.iter().skip(1));
        if pairs().any(|(before, after)| after.settled < before.settled) {
            return Status::Rewound;
        }
        // Whoever was at the end within the window keeps up.
        if self.looks.len() < LOOKS_MAX || self.looks.iter().any(|look| look.behind == 0) {
            return Status::Ok;
        }
        if last.settled == first.settled {
            return Status::Stalled;
        }
        match pairs().all(|(before, after)| after.behind >= before.behind)
            && last.behind > first.behind
        {
            true => Status::Slow,
            false => Status::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_engine::clock::Timestamp;
    use tidegate_engine::position::Offset;

    use super::{LOOKS_MAX, Status, Window};

    /// A window of looks, each a second after the one before.
    fn after(looks: impl Iterator<Item = (u64, u64)>) -> Status {
        let mut window = Window::default();
        let mut status = Status::Ok;
        for (second, (settled, behind)) in looks.enumerate() {
            let at = Timestamp(second as i64 * 1_000_000);
            status = window.look(at, Offset(settled), behind);
        }
        status
    }

    #[test]
    fn r41_status_goes_by_the_trend_of_a_window() {
        let long = 2 * LOOKS_MAX as u64;
        assert_eq!(after((0..long).map(|n| (n, 0))), Status::Ok);
        assert_eq!(
            after((0..long).map(|n| (n, 1_000 - n))),
            Status::Ok,
            "it catches up"
        );
        assert_eq!(after((0..long).map(|n| (n, 1_000 + n))), Status::Slow);
        assert_eq!(after((0..long).map(|_| (7, 1_000))), Status::Stalled);
        assert_eq!(after((0..long).map(|n| (7, n))), Status::Stalled);
        let short = LOOKS_MAX as u64 - 1;
        assert_eq!(
            after((0..short).map(|_| (7, 1_000))),
            Status::Ok,
            "too soon to say"
        );
        let at_the_end_once = |n| if n == long - 5 { (7, 0) } else { (7, 10) };
        assert_eq!(after((0..long).map(at_the_end_once)), Status::Ok);
        assert_eq!(after([(9, 1), (3, 7)].into_iter()), Status::Rewound);
    }
}
