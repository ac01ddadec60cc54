//! `tidegate events export` and `trace`: a tenant's whole log, read once from its beginning, all of its
//! streams merged by the time of admission.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use serde_json::{Value, json, value::RawValue};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::event::{CorrelationId, Event};
use tidegate_engine::position::{INTERNAL, RecordPosition, Sequence, StreamName, StreamPartition};
use tidegate_engine::record::{Record, RecordBody, split_segment};
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantId;

use super::args::Redacted;
use super::exit::{Exit, Failure};
use super::look::{effect_text, known_tenant, unreadable};
use super::output::{Format, Output};
use crate::causes::{Cause, trees};
use crate::say::counted;

/// Segments of one log held at once.
const SEGMENTS: u32 = 1;

/// Records of one correlation id that are kept for their tree.
const TRACED_MAX: usize = 10_000;

/// One log, and how far it is read.
struct Log {
    place: StreamPartition,
    next: Sequence,
    /// Where it ended when reading began: what is written meanwhile is not waited for.
    end: Sequence,
    ready: VecDeque<Record>,
}

impl Log {
    async fn fill(&mut self, store: &dyn StateStore) -> Result<(), Failure> {
        while self.ready.is_empty() && self.next < self.end {
            let segments = store.segments(&self.place, self.next, SEGMENTS).await?;
            let Some(last) = segments.last() else {
                self.next = self.end;
                break;
            };
            let behind = Sequence(last.first_sequence.0 + u64::from(last.count));
            for segment in &segments {
                for entry in split_segment(&segment.body).map_err(unreadable)? {
                    let (record, _) = Record::read(RawValue::get(entry)).map_err(unreadable)?;
                    if record.sequence >= self.next && record.sequence < self.end {
                        self.ready.push_back(record);
                    }
                }
            }
            self.next = behind.max(self.next.next());
        }
        Ok(())
    }
}

/// A tenant's logs, merged.
struct Logs {
    logs: Vec<Log>,
    order: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

impl Logs {
    async fn open(
        store: &dyn StateStore,
        tenant: &TenantId,
        wanted: impl Fn(&StreamName) -> bool,
    ) -> Result<Self, Failure> {
        let mut logs = Vec::new();
        for head in store.stream_partitions(tenant).await? {
            if wanted(&head.stream_partition.stream) {
                let anchor = store.chain_anchor(&head.stream_partition).await?;
                logs.push(Log {
                    place: head.stream_partition,
                    next: anchor.map_or(Sequence(0), |anchor| anchor.next_sequence),
                    end: head.next_sequence,
                    ready: VecDeque::new(),
                });
            }
        }
        let mut order = BinaryHeap::new();
        for (index, log) in logs.iter_mut().enumerate() {
            log.fill(store).await?;
            order.extend(
                log.ready
                    .front()
                    .map(|record| Reverse((record.admitted_at, index))),
            );
        }
        Ok(Self { logs, order })
    }

    async fn next(
        &mut self,
        store: &dyn StateStore,
    ) -> Result<Option<(RecordPosition, Record)>, Failure> {
        let Some(Reverse((_, index))) = self.order.pop() else {
            return Ok(None);
        };
        let Some(log) = self.logs.get_mut(index) else {
            return Ok(None);
        };
        let Some(record) = log.ready.pop_front() else {
            return Ok(None);
        };
        let position = RecordPosition {
            stream: log.place.stream.clone(),
            source_partition: log.place.source_partition.clone(),
            sequence: record.sequence,
        };
        log.fill(store).await?;
        self.order.extend(
            log.ready
                .front()
                .map(|record| Reverse((record.admitted_at, index))),
        );
        Ok(Some((position, record)))
    }
}

/// `tidegate events export`
pub async fn export(
    store: &dyn StateStore,
    tenant: &TenantId,
    stream: Option<&StreamName>,
    redacted: &[Redacted],
    output: &mut Output,
) -> Result<Exit, Failure> {
    let wanted = |name: &StreamName| match stream {
        Some(stream) => name == stream,
        // What machines emitted is emitted again by whoever reads the rest.
        None => name.as_str() != INTERNAL,
    };
    let mut logs = Logs::open(store, tenant, wanted).await?;
    if logs.logs.is_empty() {
        known_tenant(store, tenant).await?;
        return Err(Failure::not_found(match stream {
            Some(stream) => format!("tenant `{tenant}` has no stream `{stream}`"),
            None => format!("tenant `{tenant}` has no events"),
        }));
    }
    let mut events = 0_u64;
    let mut line = String::new();
    while let Some((_, record)) = logs.next(store).await? {
        // A decision about a dead letter is no event.
        let RecordBody::Event(event) = record.body else {
            continue;
        };
        line.clear();
        redact(event, redacted).write_json(&mut line);
        output.json_line(&line)?;
        events += 1;
    }
    crate::say!("{}", counted(events, "event"));
    Ok(Exit::Done)
}

fn redact(mut event: Event, redacted: &[Redacted]) -> Event {
    for what in redacted {
        match what {
            Redacted::CausedBy => event.caused_by = None,
        }
    }
    event
}

/// `tidegate events trace`
pub async fn trace(
    store: &dyn StateStore,
    tenant: &TenantId,
    correlation: &CorrelationId,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut logs = Logs::open(store, tenant, |_| true).await?;
    let mut found: Vec<(RecordPosition, Record)> = Vec::new();
    let mut left_out = 0_u64;
    while let Some((position, record)) = logs.next(store).await? {
        let is_of_it = match &record.body {
            RecordBody::Event(event) => event.correlation_id.as_ref() == Some(correlation),
            RecordBody::FollowUp { of, .. } => found.iter().any(|(position, _)| position == of),
        };
        if is_of_it && found.len() < TRACED_MAX {
            found.push((position, record));
        } else if is_of_it {
            left_out += 1;
        }
    }
    if found.is_empty() {
        known_tenant(store, tenant).await?;
        return Err(Failure::not_found(format!(
            "tenant `{tenant}` has no event with the correlation id `{correlation}`"
        )));
    }
    for root in trees(&found) {
        tell(&found, &root, 0, output)?;
    }
    if left_out > 0 {
        crate::say!("{} more are left out", counted(left_out, "record"));
    }
    Ok(Exit::Done)
}

fn tell(
    found: &[(RecordPosition, Record)],
    cause: &Cause,
    depth: usize,
    output: &mut Output,
) -> Result<(), Failure> {
    let Some((position, record)) = found.get(cause.index) else {
        return Ok(());
    };
    let (what, subject) = match &record.body {
        RecordBody::Event(event) => (
            event.event_type.as_str(),
            event.subject.as_ref().map(AsRef::<str>::as_ref),
        ),
        RecordBody::FollowUp { action, by, .. } => (action.as_str(), Some(by.as_str())),
    };
    let effects: Vec<String> = record.effects.iter().map(effect_text).collect();
    if output.format() == Format::Json {
        let row = vec![
            json!(depth),
            json!(position.to_string()),
            json!(what),
            json!(subject),
            json!(record.admitted_at.to_rfc3339()),
            Value::from(effects),
        ];
        let headings = [
            "depth",
            "position",
            "type",
            "subject",
            "admitted_at",
            "effects",
        ];
        output.rows(&headings, &[row])?;
    } else {
        let effects = match effects.is_empty() {
            true => "unhandled".to_owned(),
            false => effects.join("; "),
        };
        let subject = subject.unwrap_or("-");
        let indent = "  ".repeat(depth);
        output.text(&format!(
            "{indent}{what} {subject}  {effects}  {position}\n"
        ))?;
    }
    for caused in &cause.caused {
        tell(found, caused, depth + 1, output)?;
    }
    Ok(())
}
