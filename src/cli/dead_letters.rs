//! `tidegate dead-letters`: what needs a person, and what a person decides.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::dead_letter::{DeadLetter, DeadLetterSource, DeadLetterState};
use tidegate_engine::event::CausedBy;
use tidegate_engine::follow_up::Decided;
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::{MachineSet, Processor};
use tidegate_engine::position::{INTERNAL, SourceName};
use tidegate_engine::record::Outcome;
use tidegate_engine::store::{DeadLetterFilter, StateStore, StoreError, StoredDeadLetter};
use tidegate_engine::tenant::TenantId;
use tidegate_engine::verify::stored_record;

use super::args::{Decide, LetterState};
use super::exit::{Exit, Failure};
use super::look::{body_fields, effect_text, known_tenant, record_line};
use super::output::{Format, Output, grouped};
use crate::config::Config;
use crate::machines;
use crate::operator::{Decision, DecisionError, Operator};
use crate::runtime::{RandomIds, SystemClock};
use crate::say::counted;

/// Letters read at once: each may have a payload of 1 MiB.
const PAGE: u32 = 50;

/// `tidegate dead-letters list`
pub async fn list(
    store: &dyn StateStore,
    tenant: Option<&TenantId>,
    state: LetterState,
    limit: u32,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let tenants = match tenant {
        Some(tenant) => {
            known_tenant(store, tenant).await?;
            vec![tenant.clone()]
        }
        None => store.tenants().await?,
    };
    let mut rows = Vec::new();
    let mut cut = Vec::new();
    for tenant in &tenants {
        let found = letters(store, tenant, wanted(state), limit + 1).await?;
        if found.len() > limit as usize {
            cut.push(tenant.as_str());
        }
        rows.extend(found.iter().take(limit as usize).map(row));
    }
    let headings = [
        "tenant", "id", "state", "reason", "attempts", "at", "machine", "key", "about", "detail",
    ];
    output.rows(&headings, &rows)?;
    if !cut.is_empty() {
        let of = cut.join(", ");
        crate::say!("there are more than {limit} of {of}: -n shows more");
    }
    Ok(Exit::Done)
}

fn wanted(state: LetterState) -> Option<DeadLetterState> {
    match state {
        LetterState::Open => Some(DeadLetterState::Open),
        LetterState::Retried => Some(DeadLetterState::Retried),
        LetterState::Discarded => Some(DeadLetterState::Discarded),
        LetterState::All => None,
    }
}

async fn letters(
    store: &dyn StateStore,
    tenant: &TenantId,
    state: Option<DeadLetterState>,
    limit: u32,
) -> Result<Vec<StoredDeadLetter>, StoreError> {
    let mut found: Vec<StoredDeadLetter> = Vec::new();
    loop {
        let missing = limit - found.len() as u32;
        let after = found.last().map(|stored| stored.letter.id);
        let filter = DeadLetterFilter { state, after };
        let page = store
            .dead_letters(tenant, filter, missing.min(PAGE))
            .await?;
        let is_last = page.is_empty();
        // Nobody shows their bytes, and together they may be larger than the memory.
        found.extend(page.into_iter().map(without_bytes));
        if is_last || found.len() as u32 >= limit {
            return Ok(found);
        }
    }
}

fn without_bytes(mut stored: StoredDeadLetter) -> StoredDeadLetter {
    if let DeadLetterSource::Raw { payload, .. } = &mut stored.letter.source {
        *payload = Bytes::new();
    }
    stored
}

/// Every open letter, or those of one stream, in the order of their events: what one entity missed has to
/// reach it as it came.
async fn open_in_order(
    store: &dyn StateStore,
    config: &Config,
    wanted: &Decide,
) -> Result<Vec<Hash128>, Failure> {
    let tenant = &wanted.tenant;
    let open = letters(store, tenant, Some(DeadLetterState::Open), u32::MAX).await?;
    let Some(stream) = &wanted.of_stream else {
        return Ok(in_order(open.iter().map(|stored| &stored.letter)));
    };
    let sources = config.sources.iter();
    let sources = sources.filter(|source| source.stream.as_ref() == Some(stream));
    let sources: Vec<&SourceName> = sources.filter_map(|it| it.name.as_ref()).collect();
    let logs = store.stream_partitions(tenant).await?;
    if sources.is_empty() && !logs.iter().any(|it| it.stream_partition.stream == *stream) {
        return Err(Failure::not_found(format!(
            "tenant `{tenant}` has no stream `{stream}`"
        )));
    }
    let is_its = |letter: &&DeadLetter| match &letter.source {
        DeadLetterSource::Record { position, .. } => position.stream == *stream,
        DeadLetterSource::Raw {
            source_partition,
            offset,
            ..
        } => match offset {
            Some(_) => sources.contains(&&source_partition.source),
            None => stream.as_str() == INTERNAL,
        },
    };
    Ok(in_order(
        open.iter().map(|stored| &stored.letter).filter(is_its),
    ))
}

/// Within one log, or one source partition for what never entered a log, the order of its places; between
/// them, of the times of admission. What never entered a log comes last.
fn in_order<'l>(letters: impl Iterator<Item = &'l DeadLetter>) -> Vec<Hash128> {
    type Log = (bool, String);
    let mut logs: BTreeMap<Log, Vec<(u64, Timestamp, Hash128)>> = BTreeMap::new();
    for letter in letters {
        let (log, place) = match &letter.source {
            DeadLetterSource::Record { position, .. } => {
                let log = format!("{}:{}", position.stream, position.source_partition);
                ((false, log), position.sequence.0)
            }
            DeadLetterSource::Raw {
                source_partition,
                offset,
                ..
            } => {
                // What was emitted has no offset: it comes behind what was delivered.
                let place = offset.map_or(u64::MAX, |offset| offset.0);
                ((true, source_partition.to_string()), place)
            }
        };
        let of_log = logs.entry(log).or_default();
        of_log.push((place, letter.at, letter.id));
    }
    let mut places = Vec::new();
    for ((is_raw, log), mut letters) in logs {
        letters.sort_unstable();
        // A clock that went back does not turn the order of a log around.
        let mut latest = Timestamp(i64::MIN);
        for (place, at, id) in letters {
            latest = latest.max(at);
            places.push((is_raw, latest, log.clone(), place, id));
        }
    }
    places.sort();
    places.into_iter().map(|(.., id)| id).collect()
}

fn row(stored: &StoredDeadLetter) -> Vec<Value> {
    let letter = &stored.letter;
    let (machine, key, about) = match &letter.source {
        DeadLetterSource::Record {
            position,
            machine,
            key,
        } => (
            json!(machine.as_str()),
            json!(key.as_ref().map(|key| key.as_str())),
            position.to_string(),
        ),
        DeadLetterSource::Raw {
            source_partition,
            offset,
            ..
        } => (
            Value::Null,
            Value::Null,
            match offset {
                Some(offset) => format!("{source_partition}@{offset}"),
                None => format!("{source_partition}, emitted"),
            },
        ),
    };
    vec![
        json!(letter.tenant.as_str()),
        json!(letter.id.to_string()),
        json!(stored.state.as_str()),
        json!(letter.reason.as_str()),
        json!(stored.attempts),
        json!(letter.at.to_rfc3339()),
        machine,
        key,
        json!(about),
        json!(letter.detail),
    ]
}

/// `tidegate dead-letters show`
pub async fn show(
    store: &dyn StateStore,
    tenant: &TenantId,
    id: &str,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let id = parse_id(id)?;
    let Some(stored) = store.dead_letter(tenant, id).await? else {
        known_tenant(store, tenant).await?;
        return Err(Failure::not_found(format!(
            "tenant `{tenant}` has no dead letter {id}"
        )));
    };
    let headings = [
        "tenant", "id", "state", "reason", "attempts", "at", "machine", "key", "about", "detail",
    ];
    let mut fields: Vec<(&str, Value)> = headings.into_iter().zip(row(&stored)).collect();
    fields.push(("fingerprint", json!(stored.letter.fingerprint.to_string())));
    match &stored.letter.source {
        DeadLetterSource::Raw { payload, .. } => {
            fields.push(("bytes", json!(String::from_utf8_lossy(payload))));
        }
        DeadLetterSource::Record { position, .. } => {
            match stored_record(store, tenant, position).await? {
                None => fields.push(("event", json!("not in the log any more"))),
                Some(record) if output.format() == Format::Json => {
                    let line = record_line(tenant, position, &record);
                    // The one place where numbers of a payload are read again, for one object a letter.
                    fields.push(("event", serde_json::from_str(&line).unwrap_or(json!(line))));
                }
                Some(record) => {
                    fields.extend(body_fields(&record.body));
                    for effect in &record.effects {
                        fields.push(("effect", json!(effect_text(effect))));
                    }
                }
            }
        }
    }
    output.fields(&fields)?;
    Ok(Exit::Done)
}

/// `tidegate dead-letters retry` and `discard`
pub async fn decide(
    store: &dyn StateStore,
    own: &[Arc<dyn Processor>],
    config: &Config,
    wanted: &Decide,
    decision: &Decision,
    output: &mut Output,
) -> Result<Exit, Failure> {
    known_tenant(store, &wanted.tenant).await?;
    // Nothing is applied for a letter that is given up, so no machine has to be there.
    let machines = match decision {
        Decision::Discard => MachineSet::default(),
        Decision::Retry { .. } => machines::active(store, own)
            .await
            .map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))?,
    };
    let mappings = config.mappings();
    let operator = Operator {
        store,
        machines: &machines,
        mappings: &mappings,
        clock: &SystemClock,
        ids: &RandomIds,
        owner: format!("{} (operator)", config.node.name),
        by: by(wanted.by.as_deref())?,
    };
    let ids = if wanted.all {
        open_in_order(store, config, wanted).await?
    } else {
        let ids = wanted.ids.iter().map(|id| parse_id(id));
        ids.collect::<Result<Vec<_>, _>>()?
    };
    let (mut exit, mut retried, mut unmoved) = (Exit::Done, 0, 0);
    let mut failed = None;
    let mut rows = Rows::new(output);
    for id in ids {
        let (result, detail) = match operator.decide(&wanted.tenant, id, decision).await {
            Ok(decided) => {
                if needs_a_person(&decided) {
                    exit = Exit::Differs;
                }
                if let Some(moved) = moved(&decided) {
                    retried += 1;
                    unmoved += u64::from(!moved);
                }
                told(&decided)
            }
            Err(DecisionError::Store(error)) => {
                // What was decided before is done, and is said.
                failed = Some(error);
                break;
            }
            Err(error) => {
                let result;
                (exit, result) = match error {
                    DecisionError::NotFound { .. } => (Exit::NotFound, "unchanged"),
                    DecisionError::Unknown { .. } => (Exit::Differs, "unknown"),
                    _ => (Exit::Differs, "unchanged"),
                };
                (result, Some(error.to_string()))
            }
        };
        rows.write(id, result, detail);
    }
    let written = rows.end();
    if unmoved > 0 {
        crate::say!(
            "{} of {} moved nothing: `result` says what came of each",
            grouped(unmoved),
            counted(retried, "retried letter")
        );
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    written?;
    Ok(exit)
}

/// The rows of decisions, each written when it is taken: a long run is followed, and one that is stopped
/// has said what it did.
struct Rows<'o> {
    output: &'o mut Output,
    begun: bool,
    /// Once nobody reads any more, the decisions still go on: who asked for all of them wants all.
    written: std::io::Result<()>,
}

impl<'o> Rows<'o> {
    const HEADINGS: [&'static str; 3] = ["id", "result", "detail"];

    /// The longest result, "still dead": each row is written without a look at the others.
    const RESULT_COLUMNS: usize = 10;

    fn new(output: &'o mut Output) -> Self {
        Self {
            output,
            begun: false,
            written: Ok(()),
        }
    }

    fn write(&mut self, id: Hash128, result: &str, detail: Option<String>) {
        if self.written.is_err() {
            return;
        }
        let result = match self.output.format() {
            Format::Table => format!("{result:<0$}", Self::RESULT_COLUMNS),
            Format::Json => result.to_owned(),
        };
        let row = [vec![json!(id.to_string()), json!(result), json!(detail)]];
        self.written = if self.begun {
            self.output.more_rows(&Self::HEADINGS, &row)
        } else {
            self.output.rows(&Self::HEADINGS, &row)
        };
        self.begun = true;
    }

    fn end(self) -> std::io::Result<()> {
        if self.begun {
            self.written
        } else {
            self.output.rows(&Self::HEADINGS, &[])
        }
    }
}

/// Whether a decision leaves something to decide: the letter itself, or a new one.
fn needs_a_person(decided: &Decided) -> bool {
    match decided {
        Decided::StillDead { .. } => true,
        Decided::Admitted(counts) => counts.conflicts + counts.unreadable + counts.dead > 0,
        Decided::Took { .. } | Decided::GivenUp => false,
    }
}

/// Whether a retry moved an entity; `None` of what is no retry.
fn moved(decided: &Decided) -> Option<bool> {
    match decided {
        Decided::Took { outcome, .. } => Some(*outcome == Outcome::Applied),
        Decided::StillDead { .. } => Some(false),
        Decided::Admitted(counts) => Some(counts.applied > 0),
        Decided::GivenUp => None,
    }
}

fn told(decided: &Decided) -> (&'static str, Option<String>) {
    match decided {
        Decided::Took { outcome, reason } => (outcome.as_str(), reason.clone()),
        Decided::StillDead { fault } => (
            "still dead",
            Some(format!("{}: {}", fault.reason.as_str(), fault.detail)),
        ),
        Decided::GivenUp => (Outcome::Discarded.as_str(), None),
        Decided::Admitted(counts) if counts.duplicates > 0 => (
            "duplicate",
            Some("its key was admitted meanwhile, with the same content".to_owned()),
        ),
        Decided::Admitted(counts) if counts.conflicts > 0 => (
            "conflict",
            Some(
                "its key was admitted meanwhile with other content; a new letter says so"
                    .to_owned(),
            ),
        ),
        Decided::Admitted(counts) => (
            "admitted",
            Some(format!(
                "applied {}, rejected {}, ignored {}, dead {}, unhandled {}",
                counts.applied, counts.rejected, counts.ignored, counts.dead, counts.unhandled
            )),
        ),
    }
}

fn parse_id(text: &str) -> Result<Hash128, Failure> {
    Hash128::from_hex(text).ok_or_else(|| {
        Failure::usage(format!(
            "`{text}` is no id of a dead letter; they have 32 hexadecimal digits"
        ))
    })
}

fn by(name: Option<&str>) -> Result<CausedBy, Failure> {
    let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let name = match name {
        Some(name) => name.to_owned(),
        None => user().unwrap_or_else(|_| "unknown".to_owned()),
    };
    Ok(CausedBy::new(&format!("operator:{name}"))?)
}
