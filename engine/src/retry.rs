//! The failure policy, in one place: what an [`ErrorKind`] means for a commit, a claim or an event, and
//! how long to wait before the next attempt.

use std::time::Duration;

use crate::error::ErrorKind;

/// What to do after a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disposition {
    /// Wait, then try the same again; order and permits are kept.
    RetryAfter(Duration),
    /// This can never succeed: find the event at fault and make it dead.
    Condemn,
    /// Not ours any more: drop everything and, if it is assigned again, claim again.
    Drop,
    /// Stop the source partition and say so; an operator decides.
    Stop,
}

/// How attempts are spaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackOff {
    /// The first wait.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(20),
            max: Duration::from_secs(5),
        }
    }
}

impl BackOff {
    /// The wait before attempt `attempt` (from 1), doubled each time and jittered by half with `random`:
    /// many partitions that lost one database do not come back in step.
    pub fn wait(&self, attempt: u32, random: u64) -> Duration {
        let doubled = self.first.saturating_mul(
            1_u32
                .checked_shl(attempt.saturating_sub(1))
                .unwrap_or(u32::MAX),
        );
        let full = doubled.min(self.max);
        let half = full / 2;
        // 1,024 steps of jitter are finer than any timer.
        let jitter = half.saturating_mul((random % 1_024) as u32) / 1_024;
        half + jitter
    }
}

/// Decides what a failure of a commit or claim means.
pub fn dispose(kind: ErrorKind, attempt: u32, back_off: &BackOff, random: u64) -> Disposition {
    match kind {
        ErrorKind::Transient => Disposition::RetryAfter(back_off.wait(attempt, random)),
        ErrorKind::Permanent => Disposition::Condemn,
        ErrorKind::Fenced => Disposition::Drop,
        ErrorKind::Bug if crate::planted::active(crate::planted::Bug::UnknownErrorIsDead) => {
            Disposition::Condemn
        }
        ErrorKind::Bug => Disposition::Stop,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BackOff, Disposition, dispose};
    use crate::error::ErrorKind;

    #[test]
    fn waits_grow_to_their_bound_and_stay_there() {
        let back_off = BackOff {
            first: Duration::from_millis(10),
            max: Duration::from_millis(100),
        };
        for (attempt, low, high) in [
            (1, 5, 10),
            (2, 10, 20),
            (3, 20, 40),
            (5, 50, 100),
            (90, 50, 100),
        ] {
            for random in [0, 511, 1_023, u64::MAX] {
                let wait = back_off.wait(attempt, random).as_millis();
                assert!((low..=high).contains(&wait), "attempt {attempt}: {wait} ms");
            }
        }
    }

    #[test]
    fn an_error_without_a_known_code_never_condemns_an_event() {
        let back_off = BackOff::default();
        assert_eq!(dispose(ErrorKind::Bug, 1, &back_off, 0), Disposition::Stop);
        assert_eq!(
            dispose(ErrorKind::Permanent, 1, &back_off, 0),
            Disposition::Condemn
        );
        assert_eq!(
            dispose(ErrorKind::Fenced, 1, &back_off, 0),
            Disposition::Drop
        );
    }
}
