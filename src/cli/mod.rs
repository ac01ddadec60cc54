//! The command line: reads it, runs the command, and turns what came of it into an exit code. Data goes
//! to standard output, everything else to standard error.

mod access;
pub mod access_args;
pub mod args;
mod check;
mod dead_letters;
mod dev;
mod doctor;
pub mod exit;
mod health;
mod history;
mod ingest;
pub mod ingest_args;
pub mod lag;
mod look;
mod migrate;
pub mod output;
pub mod partitions;
mod reload;
mod run;
mod sample;
mod session;
pub mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use tidegate_engine::machine::Processor;
use tidegate_engine::verify::VerifyOptions;

use crate::bench;
use crate::config::{Config, LogLevel};
use crate::demo;
use crate::operator::Decision;
use crate::progress::{Bar, Unit};
use crate::top;
use args::{Cli, Command, DeadLetters, Events, Global, State};
use exit::{Exit, Failure};
use output::Output;
use session::Session;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    main_with(Vec::new())
}

/// Runs the command line of this process with machines written in Rust. `ingest` activates them beside
/// the definitions in files that it is given, `dead-letters retry` applies and `verify` replays with them.
pub fn main_with(machines: Vec<Arc<dyn Processor>>) -> ExitCode {
    // Help and version end with 0, a command line that cannot be read with 2: clap's own codes are ours.
    carry_out(Cli::parse(), &machines).into()
}

/// Carries out a command line that was read already, with the machines of this binary. Says what went
/// wrong, and how the process should end.
pub fn carry_out(cli: Cli, machines: &[Arc<dyn Processor>]) -> Exit {
    let ended = run(cli, machines);
    crate::telemetry::finish();
    match ended {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.message.is_empty() {
                crate::say!("tidegate: {failure}");
            }
            failure.exit
        }
    }
}

fn run(cli: Cli, own: &[Arc<dyn Processor>]) -> Result<Exit, Failure> {
    let mut output = Output::stdout(cli.global.output);
    let output = &mut output;
    let global = &cli.global;
    let config = global.config.as_deref();
    match cli.command {
        Command::Demo(wanted) => {
            let log = session::logs(global, &Config::default(), LogLevel::Warn)?;
            demo::run(&wanted, &log, &session::runtime()?, output)
        }
        Command::Validate(wanted) => match &wanted.sample {
            Some(sample) => sample::run(sample, wanted.source.as_ref(), config, output),
            None => check::validate(&wanted.files.files, config, output),
        },
        Command::Test(files) => check::test(&files.files, config, output),
        Command::Run => run::run(global, own),
        Command::Dev(wanted) => dev::dev(global, &wanted, own),
        Command::Doctor => doctor::run(global, own, output),
        Command::Health(wanted) => health::run(global, &wanted, output),
        Command::Top(wanted) => {
            let config = session::config(global)?;
            session::runtime()?.block_on(top::run(&wanted, &config, output))
        }
        Command::Lag(wanted) => lag::run(global, &wanted, output),
        Command::Ingest(wanted) => ingest::run(global, &wanted, own, output),
        Command::State(wanted) => state(global, &wanted, output),
        Command::Events(wanted) => events(global, &wanted, output),
        Command::DeadLetters(wanted) => dead_letters(global, &wanted, own, output),
        Command::Partitions(wanted) => partitions::run(global, &wanted, output),
        Command::Tenants(wanted) => access::tenants(global, &wanted, output),
        Command::Tokens(wanted) => access::tokens(global, &wanted, output),
        Command::Verify(wanted) => verify(global, wanted, own, output),
        Command::Migrate(wanted) => {
            let config = session::config(global)?;
            session::logs(global, &config, LogLevel::Warn)?;
            session::runtime()?.block_on(migrate::run(&config, &wanted, output))
        }
        Command::Bench(wanted) => {
            let config = session::config(global)?;
            let log = session::logs(global, &config, LogLevel::Warn)?;
            let configured = global.config.is_some().then_some(config);
            bench::run(&wanted, configured, &log, &session::runtime()?, output)
        }
    }
}

fn state(global: &Global, wanted: &State, output: &mut Output) -> Result<Exit, Failure> {
    let State::Get {
        machine,
        key,
        tenant,
    } = wanted;
    let session = Session::look(global)?;
    let exit = session.block_on(look::state(session.store(), tenant, machine, key, output))?;
    session.close()?;
    Ok(exit)
}

fn events(global: &Global, wanted: &Events, output: &mut Output) -> Result<Exit, Failure> {
    let session = Session::look(global)?;
    let exit = match wanted {
        Events::Get { position, tenant } => {
            session.block_on(look::event(session.store(), tenant, position, output))?
        }
        Events::Tail {
            tenant,
            stream,
            lines,
            follow,
        } => {
            let tail = look::Tail {
                tenant,
                stream: stream.as_ref(),
                lines: *lines,
                follow: *follow,
            };
            session.block_on(look::tail(session.store(), tail, output))?
        }
        Events::Export {
            tenant,
            stream,
            redact,
        } => {
            let store = session.store();
            let stream = stream.as_ref();
            session.block_on(history::export(store, tenant, stream, redact, output))?
        }
        Events::Trace {
            correlation,
            tenant,
        } => session.block_on(history::trace(session.store(), tenant, correlation, output))?,
    };
    session.close()?;
    Ok(exit)
}

fn dead_letters(
    global: &Global,
    wanted: &DeadLetters,
    own: &[Arc<dyn Processor>],
    output: &mut Output,
) -> Result<Exit, Failure> {
    let session = Session::look(global)?;
    let (store, config) = (session.store(), &session.config);
    let exit = match wanted {
        DeadLetters::List {
            tenant,
            state,
            limit,
        } => session.block_on(dead_letters::list(
            store,
            tenant.as_ref(),
            *state,
            *limit,
            output,
        )),
        DeadLetters::Show { id, tenant } => {
            session.block_on(dead_letters::show(store, tenant, id, output))
        }
        DeadLetters::Retry(decide) => {
            let stream = decide.stream.clone();
            let decision = Decision::Retry { stream };
            session.block_on(dead_letters::decide(
                store, own, config, decide, &decision, output,
            ))
        }
        DeadLetters::Discard(decide) => {
            let decision = Decision::Discard;
            session.block_on(dead_letters::decide(
                store, own, config, decide, &decision, output,
            ))
        }
    }?;
    session.close()?;
    Ok(exit)
}

fn verify(
    global: &Global,
    wanted: args::Verify,
    own: &[Arc<dyn Processor>],
    output: &mut Output,
) -> Result<Exit, Failure> {
    let session = Session::look(global)?;
    let bar = Bar::start("verify", Unit::Count, &session.log);
    let options = VerifyOptions {
        tenants: wanted.tenant,
        held_max: usize::try_from(wanted.held_max).unwrap_or(usize::MAX),
        ..VerifyOptions::default()
    };
    let exit = session.block_on(verify::run(session.store(), own, &options, &bar, output))?;
    session.close()?;
    Ok(exit)
}
