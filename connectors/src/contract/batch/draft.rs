//! A batch in the making: real records, leaves, chain heads and counts from entries.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::Fingerprint;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{
    CommitBatch, CommitPath, DedupeMark, EntityName, EntityRead, EntityWrite, Segment,
};
use tidegate_engine::event::Event;
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::position::{Offset, RecordPosition, Sequence, StreamPartition};
use tidegate_engine::record::{Effect, Outcome, Record, RecordBody};
use tidegate_engine::state::state_hash;
use tidegate_engine::tenant::TenantId;

use super::{Entry, EntryEffect, Writer};

/// The log of one stream partition in a batch that is being made.
struct OpenSegment {
    first_sequence: Sequence,
    next_sequence: Sequence,
    chain_head: ChainHead,
    body: String,
}

pub(super) struct Draft<'w> {
    writer: &'w Writer,
    at_text: String,
    batch: CommitBatch,
    segments: BTreeMap<StreamPartition, OpenSegment>,
    entities: BTreeMap<EntityName, EntityWrite>,
    reads: BTreeMap<EntityName, EntityRead>,
}

impl<'w> Draft<'w> {
    pub(super) fn new(writer: &'w Writer) -> Self {
        Self {
            writer,
            at_text: writer.now.to_rfc3339(),
            batch: CommitBatch {
                source_partition: writer.checkpoint.source_partition.clone(),
                epoch: writer.checkpoint.epoch,
                revision: writer.checkpoint.revision,
                path: CommitPath::Fast,
                tenants: Vec::new(),
                progress: writer.checkpoint.progress.clone(),
                segments: Vec::new(),
                dedupe: Vec::new(),
                entities: Vec::new(),
                reads: Vec::new(),
                open_work: Vec::new(),
                work_done: Vec::new(),
                dead_letters: Vec::new(),
                dead_letter_updates: Vec::new(),
                at: writer.now,
            },
            segments: BTreeMap::new(),
            entities: BTreeMap::new(),
            reads: BTreeMap::new(),
        }
    }

    pub(super) fn take_in(&mut self, entry: &Entry) {
        let event = entry.event();
        let offset = self.batch.progress.next_offset;
        let place = StreamPartition {
            tenant: entry.tenant.clone(),
            stream: entry.stream.clone(),
            source_partition: self.batch.source_partition.clone(),
        };
        self.batch.tenants.push(entry.tenant.clone());
        self.batch.dedupe.push(DedupeMark {
            tenant: entry.tenant.clone(),
            key: event.idempotency_hash(),
            conflict: event.conflict_hash(),
            offset,
        });
        let effects: Vec<Effect> = entry
            .effects
            .iter()
            .map(|effect| self.move_entity(&entry.tenant, effect))
            .collect();
        self.count(entry);
        let sequence = self.write(&place, event, offset, effects);
        for index in 0..entry.emits {
            let cause = RecordPosition {
                stream: place.stream.clone(),
                source_partition: place.source_partition.clone(),
                sequence,
            };
            let due = Timestamp(self.writer.now.0 + i64::from(index));
            self.batch
                .open_work
                .push(entry.open_work(index, cause, due));
        }
        let progress = &mut self.batch.progress;
        progress.next_offset = offset.next();
        progress.fingerprint = Some(Fingerprint {
            offset,
            hash: hash_bytes(entry.data.as_bytes()),
        });
    }

    fn count(&mut self, entry: &Entry) {
        let counts = &mut self.batch.progress.counts;
        counts.admitted += 1;
        counts.emitted += u64::from(entry.emits);
        counts.unhandled += u64::from(entry.effects.is_empty());
        for effect in &entry.effects {
            match effect.outcome {
                Outcome::Applied => counts.applied += 1,
                Outcome::Rejected => counts.rejected += 1,
                Outcome::Ignored => counts.ignored += 1,
                Outcome::Dead | Outcome::Discarded => counts.dead += 1,
            }
        }
    }

    fn move_entity(&mut self, tenant: &TenantId, effect: &EntryEffect) -> Effect {
        let applied = effect.outcome == Outcome::Applied;
        let version = effect.expected.next();
        let name = EntityName {
            tenant: tenant.clone(),
            machine: effect.machine.clone(),
            key: effect.key.clone(),
        };
        if effect.read && !applied && !self.entities.contains_key(&name) {
            let read = EntityRead {
                name: name.clone(),
                row: effect.row,
                expected: effect.expected,
            };
            self.reads.entry(name.clone()).or_insert(read);
        }
        if applied {
            let write = self
                .entities
                .entry(name.clone())
                .or_insert_with(|| EntityWrite {
                    name,
                    row: effect.row,
                    expected: effect.expected,
                    version: effect.expected,
                    status: effect.status.clone(),
                    data: effect.data.clone(),
                    changed_at: self.writer.now,
                });
            assert_eq!(
                write.version, effect.expected,
                "an entity's moves in one batch follow each other"
            );
            write.version = version;
            write.status = effect.status.clone();
            write.data = effect.data.clone();
        }
        Effect {
            machine: effect.machine.clone(),
            definition: hash_bytes(b"the contract's definition"),
            key: Some(effect.key.clone()),
            outcome: effect.outcome,
            version: applied.then_some(version),
            state_hash: applied.then(|| state_hash(&effect.status, &effect.data)),
            reason: (!applied).then(|| "the contract says so".to_owned()),
        }
    }

    fn write(
        &mut self,
        place: &StreamPartition,
        event: Event,
        offset: Offset,
        effects: Vec<Effect>,
    ) -> Sequence {
        let segment = self.segments.entry(place.clone()).or_insert_with(|| {
            let (next, head) = self.writer.heads.get(place).copied().unwrap_or_default();
            OpenSegment {
                first_sequence: next,
                next_sequence: next,
                chain_head: head,
                body: String::from("["),
            }
        });
        let sequence = segment.next_sequence;
        if sequence > segment.first_sequence {
            segment.body.push(',');
        }
        let record = Record {
            sequence,
            offset: Some(offset),
            cause: None,
            admitted_at: self.writer.now,
            body: RecordBody::Event(event),
            effects,
        };
        let leaf = record.write(&mut segment.body, &self.at_text);
        segment.chain_head = segment.chain_head.fold(leaf);
        segment.next_sequence = sequence.next();
        sequence
    }

    pub(super) fn finish(self) -> CommitBatch {
        let mut batch = self.batch;
        let now = self.writer.now;
        batch.segments = self
            .segments
            .into_iter()
            .map(|(stream_partition, open)| Segment {
                stream_partition,
                first_sequence: open.first_sequence,
                count: u32::try_from(open.next_sequence.0 - open.first_sequence.0).unwrap(),
                first_at: now,
                last_at: now,
                chain_head: open.chain_head,
                body: Arc::from(open.body + "]"),
            })
            .collect();
        let mut reads = self.reads;
        reads.retain(|name, _| !self.entities.contains_key(name));
        batch.reads = reads.into_values().collect();
        batch.entities = self.entities.into_values().collect();
        batch.tenants.sort();
        batch.tenants.dedup();
        batch
            .dedupe
            .sort_by(|left, right| (&left.tenant, left.key).cmp(&(&right.tenant, right.key)));
        // In the order in which they were emitted, numbered for each tenant.
        batch
            .open_work
            .sort_by(|left, right| left.tenant.cmp(&right.tenant));
        let mut before: Option<(TenantId, u32)> = None;
        for work in &mut batch.open_work {
            work.number = match &before {
                Some((tenant, number)) if *tenant == work.tenant => number + 1,
                _ => 0,
            };
            before = Some((work.tenant.clone(), work.number));
        }
        batch
    }
}
