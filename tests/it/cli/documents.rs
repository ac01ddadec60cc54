//! What the pages say about the command line is what it does.

use std::path::Path;

use super::Desk;

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
