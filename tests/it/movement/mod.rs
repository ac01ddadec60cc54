//! The actors over the in-memory seams on virtual time: what each does when one thing goes wrong, in a
//! scene that says exactly what. The simulation makes the same promises under everything at once.

mod added;
mod bounds;
mod busy;
mod drained;
mod emitted;
mod failing;
mod fencing;
mod giving_back;
mod idle;
mod late_answers;
mod looked_at;
mod reset;
mod stopping;
mod unknown_tenants;
mod unread;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tidegate_actors::{Node, NodeHandle, NodeOptions, NodeSeams, Placement, Source, SourceStatus};
use tidegate_connectors::bus::memory::{
    BusFault, BusFaults, BusOperation, ConsumerId, MemoryBus, MemoryBusHandle,
};
use tidegate_connectors::store::memory::{
    AtEnd, AtStart, CallOutcome, MemoryStore, StoreCall, StoreFaults, StoreOperation,
};
use tidegate_engine::bus::{BusError, Start};
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::{Clock, Ids, Timestamp};
use tidegate_engine::commit::{CommitBatch, EntityName};
use tidegate_engine::machine::{MachineSet, Processor};
use tidegate_engine::position::{Incarnation, Offset, SourceName, SourcePartition, StreamName};
use tidegate_engine::spawner::{OwnedFuture, Spawner};
use tidegate_engine::store::{StateStore, StoreError};
use tidegate_engine::tenant::TenantBinding;
use tokio::time::Instant;

use crate::node::Tally;

/// Runs a scene on a paused clock, all on this thread.
fn on_virtual_time<T>(scene: impl Future<Output = T>) -> T {
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    });
    system.block_on(scene)
}

/// A broker with partitions, a store, and what goes wrong with both.
struct Scene {
    broker: MemoryBusHandle,
    store: MemoryStore,
    script: Arc<Script>,
    spawner: Arc<dyn Spawner>,
    machines: MachineSet,
}

/// What happens to the n-th call (from 1) of an operation.
type StoreRule = Box<dyn Fn(&StoreCall<'_>, u64) -> (Duration, AtStart) + Send + Sync>;
type ReplyRule = Box<dyn Fn(&StoreCall<'_>, u64) -> AtEnd + Send + Sync>;
type BusyRule = Box<dyn Fn(&CommitBatch) -> Vec<EntityName> + Send + Sync>;
type BusRule = Box<dyn Fn(BusOperation, u64) -> (Duration, BusFault) + Send + Sync>;

/// The script of one scene, and what was seen of it.
struct Script {
    store: StoreRule,
    reply: ReplyRule,
    /// Entities of a batch that another transaction holds.
    busy: BusyRule,
    bus: BusRule,
    /// News are told by `receive` alone.
    is_deaf: bool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    store: BTreeMap<StoreOperation, u64>,
    /// When each claim began.
    claims: Vec<Instant>,
    /// Claims that have begun and not ended, now and at most.
    claims_under_way: (usize, usize),
    bus: BTreeMap<String, u64>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            store: Box::new(|_, _| (Duration::ZERO, AtStart::Proceed)),
            reply: Box::new(|_, _| AtEnd::Proceed),
            busy: Box::new(|_| Vec::new()),
            bus: Box::new(|_, _| (Duration::ZERO, BusFault::Proceed)),
            is_deaf: false,
            seen: Mutex::default(),
        }
    }
}

impl StoreFaults for Script {
    fn at_start(&self, call: &StoreCall<'_>) -> (Duration, AtStart) {
        let mut seen = self.seen.lock().unwrap();
        let count = seen.store.entry(call.operation).or_default();
        *count += 1;
        let count = *count;
        let answer = (self.store)(call, count);
        if call.operation == StoreOperation::Claim {
            seen.claims.push(Instant::now());
            if matches!(answer.1, AtStart::Proceed) {
                let (now, most) = &mut seen.claims_under_way;
                *now += 1;
                *most = (*most).max(*now);
            }
        }
        answer
    }

    fn at_end(&self, call: &StoreCall<'_>, _: CallOutcome) -> (Duration, AtEnd) {
        let mut seen = self.seen.lock().unwrap();
        if call.operation == StoreOperation::Claim {
            seen.claims_under_way.0 -= 1;
        }
        let count = seen.store.get(&call.operation).copied().unwrap_or(0);
        (Duration::ZERO, (self.reply)(call, count))
    }

    fn busy(&self, batch: &CommitBatch) -> Vec<EntityName> {
        (self.busy)(batch)
    }
}

impl BusFaults for Script {
    fn hears_news(&self) -> bool {
        !self.is_deaf
    }

    fn at_start(&self, operation: BusOperation, _: Option<u32>) -> (Duration, BusFault) {
        let mut seen = self.seen.lock().unwrap();
        let count = seen.bus.entry(format!("{operation:?}")).or_default();
        *count += 1;
        (self.bus)(operation, *count)
    }
}

impl Script {
    fn claims(&self) -> Vec<Instant> {
        self.seen.lock().unwrap().claims.clone()
    }

    fn calls(&self, operation: StoreOperation) -> u64 {
        let seen = self.seen.lock().unwrap();
        seen.store.get(&operation).copied().unwrap_or(0)
    }

    fn bus_calls(&self, operation: BusOperation) -> u64 {
        let seen = self.seen.lock().unwrap();
        let name = format!("{operation:?}");
        seen.bus.get(&name).copied().unwrap_or(0)
    }
}

/// Virtual time as the clock of a node.
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        Timestamp(1_700_000_000_000_000 + self.0.elapsed().as_micros() as i64)
    }
}

/// The same "random" numbers in every run.
#[derive(Default)]
struct CountedIds(AtomicU64);

impl Ids for CountedIds {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

/// Runs seam calls beside the actors, on the scene's own thread.
struct OnThisThread;

impl Spawner for OnThisThread {
    fn spawn(&self, future: OwnedFuture) {
        actix::spawn(future);
    }
}

impl Scene {
    fn new(partitions: u32, script: Script) -> Self {
        let broker = MemoryBusHandle::new(SourceName::new("orders").unwrap());
        for partition in 0..partitions {
            broker.create_partition(partition, Incarnation::new("one").unwrap());
        }
        Self {
            broker,
            store: MemoryStore::new(),
            script: Arc::new(script),
            machines: MachineSet::new([Arc::new(Tally::new()) as Arc<dyn Processor>]),
            spawner: Arc::new(OnThisThread),
        }
    }

    /// A node whose consumer is assigned every partition of `assigned`.
    fn start(&self, options: NodeOptions, assigned: &[u32]) -> (NodeHandle, ConsumerId) {
        self.start_beside(Vec::new(), options, assigned)
    }

    /// The same beside other sources, which come first.
    fn start_beside(
        &self,
        mut sources: Vec<Source>,
        options: NodeOptions,
        assigned: &[u32],
    ) -> (NodeHandle, ConsumerId) {
        let consumer = self.broker.consumer_with_faults(self.script.clone());
        let id = consumer.id();
        for partition in assigned {
            self.broker.assign(*partition, id);
        }
        let seams = NodeSeams {
            store: Arc::new(self.store.with_faults(self.script.clone())),
            machines: self.machines.clone(),
            clock: Arc::new(VirtualClock(Instant::now())),
            ids: Arc::new(CountedIds::default()),
            spawner: self.spawner.clone(),
            placement: Placement::Current,
        };
        sources.push(source(consumer));
        (Node::start(options, seams, sources), id)
    }

    /// One event more, that moves entity `subject` of the tenant.
    fn append(&self, partition: u32, tenant: &str, id: &str, subject: &str) -> Offset {
        let event = json!({
            "specversion": "1.0", "id": id, "source": "/test", "type": "tick",
            "tenantid": tenant, "subject": subject,
        });
        self.broker.append(partition, event.to_string()).unwrap()
    }

    /// `count` events of tenant `t`, on ten entities.
    fn append_many(&self, partition: u32, count: usize) {
        for n in 0..count {
            let (id, subject) = (format!("{partition}-{n}"), format!("s{}", n % 10));
            self.append(partition, "t", &id, &subject);
        }
    }

    async fn checkpoint(&self, partition: u32) -> Option<Checkpoint> {
        let place = source_partition(partition);
        self.store.checkpoint(&place).await.unwrap()
    }

    /// Everything that was appended is settled, each event once.
    async fn is_settled(&self, partition: u32) -> bool {
        let end = self.broker.end(partition).unwrap();
        let settled = self.checkpoint(partition).await;
        settled.is_some_and(|it| it.progress.next_offset == end)
    }

    async fn settled_within(&self, partition: u32, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.is_settled(partition).await {
            assert!(
                Instant::now() < until,
                "not settled within {limit:?}: {:?}",
                self.checkpoint(partition).await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A consumer as a source of the node.
fn source(consumer: MemoryBus) -> Source {
    Source {
        bus: Arc::new(consumer),
        stream: StreamName::new("orders").unwrap(),
        tenant: TenantBinding::TrustedField,
        mapping: None,
        secrets: tidegate_engine::secrets::SecretPolicy::Off,
        start: Start::Earliest,
    }
}

/// A source of its own with one partition, and the script of its broker.
fn another_source(name: &str, faults: Arc<dyn BusFaults>) -> (MemoryBusHandle, Source) {
    let broker = MemoryBusHandle::new(SourceName::new(name).unwrap());
    broker.create_partition(0, Incarnation::new("one").unwrap());
    let consumer = broker.consumer_with_faults(faults);
    broker.assign(0, consumer.id());
    (broker, source(consumer))
}

fn source_partition(partition: u32) -> SourcePartition {
    SourcePartition {
        source: SourceName::new("orders").unwrap(),
        partition,
    }
}

/// Waits on virtual time until `is_so`.
async fn until(what: &str, limit: Duration, is_so: impl Fn() -> bool) {
    let end = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Why the node's source has failed, if it has.
async fn alarm(node: &NodeHandle) -> Option<String> {
    match &node.snapshot().await.sources[0].status {
        SourceStatus::Failed { reason, .. } => Some(reason.clone()),
        _ => None,
    }
}

fn away() -> StoreError {
    StoreError::Unavailable {
        detail: "scripted".to_owned(),
    }
}

/// What no list of the store's knows: the source partition stops.
fn unexpected() -> AtStart {
    AtStart::Fail(StoreError::Unexpected {
        code: "XX000".to_owned(),
        detail: "scripted".to_owned(),
    })
}

fn bus_away() -> BusFault {
    BusFault::Fail(BusError::Unavailable {
        source_name: SourceName::new("orders").unwrap(),
        detail: "scripted".to_owned(),
    })
}

fn unreadable() -> BusFault {
    BusFault::Fail(BusError::Unreadable {
        source_name: SourceName::new("orders").unwrap(),
        detail: "scripted".to_owned(),
    })
}

const SECOND: Duration = Duration::from_secs(1);
