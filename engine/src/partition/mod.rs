//! A partition: one tenant's events of one source partition, in order, from admission to settlement.
//! Applies events one batch ahead of the one in flight, and can take back what is not committed. Pure: it
//! asks for entities and hands out parts of batches; whoever drives it does the I/O.

mod cache;
mod letters;
mod prepare;
mod reads;
mod settlements;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

pub use cache::EntityRef;
use cache::{EntityValue, Generations, HashMap, HashSet};
pub use letters::{Notice, NoticedEvent};
pub use prepare::{Allowance, Part, Prepared};

use crate::admission::{Content, Received};
use crate::chain::ChainHead;
use crate::clock::Timestamp;
use crate::commit::{EntityName, EntityRow, StoredEntity, Surprises};
use crate::hash::Hash128;
use crate::machine::{EventContext, Fault, MachineSet, Processor};
use crate::planted::{Bug, active};
use crate::position::{Offset, Sequence, StreamPartition};
use crate::transition;

/// Bounds of one partition's memories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionLimits {
    /// Entities kept between events.
    pub entities_max: usize,
    /// Admitted idempotency keys kept; four for each queued event, where that is more.
    pub known_keys_max: usize,
}

impl Default for PartitionLimits {
    fn default() -> Self {
        Self {
            entities_max: 100_000,
            known_keys_max: 200_000,
        }
    }
}

/// Entities that are remembered as shared with other partitions; those that nobody touched for longest
/// are forgotten.
const SHARED_ENTITIES_MAX: usize = 10_000;

/// Where the log of the partition ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// The sequence of the next record.
    pub next_sequence: Sequence,
    /// The chain's head.
    pub chain_head: ChainHead,
}

/// An event in the partition's queue, with the entities it concerns.
struct Queued<P> {
    received: Received,
    permit: P,
    admitted_at: Timestamp,
    targets: Vec<Target>,
}

/// A machine that listens to an event, and the entity that the event concerns there.
struct Target {
    machine: Arc<dyn Processor>,
    entity: Result<EntityRef, Fault>,
}

/// What a batch that is prepared and not settled changed in the partition's memories, and how to take
/// it back. The memories hold the newest state, so that applying an event asks one map and not one a
/// batch.
#[derive(Default)]
struct Overlay {
    /// Counts batches; what the memories hold of a higher number than the last settled is speculation.
    number: u64,
    events: usize,
    /// Their bytes.
    bytes: usize,
    head: Head,
    /// The keys it admits.
    keys: Vec<Hash128>,
    /// The entities it moved, each as it was before, in the order of the part's entities once it is
    /// finished. `None` where nothing was known that may be gone back to.
    moved: Vec<(EntityRef, Option<EntityValue>)>,
    /// Which of them did not exist before, by their place in `moved`.
    created: Vec<usize>,
}

/// How often the store refused an event's values, and what it said.
struct Condemned {
    times: u8,
    detail: String,
}

/// One tenant's events of one source partition. `P` is what an event holds until it is settled (a
/// permit); the engine only keeps and drops it.
pub struct Partition<P> {
    stream_partition: StreamPartition,
    machines: MachineSet,
    head: Head,
    queue: VecDeque<Queued<P>>,
    queued_bytes: usize,
    overlays: VecDeque<Overlay>,
    /// The number of the last batch that was prepared.
    batches: u64,
    entities: Generations<EntityRef, EntityValue>,
    /// Queued events whose entities are loaded ahead.
    look_ahead_max: usize,
    known_keys: Generations<Hash128, Hash128>,
    requested: HashSet<EntityRef>,
    /// Places in the queue before this one need nothing that was not asked for when they were looked
    /// at. Without it every look would go through the whole queue again.
    looked_through: usize,
    shared: Generations<EntityRef, ()>,
    condemned: BTreeMap<Offset, Condemned>,
    keeps_settlements: bool,
}

/// Batches prepared and not settled: the one in flight and the one that follows.
pub const PREPARED_MAX: usize = 2;

impl<P> Partition<P> {
    /// A partition at the end of its stored log.
    pub fn new(
        stream_partition: StreamPartition,
        machines: MachineSet,
        head: Head,
        limits: PartitionLimits,
    ) -> Self {
        let mut partition = Self {
            stream_partition,
            machines,
            head,
            queue: VecDeque::new(),
            queued_bytes: 0,
            overlays: VecDeque::new(),
            batches: 0,
            entities: Generations::new(limits.entities_max),
            look_ahead_max: 0,
            known_keys: Generations::new(limits.known_keys_max),
            requested: HashSet::default(),
            looked_through: 0,
            shared: Generations::new(SHARED_ENTITIES_MAX),
            condemned: BTreeMap::new(),
            keeps_settlements: false,
        };
        partition.set_limits(limits);
        partition
    }

    /// Bounds its memories anew; what is too much is forgotten as events go on.
    pub fn set_limits(&mut self, limits: PartitionLimits) {
        // One event may concern every machine: what it needs has to be there at once, and stay while each
        // of them is touched and moved.
        let per_event = self.machines.iter().count().max(1);
        let entities_max = limits.entities_max.max(4 * per_event);
        self.entities.set_bound(entities_max);
        let pinned = self.pinned();
        self.entities.shrink(pinned);
        // One of the memory's two generations, so that what is loaded together stays together.
        self.look_ahead_max = entities_max / (2 * per_event);
        // The keys of unsettled events, and the duplicates that a store names of them, must be remembered
        // until they are settled or applied again, or the same batch would be refused for ever.
        self.known_keys
            .set_bound(limits.known_keys_max.max(4 * self.queue.len()));
    }

    /// Whose log it writes.
    pub fn stream_partition(&self) -> &StreamPartition {
        &self.stream_partition
    }

    /// Takes a received event in, behind all earlier ones. `admitted_at` is stamped once.
    pub fn offer(&mut self, received: Received, permit: P, admitted_at: Timestamp) {
        let targets = self.targets_of(&received, admitted_at);
        self.queued_bytes += received.bytes;
        self.queue.push_back(Queued {
            received,
            permit,
            admitted_at,
            targets,
        });
    }

    /// The entities that the next events need and nobody has asked for, at most `names_max`. Counts them
    /// as asked for until [`Partition::loaded`] or [`Partition::load_failed`].
    ///
    /// Looks no further ahead than the memory of entities holds: what is loaded too early would push out
    /// what the next event needs, and the two would be loaded in turns for ever.
    pub fn wanted(&mut self, names_max: usize) -> Vec<EntityName> {
        let ahead_max = self.look_ahead_max.min(names_max.saturating_mul(2));
        let taken = self.prepared_events();
        let mut wanted = Vec::new();
        self.looked_through = self.looked_through.max(taken);
        while self.looked_through < taken + ahead_max
            && let Some(queued) = self.queue.get(self.looked_through)
        {
            for target in &queued.targets {
                let Ok(entity) = &target.entity else { continue };
                if self.entities.get(entity).is_some() || self.requested.contains(entity) {
                    continue;
                }
                if wanted.len() >= names_max {
                    return wanted;
                }
                wanted.push(self.name_of(entity));
                self.requested.insert(entity.clone());
            }
            self.looked_through += 1;
        }
        wanted
    }

    /// The store answered: of `asked`, exactly `found` exist.
    pub fn loaded(&mut self, asked: &[EntityName], found: Vec<StoredEntity>) {
        let mut found: HashMap<EntityRef, StoredEntity> = found
            .into_iter()
            .map(|entity| (reference(&entity.name), entity))
            .collect();
        for name in asked {
            let entity = reference(name);
            self.requested.remove(&entity);
            // What a surprise brought meanwhile may have been moved since.
            if self.entities.get(&entity).is_none() {
                let value = EntityValue::stored(found.remove(&entity));
                self.remember(&entity, value);
            }
        }
    }

    /// The store did not answer: ask again.
    pub fn load_failed(&mut self, asked: &[EntityName]) {
        for name in asked {
            self.requested.remove(&reference(name));
        }
        self.looked_through = 0;
    }

    /// The oldest prepared batch is durable. `new_rows` are the rows of the entities it created, `None`
    /// when the reply was lost. Returns the permits of its events.
    pub fn settle(&mut self, new_rows: Option<&[EntityRow]>) -> Vec<P> {
        let Some(overlay) = self.overlays.pop_front() else {
            return Vec::new();
        };
        self.head = overlay.head;
        self.settle_entities(&overlay, new_rows);
        self.forget_shared(overlay.events);
        let mut permits = Vec::with_capacity(overlay.events);
        self.looked_through = self.looked_through.saturating_sub(overlay.events);
        for queued in self.queue.drain(..overlay.events) {
            self.queued_bytes -= queued.received.bytes;
            self.condemned.remove(&queued.received.offset);
            permits.push(queued.permit);
        }
        permits
    }

    /// Anything but success: the speculation is dropped, every unsettled event will be applied again, in
    /// order, on committed state and on what the surprises say.
    pub fn reset(&mut self, surprises: &Surprises) {
        let kept_by_mistake = active(Bug::SpeculationKeptAfterFailure);
        while let Some(overlay) = self.overlays.pop_back() {
            for key in &overlay.keys {
                self.known_keys.remove(key);
            }
            if kept_by_mistake {
                continue;
            }
            for (entity, before) in overlay.moved {
                match before {
                    Some(value) => drop(self.remember(&entity, value)),
                    None => self.entities.remove(&entity),
                }
            }
        }
        // What was only known by speculation is not known any more.
        self.looked_through = 0;
        let tenant = self.stream_partition.tenant.clone();
        for known in surprises
            .known_keys
            .iter()
            .filter(|known| known.tenant == tenant)
        {
            self.known_keys.put(&known.key, known.conflict, |_| false);
        }
        for (name, stored) in surprises
            .entities
            .iter()
            .filter(|(name, _)| name.tenant == tenant)
        {
            let entity = reference(name);
            self.shared.put(&entity, (), |()| false);
            self.remember(&entity, EntityValue::stored(stored.clone()));
        }
    }

    /// The store refuses the values of the event at `offset`: it will be dead.
    pub fn condemn(&mut self, offset: Offset, detail: &str) {
        let condemned = self.condemned.entry(offset).or_insert(Condemned {
            times: 0,
            detail: String::new(),
        });
        condemned.times = condemned.times.saturating_add(1);
        condemned.detail = detail.to_owned();
    }

    /// Events that are not prepared yet, and their bytes.
    pub fn ready(&self) -> (usize, usize) {
        let bytes: usize = self.overlays.iter().map(|overlay| overlay.bytes).sum();
        (
            self.queue.len() - self.prepared_events(),
            self.queued_bytes - bytes,
        )
    }

    /// Events that are not settled.
    pub fn unsettled(&self) -> usize {
        self.queue.len()
    }

    /// The offset of the oldest event that is not prepared.
    pub fn oldest_ready(&self) -> Option<Offset> {
        let queued = self.queue.get(self.prepared_events())?;
        Some(queued.received.offset)
    }

    /// Batches prepared and not settled.
    pub fn prepared(&self) -> usize {
        self.overlays.len()
    }

    /// Where the committed log ends.
    pub fn head(&self) -> Head {
        self.head
    }

    fn prepared_events(&self) -> usize {
        self.overlays.iter().map(|overlay| overlay.events).sum()
    }

    fn targets_of(&self, received: &Received, admitted_at: Timestamp) -> Vec<Target> {
        let Content::Event { event, .. } = &received.content else {
            return Vec::new();
        };
        let context = EventContext { event, admitted_at };
        self.machines
            .listening_to(&event.event_type)
            .map(|machine| Target {
                machine: machine.clone(),
                entity: transition::key_of(machine.as_ref(), &context).map(|key| EntityRef {
                    machine: machine.definition().machine.clone(),
                    key,
                }),
            })
            .collect()
    }

    /// Takes an entity into the bounded memory; what unsettled batches moved is never forgotten.
    fn remember(&mut self, entity: &EntityRef, value: EntityValue) -> Option<EntityValue> {
        let pinned = self.pinned();
        self.entities.put(entity, value, pinned)
    }

    /// Whether an unsettled batch, or the one in the making, moved an entity.
    fn pinned(&self) -> impl Fn(&EntityValue) -> bool + use<P> {
        let settled = self.batches - self.overlays.len() as u64;
        move |value| value.batch > settled
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
    fn forget_shared(&mut self, settled_events: usize) {
        if self.shared.is_empty() {
            return;
        }
        let pinned = self.pinned();
        for queued in self.queue.iter().take(settled_events) {
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

    fn name_of(&self, entity: &EntityRef) -> EntityName {
        EntityName {
            tenant: self.stream_partition.tenant.clone(),
            machine: entity.machine.clone(),
            key: entity.key.clone(),
        }
    }
}

fn reference(name: &EntityName) -> EntityRef {
    EntityRef {
        machine: name.machine.clone(),
        key: name.key.clone(),
    }
}
