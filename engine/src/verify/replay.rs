//! Replays a tenant's effects, each entity's in order of version, and compares what comes out with the
//! hashes in the log and with the stored entities.

use std::collections::{BTreeMap, HashMap};

use super::counts::Tallies;
use super::order::Order;
use super::walk::Walk;
use super::{CheckedFor, Findings, MachinesByHash, Place, VerifyOptions, VerifyProgress};
use crate::clock::Timestamp;
use crate::commit::EntityName;
use crate::event::Event;
use crate::hash::{Hash128, hash_fields};
use crate::machine::EventContext;
use crate::partition::EntityRef;
use crate::position::{RecordPosition, StreamPartition, Version};
use crate::record::{Effect, Outcome, Record, RecordBody};
use crate::state::EntityState;
use crate::store::{StateStore, StoreError};
use crate::tenant::TenantId;
use crate::transition;

/// Passes after which memory is no longer bounded by splitting further: what is left then waits for one
/// missing version of one entity, and that is a difference.
const PASSES_MAX: u64 = 1_024;

/// Records between two calls of the progress.
const PROGRESS_RECORDS: u64 = 2_000;

/// Verifies one tenant's logs and entities.
pub(super) async fn tenant(
    store: &dyn StateStore,
    machines: &MachinesByHash,
    options: &VerifyOptions,
    tenant: &TenantId,
    tallies: &mut Tallies,
    findings: &mut Findings,
    progress: &mut (dyn FnMut(VerifyProgress) + Send),
) -> Result<(), StoreError> {
    let mut passes = 1;
    loop {
        let report_before = findings.report.clone();
        let done_before = findings.progress.records_done;
        let mut tallied = Tallies::default();
        let mut complete = true;
        for index in 0..passes {
            let pass = Pass {
                store,
                machines,
                tenant,
                share: Share { index, of: passes },
                held_max: if passes < PASSES_MAX {
                    options.held_max
                } else {
                    usize::MAX
                },
                segments_max: options.segments_held_max,
                slots: HashMap::new(),
                held: 0,
                dropped: 0,
                in_vain: false,
            };
            complete = pass.run(&mut tallied, findings, progress).await?;
            if !complete || findings.is_full() {
                break;
            }
        }
        if complete {
            tallies.merge(tallied);
            return Ok(());
        }
        findings.report = report_before;
        passes *= 4;
        let read_in_vain = findings.progress.records_done - done_before;
        let log: u64 = store
            .stream_partitions(tenant)
            .await?
            .iter()
            .map(|head| head.next_sequence.0)
            .sum();
        findings.progress.records_total += read_in_vain + log * (passes - 1);
    }
}

/// Which entities a pass replays.
#[derive(Clone, Copy)]
pub(super) struct Share {
    index: u64,
    of: u64,
}

impl Share {
    pub(super) fn has(self, entity: &EntityRef) -> bool {
        if self.of == 1 {
            return true;
        }
        let fields = [
            entity.machine.as_str().as_bytes(),
            entity.key.as_str().as_bytes(),
        ];
        let hash = hash_fields("tidegate.verify.share", &fields).0;
        (hash % u128::from(self.of)) as u64 == self.index
    }
}

/// One entity between two of its effects.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) version: Version,
    pub(super) hash: u64,
    /// Absent before the first effect, and when it can only be followed by its hashes.
    pub(super) state: Option<EntityState>,
    pub(super) follows_hashes: bool,
    pub(super) broken: bool,
    /// Effects that came before the one they follow: an entity that several stream partitions share.
    pub(super) waiting: BTreeMap<Version, Step>,
}

/// One effect that moves an entity.
pub(super) struct Step {
    definition: Hash128,
    /// `None` when retention dropped the event that a follow-up points to.
    event: Option<(Event, Timestamp)>,
    pub(super) hash: u64,
    pub(super) position: RecordPosition,
}

pub(super) struct Pass<'p> {
    pub(super) store: &'p dyn StateStore,
    machines: &'p MachinesByHash,
    pub(super) tenant: &'p TenantId,
    pub(super) share: Share,
    held_max: usize,
    segments_max: u32,
    pub(super) slots: HashMap<EntityRef, Slot>,
    held: usize,
    /// Records that retention dropped.
    pub(super) dropped: u64,
    /// The record that is taken waits for what is in no log that can go on.
    in_vain: bool,
}

impl Pass<'_> {
    /// False when more would have to be held than may be.
    async fn run(
        mut self,
        tallies: &mut Tallies,
        findings: &mut Findings,
        progress: &mut (dyn FnMut(VerifyProgress) + Send),
    ) -> Result<bool, StoreError> {
        let first = self.share.index == 0;
        let heads = self.store.stream_partitions(self.tenant).await?;
        let mut walks = Vec::with_capacity(heads.len());
        for head in heads {
            let walk = Walk::begin(self.store, head.stream_partition, first).await?;
            self.dropped += walk.dropped;
            if first {
                findings.report.stream_partitions += 1;
                tallies.dropped(&walk.stream_partition.source_partition, walk.dropped);
            }
            walks.push(walk);
        }
        let mut order = Order::default();
        for (index, walk) in walks.iter_mut().enumerate() {
            walk.fill(self.store, self.segments_max, findings).await?;
            order.push_next(walk, index);
        }
        let mut reported_at = findings.progress.records_done;
        while let Some((front, may_wait)) = order.pop() {
            let Some(walk) = walks.get_mut(front.1) else {
                continue;
            };
            if may_wait && let Some(entity) = walk.peek().and_then(|it| self.not_next(it)) {
                order.block(front, entity);
                continue;
            }
            if let Some(record) = walk.pop() {
                let stream_partition = walk.stream_partition.clone();
                if first {
                    tallies.record(&stream_partition, &record);
                }
                self.in_vain = !may_wait;
                self.take(&stream_partition, record, &mut order, findings)
                    .await?;
            }
            walk.fill(self.store, self.segments_max, findings).await?;
            order.push_next(walk, front.1);
            if findings.progress.records_done >= reported_at + PROGRESS_RECORDS {
                reported_at = findings.progress.records_done;
                progress(findings.progress);
            }
            if self.held > self.held_max {
                return Ok(false);
            }
            if findings.is_full() {
                return Ok(true);
            }
        }
        progress(findings.progress);
        self.check_ends(&mut walks, findings).await?;
        let ahead = self.compare(findings).await?;
        self.check_ahead(&walks, ahead, findings).await?;
        Ok(true)
    }

    async fn take(
        &mut self,
        stream_partition: &StreamPartition,
        record: Record,
        order: &mut Order,
        findings: &mut Findings,
    ) -> Result<(), StoreError> {
        let position = RecordPosition {
            stream: stream_partition.stream.clone(),
            source_partition: stream_partition.source_partition.clone(),
            sequence: record.sequence,
        };
        // What a follow-up points to is read once, and only when one of its effects is ours.
        let mut pointed: Option<Option<(Event, Timestamp)>> = None;
        for effect in &record.effects {
            let Some((entity, version, hash)) = moved(effect) else {
                if effect.outcome == Outcome::Applied && self.share.index == 0 {
                    let place = Place::Log {
                        stream_partition: stream_partition.clone(),
                        sequence: record.sequence,
                    };
                    findings.differ(
                        CheckedFor::Record,
                        place,
                        "key, version and state hash of what was applied",
                        "an effect without one of them",
                    );
                }
                continue;
            };
            if !self.share.has(&entity) {
                continue;
            }
            let event = match (&record.body, &pointed) {
                // What it waits for was dropped, so it will be followed by its hashes: held without its
                // event, or all that is left of a hot entity would be in memory at once.
                _ if self.in_vain && self.dropped > 0 => None,
                (RecordBody::Event(event), _) => Some((event.clone(), record.admitted_at)),
                (RecordBody::FollowUp { .. }, Some(found)) => found.clone(),
                (RecordBody::FollowUp { of, .. }, None) => {
                    let found = stored_event(self.store, self.tenant, of).await?;
                    pointed = Some(found.clone());
                    found
                }
            };
            let step = Step {
                definition: effect.definition,
                event,
                hash,
                position: position.clone(),
            };
            order.moved(&entity);
            self.step(entity, version, step, findings);
        }
        Ok(())
    }

    /// The first entity of this share that has to move before the record's effect on it.
    fn not_next(&self, record: &Record) -> Option<EntityRef> {
        record.effects.iter().find_map(|effect| {
            let (entity, version, _) = moved(effect)?;
            let is_next = || match self.slots.get(&entity) {
                Some(slot) => slot.broken || version <= slot.version.next(),
                None => version <= Version(1),
            };
            (self.share.has(&entity) && !is_next()).then_some(entity)
        })
    }

    fn step(&mut self, entity: EntityRef, version: Version, step: Step, findings: &mut Findings) {
        let slots = self.slots.len();
        let slot = self.slots.entry(entity.clone()).or_default();
        if slot.broken {
            return;
        }
        if version <= slot.version || slot.waiting.contains_key(&version) {
            let found = format!("it again at {}", step.position);
            slot.broken = true;
            let place = self.place(&entity, version);
            findings.differ(CheckedFor::Version, place, "one effect a version", found);
            return;
        }
        slot.waiting.insert(version, step);
        self.held += 1;
        while let Some((version, step)) = self.due(&entity) {
            self.held -= 1;
            self.replay(&entity, version, &step, findings);
        }
        self.held += self.slots.len() - slots;
    }

    fn due(&mut self, entity: &EntityRef) -> Option<(Version, Step)> {
        let slot = self.slots.get_mut(entity)?;
        if slot.broken {
            return None;
        }
        let version = slot.version.next();
        slot.waiting.remove(&version).map(|step| (version, step))
    }

    fn replay(
        &mut self,
        entity: &EntityRef,
        version: Version,
        step: &Step,
        findings: &mut Findings,
    ) {
        let Some(slot) = self.slots.get_mut(entity) else {
            return;
        };
        slot.version = version;
        slot.hash = step.hash;
        let Some((event, admitted_at)) = &step.event else {
            // Without the event only what the log says of its effect is left.
            slot.follows_hashes = true;
            slot.state = None;
            return;
        };
        if slot.follows_hashes {
            return;
        }
        let Some(machine) = self.machines.get(&step.definition) else {
            slot.broken = true;
            let place = self.place(entity, version);
            let expected = format!("definition {} of `{}`", step.definition, entity.machine);
            findings.differ(CheckedFor::Definition, place, expected, "none stored");
            return;
        };
        let state = slot.state.take().unwrap_or_else(|| machine.initial());
        let context = EventContext {
            event,
            admitted_at: *admitted_at,
        };
        let found = match transition::key_of(machine.as_ref(), &context) {
            Ok(key) if key != entity.key => "another key".to_owned(),
            Err(fault) => format!("dead ({})", fault.reason.as_str()),
            Ok(key) => {
                let replayed = transition::apply(machine.as_ref(), &context, &key, &state);
                match (replayed.moved, replayed.effect.state_hash) {
                    (Some(moved), Some(hash)) if hash == step.hash => {
                        slot.state = Some(moved.state);
                        findings.report.effects_replayed += 1;
                        return;
                    }
                    (_, Some(hash)) => format!("{hash:016x}"),
                    (_, None) => replayed.effect.outcome.as_str().to_owned(),
                }
            }
        };
        slot.broken = true;
        let place = self.place(entity, version);
        let expected = format!(
            "state hash {:016x} (recorded at {})",
            step.hash, step.position
        );
        findings.differ(
            CheckedFor::Replay,
            place,
            expected,
            format!("{found} by replay"),
        );
    }

    pub(super) fn place(&self, entity: &EntityRef, version: Version) -> Place {
        Place::Entity {
            name: EntityName {
                tenant: self.tenant.clone(),
                machine: entity.machine.clone(),
                key: entity.key.clone(),
            },
            version,
        }
    }
}

/// The entity that an effect moved, its version after, and the hash of its state.
fn moved(effect: &Effect) -> Option<(EntityRef, Version, u64)> {
    if effect.outcome != Outcome::Applied {
        return None;
    }
    let entity = EntityRef {
        machine: effect.machine.clone(),
        key: effect.key.clone()?,
    };
    Some((entity, effect.version?, effect.state_hash?))
}

/// The event that a follow-up points to, with its admission time.
async fn stored_event(
    store: &dyn StateStore,
    tenant: &TenantId,
    of: &RecordPosition,
) -> Result<Option<(Event, Timestamp)>, StoreError> {
    let record = super::stored_record(store, tenant, of).await?;
    Ok(record.and_then(|record| match record.body {
        RecordBody::Event(event) => Some((event, record.admitted_at)),
        RecordBody::FollowUp { .. } => None,
    }))
}
