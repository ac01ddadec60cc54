//! What a run is made of: its rates, its records, and the bounds of its nodes.

use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::retry::BackOff;

use crate::faults::Rates;
use crate::seed::Dice;
use crate::workload::{self, Mix, Planned};

/// What a run is made of.
pub struct Settings {
    pub seed: u64,
    pub rates: Rates,
    pub records: Vec<Planned>,
    /// Whether the tables are checked at the end: not when a run only has to leave the same trace, which
    /// holds the hash of every batch, so that the same tables would be checked twice.
    pub checked: bool,
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
            checked: true,
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

/// Small bounds, so that each is felt; other ones in every seed.
pub fn options(name: &str, dice: &mut Dice) -> NodeOptions {
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
        batch_written_bytes_max: dice.between(1, 8_000) as usize,
        done_above_ranges_max: dice.between(1, 20) as usize,
        fair_quantum_bytes: dice.between(1, 8) as usize * 1024,
        commit_slots: dice.between(1, 4) as usize,
        memory: PartitionLimits {
            entities_max,
            entities_bytes_max: dice.between(1, 8_000) as usize,
            known_keys_max: dice.between(4, 200) as usize,
            emitted_bytes_max: dice.between(1, 8_000) as usize,
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
        // After a stall is seen, and before the longest stalled call returns.
        release_limit: Duration::from_secs(6),
        // Stalled calls take 6 to 8 seconds: in some seeds their outcome is asked for before the stall is
        // seen, in others long after.
        store_answer_limit: Duration::from_secs(if dice.chance(500) { 3 } else { 5 }),
        stall_limit: Duration::from_secs(4),
        watch_interval: dice.millis(100, 600),
        passivate_after: dice.millis(500, 6_000),
        tenants_measured_max: 3,
    }
}
