//! How far a partition is behind that is assigned and not read: it was stopped with an alarm, or waits for its
//! turn. Its records add up all the same, and whoever looks has to see it.

use std::sync::{Arc, PoisonError};

use tidegate_engine::bus::{EventBus, Start};
use tidegate_engine::clock::{Clock, Timestamp};
use tidegate_engine::position::Offset;

use super::Slots;

/// How far it is behind, as it was seen last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unread {
    /// Everything before it is settled.
    pub low_watermark: Offset,
    /// Where the partition ends, as the bus says.
    pub end: Offset,
    /// When it was first seen that something waits.
    pub since: Option<Timestamp>,
}

/// What a look needs.
pub(super) struct Look {
    pub bus: Arc<dyn EventBus>,
    pub clock: Arc<dyn Clock>,
    pub slots: Slots,
    pub partition: u32,
}

impl Look {
    /// Looks once, and notes what was seen. `settled` is where its checkpoint stands; without one all that
    /// there is waits. A bus that does not answer is no news.
    pub async fn look(self, settled: Option<Offset>) {
        let from = match settled {
            Some(settled) => Ok(settled),
            None => self.bus.start_offset(self.partition, Start::Earliest).await,
        };
        let end = self.bus.end_offset(self.partition).await;
        let (Ok(low_watermark), Ok(Some(end))) = (from, end) else {
            return;
        };
        let now = self.clock.now();
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(&self.partition) {
            let before = slot.unread.and_then(|unread| unread.since);
            slot.unread = Some(Unread {
                low_watermark,
                end,
                since: (low_watermark < end).then(|| before.unwrap_or(now)),
            });
        }
    }
}
