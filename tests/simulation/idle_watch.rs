//! Sees partitions being put away for idleness: between two looks at a node they are gone, although
//! their source partition is still owned under the same epoch and no actor of the node panicked.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_actors::NodeSnapshot;
use tidegate_engine::position::{Epoch, SourcePartition, StreamPartition};

use crate::control::Control;
use crate::stage::Stage;

#[derive(Default)]
pub struct IdleWatch {
    present: BTreeSet<(StreamPartition, Epoch)>,
    away: BTreeSet<(StreamPartition, Epoch)>,
    panics: u64,
}

impl IdleWatch {
    pub fn look(&mut self, snapshot: &NodeSnapshot, control: &Control, stage: &Stage) {
        let committers = snapshot.sources.iter().flat_map(|it| &it.partitions);
        let owned: BTreeMap<&SourcePartition, Epoch> = committers
            .map(|it| (&it.source_partition, it.epoch))
            .collect();
        let partitions = snapshot
            .tenants
            .iter()
            .flat_map(|it| &it.supervisor.partitions);
        let present: BTreeSet<_> = partitions
            .map(|it| it.stream_partition.clone())
            .filter_map(|place| {
                let epoch = *owned.get(&place.source_partition)?;
                Some((place, epoch))
            })
            .collect();
        let panicked = std::mem::replace(&mut self.panics, control.panics()) != self.panics;
        let is_owned = |(place, epoch): &&(StreamPartition, Epoch)| {
            owned.get(&place.source_partition) == Some(epoch)
        };
        let gone: Vec<_> = self.present.difference(&present).filter(is_owned).collect();
        let passivated = if panicked { Vec::new() } else { gone };
        let activated_again = present.intersection(&self.away).count() as u64;
        stage.saw(|quiet| {
            quiet.passivated += passivated.len() as u64;
            quiet.activated_again += activated_again;
        });
        self.away.extend(passivated.into_iter().cloned());
        self.away.retain(|place| !present.contains(place));
        self.present = present;
    }
}
