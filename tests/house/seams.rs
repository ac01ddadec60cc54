//! Rules about seams: who may know what stands behind them. They go by names and not by paths, since a
//! re-export has another path.

use crate::assert_none;
use crate::tree::{File, files};

/// The node's modules that may name `connectors` at all. When `migrate` runs, there is no store yet: it
/// makes the database that one needs, and so names what Postgres has for that.
const WIRING: [&str; 3] = ["src/wiring.rs", "src/stores.rs", "src/cli/migrate.rs"];

/// R37. Which bus delivers is known to `connectors`, where it is implemented, and to the node's
/// wiring, where it is chosen. Everything else sees the `EventBus` seam: the crates by their edges,
/// the node's own modules by what they write.
#[test]
fn r37_application_code_depends_on_the_event_bus_seam_only() {
    crate::crates::crates_depend_inwards_only();
    crate::crates::the_outside_is_named_by_few();
    assert_only_there("EventBus", &["rdkafka", "async_nats"], "src/wiring.rs");
}

#[test]
fn the_node_depends_on_the_store_seam_only() {
    assert_only_there("StateStore", &[], "src/stores.rs");
}

/// R06. Who is behind a token is decided at the edge, once: rules and movement see the tenant that came of
/// it, and know no token, scope or credential.
#[test]
fn r06_rules_and_movement_know_no_authentication() {
    let mut found = Vec::new();
    let inner = |file: &&File| {
        let is_rule = file.path.starts_with("engine/src/") || file.path.starts_with("actors/src/");
        is_rule && file.is_production() && !file.path.starts_with("engine/src/access/")
    };
    let mut looked_at = 0;
    for file in files().iter().filter(inner) {
        looked_at += 1;
        let code = file.code();
        let named = ["access::", "Credential", "TokenId", "Authorization"];
        let named = named.iter().filter(|name| {
            let mut places = code.match_indices(*name);
            places.any(|(at, _)| code[..at].ends_with(ends_a_name))
        });
        found.extend(
            named.map(|name| format!("{}: names `{name}`; only the node's edge may", file.path)),
        );
    }
    assert!(looked_at > 80, "{looked_at} files");
    assert_none("who sends is decided at the edge", &found);
}

/// What implements a seam in `connectors`, and the libraries it is made with, are named in `home` alone.
#[track_caller]
fn assert_only_there(seam: &str, libraries: &[&str], home: &str) {
    let mut banned = implementors(seam);
    assert!(banned.len() >= 2, "{seam}: found {banned:?}");
    banned.extend(libraries.iter().map(|library| (*library).to_owned()));
    let mut found = Vec::new();
    let outside = |file: &&File| file.is_production() && !file.path.starts_with("connectors/");
    for file in files().iter().filter(outside) {
        let (path, code) = (file.path.as_str(), file.code());
        let names: Vec<&str> = code.split(ends_a_name).collect();
        let named = banned.iter().filter(|name| names.contains(&name.as_str()));
        if path != home {
            found.extend(named.map(|name| format!("{path}: names `{name}`; take a `{seam}`")));
        }
        if names.contains(&"tidegate_connectors") {
            if !WIRING.contains(&path) {
                found.push(format!(
                    "{path}: names `tidegate_connectors`; only {WIRING:?} may"
                ));
            }
            found.extend(handed_on(path, &code));
        }
    }
    assert_none(
        &format!("only {home} knows what is behind `{seam}`"),
        &found,
    );
}

/// The types of `connectors` that implement a seam, by their code: a new one is among them at once.
fn implementors(seam: &str) -> Vec<String> {
    let head = format!("impl {seam} for ");
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is_production()) {
        if file.path.starts_with("connectors/") {
            for rest in file.code().split(&head).skip(1) {
                found.extend(rest.split(ends_a_name).next().map(str::to_owned));
            }
        }
    }
    found
}

fn ends_a_name(c: char) -> bool {
    !(c.is_alphanumeric() || c == '_')
}

/// Public imports and aliases: under another name, everybody could name what the wiring alone may.
fn handed_on(path: &str, code: &str) -> Vec<String> {
    let lines = code.lines().enumerate();
    let public = lines.filter(|(_, line)| {
        let mut words = line.split_whitespace();
        let is_public = words.next().is_some_and(|word| word.starts_with("pub"));
        is_public && matches!(words.next(), Some("use" | "type"))
    });
    public
        .map(|(number, _)| {
            let line = number + 1;
            format!("{path}:{line}: hands on what it names; give it a type of its own")
        })
        .collect()
}
