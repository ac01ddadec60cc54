//! The proof that the simulation finds bugs: each planted one, switched on alone, breaks a promise
//! within as many seeds as CI runs. The same seeds break none without it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use tidegate_engine::planted::{Bug, plant};

use crate::check::{Check, Violation};
use crate::settings::Settings;
use crate::{panics, runner, seed, world};

/// How a bug was found.
struct Found {
    /// Seeds that it took.
    seeds: usize,
    first: Violation,
    /// Every promise that was broken in that seed.
    broken: Vec<Check>,
}

/// Runs seeds with the bug until one breaks a promise. A panic counts when it is the product's own:
/// assertions stay on in production. One of the simulation's code finds nothing and is a mistake here.
fn find(bug: Bug, seeds: &[u64]) -> Option<Found> {
    panics::silence(true);
    let found = seeds.iter().enumerate().find_map(|(index, seed)| {
        plant(Some(bug));
        let run = || world::run(Settings::chaos(*seed)).violations;
        let ended = catch_unwind(AssertUnwindSafe(run));
        plant(None);
        let violations = ended.unwrap_or_else(|_| panics::take());
        let mistake = violations.iter().find(|it| it.check == Check::Simulation);
        assert!(mistake.is_none(), "{bug:?} with seed {seed}: {mistake:?}");
        let mut broken: Vec<Check> = violations.iter().map(|it| it.check).collect();
        broken.dedup();
        Some(Found {
            seeds: index + 1,
            first: violations.into_iter().next()?,
            broken,
        })
    });
    panics::silence(false);
    found
}

#[test]
fn each_planted_bug_is_found() {
    let seeds = seed::seeds(seed::SEEDS);
    let found: Mutex<Vec<(u64, Bug, Option<Found>)>> = Mutex::default();
    let numbers: Vec<u64> = (0..Bug::ALL.len() as u64).collect();
    runner::each(&numbers, |number| {
        let bug = Bug::ALL[usize::try_from(number).unwrap()];
        let by = find(bug, &seeds);
        found.lock().unwrap().push((number, bug, by));
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(number, _, _)| *number);
    let mut table =
        String::from("| planted bug | seeds it took | found by | |\n|---|---:|---|---|\n");
    for (_, bug, by) in &found {
        let row = match by {
            Some(found) => {
                let what = found.first.what.lines().next().unwrap_or_default();
                let what: String = what.chars().take(100).collect();
                format!(
                    "| {bug:?} | {} | {:?} | {what} |\n",
                    found.seeds, found.broken
                )
            }
            None => format!("| {bug:?} | not within {} | | |\n", seeds.len()),
        };
        table.push_str(&row);
    }
    runner::say(&table);
    let missed = found.iter().filter(|(_, _, by)| by.is_none());
    let missed: Vec<Bug> = missed.map(|(_, bug, _)| *bug).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
