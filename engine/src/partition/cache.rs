//! Bounded memories of a partition: entities as the newest batch leaves them, and idempotency keys that
//! are known to be admitted. Both only save questions; the store decides.

use std::collections::HashMap as StdHashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::commit::{EntityRow, StoredEntity};
use crate::hash::Hash128;
use crate::machine::{DeadReason, Fault, Processor};
use crate::position::Version;
use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};

/// A hash map with a fast keyed hash. Keys come from outside, so its seed is random; no result may depend
/// on its order.
pub(super) type HashMap<K, V> = StdHashMap<K, V, foldhash::fast::RandomState>;
/// A set of the same kind.
pub(super) type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

/// What an entry holds beside its place in a map.
pub(super) trait Held {
    /// Its bytes on the heap, as far as they are its own.
    fn bytes(&self) -> usize {
        0
    }
}

impl Held for Hash128 {}
impl Held for () {}

/// A map in two generations: an entry is kept while others come after it was last written or touched that
/// make up half of `entries_max` or of the bytes, and for as long as it is pinned.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: Generation<K, V>,
    old: Generation<K, V>,
    /// Entries that came into the young generation since it is the young one.
    added: usize,
    added_max: usize,
    young_bytes_max: usize,
}

#[derive(Debug)]
struct Generation<K, V> {
    map: HashMap<K, V>,
    /// What its entries hold.
    bytes: usize,
}

impl<K: Eq + Hash, V: Held> Generation<K, V> {
    fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.bytes += value.bytes();
        let before = self.map.insert(key, value);
        self.bytes -= before.as_ref().map_or(0, Held::bytes);
        before
    }

    fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.map.remove(key)?;
        self.bytes -= value.bytes();
        Some(value)
    }

    /// In place, so that the room is used again.
    fn retain(&mut self, pinned: impl Fn(&V) -> bool) {
        self.map.retain(|_, value| pinned(value));
        self.bytes = self.map.values().map(Held::bytes).sum();
    }
}

impl<K, V> Default for Generation<K, V> {
    fn default() -> Self {
        Self {
            map: HashMap::default(),
            bytes: 0,
        }
    }
}

impl<K: Eq + Hash + Clone, V: Held> Generations<K, V> {
    /// A map of at most `entries_max` entries (at least two), and those that are pinned.
    pub fn new(entries_max: usize) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            added: 0,
            added_max: (entries_max / 2).max(1),
            young_bytes_max: usize::MAX,
        }
    }

    /// Bounds the map anew. Entries that are too many are forgotten when others come.
    pub fn set_bound(&mut self, entries_max: usize) {
        self.added_max = (entries_max / 2).max(1);
    }

    /// Bounds what the entries hold. One entry and the pinned ones may go beyond it.
    pub fn set_bytes_bound(&mut self, bytes_max: usize) {
        self.young_bytes_max = (bytes_max / 2).max(1);
    }

    /// What the entries hold.
    pub fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    /// Forgets at once, but for the `pinned` entries, if there is several times as much as may be; their
    /// room goes as well.
    pub fn shrink(&mut self, pinned: impl Fn(&V) -> bool) {
        let held_max = 8 * self.added_max;
        let bytes_max = self.young_bytes_max.saturating_mul(8);
        for generation in [&mut self.young, &mut self.old] {
            if generation.map.capacity() > held_max || generation.bytes > bytes_max {
                generation.retain(&pinned);
                generation.map.shrink_to(self.added_max);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.young.map.len() + self.old.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        let young = self.young.map.get(key);
        young.or_else(|| self.old.map.get(key))
    }

    /// For what changes no bytes; see [`Generations::put`].
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.young.map.get_mut(key) {
            Some(value) => Some(value),
            None => self.old.map.get_mut(key),
        }
    }

    /// True when the entry is there; then it is young again.
    pub fn touch(&mut self, key: &K, pinned: impl Fn(&V) -> bool) -> bool {
        if self.young.map.contains_key(key) {
            return true;
        }
        let Some(value) = self.old.remove(key) else {
            return false;
        };
        self.add(key.clone(), value, pinned);
        true
    }

    /// Adds or replaces an entry, and returns what was there. Where that makes the young generation too
    /// large, the entries of the old one are forgotten but for the `pinned` ones.
    pub fn put(&mut self, key: &K, value: V, pinned: impl Fn(&V) -> bool) -> Option<V> {
        if let Some(place) = self.young.map.get_mut(key) {
            let bytes = value.bytes();
            let before = std::mem::replace(place, value);
            self.young.bytes = self.young.bytes + bytes - before.bytes();
            return Some(before);
        }
        let before = self.old.remove(key);
        self.add(key.clone(), value, pinned);
        before
    }

    fn add(&mut self, key: K, value: V, pinned: impl Fn(&V) -> bool) {
        if self.added >= self.added_max || self.young.bytes >= self.young_bytes_max {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.retain(pinned);
            self.added = 0;
        }
        self.added += 1;
        self.young.insert(key, value);
    }

    /// Forgets an entry.
    pub fn remove(&mut self, key: &K) {
        if self.young.remove(key).is_none() {
            self.old.remove(key);
        }
    }
}

/// An entity within its partition's tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct EntityRef {
    /// The machine.
    pub machine: MachineName,
    /// The key.
    pub key: EntityKey,
}

/// By the key alone: few entities of different machines share one, and it is hashed for every event.
impl Hash for EntityRef {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

/// An entity as a partition knows it: as the newest batch that touched it leaves it, settled or not.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct EntityValue {
    /// Its row; absent while it does not exist or its row is not known yet.
    pub row: Option<EntityRow>,
    /// Its version; 0 while it does not exist.
    pub version: Version,
    /// Its status, once it exists.
    pub status: Option<Status>,
    /// Its canonical data, once it exists. Text and no tree: a tenth of the memory, and a machine is
    /// given what a store would give it.
    pub text: Arc<str>,
    /// Admission time of the event that moved it last, while that is not settled.
    pub changed_at: Timestamp,
    /// The batch that moved it; see [`Overlay::number`](super::Overlay).
    pub batch: u64,
}

impl Held for EntityValue {
    fn bytes(&self) -> usize {
        self.text.len()
    }
}

impl EntityValue {
    /// An entity as the store has it; `None` when it does not exist.
    pub fn stored(stored: Option<StoredEntity>) -> Self {
        let (row, version, status, text) = match stored {
            Some(it) => (Some(it.row), it.version, Some(it.status), it.data),
            None => (None, Version(0), None, Arc::default()),
        };
        Self {
            row,
            version,
            status,
            text,
            changed_at: Timestamp(0),
            batch: 0,
        }
    }

    /// What a machine is given. A fault where the store gives other bytes than it was given (`verify`
    /// finds them): they must not become the base of new state, and nobody else waits for this entity.
    pub fn state(&self, machine: &dyn Processor) -> Result<EntityState, Fault> {
        let Some(status) = &self.status else {
            return Ok(machine.initial());
        };
        match StateData::from_canonical(&self.text) {
            Ok(data) => Ok(EntityState {
                status: status.clone(),
                version: self.version,
                data,
            }),
            Err(_) => Err(Fault {
                reason: DeadReason::Store,
                detail: format!(
                    "machine `{}`: the entity's stored data is no JSON object; see `tidegate verify`",
                    machine.definition().machine
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Generations, HashSet, Held};

    impl Held for u32 {}

    #[test]
    fn r15_the_maps_of_one_process_have_seeds_of_their_own() {
        // One part of a seed is the process's, the other the map's. The latter is enough for another order.
        let order = || (0..64).collect::<HashSet<u32>>().into_iter().collect();
        let orders: BTreeSet<Vec<u32>> = (0..1_000).map(|_| order()).collect();
        assert!(orders.len() > 900, "{} orders", orders.len());
    }

    #[test]
    fn the_map_never_holds_more_than_its_bound_and_keeps_what_is_written_or_pinned() {
        let mut map = Generations::new(100);
        let pinned = |value: &u32| *value == 7;
        for key in 0..10_000_u32 {
            map.put(&key, key, pinned);
            map.put(&0, 0, pinned);
            let held = map.len();
            assert!(held <= 101, "{held} entries");
            assert_eq!(map.get(&0), Some(&0), "written lately, after {key}");
            assert_eq!(map.get(&7).is_some(), key >= 7, "pinned, after {key}");
        }
        assert_eq!(map.get(&9_999), Some(&9_999));
        assert_eq!(map.get(&1), None);
        assert_eq!(map.put(&9_999, 1, pinned), Some(9_999));
        map.remove(&9_999);
        assert_eq!(map.get(&9_999), None);
    }
}
