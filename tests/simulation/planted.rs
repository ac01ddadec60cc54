//! The proof that the simulation finds bugs: each planted one, switched on alone, breaks a promise
//! within as many seeds as CI runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use tidegate_engine::planted::{Bug, plant};

use crate::seed;
use crate::world::{self, Settings};

/// Runs seeds with the bug until one breaks a promise or trips an assertion; says after how many.
fn found_after(bug: Bug, seeds: &[u64]) -> Option<usize> {
    seeds.iter().position(|seed| {
        plant(Some(bug));
        // Assertions stay on in production: what stops at once is found as well.
        let outcome = catch_unwind(AssertUnwindSafe(|| world::run(Settings::chaos(*seed))));
        plant(None);
        outcome.map_or(true, |outcome| !outcome.violations.is_empty())
    })
}

#[test]
fn each_planted_bug_is_found() {
    let seeds = seed::seeds(seed::SEEDS);
    let found: Mutex<Vec<(Bug, Option<usize>)>> = Mutex::default();
    let numbers: Vec<u64> = (0..Bug::ALL.len() as u64).collect();
    crate::runner::each(&numbers, |number| {
        let bug = Bug::ALL[usize::try_from(number).unwrap()];
        let after = found_after(bug, &seeds);
        found.lock().unwrap().push((bug, after));
    });
    let found = found.into_inner().unwrap();
    for (bug, after) in &found {
        match after {
            Some(seeds) => println!("{bug:?}: found with seed number {}", seeds + 1),
            None => println!("{bug:?}: NOT FOUND within {} seeds", seeds.len()),
        }
    }
    let missed: Vec<&Bug> = found
        .iter()
        .filter(|(_, after)| after.is_none())
        .map(|(bug, _)| bug)
        .collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
