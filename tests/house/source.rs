//! Rules about source text: how long it may be, what it may not call, how it says what it is. Most
//! bans are clippy's too (`clippy.toml`, with reasons); here they also hold in code that clippy does
//! not see, such as other features, and where an `#[allow]` crept in.

use crate::assert_none;
use crate::tree::{File, files};

/// A file beyond this has two nouns in it, most often.
const PRODUCTION_LINES_MAX: usize = 500;

/// File names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 9] = [
    "common", "helper", "helpers", "info", "manager", "misc", "shared", "util", "utils",
];

/// What only the named file, or files below the named folder, may write.
const ONLY_THERE: [(&str, &str, &str); 4] = [
    (
        "bincode::",
        "engine/src/codec.rs",
        "binary encoding is in one module, ADR 0001",
    ),
    (
        "serde_saphyr::",
        "engine/src/yaml.rs",
        "YAML is read in one module",
    ),
    (
        "cel::",
        "engine/src/machine/",
        "expressions belong to machines",
    ),
    (
        "sqlx::",
        "connectors/src/store/",
        "SQL of the product is the stores'",
    ),
];

/// What no code calls, and what to do instead.
const NEVER: [(&str, &str); 6] = [
    (
        ".do_send(",
        "it queues without a bound: take a permit, then `try_send` or `send`",
    ),
    (
        ".notify(",
        "a message past one's own mailbox has no bound: call the method",
    ),
    ("unbounded_channel", "every queue has a bound: `channel(n)`"),
    ("unbounded(", "every queue has a bound: `channel(n)`"),
    (
        "todo!(",
        "what is not done is not in the tree: leave it out",
    ),
    (
        "unimplemented!(",
        "what is not done is not in the tree: leave it out",
    ),
];

/// What the rules must not know of: the outside, and anything that differs between two runs.
const NOT_IN_ENGINE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "SystemTime::now",
    "Instant::now",
    "Utc::now",
    "rand::",
    "tokio::",
];

fn rust() -> impl Iterator<Item = &'static File> {
    files().iter().filter(|file| file.is_rust())
}

fn production() -> impl Iterator<Item = &'static File> {
    files().iter().filter(|file| file.is_production())
}

/// `path:line` of every place where `needle` stands in the code of `file`.
fn places<'a>(file: &'a File, code: &'a str, needle: &'a str) -> impl Iterator<Item = String> + 'a {
    code.lines()
        .enumerate()
        .filter(move |(_, line)| line.contains(needle))
        .map(move |(number, _)| format!("{}:{}", file.path, number + 1))
}

#[test]
fn files_are_short_or_say_why_not() {
    let mut found = Vec::new();
    for file in production() {
        let lines = file.production_lines();
        let long = lines > PRODUCTION_LINES_MAX && !file.text.contains("\n//! Long because:");
        if long {
            found.push(format!(
                "{}: {lines} lines; split it by noun, or give the reason in `//! Long because: …`",
                file.path
            ));
        }
    }
    assert_none("a file has at most 500 production lines", &found);
}

#[test]
fn every_file_says_what_it_owns() {
    let silent: Vec<String> = rust()
        .filter(|file| !file.path.ends_with("tests.rs"))
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| format!("{}: begins without a `//!` line", file.path))
        .collect();
    assert_none("a module says what it owns and what it never does", &silent);
}

#[test]
fn file_names_say_something() {
    let empty: Vec<String> = rust()
        .filter(|file| {
            file.path
                .trim_end_matches(".rs")
                .split('/')
                .any(|part| EMPTY_NAMES.contains(&part))
        })
        .map(|file| format!("{}: name the noun it owns", file.path))
        .collect();
    assert_none("no file or folder has an empty name", &empty);
}

#[test]
fn banned_calls_are_nowhere() {
    let mut found = Vec::new();
    for file in rust() {
        let code = file.code();
        for (needle, instead) in NEVER {
            found.extend(places(file, &code, needle).map(|place| format!("{place}: {instead}")));
        }
    }
    assert_none("banned calls", &found);
}

#[test]
fn a_statement_on_postgres_names_its_columns() {
    let mut found = Vec::new();
    let statements = |file: &&File| file.path.starts_with("connectors/src/store/postgres/");
    for file in production().filter(statements) {
        let text = file.text.replace("\\\n", " ");
        for (at, name) in text.match_indices("select * from ") {
            let from = text[at + name.len()..].trim_start();
            // A function's result is its own, but for one that answers with a table's rows.
            let table = from.split([' ', '"', '(']).next().unwrap_or_default();
            let is_function = from[table.len()..].starts_with('(');
            if !is_function || table == "tidegate.claim" {
                found.push(format!("{}: `select * from {table}`", file.path));
            }
        }
    }
    let rule = "a prepared statement must not change its result when a migration adds a column";
    assert_none(rule, &found);
}

#[test]
fn every_select_is_biased() {
    let mut found = Vec::new();
    for file in rust() {
        let code = file.code();
        for (at, name) in code.match_indices("select!") {
            let inside = code[at + name.len()..].trim_start();
            let first = inside.trim_start_matches(['{', '(']).trim_start();
            if !first.starts_with("biased;") {
                let line = code[..at].lines().count();
                found.push(format!(
                    "{}:{line}: begin it with `biased;`, or no seed replays it",
                    file.path
                ));
            }
        }
    }
    assert_none("`select!` draws a random branch unless biased", &found);
}

#[test]
fn what_belongs_to_one_module_stays_there() {
    let mut found = Vec::new();
    for file in production() {
        let code = file.code();
        for (needle, home, why) in ONLY_THERE {
            // The demo holds its own totals against what plain SQL says, past the seam on purpose.
            let past_the_seam = needle == "sqlx::" && file.path == "src/demo/compare.rs";
            if !file.path.starts_with(home) && !past_the_seam {
                found.extend(
                    places(file, &code, needle)
                        .map(|place| format!("{place}: `{needle}` stands in {home} only; {why}")),
                );
            }
        }
    }
    assert_none("one module for each of these", &found);
}

#[test]
fn the_rules_know_no_file_socket_thread_or_clock() {
    let mut found = Vec::new();
    for file in production().filter(|file| file.path.starts_with("engine/")) {
        let code = file.code();
        for needle in NOT_IN_ENGINE {
            found.extend(
                places(file, &code, needle)
                    .map(|place| format!("{place}: `{needle}` comes in through a parameter")),
            );
        }
    }
    assert_none("engine is pure", &found);
}

#[test]
fn no_test_is_switched_off() {
    let mut found = Vec::new();
    for file in rust() {
        let code = file.code();
        for needle in ["#[ignore", "assert!(true)"] {
            found.extend(places(file, &code, needle).map(|place| {
                format!("{place}: a test that cannot run says SKIPPED with its reason")
            }));
        }
    }
    assert_none("tests check something", &found);
}

#[test]
fn nothing_is_left_for_later_in_a_comment() {
    // Written apart, or this file would be the first to be found.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut found = Vec::new();
    for file in files() {
        for word in words {
            found.extend(
                places(file, &file.text, word)
                    .map(|place| format!("{place}: do it, or open an issue and leave it out")),
            );
        }
    }
    assert_none("no notes to ourselves in the tree", &found);
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    let here = crate::tree::root().to_str().unwrap();
    let homes = [
        here,
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/ro", "ot/"),
    ];
    let mut found = Vec::new();
    for file in files() {
        for home in homes {
            found.extend(
                places(file, &file.text, home)
                    .map(|place| format!("{place}: `{home}` exists on one machine only")),
            );
        }
    }
    assert_none("the tree works anywhere", &found);
}
