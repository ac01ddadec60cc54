//! Runs a node until its sources end, it is told to stop, or a source fails; with the store's upkeep and,
//! where there is one, its front beside it. Shared by `tidegate ingest`, `run`, the demo and whoever measures.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tidegate_actors::{
    DrainReport, Node, NodeHandle, NodeOptions, NodeSeams, NodeSnapshot, Placement, Source,
    SourceFailed,
};
use tidegate_engine::clock::Clock as _;
use tidegate_engine::machine::MachineSet;
use tidegate_engine::store::{StateStore, Upkeep, UpkeepDone};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::runtime::{RandomIds, RuntimeSpawner, SystemClock, arbiters};
use crate::serve::Front;
use crate::watch::LettersTask;

/// How often the node is looked at.
const OBSERVE_INTERVAL: Duration = Duration::from_millis(250);

/// Looks at the node between two questions to its buses, where they end.
const LOOKS_PER_QUESTION: u32 = 4;

/// Arbiters at most: actors do no I/O, so a few threads carry all of them.
const ARBITERS_MAX: usize = 4;

/// What is to be run.
pub struct Plan {
    /// Where state goes.
    pub store: Arc<dyn StateStore>,
    /// How events move it.
    pub machines: MachineSet,
    /// The bounds.
    pub options: NodeOptions,
    /// Where events come from.
    pub sources: Vec<Source>,
    /// How long a stop waits for what is in flight.
    pub drain_limit: Duration,
    /// The store's upkeep.
    pub upkeep: UpkeepPlan,
    /// Where requests are taken, if anywhere.
    pub front: Option<Front>,
    /// A source partition that is stopped waits for a person, while the others go on; else it is the end.
    pub goes_on: bool,
    /// Ends when this node is to make room for another one, if ever.
    pub replaced: Option<BoxFuture<'static, ()>>,
}

/// When the store is asked for which upkeep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpkeepPlan {
    /// Between two rounds.
    pub interval: Duration,
    /// How long an idempotency key is remembered at least.
    pub dedupe_window: Duration,
    /// How long the log is kept; `None` for ever.
    pub retention: Option<Duration>,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// Every source was read to its end, and everything in it is settled.
    Done,
    /// It was told to stop.
    Interrupted(DrainReport),
    /// It made room for another one.
    Replaced(DrainReport),
    /// A source failed; what the others had was settled.
    Failed(SourceFailed),
}

impl UpkeepPlan {
    /// The upkeep that a configuration asks for.
    pub fn of(config: &Config) -> Self {
        const HOUR: u64 = 3_600;
        Self {
            interval: Duration::from_secs(config.limits.upkeep_interval_seconds),
            dedupe_window: Duration::from_secs(config.dedupe.window_hours * HOUR),
            retention: config
                .retention
                .log_days
                .map(|days| Duration::from_secs(days * 24 * HOUR)),
        }
    }

    fn now(self) -> Upkeep {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Upkeep {
            now: SystemClock.now(),
            dedupe_window_micros: micros(self.dedupe_window),
            retention_micros: self.retention.map(micros),
        }
    }
}

/// Runs the plan on this thread, with I/O on `io`. `observe` sees the node every quarter of a second,
/// and once at its end.
pub fn run(
    plan: Plan,
    io: &Runtime,
    observe: &mut dyn FnMut(&NodeSnapshot),
) -> std::io::Result<Ended> {
    let mut stop_asked = StopAsked::listen_on(io)?;
    run_until(plan, io, &mut stop_asked, observe)
}

/// The same for who runs one node after another: a signal between two of them is heard by the next.
pub fn run_until(
    plan: Plan,
    io: &Runtime,
    stop_asked: &mut StopAsked,
    observe: &mut dyn FnMut(&NodeSnapshot),
) -> std::io::Result<Ended> {
    let system = actix::System::new();
    system.block_on(async {
        let upkeep = UpkeepTask::start(plan.store.clone(), plan.upkeep, io.handle());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let placement = arbiters(cores.min(ARBITERS_MAX));
        let counted = plan.store.clone();
        let seams = NodeSeams {
            store: plan.store,
            machines: plan.machines,
            clock: Arc::new(SystemClock),
            ids: Arc::new(RandomIds),
            spawner: Arc::new(RuntimeSpawner(io.handle().clone())),
            placement: placement.clone(),
        };
        let node = Node::start(plan.options, seams, plan.sources);
        let front = match plan.front.map(Front::open).transpose() {
            Ok(front) => front,
            Err(error) => return Err(std::io::Error::other(error)),
        };
        let close = || {
            if let Some(front) = &front {
                front.close();
            }
        };
        let letters = front
            .as_ref()
            .map(|_| LettersTask::start(counted, node.tenant_labels(), io.handle()));
        let replaced = plan.replaced.unwrap_or_else(|| pending().boxed());
        let watched = Watched {
            serves_on: front.is_some(),
            goes_on: plan.goes_on,
            drain_limit: plan.drain_limit,
            replaced,
            observe,
            close: &close,
        };
        let ended = until_the_end(node, watched, stop_asked).await;
        if let Some(front) = front {
            tokio::select! {
                biased;
                () = stop_asked.asked() => {}
                () = front.stop(plan.drain_limit) => {}
            }
        }
        if let Some(letters) = letters {
            letters.stop();
        }
        tokio::select! {
            biased;
            () = stop_asked.asked() => {}
            () = upkeep.stop(plan.drain_limit) => {}
        }
        // Nothing stops them else: not even the end of their system.
        if let Placement::Arbiters(arbiters) = &placement {
            for arbiter in arbiters.iter() {
                arbiter.stop();
            }
        }
        Ok(ended)
    })
}

/// What is looked at while a node runs, and what its end needs.
struct Watched<'w> {
    /// What is stored is served when no source has anything more, and somebody wants to know how far it lags.
    serves_on: bool,
    /// A partition that is stopped waits for a person, and the others go on.
    goes_on: bool,
    drain_limit: Duration,
    replaced: BoxFuture<'static, ()>,
    observe: &'w mut dyn FnMut(&NodeSnapshot),
    close: &'w dyn Fn(),
}

/// Why a node ends.
enum Why {
    /// It was told to.
    Told,
    /// Another one is to take its place.
    Replaced,
    /// By itself.
    ByItself(Result<(), SourceFailed>),
}

async fn ended(node: &NodeHandle, goes_on: bool) -> Result<(), SourceFailed> {
    match goes_on {
        true => node.ended_as_a_whole().await,
        false => node.ended().await,
    }
}

async fn until_the_end(
    node: NodeHandle,
    watched: Watched<'_>,
    stop_asked: &mut StopAsked,
) -> Ended {
    let Watched {
        serves_on,
        goes_on,
        drain_limit,
        mut replaced,
        observe,
        close,
    } = watched;
    let mut look = tokio::time::interval(OBSERVE_INTERVAL);
    let mut looks = 0_u32;
    let mut is_done = false;
    let why = loop {
        tokio::select! {
            biased;
            () = stop_asked.asked() => break Why::Told,
            ended = ended(&node, goes_on), if !is_done => {
                is_done = ended.is_ok() && serves_on;
                if !is_done {
                    break Why::ByItself(ended);
                }
                tracing::info!("every source is at its end; what is stored is served on");
            }
            () = &mut replaced => break Why::Replaced,
            // A part that does not answer must not keep a stop from being heard.
            _ = look.tick() => {
                if serves_on && looks.is_multiple_of(LOOKS_PER_QUESTION) {
                    node.ask_ends();
                }
                looks = looks.wrapping_add(1);
                tokio::select! {
                    biased;
                    () = stop_asked.asked() => break Why::Told,
                    snapshot = node.snapshot() => observe(&snapshot),
                }
            }
        }
    };
    match &why {
        Why::Told => {
            tracing::info!("stopping: what is in flight is settled first; once more stops at once");
        }
        Why::Replaced => tracing::info!("the node is replaced: what is in flight is settled first"),
        Why::ByItself(Ok(())) => {
            tracing::info!("every source is at its end and settled; the node ends");
            observe(&node.snapshot().await);
        }
        Why::ByItself(Err(_)) => observe(&node.snapshot().await),
    }
    close();
    let unsettled_events = node.unsettled();
    let drained = tokio::select! {
        biased;
        // Dropping the node stops it; what is unsettled is delivered again.
        () = stop_asked.asked() => DrainReport { drained: unsettled_events == 0, unsettled_events },
        drained = node.drain(drain_limit) => drained,
    };
    match why {
        Why::ByItself(Ok(())) => Ended::Done,
        Why::ByItself(Err(failed)) => Ended::Failed(failed),
        Why::Told => Ended::Interrupted(drained),
        Why::Replaced if drained.drained => Ended::Replaced(drained),
        // Told to stop meanwhile, or too slow to go on from.
        Why::Replaced => Ended::Interrupted(drained),
    }
}

/// SIGINT and SIGTERM. Once one listens, the process never again ends by them alone: whatever waits or
/// works long has to ask.
pub struct StopAsked {
    interrupt: Signal,
    terminate: Signal,
    times: u32,
}

impl StopAsked {
    /// Listens from now on; call on a runtime.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            times: 0,
        })
    }

    /// The same from outside of a runtime. It may be asked on any.
    pub fn listen_on(runtime: &Runtime) -> std::io::Result<Self> {
        let _entered = runtime.enter();
        Self::listen()
    }

    /// Returns when one of them came since. After the second it always does, so that no step of a stop waits for
    /// anything any more, in whichever of them that one came.
    pub async fn asked(&mut self) {
        if self.times >= 2 {
            return;
        }
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        self.times += 1;
    }
}

/// What a round of upkeep did, when it did or left anything.
fn say(done: UpkeepDone) {
    let index_lag_records = done.index_lag_records.unwrap_or_default();
    if done.rotated || done.segments_dropped > 0 || index_lag_records > 0 {
        tracing::info!(
            rotated = done.rotated,
            segments_dropped = done.segments_dropped,
            index_lag_records,
            "store upkeep"
        );
    }
    if done.segments_held > 0 {
        tracing::warn!(
            segments_held = done.segments_held,
            "open dead letters hold segments that are past retention; decide them to let these go"
        );
    }
}

/// The upkeep, as an owned task: a round that has begun is never dropped halfway.
struct UpkeepTask {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl UpkeepTask {
    fn start(store: Arc<dyn StateStore>, plan: UpkeepPlan, io: &Handle) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let task = io.spawn(async move {
            loop {
                match store.upkeep(plan.now()).await {
                    Ok(done) => say(done),
                    Err(error) => tracing::warn!(%error, "no store upkeep this time"),
                }
                tokio::select! {
                    biased;
                    _ = &mut stopped => return,
                    () = tokio::time::sleep(plan.interval) => {}
                }
            }
        });
        Self { stop, task }
    }

    /// Waits for the round under way, if there is one; one that does not end in time is left to itself.
    async fn stop(self, limit: Duration) {
        let _ = self.stop.send(());
        if tokio::time::timeout(limit, self.task).await.is_err() {
            tracing::warn!("the store's upkeep has not answered; not waiting for it any longer");
        }
    }
}
