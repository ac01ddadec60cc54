//! Failpoints: places where a build with the feature `failpoints` ends the process with `kill -9`, when
//! the environment names them. A default build contains none.

/// A place to die at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failpoint {
    /// A batch was made; nothing was sent to the store.
    BeforeCommit,
    /// The store has committed; nobody has seen its reply.
    AfterCommit,
    /// The reply was taken in; nothing was acknowledged to the bus.
    BeforeAcknowledge,
    /// A source partition was claimed; nothing was read yet.
    Claimed,
    /// The drain has begun.
    Draining,
}

impl Failpoint {
    /// The name in `TIDEGATE_FAILPOINT=<name>:<hits>`.
    pub fn as_str(self) -> &'static str {
        match self {
            Failpoint::BeforeCommit => "before-commit",
            Failpoint::AfterCommit => "after-commit",
            Failpoint::BeforeAcknowledge => "before-acknowledge",
            Failpoint::Claimed => "claimed",
            Failpoint::Draining => "draining",
        }
    }
}

/// Dies here when `TIDEGATE_FAILPOINT` names this place and this is the named hit of it.
#[cfg(feature = "failpoints")]
pub fn hit(failpoint: Failpoint) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static HITS: AtomicU64 = AtomicU64::new(0);
    let Ok(wanted) = std::env::var("TIDEGATE_FAILPOINT") else {
        return;
    };
    let (name, hits) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if name == failpoint.as_str()
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == hits.parse().unwrap_or(1)
    {
        eprintln!("failpoint {name} reached: the process ends here");
        let own = std::process::id().to_string();
        let _ = std::process::Command::new("kill")
            .args(["-9", &own])
            .status();
        unreachable!("nobody outlives that");
    }
}

/// Nothing: this build has no failpoints.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn hit(_failpoint: Failpoint) {}
