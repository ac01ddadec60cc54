//! What cannot be used: every mistake is said, with its place and what to do, before anything is made.

use std::process::Stdio;

use serde_json::json;

use super::{Desk, Said};

#[test]
fn what_cannot_be_used_is_said_all_at_once_and_ends_with_two() {
    let desk = Desk::new();
    desk.run("").ended_with(2);
    desk.run("ingset").ended_with(2);
    desk.run("ingest").ended_with(2);
    desk.run("ingest nowhere.ndjson --tenant acme")
        .ended_with(2);
    desk.write("bad.yaml", "limts: {}\nstore: { kind: sqllite }\n");
    let bad = desk.run("verify -c bad.yaml").ended_with(2);
    assert!(
        bad.err
            .contains("bad.yaml:1: limts: unknown key; did you mean `limits`?"),
        "{}",
        bad.err
    );
    assert!(
        bad.err
            .contains("bad.yaml:2: store.kind: expected one of sqlite, postgres"),
        "{}",
        bad.err
    );
    desk.run("verify --log-level loud").ended_with(2);
    // R13: a secret that stands in the file is refused, and not repeated.
    desk.write(
        "secret.yaml",
        "store:\n  kind: postgres\n  postgres: { url: \"postgres://a:hunter2@db/x\" }\n",
    );
    let secret = desk.run("verify -c secret.yaml").ended_with(2);
    assert!(!secret.err.contains("hunter2"), "{}", secret.err);
    // Nothing there to look at, and nobody there to ask.
    let absent = desk.run("verify").ended_with(3);
    assert!(
        absent.err.contains("there is no database at tidegate.db"),
        "{}",
        absent.err
    );
    assert!(
        !desk.path("tidegate.db").exists(),
        "looking creates nothing"
    );
}

#[test]
fn definitions_and_configurations_are_checked_without_a_store() {
    let desk = Desk::new();
    desk.run("validate order.yaml").ended_with(0);
    let tested = desk.run("test order.yaml").ended_with(0);
    assert!(tested.err.contains("5 tests, 0 failed"), "{}", tested.err);
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    desk.write("worse.yaml", &machine.replace("to: placed", "to: placd"));
    desk.write(
        "node.yaml",
        "machines: { paths: [order.yaml, worse.yaml] }\nnod: {}\n",
    );
    let found = desk
        .run("validate node.yaml worse.yaml -o json")
        .ended_with(2)
        .lines();
    assert_eq!(found[0]["path"], json!("nod"));
    assert_eq!(found[1]["file"], json!("worse.yaml"));
    assert_eq!(found.len(), 2, "{found:?}");
    desk.write("twin.yaml", &machine);
    let twice = desk.run("validate order.yaml twin.yaml").ended_with(2).out;
    assert!(twice.contains("each machine has one definition"), "{twice}");
    let wrong = machine.replacen("paid_cents: 1000 }", "paid_cents: 999 }", 1);
    desk.write("wrong.yaml", &wrong);
    let failed = desk.run("test wrong.yaml -o json").ended_with(1).lines();
    assert_eq!(
        failed
            .iter()
            .filter(|test| test["holds"] == json!(false))
            .count(),
        1
    );
}

#[test]
fn names_with_a_slip_are_not_taken_for_empty_answers() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant acme --machines order.yaml --source shop")
        .ended_with(0);
    for (line, said) in [
        (
            "state get order o-3 --tenant acmee",
            "no tenant `acmee`; it has acme",
        ),
        (
            "state get ordr o-3 --tenant acme",
            "this store has no machine `ordr`; it has order",
        ),
        (
            "state get order o-333 --tenant acme",
            "has no `order` with the key `o-333`",
        ),
        (
            "events get events:shop/0:1 --tenant acmee",
            "no tenant `acmee`",
        ),
        ("events tail --tenant acmee", "no tenant `acmee`"),
        (
            "events tail --tenant acme --stream evnts",
            "no stream `evnts`",
        ),
        ("dead-letters list --tenant acmee", "no tenant `acmee`"),
        (
            "dead-letters discard --all --tenant acmee",
            "no tenant `acmee`",
        ),
        ("verify --tenant acme --tenant acmee", "no tenant `acmee`"),
    ] {
        let refused = desk.run(line).ended_with(4);
        assert!(refused.err.contains(said), "{line}: {}", refused.err);
        assert_eq!(refused.out, "", "{line}");
    }
    // No reader has anything to wait for where nobody else can write.
    let follow = desk.run("events tail --tenant acme -f").ended_with(2);
    assert!(follow.err.contains("--follow"), "{}", follow.err);
    let retry = desk.run("dead-letters retry --tenant acme").ended_with(2);
    assert!(retry.err.contains("--all"), "{}", retry.err);
}

#[test]
fn events_are_not_kept_for_ever_without_the_machine_that_was_meant() {
    let desk = Desk::with_orders();
    std::fs::create_dir(desk.path("empty")).unwrap();
    let empty = desk
        .run("ingest orders.ndjson --tenant acme --machines empty")
        .ended_with(2);
    assert!(
        empty.err.contains("no *.yaml or *.yml file in empty"),
        "{}",
        empty.err
    );
    let without = desk.run("ingest orders.ndjson --tenant acme").ended_with(2);
    assert!(without.err.contains("--machines"), "{}", without.err);
    // Nothing was read: the same file moves orders once it is given a machine.
    desk.run("ingest orders.ndjson --tenant acme --machines order.yaml")
        .ended_with(0);
    desk.run("state get order o-3 --tenant acme").ended_with(0);
    let again = desk.run("ingest orders.ndjson --tenant acme").ended_with(0);
    assert!(again.err.contains("nothing new"), "{}", again.err);
}

#[test]
fn r02_r51_no_event_is_believed_about_its_tenant_unless_that_is_asked_for() {
    let desk = Desk::with_orders();
    let refused = desk
        .run("ingest orders.ndjson --machines order.yaml")
        .ended_with(2);
    for flag in ["--tenant NAME", "--tenant-from-event-unsafe"] {
        assert!(refused.err.contains(flag), "{flag} in {}", refused.err);
    }
    assert!(!desk.path("tidegate.db").exists(), "nothing is made");
    let both = "ingest orders.ndjson --tenant acme --tenant-from-event-unsafe";
    desk.run(both).ended_with(2);
    // With the configured sources the flags would say nothing.
    for flag in ["--tenant acme", "--tenant-from-event-unsafe"] {
        desk.run(&format!("ingest {flag}")).ended_with(2);
    }
    let believed = desk
        .run("ingest orders.ndjson --machines order.yaml --tenant-from-event-unsafe --create-tenants")
        .ended_with(0);
    assert!(
        believed.err.contains("an unsafe option is in force")
            && believed.err.contains("--tenant-from-event-unsafe"),
        "{}",
        believed.err
    );
    desk.run("state get order o-3 --tenant acme").ended_with(0);
    let bound = desk
        .run("ingest orders.ndjson --source again --tenant acme")
        .ended_with(0);
    assert!(!bound.err.contains("unsafe"), "{}", bound.err);
}

#[test]
fn a_file_that_is_named_twice_is_refused() {
    let desk = Desk::with_orders();
    for files in [
        "orders.ndjson ./orders.ndjson",
        "- -",
        "orders.ndjson orders.ndjson --source shop",
    ] {
        let line = format!("ingest {files} --tenant acme --machines order.yaml");
        let refused = desk.run(&line).ended_with(2);
        assert!(refused.err.contains("is named twice"), "{}", refused.err);
    }
    assert!(!desk.path("tidegate.db").exists(), "nothing is made");
}

#[test]
fn definitions_before_the_files_do_not_swallow_them() {
    let desk = Desk::with_orders();
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    let (other, _tests) = machine.split_once("tests:").unwrap();
    desk.write(
        "second.yaml",
        &other.replace("machine: order", "machine: second"),
    );
    desk.run("ingest --tenant acme --machines order.yaml --machines second.yaml orders.ndjson")
        .ended_with(0);
    for machine in ["order", "second"] {
        desk.run(&format!("state get {machine} o-3 --tenant acme"))
            .ended_with(0);
    }
}

#[test]
fn a_test_run_without_tests_does_not_pass_unnoticed() {
    let desk = Desk::with_orders();
    let none = desk.run("test orders.ndjson").ended_with(2);
    assert!(none.err.contains("no machine's definition"), "{}", none.err);
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    let (untested, _tests) = machine.split_once("tests:").unwrap();
    desk.write("untested.yaml", untested);
    let said = desk.run("test untested.yaml").ended_with(0);
    assert!(
        said.err.contains("untested.yaml: has no `tests`"),
        "{}",
        said.err
    );
}

#[test]
fn nobody_reading_is_no_reason_to_panic() {
    let desk = Desk::new();
    desk.write("bad.yaml", "limts: {}\n");
    for line in [
        "validate bad.yaml order.yaml",
        "test order.yaml",
        "verify -c bad.yaml",
    ] {
        let mut child = desk
            .command(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        let code = child.wait().unwrap().code().unwrap();
        assert!(code <= 2, "{line} ended with {code}");
    }
}

#[test]
fn a_level_that_is_none_does_not_silence_the_log() {
    let desk = Desk::with_orders();
    let said: Said = desk
        .command("ingest orders.ndjson --tenant acme --machines order.yaml")
        .env("TIDEGATE_LOG", "verbose")
        .output()
        .unwrap()
        .into();
    let said = said.ended_with(2);
    assert!(said.err.contains("TIDEGATE_LOG: expected"), "{}", said.err);
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let desk = Desk::new();
    desk.write(
        "node.yaml",
        "store:\n  kind: postgres\n  postgres:\n    url: \"postgres://tidegate_engine@127.0.0.1:1/state\"\n    \
         acquire_timeout_ms: 300\n",
    );
    let said = desk.run("verify -c node.yaml").ended_with(3);
    for part in ["127.0.0.1:1", "`state`", "store.postgres.url"] {
        assert!(said.err.contains(part), "{part} in {}", said.err);
    }
}
