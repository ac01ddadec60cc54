//! Sources whose records are no CloudEvents: what a sample of them becomes, and what the records do.

use std::process::Stdio;

use serde_json::{Value, json};

use super::Desk;

const CONFIG: &str = "\
machines: { paths: [order.yaml] }
sources:
  - name: shop
    paths: [shop.ndjson]
    stream: orders
    tenant: acme
    mapping:
      id: { pointer: /event/no }
      type: { cel: \"'order.' + payload.kind\" }
      subject: { pointer: /order }
      time: { pointer: /at, format: epoch_ms }
      idempotency_key: { pointer: /key }
      correlation_id: { pointer: /visit }
";

fn line(number: u32, kind: &str, order: &Value, rest: &str) -> String {
    format!(
        "{{\"event\":{{\"no\":{number}}},\"kind\":\"{kind}\",\"order\":{order},\"at\":1795328220{number:03},\
         \"key\":\"{kind}-{order}\",\"visit\":\"v-7\",{rest}}}\n"
    )
}

/// A shop that has its own JSON: two orders, each line sent twice, and lines that are no events.
fn shop() -> Desk {
    let desk = Desk::new();
    desk.write("node.yaml", CONFIG);
    let mut text = String::new();
    for order in [17, 18] {
        let order = json!(order);
        text.push_str(&line(1, "placed", &order, "\"total_cents\":1000"));
        text.push_str(&line(
            2,
            "paid",
            &order,
            "\"amount_cents\":1e3,\"pin\":\"hunter2\"",
        ));
    }
    let twice = text.clone();
    text.push_str(&twice);
    text.push_str(&line(3, "placed", &json!(true), "\"pin\":\"hunter2\""));
    text.push_str("hunter2\n");
    desk.write("shop.ndjson", &text);
    desk
}

#[test]
fn r10_a_file_of_plain_json_becomes_state_and_a_mapped_key_takes_effect_once() {
    let desk = shop();
    let first = desk.run("ingest -c node.yaml -o json").ended_with(0);
    let counts = &first.lines()[0];
    for (what, count) in [
        ("received", 10),
        ("admitted", 4),
        ("duplicates", 4),
        ("conflicts", 0),
        ("unreadable", 2),
        ("applied", 4),
    ] {
        assert_eq!(counts[what], json!(count), "{what} in {counts}");
    }
    assert!(!first.err.contains("hunter2"), "{}", first.err);
    let state = desk.run("state get order 17 --tenant acme -o json -c node.yaml");
    let state = state.ended_with(0).lines().remove(0);
    assert_eq!(state["status"], json!("paid"));
    let tail = desk.run("events tail --tenant acme --stream orders -n 1 -o json -c node.yaml");
    let tail = tail.ended_with(0);
    // The data is the record as it came, the number with its exponent too.
    assert!(tail.out.contains("\"amount_cents\":1e3,"), "{}", tail.out);
    let event = &tail.lines()[0]["record"]["event"];
    assert_eq!(event["source"], json!("/sources/shop"));
    assert_eq!(event["time"], json!("2026-11-22T06:17:00.002000Z"));
    assert_eq!(event["correlationid"], json!("v-7"));
    desk.run("ingest -c node.yaml").ended_with(0);
    desk.run("verify -c node.yaml").ended_with(0);
}

#[test]
fn a_line_that_was_refused_is_read_again_under_the_mapping_as_it_is_now() {
    let desk = shop();
    desk.run("ingest -c node.yaml").ended_with(0);
    let list = "dead-letters list --tenant acme -o json -c node.yaml";
    let letters = desk.run(list).ended_with(0).lines();
    assert_eq!(letters.len(), 2);
    for letter in &letters {
        assert_eq!(letter["reason"], json!("unreadable"));
        assert!(!letter.to_string().contains("hunter2"), "{letter}");
    }
    let of = |says: &str| {
        let mut found = letters
            .iter()
            .filter(|letter| letter["detail"].to_string().contains(says));
        found.next().unwrap()["id"].as_str().unwrap().to_owned()
    };
    let boolean = of("subject: pointer `/order` finds a boolean");
    let retry = |id: &str| format!("dead-letters retry {id} --tenant acme -c node.yaml");
    desk.run(&retry(&boolean)).ended_with(1);
    let mended = CONFIG.replace("{ pointer: /order }", "{ cel: string(payload.order) }");
    desk.write("node.yaml", &mended);
    // It is an event now; the machine needs its total.
    let said = desk.run(&retry(&boolean)).ended_with(1);
    assert!(said.out.contains("admitted"), "{}", said.out);
    desk.run(&retry(&of("(payload): not one JSON value")))
        .ended_with(1);
    desk.run("verify -c node.yaml").ended_with(0);
}

#[test]
fn r48_a_sample_shows_the_envelope_of_each_line_or_the_refusal() {
    let desk = shop();
    let sample = "validate -c node.yaml --sample shop.ndjson";
    let json = desk.run(&format!("{sample} -o json")).ended_with(1);
    let lines = json.lines();
    assert_eq!(lines.len(), 10);
    let event = &lines[1]["event"];
    assert_eq!((&lines[1]["line"], &event["id"]), (&json!(2), &json!("2")));
    assert_eq!(event["type"], json!("order.paid"));
    assert_eq!(event["subject"], json!("17"));
    assert_eq!(event["idempotencykey"], json!("paid-17"));
    assert_eq!(event["tenantid"], json!("acme"));
    assert!(json.out.contains("\"amount_cents\":1e3,"), "{}", json.out);
    assert_eq!(lines[8]["event"], Value::Null);
    assert_eq!(
        (&lines[8]["line"], &lines[8]["field"]),
        (&json!(9), &json!("subject"))
    );
    let reason = lines[8]["reason"].as_str().unwrap();
    assert!(
        reason.contains("pointer `/order` finds a boolean"),
        "{reason}"
    );
    assert_eq!(lines[9]["field"], json!("(payload)"));
    assert!(!lines[8].to_string().contains("hunter2") && !lines[9].to_string().contains("hunter2"));
    assert!(json.err.contains("10 records, 2 refused"), "{}", json.err);
    let table = desk.run(sample).ended_with(1).out;
    assert!(
        table.contains("order.placed") && table.contains("refused"),
        "{table}"
    );
    assert!(!desk.path("tidegate.db").exists(), "nothing is stored");

    let good = line(1, "placed", &json!(17), "\"total_cents\":1000");
    desk.write("good.ndjson", &format!("\n{good}\r\n"));
    let said = desk.run("validate -c node.yaml --sample good.ndjson -o json");
    let said = said.ended_with(0);
    assert_eq!(said.lines()[0]["line"], json!(2));
    let child = desk
        .command("validate -c node.yaml --sample - --source shop")
        .stdin(Stdio::from(
            std::fs::File::open(desk.path("good.ndjson")).unwrap(),
        ))
        .output()
        .unwrap();
    assert!(child.status.success());
}

#[test]
fn a_sample_whose_ids_come_from_the_wrong_place_says_so() {
    let desk = shop();
    let config = CONFIG.replace("/event/no }", "/visit }");
    desk.write(
        "wrong.yaml",
        &config.replace("      idempotency_key: { pointer: /key }\n", ""),
    );
    let placed = line(1, "placed", &json!(17), "\"total_cents\":1000");
    let paid = line(2, "paid", &json!(17), "\"amount_cents\":1000");
    desk.write("two.ndjson", &format!("{placed}{placed}{paid}"));
    let said = desk.run("validate -c wrong.yaml --sample two.ndjson");
    let said = said.ended_with(1).err;
    for shown in [
        "line 3 has the idempotency key of line 1 and another content",
        "1 conflict: ",
        "1 duplicate: ",
        "3 records, 0 refused",
    ] {
        assert!(said.contains(shown), "{shown}: {said}");
    }
    let said = desk.run("validate -c node.yaml --sample two.ndjson");
    assert!(!said.ended_with(0).err.contains("conflict"));
}

#[test]
fn a_sample_that_cannot_be_read_says_what_to_name() {
    let desk = shop();
    let two = CONFIG.replace(
        "sources:\n",
        "sources:\n  - { name: plain, paths: [x], stream: s, tenant: bolt }\n",
    );
    desk.write("two.yaml", &two);
    desk.write("empty.ndjson", "\n\n");
    desk.write("none.yaml", "");
    for (line, says) in [
        (
            "validate --sample shop.ndjson",
            "name the configuration with -c",
        ),
        (
            "validate -c none.yaml --sample shop.ndjson",
            "has no `sources`",
        ),
        (
            "validate -c two.yaml --sample shop.ndjson",
            "Name one with --source: plain, shop",
        ),
        (
            "validate -c two.yaml --sample shop.ndjson --source shp",
            "it has plain, shop",
        ),
        (
            "validate -c node.yaml --sample nowhere.ndjson",
            "nowhere.ndjson cannot be read",
        ),
        (
            "validate -c node.yaml --sample empty.ndjson",
            "there is no record",
        ),
        (
            "validate -c node.yaml order.yaml --sample shop.ndjson",
            "cannot be used with",
        ),
        ("validate -c node.yaml --source shop", "--sample"),
    ] {
        let said = desk.run(line).ended_with(2);
        assert!(said.err.contains(says), "{line}: {}", said.err);
    }
    // A source without a mapping takes CloudEvents, and says so of each line.
    let said = desk.run("validate -c two.yaml --sample shop.ndjson --source plain -o json");
    let said = said.ended_with(1);
    assert_eq!(said.lines()[0]["field"], json!("specversion"));
}
