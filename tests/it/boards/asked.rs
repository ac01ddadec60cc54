//! What boards and rules ask: metrics and labels that exist, recorded series that are what their names say.

use std::collections::{BTreeMap, BTreeSet};

use tidegate::names::Kind;

use super::{all, rules};

/// A label that is Prometheus' own.
const NODE: &str = "instance";

/// What no board shows, and why.
const SHOWN_BY_NONE: [&str; 2] = [
    // The lag again, under the name that others' boards ask for.
    tidegate::names::KAFKA_LAG,
    // A constant of the program.
    "tidegate_mailbox_messages_max",
];

/// The names of our series in a query, each with what follows it.
fn series_in(query: &str) -> Vec<(&str, &str)> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut all = Vec::new();
    let mut rest = query;
    while let Some(begins) = rest.find(is_of_name) {
        let from = &rest[begins..];
        let ends = from.find(|c| !is_of_name(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(ends);
        if word.contains("tidegate_") {
            all.push((word, after));
        }
        rest = after;
    }
    all
}

/// The labels in the first `by (…)`.
fn by(query: &str) -> BTreeSet<String> {
    let (_, after) = query.split_once("by (").unwrap();
    let (labels, _) = after.split_once(')').unwrap();
    labels.split(", ").map(str::to_owned).collect()
}

/// The labels of a metric as Prometheus stores it.
#[track_caller]
fn labels_of(word: &str) -> BTreeSet<String> {
    let family = word.strip_suffix("_bucket").unwrap_or(word);
    let metric = tidegate::names::all().find(|metric| metric.name == family);
    let metric = metric.unwrap_or_else(|| panic!("{word} is no metric"));
    let is_histogram = metric.kind == Kind::Histogram;
    assert_eq!(is_histogram, word != family, "{word}");
    let mut labels: BTreeSet<_> = metric.labels.iter().map(|&it| it.to_owned()).collect();
    labels.insert(NODE.to_owned());
    if is_histogram {
        labels.insert("le".to_owned());
    }
    labels
}

/// The recorded series with the labels that are left of them.
fn recorded() -> BTreeMap<String, BTreeSet<String>> {
    let records = rules().into_iter().filter(|rule| !rule.is_alert);
    records.map(|rule| (rule.name, by(&rule.asks))).collect()
}

#[test]
fn boards_and_rules_ask_for_metrics_and_labels_that_exist_and_show_all_of_them() {
    let recorded = recorded();
    let mut asked: Vec<String> = rules().into_iter().map(|rule| rule.asks).collect();
    let boards = all();
    asked.extend(boards.iter().flat_map(|it| it.queries()).map(|it| it.text));
    assert!(asked.len() > 80);
    let mut shown = BTreeSet::new();
    for query in &asked {
        for (word, after) in series_in(query) {
            shown.insert(word.strip_suffix("_bucket").unwrap_or(word).to_owned());
            let known = recorded.get(word).cloned();
            let known = known.unwrap_or_else(|| labels_of(word));
            let selector = after.strip_prefix('{').and_then(|it| it.split_once('}'));
            for label in selector.iter().flat_map(|(labels, _)| labels.split(',')) {
                let label = label.split(['=', '!']).next().unwrap().trim();
                assert!(known.contains(label), "{word}{{{label}}} in {query}");
            }
        }
    }
    for metric in tidegate::names::all() {
        let is_shown = shown.contains(metric.name);
        let is_told = SHOWN_BY_NONE.contains(&metric.name);
        assert!(is_shown != is_told, "nobody is shown {}", metric.name);
    }
    for name in recorded.keys() {
        let used = shown.contains(name.strip_suffix("_bucket").unwrap_or(name));
        assert!(used, "{name} is recorded for nobody");
    }
}

#[test]
fn recorded_series_are_named_level_metric_operations() {
    for rule in rules().iter().filter(|rule| !rule.is_alert) {
        let parts: Vec<&str> = rule.name.split(':').collect();
        let [level, metric, operations] = parts[..] else {
            panic!("{} is not level:metric:operations", rule.name);
        };
        let labels: Vec<String> = by(&rule.asks).into_iter().collect();
        assert_eq!(level, labels.join("_"), "{}: what is left", rule.name);
        let (word, _) = series_in(&rule.asks)[0];
        let is_rate = rule.asks.contains("rate(");
        let stem = word.strip_suffix("_total").unwrap_or(word);
        assert_eq!(metric, stem, "{}", rule.name);
        assert_eq!(is_rate, operations == "rate5m", "{}", rule.name);
        assert_eq!(is_rate, rule.asks.contains("[5m]"), "{}", rule.name);
        let stored = labels_of(word);
        let left = by(&rule.asks);
        assert!(left.is_subset(&stored), "{}: {left:?}", rule.name);
    }
}

#[test]
fn a_legend_names_labels_that_its_query_leaves() {
    let recorded = recorded();
    for query in all().iter().flat_map(|board| board.queries()) {
        let mut left: BTreeSet<&str> = query
            .text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .collect();
        for (word, _) in series_in(&query.text) {
            left.extend(recorded.get(word).into_iter().flatten().map(String::as_str));
        }
        for piece in query.legend.split("{{").skip(1) {
            let label = piece.split("}}").next().unwrap();
            assert!(left.contains(label), "{}: {label}", query.place);
        }
    }
}
