//! The reads of the memory store, and its definitions. Reads never change anything and return rows in
//! the order that the seam promises.

use std::collections::BTreeMap;
use std::ops::Bound;

use tidegate_engine::commit::{EntityName, Segment, StoredEntity, WorkPlace};
use tidegate_engine::position::{RecordPosition, Sequence, SourcePartition, StreamPartition};
use tidegate_engine::record::{Record, RecordBody, split_segment};
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::store::{
    ChainAnchor, DeadLetterFilter, EventLookup, NewDefinition, StoreError, StoredDeadLetter,
    StoredDefinition, StoredOpenWork, StreamHead,
};
use tidegate_engine::tenant::TenantId;

use super::tables::Tables;
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
        let of_machine = |stored: &&StoredDefinition| stored.machine == definition.machine;
        let versions = self.definitions.values().filter(of_machine);
        let highest = versions.map(|stored| stored.version).max();
        if let Some(higher) = highest.filter(|highest| *highest > definition.version) {
            return Err(StoreError::Unexpected {
                code: batch_form::CODE_DEFINITION.to_owned(),
                detail: batch_form::higher_is_stored(
                    &definition.machine,
                    definition.version,
                    higher,
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

    /// Reads the log: what a store keeps an index for, one in memory can do without.
    pub(super) fn event_positions(
        &self,
        tenant: &TenantId,
        wanted: &EventLookup,
        after: Option<&RecordPosition>,
        limit: u32,
    ) -> Vec<RecordPosition> {
        let streams = self.tenants.get(tenant).map(|tables| &tables.streams);
        let mut found = Vec::new();
        for (place, log) in streams.into_iter().flatten() {
            for segment in log.segments.values() {
                for text in split_segment(&segment.body).unwrap_or_default() {
                    let Ok((record, _)) = Record::read(text.get()) else {
                        continue;
                    };
                    let position = RecordPosition {
                        stream: place.stream.clone(),
                        source_partition: place.source_partition.clone(),
                        sequence: record.sequence,
                    };
                    if is_wanted(&record, wanted) && Some(&position) > after {
                        found.push(position);
                    }
                }
            }
        }
        found.truncate(rows(limit));
        found
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
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Vec<StoredOpenWork> {
        self.tenants
            .get(tenant)
            .into_iter()
            .flat_map(|of_tenant| &of_tenant.open_work)
            .filter(|((owner, place), _)| owner == source_partition && Some(*place) > after)
            .take(rows(limit))
            .map(|((_, place), work)| StoredOpenWork {
                id: work.id,
                place: *place,
                kind: work.kind.as_str().to_owned(),
                cause: work.cause.clone(),
                event: work.event.clone(),
            })
            .collect()
    }

    pub(super) fn tenants_with_open_work(
        &self,
        source_partition: &SourcePartition,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Vec<TenantId> {
        self.tenants
            .iter()
            .filter(|(tenant, of_tenant)| {
                let mut owners = of_tenant.open_work.keys().map(|(owner, _)| owner);
                Some(*tenant) > after && owners.any(|owner| owner == source_partition)
            })
            .map(|(tenant, _)| tenant.clone())
            .take(rows(limit))
            .collect()
    }
}

fn is_wanted(record: &Record, wanted: &EventLookup) -> bool {
    match (&record.body, wanted) {
        (RecordBody::Event(event), EventLookup::Id(id)) => event.id == *id,
        (RecordBody::Event(event), EventLookup::Correlation(correlation)) => {
            event.correlation_id.as_ref() == Some(correlation)
        }
        (RecordBody::FollowUp { .. }, _) => false,
    }
}
