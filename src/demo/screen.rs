//! The demo's live screen: what each of the seven verbs of an event's life does a second, outcomes,
//! tenants. On a terminal it is redrawn in place, in 80 columns; otherwise a plain line says how far it is
//! now and then.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tidegate_actors::NodeSnapshot;
use tidegate_engine::checkpoint::Counts;
use tidegate_engine::clock::{Clock as _, Timestamp};

use crate::cli::output::{colours_wanted, grouped};
use crate::runtime::SystemClock;
use crate::telemetry::{LogWriter, StepAside};
use crate::wiring::FilesProgress;

/// Between two plain lines, in microseconds.
const PLAIN_INTERVAL: i64 = 2_000_000;

/// How much of the past a rate looks at, in microseconds.
const RATE_WINDOW: i64 = 1_000_000;

/// What a line holds: nothing is cut off where a terminal is as wide as it was always.
const COLUMNS: usize = 80;

/// How far the node is, verb by verb.
#[derive(Clone, Copy, Default)]
struct Verbs {
    received: u64,
    routed: u64,
    admitted: u64,
    effects: u64,
    commits: u64,
    settled: u64,
    acknowledged_bytes: u64,
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
    /// Below the bar, one a line of [`Look::lines`].
    lines: Vec<ProgressBar>,
}

/// What the screen shows beside the bar.
struct Look {
    now: Verbs,
    /// About a second ago.
    before: Verbs,
    seconds: f64,
    in_flight: u64,
    total_bytes: u64,
    counts: Counts,
    /// Events in each tenant's logs.
    tenants: BTreeMap<String, u64>,
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

    /// Shows how far the node is, and its files.
    pub fn show(&mut self, snapshot: &NodeSnapshot, files: FilesProgress) {
        let now = SystemClock.now();
        let verbs = verbs(snapshot, self.total, files);
        let (then, before) = *self.past.first().unwrap_or(&(self.began, Verbs::default()));
        let look = Look {
            now: verbs,
            before,
            seconds: ((now.0 - then.0) as f64 / 1e6).max(1e-3),
            in_flight: snapshot.unsettled_events as u64,
            total_bytes: files.total_bytes.unwrap_or(0),
            counts: snapshot.counts(),
            tenants: by_tenant(snapshot),
        };
        match &mut self.live {
            Some(live) => live.show(&look),
            None if now.0 - self.plain_at.0 >= PLAIN_INTERVAL => {
                self.plain_at = now;
                crate::say!(
                    "{} of {} events settled, {} a second",
                    grouped(verbs.settled),
                    grouped(self.total),
                    grouped(look.rate(|verbs| verbs.settled))
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

fn verbs(snapshot: &NodeSnapshot, total: u64, files: FilesProgress) -> Verbs {
    let counts = snapshot.counts();
    let partitions = || {
        snapshot
            .sources
            .iter()
            .flat_map(|source| &source.partitions)
    };
    let in_lanes: usize = snapshot
        .tenants
        .iter()
        .map(|tenant| tenant.lane_events)
        .sum();
    // Permits are taken before a poll, so a few of those in use hold no event yet.
    let received = total.min(counts.received() + snapshot.unsettled_events as u64);
    Verbs {
        received,
        // An event is in its tenant's lane from routing until it is settled.
        routed: received.min(counts.received() + in_lanes as u64),
        admitted: counts.admitted,
        effects: counts.applied + counts.rejected + counts.ignored + counts.dead,
        commits: partitions().map(|partition| partition.commits).sum(),
        settled: counts.received(),
        acknowledged_bytes: files.acknowledged_bytes,
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
        Self {
            bars,
            bar,
            lines: Vec::new(),
        }
    }

    fn show(&mut self, look: &Look) {
        self.bar.set_position(look.now.settled);
        let shown = look.lines();
        while self.lines.len() < shown.len() {
            let line = self.bars.add(ProgressBar::no_length());
            line.set_style(
                ProgressStyle::with_template("{wide_msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            self.lines.push(line);
        }
        for (line, text) in self.lines.iter().zip(shown) {
            line.set_message(text);
        }
    }
}

impl Look {
    /// A line a verb, then the outcomes, what was kept out, and the tenants.
    fn lines(&self) -> Vec<String> {
        let kib = |verbs: &Verbs| verbs.acknowledged_bytes / 1024;
        let now = &self.now;
        let percent = (now.acknowledged_bytes * 100).checked_div(self.total_bytes);
        let each = now.settled.checked_div(now.commits).unwrap_or(0);
        let mut lines = vec![
            self.verb("receive", |verbs| verbs.received, "events"),
            self.verb("route", |verbs| verbs.routed, "to their tenants"),
            self.verb("admit", |verbs| verbs.admitted, "first of their key"),
            self.verb("apply", |verbs| verbs.effects, "effects on orders"),
            self.verb(
                "commit",
                |verbs| verbs.commits,
                &format!("of {} events", grouped(each)),
            ),
            self.verb(
                "settle",
                |verbs| verbs.settled,
                &format!("{} in flight", grouped(self.in_flight)),
            ),
            self.verb(
                "acknowledge",
                kib,
                &format!("KiB, {} % of the files", percent.unwrap_or(0)),
            ),
        ];
        let counts = &self.counts;
        let outcomes = [
            ("applied", counts.applied),
            ("rejected", counts.rejected),
            ("ignored", counts.ignored),
            ("dead", counts.dead),
            ("unhandled", counts.unhandled),
        ];
        let kept_out = [
            ("duplicates", counts.duplicates),
            ("conflicts", counts.conflicts),
            ("unreadable", counts.unreadable),
        ];
        lines.extend(listed("outcomes", outcomes));
        lines.extend(listed("kept out", kept_out));
        let tenants = self.tenants.iter().map(|(name, count)| (name, *count));
        lines.extend(listed("tenants", tenants));
        lines
    }

    fn verb(&self, verb: &str, count: impl Fn(&Verbs) -> u64, note: &str) -> String {
        let (all, rate) = (grouped(count(&self.now)), grouped(self.rate(count)));
        format!("  {verb:<12}{all:>12}{rate:>12} a second   {note}")
    }

    fn rate(&self, count: impl Fn(&Verbs) -> u64) -> u64 {
        let more = count(&self.now).saturating_sub(count(&self.before));
        (more as f64 / self.seconds) as u64
    }
}

/// Figures with their names, in as many lines as they need.
fn listed<N: AsRef<str>>(label: &str, figures: impl IntoIterator<Item = (N, u64)>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = format!("  {label:<10}");
    for (name, count) in figures {
        let figure = format!("{} {}  ", name.as_ref(), grouped(count));
        if line.len() + figure.trim_end().len() > COLUMNS {
            lines.push(line.trim_end().to_owned());
            line = " ".repeat(12);
        }
        line.push_str(&figure);
    }
    lines.push(line.trim_end().to_owned());
    lines
}

/// Events in each tenant's logs.
fn by_tenant(snapshot: &NodeSnapshot) -> BTreeMap<String, u64> {
    let mut logs = BTreeMap::new();
    for tenant in &snapshot.tenants {
        let records: u64 = tenant
            .supervisor
            .partitions
            .iter()
            .filter_map(|partition| Some(partition.heads?.source))
            .map(|head| head.next_sequence.0)
            .sum();
        if !tenant.supervisor.tenant.is_unassigned() {
            logs.insert(tenant.supervisor.tenant.to_string(), records);
        }
    }
    logs
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, Look, Verbs};
    use tidegate_engine::checkpoint::Counts;

    #[test]
    fn the_screen_shows_every_verb_and_outcome_in_eighty_columns() {
        let many = 10_000_000;
        let now = Verbs {
            received: many,
            routed: many,
            admitted: many,
            effects: many,
            commits: many,
            settled: many,
            acknowledged_bytes: 400 * many,
        };
        let counts = Counts {
            admitted: many,
            duplicates: many,
            conflicts: many,
            unreadable: many,
            applied: many,
            rejected: many,
            ignored: many,
            dead: many,
            unhandled: many,
            emitted: many,
            looped_back: many,
        };
        let tenants = crate::demo::generate::TENANTS.map(|(name, _)| (name.to_owned(), many));
        let look = Look {
            now,
            before: Verbs::default(),
            seconds: 1.0,
            in_flight: many,
            total_bytes: 400 * many,
            counts,
            tenants: tenants.into(),
        };
        let lines = look.lines();
        for line in &lines {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
        let first = |line: &String| line.split_whitespace().next().map(str::to_owned);
        let verbs: Vec<String> = lines.iter().take(7).filter_map(first).collect();
        assert_eq!(
            verbs.join(" "),
            "receive route admit apply commit settle acknowledge"
        );
        let all = lines.join("\n");
        for shown in [
            "applied",
            "rejected",
            "ignored",
            "dead",
            "unhandled",
            "wonka",
        ] {
            assert!(
                all.contains(&format!("{shown} 10,000,000")),
                "{shown}: {all}"
            );
        }
    }
}
