//! What becomes of each delivery of a batch in the making, for whoever waits for it.

use super::Partition;
use super::prepare::Draft;
use crate::bus::{Became, Settlement};
use crate::position::Offset;

impl<P> Partition<P> {
    /// Whether each part says what becomes of its deliveries.
    pub fn keep_settlements(&mut self, keep: bool) {
        self.keeps_settlements = keep;
    }

    /// Notes what becomes of a delivery, where that is asked for.
    pub(super) fn keep_settlement(
        &self,
        draft: &mut Draft,
        offset: Offset,
        became: impl FnOnce() -> Became,
    ) {
        if self.keeps_settlements {
            let became = became();
            draft.part.settlements.push(Settlement { offset, became });
        }
    }

    pub(super) fn keep_unreadable(&self, draft: &mut Draft, offset: Offset, detail: &str) {
        self.keep_settlement(draft, offset, || Became::Unreadable {
            detail: detail.to_owned(),
        });
    }
}
