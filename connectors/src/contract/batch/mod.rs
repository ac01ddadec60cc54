//! Valid batches from short descriptions: a [`Writer`] owns one source partition of a store and knows
//! where its logs end; an [`Entry`] says what one event does. Bodies, leaves, chain heads and counts are
//! the real ones, so whatever is written here can be verified and replayed like a node's own log.

mod draft;
mod entry;
mod writer;

use tidegate_engine::commit::EntityName;
use tidegate_engine::position::{Incarnation, Offset, SourceName, SourcePartition};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::Claim;
use tidegate_engine::tenant::TenantId;

pub use entry::{Entry, EntryEffect};
pub use writer::Writer;

/// A tenant by name.
pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// A source partition by name and number.
pub fn source_partition(source: &str, partition: u32) -> SourcePartition {
    SourcePartition {
        source: SourceName::new(source).unwrap(),
        partition,
    }
}

/// A claim at offset 0 for an owner.
pub fn claim_of(source_partition: &SourcePartition, owner: &str) -> Claim {
    Claim {
        source_partition: source_partition.clone(),
        owner: owner.to_owned(),
        incarnation: Incarnation::new("first").unwrap(),
        start: Offset(0),
    }
}

/// An entity of machine `order`.
pub fn entity_name(tenant_name: &str, key: &str) -> EntityName {
    EntityName {
        tenant: tenant(tenant_name),
        machine: MachineName::new("order").unwrap(),
        key: EntityKey::new(key).unwrap(),
    }
}
