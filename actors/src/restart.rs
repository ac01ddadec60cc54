//! The restart budget: how often a source partition may be rebuilt before it is quarantined.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Rebuilds within a sliding window.
#[derive(Debug)]
pub struct RestartBudget {
    restarts_max: u32,
    window: Duration,
    spent: VecDeque<Instant>,
}

impl RestartBudget {
    /// A full budget.
    pub fn new(restarts_max: u32, window: Duration) -> Self {
        Self {
            restarts_max,
            window,
            spent: VecDeque::new(),
        }
    }

    /// The time after which a restart is forgotten.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Spends one restart. `Some(n)` is the number of this one within the window, `None` says that the
    /// budget is used up.
    pub fn spend(&mut self, now: Instant) -> Option<u32> {
        while self
            .spent
            .front()
            .is_some_and(|at| now.duration_since(*at) > self.window)
        {
            self.spent.pop_front();
        }
        if self.spent.len() >= self.restarts_max as usize {
            return None;
        }
        self.spent.push_back(now);
        Some(self.spent.len() as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::RestartBudget;

    #[test]
    fn the_budget_ends_and_comes_back_with_the_window() {
        let start = Instant::now();
        let mut budget = RestartBudget::new(2, Duration::from_secs(10));
        assert_eq!(budget.spend(start), Some(1));
        assert_eq!(budget.spend(start + Duration::from_secs(1)), Some(2));
        assert_eq!(budget.spend(start + Duration::from_secs(2)), None);
        assert_eq!(budget.spend(start + Duration::from_secs(11)), Some(2));
    }
}
