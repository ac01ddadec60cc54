//! A store for the tests of `verify`: filled by the engine's own partitions, open to any tampering.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::MachinesByHash;
use crate::admission::{self, Binding};
use crate::bus::Delivery;
use crate::checkpoint::{Checkpoint, Counts, DoneAbove, Progress};
use crate::clock::Timestamp;
use crate::commit::{
    CommitBatch, CommitReply, EntityName, EntityRow, Segment, StoredEntity, WorkPlace,
};
use crate::dead_letter::DeadLetterState;
use crate::event::EventType;
use crate::hash::Hash128;
use crate::headers::Headers;
use crate::machine::{
    Change, DeadReason, Definition, EventContext, Fault, MachineSet, Processor, Verdict,
};
use crate::partition::{Allowance, Head, Heads, Part, Partition, PartitionLimits, Prepared};
use crate::position::{
    Epoch, Incarnation, Offset, RecordPosition, Revision, Sequence, SourceName, SourcePartition,
    StreamName, StreamPartition, Version,
};
use crate::secrets::SecretPolicy;
use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};
use crate::store::{
    Capabilities, ChainAnchor, Claim, DeadLetterFilter, EventLookup, NewDefinition, StateStore,
    StoreError, StoredDeadLetter, StoredDefinition, StoredOpenWork, StreamHead, Upkeep, UpkeepDone,
};
use crate::tenant::{TenantBinding, TenantId, TenantStanding, TenantsAsked};
use crate::topics::{SourceTopic, TopicsFound};

/// Runs a future that never waits.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = std::task::Waker::noop();
    match future
        .as_mut()
        .poll(&mut std::task::Context::from_waker(waker))
    {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the shelf never waits"),
    }
}

pub(super) fn source(partition: u32) -> SourcePartition {
    SourcePartition {
        source: SourceName::new("src").unwrap(),
        partition,
    }
}

/// Adds `amount` to `total`; `refuse`, `break` and `ignore` do what they say.
struct Counter {
    definition: Definition,
    types: Vec<EventType>,
}

impl Counter {
    fn new() -> Self {
        let machine = MachineName::new("counter").unwrap();
        let mut types: Vec<EventType> = ["add", "refuse", "break", "ignore"]
            .map(|name| EventType::new(name).unwrap())
            .to_vec();
        types.sort();
        Self {
            definition: Definition {
                hash: Definition::hash_of(&machine, 1, "counter"),
                machine,
                version: 1,
                text: Arc::from("counter"),
                states: vec![Status::new("open").unwrap()],
                initial: Status::new("open").unwrap(),
                fields: vec![("total".to_owned(), "int")],
            },
            types,
        }
    }
}

impl Processor for Counter {
    fn definition(&self) -> &Definition {
        &self.definition
    }
    fn event_types(&self) -> &[EventType] {
        &self.types
    }
    fn initial(&self) -> EntityState {
        let mut data = StateData::default();
        data.0.insert("total".to_owned(), 0.into());
        EntityState {
            status: self.definition.initial.clone(),
            version: Version(0),
            data,
        }
    }
    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        let subject = context.event.subject.as_ref().map_or("", |s| s.as_str());
        EntityKey::new(subject).map_err(|error| Fault {
            reason: DeadReason::Key,
            detail: error.to_string(),
        })
    }
    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        match context.event.event_type.as_str() {
            "add" => {
                let bytes = context.event.data.stored_bytes();
                let amount: i64 = serde_json::from_slice(bytes).unwrap();
                let total = entity.data.get("total").and_then(|v| v.as_i64()).unwrap();
                let mut data = entity.data.clone();
                data.0.insert("total".to_owned(), (total + amount).into());
                Verdict::Applied(Change {
                    status: entity.status.clone(),
                    data,
                    emitted: Vec::new(),
                })
            }
            "refuse" => Verdict::Rejected("no".to_owned()),
            "break" => Verdict::Dead(Fault {
                reason: DeadReason::Expression,
                detail: "line 1".to_owned(),
            }),
            _ => Verdict::Ignored,
        }
    }
}

#[derive(Default)]
pub(super) struct Shelf {
    pub(super) segments: Vec<Segment>,
    pub(super) entities: Vec<StoredEntity>,
    pub(super) heads: BTreeMap<StreamPartition, StreamHead>,
    pub(super) anchors: Vec<ChainAnchor>,
    pub(super) letters: Vec<StoredDeadLetter>,
    pub(super) checkpoints: BTreeMap<SourcePartition, Checkpoint>,
    events: u64,
    /// How far the clock of a source partition's node is ahead.
    pub(super) clocks_ahead: BTreeMap<u32, i64>,
    /// What the store is by the time dead letters are read, for one that others write to meanwhile.
    pub(super) later: Option<Box<Shelf>>,
    letters_read: AtomicBool,
    /// What the store is once the log of source partition 0 was read to its end.
    pub(super) later_at_end: Option<Box<Shelf>>,
    end_read: AtomicBool,
}

impl Shelf {
    pub(super) fn machines(&self) -> MachinesByHash {
        let counter: Arc<dyn Processor> = Arc::new(Counter::new());
        [(counter.definition().hash, counter)].into_iter().collect()
    }

    /// Commits events (type, subject, data) of a tenant in one batch.
    pub(super) fn commit(&mut self, tenant: &str, partition: u32, events: &[(&str, &str, &str)]) {
        let deliveries = events
            .iter()
            .map(|(event_type, subject, data)| {
                self.events += 1;
                let id = self.events;
                Bytes::from(format!(
                    "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/t\",\"type\":\"{event_type}\",\
                     \"tenantid\":\"{tenant}\",\"subject\":\"{subject}\",\"data\":{data}}}"
                ))
            })
            .collect();
        self.commit_deliveries(tenant, partition, deliveries);
    }

    /// Commits one delivery as it is.
    pub(super) fn commit_raw(&mut self, tenant: &str, partition: u32, payload: Bytes) {
        self.commit_deliveries(tenant, partition, vec![payload]);
    }

    fn commit_deliveries(&mut self, tenant: &str, partition: u32, deliveries: Vec<Bytes>) {
        let tenant = TenantId::new(tenant).unwrap();
        let stream_partition = StreamPartition {
            tenant: tenant.clone(),
            stream: StreamName::new("numbers").unwrap(),
            source_partition: source(partition),
        };
        let binding = Binding {
            stream: stream_partition.stream.clone(),
            tenant: TenantBinding::Fixed(tenant),
            mapping: None,
            // What was admitted is replayed as it stands.
            secrets: SecretPolicy::Off,
        };
        let head = self.heads.get(&stream_partition).map(|head| Head {
            next_sequence: head.next_sequence,
            chain_head: head.chain_head,
        });
        let machines: Vec<Arc<dyn Processor>> = vec![Arc::new(Counter::new())];
        let mut writer: Partition<()> = Partition::new(
            stream_partition.clone(),
            MachineSet::new(machines),
            Heads {
                source: head.unwrap_or_default(),
                ..Heads::default()
            },
            PartitionLimits::default(),
        );
        for payload in deliveries {
            self.events += 1;
            let offset = Offset(self.events);
            let delivery = Delivery {
                offset,
                next: offset.next(),
                payload,
                headers: Headers::NONE,
                recorded_at: None,
            };
            let (_, received) = admission::read(&delivery, &binding);
            let ahead = self.clocks_ahead.get(&partition).copied().unwrap_or(0);
            writer.offer(received, (), Timestamp(self.events as i64 + ahead));
        }
        let wanted = writer.wanted(100);
        let found = self.find(&wanted);
        writer.loaded(&wanted, found);
        let allowance = Allowance {
            events_max: 100,
            bytes_max: 1 << 20,
            written_bytes_max: usize::MAX,
            before: None,
        };
        let Prepared::Part(part) = writer.prepare(allowance) else {
            panic!("everything is loaded")
        };
        self.write(&stream_partition, *part);
    }

    fn grown(&self) -> Option<&Shelf> {
        let grown = self.end_read.load(Ordering::Relaxed);
        self.later_at_end.as_deref().filter(|_| grown)
    }

    fn find(&self, wanted: &[EntityName]) -> Vec<StoredEntity> {
        self.entities
            .iter()
            .filter(|entity| wanted.contains(&entity.name))
            .cloned()
            .collect()
    }

    fn write(&mut self, stream_partition: &StreamPartition, part: Part) {
        for segment in part.segments {
            let head = StreamHead {
                stream_partition: stream_partition.clone(),
                next_sequence: Sequence(segment.first_sequence.0 + u64::from(segment.count)),
                chain_head: segment.chain_head,
            };
            self.heads.insert(stream_partition.clone(), head);
            self.segments.push(segment);
        }
        for write in part.entities {
            let row = EntityRow(self.entities.len() as i64);
            let stored = StoredEntity {
                name: write.name,
                row,
                version: write.version,
                status: write.status,
                data: write.data,
            };
            match self.entities.iter_mut().find(|e| e.name == stored.name) {
                Some(standing) => *standing = stored,
                None => self.entities.push(stored),
            }
        }
        self.letters.extend(
            part.dead_letters
                .into_iter()
                .map(|letter| StoredDeadLetter {
                    letter,
                    state: DeadLetterState::Open,
                    attempts: 1,
                }),
        );
        let source_partition = stream_partition.source_partition.clone();
        let checkpoint = self
            .checkpoints
            .entry(source_partition.clone())
            .or_insert_with(|| Checkpoint {
                source_partition,
                epoch: Epoch(1),
                owner: "test".to_owned(),
                revision: Revision(0),
                incarnation: Incarnation::new("one").unwrap(),
                progress: Progress {
                    next_offset: Offset(0),
                    done_above: DoneAbove::default(),
                    fingerprint: None,
                    counts: Counts::default(),
                },
            });
        checkpoint.progress.counts.add(&part.counts);
        checkpoint.revision = checkpoint.revision.next();
    }
}

#[async_trait::async_trait]
impl StateStore for Shelf {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            concurrent_writers: false,
            roles: false,
            durable: false,
        }
    }
    async fn claim(&self, _: Claim) -> Result<Checkpoint, StoreError> {
        unreachable!("verify only reads")
    }
    async fn checkpoint(&self, at: &SourcePartition) -> Result<Option<Checkpoint>, StoreError> {
        let now = self.grown().unwrap_or(self);
        Ok(now.checkpoints.get(at).cloned())
    }
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let now = self.grown().unwrap_or(self);
        Ok(now.checkpoints.values().cloned().collect())
    }
    async fn commit(&self, _: Arc<CommitBatch>) -> Result<CommitReply, StoreError> {
        unreachable!("verify only reads")
    }
    async fn stream_heads(
        &self,
        _: &TenantId,
        _: &SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        unreachable!("verify reads every source partition")
    }
    async fn load_entities(
        &self,
        _: &TenantId,
        names: Vec<EntityName>,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        Ok(self.find(&names))
    }
    async fn tenant_standings(&self, _: TenantsAsked) -> Result<Vec<TenantStanding>, StoreError> {
        unreachable!("verify only reads what is stored")
    }
    async fn source_topics(&self, _: TopicsFound) -> Result<Vec<SourceTopic>, StoreError> {
        unreachable!("verify asks no broker")
    }
    async fn definitions(&self) -> Result<Vec<StoredDefinition>, StoreError> {
        Ok(Vec::new())
    }
    async fn activate_definition(&self, _: NewDefinition, _: Timestamp) -> Result<(), StoreError> {
        unreachable!("verify only reads")
    }
    async fn entities_by_status(&self, _: &MachineName) -> Result<Vec<(Status, u64)>, StoreError> {
        Ok(Vec::new())
    }
    async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        let mut tenants: Vec<TenantId> = self
            .heads
            .keys()
            .map(|at| at.tenant.clone())
            .chain(
                self.entities
                    .iter()
                    .map(|entity| entity.name.tenant.clone()),
            )
            .collect();
        tenants.sort();
        tenants.dedup();
        Ok(tenants)
    }
    async fn stream_partitions(&self, tenant: &TenantId) -> Result<Vec<StreamHead>, StoreError> {
        if let Some(later) = self.grown() {
            return later.stream_partitions(tenant).await;
        }
        if let Some(later) = &self.later
            && self.letters_read.load(Ordering::Relaxed)
        {
            return later.stream_partitions(tenant).await;
        }
        let of = self.heads.values();
        Ok(of
            .filter(|head| head.stream_partition.tenant == *tenant)
            .cloned()
            .collect())
    }
    async fn chain_anchor(&self, at: &StreamPartition) -> Result<Option<ChainAnchor>, StoreError> {
        let mut anchors = self.anchors.iter();
        Ok(anchors
            .rfind(|anchor| anchor.stream_partition == *at)
            .cloned())
    }
    async fn segments(
        &self,
        at: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        if let Some(later) = self.grown() {
            return later.segments(at, from, limit).await;
        }
        let head = self.heads.get(at).map(|head| head.next_sequence);
        if at.source_partition.partition == 0 && head == Some(from) {
            self.end_read.store(true, Ordering::Relaxed);
        }
        Ok(self
            .segments
            .iter()
            .filter(|segment| segment.stream_partition == *at)
            .filter(|segment| segment.first_sequence.0 + u64::from(segment.count) > from.0)
            .take(limit as usize)
            .cloned()
            .collect())
    }
    async fn event_positions(
        &self,
        _: &TenantId,
        _: &EventLookup,
        _: Option<&RecordPosition>,
        _: u32,
    ) -> Result<Vec<RecordPosition>, StoreError> {
        unreachable!("verify reads the log itself")
    }
    async fn entities(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        if let Some(later) = self.grown() {
            return later.entities(tenant, after, limit).await;
        }
        let mut of: Vec<StoredEntity> = self
            .entities
            .iter()
            .filter(|entity| entity.name.tenant == *tenant)
            .filter(|entity| {
                let name = (entity.name.machine.clone(), entity.name.key.clone());
                after.as_ref().is_none_or(|after| name > *after)
            })
            .cloned()
            .collect();
        of.sort_by(|one, other| one.name.cmp(&other.name));
        of.truncate(limit as usize);
        Ok(of)
    }
    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        self.letters_read.store(true, Ordering::Relaxed);
        if let Some(later) = &self.later {
            return later.dead_letters(tenant, filter, limit).await;
        }
        let mut of: Vec<StoredDeadLetter> = self
            .letters
            .iter()
            .filter(|stored| stored.letter.tenant == *tenant)
            .filter(|stored| filter.after.is_none_or(|after| stored.letter.id > after))
            .cloned()
            .collect();
        of.sort_by_key(|stored| stored.letter.id);
        of.truncate(limit as usize);
        Ok(of)
    }
    async fn dead_letter(
        &self,
        _: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        Ok(self.letters.iter().find(|l| l.letter.id == id).cloned())
    }
    async fn tenants_with_open_work(
        &self,
        _: &SourcePartition,
        _: Option<&TenantId>,
        _: u32,
    ) -> Result<Vec<TenantId>, StoreError> {
        Ok(Vec::new())
    }
    async fn open_work(
        &self,
        _: &TenantId,
        _: &SourcePartition,
        _: Option<WorkPlace>,
        _: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        Ok(Vec::new())
    }
    async fn upkeep(&self, _: Upkeep) -> Result<UpkeepDone, StoreError> {
        unreachable!("verify only reads")
    }
}
