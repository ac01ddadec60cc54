//! `tidegate ingest`: files, or the configured sources, into the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidegate_actors::Source;
use tidegate_engine::bus::Start;
use tidegate_engine::checkpoint::Counts;
use tidegate_engine::clock::Clock as _;
use tidegate_engine::follow_up;
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::machine::{CompiledMachine, Processor};
use tidegate_engine::mapping::Mapping;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::secrets::SecretPolicy;
use tidegate_engine::state::MachineName;
use tidegate_engine::store::{StateStore, StoreError};
use tidegate_engine::tenant::TenantBinding;

use super::args::{Global, Ingest};
use super::check::none_there;
use super::exit::{Exit, Failure};
use super::output::{Output, grouped};
use super::session::{self, Session};
use crate::config::{Config, Limits, SourceKind, UnknownTenants};
use crate::ingest::{self, Ended, Plan, UpkeepPlan};
use crate::machines::{self, MachinesError};
use crate::progress::{Bar, Unit};
use crate::runtime::SystemClock;
use crate::say::counted;
use crate::wiring::Files;

/// A source over files, and these for the progress.
struct FileSource {
    files: Files,
    source: Source,
}

/// A source that is not open yet.
struct Named {
    name: SourceName,
    paths: Vec<PathBuf>,
    stream: StreamName,
    tenant: TenantBinding,
    mapping: Option<Arc<Mapping>>,
    secrets: SecretPolicy,
    start: Start,
}

/// Runs `tidegate ingest`.
pub fn run(
    global: &Global,
    wanted: &Ingest,
    own: &[Arc<dyn Processor>],
    output: &mut Output,
) -> Result<Exit, Failure> {
    // What can be wrong without a store is said before one is opened.
    let config = session::config(global)?;
    let named = named(wanted, &config)?;
    let paths = if wanted.machines.is_empty() {
        &config.machines.paths
    } else {
        &wanted.machines
    };
    let given = machines::load(paths).map_err(machines_failure)?;
    if given.is_empty() && !paths.is_empty() {
        return Err(Failure::usage(none_there(paths)));
    }
    let given = together(given, own)?;
    let session = Session::fill(global)?;
    if wanted.tenant_from_event_unsafe {
        session::warn_unsafe("--tenant-from-event-unsafe");
    }
    let now = SystemClock.now();
    let activate = async || machines::activate(session.store(), given.clone(), now).await;
    let machines = session
        .block_on(session.patience.take("storing the machines", activate))
        .map_err(machines_failure)?;
    if machines.iter().next().is_none() {
        // What is in the log is never offered again: nobody who forgot them could repair it.
        return Err(Failure::usage(
            "no machine is given, and none is active in the store: events would be kept and move nothing, \
             now or later. Name definitions with --machines, or as `machines.paths` in the configuration",
        ));
    }
    let names: Vec<SourceName> = named.iter().map(|source| source.name.clone()).collect();
    let mut sources = Vec::new();
    for source in named {
        sources.push(session.block_on(source.open())?);
    }
    let count = async || counts(session.store(), &names).await;
    let before = session.block_on(session.patience.take("reading the checkpoints", count))?;
    let plan = Plan {
        store: session.shared(),
        machines,
        options: session.config.node_options(),
        sources: sources.iter().map(|one| one.source.clone()).collect(),
        drain_limit: Duration::from_secs(session.config.limits.drain_limit_seconds),
        upkeep: UpkeepPlan::of(&session.config),
        front: None,
        goes_on: false,
        replaced: None,
    };
    let bar = Bar::start("ingest", Unit::Bytes, &session.log);
    let ended = ingest::run(plan, &session.runtime, &mut |snapshot| {
        let (done, total) = bytes(&sources);
        bar.set(done, total);
        bar.say(format!(
            "{} events settled",
            grouped(snapshot.counts().received())
        ));
    })?;
    bar.finish();
    let seconds = (SystemClock.now().0 - now.0) as f64 / 1e6;
    let after = session.block_on(session.patience.take("reading the checkpoints", count))?;
    session.close()?;
    let done = matches!(ended, Ended::Done);
    report(&difference(&after, &before), seconds, done, output)?;
    told(&ended)
}

/// The machines of the files and those of this binary.
pub fn together(
    loaded: Vec<Arc<CompiledMachine>>,
    own: &[Arc<dyn Processor>],
) -> Result<Vec<Arc<dyn Processor>>, Failure> {
    let name = |machine: &Arc<dyn Processor>| machine.definition().machine.clone();
    let mut given: Vec<Arc<dyn Processor>> = own.to_vec();
    let mut taken: BTreeSet<MachineName> = BTreeSet::new();
    for machine in own {
        if !taken.insert(name(machine)) {
            return Err(Failure::usage(format!(
                "this binary has two machines `{}`; each machine has one definition",
                name(machine)
            )));
        }
    }
    for machine in loaded {
        if taken.contains(&machine.definition().machine) {
            return Err(Failure::usage(format!(
                "machine `{}` stands in {} and in this binary; each machine has one definition",
                machine.definition().machine,
                machine.file()
            )));
        }
        given.push(machine);
    }
    Ok(given)
}

/// Why the machines cannot be used.
pub fn machines_failure(error: MachinesError) -> Failure {
    let exit = match error {
        MachinesError::Store(_) | MachinesError::Stored { .. } => Exit::Unavailable,
        _ => Exit::Usage,
    };
    Failure::new(exit, error.to_string())
}

/// The files of the command line, else the configured sources. Opens nothing.
fn named(wanted: &Ingest, config: &Config) -> Result<Vec<Named>, Failure> {
    if wanted.files.is_empty() {
        return configured(config);
    }
    let tenant = tenant_of(wanted, &config.limits)?;
    if wanted.stream.is_internal() {
        return Err(Failure::usage(
            "--stream internal: what machines emit is kept under this name; take another",
        ));
    }
    let of = |name: SourceName, paths: Vec<PathBuf>| Named {
        name,
        paths,
        stream: wanted.stream.clone(),
        tenant: tenant.clone(),
        mapping: None,
        secrets: SecretPolicy::default(),
        start: Start::Earliest,
    };
    let each = wanted
        .files
        .iter()
        .map(|path| Ok(of(source_name(path)?, vec![path.clone()])));
    // Also when one name is given, so that a file that is not there is said before anything is made.
    let each = each.collect::<Result<Vec<_>, Failure>>()?;
    named_once(&each)?;
    Ok(match &wanted.source {
        Some(name) if name.as_str() == follow_up::OPERATOR => {
            return Err(Failure::usage(format!(
                "--source {name}: people's decisions are kept under this name; take another"
            )));
        }
        Some(name) => vec![of(name.clone(), wanted.files.clone())],
        None => each,
    })
}

/// Who says whose the events of the command line's files are (R02): nobody is believed silently.
fn tenant_of(wanted: &Ingest, limits: &Limits) -> Result<TenantBinding, Failure> {
    match &wanted.tenant {
        Some(tenant) => Ok(TenantBinding::Fixed(tenant.clone())),
        None if wanted.tenant_from_event_unsafe => {
            let unknown = if wanted.create_tenants {
                UnknownTenants::Create
            } else {
                UnknownTenants::DeadLetter
            };
            Ok(TenantBinding::RegisteredField(
                limits.unknown_tenants(unknown),
            ))
        }
        None => Err(Failure::usage(
            "whose are these events? Name their tenant with --tenant NAME; or say \
             --tenant-from-event-unsafe to believe the `tenantid` that each event gives itself, which only \
             suits files of your own",
        )),
    }
}

/// A file that is named twice would be two owners of one checkpoint, each fencing the other.
fn named_once(each: &[Named]) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for source in each {
        if !seen.insert(&source.name) {
            let path = source.paths.first().cloned().unwrap_or_default();
            return Err(Failure::usage(format!(
                "{} is named twice: name each file once",
                path.display()
            )));
        }
    }
    Ok(())
}

/// The configured sources that are files, open.
pub async fn file_sources(config: &Config) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for named in of_files(config) {
        sources.push(named.open().await?.source);
    }
    Ok(sources)
}

fn configured(config: &Config) -> Result<Vec<Named>, Failure> {
    let named = of_files(config);
    if named.is_empty() {
        return Err(Failure::usage(
            "nothing to read: name files, `-` for standard input, or configure `sources` of files; \
             `tidegate run` takes requests",
        ));
    }
    Ok(named)
}

fn of_files(config: &Config) -> Vec<Named> {
    let mut named = Vec::new();
    for source in config
        .sources
        .iter()
        .filter(|source| source.kind == SourceKind::File)
    {
        // The configuration is checked: both are there.
        if let (Some(name), Some(stream)) = (&source.name, &source.stream) {
            named.push(Named {
                name: name.clone(),
                paths: source.paths.clone(),
                stream: stream.clone(),
                tenant: source.tenant_binding(&config.limits),
                mapping: source.mapping.compiled(name),
                secrets: source.secrets.policy(),
                start: source.start(),
            });
        }
    }
    named
}

impl Named {
    async fn open(self) -> Result<FileSource, Failure> {
        let files = Files::open(self.name, &self.paths).await?;
        let source = Source {
            bus: files.bus(),
            stream: self.stream,
            tenant: self.tenant,
            mapping: self.mapping,
            secrets: self.secrets,
            start: self.start,
        };
        Ok(FileSource { files, source })
    }
}

/// The same file has the same name from wherever it is named: what a person recognises, and eight digits
/// of its whole path.
fn source_name(path: &Path) -> Result<SourceName, Failure> {
    if path.as_os_str() == "-" {
        return Ok(SourceName::new("stdin")?);
    }
    let whole = path
        .canonicalize()
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    let digits: String = hash_bytes(whole.as_os_str().as_encoded_bytes())
        .to_string()
        .chars()
        .take(8)
        .collect();
    let stem: String = whole
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(40)
        .collect();
    Ok(SourceName::new(&format!("file-{stem}-{digits}"))?)
}

/// Bytes acknowledged and in all; no total while it is not known.
fn bytes(sources: &[FileSource]) -> (u64, u64) {
    let progress: Vec<_> = sources.iter().map(|one| one.files.progress()).collect();
    let done = progress.iter().map(|one| one.acknowledged_bytes).sum();
    let total: Option<u64> = progress.iter().map(|one| one.total_bytes).sum();
    (done, total.unwrap_or(0))
}

/// What the checkpoints of these sources have counted so far.
async fn counts(store: &dyn StateStore, names: &[SourceName]) -> Result<Counts, StoreError> {
    let mut sum = Counts::default();
    for checkpoint in store.checkpoints().await? {
        if names.contains(&checkpoint.source_partition.source) {
            sum.add(&checkpoint.progress.counts);
        }
    }
    Ok(sum)
}

fn difference(after: &Counts, before: &Counts) -> Counts {
    Counts {
        admitted: after.admitted - before.admitted,
        duplicates: after.duplicates - before.duplicates,
        conflicts: after.conflicts - before.conflicts,
        unreadable: after.unreadable - before.unreadable,
        applied: after.applied - before.applied,
        rejected: after.rejected - before.rejected,
        ignored: after.ignored - before.ignored,
        dead: after.dead - before.dead,
        unhandled: after.unhandled - before.unhandled,
        emitted: after.emitted - before.emitted,
        looped_back: after.looped_back - before.looped_back,
    }
}

fn report(counts: &Counts, seconds: f64, done: bool, output: &mut Output) -> Result<(), Failure> {
    output.fields(&[
        ("received", json!(counts.received())),
        ("admitted", json!(counts.admitted)),
        ("duplicates", json!(counts.duplicates)),
        ("conflicts", json!(counts.conflicts)),
        ("unreadable", json!(counts.unreadable)),
        ("applied", json!(counts.applied)),
        ("rejected", json!(counts.rejected)),
        ("ignored", json!(counts.ignored)),
        ("dead", json!(counts.dead)),
        ("unhandled", json!(counts.unhandled)),
        ("emitted", json!(counts.emitted)),
        ("looped_back", json!(counts.looped_back)),
        ("seconds", json!((seconds * 1_000.0).round() / 1_000.0)),
    ])?;
    let kept = counts.dead + counts.conflicts + counts.unreadable;
    if kept > 0 {
        let verb = if kept == 1 { "needs" } else { "need" };
        crate::say!(
            "{} {verb} a person: `tidegate dead-letters list` shows them",
            counted(kept, "event")
        );
    }
    if done && counts.received() == 0 {
        crate::say!(
            "nothing new: what is there was settled before, as the checkpoint of its source says"
        );
    }
    Ok(())
}

fn told(ended: &Ended) -> Result<Exit, Failure> {
    match ended {
        Ended::Done => Ok(Exit::Done),
        Ended::Failed(failed) => {
            let mut message = failed.to_string();
            // The engine says what to do; here it has a flag.
            if message.contains("a name of its own") {
                message.push_str(" (--source NAME)");
            }
            Err(Failure::new(Exit::Unavailable, message))
        }
        Ended::Interrupted(drained) | Ended::Replaced(drained) => {
            let rest = if drained.drained {
                "everything received is settled"
            } else {
                "what was not settled in time will be read again"
            };
            Err(Failure::new(
                Exit::Unfinished,
                format!("stopped before the end; {rest}. The same command goes on"),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::source_name;

    #[test]
    fn a_file_is_known_by_its_whole_path() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("Orders (May).ndjson");
        std::fs::write(&file, "").unwrap();
        let roundabout = directory.path().join("./Orders (May).ndjson");
        let name = source_name(&file).unwrap();
        assert!(name.as_str().starts_with("file-orders--may--"), "{name}");
        assert_eq!(source_name(&roundabout).unwrap(), name);
        assert!(source_name(&directory.path().join("none")).is_err());
    }
}
