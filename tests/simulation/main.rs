//! The simulation: `engine` and `actors` exactly as `run` uses them, two nodes over one store and one
//! broker in memory, on a paused single-threaded actix system, with everything random from one seed.
//! What the faults are, and how to replay a seed, stands in `README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bus_seam;
mod census;
mod check;
mod checker;
mod control;
mod disturbance;
mod faults;
mod idle_watch;
mod ledger;
mod log_watch;
mod model;
mod node;
mod panics;
#[cfg(feature = "planted")]
mod planted;
mod redelivery;
mod requirements;
mod runner;
mod seed;
mod settings;
mod stage;
mod store_seam;
mod trace;
mod workload;
mod world;

use faults::Fault;
use settings::Settings;

/// Each kind of fault takes effect so often over all seeds.
const TIMES_MIN: u64 = 200;

#[test]
fn without_faults_every_event_settles_and_every_check_holds() {
    runner::all(&seed::seeds(20), Settings::calm, |outcome| {
        assert_eq!(
            outcome.stage.claims(),
            workload::PARTITIONS as usize,
            "seed {}: where nothing goes wrong, each partition is claimed once",
            outcome.seed
        );
    });
}

#[test]
fn under_chaos_every_promise_holds_and_each_seed_replays() {
    let seeds = seed::seeds(seed::SEEDS);
    let sum = runner::all(&seeds, Settings::chaos, |outcome| {
        let short = outcome.census.unwrap().shortfalls(&outcome.counts);
        assert!(short.is_empty(), "seed {}: {short:?}", outcome.seed);
    });
    runner::say(&sum.to_string());
    if sum.seeds < seed::SEEDS {
        return;
    }
    let rare: Vec<Fault> = Fault::ALL
        .into_iter()
        .filter(|fault| sum.counts.of(*fault) < TIMES_MIN)
        .collect();
    assert!(rare.is_empty(), "fewer than {TIMES_MIN} times: {rare:?}");
    let quiet = [
        sum.quiet.passivated,
        sum.quiet.activated_again,
        sum.quiet.lanes_full,
        sum.quiet.nodes_full,
    ];
    assert!(
        quiet.iter().all(|times| *times >= TIMES_MIN),
        "passivation or waiting for permits is too rare"
    );
}
