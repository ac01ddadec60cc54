//! What `validate` warns of: definitions that are allowed and yet likely mistakes. Looks at all machines
//! together, since a cycle of emitted events usually runs through several.

use std::collections::{BTreeMap, BTreeSet};

use super::compiled::CompiledMachine;
use super::load_error::listed;
use crate::event::EventType;
use crate::limits::HOPS_MAX;

/// Something that is allowed and likely a mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The file it concerns.
    pub file: String,
    /// What it is and what comes of it.
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.message)
    }
}

/// Warns of cycles of emitted event types, and of machines without tests.
pub fn warnings<'m>(machines: impl IntoIterator<Item = &'m CompiledMachine>) -> Vec<Warning> {
    let machines: Vec<&CompiledMachine> = machines.into_iter().collect();
    let mut found: Vec<Warning> = machines
        .iter()
        .filter(|machine| machine.cases().is_empty())
        .map(|machine| Warning {
            file: machine.file().to_owned(),
            message: "the machine has no tests: say in `tests` what it is meant to do".to_owned(),
        })
        .collect();
    let mut sets_off: BTreeMap<&EventType, BTreeSet<&EventType>> = BTreeMap::new();
    for (cause, emitted) in machines.iter().flat_map(|machine| machine.emissions()) {
        sets_off.entry(cause).or_default().insert(emitted);
    }
    for cycle in cycles(&sets_off) {
        let file = machines
            .iter()
            .find(|machine| machine.emissions().any(|(cause, _)| cycle.contains(cause)))
            .map_or_else(String::new, |machine| machine.file().to_owned());
        let names = cycle.iter().map(|event_type| event_type.as_str());
        found.push(Warning {
            file,
            message: format!(
                "emitted events can set each other off without end: {}; after {HOPS_MAX} hops an event is dead, reason `loop`",
                listed(names)
            ),
        });
    }
    found
}

/// The groups of event types that can each set off every other of the group, in order.
fn cycles<'t>(
    sets_off: &BTreeMap<&'t EventType, BTreeSet<&'t EventType>>,
) -> BTreeSet<BTreeSet<&'t EventType>> {
    let reach: BTreeMap<&EventType, BTreeSet<&EventType>> = sets_off
        .keys()
        .map(|from| (*from, reached(from, sets_off)))
        .collect();
    let sets = |from: &EventType, to: &EventType| {
        reach.get(from).is_some_and(|reached| reached.contains(to))
    };
    reach
        .keys()
        .filter(|event_type| sets(event_type, event_type))
        .map(|event_type| {
            reach
                .keys()
                .copied()
                .filter(|other| sets(event_type, other) && sets(other, event_type))
                .collect()
        })
        .collect()
}

fn reached<'t>(
    from: &EventType,
    sets_off: &BTreeMap<&'t EventType, BTreeSet<&'t EventType>>,
) -> BTreeSet<&'t EventType> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&EventType> = sets_off.get(from).into_iter().flatten().copied().collect();
    while let Some(event_type) = open.pop() {
        if reached.insert(event_type) {
            open.extend(sets_off.get(event_type).into_iter().flatten());
        }
    }
    reached
}
