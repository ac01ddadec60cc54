//! Which definition of a machine may follow which: the rules of DESIGN.md 3 as a pure function over what
//! a store keeps. Stored definitions are only ever added to; only the active one applies.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::definition::MachineDefinition;
use super::load_error::listed;
use super::processor::{Definition, Processor};
use crate::hash::Hash128;
use crate::state::{MachineName, Status};

/// A definition as a store keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredDefinition {
    /// Its version.
    pub version: u64,
    /// Its content address.
    pub hash: Hash128,
    /// Its text.
    pub text: Arc<str>,
}

/// What to do with a definition that may follow the stored ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Upgrade {
    /// It is the active one already.
    Unchanged,
    /// Store it, and let it apply from now on.
    Activate,
}

/// Why a definition may not follow the stored ones.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UpgradeRefused {
    /// The version is taken by another text.
    #[error(
        "machine `{machine}`: version {version} is stored with another text ({entities} entities); \
         give the changed definition version {next}"
    )]
    SameVersionOtherText {
        /// The machine.
        machine: MachineName,
        /// The version that both have.
        version: u64,
        /// The version that the changed text may have.
        next: u64,
        /// Entities of the machine.
        entities: u64,
    },
    /// A later version is stored already.
    #[error(
        "machine `{machine}`: version {version} is lower than the stored {stored} ({entities} entities); \
         to go back, give the earlier text version {next}"
    )]
    LowerVersion {
        /// The machine.
        machine: MachineName,
        /// The version of the refused definition.
        version: u64,
        /// The highest stored version.
        stored: u64,
        /// The version that the earlier text may have.
        next: u64,
        /// Entities of the machine.
        entities: u64,
    },
    /// Entities are in states that the definition does not have.
    #[error("machine `{machine}`: version {version} lacks states that entities are in: {}", counted(.states))]
    MissingStates {
        /// The machine.
        machine: MachineName,
        /// The version of the refused definition.
        version: u64,
        /// The missing states, each with the number of entities in it.
        states: Vec<(Status, u64)>,
    },
    /// Fields that entities hold values of would change their types.
    #[error(
        "machine `{machine}`: version {version} changes the type of {} ({entities} entities hold values of \
         the old type); declare a new field instead",
        listed(.fields.iter().map(String::as_str))
    )]
    ChangedTypes {
        /// The machine.
        machine: MachineName,
        /// The version of the refused definition.
        version: u64,
        /// The fields.
        fields: Vec<String>,
        /// Entities of the machine.
        entities: u64,
    },
}

fn counted(states: &[(Status, u64)]) -> String {
    let each: Vec<String> = states
        .iter()
        .map(|(status, count)| format!("`{status}` ({count} entities)"))
        .collect();
    each.join(", ")
}

/// Decides whether `new` may follow what is stored of its machine, given how many entities are in each
/// status. A renamed machine is a new machine: nothing is stored of it.
pub fn check_upgrade(
    stored: &[StoredDefinition],
    new: &Definition,
    entities: &BTreeMap<Status, u64>,
) -> Result<Upgrade, UpgradeRefused> {
    let total = entities.values().sum();
    let machine = || new.machine.clone();
    let Some(active) = stored.iter().max_by_key(|definition| definition.version) else {
        return missing_states(new, entities).map(|()| Upgrade::Activate);
    };
    let same_version = stored
        .iter()
        .find(|definition| definition.version == new.version);
    match same_version {
        Some(same) if same.hash != new.hash => {
            return Err(UpgradeRefused::SameVersionOtherText {
                machine: machine(),
                version: new.version,
                next: active.version + 1,
                entities: total,
            });
        }
        Some(same) if same.version == active.version => return Ok(Upgrade::Unchanged),
        _ => {}
    }
    if new.version < active.version {
        return Err(UpgradeRefused::LowerVersion {
            machine: machine(),
            version: new.version,
            stored: active.version,
            next: active.version + 1,
            entities: total,
        });
    }
    missing_states(new, entities)?;
    let changed = changed_types(active, new);
    if !changed.is_empty() && total > 0 {
        return Err(UpgradeRefused::ChangedTypes {
            machine: machine(),
            version: new.version,
            fields: changed,
            entities: total,
        });
    }
    Ok(Upgrade::Activate)
}

/// Fields that both declare, each with another type. A text that is no definition of this format (a
/// Rust machine's, or one of an older release) declares nothing that could be compared.
fn changed_types(active: &StoredDefinition, new: &Definition) -> Vec<String> {
    let Ok(before) = MachineDefinition::load("stored", &active.text) else {
        return Vec::new();
    };
    let before = &before.definition().fields;
    new.fields
        .iter()
        .filter(|(name, kind)| {
            let known = before.iter().find(|(known, _)| known == name);
            known.is_some_and(|(_, before)| before != kind)
        })
        .map(|(name, _)| name.clone())
        .collect()
}

fn missing_states(
    new: &Definition,
    entities: &BTreeMap<Status, u64>,
) -> Result<(), UpgradeRefused> {
    let states: Vec<(Status, u64)> = entities
        .iter()
        .filter(|(status, count)| **count > 0 && !new.states.contains(status))
        .map(|(status, count)| (status.clone(), *count))
        .collect();
    if states.is_empty() {
        return Ok(());
    }
    Err(UpgradeRefused::MissingStates {
        machine: new.machine.clone(),
        version: new.version,
        states,
    })
}
