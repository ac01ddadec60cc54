//! `GET /v1/entities/{machine}/{key}/history`: how an entity came to be what it is, newest first. No index
//! leads from an entity to its records, for it would cost every commit a row an effect; so the tenant's logs
//! are read backwards, a bounded piece a request, and the answer says how far it came.

use actix_web::HttpResponse;
use serde_json::{Value, json};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{EntityName, Segment};
use tidegate_engine::position::{RecordPosition, Sequence, StreamPartition, Version};
use tidegate_engine::record::{Effect, Record, split_segment};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{StateStore, StoreError};
use tidegate_engine::tenant::TenantId;

use super::problem::Problem;
use super::read::{not_found, told};
use super::route::Call;

/// Versions of one page.
const PAGE_MAX: u32 = 1_000;

/// Records that one request reads, unless it asks for less: about a tenth of a second. A segment that was
/// begun is read to its end or to the page's, so that it may be one segment more.
const SCAN_MAX: u32 = 20_000;

/// Logs that a scan goes through side by side. Each is looked at once a request, to begin with the newest.
const LOGS_MAX: usize = 1_000;

/// Where a scan stands: what the answer calls `next`, `top.missing.position,position…`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Cursor {
    /// The entity's version when the first page was asked for. What came later is not of this scan.
    top: Version,
    /// Versions up to it that were not found yet.
    missing: u64,
    /// Of every log that is not read to its beginning, the sequence before which it goes on.
    logs: Vec<RecordPosition>,
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.", self.top, self.missing)?;
        for (index, log) in self.logs.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{log}")?;
        }
        Ok(())
    }
}

impl Cursor {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let top = Version(parts.next()?.parse().ok()?);
        let missing = parts.next()?.parse().ok()?;
        let logs = parts.next()?.split(',').map(|log| log.parse().ok());
        let logs: Vec<RecordPosition> = logs.take(LOGS_MAX + 1).collect::<Option<_>>()?;
        let is_sound = missing <= top.0 && logs.len() <= LOGS_MAX;
        is_sound.then_some(Self { top, missing, logs })
    }
}

/// `GET /v1/entities/{machine}/{key}/history`
pub async fn history(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let machine = MachineName::new(&call.segment("machine")?);
    let key = EntityKey::new(&call.segment("key")?);
    let name = EntityName {
        tenant,
        machine: machine.map_err(|error| Problem::of_value("machine", &error))?,
        key: key.map_err(|error| Problem::of_value("key", &error))?,
    };
    let limit = call.number("limit", 100, PAGE_MAX)? as usize;
    let scan_max = u64::from(call.number("scan", SCAN_MAX, SCAN_MAX)?);
    let next =
        match call.parameter("next")? {
            None => None,
            Some(text) => Some(Cursor::parse(&text).ok_or_else(|| {
                Problem::invalid("next", "expected the `next` of the page before")
            })?),
        };
    let of = name.clone();
    let begun = call
        .api
        .ask(move |store| async move { begin(store.as_ref(), &of, next).await });
    let cursor = begun.await?;
    let cursor = cursor.ok_or_else(|| not_found("this tenant has no such entity"))?;
    if cursor.logs.len() > LOGS_MAX {
        return Err(Problem::invalid(
            "key",
            format!("this tenant has more than {LOGS_MAX} logs: too many to look through"),
        ));
    }
    let scan = call.api.ask(move |store| async move {
        let mut scan = Scan::new(name, cursor, limit, scan_max);
        scan.run(store.as_ref()).await.map(|()| scan)
    });
    Ok(HttpResponse::Ok().json(scan.await?.told()))
}

/// Where to go on, or where to begin: at the heads, read after the entity, so that all of it is behind them.
async fn begin(
    store: &dyn StateStore,
    name: &EntityName,
    next: Option<Cursor>,
) -> Result<Option<Cursor>, StoreError> {
    if next.is_some() {
        return Ok(next);
    }
    let found = store.load_entities(&name.tenant, vec![name.clone()]);
    let Some(entity) = found.await?.into_iter().next() else {
        return Ok(None);
    };
    let heads = store.stream_partitions(&name.tenant).await?;
    let logs = heads.into_iter().map(|head| RecordPosition {
        stream: head.stream_partition.stream,
        source_partition: head.stream_partition.source_partition,
        sequence: head.next_sequence,
    });
    Ok(Some(Cursor {
        top: entity.version,
        missing: entity.version.0,
        logs: logs.collect(),
    }))
}

/// One request's piece of the logs.
struct Scan {
    name: EntityName,
    cursor: Cursor,
    limit: usize,
    scan_max: u64,
    scanned: u64,
    found: Vec<(Version, Value)>,
}

/// A log that has more, and when its newest part that is not read yet ends.
struct Ahead {
    newest_at: Timestamp,
    index: usize,
}

impl Scan {
    fn new(name: EntityName, cursor: Cursor, limit: usize, scan_max: u64) -> Self {
        Self {
            name,
            cursor,
            limit,
            scan_max,
            scanned: 0,
            found: Vec::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.cursor.missing == 0 || self.found.len() >= self.limit || self.scanned >= self.scan_max
    }

    /// Segment by segment, always the newest of those in front. One is held at a time.
    async fn run(&mut self, store: &dyn StateStore) -> Result<(), StoreError> {
        let mut ahead = Vec::new();
        for index in 0..self.cursor.logs.len() {
            if let Some(segment) = self.in_front(store, index).await? {
                ahead.push(Ahead {
                    newest_at: segment.last_at,
                    index,
                });
            }
        }
        while !self.is_over() {
            let Some(newest) = ahead.iter_mut().max_by_key(|log| log.newest_at) else {
                break;
            };
            if let Some(segment) = self.in_front(store, newest.index).await? {
                self.read(newest.index, &segment);
            }
            match self.in_front(store, newest.index).await? {
                Some(segment) => newest.newest_at = segment.last_at,
                None => {
                    let ended = newest.index;
                    ahead.retain(|log| log.index != ended);
                }
            }
        }
        // A log that is read to its beginning, or to where retention cut it, needs no place any more.
        let open: Vec<usize> = ahead.iter().map(|log| log.index).collect();
        let mut index = 0;
        self.cursor.logs.retain(|_| {
            index += 1;
            open.contains(&(index - 1))
        });
        Ok(())
    }

    /// The segment with the newest record of a log that is not read yet.
    async fn in_front(
        &self,
        store: &dyn StateStore,
        index: usize,
    ) -> Result<Option<Segment>, StoreError> {
        let Some(log) = self.cursor.logs.get(index) else {
            return Ok(None);
        };
        let Some(last) = log.sequence.0.checked_sub(1).map(Sequence) else {
            return Ok(None);
        };
        let place = place(&self.name.tenant, log);
        let segments = store.segments(&place, last, 1).await?;
        // What stands behind it is read already: then retention has dropped the rest.
        let found = segments.into_iter().next();
        Ok(found.filter(|segment| segment.first_sequence <= last))
    }

    fn read(&mut self, index: usize, segment: &Segment) {
        let entries = split_segment(&segment.body).unwrap_or_default();
        for entry in entries.into_iter().rev() {
            let Some(log) = self.cursor.logs.get_mut(index) else {
                return;
            };
            let Ok((record, _)) = Record::read(entry.get()) else {
                self.scanned += 1;
                continue;
            };
            if record.sequence >= log.sequence {
                continue;
            }
            log.sequence = record.sequence;
            let position = log.clone();
            self.scanned += 1;
            self.take(&position, &record);
            if self.cursor.missing == 0 || self.found.len() >= self.limit {
                return;
            }
        }
        if let Some(log) = self.cursor.logs.get_mut(index) {
            // Also past records that cannot be read: `verify` speaks of them.
            log.sequence = log.sequence.min(segment.first_sequence);
        }
    }

    fn take(&mut self, position: &RecordPosition, record: &Record) {
        for effect in &record.effects {
            let is_its =
                effect.machine == self.name.machine && effect.key.as_ref() == Some(&self.name.key);
            if let Some(version) = effect.version.filter(|it| is_its && *it <= self.cursor.top) {
                self.cursor.missing = self.cursor.missing.saturating_sub(1);
                let version_told = version_told(&self.name.tenant, position, record, effect);
                self.found.push((version, version_told));
            }
        }
    }

    fn told(mut self) -> Value {
        self.found
            .sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        let at_the_end = self.cursor.missing == 0 || self.cursor.logs.is_empty();
        let next = (!at_the_end).then(|| self.cursor.to_string());
        json!({
            "tenant": self.name.tenant.as_str(),
            "machine": self.name.machine.as_str(),
            "key": self.name.key.as_str(),
            "versions": self.found.into_iter().map(|(_, told)| told).collect::<Vec<_>>(),
            "scanned": self.scanned,
            "missing": self.cursor.missing,
            "next": next,
        })
    }
}

fn place(tenant: &TenantId, log: &RecordPosition) -> StreamPartition {
    StreamPartition {
        tenant: tenant.clone(),
        stream: log.stream.clone(),
        source_partition: log.source_partition.clone(),
    }
}

/// A version: its number, its record without effects and payload, and what the effect says.
fn version_told(
    tenant: &TenantId,
    position: &RecordPosition,
    record: &Record,
    effect: &Effect,
) -> Value {
    let (mut told, _) = told(tenant, position, record);
    if let Value::Object(object) = &mut told {
        object.remove("effects");
        object.remove("tenant");
        let version = effect.version.map(|version| version.0);
        object.insert("version".to_owned(), json!(version));
        let definition = effect.definition.to_string();
        object.insert("definition".to_owned(), json!(definition));
        // As text: 64 bits are more than a number in JSON holds everywhere.
        let hash = effect.state_hash.map(|hash| format!("{hash:016x}"));
        object.insert("state_hash".to_owned(), json!(hash));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::Cursor;

    #[test]
    fn a_cursor_is_read_back_as_it_was_written_and_nothing_else_is_one() {
        for text in ["7.3.orders:api/0:12,orders:api/1:5", "1.1.a:b/0:0"] {
            let cursor = Cursor::parse(text).expect("a cursor");
            assert_eq!(cursor.to_string(), text);
        }
        for wrong in [
            "",
            "7",
            "7.3.",
            "7.8.a:b/0:0",
            "7.3.a:b/0",
            "x.3.a:b/0:0",
            "7.-1.a:b/0:0",
        ] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }
}
