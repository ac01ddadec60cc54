//! Bounded memories of a partition: entities as they were last committed, and idempotency keys that are
//! known to be admitted. Both only save questions; the store decides.

use std::collections::HashMap as StdHashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::commit::EntityRow;
use crate::state::{EntityKey, EntityState, MachineName};

/// A hash map with a fast keyed hash. Keys come from outside, so its seed is random; no result may depend
/// on its order.
pub(super) type HashMap<K, V> = StdHashMap<K, V, foldhash::fast::RandomState>;
/// A set of the same kind.
pub(super) type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;

/// A map in two generations: what is not asked for while one generation fills is forgotten. Costs one
/// look-up more than a plain map and never more than `entries_max` entries.
#[derive(Debug)]
pub struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    entries_max: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Generations<K, V> {
    /// A map of at most `entries_max` entries (at least two).
    pub fn new(entries_max: usize) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            entries_max: entries_max.max(2),
        }
    }

    /// Looks a key up without keeping it young.
    pub fn peek(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Looks a key up and keeps it young.
    pub fn touch(&mut self, key: &K) -> Option<&V> {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key)?;
            self.insert(key.clone(), value);
        }
        self.young.get(key)
    }

    /// Adds or replaces an entry.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.entries_max / 2 && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Forgets an entry.
    pub fn remove(&mut self, key: &K) {
        self.young.remove(key);
        self.old.remove(key);
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

/// An entity within its partition's tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntityRef {
    /// The machine.
    pub machine: MachineName,
    /// The key.
    pub key: EntityKey,
}

/// An entity as a partition knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct EntityValue {
    /// Its row; absent while it does not exist or its row is not known yet.
    pub row: Option<EntityRow>,
    /// Its state; version 0 while it does not exist.
    pub state: EntityState,
    /// Its canonical data.
    pub text: Arc<str>,
    /// Admission time of the event that moved it last, while that is not settled.
    pub changed_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::Generations;

    #[test]
    fn the_map_never_holds_more_than_its_bound_and_keeps_what_is_asked_for() {
        let mut map = Generations::new(100);
        for key in 0..10_000_u32 {
            map.insert(key, key);
            assert!(map.len() <= 100, "{} entries", map.len());
            assert_eq!(map.touch(&0), Some(&0), "after {key}");
        }
        assert_eq!(map.peek(&9_999), Some(&9_999));
        assert_eq!(map.peek(&1), None);
    }
}
