//! Rules about crates, as cargo sees them: who depends on whom, which features a default build has,
//! how many test binaries there are, and how a panic ends.

use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::assert_none;
use crate::tree::{file, files, root};

/// Each links the whole product: a minute of build for everybody, every time.
const TEST_BINARIES_MAX: usize = 6;

/// Features that change what production code does. Only test builds may have them.
/// `contract` is one of the connectors alone: their contract suites.
const TEST_FEATURES: [&str; 3] = ["planted", "failpoints", "contract"];

/// Which of our crates each of them may depend on, in any way.
const EDGES: [(&str, &[&str]); 4] = [
    ("tidegate-engine", &[]),
    ("tidegate-actors", &["tidegate-engine"]),
    ("tidegate-connectors", &["tidegate-engine"]),
    (
        "tidegate",
        &["tidegate-actors", "tidegate-connectors", "tidegate-engine"],
    ),
];

/// Crates of the outside world, and the only ones of ours that may name them.
const OUTSIDE: [(&str, &[&str]); 7] = [
    ("actix", &["tidegate-actors", "tidegate"]),
    ("actix-rt", &["tidegate-actors", "tidegate"]),
    ("sqlx", &["tidegate-connectors", "tidegate"]),
    ("rdkafka", &["tidegate-connectors"]),
    ("async-nats", &["tidegate-connectors"]),
    ("bincode", &["tidegate-engine"]),
    ("serde-saphyr", &["tidegate-engine"]),
];

/// What `engine` must not even carry along: runtimes, sockets, databases and actors.
const NOT_UNDER_ENGINE: [&str; 11] = [
    "actix",
    "actix-rt",
    "async-nats",
    "async-std",
    "hyper",
    "mio",
    "rdkafka",
    "socket2",
    "sqlx",
    "sqlx-core",
    "tokio",
];

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn packages() -> &'static [Value] {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        serde_json::from_str(&cargo(&["metadata", "--no-deps", "--format-version", "1"])).unwrap()
    })["packages"]
        .as_array()
        .unwrap()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// What a package's manifest names, of any kind: normal, for tests, for its build.
fn dependencies(package: &Value) -> impl Iterator<Item = &str> {
    package["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dependency| dependency["name"].as_str().unwrap())
}

#[test]
pub(crate) fn crates_depend_inwards_only() {
    assert_eq!(packages().len(), EDGES.len(), "a new crate needs its edges");
    let mut found = Vec::new();
    for (from, allowed) in EDGES {
        let package = packages().iter().find(|p| name(p) == from).unwrap();
        for to in dependencies(package) {
            if to.starts_with("tidegate") && !allowed.contains(&to) {
                found.push(format!("{from} → {to}: allowed are {allowed:?}"));
            }
        }
    }
    assert_none(
        "src → actors, connectors, engine; actors → engine ← connectors",
        &found,
    );
}

#[test]
pub(crate) fn the_outside_is_named_by_few() {
    let mut found = Vec::new();
    for package in packages() {
        for (outside, allowed) in OUTSIDE {
            if dependencies(package).any(|d| d == outside) && !allowed.contains(&name(package)) {
                found.push(format!("{} → {outside}: only {allowed:?}", name(package)));
            }
        }
    }
    assert_none("the outside comes in at one place", &found);
}

#[test]
fn the_rules_carry_no_runtime_socket_or_database_along() {
    let tree = cargo(&[
        "tree",
        "--package",
        "tidegate-engine",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    let found: Vec<String> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| NOT_UNDER_ENGINE.contains(name))
        .map(str::to_owned)
        .collect();
    assert_none("engine depends, directly or not, on", &found);

    let engine = packages()
        .iter()
        .find(|p| name(p) == "tidegate-engine")
        .unwrap();
    for dependency in engine["dependencies"].as_array().unwrap() {
        if dependency["name"] == "chrono" {
            assert_eq!(dependency["uses_default_features"], false);
            let features = dependency["features"].as_array().unwrap();
            assert!(
                !features.iter().any(|f| f == "clock" || f == "now"),
                "chrono's clock in engine: time comes in through `Clock`"
            );
        }
    }
}

#[test]
fn a_default_build_has_no_planted_bug_and_no_failpoint() {
    for feature in TEST_FEATURES {
        assert!(
            packages()
                .iter()
                .any(|package| package["features"][feature].is_array()),
            "the feature `{feature}` is gone; this test would prove nothing"
        );
    }
    let active = cargo(&[
        "tree",
        "--package",
        "tidegate",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}|{f}",
    ]);
    let ours: Vec<&str> = active
        .lines()
        .filter(|line| line.starts_with("tidegate"))
        .collect();
    assert!(ours.len() >= EDGES.len(), "cargo tree changed its form");
    let found: Vec<String> = ours
        .iter()
        .filter_map(|line| line.split_once('|'))
        .filter(|(_, features)| {
            features
                .split([',', ' '])
                .any(|f| TEST_FEATURES.contains(&f))
        })
        .map(|(package, features)| format!("{package}: {features}"))
        .collect();
    assert_none("test features in a default build", &found);
}

/// With no bug switched on, a build with `planted` does what a default build does: the features bring
/// no dependency and no feature of one, and all that they change is one function each, of which
/// `planted::active` answers the same (a unit test there says so, in both builds).
#[test]
fn a_test_feature_changes_one_function_and_nothing_else() {
    const SWITCHES: [(&str, &str); 2] = [
        ("planted", "engine/src/planted.rs"),
        ("failpoints", "actors/src/failpoint.rs"),
    ];
    let mut found = Vec::new();
    for (feature, home) in SWITCHES {
        for package in packages() {
            let Some(brings) = package["features"].get(feature) else {
                continue;
            };
            let more = brings.as_array().unwrap().iter().filter(|brought| {
                let brought = brought.as_str().unwrap();
                !(brought.starts_with("tidegate-") && brought.ends_with(&format!("/{feature}")))
            });
            found.extend(
                more.map(|brought| format!("{}: {feature} brings {brought}", name(package))),
            );
        }
        let gate = format!("feature = \"{feature}\"");
        let gated = files().iter().filter(|file| file.text.contains(&gate));
        let elsewhere = gated.filter(|file| file.is_production() && file.path != home);
        found.extend(
            elsewhere.map(|file| format!("{}: asks for {gate}; only {home} may", file.path)),
        );
        assert!(
            files()
                .iter()
                .any(|file| file.path == home && file.text.contains(&gate)),
            "{home} moved; this test would prove nothing"
        );
    }
    assert_none("what test features change", &found);
}

#[test]
fn a_panic_unwinds_in_every_profile() {
    // Supervision rebuilds what panicked; an abort would take the node with it.
    let mut found = Vec::new();
    for file in files() {
        if file.path.ends_with("Cargo.toml") || file.path.contains(".cargo/config") {
            for (number, line) in file.text.lines().enumerate() {
                if line.contains("abort") && line.contains("panic") {
                    found.push(format!("{}:{}: {line}", file.path, number + 1));
                }
            }
        }
    }
    assert_none("panic = \"unwind\"", &found);
    const { assert!(cfg!(panic = "unwind")) };
    let release = file("Cargo.toml")
        .text
        .split("[profile.release]")
        .nth(1)
        .unwrap();
    assert!(
        release
            .split("\n[")
            .next()
            .unwrap()
            .contains("panic = \"unwind\"")
    );
}

#[test]
fn there_are_few_test_binaries() {
    let targets = || {
        let of_each = packages().iter().map(|package| &package["targets"]);
        of_each.flat_map(|targets| targets.as_array().unwrap())
    };
    let binaries: Vec<&str> = targets()
        .filter(|target| target["kind"][0] == "test")
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    assert!(
        binaries.len() <= TEST_BINARIES_MAX,
        "{binaries:?}: a promise is a module of `it`, not a binary"
    );
    // Beside these only the libraries are linked with tests: theirs stand beside private code.
    let found: Vec<String> = targets()
        .filter(|target| target["kind"][0] != "custom-build")
        .filter(|target| {
            let may = ["test", "lib"]
                .iter()
                .any(|kind| target["kind"][0] == *kind);
            target["test"].as_bool() != Some(may)
        })
        .map(|target| {
            format!(
                "{}: {}, test = {}",
                target["name"], target["kind"], target["test"]
            )
        })
        .collect();
    assert_none(
        "tests are in libraries and test binaries, and run there",
        &found,
    );
}

#[test]
fn every_crate_has_the_lints() {
    for package in packages() {
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{}: `[lints] workspace = true` is missing",
            name(package)
        );
    }
}
