//! The order in which a tenant's logs are replayed together. Each log stands in the order of its commits,
//! and an entity's versions count its commits over all logs, so that an order exists in which nothing has
//! to wait: take a record once every effect of it is the next of its entity. Times of admission only
//! choose among the records that may be taken; clocks of several nodes differ.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::walk::Walk;
use crate::clock::Timestamp;
use crate::partition::EntityRef;

/// A log's next record: when it was admitted, and which log.
pub(super) type Front = (Timestamp, usize);

/// Which log comes next.
#[derive(Default)]
pub(super) struct Order {
    ready: BinaryHeap<Reverse<Front>>,
    /// Fronts that wait for an earlier version of an entity.
    blocked: BTreeMap<Front, EntityRef>,
    waiting_for: HashMap<EntityRef, Vec<Front>>,
}

impl Order {
    /// The log's next record, if it has one.
    pub(super) fn push_next(&mut self, walk: &Walk, index: usize) {
        let front = walk.peek().map(|record| (record.admitted_at, index));
        self.ready.extend(front.map(Reverse));
    }

    /// The earliest front, which may have to be blocked; else the earliest that is blocked, whose wait
    /// is in vain: what it waits for is in no log that can go on. The flag tells the two apart.
    pub(super) fn pop(&mut self) -> Option<(Front, bool)> {
        if let Some(Reverse(front)) = self.ready.pop() {
            return Some((front, true));
        }
        self.blocked.pop_first().map(|(front, _)| (front, false))
    }

    /// The front's record has an effect that is not the next of `entity`.
    pub(super) fn block(&mut self, front: Front, entity: EntityRef) {
        self.waiting_for
            .entry(entity.clone())
            .or_default()
            .push(front);
        self.blocked.insert(front, entity);
    }

    /// The entity moved on: who waits for it is looked at again.
    pub(super) fn moved(&mut self, entity: &EntityRef) {
        for front in self.waiting_for.remove(entity).unwrap_or_default() {
            // Another one may have been taken in vain meanwhile.
            if self.blocked.remove(&front).is_some() {
                self.ready.push(Reverse(front));
            }
        }
    }
}
