//! A Bloom filter over the keys of the older dedupe table. It answers "certainly not there" for almost
//! every new key, so that a commit probes the older table only for the rest. Keys are hashes already,
//! so their own bits choose the positions.

use tidegate_engine::hash::Hash128;

/// Bits a key: with six positions about one false positive in a hundred.
const BITS_PER_KEY: usize = 10;
const POSITIONS: u64 = 6;

/// What is known of one generation's older table.
pub(super) struct OlderKeys {
    /// The generation that it belongs to; every key is asked for when the database has moved on.
    pub generation: i64,
    filter: Filter,
}

enum Filter {
    /// No room for that many keys: nothing can be ruled out.
    TooLarge,
    Bits {
        words: Vec<u64>,
    },
}

impl OlderKeys {
    /// An empty filter for `keys` keys within `bytes_max`.
    pub fn with_room_for(generation: i64, keys: usize, bytes_max: usize) -> Self {
        let words = (keys.saturating_mul(BITS_PER_KEY) / 64)
            .max(1)
            .next_power_of_two();
        // Rounding up to a power of two makes a position a mask; it may double the size, so a filter
        // that is only just too large gets half the bits.
        let words = if words * 8 > bytes_max {
            words / 2
        } else {
            words
        };
        let filter = if words == 0 || words * 8 > bytes_max {
            Filter::TooLarge
        } else {
            Filter::Bits {
                words: vec![0; words],
            }
        };
        Self { generation, filter }
    }

    /// True when there is no use in adding keys.
    pub fn is_too_large(&self) -> bool {
        matches!(self.filter, Filter::TooLarge)
    }

    /// Adds a key.
    pub fn insert(&mut self, tenant: i64, key: Hash128) {
        if let Filter::Bits { words } = &mut self.filter {
            let bits = words.len() as u64 * 64;
            for position in positions(tenant, key, bits) {
                if let Some(word) = words.get_mut((position / 64) as usize) {
                    *word |= 1 << (position % 64);
                }
            }
        }
    }

    /// False when the key is certainly not in the older table.
    pub fn may_contain(&self, tenant: i64, key: Hash128) -> bool {
        match &self.filter {
            Filter::TooLarge => true,
            Filter::Bits { words } => {
                let bits = words.len() as u64 * 64;
                positions(tenant, key, bits).all(|position| {
                    words
                        .get((position / 64) as usize)
                        .is_some_and(|word| word & (1 << (position % 64)) != 0)
                })
            }
        }
    }
}

/// Double hashing (Kirsch and Mitzenmacher 2006) with the two halves of the key. `bits` is a power of
/// two. The tenant is mixed in: an equal key of another tenant is another key.
fn positions(tenant: i64, key: Hash128, bits: u64) -> impl Iterator<Item = u64> {
    let tenant = tenant.unsigned_abs().wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let first = ((key.0 >> 64) as u64) ^ tenant;
    // Odd, so that the steps reach every position.
    let step = (key.0 as u64) | 1;
    (0..POSITIONS).map(move |i| first.wrapping_add(i.wrapping_mul(step)) & (bits - 1))
}

#[cfg(test)]
mod tests {
    use super::OlderKeys;
    use tidegate_engine::hash::{Hash128, hash_bytes};

    fn key(n: u64) -> Hash128 {
        hash_bytes(&n.to_le_bytes())
    }

    #[test]
    fn no_key_that_was_added_is_ever_ruled_out_and_few_others_are_asked_for() {
        let mut filter = OlderKeys::with_room_for(1, 50_000, 1 << 20);
        for n in 0..50_000 {
            filter.insert(7, key(n));
        }
        assert!((0..50_000).all(|n| filter.may_contain(7, key(n))));
        let false_positives = (50_000..150_000)
            .filter(|n| filter.may_contain(7, key(*n)))
            .count();
        assert!(false_positives < 2_000, "{false_positives} of 100,000");
        let other_tenant = (0..50_000)
            .filter(|n| filter.may_contain(8, key(*n)))
            .count();
        assert!(other_tenant < 1_000, "{other_tenant} of 50,000");
    }

    #[test]
    fn a_filter_without_room_rules_nothing_out() {
        let filter = OlderKeys::with_room_for(1, 1_000_000_000, 1 << 20);
        assert!(filter.is_too_large());
        assert!(filter.may_contain(1, key(1)));
    }
}
