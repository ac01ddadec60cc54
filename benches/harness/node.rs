//! Ours, end to end: the bench bus, the node's actors, a machine and a store, wired as the binary wires
//! them; only the bus is not a user's.

use std::sync::Arc;
use std::time::Duration;

use tidegate::runtime::{RandomIds, RuntimeSpawner, SystemClock};
use tidegate_actors::{Node, NodeHandle, NodeOptions, NodeSeams, Placement, Source};
use tidegate_engine::bus::{EventBus, Start};
use tidegate_engine::machine::MachineSet;
use tidegate_engine::position::StreamName;
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::{TenantBinding, TenantId};
use tokio::runtime::Handle;

use super::Result;
use super::bus::BenchBus;
use super::cpu::Servers;
use super::load::{Load, Totals};
use super::measure::{Sample, Stopwatch};
use super::topics::{SOURCE, Topic};

/// One end-to-end run of ours.
pub struct Ours {
    /// Where state lives; fresh.
    pub store: Arc<dyn StateStore>,
    /// The order machine, in Rust or in YAML.
    pub machines: MachineSet,
    /// Source partitions.
    pub partitions: usize,
    /// The node's bounds.
    pub options: NodeOptions,
    /// Payments to take of the load.
    pub payments: u32,
    /// Where the payments are read from; from memory without.
    pub topic: Option<Topic>,
    /// Whose CPU time is read.
    pub servers: Servers,
}

/// Between two looks at what is settled of a topic.
const LOOK: Duration = Duration::from_millis(10);

/// How long a run may stand before it counts as stuck.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);

impl Ours {
    /// Consumes a load and returns the timed part. Actors run at `placement`, store and bus work on
    /// `io`. `before_timed` runs between the opening and the timed part.
    pub async fn run(
        self,
        placement: Placement,
        io: Handle,
        load: &Arc<Load>,
        before_timed: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<Sample> {
        let of_memory = if self.topic.is_none() {
            self.payments
        } else {
            0
        };
        let bus = Arc::new(BenchBus::new(
            load.clone(),
            load.lanes(self.partitions, of_memory),
        )?);
        let start = |bus: Arc<dyn EventBus>| -> Result<NodeHandle> {
            let seams = NodeSeams {
                store: self.store.clone(),
                machines: self.machines.clone(),
                clock: Arc::new(SystemClock),
                ids: Arc::new(RandomIds),
                spawner: Arc::new(RuntimeSpawner(io.clone())),
                placement: placement.clone(),
            };
            Ok(Node::start(self.options.clone(), seams, vec![source(bus)?]))
        };
        let node = start(bus.clone())?;
        tokio::select! {
            biased;
            () = bus.all_settled() => {}
            failed = failed(&node) => return Err(failed),
        }
        let (node, sample) = match &self.topic {
            None => {
                before_timed().await?;
                let stopwatch = Stopwatch::start(self.servers);
                let events = bus.open();
                tokio::select! {
                    biased;
                    () = bus.all_settled() => {}
                    failed = failed(&node) => return Err(failed),
                }
                (node, stopwatch.stop(events))
            }
            Some(topic) => {
                node.stop().await;
                before_timed().await?;
                let stopwatch = Stopwatch::start(self.servers);
                let node = start(Arc::new(topic.bus(self.store.clone(), &io)?))?;
                let events = self.payments as usize;
                tokio::select! {
                    biased;
                    settled = self.all_settled(events) => settled?,
                    failed = failed(&node) => return Err(failed),
                }
                (node, stopwatch.stop(events))
            }
        };

        node.stop().await;
        let (found, expected) = (
            totals(self.store.as_ref()).await?,
            load.totals(self.payments),
        );
        if found != expected {
            return Err(format!("ours ends at {found:?}, not {expected:?}").into());
        }
        Ok(sample)
    }

    /// Waits until so many records of the topic are settled.
    async fn all_settled(&self, records: usize) -> Result<()> {
        loop {
            let checkpoints = self.store.checkpoints().await?;
            let of_topic = checkpoints
                .iter()
                .filter(|it| it.source_partition.source.as_str() == SOURCE);
            let settled: u64 = of_topic.map(|it| it.progress.next_offset.0).sum();
            if settled >= records as u64 {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn source(bus: Arc<dyn EventBus>) -> Result<Source> {
    Ok(Source {
        bus,
        stream: StreamName::new("orders")?,
        tenant: TenantBinding::TrustedField,
        mapping: None,
        secrets: tidegate_engine::secrets::SecretPolicy::Off,
        start: Start::Earliest,
    })
}

/// Never returns while the node works.
async fn failed(node: &tidegate_actors::NodeHandle) -> Box<dyn std::error::Error + Send + Sync> {
    match tokio::time::timeout(SETTLE_LIMIT, node.ended()).await {
        Ok(Err(failed)) => failed.into(),
        Ok(Ok(())) => "the source ended, which the bench bus never says".into(),
        Err(_) => format!("not settled within {SETTLE_LIMIT:?}").into(),
    }
}

/// What the entities of every tenant add up to.
async fn totals(store: &dyn StateStore) -> Result<Totals> {
    const PAGE: u32 = 10_000;
    let mut totals = Totals::default();
    for tenant in store.tenants().await? {
        add_tenant(store, &tenant, PAGE, &mut totals).await?;
    }
    Ok(totals)
}

async fn add_tenant(
    store: &dyn StateStore,
    tenant: &TenantId,
    page: u32,
    totals: &mut Totals,
) -> Result<()> {
    let mut after = None;
    loop {
        let entities = store.entities(tenant, after.take(), page).await?;
        for entity in &entities {
            let data: serde_json::Value = serde_json::from_str(&entity.data)?;
            totals.orders += 1;
            totals.versions += i64::try_from(entity.version.0)?;
            totals.paid_cents += data
                .get("paid_cents")
                .and_then(serde_json::Value::as_i64)
                .ok_or("no paid_cents")?;
        }
        match entities.last() {
            Some(last) => after = Some((last.name.machine.clone(), last.name.key.clone())),
            None => return Ok(()),
        }
    }
}
