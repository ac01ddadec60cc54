//! Where randomness comes from: start seeds from the commit, and dice that are rolled for one purpose
//! each, so that a change in one place leaves the rolls of all others as they were.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_engine::hash::hash_fields;

/// Seeds of a run in CI.
pub const SEEDS: u64 = 500;

/// What start seeds come from where there is no repository.
const FALLBACK_COMMIT: &str = "tidegate";

/// A sequence of random decisions.
pub struct Dice(StdRng);

impl Dice {
    /// Dice for one purpose of one seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(StdRng::seed_from_u64(derive(seed, purpose, 0)))
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.0.random_range(0..1_000) < per_mille
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// An index of a list of that length, which must not be empty.
    pub fn index(&mut self, length: usize) -> usize {
        self.0.random_range(0..length)
    }

    /// Milliseconds from `low` to `high`, both included.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.random()
    }
}

/// A seed of its own for the `index`-th thing of that name.
pub fn derive(seed: u64, purpose: &str, index: u64) -> u64 {
    let hash = hash_fields(
        "tidegate.simulation",
        &[
            &seed.to_le_bytes(),
            purpose.as_bytes(),
            &index.to_le_bytes(),
        ],
    );
    (hash.0 >> 64) as u64
}

/// The seeds of this commit; only one when `TIDEGATE_SIM_SEED` names it, another number of them when
/// `TIDEGATE_SIM_SEEDS` says so.
pub fn seeds(count: u64) -> Vec<u64> {
    if let Some(seed) = from_environment("TIDEGATE_SIM_SEED") {
        return vec![seed];
    }
    let count =
        from_environment("TIDEGATE_SIM_SEEDS").map_or(count, |wanted| wanted.min(count * 100));
    let commit = commit();
    let base = (hash_fields("tidegate.simulation.commit", &[commit.as_bytes()]).0 >> 64) as u64;
    (0..count)
        .map(|index| derive(base, "start", index))
        .collect()
}

/// The commit whose seeds these are: the one that is checked out, or which `TIDEGATE_SIM_COMMIT` names.
pub fn commit() -> String {
    if let Ok(commit) = std::env::var("TIDEGATE_SIM_COMMIT") {
        return commit;
    }
    std::process::Command::new("git")
        .args(["rev-parse", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| FALLBACK_COMMIT.to_owned(), |text| text.trim().to_owned())
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} is `{text}`, which is no number")))
}
