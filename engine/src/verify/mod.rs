//! Verification: reads a whole store and says whether it is what its own log makes of it. Checks, for
//! every tenant, that the chains hold (each leaf over its stored bytes, each head over its leaves, from
//! the anchor that retention left), that sequences and entity versions have no gap, that replaying each
//! entity's effects in order of version, each with the definition it names, gives the recorded state
//! hash after every one and the stored bytes after the last, and that what was counted is what is there.
//!
//! Pure over the [`StateStore`] seam: it only reads. [`VerifyOptions::held_max`] bounds the entities that
//! are held: a log of more is read in several passes, each replaying its share of them. Beside them stand
//! [`VerifyOptions::segments_held_max`] segments of each log of the tenant that is read.

mod compare;
mod counts;
mod order;
mod replay;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::commit::EntityName;
use crate::hash::Hash128;
use crate::machine::Processor;
use crate::position::{RecordPosition, Sequence, SourcePartition, StreamPartition, Version};
use crate::record::{Record, split_segment};
use crate::store::{StateStore, StoreError};
use crate::tenant::TenantId;

/// How `verify` goes about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyOptions {
    /// Only these tenants; all when empty. Counts of a source partition are of all tenants together, so
    /// they are compared only when none is left out.
    pub tenants: Vec<TenantId>,
    /// Entities, and effects that wait for an earlier one, held in memory at once.
    pub held_max: usize,
    /// Segments of one stream partition held in memory at once.
    pub segments_held_max: u32,
    /// Differences after which no more are looked for.
    pub differences_max: usize,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            tenants: Vec::new(),
            // With entities of a few hundred bytes, some hundred megabytes.
            held_max: 500_000,
            segments_held_max: 2,
            differences_max: 20,
        }
    }
}

/// The machines that effects name, by the hash of their definition.
pub type MachinesByHash = BTreeMap<Hash128, Arc<dyn Processor>>;

/// How far `verify` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerifyProgress {
    /// Records read so far, in every pass.
    pub records_done: u64,
    /// Records that are to be read, as far as is known: more when a tenant needs more passes.
    pub records_total: u64,
}

/// What was read, and everything that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    /// Tenants.
    pub tenants: u64,
    /// Stream partitions.
    pub stream_partitions: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Effects that were replayed, each to the recorded hash.
    pub effects_replayed: u64,
    /// Entities whose stored bytes are what the replay gave.
    pub entities: u64,
    /// Entities of which retention dropped effects: their versions and last hash were compared, but
    /// they could not be replayed from their beginning.
    pub entities_beyond_retention: u64,
    /// Entities, source partitions and tenants' dead letters that moved on while they were being read, and
    /// were not compared.
    pub moved_on: u64,
    /// What differs, in the order in which it was found.
    pub differences: Vec<Difference>,
}

impl VerifyReport {
    /// True when nothing differs.
    pub fn is_clean(&self) -> bool {
        self.differences.is_empty()
    }
}

/// What was checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CheckedFor {
    /// Sequences begin where they should and have no gap.
    Sequence,
    /// A stored record is readable and hashes to its leaf.
    Record,
    /// A segment's head is the fold of its leaves.
    Chain,
    /// An effect names a stored definition.
    Definition,
    /// An entity's versions have no gap.
    Version,
    /// Replaying an effect gives the recorded hash.
    Replay,
    /// The stored entity is what the replay gave.
    Entity,
    /// What was counted is what is there.
    Counts,
    /// What is dead has its dead letter.
    DeadLetters,
}

impl CheckedFor {
    /// The lower-case name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            CheckedFor::Sequence => "sequence",
            CheckedFor::Record => "record",
            CheckedFor::Chain => "chain",
            CheckedFor::Definition => "definition",
            CheckedFor::Version => "version",
            CheckedFor::Replay => "replay",
            CheckedFor::Entity => "entity",
            CheckedFor::Counts => "counts",
            CheckedFor::DeadLetters => "dead_letters",
        }
    }
}

/// Where something differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In the log.
    Log {
        /// Whose.
        stream_partition: StreamPartition,
        /// Where in it.
        sequence: Sequence,
    },
    /// In an entity.
    Entity {
        /// Which.
        name: EntityName,
        /// At which version.
        version: Version,
    },
    /// In the counts of a source partition.
    Checkpoint {
        /// Which.
        source_partition: SourcePartition,
    },
    /// In what a tenant has as a whole.
    Tenant {
        /// Which.
        tenant: TenantId,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Log {
                stream_partition,
                sequence,
            } => write!(
                f,
                "tenant {}, log {}:{}, sequence {sequence}",
                stream_partition.tenant, stream_partition.stream, stream_partition.source_partition
            ),
            Place::Entity { name, version } => write!(
                f,
                "tenant {}, {} `{}`, version {version}",
                name.tenant, name.machine, name.key
            ),
            Place::Checkpoint { source_partition } => {
                write!(f, "source partition {source_partition}")
            }
            Place::Tenant { tenant } => write!(f, "tenant {tenant}"),
        }
    }
}

/// One thing that is not as it should be. Never shows an event's or an entity's values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What was checked.
    pub checked_for: CheckedFor,
    /// Where.
    pub place: Place,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: expected {}, found {}",
            self.place,
            self.checked_for.as_str(),
            self.expected,
            self.found
        )
    }
}

/// The report in the making.
struct Findings {
    report: VerifyReport,
    progress: VerifyProgress,
    differences_max: usize,
}

impl Findings {
    fn differ(
        &mut self,
        checked_for: CheckedFor,
        place: Place,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        if !self.is_full() {
            self.report.differences.push(Difference {
                checked_for,
                place,
                expected: expected.into(),
                found: found.into(),
            });
        }
    }

    fn is_full(&self) -> bool {
        self.report.differences.len() >= self.differences_max
    }
}

/// Verifies a store. `progress` is called after every few segments. Differences are in the report; an
/// error means that the store could not be read.
pub async fn verify(
    store: &dyn StateStore,
    machines: &MachinesByHash,
    options: &VerifyOptions,
    progress: &mut (dyn FnMut(VerifyProgress) + Send),
) -> Result<VerifyReport, StoreError> {
    let mut findings = Findings {
        report: VerifyReport::default(),
        progress: VerifyProgress::default(),
        differences_max: options.differences_max.max(1),
    };
    let every = store.tenants().await?;
    let tenants: Vec<TenantId> = every
        .into_iter()
        .filter(|tenant| options.tenants.is_empty() || options.tenants.contains(tenant))
        .collect();
    for tenant in &tenants {
        for head in store.stream_partitions(tenant).await? {
            findings.progress.records_total += head.next_sequence.0;
        }
    }
    let before = store.checkpoints().await?;
    let mut tallies = counts::Tallies::default();
    for tenant in &tenants {
        findings.report.tenants += 1;
        let heads = store.stream_partitions(tenant).await?;
        replay::tenant(
            store,
            machines,
            options,
            tenant,
            &mut tallies,
            &mut findings,
            progress,
        )
        .await?;
        counts::tenant(store, tenant, &heads, &mut tallies, &mut findings).await?;
        if findings.is_full() {
            return Ok(findings.report);
        }
    }
    if options.tenants.is_empty() {
        counts::checkpoints(store, before, &tallies, &mut findings).await?;
    }
    Ok(findings.report)
}

/// The stored record at a position; `None` when there is none (any more).
pub async fn stored_record(
    store: &dyn StateStore,
    tenant: &TenantId,
    at: &RecordPosition,
) -> Result<Option<Record>, StoreError> {
    let stream_partition = StreamPartition {
        tenant: tenant.clone(),
        stream: at.stream.clone(),
        source_partition: at.source_partition.clone(),
    };
    let segments = store.segments(&stream_partition, at.sequence, 1).await?;
    let Some(segment) = segments.first() else {
        return Ok(None);
    };
    let index = at.sequence.0.checked_sub(segment.first_sequence.0);
    let record = index
        .and_then(|index| usize::try_from(index).ok())
        .and_then(|index| {
            let entries = split_segment(&segment.body).ok()?;
            let entry = entries.get(index)?;
            Record::read(entry.get()).ok()
        })
        .map(|(record, _)| record);
    Ok(record)
}

#[cfg(test)]
mod shelf;
#[cfg(test)]
mod tests;
