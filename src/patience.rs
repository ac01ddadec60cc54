//! What a start does while its store is away: tries again with back-off, within a limit, and says so
//! each time. What waiting cannot mend (a wrong password, a missing database or schema) ends it at once.

use std::time::Duration;

use tidegate_engine::clock::Ids as _;
use tidegate_engine::error::ErrorKind;
use tidegate_engine::retry::BackOff;
use tidegate_engine::store::StoreError;
use tokio::time::Instant;

use crate::config::Config;
use crate::machines::MachinesError;
use crate::runtime::RandomIds;

/// How long a start goes on trying, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// From the first failure of a step on; zero tries once.
    pub limit: Duration,
    /// Between two tries.
    pub back_off: BackOff,
}

/// A failure of a start that may pass.
pub trait MayPass: std::fmt::Display {
    /// True when the same step can succeed later.
    fn may_pass(&self) -> bool;
}

impl MayPass for StoreError {
    fn may_pass(&self) -> bool {
        self.kind() == ErrorKind::Transient
    }
}

impl MayPass for MachinesError {
    fn may_pass(&self) -> bool {
        matches!(self, MachinesError::Store(error) if error.may_pass())
    }
}

impl Patience {
    /// For a command that is left to itself.
    pub fn of(config: &Config) -> Self {
        let limits = &config.limits;
        Self {
            limit: Duration::from_secs(limits.start_limit_seconds),
            back_off: BackOff {
                first: Duration::from_millis(limits.retry_first_ms),
                max: Duration::from_millis(limits.retry_max_ms),
            },
        }
    }

    /// For a command that a person waits for.
    pub fn none() -> Self {
        Self {
            limit: Duration::ZERO,
            back_off: BackOff::default(),
        }
    }

    /// Takes a step of the start, again and again while it fails for now and the limit allows. `step`
    /// stands in the log lines; the last failure is the answer.
    pub async fn take<T, E: MayPass>(
        &self,
        step: &str,
        attempt: impl AsyncFn() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut failed_since = None;
        let mut attempts = 0;
        loop {
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) if !error.may_pass() => return Err(error),
                Err(error) => error,
            };
            attempts += 1;
            let since = *failed_since.get_or_insert_with(Instant::now);
            let left = self.limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(error);
            }
            let wait = self.back_off.wait(attempts, RandomIds.next_u64()).min(left);
            tracing::warn!(%error, attempts, wait_ms = wait.as_millis() as u64, "{step}: not yet, trying again");
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tidegate_engine::retry::BackOff;
    use tidegate_engine::store::StoreError;
    use tokio::time::Instant;

    use super::Patience;

    /// A store that is away for so many tries and then fails with `then`, or not at all.
    async fn started(
        away: u32,
        then: Option<StoreError>,
        limit: u64,
    ) -> (Option<String>, u32, u64) {
        let patience = Patience {
            limit: Duration::from_secs(limit),
            back_off: BackOff {
                first: Duration::from_millis(100),
                max: Duration::from_secs(1),
            },
        };
        let (tries, began) = (Cell::new(0), Instant::now());
        let outcome = patience
            .take("the store", async || {
                tries.set(tries.get() + 1);
                let detail = "not up".to_owned();
                match &then {
                    _ if tries.get() <= away => Err(StoreError::Unavailable { detail }),
                    Some(error) => Err(error.clone()),
                    None => Ok(()),
                }
            })
            .await;
        let error = outcome.err().map(|error| error.to_string());
        (error, tries.get(), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn r26_a_store_that_is_away_is_waited_for_until_the_limit_and_no_longer() {
        let (error, tries, _) = started(8, None, 60).await;
        assert_eq!((error, tries), (None, 9));
        let (error, tries, seconds) = started(u32::MAX, None, 60).await;
        assert!(error.is_some_and(|error| error.contains("not up")));
        assert!((58..=60).contains(&seconds), "{seconds} s");
        assert!((60..130).contains(&tries), "{tries} tries");
        let (error, tries, seconds) = started(1, None, 0).await;
        assert!(error.is_some());
        assert_eq!((tries, seconds), (1, 0), "no patience: one try");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waiting_cannot_mend_ends_the_start_at_once() {
        let wrong = StoreError::NotReady("cannot log in".to_owned());
        let (error, tries, _) = started(0, Some(wrong.clone()), 60).await;
        assert!(error.is_some_and(|error| error.contains("cannot log in")));
        assert_eq!(tries, 1);
        // Also when it shows only once the server is up.
        let (_, tries, _) = started(3, Some(wrong), 60).await;
        assert_eq!(tries, 4);
    }
}
