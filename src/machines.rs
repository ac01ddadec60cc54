//! Machine definitions from files into a node: found, loaded, compared with what the store keeps, and
//! activated. Whether a definition may follow another is the engine's decision.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::upgrade::{self, Upgrade, UpgradeRefused, check_upgrade};
use tidegate_engine::machine::{
    CompiledMachine, LoadError, MachineDefinition, MachineSet, Processor,
};
use tidegate_engine::store::{NewDefinition, StateStore, StoreError, StoredDefinition};
use tidegate_engine::verify::MachinesByHash;

/// Why machines cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MachinesError {
    /// A file or directory cannot be read.
    #[error("{path} cannot be read: {error}")]
    Path {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Definitions with mistakes: every one of every file.
    #[error("{}", lines(.0))]
    Load(Vec<LoadError>),
    /// Two files define the same machine.
    #[error(
        "machine `{machine}` stands in {first} and in {second}; each machine has one definition"
    )]
    Twice {
        /// Its name.
        machine: String,
        /// The file named first.
        first: String,
        /// The other.
        second: String,
    },
    /// A definition may not follow what the store keeps.
    #[error("{0}")]
    Refused(#[from] UpgradeRefused),
    /// What the store keeps is no definition that this binary reads.
    #[error("the stored definition of `{machine}` version {version} cannot be read: {detail}")]
    Stored {
        /// The machine.
        machine: String,
        /// Its version.
        version: u64,
        /// What is wrong.
        detail: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

fn lines(errors: &[LoadError]) -> String {
    let lines: Vec<String> = errors.iter().map(LoadError::to_string).collect();
    lines.join("\n")
}

/// The files that `paths` name: each file, and of each directory its `*.yaml` and `*.yml` in order.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, MachinesError> {
    let mut files = Vec::new();
    for path in paths {
        let failed = |error| MachinesError::Path {
            path: path.clone(),
            error,
        };
        if !path.is_dir() {
            // That it is there shows when it is read.
            files.push(path.clone());
            continue;
        }
        let mut found = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let is_yaml = file
                .extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml");
            if is_yaml && file.is_file() {
                found.push(file);
            }
        }
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

/// Loads the definitions in `paths`. Reports every mistake of every file at once.
pub fn load(paths: &[PathBuf]) -> Result<Vec<Arc<CompiledMachine>>, MachinesError> {
    let mut machines: Vec<Arc<CompiledMachine>> = Vec::new();
    let mut errors = Vec::new();
    for path in files(paths)? {
        match load_file(&path)? {
            Ok(machine) => machines.push(machine),
            Err(more) => errors.extend(more),
        }
    }
    if !errors.is_empty() {
        return Err(MachinesError::Load(errors));
    }
    let mut by_name: BTreeMap<String, String> = BTreeMap::new();
    for machine in &machines {
        let name = machine.definition().machine.to_string();
        if let Some(first) = by_name.insert(name.clone(), machine.file().to_owned()) {
            return Err(MachinesError::Twice {
                machine: name,
                first,
                second: machine.file().to_owned(),
            });
        }
    }
    Ok(machines)
}

/// Loads one definition; the inner error is what is wrong with it.
pub fn load_file(
    path: &Path,
) -> Result<Result<Arc<CompiledMachine>, Vec<LoadError>>, MachinesError> {
    let text = crate::config::read_text(path).map_err(|error| MachinesError::Path {
        path: path.to_owned(),
        error,
    })?;
    Ok(MachineDefinition::load(&path.display().to_string(), &text))
}

/// Whether each of `given` may follow what the store keeps, in their order. Activates nothing.
pub async fn compare(
    store: &dyn StateStore,
    given: &[Arc<dyn Processor>],
) -> Result<Vec<Result<Upgrade, UpgradeRefused>>, StoreError> {
    let stored = store.definitions().await?;
    let mut compared = Vec::with_capacity(given.len());
    for machine in given {
        compared.push(may_follow(store, &stored, machine.as_ref()).await?);
    }
    Ok(compared)
}

async fn may_follow(
    store: &dyn StateStore,
    stored: &[StoredDefinition],
    machine: &dyn Processor,
) -> Result<Result<Upgrade, UpgradeRefused>, StoreError> {
    let definition = machine.definition();
    let of_machine: Vec<upgrade::StoredDefinition> = stored
        .iter()
        .filter(|stored| stored.machine == definition.machine)
        .map(|stored| upgrade::StoredDefinition {
            version: stored.version,
            hash: stored.hash,
            text: Arc::from(stored.text.as_str()),
        })
        .collect();
    // Counting reads all entities of the machine, so only what is not the latest one already asks.
    let latest = of_machine.iter().max_by_key(|stored| stored.version);
    let is_latest =
        latest.is_some_and(|it| (it.version, it.hash) == (definition.version, definition.hash));
    let entities = if is_latest {
        BTreeMap::new()
    } else {
        let entities = store.entities_by_status(&definition.machine).await?;
        entities.into_iter().collect()
    };
    Ok(check_upgrade(&of_machine, definition, &entities))
}

/// The machines that apply from now on: the stored active ones, with `given` in the place of those of
/// the same name. What of `given` is new is stored and activated.
pub async fn activate(
    store: &dyn StateStore,
    given: Vec<Arc<dyn Processor>>,
    at: Timestamp,
) -> Result<MachineSet, MachinesError> {
    let stored = store.definitions().await?;
    let mut to_store = Vec::new();
    for machine in &given {
        let definition = machine.definition();
        if may_follow(store, &stored, machine.as_ref()).await?? == Upgrade::Activate {
            to_store.push(definition);
        }
    }
    // Only when none is refused.
    for definition in to_store {
        let new = NewDefinition {
            machine: definition.machine.clone(),
            version: definition.version,
            hash: definition.hash,
            text: definition.text.clone(),
            fields: definition.fields.clone(),
        };
        store.activate_definition(new, at).await?;
        tracing::info!(
            machine = %definition.machine,
            version = definition.version,
            definition = %definition.hash,
            "machine activated"
        );
    }
    let mut machines: Vec<Arc<dyn Processor>> = Vec::new();
    for stored in stored.iter().filter(|stored| stored.active) {
        let is_given = given
            .iter()
            .any(|machine| machine.definition().machine == stored.machine);
        if !is_given {
            machines.push(reload(stored)?);
        }
    }
    machines.extend(given);
    Ok(MachineSet::new(machines))
}

/// The active machines of a store, and activates nothing. `own` are the machines of this binary: what is
/// stored of a machine in Rust is only a name for it.
pub async fn active(
    store: &dyn StateStore,
    own: &[Arc<dyn Processor>],
) -> Result<MachineSet, MachinesError> {
    let stored = store.definitions().await?;
    let active = stored.iter().filter(|stored| stored.active);
    let machines = active.map(|stored| own_or_reloaded(stored, own));
    Ok(MachineSet::new(
        machines.collect::<Result<Vec<_>, MachinesError>>()?,
    ))
}

/// Every stored definition that can be read, by its hash: what `verify` replays with. Those that cannot
/// (of a machine in Rust, which only the binary that has it among its `own` can replay) are left out.
pub async fn by_hash(
    store: &dyn StateStore,
    own: &[Arc<dyn Processor>],
) -> Result<MachinesByHash, StoreError> {
    let mut machines = BTreeMap::<Hash128, Arc<dyn Processor>>::new();
    for stored in store.definitions().await? {
        match own_or_reloaded(&stored, own) {
            Ok(machine) => {
                machines.insert(stored.hash, machine);
            }
            Err(error) => tracing::warn!(%error, "left out"),
        }
    }
    Ok(machines)
}

fn own_or_reloaded(
    stored: &StoredDefinition,
    own: &[Arc<dyn Processor>],
) -> Result<Arc<dyn Processor>, MachinesError> {
    let mut own = own.iter();
    match own.find(|machine| machine.definition().hash == stored.hash) {
        Some(machine) => Ok(machine.clone()),
        None => reload(stored),
    }
}

fn reload(stored: &StoredDefinition) -> Result<Arc<dyn Processor>, MachinesError> {
    let unreadable = |detail: String| MachinesError::Stored {
        machine: stored.machine.to_string(),
        version: stored.version,
        detail,
    };
    let name = format!("store:{}@{}", stored.machine, stored.version);
    let machine = MachineDefinition::load(&name, &stored.text)
        .map_err(|errors| unreadable(lines(&errors)))?;
    if machine.definition().hash != stored.hash {
        return Err(unreadable(format!(
            "its text hashes to {}, it is stored under {}",
            machine.definition().hash,
            stored.hash
        )));
    }
    Ok(machine)
}
