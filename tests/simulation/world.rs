//! One run from one seed: two processes over one store and one broker, a producer, the broker's group
//! coordinator, an operator who restarts what raised an alarm, and whatever goes wrong.

use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::bus::memory::ConsumerId;
use tidegate_engine::hash::Hash128;
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::retry::BackOff;
use tidegate_engine::store::{StateStore, Upkeep};
use tokio::time::Instant;

use crate::checker;
use crate::control::world_time;
use crate::disturbance::Action;
use crate::faults::{Counts, Fault, Rates};
use crate::node::{self, Running};
use crate::seed::Dice;
use crate::stage::{Stage, UNEXPECTED_CODE};
use crate::workload::{self, Mix, PARTITIONS, Planned};

/// How often the world looks.
const TICK: Duration = Duration::from_millis(50);
/// Chaos goes on until the producer has ended and so many faults took effect, …
const FAULTS_MIN: u64 = 20;
/// … but no longer than this.
const CHAOS_MAX: Duration = Duration::from_secs(240);
/// Once nothing goes wrong any more, everything is settled within this.
const CALM_MAX: Duration = Duration::from_secs(240);
/// A node that was not stopped answers within this.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Keys live between one and two of these.
const DEDUPE_WINDOW_MICROS: i64 = 7 * 86_400 * 1_000_000;

/// What a run is made of.
pub struct Settings {
    pub seed: u64,
    pub rates: Rates,
    pub records: Vec<Planned>,
}

impl Settings {
    /// A seed with everything that can go wrong.
    pub fn chaos(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "settings");
        let rates = Rates::chaotic(&mut dice);
        Self {
            seed,
            rates,
            records: workload::plan(seed, Mix::full(&mut dice)),
        }
    }

    /// The same workload, and nothing goes wrong.
    pub fn calm(seed: u64) -> Self {
        Self {
            rates: Rates::calm(),
            ..Self::chaos(seed)
        }
    }
}

/// How a run went.
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    pub counts: Counts,
    pub trace_hash: Hash128,
    pub trace: Vec<String>,
    pub tail: String,
    pub stage: Arc<Stage>,
}

/// One of the two places where a process runs.
pub(crate) struct Place {
    pub name: &'static str,
    pub incarnation: u64,
    pub options: NodeOptions,
    pub running: Option<Running>,
    /// Since when it should have answered.
    pub since: Instant,
    pub draining: bool,
}

pub(crate) struct World {
    pub stage: Arc<Stage>,
    pub dice: Dice,
    pub places: Vec<Place>,
    /// What is to be done later, in order of planning.
    pub pending: Vec<(Instant, Action)>,
    /// Partitions about which something is pending.
    pub locked: [bool; PARTITIONS as usize],
    seed: u64,
    records: std::collections::VecDeque<Planned>,
    rotate_at: Option<Duration>,
}

/// Runs a seed on this thread, in an actix system of its own with a paused clock.
pub fn run(settings: Settings) -> Outcome {
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    });
    system.block_on(live(settings))
}

async fn live(settings: Settings) -> Outcome {
    let mut world = World::new(settings);
    let stage = world.stage.clone();
    world.run().await;
    if stage.violations().is_empty() {
        checker::check(&stage).await;
    }
    let (trace_hash, tail, trace) =
        stage.with_trace(|trace| (trace.hash(), trace.tail(), trace.lines().to_vec()));
    Outcome {
        seed: world.seed,
        violations: stage.violations(),
        counts: stage.counts(),
        trace_hash,
        trace,
        tail,
        stage,
    }
}

/// Small bounds, so that each is felt; other ones in every seed.
fn options(name: &str, dice: &mut Dice) -> NodeOptions {
    let receive_events_max = dice.between(3, 40) as usize;
    let node_events_max = receive_events_max + dice.between(10, 150) as usize;
    let entities_max = dice.between(4, 60) as usize;
    NodeOptions {
        name: name.to_owned(),
        node_events_max,
        node_bytes_max: 256 * 1024,
        tenant_events_max: dice.between(6, 60) as usize,
        tenant_bytes_max: 64 * 1024,
        receive_events_max,
        receive_bytes_max: 32 * 1024,
        batch_events_max: dice.between(1, 30) as usize,
        batch_bytes_max: dice.between(2, 32) as usize * 1024,
        fair_quantum_bytes: dice.between(1, 8) as usize * 1024,
        commit_slots: dice.between(1, 4) as usize,
        partition: PartitionLimits {
            entities_max,
            known_keys_max: dice.between(4, 200) as usize,
        },
        load_entities_max: dice.between(1, 30) as usize,
        back_off: BackOff {
            first: Duration::from_millis(10),
            max: dice.millis(100, 1_000),
        },
        busy_wait: dice.millis(5, 50),
        // An operator would be called for each quarantine; most seeds have none.
        restarts_max: if dice.chance(150) { 8 } else { 1_000 },
        restart_window: Duration::from_secs(60),
        reclaim_wait_first: Duration::from_millis(200),
        // Stalled calls take 6 to 8 seconds: in some seeds their outcome is asked for before the stall is
        // seen, in others long after.
        store_answer_limit: Duration::from_secs(if dice.chance(500) { 3 } else { 5 }),
        stall_limit: Duration::from_secs(4),
        watch_interval: dice.millis(100, 600),
        passivate_after: dice.millis(500, 6_000),
    }
}

impl World {
    fn new(settings: Settings) -> Self {
        let mut dice = Dice::new(settings.seed, "world");
        let places: Vec<Place> = ["a", "b"]
            .into_iter()
            .map(|name| Place {
                name,
                incarnation: 0,
                options: options(name, &mut dice),
                running: None,
                since: Instant::now(),
                draining: false,
            })
            .collect();
        let stage = Stage::new(settings.rates, places[0].options.stall_limit);
        let rotate_at = Some(dice.millis(4_000, 20_000));
        Self {
            stage,
            dice,
            places,
            pending: Vec::new(),
            locked: [false; PARTITIONS as usize],
            seed: settings.seed,
            records: settings.records.into(),
            rotate_at,
        }
    }

    async fn run(&mut self) {
        self.upkeep(0).await;
        for place in 0..self.places.len() {
            self.start(place);
        }
        self.stage.set_chaos(self.stage.rates.disturbance > 0);
        let chaos_ends = Instant::now() + CHAOS_MAX;
        loop {
            self.tick().await;
            let enough = !self.stage.is_chaotic() || self.stage.counts().total() >= FAULTS_MIN;
            let over = self.records.is_empty() && self.rotate_at.is_none() && enough;
            if over || Instant::now() > chaos_ends || self.is_wrong() {
                break;
            }
        }
        self.calm_down().await;
        self.settle().await;
        self.rest().await;
        for place in &self.places {
            if let Some(running) = &place.running {
                running.control.kill("at the end");
            }
        }
        tokio::time::sleep(TICK).await;
    }

    pub(crate) fn is_wrong(&self) -> bool {
        !self.stage.violations().is_empty()
    }

    async fn tick(&mut self) {
        tokio::time::sleep(TICK).await;
        self.act();
        self.bury_the_dead();
        self.operate();
        self.assign_orphans();
        self.produce();
        if self.rotate_at.is_some_and(|at| self.stage.elapsed() >= at) {
            self.rotate_at = None;
            self.upkeep(DEDUPE_WINDOW_MICROS + 1).await;
            self.stage.count(Fault::DedupeRotation);
            self.stage.trace("world", "dedupe rotated");
        }
        if self.stage.is_chaotic() && self.dice.chance(self.stage.rates.disturbance) {
            self.disturb();
        }
        self.check_answers();
    }

    async fn upkeep(&self, ahead_micros: i64) {
        let mut now = world_time(&self.stage);
        now.0 += ahead_micros;
        let upkeep = Upkeep {
            now,
            dedupe_window_micros: DEDUPE_WINDOW_MICROS,
            retention_micros: None,
        };
        self.stage.store.upkeep(upkeep).await.unwrap();
    }

    fn produce(&mut self) {
        let now = self.stage.elapsed();
        while let Some(record) = self.records.pop_front_if(|record| record.at <= now) {
            let at = world_time(&self.stage);
            self.stage
                .broker
                .append_after_hole(record.partition, record.hole, at, record.payload);
        }
        if self.records.is_empty() {
            (0..PARTITIONS).for_each(|partition| self.stage.broker.finish(partition));
        }
    }

    // --- processes ----------------------------------------------------------------------------

    pub(crate) fn start(&mut self, place: usize) {
        let place = &mut self.places[place];
        if place.running.is_some() {
            return;
        }
        place.incarnation += 1;
        place.draining = false;
        place.since = Instant::now();
        let options = place.options.clone();
        place.running = Some(node::start(
            &self.stage,
            place.name,
            place.incarnation,
            self.seed,
            options,
        ));
    }

    /// Ends a process and lets the broker know after its session; another is started in its place.
    pub(crate) fn replace(&mut self, place: usize, session: Duration, pause: Duration) {
        if let Some(running) = self.places[place].running.take() {
            running.control.kill("and replaced");
            self.later(session, Action::DropConsumer(running.consumer));
            self.later(pause, Action::Start(place));
        }
    }

    fn bury_the_dead(&mut self) {
        for place in 0..self.places.len() {
            let died = self.places[place]
                .running
                .as_ref()
                .is_some_and(|it| it.control.is_killed());
            if died {
                self.stage.count(Fault::Crash);
                let (session, pause) = (self.dice.millis(0, 2_000), self.dice.millis(100, 3_000));
                self.replace(place, session, pause);
            }
        }
    }

    /// The operator restarts a node that raised an alarm, after asking whether anything explains it.
    fn operate(&mut self) {
        for place in 0..self.places.len() {
            let Some(running) = &self.places[place].running else {
                continue;
            };
            let drained = running.observed.lock().drained;
            if let Some(report) = drained {
                self.stage.count(Fault::DrainedRestart);
                self.stage.trace(
                    "world",
                    &format!("{} drained: {report:?}", self.places[place].name),
                );
                let pause = self.dice.millis(50, 1_000);
                self.replace(place, Duration::ZERO, pause);
                continue;
            }
            let alarm = running
                .observed
                .alarm()
                .filter(|_| !self.places[place].draining);
            let Some(reason) = alarm else { continue };
            self.stage.trace(
                "world",
                &format!("alarm of {}: {reason}", self.places[place].name),
            );
            if reason.contains(UNEXPECTED_CODE) {
                self.stage.count(Fault::UnexpectedError);
            } else if !explained(&reason) {
                self.stage
                    .violation(format!("an alarm that nothing explains: {reason}"));
            }
            let pause = self.dice.millis(200, 2_000);
            self.replace(place, Duration::ZERO, pause);
        }
    }

    /// A node that runs answers; otherwise something in it hangs.
    fn check_answers(&self) {
        for place in &self.places {
            let Some(running) = &place.running else {
                continue;
            };
            if running.control.is_frozen() || running.control.is_killed() || place.draining {
                continue;
            }
            let last = running
                .observed
                .lock()
                .at
                .map_or(place.since, |at| at.max(place.since));
            if last.elapsed() > ANSWER_MAX {
                self.stage.violation(format!(
                    "node {} has not answered for {ANSWER_MAX:?}",
                    place.name
                ));
            }
        }
    }

    // --- the end ------------------------------------------------------------------------------

    /// Nothing new goes wrong; what was begun is finished, and each partition has one owner.
    async fn calm_down(&mut self) {
        self.stage.set_chaos(false);
        for running in self
            .places
            .iter()
            .filter_map(|place| place.running.as_ref())
        {
            running.control.spare();
        }
        while !self.pending.is_empty() && !self.is_wrong() {
            self.tick().await;
        }
        for place in 0..self.places.len() {
            self.start(place);
        }
        for partition in 0..PARTITIONS {
            let mut holders = self.stage.broker.holders(partition);
            holders.pop();
            holders
                .into_iter()
                .for_each(|other| self.stage.broker.lose(partition, other));
        }
    }

    async fn settle(&mut self) {
        let until = Instant::now() + CALM_MAX;
        while !self.is_wrong() && !self.is_settled() {
            self.tick().await;
            if Instant::now() > until {
                let at = |partition| {
                    let at = self
                        .stage
                        .checkpoint(partition)
                        .map(|it| it.progress.next_offset);
                    format!(
                        "{partition}: {at:?} of {:?}",
                        self.stage.broker.end(partition)
                    )
                };
                let places: Vec<String> = (0..PARTITIONS).map(at).collect();
                let snapshots: Vec<_> = self
                    .places
                    .iter()
                    .filter_map(|place| place.running.as_ref())
                    .map(|running| format!("{:?}", running.observed.lock().snapshot))
                    .collect();
                let snapshots = snapshots.join("\n");
                self.stage.violation(format!(
                    "not settled after {CALM_MAX:?}: {}\n{snapshots}",
                    places.join(", ")
                ));
            }
        }
    }

    fn is_settled(&self) -> bool {
        let settled = |partition| {
            let end = self.stage.broker.end(partition);
            end.is_some_and(|end| self.stage.first_unsettled(partition, end).is_none())
        };
        (0..PARTITIONS).all(settled) && self.stage.store.commits_on_their_way() == 0
    }

    /// Everything is at rest: every permit is back, and nodes drain at once.
    async fn rest(&mut self) {
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until && !self.is_wrong() {
            self.tick().await;
        }
        if self.is_wrong() {
            return;
        }
        for place in &self.places {
            let Some(running) = &place.running else {
                continue;
            };
            let mut seen = running.observed.lock();
            seen.drain_wanted = true;
            let Some(snapshot) = &seen.snapshot else {
                continue;
            };
            // What the poll that waits may return, and nothing else.
            let allowance = place
                .options
                .receive_events_max
                .min(place.options.node_events_max);
            let lanes: usize = snapshot
                .tenants
                .iter()
                .map(|tenant| tenant.lane_events + tenant.lane_bytes)
                .sum();
            if snapshot.unsettled_events != allowance || lanes != 0 {
                self.stage.violation(format!(
                    "node {} is at rest and holds {} permits (its poll has {allowance}), {lanes} in lanes",
                    place.name, snapshot.unsettled_events
                ));
            }
            let tracked: usize = snapshot
                .sources
                .iter()
                .flat_map(|it| &it.partitions)
                .map(|it| it.tracked_events)
                .sum();
            if tracked > 0 {
                self.stage.violation(format!(
                    "node {} is at rest and tracks {tracked} events",
                    place.name
                ));
            }
        }
        tokio::time::sleep(node::DRAIN_LIMIT + Duration::from_secs(2)).await;
        for place in &self.places {
            let Some(running) = &place.running else {
                continue;
            };
            let report = running.observed.lock().drained;
            if !report.is_some_and(|report| report.drained && report.unsettled_events == 0) {
                self.stage.violation(format!(
                    "node {} is at rest and did not drain: {report:?}",
                    place.name
                ));
            }
        }
    }

    pub(crate) fn later(&mut self, wait: Duration, action: Action) {
        self.pending.push((Instant::now() + wait, action));
    }

    /// The place whose process is this consumer.
    pub(crate) fn place_of(&self, consumer: ConsumerId) -> Option<usize> {
        self.places.iter().position(|place| {
            place
                .running
                .as_ref()
                .is_some_and(|it| it.consumer == consumer)
        })
    }
}

/// Alarms that follow from what the world did.
fn explained(reason: &str) -> bool {
    ["the restart budget is used up", "fenced", "panicked"]
        .iter()
        .any(|text| reason.contains(text))
}
