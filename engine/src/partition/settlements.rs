//! What becomes of each delivery of a batch in the making, for whoever waits for it.

use super::prepare::Draft;
use super::{Origin, Partition};
use crate::bus::{Became, Settlement};

impl<P> Partition<P> {
    /// Whether each part says what becomes of its deliveries.
    pub fn keep_settlements(&mut self, keep: bool) {
        self.keeps_settlements = keep;
    }

    /// Notes what becomes of a delivery, where that is asked for. For an emitted event nobody waits.
    pub(super) fn keep_settlement(
        &self,
        draft: &mut Draft,
        origin: &Origin,
        became: impl FnOnce() -> Became,
    ) {
        if let (true, Origin::Delivered(offset)) = (self.keeps_settlements, origin) {
            let (offset, became) = (*offset, became());
            draft.part.settlements.push(Settlement { offset, became });
        }
    }

    pub(super) fn keep_unreadable(&self, draft: &mut Draft, origin: &Origin, detail: &str) {
        self.keep_settlement(draft, origin, || Became::Unreadable {
            detail: detail.to_owned(),
        });
    }
}
