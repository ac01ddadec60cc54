//! The fault seam of the memory bus: errors, delays, redelivery and reorder across partitions. A hook
//! decides from its seed; within one partition records always come in order of offset.

use std::time::Duration;

use tidegate_engine::bus::BusError;
use tidegate_engine::position::Offset;

/// A call of the bus, by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs)] // Each is the method of `EventBus` of that name.
pub enum BusOperation {
    Receive,
    ComesBehind,
    StartOffset,
    FingerprintAt,
    Seek,
    Acknowledge,
    Release,
    StillAssigned,
    EndOffset,
}

/// What becomes of a call before it has any effect.
#[derive(Clone, Debug, Default)]
pub enum BusFault {
    /// Nothing.
    #[default]
    Proceed,
    /// It fails.
    Fail(BusError),
    /// It never returns.
    Stall,
}

/// How a broker delivers again what it delivered before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Redelivery {
    /// It does not.
    #[default]
    None,
    /// It goes back and delivers everything from there again, as a consumer group does.
    Rewind(Offset),
    /// It delivers one record again and then goes on where it was, as a queue does after a missed
    /// acknowledgement. Only a record already passed is repeated.
    Repeat(Offset),
}

/// A hook that disturbs one consumer. Every method has the quiet answer as its default.
pub trait BusFaults: Send + Sync + 'static {
    /// How long a call takes before it has its effect, and whether it has one. `partition` is
    /// absent for `receive`.
    fn at_start(&self, operation: BusOperation, partition: Option<u32>) -> (Duration, BusFault) {
        let _ = (operation, partition);
        (Duration::ZERO, BusFault::Proceed)
    }

    /// False while news of assignments are told by `receive` alone.
    fn hears_news(&self) -> bool {
        true
    }

    /// The order in which partitions that have something are read: the index of the next one to
    /// read from (any number is taken modulo the length).
    fn choose(&self, readable: &[u32]) -> usize {
        let _ = readable;
        0
    }

    /// How many records one read of one partition returns, at most `most`.
    fn records_max(&self, partition: u32, most: usize) -> usize {
        let _ = partition;
        most
    }

    /// Whether a read goes back. `position` is the offset that would be read next; what lies below
    /// the offset of the last seek is not delivered again.
    fn redeliver(&self, partition: u32, position: Offset) -> Redelivery {
        let _ = (partition, position);
        Redelivery::None
    }
}

/// The hook that disturbs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl BusFaults for NoFaults {}
