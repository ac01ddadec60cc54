//! `tidegate dead-letters`: seen, offered again, given up.

use serde_json::{Value, json};

use super::{Desk, event};

fn letters(desk: &Desk) -> Vec<Value> {
    desk.run("dead-letters list -o json").ended_with(0).lines()
}

/// The id of the one letter with that reason, as it is typed.
fn id_of(letters: &[Value], reason: &str) -> String {
    let mut of = letters.iter().filter(|letter| letter["reason"] == reason);
    let letter = of.next().unwrap();
    let (id, tenant) = (&letter["id"], &letter["tenant"]);
    format!(
        "{} --tenant {}",
        id.as_str().unwrap(),
        tenant.as_str().unwrap()
    )
}

#[test]
fn dead_letters_are_seen_and_retried() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml --source shop")
        .ended_with(0);
    let letters = letters(&desk);
    let reasons: Vec<&str> = letters
        .iter()
        .map(|l| l["reason"].as_str().unwrap())
        .collect();
    assert_eq!(reasons.len(), 3, "{letters:?}");
    let shown = desk
        .run(&format!(
            "dead-letters show {}",
            id_of(&letters, "unreadable")
        ))
        .ended_with(0);
    assert!(
        shown.out.contains("no event: hunter2"),
        "a person may see it: {}",
        shown.out
    );

    // Still dead with the same machine; with one that takes what it could not, it takes effect.
    let dead = id_of(&letters, "expression");
    let in_vain = desk
        .run(&format!("dead-letters retry {dead} -o json"))
        .ended_with(1);
    assert_eq!(in_vain.lines()[0]["result"], json!("still dead"));
    let said = "1 of 1 retried letter moved nothing";
    assert!(in_vain.err.contains(said), "{}", in_vain.err);
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    let fixed = machine
        .replace("version: 1", "version: 2")
        .replace("total_cents: event.data.total_cents", "total_cents: 0");
    let (fixed, _tests) = fixed.split_once("tests:").unwrap();
    desk.write("order.yaml", fixed);
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml --source shop")
        .ended_with(0);
    let retried = desk
        .run(&format!("dead-letters retry {dead} --by ada -o json"))
        .ended_with(0);
    assert_eq!(retried.lines()[0]["result"], json!("applied"));
    let state = desk
        .run("state get order o-90 --tenant acme -o json")
        .ended_with(0);
    assert_eq!(state.lines()[0]["status"], json!("placed"));
    desk.run(&format!("dead-letters retry {dead}"))
        .ended_with(1);
    let tail = desk
        .run("events tail --tenant acme -n 1 -o json")
        .ended_with(0);
    assert_eq!(tail.lines()[0]["record"]["by"], json!("operator:ada"));
    desk.run("verify").ended_with(0);
}

#[test]
fn dead_letters_are_given_up() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml --source shop")
        .ended_with(0);
    let letters = letters(&desk);
    let conflict = id_of(&letters, "conflict");
    let refused = desk
        .run(&format!("dead-letters retry {conflict}"))
        .ended_with(1);
    assert!(refused.out.contains("discard it"), "{}", refused.out);
    desk.run(&format!("dead-letters discard {conflict}"))
        .ended_with(0);
    desk.run("dead-letters discard --all --tenant _unassigned")
        .ended_with(0);
    desk.run("dead-letters discard --all --tenant acme")
        .ended_with(0);
    assert_eq!(desk.run("dead-letters list -o json").ended_with(0).out, "");
    let all = desk
        .run("dead-letters list --state all -o json")
        .ended_with(0);
    assert_eq!(all.lines().len(), 3);
    desk.run("dead-letters show 00000000000000000000000000000007 --tenant acme")
        .ended_with(4);
    desk.run("dead-letters show 7 --tenant acme").ended_with(2);
    desk.run("verify").ended_with(0);
}

#[test]
fn a_retry_that_the_machine_refuses_is_decided_and_said() {
    let desk = Desk::new();
    desk.write("door.yaml", DOOR);
    let opened = event("opened", "door.opened", 1, &json!({"turns": "many"}));
    let shut = event("shut", "door.shut", 2, &json!({}));
    desk.write("doors.ndjson", &format!("{opened}{shut}"));
    let ingest = "ingest doors.ndjson --tenant-from-event-unsafe --create-tenants --machines door.yaml --source doors";
    desk.run(ingest).ended_with(0);
    assert_eq!(letters(&desk).len(), 2);
    let fixed = DOOR
        .replace("version: 1", "version: 2")
        .replace("turns: event.data.turns", "turns: state.turns + 1")
        .replace("on_unmatched: dead_letter", "on_unmatched: reject");
    desk.write("door.yaml", &fixed);
    desk.run(ingest).ended_with(0);
    let retried = desk
        .run("dead-letters retry --all --tenant acme")
        .ended_with(0);
    let rows: Vec<Vec<&str>> = retried
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["ID", "RESULT", "DETAIL"]);
    assert_eq!((rows[1][1], rows[2][1]), ("applied", "rejected"));
    let result = |line: &str| line.find("applied").or(line.find("rejected"));
    assert!(retried.out.lines().skip(1).all(|it| result(it) == Some(34)));
    let said = "1 of 2 retried letters moved nothing";
    assert!(retried.err.contains(said), "{}", retried.err);
    assert_eq!(letters(&desk).len(), 0, "nothing waits for a person");
    desk.run("verify").ended_with(0);
}

const DOOR: &str = "
apiVersion: tidegate/v1
kind: Machine
machine: door
version: 1
key: event.subject
initial: shut
states: [shut, open]
data:
  turns: { type: int, initial: 0 }
events:
  door.opened:
    - from: [shut]
      to: open
      set:
        turns: event.data.turns
  door.shut:
    - from: [open]
      to: shut
on_unmatched: dead_letter
";

#[test]
fn all_dead_letters_are_retried_in_the_order_of_their_events() {
    let desk = Desk::new();
    desk.write("door.yaml", DOOR);
    // Of two sources, the later one first by name.
    let ingest = |source: &str| {
        format!(
            "ingest {source}.ndjson --tenant-from-event-unsafe --create-tenants --machines door.yaml --source {source}"
        )
    };
    for (event_type, source) in [("door.opened", "morning"), ("door.shut", "evening")] {
        let mut text = String::new();
        for door in 0..8 {
            let id = format!("{event_type}-{door}");
            text.push_str(&event(&id, event_type, door, &json!({})));
        }
        desk.write(&format!("{source}.ndjson"), &text);
        desk.run(&ingest(source)).ended_with(0);
    }
    assert_eq!(
        letters(&desk).len(),
        16,
        "opened in vain, so not to be shut"
    );
    let first = desk.run("dead-letters list -n 15").ended_with(0);
    assert!(first.err.contains("more than 15 of acme"), "{}", first.err);
    let fixed = DOOR
        .replace("version: 1", "version: 2")
        .replace("turns: event.data.turns", "turns: state.turns + 1");
    desk.write("door.yaml", &fixed);
    desk.run(&ingest("evening")).ended_with(0);
    let retried = desk
        .run("dead-letters retry --all --tenant acme -o json")
        .ended_with(0)
        .lines();
    let applied = retried.iter().filter(|row| row["result"] == "applied");
    assert_eq!((applied.count(), retried.len()), (16, 16), "{retried:?}");
    let state = desk
        .run("state get door o-3 --tenant acme -o json")
        .ended_with(0);
    assert_eq!(state.lines()[0]["version"], json!(2));
    desk.run("verify").ended_with(0);
}
