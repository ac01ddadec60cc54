//! Watches the logs while a run is on: what once stood in one stands there for ever, byte for byte.

use std::collections::BTreeMap;

use tidegate_engine::commit::Segment;
use tidegate_engine::position::{Sequence, StreamPartition};
use tidegate_engine::store::StateStore as _;

use crate::check::Check;
use crate::checker::{ROWS_MAX, tenants};
use crate::stage::Stage;

/// Every log as it stood at the last look.
#[derive(Default)]
pub struct LogWatch {
    seen: BTreeMap<StreamPartition, Vec<Segment>>,
    looks: u64,
}

impl LogWatch {
    /// Looks at every log: each begins with what it was.
    pub async fn look(&mut self, stage: &Stage) {
        self.looks += 1;
        let mut now = BTreeMap::new();
        for tenant in tenants(stage).await {
            for head in stage.store.stream_partitions(&tenant).await.unwrap() {
                let place = head.stream_partition;
                let segments = stage.store.segments(&place, Sequence(0), ROWS_MAX).await;
                now.insert(place, segments.unwrap());
            }
        }
        for (place, before) in &self.seen {
            let log = now.get(place).map_or(&[][..], Vec::as_slice);
            let stays = log.get(..before.len()) == Some(before.as_slice());
            if !stays {
                stage.violation(
                    Check::Immutable,
                    format!(
                        "{place}: what stood in its first {} segments changed",
                        before.len()
                    ),
                );
            }
        }
        self.seen = now;
    }

    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// Records at the last look.
    pub fn records(&self) -> u64 {
        let segments = self.seen.values().flatten();
        segments.map(|segment| u64::from(segment.count)).sum()
    }
}
