//! Every guide is walked as a reader would: its files are saved, its commands run in order, and what it
//! shows is what they print.

use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use clap::Parser as _;
use clap::error::ErrorKind;
use tidegate::cli::args::Cli;
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
        script = script.replace(written, here);
    }
    // What it leaves running ends with it, whatever goes wrong.
    let script = format!(
        "trap 'jobs -p > left.txt; kill $(cat left.txt) 2> kill.log || true' EXIT\n{script}"
    );
    let binary = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let desk = Desk::new();
    let mut command = desk.shell(&script);
    command.env("PATH", format!("{}:{path}", binary.display()));
    let said = Said::from(command.output().unwrap());
    let node_log = std::fs::read_to_string(desk.path("node.log")).unwrap_or_default();
    assert_eq!(said.code, 0, "{}\n{}\n{node_log}", said.out, said.err);
    for shown in shown {
        let missing = format!("{page} shows what is not printed:\n{shown}\n");
        assert!(
            said.out.contains(&shown),
            "{missing}{}\n{}",
            said.out,
            said.err
        );
    }
    said
}

/// A port that nobody listens at, below those that a system hands out itself: a client that asks again and
/// again until somebody listens could be given such a one, and find itself.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What a guide that begins with an empty database has written, and what stands there in a test: the server
/// is shared, so roles have names of their own.
fn on(database: &TestDatabase) -> Vec<(&'static str, String)> {
    let prefix = database.prefix();
    let engine = prefix.role("engine");
    let reports = prefix.role("reports");
    let port = free_port();
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

/// The same beside an empty database of its own; `None` without a server.
fn walked_on_a_database(page: &str) -> Option<Said> {
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(TestDatabase::create_empty(page))?;
    Some(walked(page, &on(&database)))
}

#[test]
fn the_first_pipeline_ends_in_a_joined_query() {
    let Some(said) = walked_on_a_database("first-pipeline.md") else {
        return;
    };
    assert_eq!(said.out.matches("\"duplicate\"").count(), 1, "{}", said.out);
    assert_eq!(said.out.matches("\"admitted\"").count(), 5, "{}", said.out);
}

#[test]
fn a_week_with_a_node_loses_nothing() {
    let Some(said) = walked_on_a_database("operating.md") else {
        return;
    };
    let lines: Vec<&str> = said.out.lines().collect();
    let statuses = lines.iter().filter(|line| line.parse::<u16>().is_ok());
    let statuses: Vec<&str> = statuses.copied().collect();
    // Of `pay`: 1 twice, 2, 3, 1 with other content, 4, 5 to nobody, 5, and 6 for a tenant that is closed.
    let expected = [
        "200", "200", "200", "200", "409", "200", "000", "200", "403",
    ];
    assert_eq!(statuses, expected, "{}", said.out);
    for line in ["the node cannot run yet: 1", "nobody is there", "drained"] {
        assert!(lines.contains(&line), "{line}\n{}", said.out);
    }
}

#[test]
fn http_by_hand_is_as_it_is_written() {
    walked("http.md", &[("8080", free_port().to_string())]);
}

/// What the pages show of the command line is typed as the command line takes it.
#[test]
fn every_command_line_in_the_pages_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    for directory in ["docs", "docs/guides", "deploy"] {
        for entry in std::fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut seen = 0;
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for line in command_lines(&text) {
            seen += 1;
            let Err(error) = Cli::try_parse_from(&line) else {
                continue;
            };
            // What a shell fills in stands there as its name.
            let filled_in = line.iter().any(|word| word.starts_with('$'));
            let fine = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                ErrorKind::ValueValidation => filled_in,
                _ => false,
            };
            assert!(fine, "{}: {}\n{error}", page.display(), line.join(" "));
        }
    }
    assert!(seen > 60, "{seen} found: are they still written so?");
}

/// With these begins what is the shell's.
const SHELL_WORDS: [&str; 6] = ["||", "&&", "&", ">", "2>", "#"];

/// The lines of fenced blocks that begin with `tidegate`, in words, without what a shell does with them.
fn command_lines(page: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    let mut fenced = false;
    for line in page.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        let mut piped = line.split(" | ");
        if let Some(line) = piped.find(|part| fenced && part.starts_with("tidegate ")) {
            let words = line.split_whitespace();
            let words = words.take_while(|word| !SHELL_WORDS.contains(word));
            lines.push(words.map(|word| word.replace('"', "")).collect());
        }
    }
    lines
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
    assert_eq!(commands.len(), 6);
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
