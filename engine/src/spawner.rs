//! The seam behind which store and bus I/O runs: one multi-thread runtime in production, the simulated
//! system's own thread in a test. A spawned future is owned by the spawner and never dropped halfway
//! (a dropped `BEGIN` would leave an open transaction in the pool).

use std::future::Future;
use std::pin::Pin;

/// A future that somebody else owns and finishes.
pub type OwnedFuture = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Runs futures to their end.
pub trait Spawner: Send + Sync + 'static {
    /// Takes the future and runs it to its end.
    fn spawn(&self, future: OwnedFuture);
}
