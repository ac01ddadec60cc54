//! What `tidegate top` draws of two looks at a node: rates of what is between them, and how it is at the
//! second. In 80 columns.

use std::collections::BTreeMap;

use super::exposition::{Exposition, Sample};
use crate::cli::output::grouped;
use crate::names::{self, actors};

/// What a line holds.
const COLUMNS: usize = 80;

/// Tenants, and partitions, that are listed.
const LISTED_MAX: usize = 5;

/// Two looks.
pub(super) struct Picture<'l> {
    pub title: String,
    pub before: &'l Exposition,
    pub now: &'l Exposition,
    pub seconds: f64,
}

impl Picture<'_> {
    /// Its lines.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.title.clone(), String::new()];
        lines.extend(self.listed("events/s", actors::VERB_EVENTS, "verb", VERBS));
        lines.extend(self.listed("outcomes/s", actors::EVENTS, "outcome", OUTCOMES));
        lines.extend(self.listed("commits/s", actors::COMMITS, "result", RESULTS));
        lines.push(self.times());
        lines.push(self.permits());
        lines.push(String::new());
        lines.extend(self.tenants());
        lines.push(String::new());
        lines.extend(self.sources());
        lines.push(String::new());
        lines.extend(self.slowest());
        lines.iter_mut().for_each(fit);
        lines
    }

    /// How much more of a name there is by a label, a second.
    fn rates(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let sums = |look: &Exposition| look.sums(name, |it: &Sample| it.label(label).to_owned());
        let before = sums(self.before);
        let mut rates = sums(self.now);
        for (value, sum) in &mut rates {
            let before = before.get(value).copied().unwrap_or_default();
            // A node that was restarted counts from 0 again.
            *sum = (*sum - before).max(0.0) / self.seconds;
        }
        rates
    }

    /// Rates in the order of `known`, in as many lines as they need.
    fn listed(&self, title: &str, name: &str, label: &str, known: &[&str]) -> Vec<String> {
        let rates = self.rates(name, label);
        let figures = known.iter().map(|word| {
            let rate = rates.get(*word).copied().unwrap_or_default();
            format!("{word} {}", rounded(rate))
        });
        let mut lines = Vec::new();
        let mut line = format!("{title:<12}");
        for figure in figures {
            if line.len() + figure.len() > COLUMNS {
                lines.push(line.trim_end().to_owned());
                line = " ".repeat(12);
            }
            line.push_str(&figure);
            line.push_str("  ");
        }
        lines.push(line.trim_end().to_owned());
        lines
    }

    fn times(&self) -> String {
        let commit = |sample: &Sample| sample.label("verb") == "commit";
        let [p50, p99] = [0.5, 0.99].map(|q| self.quantile(actors::VERB_SECONDS, commit, q));
        let whole = self.quantile(actors::RECEIPT_TO_COMMIT, |_| true, 0.99);
        format!(
            "{:<12}commit p50 {} p99 {}  receipt to commit p99 {}",
            "times",
            millis(p50),
            millis(p99),
            millis(whole)
        )
    }

    /// The bound below which so great a part of the values between the looks is.
    fn quantile(&self, name: &str, which: impl Fn(&Sample) -> bool, part: f64) -> Option<f64> {
        let bucket = format!("{name}_bucket");
        let counts = |look: &Exposition| {
            let mut counts: Vec<(f64, f64)> = Vec::new();
            for sample in look.of(&bucket).filter(|sample| which(sample)) {
                let bound = sample.label("le").parse().unwrap_or(f64::INFINITY);
                match counts.iter_mut().find(|(known, _)| *known == bound) {
                    Some((_, count)) => *count += sample.value,
                    None => counts.push((bound, sample.value)),
                }
            }
            counts
        };
        let before = counts(self.before);
        let mut more = counts(self.now);
        for (bound, count) in &mut more {
            let earlier = before.iter().find(|(known, _)| known == bound);
            *count -= earlier.map_or(0.0, |(_, count)| *count);
        }
        more.sort_by(|left, right| left.0.total_cmp(&right.0));
        let all = more.last().map_or(0.0, |(_, count)| *count);
        let enough = |(_, count): &&(f64, f64)| *count >= all * part;
        (all > 0.0).then(|| more.iter().find(enough).map_or(f64::INFINITY, |it| it.0))
    }

    fn permits(&self) -> String {
        let count = |name: &str| rounded(self.now.sum(name));
        let mib = |name: &str| rounded(self.now.sum(name) / f64::from(1 << 20));
        format!(
            "{:<12}{} of {} events  {} of {} MiB  {} tenants",
            "permits",
            count(names::NODE_EVENTS),
            count(names::NODE_EVENTS_MAX),
            mib(names::NODE_BYTES),
            mib(names::NODE_BYTES_MAX),
            count(names::TENANTS)
        )
    }

    fn tenants(&self) -> Vec<String> {
        let admitted = |look: &Exposition| {
            let mut sums = BTreeMap::new();
            for sample in look.of(actors::TENANT_EVENTS) {
                if sample.label("outcome") == "admitted" {
                    *sums.entry(sample.label("tenant").to_owned()).or_insert(0.0) += sample.value;
                }
            }
            sums
        };
        let before = admitted(self.before);
        let letters = self
            .now
            .sums(names::LETTERS_OPEN, |it| it.label("tenant").to_owned());
        let lanes = self
            .now
            .sums(names::LANE_EVENTS, |it| it.label("tenant").to_owned());
        let of = |sums: &BTreeMap<String, f64>, tenant: &str| {
            sums.get(tenant).copied().unwrap_or_default()
        };
        let mut rows: Vec<(f64, String)> = admitted(self.now)
            .into_iter()
            .map(|(tenant, sum)| {
                (
                    ((sum - of(&before, &tenant)).max(0.0)) / self.seconds,
                    tenant,
                )
            })
            .collect();
        rows.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1)));
        let head = format!(
            "{:<32}{:>14}{:>14}{:>18}",
            "tenant", "admitted/s", "in its lane", "dead letters open"
        );
        let row = |(rate, tenant): (f64, String)| {
            let (lane, open) = (of(&lanes, &tenant), of(&letters, &tenant));
            format!(
                "{:<32}{:>14}{:>14}{:>18}",
                short(&tenant, 31),
                rounded(rate),
                rounded(lane),
                rounded(open)
            )
        };
        let rows = rows.into_iter().take(LISTED_MAX).map(row);
        std::iter::once(head).chain(rows).collect()
    }

    fn sources(&self) -> Vec<String> {
        let of = |name: &str| self.now.sums(name, |it| it.label("source").to_owned());
        let (events, bytes) = (of(names::LAG_EVENTS), of(names::LAG_BYTES));
        let states = self.now.sums(names::PARTITIONS, |it| {
            (it.label("source").to_owned(), it.label("state").to_owned())
        });
        let mut oldest: BTreeMap<&str, f64> = BTreeMap::new();
        for sample in self.now.of(names::LAG_SECONDS) {
            let seconds = oldest.entry(sample.label("source")).or_default();
            *seconds = seconds.max(sample.value);
        }
        let head = format!(
            "{:<26}{:>10}{:>10}{:>20}{:>14}",
            "source", "owned", "stopped", "lag", "lag, seconds"
        );
        let rows = of(names::SOURCE_UP).into_keys().map(|source| {
            let state = |state: &str| {
                let key = (source.clone(), state.to_owned());
                states.get(&key).copied().unwrap_or_default()
            };
            let lag = match (events.get(&source), bytes.get(&source)) {
                (Some(events), _) => format!("{} events", rounded(*events)),
                (None, Some(bytes)) => format!("{} bytes", rounded(*bytes)),
                (None, None) => "-".to_owned(),
            };
            let seconds = oldest.get(source.as_str()).copied().unwrap_or_default();
            format!(
                "{:<26}{:>10}{:>10}{lag:>20}{seconds:>14.1}",
                short(&source, 25),
                rounded(state("owned")),
                rounded(state("quarantined")),
            )
        });
        std::iter::once(head).chain(rows).collect()
    }

    fn slowest(&self) -> Vec<String> {
        let mut all: Vec<&Sample> = self.now.of(names::LAG_SECONDS).collect();
        all.retain(|sample| sample.value > 0.0);
        all.sort_by(|left, right| right.value.total_cmp(&left.value));
        let rows = all.into_iter().take(LISTED_MAX).map(|sample| {
            let (source, partition) = (sample.label("source"), sample.label("partition"));
            let unsettled = self.now.of(names::UNSETTLED);
            let unsettled: f64 = unsettled
                .filter(|it| it.labels == sample.labels)
                .map(|it| it.value)
                .sum();
            format!(
                "  {}/{partition}: {:.1} s, {} unsettled",
                short(source, 40),
                sample.value,
                rounded(unsettled)
            )
        });
        let rows: Vec<String> = rows.collect();
        let head = if rows.is_empty() {
            "slow partitions: none"
        } else {
            "slow partitions"
        };
        std::iter::once(head.to_owned()).chain(rows).collect()
    }
}

const VERBS: &[&str] = &["receive", "route", "admit", "apply", "commit", "settle"];

const OUTCOMES: &[&str] = &[
    "admitted",
    "duplicate",
    "conflict",
    "unreadable",
    "applied",
    "rejected",
    "ignored",
    "dead",
    "unhandled",
    "looped_back",
];

const RESULTS: &[&str] = &[
    "committed",
    "surprised",
    "fenced",
    "unknown",
    "unavailable",
    "refused",
    "failed",
];

fn rounded(value: f64) -> String {
    grouped(value.max(0.0).round() as u64)
}

fn millis(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.is_finite() => format!("≤ {} ms", seconds * 1e3),
        Some(_) => "> 60 s".to_owned(),
    }
}

/// The beginning of a name, without what a terminal obeys.
fn short(name: &str, columns: usize) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    if name.chars().count() <= columns {
        return name.chars().map(shown).collect();
    }
    let kept = name.chars().take(columns.saturating_sub(1)).map(shown);
    kept.chain(['…']).collect()
}

fn fit(line: &mut String) {
    *line = short(line, COLUMNS);
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, Picture};
    use crate::top::exposition::Exposition;

    #[test]
    fn the_picture_shows_rates_between_two_looks_and_fits_eighty_columns() {
        let look = |factor: u64| {
            let events = 1_000_000 * factor;
            Exposition::read(&format!(
                "# TYPE tidegate_verb_seconds histogram\n\
                 tidegate_verb_events_total{{source=\"shop\",verb=\"settle\"}} {events}\n\
                 tidegate_tenant_events_total{{tenant=\"acme\",outcome=\"admitted\"}} {events}\n\
                 tidegate_tenant_events_total{{tenant=\"{long}\",outcome=\"admitted\"}} {factor}\n\
                 tidegate_events_total{{source=\"shop\",partition=\"0\",outcome=\"dead\"}} {factor}\n\
                 tidegate_verb_seconds_bucket{{source=\"shop\",verb=\"commit\",le=\"0.01\"}} {factor}\n\
                 tidegate_verb_seconds_bucket{{source=\"shop\",verb=\"commit\",le=\"+Inf\"}} {factor}\n\
                 tidegate_source_up{{source=\"shop\"}} 1\n\
                 tidegate_consumer_lag_seconds{{source=\"shop\",partition=\"3\"}} 12.5\n\
                 tidegate_consumer_lag_events{{source=\"shop\",partition=\"3\"}} 4321\n\
                 tidegate_unsettled_events{{source=\"shop\",partition=\"3\"}} 77\n\
                 tidegate_dead_letters_open{{tenant=\"acme\"}} 9\n",
                long = "t".repeat(60)
            ))
        };
        let (before, now) = (look(1), look(3));
        let picture = Picture {
            title: "http://localhost".to_owned(),
            before: &before,
            now: &now,
            seconds: 2.0,
        };
        let lines = picture.lines();
        for line in &lines {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
        let all = lines.join("\n");
        for shown in [
            "settle 1,000,000",
            "dead 1",
            "commit p50 ≤ 10 ms",
            "4,321 events",
            "shop/3: 12.5 s, 77 unsettled",
        ] {
            assert!(all.contains(shown), "{shown}:\n{all}");
        }
        let acme = lines.iter().find(|line| line.starts_with("acme")).unwrap();
        let figures: Vec<&str> = acme.split_whitespace().collect();
        assert_eq!(figures, ["acme", "1,000,000", "0", "9"]);
    }
}
