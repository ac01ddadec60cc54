//! The tables and what one transaction does to them. Everything is checked before anything is written,
//! so that a batch takes effect whole or not at all without an undo. Never waits, and iterates in
//! order of key only, so that one seed gives one run.

use std::collections::BTreeMap;

use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::{Checkpoint, Counts, DoneAbove, Progress};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{
    CommitBatch, CommitReply, EntityName, EntityRow, KnownKey, OpenWork, Segment, StoredEntity,
    Surprises, WorkDone, WorkPlace,
};
use tidegate_engine::dead_letter::{DeadLetter, DeadLetterState, DeadLetterUpdate};
use tidegate_engine::hash::Hash128;
use tidegate_engine::planted::{self, Bug};
use tidegate_engine::position::Version;
use tidegate_engine::position::{
    Epoch, Revision, Sequence, SourceName, SourcePartition, StreamPartition,
};
use tidegate_engine::state::MachineName;
use tidegate_engine::store::{Claim, StoreError, StoredDeadLetter, StoredDefinition};
use tidegate_engine::tenant::TenantId;
use tidegate_engine::topics::SourceTopic;

use super::access::AccessTables;
use crate::store::batch_form;

/// The log of one stream partition.
#[derive(Debug, Default)]
pub(super) struct StreamLog {
    /// What is still there, by first sequence.
    pub(super) segments: BTreeMap<Sequence, Segment>,
    /// The sequence of the next record. Kept beside the segments: it outlives their retention.
    pub(super) next_sequence: Sequence,
    /// The chain's head; outlives the segments too.
    pub(super) chain_head: ChainHead,
    /// Where the log begins, once retention dropped something.
    pub(super) anchor: Option<(Sequence, ChainHead)>,
}

/// Admitted keys with the conflict hash that each was admitted with.
pub(super) type DedupeTable = BTreeMap<(TenantId, Hash128), Hash128>;

/// Everything that is stored of one tenant. Reached only by its name, so that no read of another
/// tenant's can come by it.
#[derive(Debug, Default)]
pub(super) struct TenantTables {
    pub(super) streams: BTreeMap<StreamPartition, StreamLog>,
    pub(super) entities: BTreeMap<EntityName, StoredEntity>,
    /// By source partition and place.
    pub(super) open_work: BTreeMap<(SourcePartition, WorkPlace), OpenWork>,
    pub(super) dead_letters: BTreeMap<Hash128, StoredDeadLetter>,
}

/// Everything that is stored.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) tenants: BTreeMap<TenantId, TenantTables>,
    pub(super) checkpoints: BTreeMap<SourcePartition, Checkpoint>,
    /// Keys admitted since the last rotation.
    pub(super) dedupe_current: DedupeTable,
    /// Keys of the rotation before: still known, dropped by the next rotation.
    pub(super) dedupe_older: DedupeTable,
    /// When the current table was begun; `None` until upkeep tells the time for the first time.
    pub(super) dedupe_since: Option<Timestamp>,
    /// The highest row number given out. Never reused.
    pub(super) last_row: i64,
    pub(super) definitions: BTreeMap<(MachineName, u64), StoredDefinition>,
    pub(super) access: AccessTables,
    /// The topics of each source, in order of number.
    pub(super) topics: BTreeMap<SourceName, Vec<SourceTopic>>,
}

impl Tables {
    /// Takes a source partition.
    pub(super) fn claim(&mut self, claim: Claim) -> Checkpoint {
        let checkpoint = self
            .checkpoints
            .entry(claim.source_partition.clone())
            .or_insert_with(|| Checkpoint {
                source_partition: claim.source_partition,
                epoch: Epoch(0),
                owner: String::new(),
                revision: Revision(0),
                incarnation: claim.incarnation.clone(),
                progress: Progress {
                    next_offset: claim.start,
                    done_above: DoneAbove::default(),
                    fingerprint: None,
                    counts: Counts::default(),
                },
            });
        checkpoint.epoch = checkpoint.epoch.next();
        checkpoint.owner = claim.owner;
        // Nothing was ever committed: the checkpoint says nothing about the source.
        if checkpoint.revision == Revision(0) && checkpoint.incarnation != claim.incarnation {
            checkpoint.incarnation = claim.incarnation;
            checkpoint.progress.next_offset = claim.start;
        }
        checkpoint.clone()
    }

    /// One transaction: the fence, then all that stands in the way, then the writes.
    pub(super) fn commit(
        &mut self,
        batch: &CommitBatch,
        busy: &[EntityName],
    ) -> Result<CommitReply, StoreError> {
        batch_form::check(batch)?;
        if !self.is_owner(batch) {
            return Ok(CommitReply::Fenced);
        }
        let surprises = self.surprises(batch, busy);
        if !surprises.is_empty() {
            return Ok(CommitReply::Surprised(surprises));
        }
        self.check_log(batch)?;
        self.check_rows(batch)?;
        self.check_dead_letters(batch)?;
        self.check_work(batch)?;
        Ok(CommitReply::Committed {
            new_rows: self.write(batch),
        })
    }

    /// `epoch = mine AND revision = r`.
    fn is_owner(&self, batch: &CommitBatch) -> bool {
        self.checkpoints
            .get(&batch.source_partition)
            .is_some_and(|checkpoint| {
                let epoch_holds =
                    checkpoint.epoch == batch.epoch || planted::active(Bug::NoEpochCheck);
                let revision_holds =
                    checkpoint.revision == batch.revision || planted::active(Bug::NoRevisionCheck);
                epoch_holds && revision_holds
            })
    }

    /// All that stands in the way, in the order of the batch's arrays.
    fn surprises(&self, batch: &CommitBatch, busy: &[EntityName]) -> Surprises {
        let mut surprises = Surprises::default();
        for mark in &batch.dedupe {
            if let Some(conflict) = self.known_key(&mark.tenant, mark.key) {
                surprises.known_keys.push(KnownKey {
                    tenant: mark.tenant.clone(),
                    key: mark.key,
                    conflict,
                });
            }
        }
        for write in &batch.entities {
            let stored = self.entity(&write.name);
            if stored.is_some() && busy.contains(&write.name) {
                // Who holds the row may be changing it: its version is not known to us.
                surprises.busy.push(write.name.clone());
                continue;
            }
            let version = stored.map_or(Version(0), |entity| entity.version);
            if version != write.expected && !planted::active(Bug::CacheAsTruth) {
                surprises
                    .entities
                    .push((write.name.clone(), stored.cloned()));
            }
        }
        for read in &batch.reads {
            let stored = self.entity(&read.name);
            let version = stored.map_or(Version(0), |entity| entity.version);
            if version != read.expected {
                let as_is = (read.name.clone(), stored.cloned());
                surprises.entities.push(as_is);
            }
        }
        surprises
    }

    fn entity(&self, name: &EntityName) -> Option<&StoredEntity> {
        self.tenants.get(&name.tenant)?.entities.get(name)
    }

    pub(super) fn log(&self, place: &StreamPartition) -> Option<&StreamLog> {
        self.tenants.get(&place.tenant)?.streams.get(place)
    }

    pub(super) fn dead_letter(&self, tenant: &TenantId, id: Hash128) -> Option<&StoredDeadLetter> {
        self.tenants.get(tenant)?.dead_letters.get(&id)
    }

    /// The conflict hash of a key that was admitted within the window.
    fn known_key(&self, tenant: &TenantId, key: Hash128) -> Option<Hash128> {
        let place = (tenant.clone(), key);
        let older = || {
            if planted::active(Bug::DedupeProbeLeftOut) {
                None
            } else {
                self.dedupe_older.get(&place)
            }
        };
        self.dedupe_current.get(&place).or_else(older).copied()
    }

    /// Each segment begins where its log ends.
    fn check_log(&self, batch: &CommitBatch) -> Result<(), StoreError> {
        for segment in &batch.segments {
            let next = self
                .log(&segment.stream_partition)
                .map_or(Sequence(0), |log| log.next_sequence);
            if segment.first_sequence != next {
                return Err(StoreError::Unexpected {
                    code: batch_form::CODE_LOG_GAP.to_owned(),
                    detail: format!(
                        "the log of {} goes on at {next}, the segment begins at {}",
                        segment.stream_partition, segment.first_sequence
                    ),
                });
            }
        }
        Ok(())
    }

    /// Each entity that is to be updated stands in the row that the batch names.
    fn check_rows(&self, batch: &CommitBatch) -> Result<(), StoreError> {
        for (place, write) in batch.entities.iter().enumerate() {
            let stored = self.entity(&write.name).map(|entity| entity.row);
            if write.expected > Version(0) && stored.is_some() && write.row != stored {
                return Err(StoreError::Unexpected {
                    code: batch_form::CODE_ROW.to_owned(),
                    detail: format!("the entity at place {place} is not in the row that is named"),
                });
            }
        }
        Ok(())
    }

    /// Each update finds its dead letter open, or in the same batch.
    fn check_dead_letters(&self, batch: &CommitBatch) -> Result<(), StoreError> {
        for (place, update) in batch.dead_letter_updates.iter().enumerate() {
            let letter = self
                .dead_letter(&update.tenant, update.id)
                .map(|stored| stored.state);
            let in_batch = batch
                .dead_letters
                .iter()
                .any(|letter| letter.tenant == update.tenant && letter.id == update.id);
            let open = letter.map_or(in_batch, |state| state == DeadLetterState::Open);
            if !open {
                return Err(StoreError::Refused {
                    code: batch_form::CODE_DEAD_LETTER_NOT_OPEN.to_owned(),
                    detail: format!("the dead letter of the update at place {place} is not open"),
                });
            }
        }
        Ok(())
    }

    /// All work that is done is there.
    fn check_work(&self, batch: &CommitBatch) -> Result<(), StoreError> {
        let is_there = |done: &WorkDone| {
            let of_tenant = self.tenants.get(&done.tenant);
            let place = (batch.source_partition.clone(), done.place);
            of_tenant.is_some_and(|of_tenant| of_tenant.open_work.contains_key(&place))
        };
        if batch.work_done.iter().all(is_there) {
            Ok(())
        } else {
            Err(batch_form::work_is_gone())
        }
    }

    /// Writes all of a checked batch.
    fn write(&mut self, batch: &CommitBatch) -> Vec<EntityRow> {
        for tenant in &batch.tenants {
            self.tenants.entry(tenant.clone()).or_default();
            self.access.register(tenant, batch.at);
        }
        for segment in &batch.segments {
            self.of(&segment.stream_partition.tenant)
                .write_segment(segment);
        }
        for mark in &batch.dedupe {
            self.dedupe_current
                .insert((mark.tenant.clone(), mark.key), mark.conflict);
        }
        let new_rows = self.write_entities(batch);
        for done in &batch.work_done {
            let place = (batch.source_partition.clone(), done.place);
            self.of(&done.tenant).open_work.remove(&place);
        }
        for work in &batch.open_work {
            let (revision, number) = (batch.revision, work.number);
            let place = WorkPlace { revision, number };
            let place = (batch.source_partition.clone(), place);
            self.of(&work.tenant).open_work.insert(place, work.clone());
        }
        for letter in &batch.dead_letters {
            self.of(&letter.tenant).keep_dead_letter(letter);
        }
        for update in &batch.dead_letter_updates {
            self.of(&update.tenant).move_dead_letter(update);
        }
        if let Some(checkpoint) = self.checkpoints.get_mut(&batch.source_partition) {
            checkpoint.revision = checkpoint.revision.next();
            checkpoint.progress = batch.progress.clone();
        }
        new_rows
    }

    fn of(&mut self, tenant: &TenantId) -> &mut TenantTables {
        self.tenants.entry(tenant.clone()).or_default()
    }

    fn write_entities(&mut self, batch: &CommitBatch) -> Vec<EntityRow> {
        let mut new_rows = Vec::new();
        for write in &batch.entities {
            let row = match self.entity(&write.name) {
                Some(stored) => stored.row,
                None => {
                    self.last_row += 1;
                    EntityRow(self.last_row)
                }
            };
            if write.expected == Version(0) {
                new_rows.push(row);
            }
            let stored = StoredEntity {
                name: write.name.clone(),
                row,
                version: write.version,
                status: write.status.clone(),
                data: write.data.clone(),
            };
            self.of(&write.name.tenant)
                .entities
                .insert(write.name.clone(), stored);
        }
        new_rows
    }
}

impl TenantTables {
    fn write_segment(&mut self, segment: &Segment) {
        let log = self
            .streams
            .entry(segment.stream_partition.clone())
            .or_default();
        log.next_sequence = Sequence(segment.first_sequence.0 + u64::from(segment.count));
        log.chain_head = segment.chain_head;
        log.segments.insert(segment.first_sequence, segment.clone());
    }

    /// The first one of an identity stays.
    fn keep_dead_letter(&mut self, letter: &DeadLetter) {
        self.dead_letters
            .entry(letter.id)
            .or_insert_with(|| StoredDeadLetter {
                letter: letter.clone(),
                state: DeadLetterState::Open,
                attempts: 1,
            });
    }

    fn move_dead_letter(&mut self, update: &DeadLetterUpdate) {
        if let Some(stored) = self.dead_letters.get_mut(&update.id) {
            stored.state = update.state;
            // Giving up is no attempt.
            if update.state != DeadLetterState::Discarded {
                stored.attempts = stored.attempts.saturating_add(1);
            }
        }
    }
}
