//! The node's memory of entities, keys and emitted events, in equal shares for the partitions that are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_engine::partition::PartitionLimits;

/// Entities of the smallest share: a partition has to look some events ahead, however many there are.
pub(crate) const SHARE_ENTITIES_MIN: usize = 256;

/// Bytes of emitted events in the smallest share: some go on without a look into the store.
const SHARE_EMITTED_BYTES_MIN: usize = 64 * 1024;

/// What the partitions of a node may keep in memory together.
#[derive(Debug)]
pub(crate) struct Memory {
    limits: PartitionLimits,
    shares: AtomicUsize,
}

impl Memory {
    pub fn new(limits: PartitionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            shares: AtomicUsize::new(0),
        })
    }

    /// One partition's share, for as long as it is held.
    pub fn share(self: &Arc<Self>) -> Share {
        self.shares.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }
}

/// A part of the node's memory. It becomes smaller with every other partition, and larger when one is
/// put away.
#[derive(Debug)]
pub(crate) struct Share(Arc<Memory>);

impl Share {
    /// What its holder may keep now.
    pub fn limits(&self) -> PartitionLimits {
        let shares = self.0.shares.load(Ordering::Relaxed).max(1);
        let all = self.0.limits;
        // What was set below the smallest share is what was wanted.
        let entities_min = SHARE_ENTITIES_MIN.min(all.entities_max);
        PartitionLimits {
            entities_max: (all.entities_max / shares).max(entities_min),
            entities_bytes_max: all.entities_bytes_max / shares,
            known_keys_max: all.known_keys_max / shares,
            emitted_bytes_max: (all.emitted_bytes_max / shares)
                .max(SHARE_EMITTED_BYTES_MIN.min(all.emitted_bytes_max)),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.shares.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_engine::partition::PartitionLimits;

    use super::{Memory, SHARE_ENTITIES_MIN, Share};

    #[test]
    fn the_shares_of_all_are_the_nodes_memory_and_none_is_too_small_to_work_with() {
        let memory = Memory::new(PartitionLimits {
            entities_max: 100_000,
            entities_bytes_max: 1_000_000,
            known_keys_max: 200_000,
            emitted_bytes_max: 1024 * 1024,
        });
        let first = memory.share();
        assert_eq!(first.limits().entities_max, 100_000);
        let others: Vec<Share> = (1..100).map(|_| memory.share()).collect();
        let limits = first.limits();
        assert_eq!((limits.entities_max, limits.known_keys_max), (1_000, 2_000));
        assert_eq!(limits.entities_bytes_max, 10_000);
        let many: Vec<Share> = (100..100_000).map(|_| memory.share()).collect();
        let limits = first.limits();
        let smallest = (SHARE_ENTITIES_MIN, 2);
        assert_eq!((limits.entities_max, limits.known_keys_max), smallest);
        drop((others, many));
        assert_eq!(first.limits().entities_max, 100_000);
    }
}
