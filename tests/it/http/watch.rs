//! What a node says of itself at `/metrics`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use tidegate::names::{self, Kind};
use tidegate::top::exposition::Exposition;

use super::nodes::{observer, token};
use super::{Served, paid, pause, placed};

const ORDER: &str = include_str!("../../../deploy/examples/order.yaml");

fn metrics(node: &Served) -> Exposition {
    let text = node.get("/metrics").with_status(200).text();
    let read = Exposition::read(&text);
    assert_eq!(read.unreadable, 0, "{text}");
    read
}

/// Waits until the metrics say so.
#[track_caller]
fn until(node: &Served, what: &str, said: impl Fn(&Exposition) -> bool) -> Exposition {
    for _ in 0..1_200 {
        let read = metrics(node);
        if said(&read) {
            return read;
        }
        pause(50);
    }
    panic!("never: {what}\n{}", node.get("/metrics").text());
}

fn by(read: &Exposition, name: &str, label: &str) -> BTreeMap<String, u64> {
    let sums = read.sums(name, |sample| sample.label(label).to_owned());
    sums.into_iter()
        .map(|(value, sum)| (value, sum as u64))
        .collect()
}

/// Every family is one of ours, with HELP and TYPE, and its samples have its labels.
#[track_caller]
fn check_form(read: &Exposition) {
    for sample in &read.samples {
        let family = read.family(&sample.name);
        let metric = names::all().find(|metric| metric.name == family);
        let metric = metric.unwrap_or_else(|| panic!("{family} is in no file of names"));
        assert_eq!(read.types[family], metric.kind.as_str(), "{family}");
        assert_eq!(read.help[family], metric.help, "{family}");
        let labels = sample.labels.keys().map(String::as_str);
        let labels: BTreeSet<&str> = labels.filter(|label| *label != "le").collect();
        let said: BTreeSet<&str> = metric.labels.iter().copied().collect();
        assert_eq!(labels, said, "{family}");
    }
}

#[test]
fn every_verb_and_outcome_of_an_event_is_counted_once_it_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    node.event(&placed("1", "o-1")).with_status(200);
    node.event(&placed("1", "o-1")).with_status(200);
    node.event(&paid("2", "o-2", 5)).with_status(200);
    let mut other = placed("1", "o-1");
    other["data"] = json!({ "total_cents": 7 });
    node.event(&other);
    let read = until(&node, "four settled", |read| {
        by(read, names::actors::VERB_EVENTS, "verb").get("settle") == Some(&4)
            && read.sum(names::CACHED_KEYS) == 2.0
    });
    check_form(&read);
    let verbs = by(&read, names::actors::VERB_EVENTS, "verb");
    for (verb, events) in [("receive", 4), ("route", 4), ("admit", 4), ("apply", 2)] {
        assert_eq!(verbs[verb], events, "{verb}: {verbs:?}");
    }
    for name in [names::actors::EVENTS, names::actors::TENANT_EVENTS] {
        let outcomes = by(&read, name, "outcome");
        let expected = [
            ("admitted", 2),
            ("applied", 1),
            ("rejected", 1),
            ("duplicate", 1),
            ("conflict", 1),
            ("dead", 0),
        ];
        for (outcome, events) in expected {
            assert_eq!(outcomes[outcome], events, "{name} {outcome}: {outcomes:?}");
        }
    }
    let tenants = by(&read, names::actors::TENANT_EVENTS, "tenant");
    assert_eq!(tenants.keys().collect::<Vec<_>>(), ["_other", "dev"]);
    let found = by(&read, names::actors::DEDUPE_HITS, "found");
    assert_eq!(found["memory"] + found["store"], 2, "{found:?}");
    let commits = by(&read, names::actors::COMMITS, "result");
    assert!((1..=4).contains(&commits["committed"]), "{commits:?}");
    let batches = read.sum("tidegate_batch_events_count") as u64;
    assert_eq!(batches, commits["committed"]);
    assert_eq!(read.sum("tidegate_batch_events_sum"), 4.0);
    assert_eq!(read.types["tidegate_batch_events"], "histogram");
    // One for each commit that wrote to a log, and no event waited for ever.
    assert!(read.sum("tidegate_receipt_to_commit_seconds_count") >= 1.0);
    let calls = read.sums("tidegate_store_seconds_count", |it| {
        it.label("call").to_owned()
    });
    assert!(calls["commit"] >= 1.0 && calls["claim"] >= 1.0, "{calls:?}");
    assert_eq!(read.sum(names::LAG_SECONDS), 0.0);
    assert_eq!(read.sum(names::SOURCE_UP), 1.0);
}

/// How many values a label may have with one source of a file, one of requests and so many tenants.
fn values_max(label: &str, tenants_max: usize) -> usize {
    match label {
        "tenant" => tenants_max + 1,
        // One partition each; slots of requests are leased one a node.
        "source" | "stream" => 2,
        "partition" => 1,
        // Of a broker, and there is none.
        "consumergroup" | "group" | "topic" | "topic_partition" => 0,
        "outcome" => 11,
        "verb" | "result" => 7,
        "call" => 8,
        "kind" => 8,
        "route" | "reason" | "status" => 20,
        "actor" | "found" | "state" | "method" => 3,
        other => panic!("say how many values `{other}` may have"),
    }
}

/// A node with a file of so many events, each of a tenant of its own, and the token that it was given.
fn with_tenants(directory: &Path, tenants: usize, tenants_max: usize) -> (Served, String) {
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let mut events = String::new();
    for number in 0..tenants {
        let mut event = placed(
            &format!("id-canary-{number}"),
            &format!("key-canary-{number}"),
        );
        event["tenantid"] = json!(format!("tenant-{number}"));
        event["idempotencykey"] = json!(format!("idempotency-canary-{number}"));
        event["correlationid"] = json!(format!("correlation-canary-{number}"));
        writeln!(events, "{event}").unwrap();
    }
    std::fs::write(directory.join("events.ndjson"), events).unwrap();
    let config = format!(
        "
http: {{ listen: '127.0.0.1:0' }}
machines: {{ paths: [order.yaml] }}
telemetry: {{ tenants_max: {tenants_max} }}
limits: {{ created_tenants_max: 20000 }}
sources:
  - {{ name: lines, paths: [events.ndjson], stream: lines, tenant_from_event_unsafe: true, unknown_tenants: create }}
  - {{ name: api, kind: http, stream: orders }}
"
    );
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    token(directory, "node.yaml", ("acme", "read", "acme"), &[]);
    let token = observer(directory, "node.yaml");
    (Served::run(directory, "node.yaml", &token, &[]), token)
}

/// No metric has more series than its labels may have values.
fn check_cap(read: &Exposition, tenants_max: usize) {
    let mut cap = 0;
    for metric in names::all() {
        let labels = metric.labels.iter();
        let series: usize = labels.map(|label| values_max(label, tenants_max)).product();
        // Fourteen bounds at most, the one above all, sum and count.
        let lines = if metric.kind == Kind::Histogram {
            17
        } else {
            1
        };
        cap += series * lines;
        let have = read.samples.iter();
        let have = have
            .filter(|it| read.family(&it.name) == metric.name)
            .count();
        assert!(
            have <= series * lines,
            "{}: {have} of {series}",
            metric.name
        );
    }
    assert!(read.samples.len() <= cap, "{} of {cap}", read.samples.len());
}

#[test]
fn r46_ten_thousand_tenants_have_no_more_series_than_the_cap_and_no_ids_are_in_labels() {
    const TENANTS: usize = 10_000;
    const TENANTS_MAX: usize = 15;
    let directory = tempfile::tempdir().unwrap();
    let (node, token) = with_tenants(directory.path(), TENANTS, TENANTS_MAX);
    let read = until(&node, "all admitted", |read| {
        let outcomes = by(read, names::actors::TENANT_EVENTS, "outcome");
        outcomes.get("admitted") == Some(&(TENANTS as u64))
    });
    check_form(&read);
    check_cap(&read, TENANTS_MAX);
    let tenants = by(&read, names::actors::TENANT_EVENTS, "tenant");
    assert_eq!(tenants.len(), TENANTS_MAX + 1);
    let others: f64 = read
        .of(names::actors::TENANT_EVENTS)
        .filter(|it| it.label("tenant") == "_other" && it.label("outcome") == "admitted")
        .map(|it| it.value)
        .sum();
    assert_eq!(others as usize, TENANTS - TENANTS_MAX);
    let text = node.get("/metrics").text();
    for secret in ["canary", &token] {
        assert!(!text.contains(secret), "{secret}");
    }
}

/// Runs `tidegate top --once` and gives its exit code, its picture and what it says else.
pub fn top(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["top", "--once"])
        .args(arguments)
        .current_dir(directory)
        .env_remove("TIDEGATE_TOKEN_FILE")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

#[test]
fn top_draws_a_running_node_and_says_what_is_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let node = Served::dev(directory);
    node.event(&placed("1", "o-1")).with_status(200);
    let url = format!("http://{}", node.address);
    std::fs::write(directory.join("token"), format!("{}\n", node.token)).unwrap();
    let (code, picture, said) = top(directory, &["--url", &url, "--token-file", "token"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    for shown in [
        "settle 0",
        "committed 0",
        "of 100,000 events",
        "dev",
        "http  ",
    ] {
        assert!(picture.contains(shown), "{shown}:\n{picture}");
    }
    let (code, picture, said) = top(directory, &["--url", &url]);
    assert_eq!((code, picture.as_str()), (Some(3), ""));
    assert!(said.contains("--token-file"), "{said}");
    std::fs::write(directory.join("other"), "tg_no_such_token").unwrap();
    let (code, _, said) = top(directory, &["--url", &url, "--token-file", "other"]);
    assert!(code == Some(3) && !said.contains("no_such"), "{said}");
    let far = ["--url", "http://192.0.2.1", "--token-file", "token"];
    let (code, _, said) = top(directory, &far);
    assert!(
        code == Some(2) && said.contains("--plaintext-unsafe"),
        "{said}"
    );
    node.kill();
    let (code, _, said) = top(directory, &["--url", &url, "--token-file", "token"]);
    assert!(code == Some(3) && said.contains("refused"), "{said}");
}
