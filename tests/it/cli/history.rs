//! `tidegate events export` and `trace`: what happened, for others and after an incident.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{Desk, event};

fn ingested() -> Desk {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml --source shop")
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
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml --source shop")
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

/// Every row of every table, as `table: its columns`.
fn rows(desk: &Desk) -> BTreeSet<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(desk.path("tidegate.db"));
        let mut shell = SqliteConnection::connect_with(&options).await.unwrap();
        let tables = "SELECT t.name, group_concat('quote(' || c.name || ')', ' || '' '' || ') \
            FROM sqlite_schema t JOIN pragma_table_info(t.name) c \
            WHERE t.type = 'table' AND t.name NOT GLOB '*sql*' GROUP BY t.name";
        let tables = sqlx::query(tables).fetch_all(&mut shell).await.unwrap();
        let mut found = BTreeSet::new();
        for table in &tables {
            let (name, columns): (&str, &str) = (table.get(0), table.get(1));
            let sql = AssertSqlSafe(format!("SELECT {columns} FROM {name}"));
            for row in sqlx::query(sql).fetch_all(&mut shell).await.unwrap() {
                found.insert(format!("{name}: {}", row.get::<&str, _>(0)));
            }
        }
        found
    })
}

#[test]
fn r22_after_an_incident_one_stream_is_reprocessed_and_no_row_of_another_changes() {
    let desk = Desk::new();
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    for (stream, first) in [("north", 0), ("south", 100)] {
        let mut text = String::new();
        for order in first..first + 10 {
            // The incident: every other order came without what the machine asks for.
            let data = match order % 2 {
                0 => json!({ "total_cents": 1_000 }),
                _ => json!({}),
            };
            text.push_str(&event(&format!("{order}"), "order.placed", order, &data));
        }
        desk.write("orders.ndjson", &text);
        desk.run(&format!(
            "ingest orders.ndjson --tenant acme --machines order.yaml --stream {stream} --source {stream}"
        ))
        .ended_with(0);
    }
    let mended = machine
        .replace("version: 1", "version: 2")
        .replace("total_cents: event.data.total_cents", "total_cents: 0");
    desk.write("order.yaml", mended.split_once("tests:").unwrap().0);
    desk.write("nothing.ndjson", "");
    desk.run("ingest nothing.ndjson --tenant acme --machines order.yaml --source nothing")
        .ended_with(0);
    let before = rows(&desk);
    let retry = "dead-letters retry --all --tenant acme --by ada -o json --of-stream";
    desk.run(&format!("{retry} nowhere")).ended_with(4);
    assert_eq!(rows(&desk), before);
    let retried = desk.run(&format!("{retry} north")).ended_with(0).lines();
    assert_eq!(retried.len(), 5, "{retried:?}");
    assert!(retried.iter().all(|it| it["result"] == "applied"));
    let after = rows(&desk);
    // What is gone is the five letters as they stood; what is new says what was decided about them.
    let gone: Vec<&String> = before.difference(&after).collect();
    assert_eq!(gone.len(), 5, "{gone:#?}");
    let new: Vec<&String> = after.difference(&before).collect();
    let mut tables: BTreeMap<&str, usize> = BTreeMap::new();
    for row in gone.iter().chain(&new) {
        let (table, row) = row.split_once(": ").unwrap();
        *tables.entry(table).or_default() += 1;
        assert!(!row.contains("south"), "{table}: {row}");
    }
    assert!(
        gone.iter()
            .all(|row| row.starts_with("dead_letters: ") && row.contains("north"))
    );
    assert_eq!(
        (tables["dead_letters"], tables["entities"]),
        (10, 5),
        "{tables:?}"
    );
    let known = [
        "dead_letters",
        "entities",
        "segments",
        "source_partitions",
        "stream_partitions",
    ];
    assert!(
        tables.keys().all(|table| known.contains(table)),
        "{tables:?}"
    );
    desk.run("verify").ended_with(0);
}
