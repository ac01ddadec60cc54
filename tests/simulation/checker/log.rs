//! Reads the log of every stream partition and checks what holds of it alone: gapless sequences, a chain
//! that folds to its stored heads, offsets in order, and events that are those that were delivered.

use tidegate_engine::chain::ChainHead;
use tidegate_engine::position::Sequence;
use tidegate_engine::record::{Record, RecordBody, split_segment};
use tidegate_engine::store::{StateStore, StreamHead};

use super::{Findings, ROWS_MAX, tenants};
use crate::model::ModelEvent;
use crate::stage::Stage;

/// One record of the log, with the event that the broker holds at its offset.
pub struct LogRecord {
    pub partition: u32,
    pub offset: u64,
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

async fn read_one(stage: &Stage, findings: &mut Findings, head: &StreamHead) {
    let place = &head.stream_partition;
    let segments = stage
        .store
        .segments(place, Sequence(0), ROWS_MAX)
        .await
        .unwrap();
    let (mut next, mut chain, mut last_offset) = (0, ChainHead::default(), None);
    for segment in segments {
        let entries = split_segment(&segment.body).unwrap();
        if segment.first_sequence.0 != next || segment.count as usize != entries.len() {
            findings.wrong(format!(
                "{place}: a segment of {} ({} said) begins at {}, {next} comes next",
                entries.len(),
                segment.count,
                segment.first_sequence
            ));
        }
        let mut times = Vec::new();
        for entry in entries {
            let (record, leaf) = match Record::read(entry.get()) {
                Ok(read) => read,
                Err(error) => {
                    findings.wrong(format!("{place}: sequence {next} cannot be read: {error}"));
                    continue;
                }
            };
            chain = chain.fold(leaf);
            if record.sequence.0 != next {
                findings.wrong(format!(
                    "{place}: sequence {} where {next} comes next",
                    record.sequence
                ));
            }
            next += 1;
            times.push(record.admitted_at);
            if record.offset <= last_offset {
                findings.wrong(format!(
                    "{place}: offset {:?} behind {last_offset:?}",
                    record.offset
                ));
            }
            last_offset = record.offset;
            keep(
                findings,
                place.source_partition.partition,
                place.tenant.as_str(),
                record,
            );
        }
        let ends = times.first().copied().zip(times.last().copied());
        if segment.chain_head != chain || ends != Some((segment.first_at, segment.last_at)) {
            findings.wrong(format!(
                "{place}: the segment at {} is not what its records make",
                segment.first_sequence
            ));
        }
    }
    if (head.next_sequence.0, head.chain_head) != (next, chain) {
        findings.wrong(format!(
            "{place}: the head says {} and {}, the log {next}",
            head.next_sequence, head.chain_head
        ));
    }
}

/// A record holds the event that was delivered at its offset, of the tenant in whose log it is.
fn keep(findings: &mut Findings, partition: u32, tenant: &str, record: Record) {
    let offset = record.offset.map_or(u64::MAX, |offset| offset.0);
    let delivered = findings
        .deliveries
        .get(&(partition, offset))
        .and_then(|(_, event)| event.clone());
    let RecordBody::Event(stored) = &record.body else {
        return findings.wrong(format!(
            "{tenant} {partition}:{offset}: a follow-up that nobody asked for"
        ));
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
    match (delivered, stored) {
        (Some(event), Some(stored))
            if identity(&event) == identity(&stored) && event.tenant == tenant =>
        {
            findings.records.push(LogRecord {
                partition,
                offset,
                record,
                event,
                emits: 0,
            });
        }
        (delivered, stored) => findings.wrong(format!(
            "{tenant} {partition}:{offset}: {stored:?} is in the log, {delivered:?} was delivered"
        )),
    }
}
