//! The real clock, randomness, spawner and arbiters: what a simulation replaces.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use actix::Arbiter;
use tidegate_actors::Placement;
use tidegate_engine::clock::{Clock, Ids, Timestamp};
use tidegate_engine::spawner::{OwnedFuture, Spawner};
use tokio::runtime::Handle;

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        // The one place where the time is asked for.
        #[allow(clippy::disallowed_methods)]
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

/// Randomness for jitter and names, from the seeds that the standard library takes from the system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    fn next_u64(&self) -> u64 {
        // A new state is seeded anew; jitter needs no more than that.
        RandomState::new().build_hasher().finish()
    }
}

/// Runs store and bus I/O on a multi-thread runtime.
#[derive(Clone, Debug)]
pub struct RuntimeSpawner(pub Handle);

impl Spawner for RuntimeSpawner {
    fn spawn(&self, future: OwnedFuture) {
        self.0.spawn(future);
    }
}

/// A fixed number of arbiters that do no I/O; call inside an actix system.
#[allow(
    clippy::disallowed_methods,
    reason = "production's place for actors; a simulation has none"
)]
pub fn arbiters(count: usize) -> Placement {
    // The wiring that the ban speaks of.
    #[allow(clippy::disallowed_methods)]
    let handles: Vec<_> = (0..count.max(1)).map(|_| Arbiter::new().handle()).collect();
    Placement::Arbiters(Arc::from(handles))
}
