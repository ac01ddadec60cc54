//! Compares what was replayed with the stored entities, and where the logs end with the kept heads.

use super::replay::{Pass, Slot};
use super::walk::Walk;
use super::{CheckedFor, Findings};
use crate::commit::StoredEntity;
use crate::partition::EntityRef;
use crate::position::Version;
use crate::state::{EntityState, state_hash};
use crate::store::StoreError;

/// Entities read at once.
const ENTITY_PAGE: u32 = 1_000;

/// An entity of which effects are missing, or that moved on while the logs were read: one log was at its
/// end before another one was.
pub(super) struct Ahead {
    entity: EntityRef,
    /// As far as the logs have it.
    version: Version,
    found: String,
}

impl Pass<'_> {
    /// Compares what was replayed with the stored entities. Returns those that are ahead of the log:
    /// they moved on while it was read, or effects are missing.
    pub(super) async fn compare(
        &mut self,
        findings: &mut Findings,
    ) -> Result<Vec<Ahead>, StoreError> {
        let mut ahead = Vec::new();
        let mut after = None;
        loop {
            let page = self
                .store
                .entities(self.tenant, after.clone(), ENTITY_PAGE)
                .await?;
            for stored in &page {
                let entity = EntityRef {
                    machine: stored.name.machine.clone(),
                    key: stored.name.key.clone(),
                };
                if self.share.has(&entity) {
                    let slot = self.slots.remove(&entity);
                    self.compare_one(&entity, slot, stored, &mut ahead, findings);
                }
            }
            let Some(last) = page.last() else { break };
            after = Some((last.name.machine.clone(), last.name.key.clone()));
        }
        let mut left: Vec<(EntityRef, Slot)> = self.slots.drain().collect();
        left.sort_by(|one, other| one.0.cmp(&other.0));
        for (entity, slot) in left.into_iter().filter(|(_, slot)| !slot.broken) {
            let place = self.place(&entity, last_version(&slot));
            findings.differ(CheckedFor::Entity, place, "a stored entity", "none");
        }
        Ok(ahead)
    }

    fn compare_one(
        &self,
        entity: &EntityRef,
        slot: Option<Slot>,
        stored: &StoredEntity,
        ahead: &mut Vec<Ahead>,
        findings: &mut Findings,
    ) {
        let mut slot = slot.unwrap_or_default();
        if slot.broken {
            return;
        }
        if self.dropped > 0 && stored.version > slot.version {
            follow_hashes(&mut slot, self.dropped);
        }
        if let Some((version, step)) = slot.waiting.first_key_value() {
            ahead.push(Ahead {
                entity: entity.clone(),
                version: slot.version,
                found: format!("version {version} next, at {}", step.position),
            });
            return;
        }
        let missing = stored.version.0.saturating_sub(slot.version.0);
        if missing > 0 && missing <= self.dropped {
            // Its last effects are among what retention dropped, perhaps every one.
            findings.report.entities_beyond_retention += 1;
            return;
        }
        if missing > 0 {
            ahead.push(Ahead {
                entity: entity.clone(),
                version: slot.version,
                found: "none".to_owned(),
            });
            return;
        }
        let place = || self.place(entity, slot.version);
        if stored.version < slot.version {
            let found = format!("version {}", stored.version);
            let expected = format!("version {}, as the log has it", slot.version);
            findings.differ(CheckedFor::Entity, place(), expected, found);
            return;
        }
        let hash = state_hash(&stored.status, &stored.data);
        if hash != slot.hash {
            let expected = format!("stored state with hash {:016x}", slot.hash);
            let found = match &slot.state {
                Some(state) => format!("{hash:016x}, {}", what_differs(state, stored)),
                None => format!("{hash:016x}"),
            };
            findings.differ(CheckedFor::Entity, place(), expected, found);
            return;
        }
        match &slot.state {
            Some(state) => {
                let text = state.data.to_canonical();
                if state.status == stored.status && text.as_deref() == Some(&*stored.data) {
                    findings.report.entities += 1;
                } else {
                    let found = what_differs(state, stored);
                    findings.differ(CheckedFor::Entity, place(), "the replayed bytes", found);
                }
            }
            None => findings.report.entities_beyond_retention += 1,
        }
    }

    /// Compares where the logs ended with the heads as they are now.
    pub(super) async fn check_ends(
        &self,
        walks: &mut [Walk],
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        for head in self.store.stream_partitions(self.tenant).await? {
            for walk in walks.iter_mut() {
                if walk.stream_partition == head.stream_partition {
                    walk.check_end(self.store, &head, findings).await?;
                }
            }
        }
        Ok(())
    }

    /// Entities that are ahead of the log as it was read: they moved on, or effects are missing.
    pub(super) async fn check_ahead(
        &self,
        walks: &[Walk],
        ahead: Vec<Ahead>,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        if ahead.is_empty() {
            return Ok(());
        }
        let mut at_rest = true;
        for head in self.store.stream_partitions(self.tenant).await? {
            at_rest &= walks.iter().any(|walk| {
                walk.stream_partition == head.stream_partition && !walk.is_behind(&head)
            });
        }
        for missing in ahead {
            if !at_rest {
                findings.report.moved_on += 1;
                continue;
            }
            let place = self.place(&missing.entity, missing.version.next());
            let expected = "the effect of this version in the log";
            findings.differ(CheckedFor::Version, place, expected, missing.found);
        }
        Ok(())
    }
}

/// When retention dropped some of an entity's effects, what is left is followed by its hashes alone. A
/// gap may be as long as what was dropped: one record moves an entity of one machine at most once.
fn follow_hashes(slot: &mut Slot, dropped: u64) {
    while let Some((version, step)) = slot.waiting.pop_first() {
        if version.0 - slot.version.0 - 1 > dropped {
            slot.waiting.insert(version, step);
            return;
        }
        slot.follows_hashes = true;
        slot.state = None;
        slot.version = version;
        slot.hash = step.hash;
    }
}

fn last_version(slot: &Slot) -> Version {
    slot.waiting
        .last_key_value()
        .map_or(slot.version, |(version, _)| *version)
}

/// Where two states part, without a value of either.
fn what_differs(state: &EntityState, stored: &StoredEntity) -> String {
    if state.status != stored.status {
        return format!("status `{}` instead of `{}`", stored.status, state.status);
    }
    let text = state.data.to_canonical().unwrap_or_default();
    let at = text
        .bytes()
        .zip(stored.data.bytes())
        .position(|(one, other)| one != other)
        .unwrap_or_else(|| text.len().min(stored.data.len()));
    format!("data that differ from byte {at}")
}
