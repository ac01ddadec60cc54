//! `tidegate events export` and `trace`: what happened, for others and after an incident.

use serde_json::json;

use super::{Desk, event};

fn ingested() -> Desk {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --machines order.yaml --source shop")
        .ended_with(0);
    desk
}

#[test]
fn r16_an_export_without_caused_by_makes_the_same_state_elsewhere() {
    let desk = Desk::new();
    let mut text = String::new();
    for order in 0..20 {
        for (kind, data) in [
            ("placed", json!({"total_cents": 1_000})),
            ("paid", json!({"amount_cents": 1_000})),
        ] {
            let line = event(
                &format!("{order}-{kind}"),
                &format!("order.{kind}"),
                order,
                &data,
            );
            text.push_str(&line.replacen('{', "{\"causedby\":\"token:ada-7\",", 1));
        }
    }
    desk.write("orders.ndjson", &text);
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --machines order.yaml --source shop")
        .ended_with(0);
    let whole = desk.run("events export --tenant acme").ended_with(0);
    assert_eq!(whole.out.matches("ada-7").count(), 40);
    let shared = desk
        .run("events export --tenant acme --redact caused_by")
        .ended_with(0);
    assert!(!shared.out.contains("ada-7") && !shared.out.contains("causedby"));
    assert_eq!(shared.err, "40 events\n");
    assert_eq!(shared.lines().len(), 40);

    // What somebody else makes of it is the same state, byte for byte: no state depends on it.
    let other = Desk::new();
    other.write("shared.ndjson", &shared.out);
    let ingest = "ingest shared.ndjson --tenant acme --machines order.yaml --source shared";
    other.run(ingest).ended_with(0);
    for order in 0..20 {
        let get = format!("state get order o-{order} --tenant acme -o json");
        assert_eq!(
            desk.run(&get).ended_with(0).out,
            other.run(&get).ended_with(0).out
        );
    }
    desk.run("events export --tenant acme --stream nowhere")
        .ended_with(4);
    desk.run("events export --tenant nobody").ended_with(4);
}

#[test]
fn r22_a_trace_is_the_whole_tree_of_a_correlation_id() {
    let desk = ingested();
    let traced = desk
        .run("events trace visit-3 --tenant acme -o json")
        .ended_with(0);
    let lines = traced.lines();
    let told: Vec<(u64, &str)> = lines
        .iter()
        .map(|line| {
            (
                line["depth"].as_u64().unwrap(),
                line["type"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            (0, "order.placed"),
            (0, "order.paid"),
            (1, "order.ready"),
            (0, "order.paid")
        ]
    );
    assert_eq!(lines[2]["position"], json!("internal:shop/0:3"));
    let people = desk.run("events trace visit-3 --tenant acme").ended_with(0);
    assert!(people.out.contains("\n  order.ready "), "{}", people.out);
    assert_eq!(people.out.lines().count(), 4);
    // A decision about a dead letter stands under the event that it is about.
    desk.run("dead-letters discard --all --tenant acme --by ada")
        .ended_with(0);
    let traced = desk
        .run("events trace visit-90 --tenant acme")
        .ended_with(0);
    assert!(
        traced.out.contains("\n  discarded operator:ada"),
        "{}",
        traced.out
    );
    let missing = desk
        .run("events trace visit-777 --tenant acme")
        .ended_with(4);
    assert!(missing.err.contains("visit-777"), "{}", missing.err);
}
