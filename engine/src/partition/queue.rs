//! The events that wait in a partition, each with the entities it concerns.

use std::collections::VecDeque;
use std::sync::Arc;

use super::cache::{EntityValue, Generations, HashSet};
use super::{EntityRef, EventRef};
use crate::admission::Content;
use crate::clock::Timestamp;
use crate::commit::WorkPlace;
use crate::machine::{Fault, Processor};
use crate::position::{Offset, RecordPosition};

/// Where a queued event comes from, and with that the log that it goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// A delivery of the bus.
    Delivered(Offset),
    /// A machine emitted it: where it stands in the open work, and the record that caused it.
    Emitted(WorkPlace, RecordPosition),
}

impl Origin {
    pub fn event(&self) -> EventRef {
        match self {
            Origin::Delivered(offset) => EventRef::Delivered(*offset),
            Origin::Emitted(place, _) => EventRef::Emitted(*place),
        }
    }
}

/// An event in a partition's queue, with the entities it concerns.
pub(super) struct Queued<P> {
    pub origin: Origin,
    /// Bytes it holds in memory.
    pub bytes: usize,
    pub content: Content,
    /// What it holds until it is settled; an emitted event holds none.
    pub permit: Option<P>,
    pub admitted_at: Timestamp,
    /// Since when it waits: since it was written, where that is known.
    pub waits_since: Timestamp,
    pub targets: Vec<Target>,
}

/// A machine that listens to an event, and the entity that the event concerns there.
pub(super) struct Target {
    pub machine: Arc<dyn Processor>,
    pub entity: Result<EntityRef, Fault>,
}

/// Events in order.
pub(super) struct Line<P> {
    pub queue: VecDeque<Queued<P>>,
    /// Of all of them.
    pub bytes: usize,
    /// Places before this one need nothing that was not asked for when they were looked at. Without it
    /// every look would go through the whole queue again.
    pub looked_through: usize,
}

/// What looking ahead may ask for, and what it asks for so far.
pub(super) struct Look<'l> {
    pub known: &'l Generations<EntityRef, EntityValue>,
    pub requested: &'l mut HashSet<EntityRef>,
    /// Events that may still be looked at.
    pub events_left: usize,
    pub wanted: Vec<EntityRef>,
    pub wanted_max: usize,
}

impl<P> Line<P> {
    pub fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            bytes: 0,
            looked_through: 0,
        }
    }

    pub fn push(&mut self, queued: Queued<P>) {
        self.bytes += queued.bytes;
        self.queue.push_back(queued);
    }

    /// Looks at what stands behind the first `taken` events. False when no more may be asked for.
    pub fn look_ahead(&mut self, taken: usize, look: &mut Look<'_>) -> bool {
        let end = taken.saturating_add(look.events_left);
        self.looked_through = self.looked_through.max(taken);
        while self.looked_through < end
            && let Some(queued) = self.queue.get(self.looked_through)
        {
            for target in &queued.targets {
                let Ok(entity) = &target.entity else { continue };
                if look.known.get(entity).is_some() || look.requested.contains(entity) {
                    continue;
                }
                if look.wanted.len() >= look.wanted_max {
                    return false;
                }
                look.wanted.push(entity.clone());
                look.requested.insert(entity.clone());
            }
            self.looked_through += 1;
        }
        look.events_left = end - self.looked_through.min(end);
        true
    }

    /// Takes the oldest events out, which are settled.
    pub fn settle(&mut self, events: usize) -> impl Iterator<Item = Queued<P>> {
        self.looked_through = self.looked_through.saturating_sub(events);
        let settled = self.queue.iter().take(events);
        self.bytes -= settled.map(|queued| queued.bytes).sum::<usize>();
        self.queue.drain(..events)
    }
}
