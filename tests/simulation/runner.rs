//! Runs many seeds on two threads, each seed twice, and reports.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::faults::Counts;
use crate::trace::first_difference;
use crate::world::{self, Outcome, Settings};
use crate::{control, ledger};

/// Threads that run seeds: one a core of the smallest machine that CI knows.
const THREADS: usize = 2;

/// Runs each seed twice. Panics with the first seed that went wrong, or that was not the same twice.
/// `also` looks at each finished run.
pub fn all(
    seeds: &[u64],
    settings: impl Fn(u64) -> Settings + Sync,
    also: impl Fn(&Outcome) + Sync,
) -> Counts {
    let sum = Mutex::new(Counts::default());
    each(seeds, |seed| {
        let outcome = world::run(settings(seed));
        keep_trace(&outcome);
        report_if_wrong(&outcome);
        also(&outcome);
        let again = world::run(settings(seed));
        assert!(
            outcome.trace_hash == again.trace_hash,
            "seed {seed} is not the same run twice, {}",
            first_difference(&outcome.trace, &again.trace)
        );
        sum.lock().unwrap().merge(&outcome.counts);
    });
    sum.into_inner().unwrap()
}

/// Calls `work` with every seed, on all threads; the first panic ends it.
pub fn each(seeds: &[u64], work: impl Fn(u64) + Sync) {
    quiet_simulated_panics();
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
        .map(|what| format!("  - {what}"))
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

/// Panics that the simulation itself causes say nothing; all others say what they always say.
fn quiet_simulated_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let said = panic.payload_as_str().unwrap_or_default();
            if said != control::PANIC && said != ledger::PANIC {
                usual(panic);
            }
        }));
    });
}

/// Writes a trace to a file, when `TIDEGATE_SIM_TRACE` names one.
fn keep_trace(outcome: &Outcome) {
    if let Ok(path) = std::env::var("TIDEGATE_SIM_TRACE") {
        std::fs::write(&path, outcome.trace.join("\n")).unwrap();
    }
}
