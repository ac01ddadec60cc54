//! A partition: one tenant's events of one source partition, in order, from admission to settlement.
//! Keeps committed and speculative state apart, one batch ahead of the one in flight. Pure: it asks for
//! entities and hands out parts of batches; whoever drives it does the I/O.

mod cache;
mod prepare;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use cache::{EntityRef, EntityValue, Generations};
use cache::{HashMap, HashSet};
pub use prepare::{Allowance, Part, Prepared};

use crate::admission::{Content, Received};
use crate::chain::ChainHead;
use crate::clock::Timestamp;
use crate::commit::{EntityName, EntityRow, StoredEntity, Surprises};
use crate::hash::Hash128;
use crate::machine::{EventContext, Fault, MachineSet, Processor};
use crate::planted::{Bug, active};
use crate::position::{Offset, Sequence, StreamPartition};
use crate::state::{EntityState, StateData};
use crate::transition;

/// Bounds of one partition's memories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionLimits {
    /// Entities kept between events.
    pub entities_max: usize,
    /// Admitted idempotency keys kept. At least twice the events of one batch, or the duplicates that a
    /// store names of one batch would be forgotten before the batch is applied again.
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

/// Entities that are remembered as shared with other partitions.
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
    machine: std::sync::Arc<dyn Processor>,
    entity: Result<EntityRef, Fault>,
}

/// The speculative state of one batch that is prepared and not yet settled.
#[derive(Default)]
struct Overlay {
    events: usize,
    /// Their bytes.
    bytes: usize,
    head: Head,
    keys: HashMap<Hash128, Hash128>,
    touched: HashMap<EntityRef, EntityValue>,
    /// The keys of `touched`, sorted: what a bounded memory forgets must not depend on a hash's seed.
    written: Vec<EntityRef>,
    /// Entities that did not exist before this batch, in the order of the part's entities.
    created: Vec<EntityRef>,
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
    entities: Generations<EntityRef, EntityValue>,
    /// Queued events whose entities are loaded ahead.
    look_ahead_max: usize,
    known_keys: Generations<Hash128, Hash128>,
    requested: HashSet<EntityRef>,
    /// Places in the queue before this one need nothing that was not asked for when they were looked
    /// at. Without it every look would go through the whole queue again.
    looked_through: usize,
    shared: BTreeSet<EntityRef>,
    condemned: BTreeMap<Offset, Condemned>,
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
        // One event may concern every machine, and what it needs has to be there at once.
        let per_event = machines.iter().count().max(1);
        let entities_max = limits.entities_max.max(2 * per_event);
        Self {
            stream_partition,
            machines,
            head,
            queue: VecDeque::new(),
            queued_bytes: 0,
            overlays: VecDeque::new(),
            entities: Generations::new(entities_max),
            // One of the memory's two generations, so that what is loaded together stays together.
            look_ahead_max: entities_max / (2 * per_event),
            known_keys: Generations::new(limits.known_keys_max),
            requested: HashSet::default(),
            looked_through: 0,
            shared: BTreeSet::new(),
            condemned: BTreeMap::new(),
        }
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
                if self.requested.contains(entity) || self.value_of(entity).is_some() {
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
            if let Some(value) = self.value_from(&entity, found.remove(&entity)) {
                self.entities.insert(entity, value);
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
        let Some(mut overlay) = self.overlays.pop_front() else {
            return Vec::new();
        };
        self.head = overlay.head;
        // In order, so that what the bounded memory forgets does not depend on a hash's seed.
        let mut keys: Vec<_> = overlay.keys.into_iter().collect();
        keys.sort_unstable();
        for (key, conflict) in keys {
            self.known_keys.insert(key, conflict);
        }
        let mut rows: HashMap<EntityRef, EntityRow> = HashMap::default();
        if let Some(new_rows) = new_rows {
            assert_eq!(
                new_rows.len(),
                overlay.created.len(),
                "the store numbers every new entity"
            );
            rows = overlay
                .created
                .iter()
                .cloned()
                .zip(new_rows.iter().copied())
                .collect();
        }
        for entity in overlay.written {
            let Some(mut value) = overlay.touched.remove(&entity) else {
                continue;
            };
            value.row = value.row.or_else(|| rows.get(&entity).copied());
            if value.row.is_none() || self.shared.contains(&entity) {
                self.entities.remove(&entity);
            } else {
                self.entities.insert(entity, value);
            }
        }
        self.name_created(&rows);
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
        for overlay in std::mem::take(&mut self.overlays) {
            if kept_by_mistake {
                for entity in overlay.written {
                    if let Some(value) = overlay.touched.get(&entity).cloned() {
                        self.entities.insert(entity, value);
                    }
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
            self.known_keys.insert(known.key, known.conflict);
        }
        for (name, stored) in surprises
            .entities
            .iter()
            .filter(|(name, _)| name.tenant == tenant)
        {
            let entity = reference(name);
            if self.shared.len() < SHARED_ENTITIES_MAX {
                self.shared.insert(entity.clone());
            }
            match self.value_from(&entity, stored.clone()) {
                Some(value) => self.entities.insert(entity, value),
                None => self.entities.remove(&entity),
            }
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

    /// The offset of the oldest event that is not settled.
    pub fn oldest_unsettled(&self) -> Option<Offset> {
        self.queue.front().map(|queued| queued.received.offset)
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

    /// An entity as the next batch sees it: the newest speculation, else what was last committed.
    fn value_of(&self, entity: &EntityRef) -> Option<&EntityValue> {
        self.overlays
            .iter()
            .rev()
            .find_map(|overlay| overlay.touched.get(entity))
            .or_else(|| self.entities.peek(entity))
    }

    /// The conflict hash under which a key is known, speculation included.
    fn known_key(&self, key: &Hash128) -> Option<Hash128> {
        self.overlays
            .iter()
            .rev()
            .find_map(|overlay| overlay.keys.get(key))
            .or_else(|| self.known_keys.peek(key))
            .copied()
    }

    fn value_from(&self, entity: &EntityRef, stored: Option<StoredEntity>) -> Option<EntityValue> {
        let Some(stored) = stored else {
            let state = self.machines.get(&entity.machine)?.initial();
            let text = state.data.to_canonical()?;
            return Some(EntityValue {
                row: None,
                state,
                text,
                changed_at: Timestamp(0),
            });
        };
        // The store gives back the bytes it was given; anything else is found by `verify`, and here
        // must not become the base of new state.
        let data = StateData::from_canonical(&stored.data).ok()?;
        let state = EntityState {
            status: stored.status,
            version: stored.version,
            data,
        };
        Some(EntityValue {
            row: Some(stored.row),
            state,
            text: stored.data,
            changed_at: Timestamp(0),
        })
    }

    /// Gives later speculation the rows of entities that the settled batch created.
    fn name_created(&mut self, rows: &HashMap<EntityRef, EntityRow>) {
        for overlay in &mut self.overlays {
            for (entity, row) in rows {
                if let Some(value) = overlay.touched.get_mut(entity) {
                    value.row = value.row.or(Some(*row));
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
