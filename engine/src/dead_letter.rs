//! Dead letters: what people read and act on. Each has an identity of its own, so that writing one
//! twice keeps it once, and a fingerprint that groups failures of one cause.

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::hash::{Hash128, hash_fields};
use crate::machine::DeadReason;
use crate::position::{Offset, RecordPosition, SourcePartition};
use crate::state::{EntityKey, MachineName};
use crate::tenant::TenantId;
use crate::text::storable_reason;

/// What a dead letter points to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeadLetterSource {
    /// A stored event, and the machine for which it is dead.
    Record {
        /// The event.
        position: RecordPosition,
        /// The machine.
        machine: MachineName,
        /// The entity, when its key is known.
        key: Option<EntityKey>,
    },
    /// A delivery that never became a stored event: its bytes as they came.
    Raw {
        /// Where it came from.
        source_partition: SourcePartition,
        /// Its offset there.
        offset: Offset,
        /// Its bytes.
        payload: Bytes,
    },
}

/// A dead letter as a commit writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// The tenant.
    pub tenant: TenantId,
    /// The identity; the same cause gives the same.
    pub id: Hash128,
    /// Why.
    pub reason: DeadReason,
    /// Where in the definition, or which field; never a value.
    pub detail: String,
    /// Groups dead letters of one cause.
    pub fingerprint: Hash128,
    /// What it is about.
    pub source: DeadLetterSource,
    /// When.
    pub at: Timestamp,
}

impl DeadLetter {
    /// A dead letter whose fingerprint is that of reason, machine and detail. The detail is cut to what a
    /// store keeps, whoever wrote it.
    pub fn new(
        tenant: TenantId,
        id: Hash128,
        reason: DeadReason,
        detail: String,
        source: DeadLetterSource,
        at: Timestamp,
    ) -> Self {
        let detail = storable_reason(&detail);
        let machine = match &source {
            DeadLetterSource::Record { machine, .. } => machine.as_str(),
            DeadLetterSource::Raw { .. } => "",
        };
        let fingerprint = hash_fields(
            "tidegate.dead-letter.cause",
            &[
                reason.as_str().as_bytes(),
                machine.as_bytes(),
                detail.as_bytes(),
            ],
        );
        Self {
            tenant,
            id,
            reason,
            detail,
            fingerprint,
            source,
            at,
        }
    }
}

/// Where a dead letter stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadLetterState {
    /// Waits for a person.
    Open,
    /// Was offered again and took effect, or was refused, as its follow-up says.
    Retried,
    /// Was given up.
    Discarded,
}

impl DeadLetterState {
    /// The lower-case name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadLetterState::Open => "open",
            DeadLetterState::Retried => "retried",
            DeadLetterState::Discarded => "discarded",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Retried, Self::Discarded]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What a commit does to a dead letter that stands already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetterUpdate {
    /// The tenant.
    pub tenant: TenantId,
    /// Which one; it must be open.
    pub id: Hash128,
    /// Where it stands now. `Open` counts one more attempt in vain.
    pub state: DeadLetterState,
    /// When.
    pub at: Timestamp,
}
