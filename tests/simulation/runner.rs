//! Runs many seeds on two threads, each seed twice, and reports.

use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::census::{Census, Quiet};
use crate::faults::Counts;
use crate::panics;
use crate::seed;
use crate::settings::Settings;
use crate::trace::first_difference;
use crate::world::{self, Outcome};

/// Threads that run seeds: one a core of the smallest machine that CI knows.
const THREADS: usize = 2;

/// What many seeds had together.
#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    pub counts: Counts,
    pub quiet: Quiet,
    /// The least that any seed had.
    pub least: Option<Census>,
    pub least_injected: Option<u64>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.counts.merge(&outcome.counts);
        self.quiet.merge(&outcome.quiet);
        if let Some(census) = outcome.census {
            self.least = Some(self.least.map_or(census, |least| least.least(&census)));
        }
        let injected = outcome.counts.injected();
        self.least_injected = Some(self.least_injected.map_or(injected, |it| it.min(injected)));
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = self.least.unwrap_or_default();
        let (quiet, per_mille) = (
            self.quiet,
            least.duplicates * 1_000 / least.deliveries.max(1),
        );
        writeln!(f, "{} seeds of {}, each twice", self.seeds, seed::commit())?;
        writeln!(
            f,
            "the least of any seed: {} events, {} tenants, {} source partitions, {} entities, {} of \
             them moved by two source partitions, {} emitted events taken up, {}.{} % duplicates, {} \
             faults that took effect",
            least.events,
            least.tenants,
            least.partitions,
            least.entities,
            least.shared_entities,
            least.looped_back,
            per_mille / 10,
            per_mille % 10,
            self.least_injected.unwrap_or(0),
        )?;
        writeln!(
            f,
            "idle partitions put away {} times, {} of them came back to the same owner; {} looks at a \
             full lane, {} at a node without permits\n",
            quiet.passivated, quiet.activated_again, quiet.lanes_full, quiet.nodes_full
        )?;
        f.write_str(&self.counts.table())
    }
}

/// Runs each seed twice. Panics with the first seed that went wrong, or that was not the same twice.
/// `also` looks at each finished run.
pub fn all(
    seeds: &[u64],
    settings: impl Fn(u64) -> Settings + Sync,
    also: impl Fn(&Outcome) + Sync,
) -> Sum {
    let sum = Mutex::new(Sum::default());
    each(seeds, |seed| {
        let outcome = sound(settings(seed));
        also(&outcome);
        let again = world::run(Settings {
            checked: false,
            ..settings(seed)
        });
        assert!(
            outcome.trace_hash == again.trace_hash,
            "seed {seed} is not the same run twice, {}",
            first_difference(&outcome.trace, &again.trace)
        );
        sum.lock().unwrap().add(&outcome);
    });
    sum.into_inner().unwrap()
}

/// Runs once; panics when a promise was broken.
pub fn sound(settings: Settings) -> Outcome {
    let outcome = world::run(settings);
    keep_trace(&outcome);
    report_if_wrong(&outcome);
    outcome
}

/// Calls `work` with every seed, on all threads; the first panic ends it.
pub fn each(seeds: &[u64], work: impl Fn(u64) + Sync) {
    panics::watch();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let stop_others = StopOthers(&next, seeds.len());
                    work(*seed);
                    std::mem::forget(stop_others);
                }
            });
        }
    });
}

/// Prints for people, past the test harness: it keeps what a passing test prints to itself.
pub fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("\n{text}\n").as_bytes());
}

/// Lets the other threads take no more seeds when this one panics.
struct StopOthers<'n>(&'n AtomicUsize, usize);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        self.0.store(self.1, Ordering::SeqCst);
    }
}

fn report_if_wrong(outcome: &Outcome) {
    if outcome.violations.is_empty() {
        return;
    }
    let shown: Vec<_> = outcome
        .violations
        .iter()
        .take(10)
        .map(|violation| format!("  - {:?}: {}", violation.check, violation.what))
        .collect();
    panic!(
        "seed {seed} broke {count} promises:\n{shown}\nthe end of its trace:\n{tail}\nreplay it: \
         TIDEGATE_SIM_SEED={seed} cargo test --test simulation --features planted -- --nocapture",
        seed = outcome.seed,
        count = outcome.violations.len(),
        shown = shown.join("\n"),
        tail = outcome.tail,
    );
}

/// Writes a trace to a file, when `TIDEGATE_SIM_TRACE` names one; that of a broken promise stays, under
/// the same name with `.broken` behind it.
fn keep_trace(outcome: &Outcome) {
    if let Ok(mut path) = std::env::var("TIDEGATE_SIM_TRACE") {
        if !outcome.violations.is_empty() {
            path.push_str(".broken");
        }
        std::fs::write(&path, outcome.trace.join("\n")).unwrap();
    }
}
