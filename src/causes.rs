//! Which stored event caused which: the tree of a correlation id.

use std::collections::HashMap;

use tidegate_engine::position::RecordPosition;
use tidegate_engine::record::{Record, RecordBody};

/// A record of what was found, and what it caused, in the order of what was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Cause {
    /// Which of the records.
    pub index: usize,
    /// What it caused.
    pub caused: Vec<Cause>,
}

/// How deep a tree may be: JSON of deeper ones is refused by many readers.
const DEPTH_MAX: usize = 50;

/// The records as trees: each event under the one whose id it names in `causationid`, a decision about a
/// dead letter under the record it is about. One whose cause is not among them is a root, and of events
/// that name each other, a client's doing, the first is. What is deeper than 50 begins a new tree.
pub fn trees(found: &[(RecordPosition, Record)]) -> Vec<Cause> {
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    let mut by_position: HashMap<&RecordPosition, usize> = HashMap::new();
    for (index, (position, record)) in found.iter().enumerate() {
        by_position.insert(position, index);
        if let RecordBody::Event(event) = &record.body {
            by_id.entry(event.id.as_str()).or_insert(index);
        }
    }
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); found.len()];
    let mut roots = Vec::new();
    for (index, (_, record)) in found.iter().enumerate() {
        let parent = match &record.body {
            RecordBody::Event(event) => event
                .causation_id
                .as_ref()
                .and_then(|id| by_id.get(id.as_str())),
            RecordBody::FollowUp { of, .. } => by_position.get(of),
        };
        match parent.filter(|parent| **parent != index) {
            Some(parent) => below
                .get_mut(*parent)
                .into_iter()
                .for_each(|of| of.push(index)),
            None => roots.push(index),
        }
    }
    let mut shown = vec![false; found.len()];
    let all = roots.into_iter().chain(0..found.len());
    all.filter_map(|index| tree(index, DEPTH_MAX, &below, &mut shown))
        .collect()
}

fn tree(index: usize, depth: usize, below: &[Vec<usize>], shown: &mut [bool]) -> Option<Cause> {
    let left = depth.checked_sub(1)?;
    let seen = shown.get_mut(index)?;
    if std::mem::replace(seen, true) {
        return None;
    }
    let caused = below.get(index)?.iter();
    let caused = caused
        .filter_map(|child| tree(*child, left, below, shown))
        .collect();
    Some(Cause { index, caused })
}

#[cfg(test)]
mod tests {
    use super::{Cause, DEPTH_MAX, tree};

    #[test]
    fn a_long_chain_is_cut_into_trees_that_can_be_read_and_nothing_of_it_is_lost() {
        let events = 3 * DEPTH_MAX + 7;
        let below: Vec<Vec<usize>> = (1..=events)
            .map(|next| Vec::from_iter((next < events).then_some(next)))
            .collect();
        let mut shown = vec![false; events];
        let roots = (0..events).filter_map(|index| tree(index, DEPTH_MAX, &below, &mut shown));
        let roots: Vec<Cause> = roots.collect();
        let begins: Vec<usize> = roots.iter().map(|root| root.index).collect();
        assert_eq!(begins, [0, DEPTH_MAX, 2 * DEPTH_MAX, 3 * DEPTH_MAX]);
        assert!(shown.iter().all(|shown| *shown));
        let mut deepest = 0;
        for root in &roots {
            let (mut depth, mut at) = (1, root);
            while let Some(child) = at.caused.first() {
                (depth, at) = (depth + 1, child);
            }
            deepest = deepest.max(depth);
        }
        assert_eq!(deepest, DEPTH_MAX);
    }
}
