//! Records without any id, known by their place in their source.

use serde_json::{Value, json};
use sqlx::Connection as _;

use super::Desk;

const CONFIG: &str = "\
machines: { paths: [order.yaml] }
sources:
  - name: shop
    paths: [shop.ndjson]
    stream: orders
    tenant: acme
    mapping:
      id: position
      type: { cel: \"'order.' + payload.kind\" }
      subject: { pointer: /order }
";

const PLACED: &str = "{\"kind\":\"placed\",\"order\":\"o-1\",\"total_cents\":5000}\n";
const PAID: &str = "{\"kind\":\"paid\",\"order\":\"o-1\",\"amount_cents\":500}\n";
const NO_TEXT: &str = "{\"kind\":\"paid\",\"order\":true,\"amount_cents\":500}\n";

fn desk(lines: &[&str]) -> Desk {
    let desk = Desk::new();
    desk.write("node.yaml", CONFIG);
    desk.write("shop.ndjson", &lines.concat());
    desk
}

/// Counts of one run: received, admitted, duplicates, unreadable.
fn ingest(desk: &Desk) -> [u64; 4] {
    let said = desk.run("ingest -c node.yaml -o json").ended_with(0);
    assert!(said.err.contains("known by their position"), "{}", said.err);
    let counts = said.lines().remove(0);
    ["received", "admitted", "duplicates", "unreadable"].map(|what| {
        counts[what]
            .as_u64()
            .unwrap_or_else(|| panic!("{what} in {counts}"))
    })
}

/// What was paid of the one order, in so many versions.
fn order(desk: &Desk) -> (Value, Value) {
    let state = desk.run("state get order o-1 --tenant acme -o json -c node.yaml");
    let state = state.ended_with(0).lines().remove(0);
    (
        state["version"].clone(),
        state["data"]["paid_cents"].clone(),
    )
}

fn ids(desk: &Desk) -> Vec<String> {
    let tail = "events tail --tenant acme --stream orders -n 20 -o json -c node.yaml";
    let lines = desk.run(tail).ended_with(0).lines();
    let id = |line: &Value| line["record"]["event"]["id"].as_str().unwrap().to_owned();
    lines.iter().map(id).collect()
}

/// Takes the checkpoint's place back to the beginning, as no owner ever does: only the keys are left to tell
/// what was there before.
fn forget_the_checkpoint(desk: &Desk) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(desk.path("tidegate.db"));
        let mut store = sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap();
        let back = "update source_partitions set next_offset = 0 where source = 'shop'";
        let done = sqlx::query(back).execute(&mut store).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
        store.close().await.unwrap();
    });
}

#[test]
fn a_file_read_twice_from_its_start_has_each_effect_once_and_an_appended_line_is_new() {
    let desk = desk(&[PLACED, PAID, PAID]);
    // Two lines that are the same are two payments.
    assert_eq!(ingest(&desk), [3, 3, 0, 0]);
    assert_eq!(order(&desk), (json!(3), json!(1_000)));
    let known = ids(&desk);
    let places = [0, PLACED.len(), PLACED.len() + PAID.len()];
    for (id, place) in known.iter().zip(places) {
        assert!(id.starts_with("shop/begins-"), "{id}");
        assert!(id.ends_with(&format!("/0/{place}")), "{id}");
    }
    assert_eq!(ingest(&desk), [0, 0, 0, 0]);
    forget_the_checkpoint(&desk);
    assert_eq!(ingest(&desk), [3, 0, 3, 0]);
    assert_eq!(order(&desk), (json!(3), json!(1_000)));
    assert_eq!(ids(&desk), known);

    desk.write("shop.ndjson", &[PLACED, PAID, PAID, PAID].concat());
    assert_eq!(ingest(&desk), [1, 1, 0, 0]);
    assert_eq!(order(&desk), (json!(4), json!(1_500)));
}

#[test]
fn a_line_that_is_read_again_by_a_retry_keeps_its_place() {
    let desk = desk(&[PLACED, NO_TEXT, PAID]);
    assert_eq!(ingest(&desk), [3, 2, 0, 1]);
    let mended = CONFIG.replace(
        "{ pointer: /order }",
        "{ cel: \"payload.order == true ? 'o-1' : payload.order\" }",
    );
    desk.write("node.yaml", &mended);
    desk.run("dead-letters retry --all --tenant acme -c node.yaml")
        .ended_with(0);
    assert_eq!(order(&desk), (json!(3), json!(1_000)));
    let place = format!("/0/{}", PLACED.len());
    assert!(ids(&desk).iter().any(|id| id.ends_with(&place)));
    // The retried line is known now like the two others.
    forget_the_checkpoint(&desk);
    assert_eq!(ingest(&desk), [3, 0, 3, 0]);
    assert_eq!(order(&desk), (json!(3), json!(1_000)));
}

#[test]
fn r48_a_sample_shows_positions_and_says_what_they_do_not_protect_from() {
    let desk = desk(&["\n", PLACED, PAID, PAID]);
    let said = desk
        .run("validate -c node.yaml --sample shop.ndjson -o json")
        .ended_with(0);
    let lines = said.lines();
    let found: Vec<&str> = lines
        .iter()
        .map(|line| line["event"]["id"].as_str().unwrap())
        .collect();
    let second = 1 + PLACED.len();
    let expected = [1, second, second + PAID.len()].map(|at| format!("shop/sample/0/{at}"));
    assert_eq!(found, expected);
    let says = "a line that is sent again is a new event";
    assert!(said.err.contains(says), "{}", said.err);
    assert!(!said.err.contains("duplicate"), "{}", said.err);
    // Without an id the message names both ways.
    desk.write("none.yaml", &CONFIG.replace("      id: position\n", ""));
    let refused = desk.run("validate none.yaml").ended_with(2);
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("`id: position`"), "{said}");
}
