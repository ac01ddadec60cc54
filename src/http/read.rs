//! What is stored, for programs: entities, events, and what one correlation id set in motion.

use actix_web::HttpResponse;
use serde_json::{Value, json};
use tidegate_engine::commit::EntityName;
use tidegate_engine::event::{CorrelationId, Event, EventData};
use tidegate_engine::position::{RecordPosition, Sequence, StreamName, StreamPartition};
use tidegate_engine::record::{Record, RecordBody, split_segment};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{EventLookup, StateStore, StoreError};
use tidegate_engine::tenant::TenantId;
use tidegate_engine::verify::stored_record;

use super::ingest::effect;
use super::problem::{Kind, Problem};
use super::route::Call;
use crate::causes::{Cause, trees};

/// Records of one page, and of one trace.
pub const PAGE_MAX: u32 = 1_000;

/// Bytes of payloads after which a page ends, with a `next`.
pub const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// `GET /v1/entities/{machine}/{key}`
pub async fn entity(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let machine = MachineName::new(&call.segment("machine")?);
    let key = EntityKey::new(&call.segment("key")?);
    let name = EntityName {
        tenant: tenant.clone(),
        machine: machine.map_err(|error| Problem::of_value("machine", &error))?,
        key: key.map_err(|error| Problem::of_value("key", &error))?,
    };
    let asked = name.clone();
    let found = call
        .api
        .ask(move |store| async move { store.load_entities(&tenant, vec![asked]).await })
        .await?;
    let Some(entity) = found.into_iter().next() else {
        return Err(not_found("this tenant has no such entity"));
    };
    // The data's bytes as they are stored: reading and writing them again might change a number.
    let head = json!({
        "tenant": name.tenant.as_str(),
        "machine": name.machine.as_str(),
        "key": name.key.as_str(),
        "status": entity.status.as_str(),
        "version": entity.version.0,
    });
    Ok(with_raw(head, "data", &entity.data))
}

/// `GET /v1/events/{id}`: by position, `stream:source/partition:sequence`.
pub async fn event(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let position: RecordPosition = call.segment("id")?.parse().map_err(|_| {
        Problem::invalid(
            "id",
            "expected a position: stream:source/partition:sequence",
        )
    })?;
    let (of, at) = (tenant.clone(), position.clone());
    let found = call
        .api
        .ask(move |store| async move { stored_record(store.as_ref(), &of, &at).await })
        .await?;
    let record =
        found.ok_or_else(|| not_found("this tenant's log has no event at this position"))?;
    let (head, data) = told(&tenant, &position, &record);
    Ok(match data {
        Some((name, data)) => with_raw(head, name, &data),
        None => HttpResponse::Ok().json(head),
    })
}

/// `GET /v1/events`: by `correlation_id` or `id`, or the log of a `stream`, page by page.
pub async fn events(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let limit = call.number("limit", 100, PAGE_MAX)?;
    let after = match call.parameter("after")? {
        None => None,
        Some(text) => Some(
            text.parse::<RecordPosition>()
                .map_err(|_| Problem::invalid("after", "expected the `next` of the page before"))?,
        ),
    };
    if let Some(lookup) = lookup(&call)? {
        let (found, next) = by_lookup(&call, tenant.clone(), lookup, after, limit).await?;
        let next = next.map(|position| position.to_string());
        return Ok(page(&tenant, &found, &json!({ "next": next })));
    }
    let Some(stream) = call.parameter("stream")? else {
        return Err(Problem::invalid(
            "stream",
            "name a stream, a correlation_id or an id",
        ));
    };
    let stream = StreamName::new(&stream).map_err(|error| Problem::of_value("stream", &error))?;
    let of = tenant.clone();
    let found = call
        .api
        .ask(move |store| async move { log(store.as_ref(), &of, &stream, after, limit).await })
        .await?;
    let last = found.records.last();
    let next = last.filter(|_| found.is_full(limit));
    let next = next.map(|(position, _)| position.to_string());
    Ok(page(&tenant, &found, &json!({ "next": next })))
}

fn lookup(call: &Call) -> Result<Option<EventLookup>, Problem> {
    if let Some(text) = call.parameter("correlation_id")? {
        return Ok(Some(EventLookup::Correlation(correlation(&text)?)));
    }
    let Some(text) = call.parameter("id")? else {
        return Ok(None);
    };
    let id = tidegate_engine::event::EventId::new(&text)
        .map_err(|error| Problem::of_value("id", &error))?;
    Ok(Some(EventLookup::Id(id)))
}

fn correlation(text: &str) -> Result<CorrelationId, Problem> {
    CorrelationId::new(text).map_err(|error| Problem::of_value("correlation_id", &error))
}

/// Records of a page.
#[derive(Default)]
struct Found {
    records: Vec<(RecordPosition, Record)>,
    bytes: usize,
}

impl Found {
    /// True once it may hold no more.
    fn is_full(&self, records_max: u32) -> bool {
        self.records.len() as u32 >= records_max || self.bytes >= PAGE_BYTES_MAX
    }

    fn push(&mut self, position: RecordPosition, record: Record) {
        if let RecordBody::Event(event) = &record.body {
            self.bytes += event.data.stored_bytes().len();
        }
        self.records.push((position, record));
    }
}

/// Records that the index names behind `after`, and behind which the next page begins, if there may be one.
async fn by_lookup(
    call: &Call,
    tenant: TenantId,
    lookup: EventLookup,
    after: Option<RecordPosition>,
    limit: u32,
) -> Result<(Found, Option<RecordPosition>), Problem> {
    let ask = move |store: std::sync::Arc<dyn StateStore>| async move {
        let mut found = Found::default();
        let positions = store.event_positions(&tenant, &lookup, after.as_ref(), limit);
        let positions = positions.await?;
        let mut next = positions.last().filter(|_| positions.len() as u32 >= limit);
        for (index, position) in positions.iter().enumerate() {
            if let Some(record) = stored_record(store.as_ref(), &tenant, position).await? {
                found.push(position.clone(), record);
            }
            if found.is_full(limit) && index + 1 < positions.len() {
                next = Some(position);
                break;
            }
        }
        Ok((found, next.cloned()))
    };
    call.api.ask(ask).await
}

/// A stream's log from behind `after`, source partition by source partition.
async fn log(
    store: &dyn StateStore,
    tenant: &TenantId,
    stream: &StreamName,
    after: Option<RecordPosition>,
    limit: u32,
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for head in store.stream_partitions(tenant).await? {
        let place = head.stream_partition;
        let from = match &after {
            _ if place.stream != *stream => continue,
            Some(after) if place.source_partition < after.source_partition => continue,
            Some(after) if place.source_partition == after.source_partition => {
                after.sequence.next()
            }
            _ => Sequence(0),
        };
        read_log(store, &place, from, head.next_sequence, limit, &mut found).await?;
        if found.is_full(limit) {
            break;
        }
    }
    Ok(found)
}

async fn read_log(
    store: &dyn StateStore,
    place: &StreamPartition,
    mut from: Sequence,
    end: Sequence,
    limit: u32,
    found: &mut Found,
) -> Result<(), StoreError> {
    while from < end && !found.is_full(limit) {
        let segments = store.segments(place, from, 1).await?;
        let Some(segment) = segments.first() else {
            return Ok(());
        };
        let entries = split_segment(&segment.body).unwrap_or_default();
        for entry in entries {
            let Ok((record, _)) = Record::read(entry.get()) else {
                continue;
            };
            if record.sequence >= from && !found.is_full(limit) {
                let position = RecordPosition {
                    stream: place.stream.clone(),
                    source_partition: place.source_partition.clone(),
                    sequence: record.sequence,
                };
                found.push(position, record);
            }
        }
        from = Sequence(segment.first_sequence.0 + u64::from(segment.count));
    }
    Ok(())
}

/// `GET /v1/trace/{correlation_id}`: every event with it, each under the one that caused it.
pub async fn trace(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let id = call.segment("correlation_id")?;
    let lookup = EventLookup::Correlation(correlation(&id)?);
    let (found, next) = by_lookup(&call, tenant.clone(), lookup, None, PAGE_MAX).await?;
    let complete = next.is_none();
    let found = found.records;
    if found.is_empty() {
        return Err(not_found(
            "this tenant has no event with this correlation id, or the index is not that far yet",
        ));
    }
    Ok(HttpResponse::Ok().json(json!({
        "correlation_id": id,
        "events": found.len(),
        "complete": complete,
        "roots": branches(&tenant, &found, &trees(&found)),
    })))
}

/// One event, and below it, as `caused`, what it caused.
fn branch(tenant: &TenantId, found: &[(RecordPosition, Record)], cause: &Cause) -> Option<Value> {
    let (position, record) = found.get(cause.index)?;
    let (mut json, _) = told(tenant, position, record);
    let caused = branches(tenant, found, &cause.caused);
    if let Value::Object(object) = &mut json {
        object.insert("caused".to_owned(), Value::Array(caused));
    }
    Some(json)
}

fn branches(tenant: &TenantId, found: &[(RecordPosition, Record)], causes: &[Cause]) -> Vec<Value> {
    let each = causes.iter();
    each.filter_map(|cause| branch(tenant, found, cause))
        .collect()
}

/// The payload's name in JSON, and its JSON text as it is stored.
type RawData = (&'static str, String);

/// A record as JSON without its payload, and the payload.
pub fn told(
    tenant: &TenantId,
    position: &RecordPosition,
    record: &Record,
) -> (Value, Option<RawData>) {
    let mut json = json!({
        "position": position.to_string(),
        "tenant": tenant.as_str(),
        "admitted_at": record.admitted_at.to_rfc3339(),
        "effects": record.effects.iter().map(effect).collect::<Vec<_>>(),
    });
    let Value::Object(object) = &mut json else {
        return (json, None);
    };
    let mut put = |name: &str, text: Option<&str>| {
        if let Some(text) = text {
            object.insert(name.to_owned(), json!(text));
        }
    };
    match &record.body {
        RecordBody::FollowUp { of, action, by } => {
            put("of", Some(&of.to_string()));
            put("action", Some(action.as_str()));
            put("by", Some(by.as_str()));
            (json, None)
        }
        RecordBody::Event(event) => {
            put("id", Some(event.id.as_str()));
            put("source", Some(event.source.as_str()));
            put("type", Some(event.event_type.as_str()));
            put("subject", event.subject.as_ref().map(AsRef::as_ref));
            put("time", event.time.as_ref().map(|time| time.text.as_str()));
            put(
                "correlationid",
                event.correlation_id.as_ref().map(AsRef::as_ref),
            );
            put(
                "causationid",
                event.causation_id.as_ref().map(AsRef::as_ref),
            );
            put("causedby", event.caused_by.as_ref().map(AsRef::as_ref));
            put(
                "idempotencykey",
                event.idempotency_key.as_ref().map(AsRef::as_ref),
            );
            put(
                "datacontenttype",
                event.data_content_type.as_ref().map(AsRef::as_ref),
            );
            put("dataschema", event.data_schema.as_ref().map(AsRef::as_ref));
            if !event.extensions.is_empty() {
                object.insert("extensions".to_owned(), extensions(event));
            }
            (json, raw_data(&event.data))
        }
    }
}

/// Attributes that mean nothing to the engine, in an object of their own: their names are the producer's.
fn extensions(event: &Event) -> Value {
    let each = event.extensions.iter().map(|extension| {
        let value = serde_json::from_str(&extension.json).unwrap_or(Value::Null);
        (extension.name.to_string(), value)
    });
    Value::Object(each.collect())
}

fn raw_data(data: &EventData) -> Option<RawData> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match data {
        EventData::Absent => None,
        EventData::Json(bytes) => Some(("data", text(bytes))),
        // Base64 has nothing that a JSON string would write otherwise.
        EventData::Base64(bytes) => Some(("data_base64", format!("\"{}\"", text(bytes)))),
    }
}

/// A page, and the members of `rest` behind its events.
fn page(tenant: &TenantId, found: &Found, rest: &Value) -> HttpResponse {
    let mut body = String::from("{\"events\":[");
    for (index, (position, record)) in found.records.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        let (head, data) = told(tenant, position, record);
        match data {
            Some((name, data)) => push_raw(&mut body, head, name, &data),
            None => body.push_str(&head.to_string()),
        }
    }
    body.push_str("],");
    // The object's own brace is there.
    body.push_str(rest.to_string().trim_start_matches('{'));
    HttpResponse::Ok()
        .content_type("application/json")
        .body(body)
}

/// An object with one more member, whose text is put in as it is.
fn with_raw(head: Value, name: &str, raw: &str) -> HttpResponse {
    let mut body = String::new();
    push_raw(&mut body, head, name, raw);
    HttpResponse::Ok()
        .content_type("application/json")
        .body(body)
}

pub fn push_raw(out: &mut String, head: Value, name: &str, raw: &str) {
    let mut text = head.to_string();
    text.pop();
    out.push_str(&text);
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":");
    out.push_str(raw);
    out.push('}');
}

pub fn not_found(detail: &str) -> Problem {
    Problem::new(Kind::NotFound, detail)
}
