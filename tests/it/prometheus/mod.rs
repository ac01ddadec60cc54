//! A real Prometheus: its checker reads the rules, its tester runs their tests, and it asks what each panel
//! of the boards asks of a node that it scrapes.

#[cfg(feature = "kafka")]
mod every_query;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::boards::rules;
use crate::support::server;

/// The directory of `prometheus` and `promtool`; `deploy/dev/prometheus` prints it.
const PROMETHEUS: &str = "TIDEGATE_TEST_PROMETHEUS";

fn tool(test: &str, name: &str) -> Option<PathBuf> {
    server(test, PROMETHEUS).map(|directory| Path::new(&directory).join(name))
}

#[test]
fn r41_rules_pass_the_checker_and_their_own_tests() {
    let Some(promtool) = tool("rules", "promtool") else {
        return;
    };
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
    for arguments in [
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "alerts.test.yaml"],
        ["test", "rules", "recorded.test.yaml"],
    ] {
        let ended = Command::new(&promtool)
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success(),
            "{arguments:?}: {said}{}",
            String::from_utf8_lossy(&ended.stdout)
        );
    }
}

#[test]
fn each_alert_has_a_test_in_which_it_fires_and_each_recorded_series_one_of_its_values() {
    let alerts = include_str!("../../../deploy/prometheus/alerts.test.yaml");
    let recorded = include_str!("../../../deploy/prometheus/recorded.test.yaml");
    for rule in rules() {
        let (tests, is_tested) = match rule.is_alert {
            true => (
                alerts,
                format!("alertname: {}\n        exp_alerts:\n", rule.name),
            ),
            false => (recorded, format!("- expr: {}\n", rule.name)),
        };
        assert!(tests.contains(&is_tested), "{} has no test", rule.name);
    }
}
