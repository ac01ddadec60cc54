//! Valid batches from short descriptions: a [`Writer`] owns one source partition of a store and knows
//! where its logs end; an [`Entry`] says what one event does. Bodies, leaves, chain heads and counts are
//! the real ones, so whatever is written here can be verified and replayed like a node's own log.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::{Checkpoint, Fingerprint};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{
    CommitBatch, CommitPath, CommitReply, DedupeMark, EntityName, EntityRow, EntityWrite, OpenWork,
    OpenWorkKind, Segment,
};
use tidegate_engine::event::{
    CausedBy, CorrelationId, Event, EventData, EventId, EventSource, EventType, IdempotencyKey,
    Subject, write_json_string,
};
use tidegate_engine::hash::{Hash128, hash_bytes, hash_fields};
use tidegate_engine::position::{
    Incarnation, Offset, RecordPosition, Sequence, SourceName, SourcePartition, StreamName,
    StreamPartition, Version,
};
use tidegate_engine::record::{Effect, Outcome, Record, RecordBody};
use tidegate_engine::state::{EntityKey, MachineName, Status, state_hash};
use tidegate_engine::store::{Claim, StateStore, StoreError};
use tidegate_engine::tenant::TenantId;

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

/// What one event does to one machine's entity.
#[derive(Clone, Debug)]
pub struct EntryEffect {
    /// The machine.
    pub machine: MachineName,
    /// The entity.
    pub key: EntityKey,
    /// What happens; only `Applied` moves the entity.
    pub outcome: Outcome,
    /// The entity's row, when it exists.
    pub row: Option<EntityRow>,
    /// The version that it has before.
    pub expected: Version,
    /// The status that it gets.
    pub status: Status,
    /// The canonical data that it gets.
    pub data: Arc<str>,
}

/// One event that is admitted, and what it does.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its stream.
    pub stream: StreamName,
    /// Its explicit idempotency key, which is its id and subject too.
    pub key: String,
    /// Its payload: JSON text.
    pub data: String,
    /// Its effects, in order of machine.
    pub effects: Vec<EntryEffect>,
    /// How many events its machines emit.
    pub emits: u32,
}

impl Entry {
    /// An event of stream `orders` that no machine listens to.
    pub fn new(tenant_name: &str, key: &str) -> Self {
        Self {
            tenant: tenant(tenant_name),
            stream: StreamName::new("orders").unwrap(),
            key: key.to_owned(),
            data: "{\"amount_cents\":100}".to_owned(),
            effects: Vec::new(),
            emits: 0,
        }
    }

    /// With that payload.
    #[must_use]
    pub fn data(mut self, json: &str) -> Self {
        self.data = json.to_owned();
        self
    }

    /// In that stream.
    #[must_use]
    pub fn stream(mut self, name: &str) -> Self {
        self.stream = StreamName::new(name).unwrap();
        self
    }

    /// Moves an entity of machine `order` that does not exist yet.
    #[must_use]
    pub fn creates(self, entity_key: &str) -> Self {
        self.moves(entity_key, None, Version(0))
    }

    /// Moves an entity of machine `order` on from a version.
    #[must_use]
    pub fn moves(self, entity_key: &str, row: Option<EntityRow>, expected: Version) -> Self {
        let data = format!("{{\"key\":\"{}\",\"moves\":{}}}", self.key, expected.0 + 1);
        self.effect(EntryEffect {
            machine: MachineName::new("order").unwrap(),
            key: EntityKey::new(entity_key).unwrap(),
            outcome: Outcome::Applied,
            row,
            expected,
            status: Status::new("placed").unwrap(),
            data: Arc::from(data),
        })
    }

    /// Is offered to machine `order` with another outcome than moving the entity.
    #[must_use]
    pub fn ends(self, entity_key: &str, outcome: Outcome) -> Self {
        self.effect(EntryEffect {
            machine: MachineName::new("order").unwrap(),
            key: EntityKey::new(entity_key).unwrap(),
            outcome,
            row: None,
            expected: Version(0),
            status: Status::new("placed").unwrap(),
            data: Arc::from("{}"),
        })
    }

    /// Has that effect.
    #[must_use]
    pub fn effect(mut self, effect: EntryEffect) -> Self {
        self.effects.push(effect);
        self
    }

    /// Emits so many events.
    #[must_use]
    pub fn emits(mut self, events: u32) -> Self {
        self.emits = events;
        self
    }

    /// The event itself.
    pub fn event(&self) -> Event {
        Event {
            tenant: self.tenant.clone(),
            id: EventId::new(&self.key).unwrap(),
            source: EventSource::new("/contract").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            subject: Some(Subject::new(&self.key).unwrap()),
            time: None,
            data_content_type: None,
            data_schema: None,
            correlation_id: Some(CorrelationId::new(&self.key).unwrap()),
            causation_id: None,
            idempotency_key: Some(IdempotencyKey::new(&self.key).unwrap()),
            caused_by: Some(CausedBy::new("contract").unwrap()),
            extensions: Vec::new(),
            data: EventData::Json(Bytes::copy_from_slice(self.data.as_bytes())),
        }
    }

    /// The key under which it is admitted once.
    pub fn key_hash(&self) -> Hash128 {
        self.event().idempotency_hash()
    }

    /// What must be equal under its key.
    pub fn conflict_hash(&self) -> Hash128 {
        self.event().conflict_hash()
    }

    /// One of the events that it emits, as open work.
    fn open_work(&self, index: u32, cause: RecordPosition, due: Timestamp) -> OpenWork {
        let id = hash_fields(
            "tidegate.contract.emitted",
            &[
                self.tenant.as_str().as_bytes(),
                self.key.as_bytes(),
                &index.to_le_bytes(),
            ],
        );
        let mut event = format!("{{\"id\":\"{id}\",\"cause\":");
        write_json_string(&mut event, &self.key);
        event.push('}');
        OpenWork {
            tenant: self.tenant.clone(),
            id,
            kind: OpenWorkKind::LoopBack,
            due,
            cause,
            event_type: EventType::new("order.ready").unwrap(),
            event: Bytes::from(event),
        }
    }
}

/// The owner of one source partition: knows its checkpoint and where each of its logs ends.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The checkpoint as it stands.
    pub checkpoint: Checkpoint,
    /// Where each stream partition goes on; those not listed begin.
    pub heads: BTreeMap<StreamPartition, (Sequence, ChainHead)>,
    /// The admission time of the next batch.
    pub now: Timestamp,
}

impl Writer {
    /// Claims a source partition and reads where its logs end.
    pub async fn claim(
        store: &dyn StateStore,
        source_partition: &SourcePartition,
        owner: &str,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let checkpoint = store.claim(claim_of(source_partition, owner)).await?;
        let mut heads = BTreeMap::new();
        for tenant in store.tenants().await? {
            for head in store.stream_heads(&tenant, source_partition).await? {
                let end = (head.next_sequence, head.chain_head);
                heads.insert(head.stream_partition, end);
            }
        }
        Ok(Self {
            checkpoint,
            heads,
            now,
        })
    }

    /// The batch that admits these events, in this order, one offset each. Entities that several of
    /// them move are folded into one write.
    pub fn batch(&self, entries: &[Entry]) -> CommitBatch {
        let mut draft = Draft::new(self);
        for entry in entries {
            draft.take_in(entry);
        }
        draft.finish()
    }

    /// Goes on behind a batch that was committed.
    pub fn settle(&mut self, batch: &CommitBatch) {
        self.checkpoint.revision = batch.revision.next();
        self.checkpoint.progress = batch.progress.clone();
        for segment in &batch.segments {
            let next = Sequence(segment.first_sequence.0 + u64::from(segment.count));
            self.heads
                .insert(segment.stream_partition.clone(), (next, segment.chain_head));
        }
    }

    /// Commits these events, and goes on behind them when they are durable.
    pub async fn commit(
        &mut self,
        store: &dyn StateStore,
        entries: &[Entry],
    ) -> Result<CommitReply, StoreError> {
        let batch = self.batch(entries);
        self.commit_batch(store, batch).await
    }

    /// Commits a batch of this writer, and goes on behind it when it is durable.
    pub async fn commit_batch(
        &mut self,
        store: &dyn StateStore,
        batch: CommitBatch,
    ) -> Result<CommitReply, StoreError> {
        let batch = Arc::new(batch);
        let reply = store.commit(Arc::clone(&batch)).await?;
        if matches!(reply, CommitReply::Committed { .. }) {
            self.settle(&batch);
        }
        Ok(reply)
    }
}

/// The log of one stream partition in a batch that is being made.
struct OpenSegment {
    first_sequence: Sequence,
    next_sequence: Sequence,
    chain_head: ChainHead,
    body: String,
}

struct Draft<'w> {
    writer: &'w Writer,
    at_text: String,
    batch: CommitBatch,
    segments: BTreeMap<StreamPartition, OpenSegment>,
    entities: BTreeMap<EntityName, EntityWrite>,
}

impl<'w> Draft<'w> {
    fn new(writer: &'w Writer) -> Self {
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
                open_work: Vec::new(),
                dead_letters: Vec::new(),
                dead_letter_updates: Vec::new(),
                at: writer.now,
            },
            segments: BTreeMap::new(),
            entities: BTreeMap::new(),
        }
    }

    fn take_in(&mut self, entry: &Entry) {
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
        if applied {
            let name = EntityName {
                tenant: tenant.clone(),
                machine: effect.machine.clone(),
                key: effect.key.clone(),
            };
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
            admitted_at: self.writer.now,
            body: RecordBody::Event(event),
            effects,
        };
        let leaf = record.write(&mut segment.body, &self.at_text);
        segment.chain_head = segment.chain_head.fold(leaf);
        segment.next_sequence = sequence.next();
        sequence
    }

    fn finish(self) -> CommitBatch {
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
        batch.entities = self.entities.into_values().collect();
        batch.tenants.sort();
        batch.tenants.dedup();
        batch
            .dedupe
            .sort_by(|left, right| (&left.tenant, left.key).cmp(&(&right.tenant, right.key)));
        batch
            .open_work
            .sort_by(|left, right| (&left.tenant, left.id).cmp(&(&right.tenant, right.id)));
        batch
    }
}
