//! `tidegate bench`: what this machine does with a store and with machines. Generates events, runs them
//! through the node as `ingest` would, and holds the store against what was generated: a rate with a wrong
//! total is no rate. Owns rounds and figures; never touches a store that holds somebody's events.

mod cases;
mod cpu;
mod load;
mod report;
mod timed_store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_actors::Source;
use tidegate_engine::bus::Start;
use tidegate_engine::clock::{Clock as _, Ids as _};
use tidegate_engine::machine::{CompiledMachine, MachineDefinition, MachineSet, Processor};
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantBinding;
use tokio::runtime::Runtime;

use crate::cli::args::Bench;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::config::Config;
use crate::demo::{ORDER_MACHINE, compare};
use crate::ingest::{self, Ended, Plan, StopAsked, UpkeepPlan};
use crate::machines::{self, MachinesError};
use crate::progress::{Bar, Unit};
use crate::runtime::{RandomIds, SystemClock};
use crate::stores::{self, Opened, WhenAbsent};
use crate::telemetry::LogWriter;
use crate::wiring::Files;
use cases::Case;
use load::Load;
use report::Sample;
use timed_store::TimedStore;

/// What the names of all tenants of a bench begin with: their events are nobody's.
const TENANT_PREFIX: &str = "tidegate-bench-";

/// Where events come from.
enum Events {
    /// The demo's generator.
    Orders,
    /// The tests of the configured machines.
    Cases(Vec<Case>),
}

/// A bench that is under way.
struct Run<'r> {
    wanted: &'r Bench,
    config: Config,
    /// The store is ours, and a fresh one each round.
    is_temporary: bool,
    directory: TempDir,
    machines: MachineSet,
    events: Events,
    /// Tells this run's tenants and sources from an earlier one's.
    name: String,
    log: &'r LogWriter,
    io: &'r Runtime,
    stop_asked: Arc<AtomicBool>,
}

/// Runs the rounds. Without a configuration the store is a temporary embedded one.
pub fn run(
    wanted: &Bench,
    configured: Option<Config>,
    log: &LogWriter,
    io: &Runtime,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let is_temporary = configured.is_none();
    let config = configured.unwrap_or_default();
    let (machines, events) = machines_and_events(&config)?;
    let mut run = Run {
        wanted,
        config,
        is_temporary,
        directory: scratch()?,
        machines,
        events,
        name: format!("{:08x}", RandomIds.next_u64() >> 32),
        log,
        io,
        stop_asked: stop_asked(io)?,
    };
    let mut samples = Vec::new();
    for round in 1..=wanted.rounds {
        let Some(sample) = run.round(round, output)? else {
            crate::say!("round {round}: these totals are wrong, so its rate means nothing");
            return Ok(Exit::Differs);
        };
        samples.push(sample);
    }
    report::write(&samples, output)?;
    Ok(Exit::Done)
}

/// The configured machines with the events of their tests, else the demo's.
fn machines_and_events(config: &Config) -> Result<(MachineSet, Events), Failure> {
    let refused = |error: MachinesError| Failure::usage(error.to_string());
    let given = machines::load(&config.machines.paths).map_err(refused)?;
    if given.is_empty() {
        let machine = MachineDefinition::load("order.yaml", ORDER_MACHINE)
            .map_err(|errors| refused(MachinesError::Load(errors)))?;
        return Ok((set([machine]), Events::Orders));
    }
    let machines = set(given.iter().cloned());
    let cases: Vec<Case> = given
        .iter()
        .flat_map(|machine| machine.cases())
        .filter(|case| !case.given().is_empty())
        .map(|case| Case::new(case.given(), &machines))
        .collect();
    if cases.is_empty() {
        return Err(Failure::usage(
            "none of the configured machines has `tests`, and the events of these are what is played; \
             add one, or leave `machines.paths` out for the demo's orders",
        ));
    }
    Ok((machines, Events::Cases(cases)))
}

fn set(machines: impl IntoIterator<Item = Arc<CompiledMachine>>) -> MachineSet {
    let machines = machines.into_iter();
    MachineSet::new(machines.map(|machine| machine as Arc<dyn Processor>))
}

/// In the working directory, on a disk like the one that would hold the store: where temporary files
/// live in memory, waiting for them to be durable costs nothing, and a rate of that would lie.
fn scratch() -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix(".tidegate-bench-")
        .tempdir_in(".")
        .map_err(|error| {
            Failure::usage(format!(
                "the working directory cannot hold the generated events: {error}; start it in one that \
                 you may write to, on the disk that is to be measured"
            ))
        })
}

/// Becomes true when the process is told to stop, whatever it is doing.
fn stop_asked(io: &Runtime) -> Result<Arc<AtomicBool>, Failure> {
    let asked = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&asked);
    let mut signals = io.block_on(async { StopAsked::listen() })?;
    io.spawn(async move {
        signals.asked().await;
        told.store(true, Ordering::Release);
    });
    Ok(asked)
}

impl Run<'_> {
    /// One round; `None` when the store does not hold what was generated.
    fn round(&mut self, round: u32, output: &mut Output) -> Result<Option<Sample>, Failure> {
        let load = self.load(round)?;
        self.go_on()?;
        if self.is_temporary {
            self.config.store.sqlite.path = self.directory.path().join(format!("{round}.db"));
        }
        let opened = self
            .io
            .block_on(stores::open(&self.config.store, WhenAbsent::Create))?;
        let measured = self.measured(round, &load, &opened, output);
        let closed = self.io.block_on(opened.close());
        let sample = measured?;
        closed?;
        self.go_on()?;
        Ok(sample)
    }

    fn load(&self, round: u32) -> Result<Load, Failure> {
        let tenants = load::tenants(&self.name, round, self.wanted.tenants);
        let (directory, events) = (self.directory.path(), self.wanted.events);
        let files = self.wanted.partitions as usize;
        let load = match &self.events {
            Events::Orders => Load::orders(directory, events, &tenants, files),
            Events::Cases(cases) => {
                cases::load(directory, events, &tenants, files, cases, &self.machines)
            }
        };
        load.map_err(|error| Failure::usage(format!("{}: {error}", directory.display())))
    }

    fn measured(
        &self,
        round: u32,
        load: &Load,
        opened: &Opened,
        output: &mut Output,
    ) -> Result<Option<Sample>, Failure> {
        if round == 1 {
            self.io.block_on(refuse_other_events(opened.store()))?;
            self.circumstances(load, opened, output)?;
        }
        let given = self.machines.iter().cloned().collect();
        self.io
            .block_on(machines::activate(opened.store(), given, SystemClock.now()))
            .map_err(|error| match error {
                MachinesError::Store(error) => error.into(),
                error => Failure::usage(format!("{error}; name a scratch database")),
            })?;
        let source = SourceName::new(&format!("{TENANT_PREFIX}{}-{round}", self.name))?;
        let store = Arc::new(
            TimedStore::new(opened.shared())
                .map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?,
        );
        let (seconds, cpu) = self.consume(round, load, &source, store.clone())?;
        let figures = self.io.block_on(load.figures(opened.store(), &source))?;
        Ok(compare::all_right(&figures).then(|| Sample {
            events: load.events(),
            bytes: load.bytes,
            seconds,
            commits: store.commits(),
            cpu,
        }))
    }

    /// Reads the files to their end; the seconds and the CPU time until everything was settled.
    fn consume(
        &self,
        round: u32,
        load: &Load,
        source: &SourceName,
        store: Arc<dyn StateStore>,
    ) -> Result<(f64, Option<Duration>), Failure> {
        let files = self.io.block_on(Files::open(source.clone(), &load.paths))?;
        let plan = Plan {
            store,
            machines: self.machines.clone(),
            options: self.config.node_options(),
            sources: vec![Source {
                bus: files.bus(),
                stream: StreamName::new("bench")?,
                tenant: TenantBinding::TrustedField,
                mapping: None,
                secrets: tidegate_engine::secrets::SecretPolicy::default(),
                start: Start::Earliest,
            }],
            drain_limit: Duration::from_secs(self.config.limits.drain_limit_seconds),
            upkeep: UpkeepPlan::of(&self.config),
            front: None,
            goes_on: false,
            replaced: None,
        };
        let bar = Bar::start("bench", Unit::Count, self.log);
        bar.say(format!("round {round} of {}", self.wanted.rounds));
        let (began, cpu_before) = (SystemClock.now(), cpu::used());
        let (mut ended, mut cpu_after) = (began, cpu_before);
        let outcome = ingest::run(plan, self.io, &mut |snapshot| {
            // The last look is when everything is settled; what follows is the way out.
            (ended, cpu_after) = (SystemClock.now(), cpu::used());
            bar.set(snapshot.counts().received(), load.events());
        });
        bar.finish();
        match outcome? {
            Ended::Done => {}
            Ended::Failed(failed) => {
                return Err(Failure::new(Exit::Unavailable, failed.to_string()));
            }
            Ended::Interrupted(_) | Ended::Replaced(_) => return Err(stopped()),
        }
        let seconds = ((ended.0 - began.0) as f64 / 1e6).max(1e-6);
        let cpu = cpu_after
            .zip(cpu_before)
            .map(|(after, before)| after.saturating_sub(before));
        Ok((seconds, cpu))
    }

    /// What has to be known about a figure before it is compared with another.
    fn circumstances(
        &self,
        load: &Load,
        opened: &Opened,
        output: &mut Output,
    ) -> Result<(), Failure> {
        let (limits, events) = (&self.config.limits, load.events());
        let machines: Vec<String> = self
            .machines
            .iter()
            .map(|machine| machine.definition())
            .map(|definition| format!("{} {}", definition.machine, definition.version))
            .collect();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let mut fields: Vec<(&str, Value)> = vec![("store", json!(opened.kind().as_str()))];
        for (name, value) in self.io.block_on(opened.settings())? {
            fields.push((name, json!(value)));
        }
        fields.extend([
            ("machines", json!(machines.join(", "))),
            ("events", json!(events)),
            ("bytes_per_event", json!(load.bytes / events.max(1))),
            ("tenants", json!(load.tenants.len())),
            ("source_partitions", json!(load.paths.len())),
            ("batch_events_max", json!(limits.batch_events_max)),
            ("batch_bytes_max", json!(limits.batch_bytes_max)),
            ("receive_events_max", json!(limits.receive_events_max)),
            ("commits_max", json!(limits.commits_max)),
            ("cores", json!(cores)),
        ]);
        Ok(output.fields(&fields)?)
    }

    fn go_on(&self) -> Result<(), Failure> {
        if self.stop_asked.load(Ordering::Acquire) {
            return Err(stopped());
        }
        Ok(())
    }
}

fn stopped() -> Failure {
    Failure::new(
        Exit::Unfinished,
        "stopped before the last round; nothing is reported",
    )
}

/// The log is immutable: what is measured in a store stays in it.
async fn refuse_other_events(store: &dyn StateStore) -> Result<(), Failure> {
    for tenant in store.tenants().await? {
        if tenant.is_unassigned() || tenant.as_str().starts_with(TENANT_PREFIX) {
            continue;
        }
        let heads = store.stream_partitions(&tenant).await?;
        if heads.iter().any(|head| head.next_sequence.0 > 0) {
            return Err(Failure::usage(format!(
                "this store holds events of tenant `{tenant}`. What bench writes can never be removed \
                 again, so it fills scratch databases only: name another one in the configuration, or \
                 leave -c out for a temporary one"
            )));
        }
    }
    Ok(())
}
