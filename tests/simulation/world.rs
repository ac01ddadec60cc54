//! One run from one seed: two processes over one store and one broker, a producer, the broker's group
//! coordinator, an operator who restarts what raised an alarm, and whatever goes wrong.

mod processes;
mod rest;

use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::bus::memory::ConsumerId;
use tidegate_engine::hash::Hash128;
use tidegate_engine::store::{StateStore, Upkeep};
use tokio::time::Instant;

use crate::census::{Census, FAULTS_MIN, Quiet};
use crate::check::Violation;
use crate::checker;
use crate::control::world_time;
use crate::disturbance::Action;
use crate::faults::{Counts, Fault};
use crate::log_watch::LogWatch;
use crate::node::Running;
use crate::panics;
use crate::seed::Dice;
use crate::settings::{Settings, options};
use crate::stage::Stage;
use crate::workload::{PARTITIONS, Planned};

/// How often the world looks.
const TICK: Duration = Duration::from_millis(50);
/// How often the logs are compared with what they were.
const LOG_LOOK_TICKS: u64 = 60;
/// Chaos goes on until the producer has ended and enough faults took effect, but no longer than this.
const CHAOS_MAX: Duration = Duration::from_secs(240);
/// Once nothing goes wrong any more, everything is settled within this.
const CALM_MAX: Duration = Duration::from_secs(240);
/// A node that was not stopped answers within this.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Keys live between one and two of these.
const DEDUPE_WINDOW_MICROS: i64 = 7 * 86_400 * 1_000_000;

/// How a run went.
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<Violation>,
    pub counts: Counts,
    pub quiet: Quiet,
    /// Of a run in which nothing was wrong until its end.
    pub census: Option<Census>,
    pub logs: LogWatch,
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
    ticks: u64,
    logs: LogWatch,
    checked: bool,
}

/// Runs a seed on this thread, in an actix system of its own with a paused clock.
pub fn run(settings: Settings) -> Outcome {
    drop(panics::take());
    let system = actix::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    });
    let mut outcome = system.block_on(live(settings));
    outcome.violations.extend(panics::take());
    outcome
}

async fn live(settings: Settings) -> Outcome {
    let mut world = World::new(settings);
    let stage = world.stage.clone();
    world.run().await;
    // Before anything is checked: while a checker reads, what was on its way may still arrive, and that is
    // no part of the run.
    let (trace_hash, tail, trace) =
        stage.with_trace(|trace| (trace.hash(), trace.tail(), trace.lines().to_vec()));
    let mut census = None;
    if world.checked && stage.violations().is_empty() {
        unplant();
        world.logs.look(&stage).await;
        census = Some(checker::check(&stage).await);
    }
    Outcome {
        seed: world.seed,
        violations: stage.violations(),
        counts: stage.counts(),
        quiet: stage.quiet(),
        census,
        logs: world.logs,
        trace_hash,
        trace,
        tail,
        stage,
    }
}

/// What checks is the code that is shipped.
fn unplant() {
    #[cfg(feature = "planted")]
    tidegate_engine::planted::plant(None);
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
            ticks: 0,
            logs: LogWatch::default(),
            checked: settings.checked,
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
            let enough = !self.stage.is_chaotic() || self.stage.counts().injected() >= FAULTS_MIN;
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
        self.ticks += 1;
        // In every run: a look is a call of the store, and commits that come late count calls.
        if self.ticks.is_multiple_of(LOG_LOOK_TICKS) {
            self.logs.look(&self.stage).await;
        }
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
