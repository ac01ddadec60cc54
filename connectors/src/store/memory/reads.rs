//! The reads of the memory store, its definitions and its upkeep. Reads never change anything and
//! return rows in the order that the seam promises.

use std::collections::BTreeMap;
use std::ops::Bound;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{EntityName, Segment, StoredEntity};
use tidegate_engine::position::{Sequence, SourcePartition, StreamPartition};
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::store::{
    ChainAnchor, DeadLetterFilter, NewDefinition, StoreError, StoredDeadLetter, StoredDefinition,
    StoredOpenWork, StreamHead, Upkeep, UpkeepDone,
};
use tidegate_engine::tenant::TenantId;

use super::tables::{StreamLog, Tables};
use crate::store::batch_form;

/// How many rows a caller may have asked for.
fn rows(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

impl Tables {
    pub(super) fn stream_heads(
        &self,
        tenant: &TenantId,
        source_partition: Option<&SourcePartition>,
    ) -> Vec<StreamHead> {
        self.tenants
            .get(tenant)
            .into_iter()
            .flat_map(|of_tenant| &of_tenant.streams)
            .filter(|(place, _)| {
                source_partition.is_none_or(|wanted| place.source_partition == *wanted)
            })
            .map(|(place, log)| StreamHead {
                stream_partition: place.clone(),
                next_sequence: log.next_sequence,
                chain_head: log.chain_head,
            })
            .collect()
    }

    pub(super) fn load_entities(
        &self,
        tenant: &TenantId,
        names: &[EntityName],
    ) -> Result<Vec<StoredEntity>, StoreError> {
        if names.iter().any(|name| name.tenant != *tenant) {
            return Err(batch_form::out_of_form(
                "an entity was asked for under another tenant than its own",
            ));
        }
        let Some(of_tenant) = self.tenants.get(tenant) else {
            return Ok(Vec::new());
        };
        Ok(names
            .iter()
            .filter_map(|name| of_tenant.entities.get(name).cloned())
            .collect())
    }

    pub(super) fn activate_definition(
        &mut self,
        definition: NewDefinition,
    ) -> Result<(), StoreError> {
        let place = (definition.machine.clone(), definition.version);
        if self
            .definitions
            .get(&place)
            .is_some_and(|stored| stored.hash != definition.hash)
        {
            return Err(StoreError::Unexpected {
                code: batch_form::CODE_DEFINITION.to_owned(),
                detail: format!(
                    "version {} of machine `{}` is stored with another text",
                    definition.version, definition.machine
                ),
            });
        }
        for stored in self.definitions.values_mut() {
            if stored.machine == definition.machine {
                stored.active = false;
            }
        }
        self.definitions
            .entry(place)
            .or_insert_with(|| StoredDefinition {
                machine: definition.machine,
                version: definition.version,
                hash: definition.hash,
                text: definition.text.to_string(),
                active: true,
            })
            .active = true;
        Ok(())
    }

    pub(super) fn entities_by_status(&self, machine: &MachineName) -> Vec<(Status, u64)> {
        let mut counts: BTreeMap<Status, u64> = BTreeMap::new();
        for entity in self
            .tenants
            .values()
            .flat_map(|of_tenant| of_tenant.entities.values())
        {
            if entity.name.machine == *machine {
                *counts.entry(entity.status.clone()).or_default() += 1;
            }
        }
        counts.into_iter().collect()
    }

    pub(super) fn chain_anchor(&self, place: &StreamPartition) -> Option<ChainAnchor> {
        let (next_sequence, chain_head) = self.log(place)?.anchor?;
        Some(ChainAnchor {
            stream_partition: place.clone(),
            next_sequence,
            chain_head,
        })
    }

    pub(super) fn segments(
        &self,
        place: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Vec<Segment> {
        let Some(log) = self.log(place) else {
            return Vec::new();
        };
        // The last segment that begins at or before `from` may contain it.
        let begin = log
            .segments
            .range(..=from)
            .next_back()
            .filter(|(first, segment)| from.0 - first.0 < u64::from(segment.count))
            .map_or(from, |(first, _)| *first);
        log.segments
            .range(begin..)
            .take(rows(limit))
            .map(|(_, segment)| segment.clone())
            .collect()
    }

    pub(super) fn entities_of(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Vec<StoredEntity> {
        let behind = after.map(|(machine, key)| EntityName {
            tenant: tenant.clone(),
            machine,
            key,
        });
        let begin = behind.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        self.tenants
            .get(tenant)
            .into_iter()
            .flat_map(|of_tenant| {
                of_tenant
                    .entities
                    .range::<EntityName, _>((begin, Bound::Unbounded))
            })
            .take(rows(limit))
            .map(|(_, entity)| entity.clone())
            .collect()
    }

    pub(super) fn dead_letters_of(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Vec<StoredDeadLetter> {
        let begin = filter.after.map_or(Bound::Unbounded, Bound::Excluded);
        self.tenants
            .get(tenant)
            .into_iter()
            .flat_map(|of_tenant| of_tenant.dead_letters.range((begin, Bound::Unbounded)))
            .map(|(_, stored)| stored)
            .filter(|stored| filter.state.is_none_or(|wanted| stored.state == wanted))
            .take(rows(limit))
            .cloned()
            .collect()
    }

    pub(super) fn open_work_of(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        limit: u32,
    ) -> Vec<StoredOpenWork> {
        let mut due: Vec<_> = self
            .tenants
            .get(tenant)
            .into_iter()
            .flat_map(|of_tenant| of_tenant.open_work.values())
            .filter(|work| work.cause.source_partition == *source_partition)
            .collect();
        due.sort_by_key(|work| (work.due, work.id));
        due.into_iter()
            .take(rows(limit))
            .map(|work| StoredOpenWork {
                id: work.id,
                kind: work.kind.as_str().to_owned(),
                event: work.event.clone(),
            })
            .collect()
    }

    pub(super) fn upkeep(&mut self, upkeep: Upkeep) -> UpkeepDone {
        let since = *self.dedupe_since.get_or_insert(upkeep.now);
        let rotated = upkeep.now.0.saturating_sub(since.0) > upkeep.dedupe_window_micros;
        if rotated {
            self.dedupe_older = std::mem::take(&mut self.dedupe_current);
            self.dedupe_since = Some(upkeep.now);
        }
        let segments_dropped = upkeep.retention_micros.map_or(0, |retention| {
            let horizon = Timestamp(upkeep.now.0.saturating_sub(retention));
            self.tenants
                .values_mut()
                .flat_map(|of_tenant| of_tenant.streams.values_mut())
                .map(|log| log.drop_before(horizon))
                .sum()
        });
        UpkeepDone {
            rotated,
            segments_dropped,
        }
    }
}

impl StreamLog {
    /// Drops the oldest segments whose last record is older than `horizon`, and anchors the chain
    /// behind them. Stops at the first younger one, so that a clock that stepped back leaves no hole.
    fn drop_before(&mut self, horizon: Timestamp) -> u64 {
        let mut dropped = 0;
        while let Some(oldest) = self.segments.first_entry()
            && oldest.get().last_at < horizon
        {
            let segment = oldest.remove();
            self.anchor = Some((
                Sequence(segment.first_sequence.0 + u64::from(segment.count)),
                segment.chain_head,
            ));
            dropped += 1;
        }
        dropped
    }
}
