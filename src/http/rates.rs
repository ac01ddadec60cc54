//! How many events a second each tenant may send. What is too much is refused as a whole, with the time
//! after which it is not.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use tidegate_engine::tenant::TenantId;

use super::problem::{Kind, Problem};

type Limiter<C> =
    RateLimiter<TenantId, DashMapStateStore<TenantId>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Requests after which tenants are forgotten who have their whole second again: a client may name as many as
/// it likes.
const FORGET_AFTER: u32 = 4_096;

/// Events a second of each tenant.
pub struct Rates<C: Clock = DefaultClock> {
    limiter: Option<(NonZeroU32, Limiter<C>)>,
    requests: AtomicU32,
    clock: C,
}

impl<C: Clock + Clone> Rates<C> {
    /// So many, by that clock; a second's worth of them at once. `None` without a quota.
    pub fn new(per_second: Option<NonZeroU32>, clock: C) -> Self {
        let limiter = per_second.map(|rate| {
            let state = DashMapStateStore::default();
            let limiter = RateLimiter::new(Quota::per_second(rate), state, clock.clone());
            (rate, limiter)
        });
        Self {
            limiter,
            requests: AtomicU32::new(0),
            clock,
        }
    }

    /// Counts events of a tenant; none of them is taken when they are too many.
    pub fn take(&self, tenant: &TenantId, events: u64) -> Result<(), Problem> {
        let Some((rate, limiter)) = &self.limiter else {
            return Ok(());
        };
        let requests = self.requests.fetch_add(1, Ordering::Relaxed);
        if requests % FORGET_AFTER == FORGET_AFTER - 1 {
            limiter.retain_recent();
        }
        let Some(events) = u32::try_from(events).ok().and_then(NonZeroU32::new) else {
            return Ok(());
        };
        match limiter.check_key_n(tenant, events) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => {
                let wait = until.wait_time_from(self.clock.now());
                let mut problem = Problem::new(
                    Kind::RateLimited,
                    format!("this tenant may send {rate} events a second"),
                );
                let seconds = wait.as_millis().div_ceil(1_000).max(1);
                problem.retry_after = Some(u64::try_from(seconds).unwrap_or(u64::MAX));
                Err(problem)
            }
            Err(_) => Err(Problem::new(
                Kind::TooLarge,
                format!("this tenant may send {rate} events a second; send no more at once"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use tidegate_engine::tenant::TenantId;

    use super::{FORGET_AFTER, Rates};

    #[test]
    fn r27_of_ten_times_the_quota_the_quota_is_admitted_within_one_percent_for_each_tenant() {
        const SECONDS: u64 = 1_000;
        const RATE: u64 = 100;
        let clock = FakeRelativeClock::default();
        let rates = Rates::new(NonZeroU32::new(100), clock.clone());
        let tenants = ["acme", "bolt"].map(|name| TenantId::new(name).expect("a name"));
        let mut admitted = [0_u64; 2];
        for step in 0..SECONDS * 100 {
            clock.advance(Duration::from_millis(10));
            for (tenant, admitted) in tenants.iter().zip(&mut admitted) {
                // Alone and in batches: what is refused is refused whole.
                let events = 1 + step % 19;
                if rates.take(tenant, events).is_ok() {
                    *admitted += events;
                }
            }
        }
        let quota = SECONDS * RATE;
        for admitted in admitted {
            assert!(
                admitted.abs_diff(quota) * 100 <= quota,
                "{admitted} of {quota}"
            );
        }
    }

    #[test]
    fn tenants_of_the_past_are_forgotten() {
        let clock = FakeRelativeClock::default();
        let rates = Rates::new(NonZeroU32::new(10), clock.clone());
        for number in 0..3 * FORGET_AFTER {
            clock.advance(Duration::from_secs(1));
            let tenant = TenantId::new(&format!("t{number}")).expect("a name");
            assert!(rates.take(&tenant, 1).is_ok());
        }
        let (_, limiter) = rates.limiter.as_ref().expect("a quota");
        assert!(limiter.len() <= FORGET_AFTER as usize, "{}", limiter.len());
    }

    #[test]
    fn after_the_seconds_that_a_refusal_says_the_same_is_taken() {
        let clock = FakeRelativeClock::default();
        clock.advance(Duration::from_secs(60));
        let rates = Rates::new(NonZeroU32::new(10), clock.clone());
        let tenant = TenantId::new("acme").expect("a name");
        assert!(rates.take(&tenant, 10).is_ok());
        let refused = rates.take(&tenant, 10).expect_err("the quota is spent");
        clock.advance(Duration::from_secs(refused.retry_after.expect("a time")));
        assert!(rates.take(&tenant, 10).is_ok());
        // No wait makes room for that.
        let never = rates.take(&tenant, 11).expect_err("more than a second's");
        assert_eq!(never.retry_after, None);
    }
}
