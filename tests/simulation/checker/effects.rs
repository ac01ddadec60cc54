//! Checks what the log's effects did: replays each entity by version through the model, hash by hash, and
//! compares the result with the stored entities, byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_engine::position::INTERNAL;
use tidegate_engine::record::{Effect, Outcome};
use tidegate_engine::state::{Status, state_hash};
use tidegate_engine::store::StateStore;

use super::letters::lost_name;
use super::log::LogRecord;
use super::{Findings, ROWS_MAX, Wrong, place_name, tenants};
use crate::check::Check;
use crate::faults::Fault;
use crate::model::{Emission, ModelEntity, ModelEvent, Place, Verdict};
use crate::node::STREAM;
use crate::stage::{Stage, source_partition};
use crate::workload::PARTITIONS;

/// One effect: its record's index, its place among the record's effects, the version it made.
type Applied = BTreeMap<u64, Vec<(usize, usize)>>;

/// Checks every effect and every entity. Returns the dead letters that the effects ask for.
pub async fn check(stage: &Stage, findings: &mut Findings) -> BTreeSet<String> {
    let mut by_entity: BTreeMap<Place, Applied> = BTreeMap::new();
    let mut dead = BTreeSet::new();
    let mut wrong = Wrong::new();
    for (index, logged) in findings.records.iter().enumerate() {
        check_targets(logged, &mut wrong);
        for (number, effect) in logged.record.effects.iter().enumerate() {
            if effect.outcome == Outcome::Dead {
                let reason = effect
                    .reason
                    .as_deref()
                    .and_then(|reason| reason.split(':').next())
                    .unwrap_or_default();
                dead.insert(format!(
                    "{} {reason} {}:{} {} {}",
                    logged.event.tenant,
                    stream_of(logged),
                    place_name(logged.partition),
                    logged.record.sequence,
                    effect.machine
                ));
                if reason == "panic" {
                    stage.count(Fault::MachinePanic);
                }
            }
            if let (Some(version), Some(key)) = (effect.version, &effect.key) {
                let place = (
                    logged.event.tenant.clone(),
                    effect.machine.to_string(),
                    key.to_string(),
                );
                by_entity
                    .entry(place)
                    .or_default()
                    .entry(version.0)
                    .or_default()
                    .push((index, number));
            }
        }
    }
    let mut emitted = Emissions::new();
    let mut histories = BTreeMap::new();
    for (place, applied) in &by_entity {
        histories.insert(
            place.clone(),
            replay(findings, place, applied, &mut wrong, &mut emitted),
        );
    }
    check_unmoved(findings, &histories, &mut wrong);
    check_order(findings, &mut wrong);
    check_entities(stage, &histories, &mut wrong).await;
    check_open_work(stage, &mut wrong).await;
    for (index, _) in emitted.values() {
        findings.records[*index].emits += 1;
    }
    check_looped_back(findings, &emitted, &mut wrong);
    findings.wrong.extend(wrong);
    dead
}

/// Each machine that the event concerns has an effect, in order.
fn check_targets(logged: &LogRecord, wrong: &mut Wrong) {
    let said: Vec<_> = logged.record.effects.iter().map(name_of).collect();
    let targets = logged.event.targets().into_iter();
    if !targets
        .map(|(machine, key)| (machine.to_owned(), key))
        .eq(said.iter().cloned())
    {
        let what = format!("{:?} has effects {said:?}", logged.event);
        wrong.push((Check::Effects, what));
    }
}

fn name_of(effect: &Effect) -> (String, Option<String>) {
    (
        effect.machine.to_string(),
        effect.key.as_ref().map(ToString::to_string),
    )
}

/// What must have been emitted, by tenant, cause and machine; with the index of the record that caused it.
type Emissions = BTreeMap<(String, String, String), (usize, Emission)>;

fn stream_of(logged: &LogRecord) -> &'static str {
    if logged.internal { INTERNAL } else { STREAM }
}

fn position_of(logged: &LogRecord) -> String {
    let (stream, place) = (stream_of(logged), place_name(logged.partition));
    format!("{stream}:{place}:{}", logged.record.sequence)
}

/// An entity's states by version, from 0.
type History = Vec<ModelEntity>;

/// Replays one entity: versions from 1 without a gap or a double, each effect as the model says.
fn replay(
    findings: &Findings,
    place: &Place,
    applied: &Applied,
    wrong: &mut Wrong,
    emitted: &mut Emissions,
) -> History {
    let mut entity = ModelEntity::default();
    let mut history = vec![entity.clone()];
    for (version, effects) in applied {
        if *version != entity.version + 1 || effects.len() != 1 {
            wrong.push((
                Check::Replay,
                format!(
                    "{place:?}: version {version} was made {} times after {}",
                    effects.len(),
                    entity.version
                ),
            ));
            return history;
        }
        let (index, number) = effects[0];
        let logged = &findings.records[index];
        let effect = &logged.record.effects[number];
        let verdict = entity.apply(&place.1, &logged.event);
        let status = Status::new(entity.status(&place.1)).unwrap();
        let hash = state_hash(&status, &entity.data(&place.1));
        if verdict != Verdict::Applied
            || effect.outcome != Outcome::Applied
            || effect.state_hash != Some(hash)
        {
            wrong.push((Check::Replay, format!(
                "{place:?}: version {version} by {} is {:?} {:?}, the model says {verdict:?} {hash:016x}",
                logged.event.id, effect.outcome, effect.state_hash
            )));
            return history;
        }
        if let Some(emission) = entity.emits(&place.1, &logged.event) {
            let cause = position_of(logged);
            let of = (place.0.clone(), cause, emission.machine.to_owned());
            emitted.insert(of, (index, emission));
        }
        history.push(entity.clone());
    }
    history
}

/// What moved nothing was decided on the entity as it stood when its event was committed: as the commits
/// before left it, and the records before it in its own.
fn check_unmoved(findings: &Findings, histories: &BTreeMap<Place, History>, wrong: &mut Wrong) {
    let fresh = vec![ModelEntity::default()];
    let moves = moves(findings);
    for (index, logged) in findings.records.iter().enumerate() {
        let effects = logged.record.effects.iter();
        for effect in effects.filter(|effect| effect.outcome != Outcome::Applied) {
            let place = place_of(&logged.event, effect);
            let before = moves.get(&place).and_then(|moves| {
                let before = moves.range(..(logged.commit, index));
                before.last().map(|(_, version)| *version)
            });
            let version = before.unwrap_or(0);
            let history = histories.get(&place).unwrap_or(&fresh);
            let mut stood = history.iter().filter(|entity| entity.version == version);
            if !stood.any(|entity| says(entity, effect, &logged.event)) {
                let (outcome, reason) = (effect.outcome, &effect.reason);
                let id = &logged.event.id;
                wrong.push((
                    Check::Effects,
                    format!("{place:?} at version {version}: {id} is {outcome:?} {reason:?}"),
                ));
            }
        }
    }
}

/// Which versions every entity had, each by the commit and the record that made it.
fn moves(findings: &Findings) -> BTreeMap<Place, BTreeMap<(u64, usize), u64>> {
    let mut moves: BTreeMap<Place, BTreeMap<(u64, usize), u64>> = BTreeMap::new();
    for (index, logged) in findings.records.iter().enumerate() {
        for effect in &logged.record.effects {
            if let Some(version) = effect.version {
                let of = moves.entry(place_of(&logged.event, effect)).or_default();
                of.insert((logged.commit, index), version.0);
            }
        }
    }
    moves
}

fn place_of(event: &ModelEvent, effect: &Effect) -> Place {
    let key = effect.key.as_ref().map(ToString::to_string);
    (
        event.tenant.clone(),
        effect.machine.to_string(),
        key.unwrap_or_default(),
    )
}

/// The model's verdict in that state is the effect's.
fn says(entity: &ModelEntity, effect: &Effect, event: &ModelEvent) -> bool {
    let reason = effect.reason.as_deref().unwrap_or_default();
    match entity.clone().apply(effect.machine.as_str(), event) {
        Verdict::Applied => false,
        Verdict::Rejected => effect.outcome == Outcome::Rejected,
        Verdict::Ignored => effect.outcome == Outcome::Ignored,
        Verdict::Dead(why) => effect.outcome == Outcome::Dead && reason.starts_with(why),
    }
}

/// Within a stream partition, what happens to an entity happens in the order of the log.
fn check_order(findings: &Findings, wrong: &mut Wrong) {
    let mut last: BTreeMap<(u32, bool, String, String, String), u64> = BTreeMap::new();
    for logged in &findings.records {
        for effect in &logged.record.effects {
            let (Some(version), Some(key)) = (effect.version, &effect.key) else {
                continue;
            };
            let tenant = logged.event.tenant.clone();
            let place = (
                logged.partition,
                logged.internal,
                tenant,
                effect.machine.to_string(),
                key.to_string(),
            );
            let before = last.insert(place, version.0).unwrap_or(0);
            if version.0 <= before {
                wrong.push((
                    Check::Order,
                    format!(
                        "{} moved {key} to {version} after {before}",
                        logged.event.id
                    ),
                ));
            }
        }
    }
}

/// The stored entities are those of the replay, byte for byte, and no others.
async fn check_entities(stage: &Stage, histories: &BTreeMap<Place, History>, wrong: &mut Wrong) {
    let mut stored = BTreeMap::new();
    for tenant in tenants(stage).await {
        for entity in stage.store.entities(&tenant, None, ROWS_MAX).await.unwrap() {
            let place = (
                tenant.to_string(),
                entity.name.machine.to_string(),
                entity.name.key.to_string(),
            );
            stored.insert(
                place,
                (
                    entity.version.0,
                    entity.status.to_string(),
                    entity.data.to_string(),
                ),
            );
        }
    }
    let replayed: BTreeMap<_, _> = histories
        .iter()
        .filter_map(|(place, history)| {
            let last = history.last()?;
            let machine = place.1.as_str();
            Some((
                place.clone(),
                (
                    last.version,
                    last.status(machine).to_owned(),
                    last.data(machine),
                ),
            ))
        })
        .collect();
    for (place, entity) in &replayed {
        if stored.get(place) != Some(entity) {
            wrong.push((
                Check::Entities,
                format!(
                    "{place:?} is stored as {:?}, the log makes it {entity:?}",
                    stored.get(place)
                ),
            ));
        }
    }
    for place in stored.keys().filter(|place| !replayed.contains_key(*place)) {
        wrong.push((
            Check::Entities,
            format!("{place:?} is stored and nothing in the log made it"),
        ));
    }
}

/// Each emitted event stands once in the log of its cause's source partition, as the model says that it
/// was emitted, or is kept as its bytes where the store refuses even its record; and nothing else does.
fn check_looped_back(findings: &mut Findings, emitted: &Emissions, wrong: &mut Wrong) {
    let mut missing = emitted.clone();
    for logged in findings.records.iter().filter(|logged| logged.internal) {
        let cause = logged.record.cause.as_ref().map(ToString::to_string);
        let source = logged.event.content.split(' ').nth(1).unwrap_or_default();
        let machine = source.trim_start_matches("/machines/").to_owned();
        let of = (
            logged.event.tenant.clone(),
            cause.unwrap_or_default(),
            machine,
        );
        let is_as_emitted = missing
            .remove(&of)
            .is_some_and(|(_, emission)| emission.content == logged.event.content);
        if !is_as_emitted {
            wrong.push((
                Check::LoopedBack,
                format!(
                    "{of:?}: {} was not emitted, or is there twice",
                    logged.event.content
                ),
            ));
        }
    }
    for (of, (index, emission)) in missing {
        if emission.poison == 2 {
            let partition = findings.records[index].partition;
            let letter = format!("{} {}", of.0, lost_name(partition, &emission.content));
            findings.lost.entry(partition).or_default().push(letter);
        } else {
            wrong.push((
                Check::LoopedBack,
                format!(
                    "{of:?}: {} was emitted and never taken up",
                    emission.content
                ),
            ));
        }
    }
}

/// Nothing that was emitted waits at the end.
async fn check_open_work(stage: &Stage, wrong: &mut Wrong) {
    for partition in 0..PARTITIONS {
        let place = source_partition(partition);
        let waits = stage
            .store
            .tenants_with_open_work(&place, None, ROWS_MAX)
            .await;
        for tenant in waits.unwrap() {
            wrong.push((
                Check::OpenWork,
                format!("{tenant} has open work of partition {partition}"),
            ));
        }
    }
}
