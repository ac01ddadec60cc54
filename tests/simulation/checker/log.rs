//! Reads the log of every stream partition and checks what holds of it alone: gapless sequences, a chain
//! that folds to its stored heads, offsets in order, events that are those that were delivered, and causes
//! in order where events were emitted.

use std::collections::BTreeMap;

use tidegate_engine::chain::ChainHead;
use tidegate_engine::commit::Segment;
use tidegate_engine::position::{Offset, Sequence, StreamName, StreamPartition};
use tidegate_engine::record::{Record, RecordBody, split_segment};
use tidegate_engine::store::{StateStore, StreamHead};

use super::{Findings, ROWS_MAX, tenants};
use crate::check::Check;
use crate::model::ModelEvent;
use crate::stage::Stage;

/// One record of the log, with the event that the broker holds at its offset.
pub struct LogRecord {
    pub partition: u32,
    /// In the log of emitted events; it has no offset then, and no other record of the broker.
    pub internal: bool,
    pub offset: u64,
    /// The number of the commit that wrote it.
    pub commit: u64,
    pub record: Record,
    pub event: ModelEvent,
    /// Events that its effects emit, as the model says.
    pub emits: usize,
}

/// Reads every log.
pub async fn read(stage: &Stage, findings: &mut Findings) {
    for tenant in tenants(stage).await {
        for head in stage.store.stream_partitions(&tenant).await.unwrap() {
            read_one(stage, findings, &head).await;
        }
    }
}

/// Where a log stands, as far as it was read.
#[derive(Default)]
struct Read {
    next: u64,
    chain: ChainHead,
    last_offset: Option<Offset>,
    /// Of each log, where the last one stands that caused an event here.
    causes: BTreeMap<StreamName, Sequence>,
    /// The number of the commit that wrote the segment.
    commit: u64,
}

async fn read_one(stage: &Stage, findings: &mut Findings, head: &StreamHead) {
    let place = &head.stream_partition;
    let segments = stage.store.segments(place, Sequence(0), ROWS_MAX).await;
    let mut read = Read::default();
    for segment in segments.unwrap() {
        let commit = stage.written_by(place, segment.first_sequence);
        if commit.is_none() {
            let what = format!(
                "{place}: nobody saw the commit of the segment at {}",
                read.next
            );
            findings.wrong(Check::Log, what);
        }
        read.commit = commit.unwrap_or(read.commit);
        read_segment(findings, place, &segment, &mut read);
    }
    if (head.next_sequence.0, head.chain_head) != (read.next, read.chain) {
        let (at, chain) = (head.next_sequence, head.chain_head);
        let what = format!(
            "{place}: the head says {at} and {chain}, the log {}",
            read.next
        );
        findings.wrong(Check::Log, what);
    }
}

fn read_segment(
    findings: &mut Findings,
    place: &StreamPartition,
    segment: &Segment,
    read: &mut Read,
) {
    let entries = split_segment(&segment.body).unwrap();
    let (first, next) = (segment.first_sequence, read.next);
    if first.0 != next || segment.count as usize != entries.len() {
        let (found, said) = (entries.len(), segment.count);
        let what = format!(
            "{place}: a segment of {found} ({said} said) begins at {first}, {next} comes next"
        );
        findings.wrong(Check::Log, what);
    }
    let mut times = Vec::new();
    for entry in entries {
        let next = read.next;
        let (record, leaf) = match Record::read(entry.get()) {
            Ok(record) => record,
            Err(error) => {
                let what = format!("{place}: sequence {next} cannot be read: {error}");
                findings.wrong(Check::Log, what);
                continue;
            }
        };
        read.chain = read.chain.fold(leaf);
        if record.sequence.0 != next {
            let what = format!(
                "{place}: sequence {} where {next} comes next",
                record.sequence
            );
            findings.wrong(Check::Log, what);
        }
        read.next += 1;
        times.push(record.admitted_at);
        if place.stream.is_internal() {
            check_cause(findings, place, &record, read);
        } else if record.offset <= read.last_offset {
            let (offset, last) = (record.offset, read.last_offset);
            let what = format!("{place}: offset {offset:?} behind {last:?}");
            findings.wrong(Check::Order, what);
        }
        read.last_offset = record.offset;
        keep(findings, place, record, read.commit);
    }
    let ends = times.first().copied().zip(times.last().copied());
    if segment.chain_head != read.chain || ends != Some((segment.first_at, segment.last_at)) {
        let what = format!("{place}: the segment at {first} is not what its records make");
        findings.wrong(Check::Log, what);
    }
}

/// Emitted events run in the order in which what caused them was committed: that of each log.
fn check_cause(findings: &mut Findings, place: &StreamPartition, record: &Record, read: &mut Read) {
    let Some(cause) = &record.cause else {
        let what = format!("{place}: {} has no cause", record.sequence);
        return findings.wrong(Check::Order, what);
    };
    let before = read.causes.insert(cause.stream.clone(), cause.sequence);
    let is_behind = cause.source_partition != place.source_partition
        || record.offset.is_some()
        || before.is_some_and(|before| cause.sequence < before);
    if is_behind {
        let what = format!(
            "{place}: {} was caused by {cause}, the one before at {before:?}",
            record.sequence
        );
        findings.wrong(Check::Order, what);
    }
}

/// A record holds the event that was delivered at its offset, of the tenant in whose log it is.
fn keep(findings: &mut Findings, place: &StreamPartition, record: Record, commit: u64) {
    let (partition, tenant) = (place.source_partition.partition, place.tenant.as_str());
    let internal = place.stream.is_internal();
    let offset = record.offset.map_or(u64::MAX, |offset| offset.0);
    let delivered = findings
        .deliveries
        .get(&(partition, offset))
        .and_then(|(_, event)| event.clone());
    let RecordBody::Event(stored) = &record.body else {
        return findings.wrong(
            Check::Admitted,
            format!("{tenant} {partition}:{offset}: a follow-up that nobody asked for"),
        );
    };
    let mut text = String::new();
    stored.write_json(&mut text);
    let stored = ModelEvent::read(text.as_bytes());
    let identity = |event: &ModelEvent| {
        (
            event.tenant.clone(),
            event.key.clone(),
            event.content.clone(),
        )
    };
    if internal && let Some(event) = stored {
        return findings.records.push(LogRecord {
            partition,
            internal,
            offset,
            commit,
            record,
            event,
            emits: 0,
        });
    }
    match (delivered, stored) {
        (Some(event), Some(stored))
            if identity(&event) == identity(&stored) && event.tenant == tenant =>
        {
            findings.records.push(LogRecord {
                partition,
                internal,
                offset,
                commit,
                record,
                event,
                emits: 0,
            });
        }
        (delivered, stored) => findings.wrong(Check::Admitted, format!(
            "{tenant} {partition}:{offset}: {stored:?} is in the log, {delivered:?} was delivered"
        )),
    }
}
