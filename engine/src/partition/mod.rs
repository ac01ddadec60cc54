//! A partition: one tenant's events of one source partition, in order, from admission to settlement, and
//! what machines emit for them. The first go to the log of the source's stream, the latter to that of stream
//! `internal`; both move the same entities, so both are applied here. Emitted events go first: a chain
//! ends before anything new begins, so that what received events set off is all that is ever open. Applies
//! events one batch ahead of the one in flight, and can take back what is not committed. Pure: it asks for
//! entities and hands out parts of batches; whoever drives it does the I/O.

mod cache;
mod emitted;
mod letters;
mod limits;
mod logs;
mod part;
mod prepare;
mod queue;
mod reads;
mod settle;
mod settlements;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use cache::EntityRef;
use cache::{EntityValue, Generations, HashMap, HashSet};
use emitted::Backlog;
pub use letters::{Notice, NoticedEvent};
pub use limits::{Cached, PartitionLimits};
pub use part::{Allowance, Part, Prepared};
use queue::{Line, Look, Origin, Queued, Target};

use crate::admission::{Content, Received};
use crate::chain::ChainHead;
use crate::clock::Timestamp;
use crate::commit::{EntityName, EntityRow, OpenWork, StoredEntity, Surprises, WorkPlace};
use crate::hash::Hash128;
use crate::machine::{EventContext, MachineSet};
use crate::planted::{Bug, active};
use crate::position::{Offset, Revision, Sequence, StreamName, StreamPartition};
use crate::store::StreamHead;
use crate::transition;

/// Events whose entities fit into the smallest memory, as it forgets by halves.
const ROOM_EVENTS_MIN: usize = 4;

/// Entities over which the largest is forgotten by and by.
const ENTITIES_OF_LATE: usize = 64;

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

/// Where the two logs of a partition end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heads {
    /// That of the source's stream.
    pub source: Head,
    /// That of stream `internal`.
    pub internal: Head,
}

impl Heads {
    /// Those of `stream_partition` and of its stream `internal`, among a tenant's logs of that source
    /// partition. A log that is not there yet begins at 0.
    pub fn among(heads: &[StreamHead], stream_partition: &StreamPartition) -> Self {
        let of = |stream: &StreamName| {
            let mut heads = heads.iter().filter(|head| {
                let place = &head.stream_partition;
                place.stream == *stream
                    && place.tenant == stream_partition.tenant
                    && place.source_partition == stream_partition.source_partition
            });
            heads.next().map_or(Head::default(), |head| Head {
                next_sequence: head.next_sequence,
                chain_head: head.chain_head,
            })
        };
        Self {
            source: of(&stream_partition.stream),
            internal: of(&StreamName::internal()),
        }
    }
}

/// An event that is not settled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EventRef {
    /// A delivery.
    Delivered(Offset),
    /// An emitted event, by its open work.
    Emitted(WorkPlace),
}

/// What of a batch is durable.
#[derive(Clone, Copy, Debug)]
pub struct Settled<'s> {
    /// The revision that the batch was committed under: where its open work stands.
    pub revision: Revision,
    /// The rows of the entities that the part created; `None` when the reply was lost.
    pub new_rows: Option<&'s [EntityRow]>,
    /// Now: when what was emitted is admitted.
    pub at: Timestamp,
}

/// What a batch that is prepared and not settled changed in the partition's memories, and how to take
/// it back. The memories hold the newest state, so that applying an event asks one map and not one a
/// batch.
#[derive(Default)]
struct Overlay {
    /// Counts batches; what the memories hold of a higher number than the last settled is speculation.
    number: u64,
    /// Emitted events in it.
    emitted: usize,
    /// Received events in it.
    received: usize,
    /// The bytes of both.
    bytes: usize,
    heads: Heads,
    /// The keys it admits.
    keys: Vec<Hash128>,
    /// The entities it moved, each as it was before, in the order of the part's entities once it is
    /// finished. `None` where nothing was known that may be gone back to.
    moved: Vec<(EntityRef, Option<EntityValue>)>,
    /// Which of them did not exist before, by their place in `moved`.
    created: Vec<usize>,
    /// What its machines emitted, in order.
    open_work: Vec<OpenWork>,
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
    /// The stream `internal` of the same source partition.
    internal: StreamName,
    machines: MachineSet,
    heads: Heads,
    received: Line<P>,
    emitted: Line<P>,
    backlog: Backlog,
    overlays: VecDeque<Overlay>,
    /// The number of the last batch that was prepared.
    batches: u64,
    entities: Generations<EntityRef, EntityValue>,
    entities_bytes_max: usize,
    /// About the largest of late: how many are loaded ahead goes by it.
    entity_bytes: usize,
    /// Queued events whose entities are loaded ahead.
    look_ahead_max: usize,
    known_keys: Generations<Hash128, Hash128>,
    requested: HashSet<EntityRef>,
    shared: Generations<EntityRef, ()>,
    condemned: BTreeMap<EventRef, Condemned>,
    keeps_settlements: bool,
}

/// Batches prepared and not settled: the one in flight and the one that follows.
pub const PREPARED_MAX: usize = 2;

impl<P> Partition<P> {
    /// A partition at the end of its stored logs.
    pub fn new(
        stream_partition: StreamPartition,
        machines: MachineSet,
        heads: Heads,
        limits: PartitionLimits,
    ) -> Self {
        let mut partition = Self {
            stream_partition,
            internal: StreamName::internal(),
            machines,
            heads,
            received: Line::new(),
            emitted: Line::new(),
            backlog: Backlog::default(),
            overlays: VecDeque::new(),
            batches: 0,
            entities: Generations::new(limits.entities_max),
            entities_bytes_max: limits.entities_bytes_max,
            entity_bytes: 0,
            look_ahead_max: 0,
            known_keys: Generations::new(limits.known_keys_max),
            requested: HashSet::default(),
            shared: Generations::new(SHARED_ENTITIES_MAX),
            condemned: BTreeMap::new(),
            keeps_settlements: false,
        };
        partition.set_limits(limits);
        partition
    }

    /// Bounds its memories anew; what is too much is forgotten as events go on.
    pub fn set_limits(&mut self, limits: PartitionLimits) {
        let per_event = self.per_event();
        let entities_max = limits.entities_max.max(ROOM_EVENTS_MIN * per_event);
        self.entities.set_bound(entities_max);
        self.entities_bytes_max = limits.entities_bytes_max;
        self.bound_entity_bytes();
        let pinned = self.pinned();
        self.entities.shrink(pinned);
        // One of the memory's two generations, so that what is loaded together stays together.
        self.look_ahead_max = entities_max / (2 * per_event);
        // The keys of unsettled events, and the duplicates that a store names of them, must be remembered
        // until they are settled or applied again, or the same batch would be refused for ever.
        self.known_keys
            .set_bound(limits.known_keys_max.max(4 * self.received.queue.len()));
        self.backlog.set_bound(limits.emitted_bytes_max);
    }

    /// Entities that one event may need: one of each machine.
    fn per_event(&self) -> usize {
        self.machines.iter().count().max(1)
    }

    /// What one event needs has to be there at once, however large, and stay while each of its entities is
    /// touched and moved.
    fn bound_entity_bytes(&mut self) {
        let needed = ROOM_EVENTS_MIN * self.per_event() * self.entity_bytes;
        let bytes_max = self.entities_bytes_max.max(needed);
        self.entities.set_bytes_bound(bytes_max);
    }

    /// Whose log it writes.
    pub fn stream_partition(&self) -> &StreamPartition {
        &self.stream_partition
    }

    /// Takes a received event in, behind all earlier ones. `admitted_at` is stamped once.
    pub fn offer(&mut self, received: Received, permit: P, admitted_at: Timestamp) {
        let targets = self.targets_of(&received.content, admitted_at);
        let recorded_at = received.recorded_at.unwrap_or(admitted_at);
        self.received.push(Queued {
            origin: Origin::Delivered(received.offset),
            waits_since: recorded_at.min(admitted_at),
            bytes: received.bytes,
            content: received.content,
            permit: Some(permit),
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
        let (emitted, received) = self.prepared_events();
        let fit = self.entities_bytes_max / 2 / self.entity_bytes.max(1);
        let events_max = (fit / self.per_event()).max(1);
        let events_left = self.look_ahead_max.min(names_max.saturating_mul(2));
        let mut look = Look {
            known: &self.entities,
            requested: &mut self.requested,
            events_left: events_left.min(events_max),
            wanted: Vec::new(),
            wanted_max: names_max.min(fit.max(self.machines.iter().count())),
        };
        if self.emitted.look_ahead(emitted, &mut look) {
            self.received.look_ahead(received, &mut look);
        }
        let wanted = look.wanted;
        wanted.iter().map(|entity| self.name_of(entity)).collect()
    }

    /// The store answered: of `asked`, exactly `found` exist.
    pub fn loaded(&mut self, asked: &[EntityName], found: Vec<StoredEntity>) {
        let mut found: HashMap<EntityRef, StoredEntity> = found
            .into_iter()
            .map(|entity| (reference(&entity.name), entity))
            .collect();
        // What is needed first comes last: nothing that came with it can push it out.
        for name in asked.iter().rev() {
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
        self.look_again();
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
        self.look_again();
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

    /// The store refuses the values of an event: it will be dead.
    pub fn condemn(&mut self, event: EventRef, detail: &str) {
        let condemned = self.condemned.entry(event).or_insert(Condemned {
            times: 0,
            detail: String::new(),
        });
        condemned.times = condemned.times.saturating_add(1);
        condemned.detail = detail.to_owned();
    }

    /// Events that are not prepared yet and may be, and their bytes.
    pub fn ready(&self) -> (usize, usize) {
        let (emitted, received) = self.prepared_events();
        let emitted = self.emitted.queue.len() - emitted;
        if self.backlog.is_stored() && emitted == 0 {
            // What is in the store goes first.
            return (0, 0);
        }
        let prepared: usize = self.overlays.iter().map(|overlay| overlay.bytes).sum();
        (
            emitted + self.received.queue.len() - received,
            self.emitted.bytes + self.received.bytes - prepared,
        )
    }

    /// Events that are queued and not settled, emitted ones included.
    pub fn unsettled(&self) -> usize {
        self.received.queue.len() + self.emitted.queue.len()
    }

    /// Since when the oldest received event that is not settled waits.
    pub fn oldest_received_at(&self) -> Option<Timestamp> {
        self.received.queue.front().map(|queued| queued.waits_since)
    }

    /// When the oldest emitted event in memory was taken up: when its cause was settled here, or when it was
    /// read from the store.
    pub fn oldest_emitted_at(&self) -> Option<Timestamp> {
        self.emitted.queue.front().map(|queued| queued.admitted_at)
    }

    /// What is in memory.
    pub fn cached(&self) -> Cached {
        Cached {
            entities: self.entities.len(),
            entity_bytes: self.entities.bytes(),
            keys: self.known_keys.len(),
        }
    }

    /// Emitted events that are not prepared.
    pub fn emitted_ready(&self) -> usize {
        self.emitted.queue.len() - self.prepared_events().0
    }

    /// The offset of the oldest received event that is not prepared.
    pub fn oldest_ready(&self) -> Option<Offset> {
        let queued = self.received.queue.get(self.prepared_events().1)?;
        match queued.origin {
            Origin::Delivered(offset) => Some(offset),
            Origin::Emitted(..) => None,
        }
    }

    /// Batches prepared and not settled.
    pub fn prepared(&self) -> usize {
        self.overlays.len()
    }

    /// Where the committed logs end.
    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// Emitted and received events that are prepared.
    fn prepared_events(&self) -> (usize, usize) {
        self.overlays.iter().fold((0, 0), |taken, overlay| {
            (taken.0 + overlay.emitted, taken.1 + overlay.received)
        })
    }

    fn look_again(&mut self) {
        self.emitted.looked_through = 0;
        self.received.looked_through = 0;
    }

    fn targets_of(&self, content: &Content, admitted_at: Timestamp) -> Vec<Target> {
        let Content::Event { event, .. } = content else {
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
        let bytes = value.text.len();
        if bytes > self.entity_bytes {
            self.entity_bytes = bytes;
            self.bound_entity_bytes();
        } else {
            self.entity_bytes -= (self.entity_bytes - bytes) / ENTITIES_OF_LATE;
        }
        let pinned = self.pinned();
        self.entities.put(entity, value, pinned)
    }

    /// Whether an unsettled batch, or the one in the making, moved an entity.
    fn pinned(&self) -> impl Fn(&EntityValue) -> bool + use<P> {
        let settled = self.batches - self.overlays.len() as u64;
        move |value| value.batch > settled
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
