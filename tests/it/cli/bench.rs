//! `tidegate bench`: rounds with checked totals, on stores that hold nobody's events.

use serde_json::{Value, json};

use super::{Desk, Said, event};
use crate::support::database::TestDatabase;

/// What every round and the medians have to say.
fn assert_measured(said: &Said, rounds: usize, store: &str) {
    let lines = said.lines();
    assert_eq!(lines[0]["store"], json!(store));
    assert_eq!(lines[0]["source_partitions"], json!(4));
    assert_eq!(lines[0]["batch_events_max"], json!(5_000));
    let names: Vec<&str> = lines[1..]
        .iter()
        .map(|line| line["round"].as_str().unwrap())
        .collect();
    let mut expected: Vec<String> = (1..=rounds).map(|round| round.to_string()).collect();
    expected.push("median".to_owned());
    assert_eq!(names, expected);
    for line in &lines[1..] {
        for figure in [
            "events_per_second",
            "megabytes_per_second",
            "commits",
            "events_per_commit",
            "commit_p50_ms",
            "commit_p99_ms",
        ] {
            assert!(line[figure].as_f64().unwrap() > 0.0, "{figure} in {line}");
        }
        assert!(line["commit_p50_ms"].as_f64() <= line["commit_p99_ms"].as_f64());
        let has_proc = std::path::Path::new("/proc/self/stat").exists();
        assert_eq!(line["cpu_micros_per_event"].is_number(), has_proc, "{line}");
    }
}

#[test]
fn bench_measures_a_temporary_store_and_leaves_nothing() {
    let desk = Desk::new();
    let said = desk
        .run("bench --events 4000 --tenants 7 --rounds 2 -o json")
        .ended_with(0);
    assert_measured(&said, 2, "sqlite");
    let first = &said.lines()[0];
    for (name, value) in [
        ("machines", json!("order 1")),
        ("events", json!(4_000)),
        ("tenants", json!(7)),
        ("synchronous", json!("full")),
        ("journal_mode", json!("wal")),
    ] {
        assert_eq!(first[name], value, "{name}");
    }
    let left: Vec<_> = std::fs::read_dir(desk.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["order.yaml"]);
    let more = desk
        .run("bench --events 4000 --partitions 7 --rounds 1 -o json")
        .ended_with(0);
    assert_eq!(more.lines()[0]["source_partitions"], json!(7));
    desk.run("bench --partitions 0").ended_with(2);
    let table = desk.run("bench --events 1000 --rounds 1").ended_with(0);
    assert!(table.out.contains("EVENTS PER SECOND"), "{}", table.out);
    assert!(table.out.contains("\nmedian"), "{}", table.out);
    desk.run("bench --events 10").ended_with(2);
}

#[test]
fn bench_plays_the_tests_of_the_configured_machines_into_the_configured_store() {
    let desk = Desk::new();
    // Every key of this one is the same each time: its entity is shared by all rounds of a tenant.
    let shared = "apiVersion: tidegate/v1\nkind: Machine\nmachine: tally\nversion: 3\n\
                  key: '''all of them'''\ninitial: open\nstates: [open, full]\n\
                  data:\n  count: { type: int, initial: 0 }\n\
                  events:\n  order.placed:\n    - from: [open]\n      when: state.count < 100\n      \
                  set:\n        count: state.count + 1\n    - from: [open]\n      to: full\n  \
                  on_unmatched: reject\n";
    let shared = shared.replace("  on_unmatched", "on_unmatched");
    desk.write("tally.yaml", &shared);
    desk.write(
        "node.yaml",
        "store: { sqlite: { path: scratch.db } }\nmachines: { paths: [order.yaml, tally.yaml] }\n",
    );
    let said = desk
        .run("bench -c node.yaml --events 3001 --tenants 6 --rounds 2 -o json")
        .ended_with(0);
    assert_measured(&said, 2, "sqlite");
    assert_eq!(said.lines()[0]["machines"], json!("order 1, tally 3"));
    desk.run("verify -c node.yaml").ended_with(0);
    // Its own leavings are no hindrance; anybody's event is, and nothing is added to it.
    desk.run("bench -c node.yaml --events 1000 --rounds 1")
        .ended_with(0);
    let before: Vec<Value> = desk
        .run("verify -c node.yaml -o json")
        .ended_with(0)
        .lines();
    desk.write(
        "one.ndjson",
        &event("1", "order.placed", 1, &json!({"total_cents": 5})),
    );
    desk.run("ingest one.ndjson --tenant-from-event-unsafe --create-tenants -c node.yaml")
        .ended_with(0);
    let refused = desk
        .run("bench -c node.yaml --events 1000 --rounds 1")
        .ended_with(2);
    assert!(
        refused.err.contains("holds events of tenant `acme`")
            && refused.err.contains("scratch database"),
        "{}",
        refused.err
    );
    assert_eq!(refused.out, "");
    let after = desk
        .run("verify -c node.yaml -o json")
        .ended_with(0)
        .lines();
    assert_eq!(
        after[0]["records"].as_u64().unwrap(),
        before[0]["records"].as_u64().unwrap() + 1
    );
    // Without tests there is nothing to play.
    desk.write(
        "untested.yaml",
        "store: { sqlite: { path: other.db } }\nmachines: { paths: [tally.yaml] }\n",
    );
    let untested = desk.run("bench -c untested.yaml").ended_with(2);
    assert!(untested.err.contains("`tests`"), "{}", untested.err);
    assert!(!desk.path("other.db").exists());
}

#[test]
fn bench_measures_a_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(TestDatabase::create("bench_measures_a_postgres"));
    let Some(database) = database else {
        return;
    };
    let desk = Desk::new();
    desk.write(
        "node.yaml",
        "store: { kind: postgres, postgres: { url: \"${env:ENGINE_URL}\" } }\n",
    );
    let said: Said = desk
        .command("bench -c node.yaml --events 4000 --rounds 2 -o json")
        .env("ENGINE_URL", database.engine_url())
        .output()
        .unwrap()
        .into();
    let said = said.ended_with(0);
    assert_measured(&said, 2, "postgres");
    for (name, value) in [("fsync", "on"), ("synchronous_commit", "on")] {
        assert_eq!(said.lines()[0][name], json!(value), "{name}");
    }
}
