//! `tidegate demo`.

use serde_json::json;

use super::{Desk, Said};

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
    assert!(said.err.contains("The demo took "), "{}", said.err);
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
