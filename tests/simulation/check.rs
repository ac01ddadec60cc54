//! The promises that are checked, by name, so that a report says which of them was broken and a planted
//! bug is told by what found it.

/// One promise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Check {
    /// Nothing is acknowledged that is not settled in the checkpoint.
    Acknowledged,
    /// A batch commits only under the epoch that owns its source partition.
    Owned,
    /// A checkpoint never goes back.
    Checkpoint,
    /// No commit follows an error that nobody knows.
    Stopped,
    /// A node calls the operator only for what the world did.
    Alarm,
    /// A node answers.
    Answers,
    /// Every queue stays within its bound.
    Bounds,
    /// What was delivered is settled in the end, and nothing goes round in circles.
    Settled,
    /// At rest every permit is back and nothing is tracked.
    Permits,
    /// A node at rest drains.
    Drained,
    /// Each log is gapless and chained to its head.
    Log,
    /// What stood in a log stands there for ever.
    Immutable,
    /// The log holds what was delivered, each key once, and every delivery has an end.
    Admitted,
    /// In a stream partition, offsets and each entity's versions grow in the order of the log.
    Order,
    /// Each entity's effects replay by version, gapless, to the recorded hashes.
    Replay,
    /// Each event has the effects that the model says, also those that moved nothing.
    Effects,
    /// The stored entities are what the log makes them, byte for byte.
    Entities,
    /// Nothing that machines emitted waits in the end.
    OpenWork,
    /// What machines emitted is in the log of its source partition, once, and nothing else is.
    LoopedBack,
    /// What the checkpoints count is what is there.
    Counts,
    /// Each dead letter is there once, and no other.
    DeadLetters,
    /// The product's own `verify` and this checker see the same.
    Verify,
    /// No code of the product panics, but where the world made it.
    Panic,
    /// No code of the simulation itself panics. No planted bug counts as found by this one.
    Simulation,
}

/// A promise that was broken, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub check: Check,
    pub what: String,
}
