//! `tidegate demo`: generated events of five tenants become state in an embedded database, before one's
//! eyes; then SQL on that database is compared with what was generated, and the store is verified.

pub mod compare;
pub mod generate;
mod screen;

use std::io::{BufRead as _, IsTerminal as _, Write as _, stderr, stdin};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_actors::Source;
use tidegate_engine::bus::Start;
use tidegate_engine::clock::Clock as _;
use tidegate_engine::machine::{MachineDefinition, Processor};
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::tenant::TenantBinding;
use tidegate_engine::verify::VerifyOptions;
use tokio::runtime::Runtime;

use crate::cli::args::Demo;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Output, grouped};
use crate::cli::verify;
use crate::config::Config;
use crate::ingest::{self, Ended, Plan, StopAsked, UpkeepPlan};
use crate::machines;
use crate::progress::{Bar, Unit};
use crate::runtime::SystemClock;
use crate::stores::{self, Opened, WhenAbsent};
use crate::telemetry::LogWriter;
use crate::wiring::Files;
use compare::Figure;
use generate::FileBooks;
use screen::Screen;

/// The machine, as it stands in the examples.
pub const ORDER_MACHINE: &str = include_str!("../../deploy/examples/order.yaml");

/// Files, and so source partitions.
const FILES: u32 = 4;

/// By this file a directory is known as an earlier demo's.
const MARKER: &str = ".tidegate-demo";

/// Set to anything, it ends the demo without waiting for a key.
const EXIT_VARIABLE: &str = "DEMO_EXIT";

/// Where the demo's files are.
struct Place {
    directory: PathBuf,
    config: PathBuf,
    database: PathBuf,
    events: Vec<PathBuf>,
}

/// Runs the demo.
pub fn run(
    wanted: &Demo,
    log: &LogWriter,
    io: &Runtime,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let began = SystemClock.now();
    let place = Place::prepare(&wanted.dir)?;
    crate::say!(
        "Tidegate demo: {} events of {} tenants, in {}",
        grouped(wanted.events),
        generate::TENANTS.len(),
        place.directory.display()
    );
    let books = place.generate(wanted)?;
    let config = Config::load(&place.config)?;
    let opened = io.block_on(stores::open(&config.store, WhenAbsent::Create))?;
    let seconds = settle(&place, &config, &opened, wanted.events, log, io)?;
    crate::say!(
        "settled in {seconds:.1} s: {} events a second, the machine in YAML and CEL, one SQLite file\n",
        grouped((wanted.events as f64 / seconds) as u64)
    );
    // From here on nothing else listens: without this, Ctrl-C would do nothing.
    let mut stop_asked = io.block_on(async { StopAsked::listen() })?;
    let figures = io
        .block_on(compare::compare(&place.database, &books))
        .map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    let all_right = report(&figures, output)?;
    let verified = verified(&opened, log, io, &mut stop_asked)?;
    io.block_on(opened.close())?;
    place.suggest(&books);
    let right = all_right && verified;
    crate::say!(
        "\nThe demo took {:.1} s: events generated, settled, compared and verified{}.",
        (SystemClock.now().0 - began.0) as f64 / 1e6,
        if right { "" } else { ", with differences" }
    );
    wait(io, &mut stop_asked);
    Ok(if right { Exit::Done } else { Exit::Differs })
}

impl Place {
    /// Makes the directory, or empties an earlier demo's. Anything else is left alone.
    fn prepare(directory: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::usage(format!("--dir {}: {error}", directory.display()))
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut entries = std::fs::read_dir(directory).map_err(failed)?;
        let is_ours = directory.join(MARKER).exists();
        if !is_ours && entries.next().is_some() {
            return Err(Failure::usage(format!(
                "--dir {}: holds something that is not from a demo; name another directory",
                directory.display()
            )));
        }
        let place = Self {
            directory: directory.to_owned(),
            config: directory.join("tidegate.yaml"),
            database: directory.join("tidegate.db"),
            events: (0..FILES)
                .map(|number| directory.join(format!("orders-{number}.ndjson")))
                .collect(),
        };
        for suffix in ["", "-wal", "-shm"] {
            let mut file = place.database.clone().into_os_string();
            file.push(suffix);
            match std::fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(failed(error));
                }
                _ => {}
            }
        }
        let paths: Vec<String> = (0..FILES).map(|n| format!("orders-{n}.ndjson")).collect();
        let config = format!(
            "# Written by `tidegate demo`; relative to this file's directory.\n\
             store:\n  kind: sqlite\n  sqlite:\n    path: tidegate.db\n\
             machines:\n  paths: [order.yaml]\n\
             sources:\n  - name: demo\n    kind: file\n    paths: [{}]\n    stream: orders\n    \
             # Each event names its tenant: these files are ours.\n    tenant_from_event_unsafe: true\n    \
             unknown_tenants: create\n",
            paths.join(", ")
        );
        std::fs::write(directory.join(MARKER), "").map_err(failed)?;
        std::fs::write(directory.join("order.yaml"), ORDER_MACHINE).map_err(failed)?;
        std::fs::write(&place.config, config).map_err(failed)?;
        Ok(place)
    }

    fn generate(&self, wanted: &Demo) -> Result<Vec<FileBooks>, Failure> {
        generate::files(
            &self.events,
            wanted.events,
            wanted.seed,
            &generate::demo_tenants(),
        )
        .map_err(|error| Failure::usage(format!("{}: {error}", self.directory.display())))
    }

    /// Three commands that show more, as they are typed here.
    fn suggest(&self, books: &[FileBooks]) {
        let Some((order, tenant)) = books.iter().find_map(|file| file.example.as_ref()) else {
            return;
        };
        let program = std::env::args()
            .next()
            .unwrap_or_else(|| "tidegate".to_owned());
        let config = self.config.display();
        crate::say!(
            "\nTry:\n  {program} state get order {order} --tenant {tenant} -c {config}\n  \
             {program} events tail --tenant globex -n 5 -c {config}\n  \
             {program} dead-letters list --tenant acme -n 5 -c {config}"
        );
    }
}

/// Reads the events into the store, and returns how many seconds that took.
fn settle(
    place: &Place,
    config: &Config,
    opened: &Opened,
    events: u64,
    log: &LogWriter,
    io: &Runtime,
) -> Result<f64, Failure> {
    let machine = MachineDefinition::load("order.yaml", ORDER_MACHINE)
        .map_err(|errors| Failure::usage(format!("{errors:?}")))?;
    let given: Vec<Arc<dyn Processor>> = vec![machine];
    let machines = io
        .block_on(machines::activate(opened.store(), given, SystemClock.now()))
        .map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?;
    let files = io.block_on(Files::open(SourceName::new("demo")?, &place.events))?;
    let plan = Plan {
        store: opened.shared(),
        machines,
        options: config.node_options(),
        sources: vec![Source {
            bus: files.bus(),
            stream: StreamName::new("orders")?,
            tenant: TenantBinding::TrustedField,
            mapping: None,
            secrets: tidegate_engine::secrets::SecretPolicy::default(),
            start: Start::Earliest,
        }],
        drain_limit: Duration::from_secs(config.limits.drain_limit_seconds),
        upkeep: UpkeepPlan::of(config),
        front: None,
        goes_on: false,
        replaced: None,
    };
    let mut screen = Screen::start(events, log);
    let ended = ingest::run(plan, io, &mut |snapshot| {
        screen.show(snapshot, files.progress());
    })?;
    let seconds = screen.finish();
    match ended {
        Ended::Done => Ok(seconds),
        Ended::Failed(failed) => Err(Failure::new(Exit::Unavailable, failed.to_string())),
        Ended::Interrupted(_) | Ended::Replaced(_) => Err(stopped()),
    }
}

fn stopped() -> Failure {
    Failure::new(Exit::Unfinished, "the demo was stopped")
}

/// Writes the table; true when everything is as generated.
fn report(figures: &[Figure], output: &mut Output) -> Result<bool, Failure> {
    let rows: Vec<Vec<Value>> = compare::sum(figures)
        .iter()
        .map(|sum| {
            let verdict = if sum.right { "ok" } else { "DIFFERS" };
            vec![
                json!(sum.what),
                json!(sum.expected),
                json!(sum.found),
                json!(verdict),
            ]
        })
        .collect();
    output.rows(
        &["what_sql_says", "generated", "found", "each_tenant"],
        &rows,
    )?;
    Ok(compare::all_right(figures))
}

fn verified(
    opened: &Opened,
    log: &LogWriter,
    io: &Runtime,
    stop_asked: &mut StopAsked,
) -> Result<bool, Failure> {
    let bar = Bar::start("verify", Unit::Count, log);
    let options = VerifyOptions::default();
    let report = io.block_on(async {
        tokio::select! {
            biased;
            () = stop_asked.asked() => Err(stopped()),
            report = verify::report(opened.store(), &[], &options, &bar) => report,
        }
    })?;
    match report.differences.first() {
        None => crate::say!(
            "\nverified: {} records in {} chains, {} effects replayed to the same hash, {} orders byte-equal",
            grouped(report.records),
            report.stream_partitions,
            grouped(report.effects_replayed),
            grouped(report.entities)
        ),
        Some(first) => crate::say!("\nnot verified; the first difference: {first}"),
    }
    Ok(report.is_clean())
}

/// Waits for Enter, so that a window that was opened for the demo stays open; or for Ctrl-C.
fn wait(io: &Runtime, stop_asked: &mut StopAsked) {
    let interactive = stdin().is_terminal() && stderr().is_terminal();
    if !interactive || std::env::var_os(EXIT_VARIABLE).is_some() {
        return;
    }
    let _ = write!(stderr(), "\nEnter ends the demo; its files stay. ");
    let (entered, enter) = tokio::sync::oneshot::channel();
    // A thread of its own: a read that nobody answers must not keep the process from its end.
    std::thread::spawn(move || {
        let _ = stdin().lock().read_line(&mut String::new());
        let _ = entered.send(());
    });
    io.block_on(async {
        tokio::select! {
            biased;
            () = stop_asked.asked() => {}
            _ = enter => {}
        }
    });
}
