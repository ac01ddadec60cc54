//! The hash chain of a stream partition: one leaf an event over its stored bytes, folded one by one, so
//! that a head does not depend on how events were cut into segments.

use crate::hash::Hash128;

/// The fold of every leaf so far; all zero before the first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct ChainHead(pub [u8; 32]);

impl ChainHead {
    /// The head after one more leaf.
    #[must_use]
    pub fn fold(self, leaf: Hash128) -> Self {
        let mut input = [0_u8; 48];
        let (head, tail) = input.split_at_mut(32);
        head.copy_from_slice(&self.0);
        tail.copy_from_slice(&leaf.to_bytes());
        Self(*blake3::hash(&input).as_bytes())
    }

    /// The head from its stored bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ChainHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}
