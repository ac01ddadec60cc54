//! What looks like a secret in a payload: each policy over HTTP and from files, and no trace of the value.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::http::nodes::token;
use crate::http::{BATCH, STRUCTURED, Served, placed};

/// Stands in no message, log, letter or database that refuses or redacts it.
const CANARY: &str = "canary-7f3b2c";

fn with_password(id: &str, order: &str) -> Value {
    let mut event = placed(id, order);
    event["data"]["card"] = json!([{ "db_password": CANARY }]);
    event
}

/// A node whose stream `orders` has that policy.
fn node(directory: &Path, policy: &str) -> Served {
    let order = include_str!("../../deploy/examples/order.yaml");
    std::fs::write(directory.join("order.yaml"), order).unwrap();
    let config = format!(
        "http: {{ listen: '127.0.0.1:0' }}\nmachines: {{ paths: [order.yaml] }}\n\
         sources: [{{ name: api, kind: http, stream: orders{policy} }}]\n"
    );
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "facts");
    let token = token(directory, "node.yaml", whose, &[]);
    Served::run(directory, "node.yaml", &token, &[])
}

/// True when a file of the directory holds it.
fn is_kept(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        name.starts_with("tidegate.db")
            && bytes
                .windows(CANARY.len())
                .any(|window| window == CANARY.as_bytes())
    })
}

#[test]
fn r14_a_request_with_a_secret_is_refused_by_default_and_only_its_place_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), "");
    let refused = node.event(&with_password("1", "o-1")).with_status(422);
    let fault = refused.json()["faults"][0].clone();
    assert_eq!(fault["at"], "/data");
    let says = fault["detail"].as_str().unwrap();
    assert!(says.contains("/card/0/db_password"), "{says}");
    assert!(!refused.text().contains(CANARY), "{}", refused.text());
    // Of a batch the others are taken.
    let batch = json!([placed("2", "o-2"), with_password("3", "o-3")]).to_string();
    let mixed = node.post("/v1/events", BATCH, &batch).with_status(207);
    assert!(!mixed.text().contains(CANARY));
    node.get("/v1/entities/order/o-2").with_status(200);
    node.get("/v1/entities/order/o-3").with_status(404);
    // The producer's second try, without it, is no conflict: nothing was kept of the first.
    node.event(&placed("1", "o-1")).with_status(200);
    assert_eq!(node.stop(), Some(0));
    assert!(!is_kept(directory.path()));
}

#[test]
fn r14_a_redacted_event_is_stored_without_the_value_and_is_a_duplicate_when_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(directory.path(), ", secrets: redact");
    let first = node.event(&with_password("1", "o-1")).with_status(200);
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let stored = node
        .get(&format!("/v1/events/{id}"))
        .with_status(200)
        .text();
    assert!(
        stored.contains("[redacted]") && !stored.contains(CANARY),
        "{stored}"
    );
    let again = node.event(&with_password("1", "o-1")).with_status(200);
    assert_eq!(again.json()["outcome"], "duplicate");
    assert_eq!(node.stop(), Some(0));
    assert!(!is_kept(directory.path()));
}

#[test]
fn r14_report_and_off_take_it_as_it_is() {
    for policy in [", secrets: report", ", secrets: 'off'"] {
        let directory = tempfile::tempdir().unwrap();
        let node = node(directory.path(), policy);
        let event = with_password("1", "o-1").to_string();
        node.post("/v1/events", STRUCTURED, &event).with_status(200);
        assert_eq!(node.stop(), Some(0));
        assert!(is_kept(directory.path()), "{policy}");
    }
}

#[test]
fn r14_a_line_with_a_secret_is_left_as_a_letter_without_it_which_can_be_retried() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let order = include_str!("../../deploy/examples/order.yaml");
    std::fs::write(directory.join("order.yaml"), order).unwrap();
    let lines = format!("{}\n{}\n", placed("1", "o-1"), with_password("2", "o-2"));
    std::fs::write(directory.join("orders.ndjson"), lines).unwrap();
    let run = |line: &str| -> Output {
        Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(line.split(' '))
            .env("TIDEGATE_LOG", "trace")
            .current_dir(directory)
            .output()
            .unwrap()
    };
    let said = |output: &Output| {
        let both = [&*output.stdout, &*output.stderr].concat();
        let text = String::from_utf8_lossy(&both).into_owned();
        assert!(!text.contains(CANARY), "{text}");
        text
    };
    let ingested = run("ingest orders.ndjson --tenant acme --machines order.yaml");
    assert!(ingested.status.success(), "{}", said(&ingested));
    let listed = run("dead-letters list --tenant acme -o json");
    assert!(
        said(&listed).contains("/card/0/db_password"),
        "{}",
        said(&listed)
    );
    let letter: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let id = letter["id"].as_str().unwrap();
    said(&run(&format!("dead-letters show {id} --tenant acme")));
    let retried = run(&format!(
        "dead-letters retry {id} --tenant acme --stream events"
    ));
    assert!(retried.status.success(), "{}", said(&retried));
    let entity = run("state get order o-2 --tenant acme");
    assert!(said(&entity).contains("placed"), "{}", said(&entity));
    assert!(!is_kept(directory));
}
