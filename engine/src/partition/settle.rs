//! What becomes of a partition's memories when its oldest batch is durable.

use super::cache::HashMap;
use super::{EntityRef, Overlay, Partition, Settled};
use crate::commit::EntityRow;

impl<P> Partition<P> {
    /// The oldest prepared batch is durable. What it emitted is queued, or waits in the store. Returns the
    /// permits of its events.
    pub fn settle(&mut self, settled: Settled<'_>) -> Vec<P> {
        let Some(mut overlay) = self.overlays.pop_front() else {
            return Vec::new();
        };
        self.heads = overlay.heads;
        self.settle_entities(&overlay, settled.new_rows);
        self.forget_shared(overlay.emitted, overlay.received);
        let mut permits = Vec::with_capacity(overlay.received);
        let emitted = self.emitted.settle(overlay.emitted);
        for queued in emitted.chain(self.received.settle(overlay.received)) {
            self.condemned.remove(&queued.origin.event());
            permits.extend(queued.permit);
        }
        self.loop_back(&mut overlay, settled.revision, settled.at);
        permits
    }

    /// Gives the entities that a settled batch created their rows, and forgets them where those are not
    /// known.
    fn settle_entities(&mut self, overlay: &Overlay, new_rows: Option<&[EntityRow]>) {
        if let Some(new_rows) = new_rows {
            assert_eq!(
                new_rows.len(),
                overlay.created.len(),
                "the store numbers every new entity"
            );
        }
        let mut rows: HashMap<&EntityRef, Option<EntityRow>> = HashMap::default();
        for (place, index) in overlay.created.iter().enumerate() {
            if let Some((entity, _)) = overlay.moved.get(*index) {
                rows.insert(entity, new_rows.and_then(|rows| rows.get(place)).copied());
            }
        }
        if rows.is_empty() && self.shared.is_empty() {
            return;
        }
        // What the next batch would go back to is what this one left.
        for (entity, before) in self.overlays.iter_mut().flat_map(|next| &mut next.moved) {
            let row = rows.get(&*entity);
            if row == Some(&None) || self.shared.get(entity).is_some() {
                *before = None;
            } else if let (Some(row), Some(value)) = (row, before) {
                value.row = *row;
            }
        }
        for (entity, row) in rows {
            let Some(value) = self.entities.get_mut(entity) else {
                continue;
            };
            value.row = row;
            if row.is_none() && value.batch <= overlay.number {
                self.entities.remove(entity);
            }
        }
    }

    /// A shared entity is not kept between batches, also when the settled events only read it: whoever
    /// shares it may have moved it since.
    fn forget_shared(&mut self, emitted: usize, received: usize) {
        if self.shared.is_empty() {
            return;
        }
        let pinned = self.pinned();
        let emitted = self.emitted.queue.iter().take(emitted);
        for queued in emitted.chain(self.received.queue.iter().take(received)) {
            for entity in queued
                .targets
                .iter()
                .filter_map(|it| it.entity.as_ref().ok())
            {
                let value = self.entities.get(entity);
                let is_shared = self.shared.touch(entity, |()| false);
                if is_shared && value.is_some_and(|value| !pinned(value)) {
                    self.entities.remove(entity);
                }
            }
        }
    }
}
