//! Reads the store's tables and the broker's records when a run is over, and says what is wrong. What a
//! log record must say comes from [`crate::model`]; nothing is asked of any node.

mod effects;
mod letters;
mod log;
mod verified;

use std::collections::{BTreeMap, BTreeSet};

use tidegate_engine::checkpoint::Counts;
use tidegate_engine::record::Outcome;
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantId;

use crate::census::Census;
use crate::check::Check;
use crate::model::{Deliveries, ModelEvent};
use crate::stage::{Stage, source_partition};
use crate::workload::PARTITIONS;
use log::LogRecord;

/// More rows than any run makes.
pub const ROWS_MAX: u32 = 100_000;

/// What is wrong, by the promise that it breaks.
pub type Wrong = Vec<(Check, String)>;

/// Everything that was read, and everything that is wrong with it.
pub struct Findings {
    pub deliveries: Deliveries,
    pub records: Vec<LogRecord>,
    /// Emitted events of which the store refuses even the record, by source partition.
    pub lost: BTreeMap<u32, Vec<String>>,
    wrong: Wrong,
}

impl Findings {
    fn wrong(&mut self, check: Check, what: String) {
        self.wrong.push((check, what));
    }
}

/// Checks a finished run and reports what is wrong with it.
pub async fn check(stage: &Stage) -> Census {
    let mut findings = read(stage).await;
    let expected = expect(&mut findings);
    let dead = effects::check(stage, &mut findings).await;
    check_counts(stage, &mut findings, &expected);
    let lost = findings.lost.values().flatten().cloned();
    let letters = expected.letters.into_iter().chain(lost).collect();
    letters::check(stage, &mut findings, letters, dead).await;
    verified::agree(stage, &mut findings).await;
    let census = Census::take(stage, &findings).await;
    for (check, what) in findings.wrong {
        stage.violation(check, what);
    }
    census
}

/// Reads what was delivered and what the logs hold.
pub async fn read(stage: &Stage) -> Findings {
    let mut findings = Findings {
        deliveries: deliveries(stage),
        records: Vec::new(),
        lost: BTreeMap::new(),
        wrong: Vec::new(),
    };
    log::read(stage, &mut findings).await;
    findings
}

/// Every record of the broker, as the model reads it.
fn deliveries(stage: &Stage) -> Deliveries {
    let of = |partition| {
        stage
            .broker
            .records(partition)
            .into_iter()
            .map(move |(offset, payload)| {
                let event = ModelEvent::read(&payload);
                ((partition, offset.0), (payload.to_vec(), event))
            })
    };
    (0..PARTITIONS).flat_map(of).collect()
}

/// What must come of the deliveries, given which of each key was admitted.
struct Expected {
    /// By source partition; only what admission counts.
    counts: BTreeMap<u32, Counts>,
    /// Dead letters of deliveries that never became log records.
    letters: BTreeSet<String>,
}

/// Decides about each delivery: admitted, duplicate, conflict or unreadable.
fn expect(findings: &mut Findings) -> Expected {
    let mut admitted: BTreeMap<(String, String), (u32, u64, String)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for record in findings.records.iter().filter(|record| !record.internal) {
        let place = (record.partition, record.offset);
        let Some((_, Some(event))) = findings.deliveries.get(&place) else {
            wrong.push((
                Check::Admitted,
                format!("the log has a record of {place:?}, where no event was delivered"),
            ));
            continue;
        };
        let key = (event.tenant.clone(), event.key.clone());
        if let Some(first) = admitted.insert(key, (place.0, place.1, event.content.clone())) {
            wrong.push((
                Check::Admitted,
                format!(
                    "`{}` of {} was admitted twice: {first:?} and {place:?}",
                    event.key, event.tenant
                ),
            ));
        }
    }
    let mut expected = Expected {
        counts: BTreeMap::new(),
        letters: BTreeSet::new(),
    };
    for ((partition, offset), (_, event)) in &findings.deliveries {
        let counts = expected.counts.entry(*partition).or_default();
        let raw = format!("{partition} {offset}");
        let Some(event) = event else {
            counts.unreadable += 1;
            expected
                .letters
                .insert(format!("_unassigned unreadable {raw}"));
            continue;
        };
        if event.poison == 2 {
            counts.unreadable += 1;
            expected
                .letters
                .insert(format!("{} store {raw}", event.tenant));
            continue;
        }
        match admitted.get(&(event.tenant.clone(), event.key.clone())) {
            None => wrong.push((
                Check::Admitted,
                format!(
                    "event {} of {partition}:{offset} is not in the log",
                    event.id
                ),
            )),
            Some(first) if (first.0, first.1) == (*partition, *offset) => counts.admitted += 1,
            Some((_, _, content)) if *content == event.content => counts.duplicates += 1,
            Some(_) => {
                counts.conflicts += 1;
                expected.letters.insert(format!(
                    "{} conflict {} {}",
                    event.tenant, event.key, event.content
                ));
            }
        }
    }
    findings.wrong.extend(wrong);
    expected
}

/// Checkpoints stand at the end, and their counts are those of the log.
fn check_counts(stage: &Stage, findings: &mut Findings, expected: &Expected) {
    for partition in 0..PARTITIONS {
        let Some(checkpoint) = stage.checkpoint(partition) else {
            findings.wrong(
                Check::Counts,
                format!("partition {partition} has no checkpoint"),
            );
            continue;
        };
        let mut counts = expected.counts.get(&partition).copied().unwrap_or_default();
        for record in findings
            .records
            .iter()
            .filter(|record| record.partition == partition)
        {
            counts.emitted += record.emits as u64;
            counts.looped_back += u64::from(record.internal);
            counts.unhandled += u64::from(record.record.effects.is_empty());
            for effect in &record.record.effects {
                match effect.outcome {
                    Outcome::Applied => counts.applied += 1,
                    Outcome::Rejected => counts.rejected += 1,
                    Outcome::Ignored => counts.ignored += 1,
                    Outcome::Dead | Outcome::Discarded => counts.dead += 1,
                }
            }
        }
        counts.looped_back += findings.lost.get(&partition).map_or(0, Vec::len) as u64;
        let progress = &checkpoint.progress;
        if progress.counts != counts {
            findings.wrong(
                Check::Counts,
                format!(
                    "partition {partition} counts {:?}, the log and the broker {counts:?}",
                    progress.counts
                ),
            );
        }
        let end = stage.broker.end(partition).unwrap();
        if stage.first_unsettled(partition, end).is_some() || progress.next_offset > end {
            findings.wrong(
                Check::Settled,
                format!("partition {partition} stands at {progress:?}"),
            );
        }
        check_acknowledged(stage, findings, partition);
    }
}

/// Acknowledgements of one consumer only grow, and none is beyond the end.
fn check_acknowledged(stage: &Stage, findings: &mut Findings, partition: u32) {
    let end = stage.broker.end(partition);
    for (consumer, offset) in stage.broker.acknowledged(partition) {
        if Some(offset) > end {
            findings.wrong(
                Check::Acknowledged,
                format!(
                    "{consumer:?} acknowledged {offset} of partition {partition}, beyond its end"
                ),
            );
        }
    }
}

/// Every tenant with anything stored.
pub async fn tenants(stage: &Stage) -> Vec<TenantId> {
    stage.store.tenants().await.unwrap()
}

/// The source partition of that number, as positions print it.
pub fn place_name(partition: u32) -> String {
    source_partition(partition).to_string()
}
