//! What one commit contains and what a store may answer. A batch belongs to one source partition; it
//! takes effect whole or not at all.

use std::sync::Arc;

use bytes::Bytes;

use crate::chain::ChainHead;
use crate::checkpoint::Progress;
use crate::clock::Timestamp;
use crate::dead_letter::{DeadLetter, DeadLetterUpdate};
use crate::event::EventType;
use crate::hash::Hash128;
use crate::position::{
    Epoch, Offset, RecordPosition, Revision, Sequence, SourcePartition, StreamPartition, Version,
};
use crate::state::{EntityKey, MachineName, Status};
use crate::tenant::TenantId;

/// How a store goes about a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CommitPath {
    /// Plain inserts and counts; any shortfall leaves nothing and is asked again on the careful path
    /// by the store itself.
    #[default]
    Fast,
    /// The costly questions in front; surprises are returned as a whole list.
    Careful,
}

/// A run of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Whose log it is.
    pub stream_partition: StreamPartition,
    /// The first record's sequence.
    pub first_sequence: Sequence,
    /// Records in it.
    pub count: u32,
    /// Admission time of the first.
    pub first_at: Timestamp,
    /// Admission time of the last.
    pub last_at: Timestamp,
    /// The chain's head after the last.
    pub chain_head: ChainHead,
    /// A JSON array, one entry a record (see [`crate::record`]).
    pub body: Arc<str>,
}

/// The mark that an idempotency key was admitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DedupeMark {
    /// The tenant.
    pub tenant: TenantId,
    /// Hash of the key.
    pub key: Hash128,
    /// Hash of what must be equal under one key.
    pub conflict: Hash128,
    /// Where the event stands in its source partition.
    pub offset: Offset,
}

/// The store's own number of an entity's row: found faster than by its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntityRow(pub i64);

/// An entity's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntityName {
    /// The tenant.
    pub tenant: TenantId,
    /// The machine.
    pub machine: MachineName,
    /// The key.
    pub key: EntityKey,
}

/// An entity's state after the batch, and what it must be before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntityWrite {
    /// Which entity.
    pub name: EntityName,
    /// Its row, when known; always known when `expected` is above 0.
    pub row: Option<EntityRow>,
    /// The version it must have; 0 when it must not exist.
    pub expected: Version,
    /// The version it gets.
    pub version: Version,
    /// The status it gets.
    pub status: Status,
    /// The canonical data it gets.
    pub data: Arc<str>,
    /// Admission time of the last event that moved it.
    pub changed_at: Timestamp,
}

/// An entity that events of the batch were decided on and that none of them moves: refused, ignored and
/// dead ones looked at it, too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntityRead {
    /// Which entity.
    pub name: EntityName,
    /// Its row; always known when `expected` is above 0.
    pub row: Option<EntityRow>,
    /// The version it must have; 0 when it must not exist.
    pub expected: Version,
}

/// An entity as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredEntity {
    /// Which entity.
    pub name: EntityName,
    /// Its row.
    pub row: EntityRow,
    /// Its version.
    pub version: Version,
    /// Its status.
    pub status: Status,
    /// Its canonical data.
    pub data: Arc<str>,
}

/// What a piece of open work is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OpenWorkKind {
    /// An emitted event that is to come back as an event of stream `internal`.
    LoopBack,
}

impl OpenWorkKind {
    /// The lower-case name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            OpenWorkKind::LoopBack => "loop_back",
        }
    }
}

/// Where a piece of open work stands among those of its tenant and source partition: what was committed
/// first comes first. Its key in the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WorkPlace {
    /// The revision of the batch that made it.
    pub revision: Revision,
    /// Its [number](OpenWork::number) there.
    pub number: u32,
}

/// Open work that a batch has done: it is deleted with what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkDone {
    /// The tenant.
    pub tenant: TenantId,
    /// Which, in the batch's source partition.
    pub place: WorkPlace,
}

/// What was promised and is not done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenWork {
    /// The tenant.
    pub tenant: TenantId,
    /// Its place among those of its tenant in the batch, from 0: the order of their causes, then of the
    /// machines' names, then that in which a machine emitted them.
    pub number: u32,
    /// Its identity; the same cause gives the same.
    pub id: Hash128,
    /// What it is.
    pub kind: OpenWorkKind,
    /// When it is due.
    pub due: Timestamp,
    /// The record that caused it.
    pub cause: RecordPosition,
    /// Its type, for people.
    pub event_type: EventType,
    /// The event's JSON form.
    pub event: Bytes,
}

/// Everything that one commit writes. Each array is sorted by its key, tenants first, and no key
/// stands twice.
#[derive(Clone, PartialEq, Debug)]
pub struct CommitBatch {
    /// Whose batch it is.
    pub source_partition: SourcePartition,
    /// The ownership that commits.
    pub epoch: Epoch,
    /// The checkpoint's revision before; it is one more after.
    pub revision: Revision,
    /// How to go about it.
    pub path: CommitPath,
    /// Every tenant in the batch, sorted: named in the transaction first.
    pub tenants: Vec<TenantId>,
    /// The checkpoint after.
    pub progress: Progress,
    /// The log, by stream partition.
    pub segments: Vec<Segment>,
    /// By tenant and key.
    pub dedupe: Vec<DedupeMark>,
    /// By name.
    pub entities: Vec<EntityWrite>,
    /// By name; none that is in `entities`.
    pub reads: Vec<EntityRead>,
    /// By tenant and number.
    pub open_work: Vec<OpenWork>,
    /// By tenant and place. Each is there, of this source partition, and is deleted; where one is not,
    /// the whole batch is an error of ours ([`Unexpected`](crate::store::StoreError::Unexpected)) and
    /// nothing is written: under epoch and revision nobody else can have taken it.
    pub work_done: Vec<WorkDone>,
    /// By tenant and id.
    pub dead_letters: Vec<DeadLetter>,
    /// By tenant and id.
    pub dead_letter_updates: Vec<DeadLetterUpdate>,
    /// When the batch was made.
    pub at: Timestamp,
}

/// What a store answers to a batch.
#[derive(Clone, PartialEq, Debug)]
pub enum CommitReply {
    /// Everything is durable. Rows of the entities that were new, in the order of the batch's
    /// `entities` with `expected` 0.
    Committed {
        /// One row for each entity with `expected` 0.
        new_rows: Vec<EntityRow>,
    },
    /// Nothing was written; this is all that stood in the way.
    Surprised(Surprises),
    /// Somebody else owns the source partition, or has committed since. Nothing was written.
    Fenced,
}

/// All that stood in the way of a batch.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Surprises {
    /// Keys that were admitted before, with the conflict hash that stands.
    pub known_keys: Vec<KnownKey>,
    /// Entities, written or only read, whose version is another than expected, as they are; absent ones
    /// with `None`.
    pub entities: Vec<(EntityName, Option<StoredEntity>)>,
    /// Entities that another transaction holds.
    pub busy: Vec<EntityName>,
}

impl Surprises {
    /// True when nothing stood in the way.
    pub fn is_empty(&self) -> bool {
        self.known_keys.is_empty() && self.entities.is_empty() && self.busy.is_empty()
    }
}

/// A key that was admitted before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KnownKey {
    /// The tenant.
    pub tenant: TenantId,
    /// The key.
    pub key: Hash128,
    /// The conflict hash it was admitted with.
    pub conflict: Hash128,
}
