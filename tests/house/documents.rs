//! Rules about what people read: commands that exist, links that lead somewhere, paths that are there.

use crate::assert_none;
use crate::tree::{File, file, files, root};

/// What fits a screen before a visitor scrolls.
const FIRST_SCREEN_LINES: usize = 45;

fn documents() -> impl Iterator<Item = &'static File> {
    files().iter().filter(|file| file.path.ends_with(".md"))
}

/// The folder of a file, with its final `/`.
fn folder(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..=at])
}

#[test]
fn the_readme_begins_with_the_two_commands() {
    let readme = &file("README.md").text;
    let screen: Vec<&str> = readme.lines().take(FIRST_SCREEN_LINES).collect();
    for command in ["make demo", "make test"] {
        assert!(
            screen.iter().any(|line| line.starts_with(command)),
            "README.md: `{command}` is not in the first {FIRST_SCREEN_LINES} lines"
        );
    }
}

#[test]
fn the_promise_is_said_exactly_and_never_more() {
    let promise = "effects on state exactly once per tenant and idempotency key within the dedupe \
                   window; delivery at least once";
    let readme = file("README.md").text.replace(['\n', '*'], " ");
    let readme = readme.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        readme.contains(promise),
        "README.md does not say: {promise}"
    );

    let boast = "exactly-once delivery";
    let found: Vec<String> = documents()
        .filter(|file| file.text.to_lowercase().contains(boast))
        // The page that lists what is absent says so in a heading of its own.
        .filter(|file| file.path != "docs/ARCHITECTURE.md")
        .map(|file| format!("{}: nobody has {boast}; effects are once", file.path))
        .collect();
    assert_none("we promise what we can hold", &found);
}

#[test]
fn every_make_target_that_is_named_exists() {
    let makefile = &file("Makefile").text;
    let mut found = Vec::new();
    for document in documents() {
        for word in document.text.split("make ").skip(1) {
            let target: String = word
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '-')
                .collect();
            let before_is_code = document.text.contains(&format!("`make {target}"))
                || document.text.contains(&format!("\nmake {target}"));
            if before_is_code && !makefile.contains(&format!("\n{target}:")) {
                found.push(format!("{}: `make {target}`", document.path));
            }
        }
    }
    assert_none("the Makefile has no such target", &found);
}

#[test]
fn every_link_leads_somewhere() {
    let mut found = Vec::new();
    for document in documents() {
        for piece in document.text.split("](").skip(1) {
            let target = piece.split(')').next().unwrap();
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            if !root().join(folder(&document.path)).join(path).exists() {
                found.push(format!("{}: {target}", document.path));
            }
        }
    }
    assert_none("links that lead nowhere", &found);
}

#[test]
fn the_architecture_page_names_files_that_exist() {
    let page = file("docs/ARCHITECTURE.md");
    let found: Vec<String> = page
        .text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| word.contains('/') && !word.contains([' ', '\n']))
        .filter(|word| !root().join(word).exists())
        .map(str::to_owned)
        .collect();
    assert_none("docs/ARCHITECTURE.md names what is not there", &found);
}

#[test]
fn every_decision_is_linked() {
    let page = &file("docs/ARCHITECTURE.md").text;
    let found: Vec<String> = documents()
        .filter(|file| file.path.starts_with("docs/adr/"))
        .filter(|file| !page.contains(file.path.trim_start_matches("docs/")))
        .map(|file| format!("{}: give it a line in docs/ARCHITECTURE.md", file.path))
        .collect();
    assert_none("decisions that nobody finds", &found);
}

#[test]
fn r49_ci_runs_what_we_tell_people_to_run_and_looks_at_dependencies() {
    let run = &file(".ci/run").text;
    for command in ["make test", "make demo", "make doc", "make deny", "clippy"] {
        assert!(run.contains(command), ".ci/run does not run `{command}`");
    }
}

#[test]
fn r50_the_security_policy_says_where_how_soon_and_for_what() {
    let policy = &file("SECURITY.md").text;
    for part in ["privately", "72 hours", "## Supported versions"] {
        assert!(policy.contains(part), "SECURITY.md does not say: {part}");
    }
    assert!(file("README.md").text.contains("(SECURITY.md)"));
}
