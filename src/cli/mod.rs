//! The command line: reads it, runs the command, and turns what came of it into an exit code. Data goes
//! to standard output, everything else to standard error.

pub mod args;
mod check;
pub mod exit;
pub mod output;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use exit::{Exit, Failure};
use output::Output;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Help and version end with 0, a command line that cannot be read with 2: clap's own codes are ours.
    let cli = Cli::parse();
    let exit = match run(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(std::io::stderr(), "tidegate: {failure}");
            }
            failure.exit
        }
    };
    exit.into()
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    let mut output = Output::stdout(cli.global.output);
    let config = cli.global.config.as_deref();
    match cli.command {
        Command::Validate(files) => check::validate(&files.files, config, &mut output),
        Command::Test(files) => check::test(&files.files, config, &mut output),
    }
}
