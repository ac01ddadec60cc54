//! What was counted against what is there: each admitted event ends in exactly one outcome a machine,
//! and every refusal is kept (R47).

use std::collections::BTreeMap;

use super::{CheckedFor, Findings, Place};
use crate::checkpoint::{Checkpoint, Counts};
use crate::dead_letter::DeadLetterSource;
use crate::limits::{OPEN_WORK_PAGE, OPEN_WORK_TENANTS_PAGE};
use crate::machine::DeadReason;
use crate::position::{SourcePartition, StreamPartition};
use crate::record::{Outcome, Record, RecordBody};
use crate::store::{DeadLetterFilter, StateStore, StoreError, StreamHead};
use crate::tenant::TenantId;

/// Dead letters read at once.
const LETTER_PAGE: u32 = 500;

/// What the log and the dead letters hold of one source partition, over all tenants.
#[derive(Clone, Copy, Default)]
struct Tally {
    counts: Counts,
    /// Records that retention dropped: what is counted then is at least what is there.
    dropped: u64,
    unreadable_letters: u64,
    conflict_letters: u64,
    /// Emitted events that are kept as their bytes alone.
    emitted_letters: u64,
    /// Emitted events that wait.
    open_work: u64,
}

/// Tallies by source partition, and the dead effects of the tenant that is being read.
#[derive(Default)]
pub(super) struct Tallies {
    sources: BTreeMap<SourcePartition, Tally>,
    dead_effects: u64,
    dropped: u64,
}

impl Tallies {
    /// Counts one record.
    pub(super) fn record(&mut self, stream_partition: &StreamPartition, record: &Record) {
        let tally = self
            .sources
            .entry(stream_partition.source_partition.clone())
            .or_default();
        let counts = &mut tally.counts;
        let is_event = matches!(record.body, RecordBody::Event(_));
        if is_event {
            if stream_partition.stream.is_internal() {
                counts.looped_back += 1;
            } else {
                counts.admitted += 1;
            }
            counts.unhandled += u64::from(record.effects.is_empty());
        }
        for effect in &record.effects {
            match effect.outcome {
                Outcome::Applied => counts.applied += 1,
                Outcome::Rejected => counts.rejected += 1,
                Outcome::Ignored => counts.ignored += 1,
                Outcome::Dead => {
                    counts.dead += 1;
                    // A retry in vain leaves its letter open and makes no second one.
                    self.dead_effects += u64::from(is_event);
                }
                Outcome::Discarded => {}
            }
        }
    }

    /// Counts records that retention dropped.
    pub(super) fn dropped(&mut self, source_partition: &SourcePartition, records: u64) {
        self.dropped += records;
        let tally = self.sources.entry(source_partition.clone()).or_default();
        tally.dropped += records;
    }

    /// Adds what a tenant's first pass counted.
    pub(super) fn merge(&mut self, other: Tallies) {
        for (source_partition, more) in other.sources {
            let tally = self.sources.entry(source_partition).or_default();
            tally.counts.add(&more.counts);
            tally.dropped += more.dropped;
        }
        self.dead_effects = other.dead_effects;
        self.dropped = other.dropped;
    }
}

/// Compares a tenant's dead letters with its dead effects, and tallies those that never became events.
/// `heads_before` is where the tenant's logs ended before they were read.
pub(super) async fn tenant(
    store: &dyn StateStore,
    tenant: &TenantId,
    heads_before: &[StreamHead],
    tallies: &mut Tallies,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let mut filter = DeadLetterFilter::default();
    let mut of_events = 0;
    loop {
        let page = store
            .dead_letters(tenant, filter.clone(), LETTER_PAGE)
            .await?;
        for stored in &page {
            match &stored.letter.source {
                DeadLetterSource::Record { .. } => of_events += 1,
                DeadLetterSource::Raw {
                    source_partition,
                    offset,
                    ..
                } => {
                    let tally = tallies.sources.entry(source_partition.clone()).or_default();
                    if offset.is_none() {
                        tally.emitted_letters += 1;
                    } else if stored.letter.reason == DeadReason::Conflict {
                        tally.conflict_letters += 1;
                    } else {
                        tally.unreadable_letters += 1;
                    }
                }
            }
        }
        let Some(last) = page.last() else { break };
        filter.after = Some(last.letter.id);
    }
    let (dead, dropped) = (tallies.dead_effects, tallies.dropped);
    // The letters of events that retention dropped stay.
    if of_events < dead || (dropped == 0 && of_events > dead) {
        if store.stream_partitions(tenant).await? != heads_before {
            // A letter may have been committed behind what was read of the log, or the other way round.
            findings.report.moved_on += 1;
            return Ok(());
        }
        findings.differ(
            CheckedFor::DeadLetters,
            Place::Tenant {
                tenant: tenant.clone(),
            },
            format!("a dead letter for each of {dead} dead effects"),
            format!("{of_events} dead letters"),
        );
    }
    Ok(())
}

/// Counts the emitted events of a source partition that wait, over all tenants.
async fn open_work(store: &dyn StateStore, place: &SourcePartition) -> Result<u64, StoreError> {
    let (mut pieces, mut tenant) = (0, None);
    loop {
        let tenants = store
            .tenants_with_open_work(place, tenant.as_ref(), OPEN_WORK_TENANTS_PAGE)
            .await?;
        for tenant in &tenants {
            let mut after = None;
            loop {
                let page = store
                    .open_work(tenant, place, after, OPEN_WORK_PAGE)
                    .await?;
                let Some(last) = page.last() else { break };
                after = Some(last.place);
                pieces += page.len() as u64;
            }
        }
        tenant = tenants.last().cloned();
        if tenant.is_none() {
            return Ok(pieces);
        }
    }
}

/// Compares every checkpoint's counts with the log. One that moved on while the log was read is left.
pub(super) async fn checkpoints(
    store: &dyn StateStore,
    before: Vec<Checkpoint>,
    tallies: &Tallies,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let mut waiting = BTreeMap::new();
    for checkpoint in &before {
        let place = &checkpoint.source_partition;
        waiting.insert(place.clone(), open_work(store, place).await?);
    }
    let now = store.checkpoints().await?;
    for source_partition in tallies.sources.keys() {
        if !now
            .iter()
            .any(|checkpoint| checkpoint.source_partition == *source_partition)
        {
            let place = Place::Checkpoint {
                source_partition: source_partition.clone(),
            };
            findings.differ(CheckedFor::Counts, place, "a checkpoint", "none");
        }
    }
    for checkpoint in now {
        if !before.contains(&checkpoint) {
            findings.report.moved_on += 1;
            continue;
        }
        let place = &checkpoint.source_partition;
        let mut tally = tallies.sources.get(place).copied().unwrap_or_default();
        tally.open_work = waiting.get(place).copied().unwrap_or(0);
        compare(&checkpoint, &tally, findings);
    }
    Ok(())
}

fn compare(checkpoint: &Checkpoint, tally: &Tally, findings: &mut Findings) {
    let (counted, there) = (&checkpoint.progress.counts, &tally.counts);
    let mut differ = |what: &str, counted: u64, there: u64| {
        findings.differ(
            CheckedFor::Counts,
            Place::Checkpoint {
                source_partition: checkpoint.source_partition.clone(),
            },
            format!("{counted} {what}, as counted"),
            format!("{there}"),
        );
    };
    for (what, counted, there) in [
        ("admitted", counted.admitted, there.admitted),
        ("applied", counted.applied, there.applied),
        ("rejected", counted.rejected, there.rejected),
        ("ignored", counted.ignored, there.ignored),
        ("dead", counted.dead, there.dead),
        ("unhandled", counted.unhandled, there.unhandled),
        (
            "looped back",
            counted.looped_back,
            there.looped_back + tally.emitted_letters,
        ),
    ] {
        let agrees = counted == there || (tally.dropped > 0 && counted > there);
        if !agrees {
            differ(what, counted, there);
        }
    }
    if counted.unreadable != tally.unreadable_letters {
        differ(
            "unreadable deliveries with a dead letter",
            counted.unreadable,
            tally.unreadable_letters,
        );
    }
    if counted.emitted != counted.looped_back + tally.open_work {
        differ(
            "emitted, each looped back or open work",
            counted.emitted,
            counted.looped_back + tally.open_work,
        );
    }
    // The same content under the same key is kept once, by whichever source partition brought it first.
    if counted.conflicts < tally.conflict_letters {
        differ(
            "conflicts at most with a dead letter",
            counted.conflicts,
            tally.conflict_letters,
        );
    }
}
