//! What a batch was decided on and does not move: refused, ignored and dead events look at an entity, too.

use super::{EntityRef, Overlay, Partition};
use crate::commit::{EntityRead, EntityRow};
use crate::planted::{Bug, active};
use crate::position::Version;

/// An entity, its row and its version when an event was decided on it.
pub(super) type LookedAt = (EntityRef, Option<EntityRow>, Version);

impl<P> Partition<P> {
    /// An entity as it is seen by an event of that batch which does not move it. What the batch has moved
    /// itself is compared as such.
    pub(super) fn looked_at(&self, entity: &EntityRef, batch: u64) -> Option<LookedAt> {
        let value = self.entities.get(entity)?;
        (value.batch != batch).then(|| (entity.clone(), value.row, value.version))
    }

    /// What was looked at, once an entity. What moved later in the batch is compared as such.
    pub(super) fn reads_of(
        &self,
        mut looked_at: Vec<LookedAt>,
        overlay: &Overlay,
    ) -> Vec<EntityRead> {
        if active(Bug::ReadsLeftOut) {
            return Vec::new();
        }
        looked_at.sort_unstable_by(|left, right| left.0.cmp(&right.0));
        looked_at.dedup_by(|left, right| left.0 == right.0);
        let mut reads = Vec::with_capacity(looked_at.len());
        // Both lists are sorted.
        let mut moved = overlay.moved.iter().map(|(entity, _)| entity).peekable();
        for (entity, row, expected) in looked_at {
            while moved.next_if(|it| **it < entity).is_some() {}
            if moved.peek() != Some(&&entity) {
                reads.push(EntityRead {
                    name: self.name_of(&entity),
                    row,
                    expected,
                });
            }
        }
        reads
    }
}
