//! Puts the parts of several tenants together into one batch.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use tidegate_engine::bus::Settlement;
use tidegate_engine::checkpoint::{Counts, Progress};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, EntityName, EntityRow};
use tidegate_engine::commit_protocol::Terms;
use tidegate_engine::partition::{EventRef, Notice, Part};
use tidegate_engine::planted::{Bug, active};
use tidegate_engine::position::{Offset, SourcePartition, Version};
use tidegate_engine::tenant::TenantId;

/// Parts of a batch, and what has to be known of them once it is durable.
pub(super) struct Assembled {
    parts: Vec<Part>,
    /// Events in it, emitted ones included.
    pub events: usize,
    /// The event of a batch that holds one, and its tenant.
    pub only_event: Option<(TenantId, EventRef)>,
    /// The offsets of received ones, sorted.
    pub offsets: Vec<Offset>,
    /// Their outcomes.
    pub counts: Counts,
    /// The same, by tenant.
    pub counts_by_tenant: Vec<(TenantId, Counts)>,
    /// For each tenant, in order, how many entities its part creates.
    pub created: Vec<(TenantId, usize)>,
    /// What to tell of its dead letters.
    pub notices: Vec<Notice>,
    /// What became of each delivery, where somebody waits for it.
    pub settlements: Vec<Settlement>,
}

impl Assembled {
    pub fn new(mut parts: Vec<Part>) -> Self {
        if !active(Bug::UnsortedArrays) {
            parts.sort_by(|left, right| left.tenant.cmp(&right.tenant));
        }
        let mut counts = Counts::default();
        let mut offsets = Vec::with_capacity(parts.iter().map(|part| part.offsets.len()).sum());
        let mut created = Vec::with_capacity(parts.len());
        let mut counts_by_tenant = Vec::with_capacity(parts.len());
        let mut notices = Vec::new();
        let mut settlements = Vec::new();
        for part in &mut parts {
            notices.append(&mut part.notices);
            settlements.append(&mut part.settlements);
            counts.add(&part.counts);
            offsets.extend_from_slice(&part.offsets);
            let new = part
                .entities
                .iter()
                .filter(|entity| entity.expected == Version(0))
                .count();
            if let Some(tenant) = &part.tenant {
                created.push((tenant.clone(), new));
                counts_by_tenant.push((tenant.clone(), part.counts));
            }
        }
        offsets.sort_unstable();
        let only_event = match parts.as_slice() {
            [part] => part.tenant.clone().zip(part.only_event()),
            _ => None,
        };
        Self {
            events: parts.iter().map(|part| part.events).sum(),
            only_event,
            parts,
            offsets,
            counts,
            counts_by_tenant,
            created,
            notices,
            settlements,
        }
    }

    /// Moves the parts into a batch. `fresh_rows` names entities that were created by the batch before,
    /// whose rows were not known when these parts were made.
    pub fn into_batch(
        mut self,
        source_partition: &SourcePartition,
        terms: Terms,
        progress: Progress,
        at: Timestamp,
        fresh_rows: &BTreeMap<EntityName, EntityRow>,
    ) -> (Self, CommitBatch) {
        let mut batch = CommitBatch {
            source_partition: source_partition.clone(),
            epoch: terms.epoch,
            revision: terms.revision,
            path: terms.path,
            tenants: self
                .created
                .iter()
                .map(|(tenant, _)| tenant.clone())
                .collect(),
            progress,
            segments: Vec::with_capacity(self.parts.len()),
            dedupe: Vec::with_capacity(self.events),
            entities: Vec::with_capacity(self.events),
            reads: Vec::new(),
            open_work: Vec::new(),
            work_done: Vec::new(),
            dead_letters: Vec::new(),
            dead_letter_updates: Vec::new(),
            at,
        };
        for part in std::mem::take(&mut self.parts) {
            batch.segments.extend(part.segments);
            batch.dedupe.extend(part.dedupe);
            batch.entities.extend(part.entities);
            batch.reads.extend(part.reads);
            batch.open_work.extend(part.open_work);
            batch.work_done.extend(part.work_done);
            batch.dead_letters.extend(part.dead_letters);
        }
        for entity in &mut batch.entities {
            if entity.row.is_none() && entity.expected > Version(0) {
                entity.row = fresh_rows.get(&entity.name).copied();
            }
        }
        for read in &mut batch.reads {
            if read.row.is_none() && read.expected > Version(0) {
                read.row = fresh_rows.get(&read.name).copied();
            }
        }
        (self, batch)
    }
}

/// The rows that a durable batch gave to the entities it created.
pub(super) fn created(
    batch: &CommitBatch,
    new_rows: &[EntityRow],
) -> BTreeMap<EntityName, EntityRow> {
    batch
        .entities
        .iter()
        .filter(|entity| entity.expected == Version(0))
        .map(|entity| entity.name.clone())
        .zip(new_rows.iter().copied())
        .collect()
}
