//! `tidegate ingest`: files and standard input become state, once, however it is stopped and started.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Desk, Said, event};

#[test]
fn a_file_becomes_state_once_however_often_it_is_read() {
    let desk = Desk::with_orders();
    let first = desk
        .run("ingest orders.ndjson --tenant acme --machines order.yaml -o json")
        .ended_with(0);
    let counts = &first.lines()[0];
    for (what, count) in [
        ("received", 44),
        ("admitted", 32),
        ("duplicates", 10),
        ("conflicts", 1),
        ("unreadable", 1),
        ("applied", 20),
        ("rejected", 11),
        ("dead", 1),
        ("emitted", 10),
        ("looped_back", 10),
        // Nothing listens to what is emitted.
        ("unhandled", 10),
    ] {
        assert_eq!(counts[what], json!(count), "{what} in {counts}");
    }
    assert!(
        first.err.contains("3 events need a person"),
        "{}",
        first.err
    );
    // The machine is known by now, and the checkpoint says that nothing is left.
    let again = desk
        .run("ingest orders.ndjson --tenant acme -o json")
        .ended_with(0);
    assert_eq!(again.lines()[0]["received"], json!(0));
    // Under another name it is another source: every key is known.
    let renamed = desk
        .run("ingest orders.ndjson --tenant acme --source other -o json")
        .ended_with(0);
    assert_eq!(renamed.lines()[0]["admitted"], json!(0));
    assert_eq!(renamed.lines()[0]["duplicates"], json!(42));

    let state = desk
        .run("state get order o-3 --tenant acme -o json")
        .ended_with(0);
    let expected = json!({
        "tenant": "acme", "machine": "order", "key": "o-3", "status": "paid", "version": 2,
        "data": {"total_cents": 1_000, "paid_cents": 1_000},
    });
    assert_eq!(state.lines()[0], expected);
    let verified = desk.run("verify -o json").ended_with(0);
    assert_eq!(verified.lines()[0]["effects_replayed"], json!(20));
    assert_eq!(verified.lines()[0]["entities_equal"], json!(10));
}

#[test]
fn a_file_that_was_empty_is_read_once_events_are_in_it() {
    let desk = Desk::new();
    desk.write("later.ndjson", "");
    let line = "ingest later.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml -o json";
    for _ in 0..2 {
        let nothing = desk.run(line).ended_with(0);
        assert_eq!(nothing.lines()[0]["received"], json!(0));
    }
    let placed = |n: u32| {
        let data = json!({"total_cents": 5});
        event(&n.to_string(), "order.placed", n, &data)
    };
    desk.write("later.ndjson", &placed(1));
    let first = desk.run(line).ended_with(0);
    assert_eq!(first.lines()[0]["admitted"], json!(1));
    desk.write("later.ndjson", &format!("{}{}", placed(1), placed(2)));
    let second = desk.run(line).ended_with(0);
    assert_eq!(second.lines()[0]["received"], json!(1));
    // From the first commit on another beginning is another file.
    desk.write("later.ndjson", &placed(3));
    let replaced = desk.run(line).ended_with(3);
    assert!(replaced.err.contains("re-created"), "{}", replaced.err);
}

#[test]
fn standard_input_is_a_source_too_and_each_tenant_is_on_its_own() {
    let desk = Desk::new();
    let mut child = desk
        .command("ingest - --machines order.yaml --tenant acme --source pipe --stream shop -o json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let mine = event("1", "order.placed", 1, &json!({"total_cents": 5}));
    // R02: bound to one tenant, the source believes no other.
    let foreign =
        event("2", "order.placed", 1, &json!({"total_cents": 5})).replace("acme", "globex");
    pipe.write_all(format!("{mine}{foreign}").as_bytes())
        .unwrap();
    drop(pipe);
    let said = Said::from(child.wait_with_output().unwrap()).ended_with(0);
    assert_eq!(said.lines()[0]["admitted"], json!(1));
    assert_eq!(said.lines()[0]["unreadable"], json!(1));
    desk.run("state get order o-1 --tenant acme").ended_with(0);
    let other = desk
        .run("state get order o-1 --tenant globex")
        .ended_with(4);
    assert!(
        other
            .err
            .contains("this store has no tenant `globex`; it has acme"),
        "{}",
        other.err
    );
    let got = desk
        .run("events get shop:pipe/0:0 --tenant acme")
        .ended_with(0);
    assert!(
        got.out.contains("order o-1: applied, version 1"),
        "{}",
        got.out
    );
    desk.run("events get shop:pipe/0:1 --tenant acme")
        .ended_with(4);
}

#[test]
fn a_stop_in_the_middle_is_finished_by_the_same_command() {
    let desk = Desk::new();
    let text: String = (0..30_000)
        .map(|n| {
            event(
                &n.to_string(),
                "order.placed",
                n,
                &json!({"total_cents": 1}),
            )
        })
        .collect();
    desk.write("many.ndjson", &text);
    let child = desk
        .command("ingest many.ndjson --tenant acme --machines order.yaml -o json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As soon as something is committed.
    let database = desk.path("tidegate.db-wal");
    let begun = || std::fs::metadata(&database).is_ok_and(|file| file.len() > 1 << 20);
    while !begun() {
        std::thread::yield_now();
    }
    let stop = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(stop.success());
    let stopped = Said::from(child.wait_with_output().unwrap());
    let settled = stopped.lines()[0]["admitted"].as_u64().unwrap();
    // It may have been quicker than the signal; everywhere else it says how to go on.
    if stopped.code != 0 {
        assert_eq!(stopped.code, 5, "{}", stopped.err);
        assert!(
            stopped.err.contains("The same command goes on"),
            "{}",
            stopped.err
        );
    }
    let rest = desk
        .run("ingest many.ndjson --tenant acme -o json")
        .ended_with(0);
    assert_eq!(
        rest.lines()[0]["admitted"].as_u64().unwrap(),
        30_000 - settled
    );
    let verified = desk.run("verify -o json").ended_with(0);
    assert_eq!(verified.lines()[0]["entities_equal"], json!(30_000));
}

#[test]
fn a_changed_definition_needs_a_version_of_its_own() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant acme --machines order.yaml")
        .ended_with(0);
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    desk.write("order.yaml", &format!("{machine}# changed\n"));
    let refused = desk
        .run("ingest orders.ndjson --tenant acme --machines order.yaml")
        .ended_with(2);
    assert!(
        refused
            .err
            .contains("version 1 is stored with another text (10 entities)"),
        "{}",
        refused.err
    );
}

#[test]
fn r33_r40_logs_are_json_with_ids_and_without_payloads() {
    let desk = Desk::with_orders();
    let line = "ingest orders.ndjson --tenant acme --machines order.yaml --log-level trace";
    let said = desk.run(line).ended_with(0);
    // Values, and keys that no definition names: what a definition says is no secret of a payload.
    for canary in ["hunter2", "pin_code"] {
        assert!(!said.err.contains(canary), "{canary} in the logs");
        assert!(!said.out.contains(canary), "{canary} in the output");
    }
    let logs: Vec<Value> = said
        .err
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    assert!(!logs.is_empty());
    assert!(
        logs.iter()
            .all(|log| log["level"].is_string() && log["timestamp"].is_string())
    );
    assert_eq!(
        desk.run("verify --log-level off")
            .ended_with(0)
            .err
            .lines()
            .count(),
        1
    );
}

#[test]
fn r40_every_dead_letter_is_told_with_the_ids_of_its_event_and_no_value_of_it() {
    let desk = Desk::with_orders();
    let event = |id: &str, kind: &str, data: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/shop","type":"{kind}","subject":"o-9","correlationid":"c-{id}","tenantid":"acme","data":{data}}}"#
        )
    };
    let lines = [
        event("e-dead", "order.placed", r#"{"total_cents":"hunter2"}"#),
        event("e-twice", "order.placed", r#"{"total_cents":5}"#),
        event(
            "e-twice",
            "order.placed",
            r#"{"total_cents":6,"note":"hunter2"}"#,
        ),
        r#"{"specversion":"1.0","id":"hunter2"}"#.to_owned(),
    ];
    desk.write("bad.ndjson", &lines.join("\n"));
    let said = desk.run("ingest bad.ndjson --tenant acme --machines order.yaml --log-level warn");
    assert!(!said.err.contains("hunter2"), "{}", said.err);
    let told: Vec<Value> = said
        .err
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|log: &Value| {
            log["fields"]["dead_letter"].is_string() || log["dead_letter"].is_string()
        })
        .collect();
    let field = |log: &Value, name: &str| {
        let value = [&log["fields"][name], &log[name]];
        value.into_iter().find_map(Value::as_str).map(str::to_owned)
    };
    let ids: Vec<_> = told
        .iter()
        .map(|log| {
            assert_eq!(field(log, "tenant_id").as_deref(), Some("acme"));
            let names = ["reason", "event_id", "event_type", "correlation_id"];
            names.map(|name| field(log, name).unwrap_or_default())
        })
        .collect();
    let expected = [
        ["expression", "e-dead", "order.placed", "c-e-dead"],
        ["conflict", "e-twice", "order.placed", "c-e-twice"],
        ["unreadable", "", "", ""],
    ];
    assert_eq!(
        ids,
        expected.map(|line| line.map(str::to_owned)),
        "{}",
        said.err
    );
}
