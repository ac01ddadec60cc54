//! How much one partition may keep in memory, and how much it does.

/// Bounds of one partition's memories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionLimits {
    /// Entities kept between events.
    pub entities_max: usize,
    /// Bytes of their data. What one event needs is there however large it is.
    pub entities_bytes_max: usize,
    /// Admitted idempotency keys kept; four for each queued event, where that is more.
    pub known_keys_max: usize,
    /// Bytes of emitted events that are queued; what is too much for it waits in the store. One goes on
    /// however large it is.
    pub emitted_bytes_max: usize,
}

impl Default for PartitionLimits {
    fn default() -> Self {
        Self {
            entities_max: 100_000,
            entities_bytes_max: 64 * 1024 * 1024,
            known_keys_max: 200_000,
            emitted_bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// What a partition keeps in memory between events.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cached {
    /// Entities.
    pub entities: usize,
    /// Bytes of their data.
    pub entity_bytes: usize,
    /// Idempotency keys.
    pub keys: usize,
}
