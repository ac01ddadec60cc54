//! An entity's state and its canonical text: sorted keys, shortest floats, exact round trip. Two states
//! are equal exactly when these bytes are.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::hash::hash_fields;
use crate::limits::ENTITY_DATA_BYTES_MAX;
use crate::position::Version;

crate::text_type!(
    /// A machine's name.
    MachineName, "machine", crate::text::name_rule
);
crate::text_type!(
    /// The key of an entity, within its tenant and machine.
    EntityKey, "key", crate::text::entity_key_rule
);
crate::text_type!(
    /// A status that a machine declares.
    Status, "status", crate::text::name_rule
);

/// The declared fields of one entity. `serde_json`'s map is a `BTreeMap` here (its `preserve_order`
/// feature is off, and a test keeps it off), so iteration is in order of key.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StateData(pub Map<String, Value>);

impl StateData {
    /// One field.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field)
    }

    /// The canonical JSON text, or `None` when the data is larger than an entity may be.
    pub fn to_canonical(&self) -> Option<Arc<str>> {
        // A map of JSON values always serializes; an error would mean a key that is no string.
        let text = serde_json::to_string(&self.0).ok()?;
        (text.len() <= ENTITY_DATA_BYTES_MAX).then(|| Arc::from(text))
    }

    /// Reads what [`StateData::to_canonical`] wrote.
    pub fn from_canonical(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }
}

/// One entity between two events.
#[derive(Clone, PartialEq, Debug)]
pub struct EntityState {
    /// The status.
    pub status: Status,
    /// The version, 0 while the entity does not exist.
    pub version: Version,
    /// The declared fields.
    pub data: StateData,
}

/// 64 bits over status and canonical data: what an effect records of the state after it.
pub fn state_hash(status: &Status, canonical_data: &str) -> u64 {
    (hash_fields(
        "tidegate.state",
        &[status.as_str().as_bytes(), canonical_data.as_bytes()],
    )
    .0 >> 64) as u64
}
