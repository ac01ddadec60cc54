//! What is written of the API is what it does.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate::http::OPENAPI;
use tidegate::http::problem::Kind;
use tidegate::http::route::all;
use tidegate::names::Kind as MetricKind;

use crate::boards::RULES;

#[test]
fn the_openapi_document_has_every_route_and_every_problem_and_nothing_else() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut written = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            written.insert((method.to_uppercase(), path.clone()));
            assert!(operation["summary"].is_string(), "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(!responses.is_empty(), "{method} {path}");
        }
    }
    let routed: BTreeSet<_> = all()
        .iter()
        .map(|route| {
            let path = route.path.replace("{id:.+}", "{id}");
            (route.method.to_string(), path)
        })
        .collect();
    assert_eq!(written, routed);
    for route in all() {
        let (method, path) = (route.method.as_str(), route.path.replace("{id:.+}", "{id}"));
        let operation = &document["paths"][&path][method.to_lowercase()];
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let written: BTreeSet<&str> = parameters
            .filter(|parameter| parameter["in"] == "query" && parameter["name"] != "tenant")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let known: BTreeSet<&str> = route.parameters.iter().copied().collect();
        assert_eq!(written, known, "{method} {path}");
    }
    let kinds = &document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
    let written: BTreeSet<&str> = kinds
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind.as_str().unwrap())
        .collect();
    let ours: BTreeSet<String> = Kind::ALL
        .iter()
        .map(|kind| format!("/problems/{}", kind.slug()))
        .collect();
    assert_eq!(written, ours.iter().map(String::as_str).collect());
}

/// The words of a page that look like metrics.
fn metrics_in(page: &str) -> BTreeSet<&str> {
    page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("tidegate_") || *word == tidegate::names::KAFKA_LAG)
        // Whose files, crates and roles are called so, too.
        .filter(|word| !["tidegate_engine", "tidegate_actors"].contains(word))
        .collect()
}

#[test]
fn every_metric_is_documented_as_it_is_and_every_documented_metric_is_one() {
    let page = include_str!("../../../docs/OPERATING.md");
    let mut ours = BTreeSet::new();
    for metric in tidegate::names::all() {
        assert!(ours.insert(metric.name), "{} stands twice", metric.name);
        let row = format!(
            "| `{}` | {} | {} | {} | {} |",
            metric.name,
            metric.kind.as_str(),
            metric.unit,
            metric.labels.join(", "),
            metric.help
        );
        assert!(page.contains(&row), "docs/OPERATING.md has no line\n{row}");
    }
    let unknown: Vec<_> = metrics_in(page).difference(&ours).copied().collect();
    assert!(unknown.is_empty(), "documented and not there: {unknown:?}");
}

#[test]
fn every_alert_says_what_to_do_in_a_section_of_its_own() {
    let page = include_str!("../../../docs/OPERATING.md");
    let alerts: BTreeSet<&str> = RULES
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    let sections: BTreeSet<&str> = headings.filter(|it| it.starts_with("Tidegate")).collect();
    assert_eq!(alerts, sections);
    for alert in alerts {
        let link = format!("runbook: docs/OPERATING.md#{}\n", alert.to_lowercase());
        assert!(RULES.contains(&link), "{link}");
    }
}

#[test]
fn metrics_are_named_by_the_conventions_of_prometheus() {
    for metric in tidegate::names::all() {
        let name = metric.name;
        assert_eq!(
            metric.kind == MetricKind::Counter,
            name.ends_with("_total"),
            "{name}"
        );
        let is_bound = name.ends_with("_max");
        for unit in ["seconds", "bytes"] {
            let says = name.ends_with(&format!("_{unit}"));
            assert_eq!(metric.unit == unit && !is_bound, says, "{name}");
        }
        // R46: nothing that has as many values as there are events, entities or clients.
        for label in metric.labels {
            assert!(
                LABELS.contains(label),
                "{name}: {label} may have many values"
            );
        }
    }
}

/// Labels of which each has few values, `tenant` by its cap.
const LABELS: [&str; 20] = [
    "actor",
    "call",
    "consumergroup",
    "found",
    "group",
    "kind",
    "method",
    "outcome",
    "partition",
    "reason",
    "result",
    "route",
    "source",
    "state",
    "status",
    "stream",
    "tenant",
    "topic",
    "topic_partition",
    "verb",
];
