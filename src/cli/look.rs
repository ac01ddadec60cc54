//! `tidegate state` and `tidegate events`: what is stored, for people and programs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json, value::RawValue};
use tidegate_engine::commit::EntityName;
use tidegate_engine::event::Subject;
use tidegate_engine::position::{RecordPosition, Sequence, StreamName, StreamPartition};
use tidegate_engine::record::{Effect, Record, RecordBody, split_segment};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{StateStore, StoreError};
use tidegate_engine::tenant::TenantId;
use tidegate_engine::verify::stored_record;

use super::exit::{Exit, Failure};
use super::output::{Format, Output};

/// How often `tail --follow` looks.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// Segments read at once.
const SEGMENTS: u32 = 8;

/// `tidegate state get`
pub async fn state(
    store: &dyn StateStore,
    tenant: &TenantId,
    machine: &MachineName,
    key: &EntityKey,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let name = EntityName {
        tenant: tenant.clone(),
        machine: machine.clone(),
        key: key.clone(),
    };
    let found = store.load_entities(tenant, vec![name]).await?;
    let Some(entity) = found.into_iter().next() else {
        known_tenant(store, tenant).await?;
        known_machine(store, machine).await?;
        return Err(Failure::not_found(format!(
            "tenant `{tenant}` has no `{machine}` with the key `{key}`"
        )));
    };
    if output.format() == Format::Json {
        // The stored bytes as they are: reading and writing them again might change a number.
        output.json_line(&format!(
            "{{\"tenant\":\"{tenant}\",\"machine\":\"{machine}\",\"key\":{},\"status\":\"{}\",\
             \"version\":{},\"data\":{}}}",
            json!(key.as_str()),
            entity.status,
            entity.version,
            entity.data
        ))?;
        return Ok(Exit::Done);
    }
    output.fields(&[
        ("tenant", json!(tenant.as_str())),
        ("machine", json!(machine.as_str())),
        ("key", json!(key.as_str())),
        ("status", json!(entity.status.as_str())),
        ("version", json!(entity.version.0)),
        ("data", json!(&*entity.data)),
    ])?;
    Ok(Exit::Done)
}

/// `tidegate events get`
pub async fn event(
    store: &dyn StateStore,
    tenant: &TenantId,
    position: &RecordPosition,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let Some(record) = stored_record(store, tenant, position).await? else {
        known_tenant(store, tenant).await?;
        return Err(Failure::not_found(format!(
            "tenant `{tenant}` has no event at {position}"
        )));
    };
    if output.format() == Format::Json {
        output.json_line(&record_line(tenant, position, &record))?;
        return Ok(Exit::Done);
    }
    let mut fields = vec![
        ("tenant", json!(tenant.as_str())),
        ("position", json!(position.to_string())),
        ("admitted_at", json!(record.admitted_at.to_rfc3339())),
    ];
    if let Some(offset) = record.offset {
        // As text: an offset is a name, not an amount.
        fields.push(("offset", json!(offset.to_string())));
    }
    fields.extend(body_fields(&record.body));
    for effect in &record.effects {
        fields.push(("effect", json!(effect_text(effect))));
    }
    output.fields(&fields)?;
    Ok(Exit::Done)
}

/// Names that a message lists at most.
const NAMES_MAX: usize = 10;

/// Refuses a tenant of whom nothing is stored, so that a name with a slip in it is not taken for one
/// without events.
pub async fn known_tenant(store: &dyn StateStore, tenant: &TenantId) -> Result<(), Failure> {
    let tenants = store.tenants().await?;
    if tenant.is_unassigned() || tenants.contains(tenant) {
        return Ok(());
    }
    let known: Vec<&str> = tenants
        .iter()
        .filter(|tenant| !tenant.is_unassigned())
        .map(TenantId::as_str)
        .collect();
    Err(Failure::not_found(format!(
        "this store has no tenant `{tenant}`; {}",
        listed(&known)
    )))
}

async fn known_machine(store: &dyn StateStore, machine: &MachineName) -> Result<(), Failure> {
    let definitions = store.definitions().await?;
    let mut known: Vec<&str> = definitions
        .iter()
        .map(|definition| definition.machine.as_str())
        .collect();
    known.dedup();
    if known.contains(&machine.as_str()) {
        return Ok(());
    }
    Err(Failure::not_found(format!(
        "this store has no machine `{machine}`; {}",
        listed(&known)
    )))
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "it has none".to_owned();
    }
    let named: Vec<&str> = names.iter().copied().take(NAMES_MAX).collect();
    let rest = match names.len() - named.len() {
        0 => String::new(),
        rest => format!(" and {rest} more"),
    };
    format!("it has {}{rest}", named.join(", "))
}

/// What an event, or a follow-up, consists of; the payload last.
pub fn body_fields(body: &RecordBody) -> Vec<(&'static str, Value)> {
    let event = match body {
        RecordBody::FollowUp { of, action, by } => {
            return vec![
                ("of", json!(of.to_string())),
                ("action", json!(action.as_str())),
                ("by", json!(by.as_str())),
            ];
        }
        RecordBody::Event(event) => event,
    };
    let mut fields = vec![
        ("id", json!(event.id.as_str())),
        ("source", json!(event.source.as_str())),
        ("type", json!(event.event_type.as_str())),
    ];
    let mut optional = |name, text: Option<&str>| fields.extend(text.map(|t| (name, json!(t))));
    optional("subject", event.subject.as_ref().map(Subject::as_str));
    optional("time", event.time.as_ref().map(|time| time.text.as_str()));
    optional(
        "correlation",
        event.correlation_id.as_ref().map(AsRef::as_ref),
    );
    optional("causation", event.causation_id.as_ref().map(AsRef::as_ref));
    optional("caused_by", event.caused_by.as_ref().map(AsRef::as_ref));
    let data = String::from_utf8_lossy(event.data.stored_bytes());
    if !data.is_empty() {
        fields.push(("data", json!(data)));
    }
    fields
}

/// Which logs `tail` looks at.
#[derive(Clone, Copy)]
pub struct Tail<'t> {
    /// Whose.
    pub tenant: &'t TenantId,
    /// Only of this stream.
    pub stream: Option<&'t StreamName>,
    /// How many.
    pub lines: u32,
    /// Go on.
    pub follow: bool,
}

/// `tidegate events tail`
pub async fn tail(
    store: &dyn StateStore,
    tail: Tail<'_>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if tail.follow && !store.capabilities().concurrent_writers {
        return Err(Failure::usage(
            "--follow: nobody else can write to this store while it is open here, so nothing would ever \
             arrive; it needs a store that several processes share, such as Postgres",
        ));
    }
    let mut read_to: BTreeMap<StreamPartition, Sequence> = BTreeMap::new();
    let mut last = Vec::new();
    for head in heads(store, tail).await? {
        let from = head.1.0.saturating_sub(u64::from(tail.lines));
        last.extend(records(store, &head.0, Sequence(from), head.1).await?);
        read_to.insert(head.0, head.1);
    }
    // Who follows may wait for the first one.
    if read_to.is_empty() && !tail.follow {
        known_tenant(store, tail.tenant).await?;
        if let Some(stream) = tail.stream {
            return Err(Failure::not_found(format!(
                "tenant `{}` has no stream `{stream}`",
                tail.tenant
            )));
        }
    }
    last.sort_by_key(|(_, record)| record.admitted_at);
    let surplus = last.len().saturating_sub(tail.lines as usize);
    last.drain(..surplus);
    show(tail.tenant, &last, output, true)?;
    if !tail.follow {
        return Ok(Exit::Done);
    }
    loop {
        tokio::time::sleep(FOLLOW_INTERVAL).await;
        let mut news = Vec::new();
        for (stream_partition, end) in heads(store, tail).await? {
            let from = read_to.insert(stream_partition.clone(), end);
            let from = from.unwrap_or(Sequence(0));
            if end > from {
                news.extend(records(store, &stream_partition, from, end).await?);
            }
        }
        news.sort_by_key(|(_, record)| record.admitted_at);
        show(tail.tenant, &news, output, false)?;
    }
}

async fn heads(
    store: &dyn StateStore,
    tail: Tail<'_>,
) -> Result<Vec<(StreamPartition, Sequence)>, StoreError> {
    let heads = store.stream_partitions(tail.tenant).await?;
    Ok(heads
        .into_iter()
        .map(|head| (head.stream_partition, head.next_sequence))
        .filter(|(at, _)| tail.stream.is_none_or(|stream| at.stream == *stream))
        .collect())
}

/// The records of one log from `from` to before `end`.
async fn records(
    store: &dyn StateStore,
    stream_partition: &StreamPartition,
    from: Sequence,
    end: Sequence,
) -> Result<Vec<(RecordPosition, Record)>, Failure> {
    let mut found = Vec::new();
    let mut next = from;
    while next < end {
        let segments = store.segments(stream_partition, next, SEGMENTS).await?;
        if segments.is_empty() {
            break;
        }
        for segment in segments {
            let entries = split_segment(&segment.body).map_err(unreadable)?;
            for entry in entries {
                let (record, _) = Record::read(RawValue::get(entry)).map_err(unreadable)?;
                next = record.sequence.next().max(next);
                if record.sequence >= from && record.sequence < end {
                    let position = RecordPosition {
                        stream: stream_partition.stream.clone(),
                        source_partition: stream_partition.source_partition.clone(),
                        sequence: record.sequence,
                    };
                    found.push((position, record));
                }
            }
        }
    }
    Ok(found)
}

/// What is said when the log is not what it was.
pub fn unreadable(error: tidegate_engine::record::RecordError) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format!("the log cannot be read: {error}; `tidegate verify` says where"),
    )
}

fn show(
    tenant: &TenantId,
    records: &[(RecordPosition, Record)],
    output: &mut Output,
    headings_wanted: bool,
) -> Result<(), Failure> {
    if output.format() == Format::Json {
        for (position, record) in records {
            output.json_line(&record_line(tenant, position, record))?;
        }
        return Ok(());
    }
    let rows: Vec<Vec<Value>> = records
        .iter()
        .map(|(position, record)| {
            let (what, subject) = match &record.body {
                RecordBody::Event(event) => (
                    event.event_type.to_string(),
                    event.subject.as_ref().map(ToString::to_string),
                ),
                RecordBody::FollowUp { of, action, .. } => {
                    (format!("({})", action.as_str()), Some(of.to_string()))
                }
            };
            let effects: Vec<String> = record.effects.iter().map(effect_text).collect();
            vec![
                json!(position.to_string()),
                json!(record.admitted_at.to_rfc3339()),
                json!(what),
                json!(subject),
                json!(if effects.is_empty() {
                    "unhandled".to_owned()
                } else {
                    effects.join("; ")
                }),
            ]
        })
        .collect();
    let headings = ["position", "admitted_at", "type", "subject", "effects"];
    if headings_wanted {
        output.rows(&headings, &rows)?;
    } else {
        output.more_rows(&headings, &rows)?;
    }
    Ok(())
}

/// `order o-17: applied, version 3`
pub fn effect_text(effect: &Effect) -> String {
    let key = effect.key.as_ref().map_or("(no key)", |key| key.as_str());
    let mut text = format!("{} {key}: {}", effect.machine, effect.outcome.as_str());
    if let Some(version) = effect.version {
        text.push_str(&format!(", version {version}"));
    }
    if let Some(reason) = &effect.reason {
        text.push_str(&format!(" ({reason})"));
    }
    text
}

/// One line: whose, where, and the record byte for byte as it is stored.
pub fn record_line(tenant: &TenantId, position: &RecordPosition, record: &Record) -> String {
    let mut line = format!("{{\"tenant\":\"{tenant}\",\"position\":\"{position}\",\"record\":");
    record.write(&mut line, &record.admitted_at.to_rfc3339());
    line.push('}');
    line
}
