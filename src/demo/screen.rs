//! The demo's live screen: what each verb of an event's life does a second, outcomes, tenants. On a
//! terminal it is redrawn in place; otherwise a plain line says how far it is now and then.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tidegate_actors::NodeSnapshot;
use tidegate_engine::clock::{Clock as _, Timestamp};

use crate::cli::output::{colours_wanted, grouped};
use crate::runtime::SystemClock;
use crate::telemetry::{LogWriter, StepAside};

/// Between two plain lines, in microseconds.
const PLAIN_INTERVAL: i64 = 2_000_000;

/// How much of the past a rate looks at, in microseconds.
const RATE_WINDOW: i64 = 1_000_000;

/// How far the node is, verb by verb.
#[derive(Clone, Copy, Default)]
struct Verbs {
    received: u64,
    admitted: u64,
    effects: u64,
    commits: u64,
    settled: u64,
}

/// The screen.
pub struct Screen {
    live: Option<Live>,
    log: LogWriter,
    total: u64,
    began: Timestamp,
    plain_at: Timestamp,
    /// Samples of the last second, the oldest first.
    past: Vec<(Timestamp, Verbs)>,
}

struct Live {
    bars: MultiProgress,
    bar: ProgressBar,
    verbs: [ProgressBar; 5],
    outcomes: ProgressBar,
    kept_out: ProgressBar,
    tenants: ProgressBar,
}

impl Screen {
    /// Begins with nothing done of `total` events.
    pub fn start(total: u64, log: &LogWriter) -> Self {
        let now = SystemClock.now();
        let live = stderr().is_terminal().then(|| Live::start(total));
        if let Some(live) = &live {
            let bars = live.bars.clone();
            let step_aside: StepAside = Arc::new(move |write| bars.suspend(write));
            log.share_with(Some(step_aside));
        }
        Self {
            live,
            log: log.clone(),
            total,
            began: now,
            plain_at: now,
            past: vec![(now, Verbs::default())],
        }
    }

    /// Shows how far the node is; `acknowledged` in percent of the files.
    pub fn show(&mut self, snapshot: &NodeSnapshot, acknowledged: u64) {
        let now = SystemClock.now();
        let verbs = verbs(snapshot, self.total);
        let (then, before) = *self.past.first().unwrap_or(&(self.began, Verbs::default()));
        let seconds = ((now.0 - then.0) as f64 / 1e6).max(1e-3);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        match &self.live {
            Some(live) => live.show(snapshot, &verbs, &before, acknowledged, &rate),
            None if now.0 - self.plain_at.0 >= PLAIN_INTERVAL => {
                self.plain_at = now;
                crate::say!(
                    "{} of {} events settled, {} a second",
                    grouped(verbs.settled),
                    grouped(self.total),
                    grouped(rate(verbs.settled, before.settled))
                );
            }
            None => {}
        }
        self.past.push((now, verbs));
        self.past
            .retain(|(then, _)| now.0 - then.0 <= RATE_WINDOW || *then == now);
    }

    /// Takes the screen away and returns the seconds it was there.
    pub fn finish(self) -> f64 {
        if let Some(live) = &self.live {
            let _ = live.bars.clear();
        }
        self.log.share_with(None);
        (SystemClock.now().0 - self.began.0) as f64 / 1e6
    }
}

fn verbs(snapshot: &NodeSnapshot, total: u64) -> Verbs {
    let counts = snapshot.counts();
    let partitions = || {
        snapshot
            .sources
            .iter()
            .flat_map(|source| &source.partitions)
    };
    Verbs {
        // Permits are taken before a poll, so a few of those in use hold no event yet.
        received: total.min(counts.received() + snapshot.unsettled_events as u64),
        admitted: counts.admitted,
        effects: counts.applied + counts.rejected + counts.ignored + counts.dead,
        commits: partitions().map(|partition| partition.commits).sum(),
        settled: counts.received(),
    }
}

impl Live {
    fn start(total: u64) -> Self {
        let bars = MultiProgress::new();
        let bar = bars.add(ProgressBar::new(total));
        let colour = if colours_wanted() { ".cyan" } else { "" };
        let template =
            format!("{{bar:46{colour}}} {{percent:>3}} %  {{human_pos}} of {{human_len}} events");
        bar.set_style(
            ProgressStyle::with_template(&template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─"),
        );
        let line = || {
            let line = bars.add(ProgressBar::no_length());
            line.set_style(
                ProgressStyle::with_template("{wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            line
        };
        let verbs = [line(), line(), line(), line(), line()];
        let (outcomes, kept_out, tenants) = (line(), line(), line());
        Self {
            bars,
            bar,
            verbs,
            outcomes,
            kept_out,
            tenants,
        }
    }

    fn show(
        &self,
        snapshot: &NodeSnapshot,
        now: &Verbs,
        before: &Verbs,
        acknowledged: u64,
        rate: &dyn Fn(u64, u64) -> u64,
    ) {
        self.bar.set_position(now.settled);
        let row = |verb: &str, count: u64, rate: u64, note: String| {
            let (count, rate) = (grouped(count), grouped(rate));
            format!("  {verb:<12}{count:>12}{rate:>12} a second   {note}")
        };
        let each = now.settled.checked_div(now.commits).unwrap_or(0);
        let waiting = format!("{} in flight", grouped(snapshot.unsettled_events as u64));
        let rows = [
            row(
                "receive",
                now.received,
                rate(now.received, before.received),
                waiting,
            ),
            row(
                "admit",
                now.admitted,
                rate(now.admitted, before.admitted),
                "first of their key".to_owned(),
            ),
            row(
                "apply",
                now.effects,
                rate(now.effects, before.effects),
                "effects on orders".to_owned(),
            ),
            row(
                "commit",
                now.commits,
                rate(now.commits, before.commits),
                format!("of {} events", grouped(each)),
            ),
            row(
                "settle",
                now.settled,
                rate(now.settled, before.settled),
                format!("{acknowledged} % of the files acknowledged"),
            ),
        ];
        for (line, row) in self.verbs.iter().zip(rows) {
            line.set_message(row);
        }
        let counts = snapshot.counts();
        let outcomes = [
            ("applied", counts.applied),
            ("rejected", counts.rejected),
            ("dead", counts.dead),
        ];
        let kept_out = [
            ("duplicates", counts.duplicates),
            ("conflicts", counts.conflicts),
            ("unreadable", counts.unreadable),
        ];
        self.outcomes.set_message(listed("outcomes", outcomes));
        self.kept_out.set_message(listed("kept out", kept_out));
        self.tenants
            .set_message(listed("tenants", by_tenant(snapshot)));
    }
}

fn listed<N: AsRef<str>>(label: &str, figures: impl IntoIterator<Item = (N, u64)>) -> String {
    let each: Vec<String> = figures
        .into_iter()
        .map(|(name, count)| format!("{} {}", name.as_ref(), grouped(count)))
        .collect();
    format!("  {label:<10}{}", each.join("  "))
}

/// Events in each tenant's logs.
fn by_tenant(snapshot: &NodeSnapshot) -> BTreeMap<String, u64> {
    let mut logs = BTreeMap::new();
    for tenant in &snapshot.tenants {
        let records: u64 = tenant
            .supervisor
            .partitions
            .iter()
            .filter_map(|partition| partition.head)
            .map(|head| head.next_sequence.0)
            .sum();
        if !tenant.supervisor.tenant.is_unassigned() {
            logs.insert(tenant.supervisor.tenant.to_string(), records);
        }
    }
    logs
}
