//! The command line as its users meet it: the real binary, its output, messages and exit codes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::database::TestDatabase;

/// A directory to work in, and the binary started there.
struct Desk(tempfile::TempDir);

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn lines(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out:\n{}\nerr:\n{}", self.out, self.err);
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/order.yaml");
        std::fs::copy(example, desk.path("order.yaml")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(line.split_whitespace())
            .current_dir(self.0.path())
            .env_remove("TIDEGATE_CONFIG")
            .env_remove("TIDEGATE_LOG")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Said {
        self.command(line).output().unwrap().into()
    }

    /// Ten orders, and one of each outcome that needs a person.
    fn with_orders() -> Self {
        let desk = Self::new();
        let mut text = String::new();
        for order in 0..10 {
            for (id, event_type, data) in [
                ("placed", "order.placed", json!({"total_cents": 1_000})),
                ("paid", "order.paid", json!({"amount_cents": 1_000})),
                // Delivered twice.
                ("paid", "order.paid", json!({"amount_cents": 1_000})),
                ("again", "order.paid", json!({"amount_cents": 1})),
            ] {
                text.push_str(&event(&format!("{order}-{id}"), event_type, order, &data));
            }
        }
        text.push_str(&event("dead", "order.paid", 90, &json!({})));
        text.push_str(&event(
            "placed-90",
            "order.placed",
            90,
            &json!({"total_cents": "?"}),
        ));
        text.push_str(&event(
            "0-paid",
            "order.paid",
            0,
            &json!({"amount_cents": 7}),
        ));
        text.push_str("no event: hunter2\n");
        desk.write("orders.ndjson", &text);
        desk
    }
}

fn event(id: &str, event_type: &str, order: u32, data: &Value) -> String {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": event_type,
        "subject": format!("o-{order}"), "tenantid": "acme", "correlationid": format!("visit-{order}"),
        "data": data,
    });
    format!("{event}\n")
}

#[test]
fn a_file_becomes_state_once_however_often_it_is_read() {
    let desk = Desk::with_orders();
    let first = desk
        .run("ingest orders.ndjson --machines order.yaml -o json")
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
    ] {
        assert_eq!(counts[what], json!(count), "{what} in {counts}");
    }
    assert!(
        first.err.contains("3 events need a person"),
        "{}",
        first.err
    );
    // The machine is known by now, and the checkpoint says that nothing is left.
    let again = desk.run("ingest orders.ndjson -o json").ended_with(0);
    assert_eq!(again.lines()[0]["received"], json!(0));
    // Under another name it is another source: every key is known.
    let renamed = desk
        .run("ingest orders.ndjson --source other -o json")
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
        other.err.contains("has no `order` with the key `o-1`"),
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
fn what_is_stored_is_shown_to_people_and_programs() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --machines order.yaml --source shop")
        .ended_with(0);
    let tail = desk
        .run("events tail --tenant acme -n 3 -o json")
        .ended_with(0);
    let last = &tail.lines()[2];
    assert_eq!(last["position"], json!("events:shop/0:31"));
    assert_eq!(last["record"]["event"]["correlationid"], json!("visit-90"));
    assert_eq!(tail.lines().len(), 3);
    let table = desk.run("events tail --tenant acme -n 2").ended_with(0);
    assert!(table.out.starts_with("POSITION"), "{}", table.out);
    assert_eq!(table.out.lines().count(), 3);
    assert!(!table.out.contains('\u{1b}'), "colours only on a terminal");
    // A reader that goes away early is no error.
    let mut child = desk
        .command("events tail --tenant acme -n 30")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(
        Said::from(child.wait_with_output().unwrap())
            .ended_with(0)
            .err,
        ""
    );
}

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
    desk.run("ingest orders.ndjson --machines order.yaml --source shop")
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
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    let fixed = machine
        .replace("version: 1", "version: 2")
        .replace("total_cents: event.data.total_cents", "total_cents: 0");
    let (fixed, _tests) = fixed.split_once("tests:").unwrap();
    desk.write("order.yaml", fixed);
    desk.run("ingest orders.ndjson --machines order.yaml --source shop")
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
    desk.run("ingest orders.ndjson --machines order.yaml --source shop")
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
fn what_cannot_be_used_is_said_all_at_once_and_ends_with_two() {
    let desk = Desk::new();
    desk.run("").ended_with(2);
    desk.run("ingset").ended_with(2);
    desk.run("ingest").ended_with(2);
    desk.run("ingest nowhere.ndjson").ended_with(2);
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
        .ended_with(1)
        .lines();
    assert_eq!(found[0]["path"], json!("nod"));
    assert_eq!(found[1]["file"], json!("worse.yaml"));
    assert_eq!(found.len(), 2, "{found:?}");
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
fn a_changed_definition_needs_a_version_of_its_own() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --machines order.yaml")
        .ended_with(0);
    let machine = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    desk.write("order.yaml", &format!("{machine}# changed\n"));
    let refused = desk
        .run("ingest orders.ndjson --machines order.yaml")
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
    let line = "ingest orders.ndjson --machines order.yaml --log-level trace";
    let said = desk.run(line).ended_with(0);
    for canary in ["hunter2", "total_cents", "amount_cents"] {
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
fn r20_what_was_changed_behind_our_back_is_found_and_named() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --machines order.yaml --source shop")
        .ended_with(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use sqlx::{ConnectOptions as _, Connection as _};
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(desk.path("tidegate.db"));
        let mut sql = options.connect().await.unwrap();
        sqlx::raw_sql("update entities set data = '{\"paid_cents\":0,\"total_cents\":1000}' where key = 'o-4'")
            .execute(&mut sql)
            .await
            .unwrap();
        sql.close().await.unwrap();
    });
    let said = desk.run("verify -o json").ended_with(1);
    let place = "tenant acme, order `o-4`, version 2";
    assert!(
        said.err
            .contains(&format!("the first difference: {place}: entity")),
        "{}",
        said.err
    );
    assert_eq!(said.lines()[1]["where"], json!(place));
}

#[test]
fn the_demo_adds_up_and_leaves_what_its_suggestions_need() {
    let desk = Desk::new();
    let said: Said = desk
        .command("demo --events 4000 --seed 5 -o json")
        .env("DEMO_EXIT", "1")
        .output()
        .unwrap()
        .into();
    let said = said.ended_with(0);
    assert!(
        said.lines()
            .iter()
            .all(|row| row["each_tenant"] == json!("ok"))
    );
    assert!(said.err.contains("verified:"), "{}", said.err);
    let (_, suggested) = said.err.split_once("Try:\n").unwrap();
    let commands: Vec<&str> = suggested
        .lines()
        .filter(|line| line.contains(" -c "))
        .collect();
    assert_eq!(commands.len(), 3);
    for command in commands {
        let (_, line) = command.trim().split_once(' ').unwrap();
        assert!(!desk.run(line).ended_with(0).out.is_empty(), "{command}");
    }
    // A second demo replaces the first; what is not a demo's is left alone.
    let again = desk
        .command("demo --events 1000")
        .env("DEMO_EXIT", "1")
        .output()
        .unwrap();
    Said::from(again).ended_with(0);
    let refused = desk.run("demo --dir .").ended_with(2);
    assert!(refused.err.contains("not from a demo"), "{}", refused.err);
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
        .command("ingest many.ndjson --machines order.yaml -o json")
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
    let rest = desk.run("ingest many.ndjson -o json").ended_with(0);
    assert_eq!(
        rest.lines()[0]["admitted"].as_u64().unwrap(),
        30_000 - settled
    );
    let verified = desk.run("verify -o json").ended_with(0);
    assert_eq!(verified.lines()[0]["entities_equal"], json!(30_000));
}

#[test]
fn the_page_about_the_command_line_lists_what_there_is() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let page = std::fs::read_to_string(page).unwrap();
    let help = Desk::new().run("--help").ended_with(0).out;
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    for line in codes.lines() {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        let row = format!("| {code} | {meaning} |");
        assert!(page.contains(&row), "docs/cli.md has no line `{row}`");
    }
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    for line in commands.lines().take_while(|line| !line.is_empty()) {
        let command = line.split_whitespace().next().unwrap();
        let heading = format!("## `tidegate {command}`");
        assert!(page.contains(&heading), "docs/cli.md has no `{heading}`");
    }
}

#[test]
fn postgres_is_migrated_by_hand_and_filled_by_the_same_command() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let test = "postgres_is_migrated_by_hand_and_filled_by_the_same_command";
    let Some(database) = runtime.block_on(TestDatabase::create_empty(test)) else {
        return;
    };
    let desk = Desk::with_orders();
    desk.write(
        "node.yaml",
        "store:\n  kind: postgres\n  postgres:\n    url: ${env:ENGINE_URL}\n    \
         migrate_url: ${env:ADMIN_URL}\n    role_prefix: ${env:ROLE_PREFIX}\n\
         machines: { paths: [order.yaml] }\n",
    );
    let engine = database.prefix().role("engine");
    let prefix = engine.strip_suffix("_engine").unwrap().to_owned();
    let run = |line: &str| -> Said {
        let mut command = desk.command(&format!("{line} -c node.yaml"));
        command
            .env("ENGINE_URL", database.engine_url())
            .env("ADMIN_URL", database.admin_url())
            .env("ROLE_PREFIX", &prefix);
        command.output().unwrap().into()
    };
    // What is printed is what is run, and printing runs nothing.
    let printed = run("migrate --print-sql").ended_with(0).out;
    assert!(printed.contains(&format!("{prefix}_writer")));
    let without_roles = run("migrate --print-sql --roles existing")
        .ended_with(0)
        .out;
    assert!(without_roles.len() < printed.len());
    let migrated = run("migrate -o json").ended_with(0);
    assert!(migrated.lines().len() > 1);
    runtime.block_on(database.let_in(&engine));
    assert_eq!(
        run("migrate --roles existing -o json").ended_with(0).out,
        ""
    );

    let first = run("ingest orders.ndjson -o json").ended_with(0);
    assert_eq!(first.lines()[0]["admitted"], json!(32));
    let again = run("ingest orders.ndjson -o json").ended_with(0);
    assert_eq!(again.lines()[0]["received"], json!(0));
    let state = run("state get order o-3 --tenant acme -o json").ended_with(0);
    assert_eq!(state.lines()[0]["version"], json!(2));
    let discarded = run("dead-letters discard --all --tenant acme -o json").ended_with(0);
    assert_eq!(discarded.lines().len(), 2);
    run("verify").ended_with(0);

    // Without its schema the database is not ready, and the message says what to type.
    runtime.block_on(async {
        use sqlx::{Connection as _, Executor as _};
        let url = database.admin_url();
        let mut admin = sqlx::PgConnection::connect(&url).await.unwrap();
        admin.execute("drop schema tidegate cascade").await.unwrap();
    });
    let refused = run("ingest orders.ndjson").ended_with(3);
    assert!(refused.err.contains("tidegate migrate"), "{}", refused.err);
    let unset = desk.run("verify -c node.yaml").ended_with(2);
    assert!(
        unset.err.contains("`ENGINE_URL` is not set"),
        "{}",
        unset.err
    );
}
