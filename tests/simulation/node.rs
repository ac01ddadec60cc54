//! One simulated process: a node as `run` starts it, over its own seams, in its own set of tasks.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use tidegate_actors::{
    Node, NodeOptions, NodeSeams, NodeSnapshot, Placement, Source, SourceStatus,
};
use tidegate_connectors::bus::memory::ConsumerId;
use tidegate_engine::bus::Start;
use tidegate_engine::limits::OPEN_WORK_PAGE;
use tidegate_engine::position::StreamName;
use tidegate_engine::tenant::TenantBinding;
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::bus_seam::{BusDisturbance, BusSeam};
use crate::check::Check;
use crate::control::{Control, LocalSpawner, Process, SeededIds, SkewedClock};
use crate::idle_watch::IdleWatch;
use crate::ledger;
use crate::seed::{Dice, derive};
use crate::stage::Stage;
use crate::store_seam::StoreSeam;

/// The stream that events become.
pub const STREAM: &str = "ledger";

/// More than an emitted event of the machines holds in memory.
const EMITTED_BYTES: usize = 1_024;

/// How often a node is looked at.
const OBSERVE_EVERY: Duration = Duration::from_millis(400);

/// How long a drain may take.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// A running process.
pub struct Running {
    pub control: Arc<Control>,
    pub consumer: ConsumerId,
    pub observed: Arc<Observed>,
}

/// What the world sees of a node, and asks of it.
#[derive(Default)]
pub struct Observed {
    state: Mutex<Seen>,
}

#[derive(Default)]
pub struct Seen {
    /// The last snapshot, and when it was taken.
    pub snapshot: Option<NodeSnapshot>,
    pub at: Option<Instant>,
    pub drain_wanted: bool,
    /// How the drain went.
    pub drained: Option<tidegate_actors::node::DrainReport>,
}

impl Observed {
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.state.lock().unwrap()
    }

    /// Why a source of the node has stopped, if one has.
    pub fn alarm(&self) -> Option<String> {
        let seen = self.lock();
        seen.snapshot
            .iter()
            .flat_map(|snapshot| &snapshot.sources)
            .find_map(|source| match &source.status {
                SourceStatus::Failed { reason, .. } => Some(reason.clone()),
                _ => None,
            })
    }
}

/// Starts the `incarnation`-th process of a name.
pub fn start(
    stage: &Arc<Stage>,
    name: &str,
    incarnation: u64,
    seed: u64,
    options: NodeOptions,
) -> Running {
    let control = Control::new(name.to_owned(), stage.clone());
    let seed = derive(seed, name, incarnation);
    let dice = |purpose: &str| Mutex::new(Dice::new(seed, purpose));
    let disturbance = BusDisturbance {
        stage: stage.clone(),
        dice: dice("bus"),
    };
    let bus = stage.broker.consumer_with_faults(Arc::new(disturbance));
    let consumer = bus.id();
    let bus = BusSeam {
        inner: bus,
        stage: stage.clone(),
        control: control.clone(),
        delivered: Mutex::default(),
    };
    let faults = StoreSeam {
        stage: stage.clone(),
        control: control.clone(),
        dice: dice("store"),
        stalled: Mutex::default(),
    };
    let skew_micros = Dice::new(seed, "skew").between(0, 4_000_000) as i64 - 2_000_000;
    let seams = NodeSeams {
        store: Arc::new(stage.store.with_faults(Arc::new(faults))),
        machines: ledger::machines(),
        clock: Arc::new(SkewedClock {
            control: control.clone(),
            skew_micros,
        }),
        ids: Arc::new(SeededIds {
            control: control.clone(),
            dice: dice("ids"),
        }),
        spawner: Arc::new(LocalSpawner(control.clone())),
        placement: Placement::Current,
    };
    let source = Source {
        bus: Arc::new(bus),
        stream: StreamName::new(STREAM).unwrap(),
        tenant: TenantBinding::TrustedField,
        mapping: None,
        secrets: tidegate_engine::secrets::SecretPolicy::Off,
        start: Start::Earliest,
    };
    let observed = Arc::new(Observed::default());
    let tasks = LocalSet::new();
    let life = live(
        options,
        seams,
        source,
        observed.clone(),
        stage.clone(),
        control.clone(),
    );
    let main = control.clone();
    tasks.spawn_local(async move {
        // A panic of its main task ends a process.
        if AssertUnwindSafe(life).catch_unwind().await.is_err() {
            main.kill("by a panic of its main task");
        }
    });
    stage.trace(name, "started");
    actix::spawn(Process::new(tasks, control.clone()));
    Running {
        control,
        consumer,
        observed,
    }
}

/// What the process does: it runs a node and looks at it.
async fn live(
    options: NodeOptions,
    seams: NodeSeams,
    source: Source,
    observed: Arc<Observed>,
    stage: Arc<Stage>,
    control: Arc<Control>,
) {
    let handle = Node::start(options.clone(), seams, vec![source]);
    let mut idle = IdleWatch::default();
    loop {
        tokio::time::sleep(OBSERVE_EVERY).await;
        if observed.lock().drain_wanted {
            let report = handle.drain(DRAIN_LIMIT).await;
            stage.trace(&control.name, &format!("{report:?}"));
            observed.lock().drained = Some(report);
            return;
        }
        let snapshot = handle.snapshot().await;
        check_bounds(&snapshot, &options, &stage);
        idle.look(&snapshot, &control, &stage);
        note_full(&snapshot, &options, &stage);
        let mut seen = observed.lock();
        seen.snapshot = Some(snapshot);
        seen.at = Some(Instant::now());
    }
}

/// Permits that are used up are no fault, but a run without them shows nothing about waiting.
fn note_full(snapshot: &NodeSnapshot, options: &NodeOptions, stage: &Stage) {
    let lanes = snapshot.tenants.iter().map(|tenant| tenant.lane_events);
    let lanes_full = lanes
        .filter(|events| *events == options.tenant_events_max)
        .count() as u64;
    let is_node_full = snapshot.unsettled_events == options.node_events_max;
    stage.saw(|quiet| {
        quiet.lanes_full += lanes_full;
        quiet.nodes_full += u64::from(is_node_full);
    });
}

/// Every queue stays within its bound, at any moment.
fn check_bounds(snapshot: &NodeSnapshot, options: &NodeOptions, stage: &Stage) {
    let bound = |what: &str, found: usize, most: usize| {
        if found > most {
            let what = format!("{found} {what}, at most {most} were allowed");
            stage.violation(Check::Bounds, what);
        }
    };
    bound(
        "events unsettled in a node",
        snapshot.unsettled_events,
        options.node_events_max,
    );
    bound(
        "bytes unsettled in a node",
        snapshot.unsettled_bytes,
        options.node_bytes_max,
    );
    for tenant in &snapshot.tenants {
        bound(
            "events in a lane",
            tenant.lane_events,
            options.tenant_events_max,
        );
        bound(
            "bytes in a lane",
            tenant.lane_bytes,
            options.tenant_bytes_max,
        );
        for partition in &tenant.supervisor.partitions {
            bound(
                "bytes of emitted events in a partition",
                partition.emitted_bytes,
                // A page comes whole.
                options.memory.emitted_bytes_max + OPEN_WORK_PAGE as usize * EMITTED_BYTES,
            );
            bound(
                "events in a partition",
                partition.unsettled_events,
                options.tenant_events_max,
            );
            bound(
                "batches prepared",
                partition.prepared_batches,
                tidegate_engine::partition::PREPARED_MAX,
            );
            bound("loads in flight", partition.loads_in_flight, 1);
        }
    }
    for partition in snapshot
        .sources
        .iter()
        .flat_map(|source| &source.partitions)
    {
        bound(
            "events in a commit",
            partition.in_flight_events,
            options.batch_events_max,
        );
    }
}
