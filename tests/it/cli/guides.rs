//! Every guide is walked as a reader would: its files are saved, its commands run in order, and what it
//! shows is what they print.

use std::path::Path;

use tokio::runtime::Runtime;

use super::own_machines::{EXAMPLE_LINE as LINE, EXAMPLE_PROCESS};
use super::{Desk, Said};
use crate::support::database::{PASSWORD, TestDatabase};

/// What the guide about machines in Rust is about.
const EXAMPLE: &str = include_str!("../../../examples/own_machines.rs");

/// The script that a guide is: `Save this as` makes a file of the block that follows, `sh` runs. Beside it
/// what it shows, each `text` block on its own.
fn script(page: &str) -> (String, Vec<String>) {
    let (mut script, mut shown) = (String::new(), Vec::new());
    let mut prose = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            prose = format!("{prose} {line}");
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let body = body.join("\n");
        match language {
            "sh" => script += &format!("{body}\n"),
            "text" => shown.push(body),
            "rust" => assert!(
                EXAMPLE.contains(&body),
                "the example has other lines:\n{body}"
            ),
            "yaml" => {
                let (_, name) = prose.rsplit_once("Save this as `").unwrap();
                let (name, _) = name.split_once('`').unwrap();
                script += &format!("cat > {name} <<'END_OF_FILE'\n{body}\nEND_OF_FILE\n");
            }
            other => panic!("a block of `{other}`: sh, yaml, text or rust is walked"),
        }
        prose.clear();
    }
    (script, shown)
}

/// Walks `docs/guides/PAGE` with `instead` of what is written there, on its own desk.
fn walked(page: &str, instead: &[(&str, String)]) -> Said {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides");
    let text = std::fs::read_to_string(path.join(page)).unwrap();
    let (mut script, shown) = script(&text);
    for (written, here) in instead {
        assert!(script.contains(written), "{page} has no `{written}`");
        script = script.replace(written, here);
    }
    // What it leaves running ends with it, whatever goes wrong.
    let script = format!("trap 'kill $(jobs -p) 2> kill.log || true' EXIT\n{script}");
    let binary = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let desk = Desk::new();
    let mut command = desk.shell(&script);
    command.env("PATH", format!("{}:{path}", binary.display()));
    let said = Said::from(command.output().unwrap());
    let node_log = std::fs::read_to_string(desk.path("node.log")).unwrap_or_default();
    assert_eq!(said.code, 0, "{}\n{}\n{node_log}", said.out, said.err);
    for shown in shown {
        assert!(said.out.contains(&shown), "{}\n{}", said.out, said.err);
    }
    said
}

/// What a guide that begins with an empty database has written, and what stands there in a test: the server
/// is shared, so roles have names of their own.
fn on(database: &TestDatabase) -> Vec<(&'static str, String)> {
    let prefix = database.prefix();
    let engine = prefix.role("engine");
    let reports = prefix.role("reports");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = port.local_addr().unwrap().port();
    vec![
        ("postgres://postgres@localhost/shop", database.admin_url()),
        (
            "postgres://tidegate_engine:engine-password@localhost/shop",
            database.engine_url(),
        ),
        (
            "postgres://reports:reports-password@localhost/shop",
            database.url_of(&reports),
        ),
        ("engine-password", PASSWORD.to_owned()),
        ("reports-password", PASSWORD.to_owned()),
        ("create role reports", format!("create role {reports}")),
        ("'reports'", format!("'{reports}'")),
        ("to reports", format!("to {reports}")),
        ("tidegate_engine", engine.clone()),
        ("tidegate_reader", prefix.role("reader")),
        (
            "  postgres:\n",
            format!(
                "  postgres:\n    role_prefix: {}\n",
                engine.strip_suffix("_engine").unwrap()
            ),
        ),
        ("8080", port.to_string()),
    ]
}

#[test]
fn the_first_pipeline_ends_in_a_joined_query() {
    let runtime = Runtime::new().unwrap();
    let test = "the_first_pipeline_ends_in_a_joined_query";
    let Some(database) = runtime.block_on(TestDatabase::create_empty(test)) else {
        return;
    };
    let said = walked("first-pipeline.md", &on(&database));
    assert_eq!(said.out.matches("\"duplicate\"").count(), 1, "{}", said.out);
    assert_eq!(said.out.matches("\"admitted\"").count(), 5, "{}", said.out);
}

#[test]
fn a_machine_is_upgraded_and_not_taken_back() {
    let said = walked("upgrading.md", &[]);
    assert!(said.err.contains("version 3 lacks states"), "{}", said.err);
}

#[test]
fn a_machine_in_rust_is_a_binary_of_its_own() {
    let this = std::env::current_exe().unwrap();
    let own = format!("{} --exact {EXAMPLE_PROCESS} --nocapture", this.display());
    // `LINE=… test-binary` is the example's process.
    let written = "cargo run -q --example own_machines -- ";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guides");
    let guide = std::fs::read_to_string(path.join("machine-in-rust.md")).unwrap();
    let commands = guide.lines().filter_map(|line| line.strip_prefix(written));
    let commands: Vec<&str> = commands.collect();
    assert_eq!(commands.len(), 3);
    let instead: Vec<(String, String)> = commands
        .iter()
        .map(|line| (format!("{written}{line}"), format!("{LINE}='{line}' {own}")))
        .collect();
    let instead: Vec<(&str, String)> = instead
        .iter()
        .map(|(written, here)| (written.as_str(), here.clone()))
        .collect();
    walked("machine-in-rust.md", &instead);
}
