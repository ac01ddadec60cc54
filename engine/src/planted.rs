//! Planted bugs: changed lines of production code that the simulation must find. They exist only with
//! the feature `planted`; in a default build [`active`] is the constant `false` and no list is compiled.

/// A bug that can be switched on in a build with the feature `planted`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// The low watermark is acknowledged to the bus before the commit was awaited.
    AcknowledgeBeforeCommit,
    /// The store does not compare the epoch.
    NoEpochCheck,
    /// The store does not compare the revision.
    NoRevisionCheck,
    /// A new owner does not skip what is settled above the watermark.
    ResumeWithoutDoneAbove,
    /// Arrays are handed to the store unsorted.
    UnsortedArrays,
    /// A permit is never given back.
    DroppedPermit,
    /// A cached entity is written over whatever version the store holds.
    CacheAsTruth,
    /// A batch does not name what it only looked at, so no store compares it.
    ReadsLeftOut,
    /// Speculative state survives a commit that failed.
    SpeculationKeptAfterFailure,
    /// An error that the database gave no known code for condemns the event.
    UnknownErrorIsDead,
    /// The older dedupe table is not asked.
    DedupeProbeLeftOut,
    /// A commit of unknown outcome is taken for committed without a look at the checkpoint.
    UnknownOutcomeTakenForCommitted,
    /// A rejected event changes the entity all the same.
    RejectedChangesState,
    /// An emitted event is taken up, and its open work stays.
    WorkNotDeleted,
    /// A new owner does not look for the open work that the one before it left.
    WorkForgottenOnClaim,
    /// A page of open work is taken in from its beginning, whatever of it is queued already.
    WorkTakenTwice,
    /// The low watermark waits at a hole in the offsets.
    ContiguousOffsets,
    /// A new owner resumes where the broker was told, and not at the checkpoint.
    ResumeFromBrokerOffset,
    /// A fenced owner to whom the bus still assigns the partition never claims it again.
    ReclaimLeftOut,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Bug; 19] = [
        Bug::AcknowledgeBeforeCommit,
        Bug::NoEpochCheck,
        Bug::NoRevisionCheck,
        Bug::ResumeWithoutDoneAbove,
        Bug::UnsortedArrays,
        Bug::DroppedPermit,
        Bug::CacheAsTruth,
        Bug::ReadsLeftOut,
        Bug::SpeculationKeptAfterFailure,
        Bug::UnknownErrorIsDead,
        Bug::DedupeProbeLeftOut,
        Bug::UnknownOutcomeTakenForCommitted,
        Bug::RejectedChangesState,
        Bug::WorkNotDeleted,
        Bug::WorkForgottenOnClaim,
        Bug::WorkTakenTwice,
        Bug::ContiguousOffsets,
        Bug::ResumeFromBrokerOffset,
        Bug::ReclaimLeftOut,
    ];
}

#[cfg(feature = "planted")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Switches one bug on, or all off, for the current thread: a simulation is single-threaded, so that
/// several can run side by side.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    ACTIVE.with(|active| active.set(bug));
}

/// True when the bug is switched on.
#[cfg(feature = "planted")]
pub fn active(bug: Bug) -> bool {
    ACTIVE.with(|active| active.get() == Some(bug))
}

/// Always false: this build contains no planted bug.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn active(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::{Bug, active};

    /// Holds in both builds, and a house test says that `active` is all in which they differ: with no
    /// bug switched on, the simulation runs what is shipped.
    #[test]
    fn no_bug_is_active_until_one_is_planted() {
        assert!(Bug::ALL.into_iter().all(|bug| !active(bug)));
        #[cfg(feature = "planted")]
        for planted in Bug::ALL {
            super::plant(Some(planted));
            assert!(
                Bug::ALL
                    .into_iter()
                    .all(|bug| active(bug) == (bug == planted))
            );
            super::plant(None);
            assert!(Bug::ALL.into_iter().all(|bug| !active(bug)));
        }
    }
}
