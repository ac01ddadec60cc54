//! How an entity came to be what it is, read backwards from logs without an index.

use serde_json::{Value, json};

use super::nodes::{node_with, token};
use super::{STRUCTURED, Served, paid, placed};

/// A node with two logs that move the same entities, and four versions of `o-1` in them, by turns.
pub fn two_logs(directory: &std::path::Path) -> Served {
    let (config, _) = node_with(directory);
    let scopes = "publish:fact,publish:intent,read,observe";
    let token = token(directory, &config, ("acme", scopes, "both"), &[]);
    let node = Served::run(directory, &config, &token, &[]);
    let mut shipped = placed("4", "o-1");
    shipped["type"] = json!("order.shipped");
    let events = [
        ("orders", placed("1", "o-1")),
        ("wishes", paid("2", "o-1", 400)),
        ("orders", paid("3", "o-1", 600)),
        ("wishes", shipped),
    ];
    for (index, (stream, event)) in events.into_iter().enumerate() {
        to(&node, stream, &event);
        for n in 0..3 {
            let other = format!("other-{index}-{n}");
            to(&node, "orders", &placed(&other, &other));
        }
    }
    node
}

pub fn to(node: &Served, stream: &str, event: &Value) {
    let target = format!("/v1/streams/{stream}");
    node.post(&target, STRUCTURED, &event.to_string())
        .with_status(200);
}

#[test]
fn the_history_of_an_entity_is_found_in_all_logs_newest_first_in_pages_of_a_bounded_scan() {
    let directory = tempfile::tempdir().unwrap();
    let node = two_logs(directory.path());
    let target = "/v1/entities/order/o-1/history";
    let all = node.get(target).with_status(200).json();
    assert_eq!((&all["missing"], &all["next"]), (&json!(0), &Value::Null));
    let found: Vec<_> = all["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| json!([it["version"], it["id"], it["type"], it["position"]]))
        .collect();
    let expected = json!([
        [4, "4", "order.shipped", "wishes:asks/0:1"],
        [3, "3", "order.paid", "orders:api/0:7"],
        [2, "2", "order.paid", "wishes:asks/0:0"],
        [1, "1", "order.placed", "orders:api/0:0"]
    ]);
    assert_eq!(json!(found), expected);
    for query in ["scan=2", "limit=1", "limit=3&scan=1"] {
        let (mut versions, mut next) = (Vec::new(), String::new());
        for _ in 0..100 {
            let page = node.get(&format!("{target}?{query}{next}")).json();
            assert!(page["scanned"].as_u64().unwrap() <= 16, "{page}");
            versions.extend(page["versions"].as_array().unwrap().clone());
            match page["next"].as_str() {
                Some(cursor) => next = format!("&next={cursor}"),
                None => break,
            }
        }
        assert_eq!(json!(versions), all["versions"], "{query}");
    }
    node.get("/v1/entities/order/nobody/history")
        .with_status(404);
    node.get(&format!("{target}?next=nonsense"))
        .with_status(422);
    node.get(&format!("{target}?scan=0")).with_status(422);
}
