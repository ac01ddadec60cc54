//! What can be reached: states that no event ever leads to are mistakes of the author and refused.

use std::collections::BTreeSet;

use super::candidate::Effect;
use super::definition::MachineDefinition;
use super::document::Section;
use super::load_error::Problems;
use crate::state::Status;

/// Notes every declared state that no sequence of events leads to.
pub(super) fn check(definition: &MachineDefinition, root: Section<'_>, problems: &mut Problems) {
    let reached = reachable(definition);
    let line = root.get("states").map_or(root.line, |node| node.line);
    for state in &definition.states {
        if !reached.contains(state) {
            let message = format!("no event ever leads to the state `{state}`");
            let hint = format!("give a candidate `to: {state}`, or leave the state out");
            problems.push_with(line, "states", message, Some(hint));
        }
    }
}

fn reachable(definition: &MachineDefinition) -> BTreeSet<&Status> {
    let moves: Vec<(&Vec<Status>, &Status)> = definition
        .handlers
        .iter()
        .flat_map(|handler| &handler.candidates)
        .filter_map(|candidate| match &candidate.effect {
            Effect::Change { to: Some(to), .. } => Some((&candidate.from, to)),
            Effect::Change { to: None, .. } | Effect::Reject(_) => None,
        })
        .collect();
    let mut reached = BTreeSet::from([&definition.initial]);
    loop {
        let before = reached.len();
        for (from, to) in &moves {
            if from.iter().any(|state| reached.contains(state)) {
                reached.insert(to);
            }
        }
        if reached.len() == before {
            return reached;
        }
    }
}
