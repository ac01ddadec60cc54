//! A binary of one's own, with machines in Rust and the whole command line. The binary is this test's own
//! process, started again.

use std::process::Command;
use std::sync::Arc;

use clap::Parser as _;
use serde_json::json;
use tidegate::cli::args::Cli;
use tidegate_engine::machine::Processor;
use tidegate_engine::machine::order::order_processor;

use super::{Desk, Said, event};

/// The command line of the process that is started again.
const LINE: &str = "TIDEGATE_TEST_OWN_MACHINES";

/// What `main` of such a binary does; nothing in a process that was not started for it.
#[test]
fn process_with_own_machines() {
    let Ok(line) = std::env::var(LINE) else {
        return;
    };
    let own: Arc<dyn Processor> = Arc::new(order_processor().unwrap());
    let cli = Cli::parse_from(std::iter::once("tidegate").chain(line.split_whitespace()));
    std::process::exit(tidegate::cli::carry_out(cli, &[own]) as i32);
}

/// `examples/own_machines.rs`, whose `main` is not called here.
#[allow(dead_code)]
#[path = "../../../examples/own_machines.rs"]
mod example;

/// The command line of the example's process.
pub(super) const EXAMPLE_LINE: &str = "TIDEGATE_TEST_EXAMPLE";
pub(super) const EXAMPLE_PROCESS: &str = "cli::own_machines::process_with_the_example";

/// What the example's `main` does; nothing in a process that was not started for it.
#[test]
fn process_with_the_example() {
    let Ok(line) = std::env::var(EXAMPLE_LINE) else {
        return;
    };
    let cli = Cli::parse_from(std::iter::once("tidegate").chain(line.split_whitespace()));
    let own = example::machines().unwrap();
    std::process::exit(tidegate::cli::carry_out(cli, &own) as i32);
}

fn run(desk: &Desk, line: &str) -> Said {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = "cli::own_machines::process_with_own_machines";
    command
        .args(["--exact", test, "--nocapture"])
        .env(LINE, line);
    desk.at_home(command).output().unwrap().into()
}

#[test]
fn a_binary_with_machines_in_rust_has_the_whole_command_line() {
    let desk = Desk::with_orders();
    let ingest = "ingest orders.ndjson --tenant acme --source shop";
    // Without machines there is nothing to do: it is the binary's own that make the difference.
    desk.run(ingest).ended_with(2);
    run(&desk, ingest).ended_with(0);
    let state = desk
        .run("state get order o-3 --tenant acme -o json")
        .ended_with(0);
    assert_eq!(state.lines()[0]["status"], json!("paid"));

    // What stands in the store is its name: only this binary can apply and replay it.
    run(&desk, "verify").ended_with(0);
    desk.run("verify").ended_with(1);
    let retry = "dead-letters retry --all --tenant acme";
    desk.run(retry).ended_with(3);
    let said = run(&desk, retry);
    assert!(said.out.contains("still dead"), "{}{}", said.out, said.err);

    // Started again with nothing new: the same machine is active already.
    run(&desk, ingest).ended_with(0);
    desk.write(
        "more.ndjson",
        &event("x", "order.placed", 70, &json!({"total_cents": 1})),
    );
    let twice = run(
        &desk,
        "ingest more.ndjson --tenant acme --machines order.yaml",
    )
    .ended_with(2);
    assert!(twice.err.contains("and in this binary"), "{}", twice.err);
}
