//! The simulation: `engine` and `actors` exactly as `run` uses them, two nodes over one store and one
//! broker in memory, on a paused single-threaded actix system, with everything random from one seed.
//! What the faults are, and how to replay a seed, stands in `README.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod bus_seam;
mod checker;
mod control;
mod disturbance;
mod faults;
mod ledger;
mod model;
mod node;
#[cfg(feature = "planted")]
mod planted;
mod runner;
mod seed;
mod stage;
mod store_seam;
mod trace;
mod workload;
mod world;

use world::Settings;

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
fn r10_r36_r47_under_chaos_every_promise_holds_and_each_seed_replays() {
    let counts = runner::all(&seed::seeds(seed::SEEDS), Settings::chaos, |_| {});
    println!("{}", counts.table());
}
