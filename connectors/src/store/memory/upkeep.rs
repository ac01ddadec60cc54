//! Rotation and retention of the memory store. Owns the only way in which something stored goes away.

use std::collections::BTreeMap;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::dead_letter::{DeadLetterSource, DeadLetterState};
use tidegate_engine::position::{Sequence, StreamPartition};
use tidegate_engine::store::{Upkeep, UpkeepDone};
use tidegate_engine::tenant::TenantId;

use super::tables::{StreamLog, Tables, TenantTables};

impl Tables {
    pub(super) fn upkeep(&mut self, upkeep: Upkeep) -> UpkeepDone {
        let since = *self.dedupe_since.get_or_insert(upkeep.now);
        let rotated = upkeep.now.0.saturating_sub(since.0) > upkeep.dedupe_window_micros;
        if rotated {
            self.dedupe_older = std::mem::take(&mut self.dedupe_current);
            self.dedupe_since = Some(upkeep.now);
        }
        let mut done = UpkeepDone {
            rotated,
            // The log itself is asked, so nothing is behind.
            index_lag_records: Some(0),
            ..UpkeepDone::default()
        };
        if let Some(retention) = upkeep.retention_micros {
            let horizon = Timestamp(upkeep.now.0.saturating_sub(retention));
            for (tenant, tables) in &mut self.tenants {
                let held = tables.held_from(tenant);
                for (place, log) in &mut tables.streams {
                    let past = log.past(horizon);
                    let dropped = log.drop_oldest(past, held.get(place).copied());
                    done.segments_dropped += dropped as u64;
                    done.segments_held += (past - dropped) as u64;
                }
            }
        }
        done
    }
}

impl TenantTables {
    /// The first record of each log that an open dead letter points to.
    fn held_from(&self, tenant: &TenantId) -> BTreeMap<StreamPartition, Sequence> {
        let mut held = BTreeMap::new();
        for stored in self.dead_letters.values() {
            if let (DeadLetterState::Open, DeadLetterSource::Record { position, .. }) =
                (stored.state, &stored.letter.source)
            {
                let place = StreamPartition {
                    tenant: tenant.clone(),
                    stream: position.stream.clone(),
                    source_partition: position.source_partition.clone(),
                };
                let first = held.entry(place).or_insert(position.sequence);
                *first = position.sequence.min(*first);
            }
        }
        held
    }
}

impl StreamLog {
    /// How many of the oldest segments have their last record before `horizon`. Stops at the first
    /// younger one, so that a clock that stepped back leaves no hole.
    fn past(&self, horizon: Timestamp) -> usize {
        let segments = self.segments.values();
        segments
            .take_while(|segment| segment.last_at < horizon)
            .count()
    }

    /// Drops at most `segments` of the oldest, stops at the one that is held, and anchors the chain
    /// behind what is gone.
    fn drop_oldest(&mut self, segments: usize, held_from: Option<Sequence>) -> usize {
        let mut dropped = 0;
        while dropped < segments
            && let Some(oldest) = self.segments.first_entry()
        {
            let segment = oldest.get();
            let end = Sequence(segment.first_sequence.0 + u64::from(segment.count));
            if held_from.is_some_and(|held| held < end) {
                break;
            }
            self.anchor = Some((end, segment.chain_head));
            oldest.remove();
            dropped += 1;
        }
        dropped
    }
}
