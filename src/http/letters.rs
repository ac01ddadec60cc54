//! Dead letters over HTTP: the same decisions as `tidegate dead-letters`, each a commit of its own.

use std::sync::Arc;

use actix_web::HttpResponse;
use serde_json::{Value, json};
use tidegate_engine::dead_letter::{DeadLetterSource, DeadLetterState};
use tidegate_engine::follow_up::Decided;
use tidegate_engine::hash::Hash128;
use tidegate_engine::limits::DELIVERY_BYTES_MAX;
use tidegate_engine::position::StreamName;
use tidegate_engine::store::{DeadLetterFilter, StateStore, StoredDeadLetter};
use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};

use super::problem::{Kind, Problem};
use super::read::{PAGE_BYTES_MAX, not_found};
use super::route::Call;
use crate::operator::{Decision, DecisionError, Operator};
use crate::runtime::{RandomIds, SystemClock};

/// Letters of one page.
const PAGE_MAX: u32 = 50;

/// Letters that are read at once: each may have a payload of 1 MiB, and a page has room for so many.
const READ_AT_ONCE: u32 = (PAGE_BYTES_MAX / DELIVERY_BYTES_MAX) as u32;

/// `GET /v1/dead-letters`
pub async fn list(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let limit = call.number("limit", PAGE_MAX, PAGE_MAX)?;
    let state = match call.parameter("state")?.as_deref() {
        None | Some("open") => Some(DeadLetterState::Open),
        Some("retried") => Some(DeadLetterState::Retried),
        Some("discarded") => Some(DeadLetterState::Discarded),
        Some("all") => None,
        Some(_) => {
            let expected = "expected open, retried, discarded or all";
            return Err(Problem::invalid("state", expected));
        }
    };
    let after = match call.parameter("after")? {
        None => None,
        Some(text) => Some(parse(&text, "after")?),
    };
    let mut filter = DeadLetterFilter { state, after };
    let read = move |store: Arc<dyn StateStore>| async move {
        let mut letters: Vec<Value> = Vec::new();
        loop {
            let wanted = READ_AT_ONCE.min(limit - letters.len() as u32);
            let found = store.dead_letters(&tenant, filter.clone(), wanted).await?;
            letters.extend(found.iter().map(told));
            let last = found.last().filter(|_| found.len() as u32 == wanted);
            let last = last.map(|stored| stored.letter.id);
            if last.is_none() || letters.len() as u32 >= limit {
                return Ok((letters, last));
            }
            filter.after = last;
        }
    };
    let (letters, last) = call.api.ask(read).await?;
    let next = last.map(|id| id.to_string());
    Ok(HttpResponse::Ok().json(json!({ "dead_letters": letters, "next": next })))
}

/// `GET /v1/dead-letters/{id}`
pub async fn show(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let id = parse(&call.segment("id")?, "id")?;
    let found = call
        .api
        .ask(move |store| async move { store.dead_letter(&tenant, id).await })
        .await?;
    let stored = found.ok_or_else(|| not_found("this tenant has no such dead letter"))?;
    let mut json = told(&stored);
    if let (Value::Object(object), DeadLetterSource::Raw { payload, .. }) =
        (&mut json, &stored.letter.source)
    {
        let text = String::from_utf8_lossy(payload);
        object.insert("bytes".to_owned(), json!(text));
    }
    Ok(HttpResponse::Ok().json(json))
}

/// `POST /v1/dead-letters/{id}/retry`
pub async fn retry(call: Call) -> Result<HttpResponse, Problem> {
    let stream = match call.parameter("stream")? {
        None => None,
        Some(text) => {
            Some(StreamName::new(&text).map_err(|error| Problem::of_value("stream", &error))?)
        }
    };
    decide(call, Decision::Retry { stream }).await
}

/// `POST /v1/dead-letters/{id}/discard`
pub async fn discard(call: Call) -> Result<HttpResponse, Problem> {
    decide(call, Decision::Discard).await
}

async fn decide(call: Call, decision: Decision) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let id = parse(&call.segment("id")?, "id")?;
    let by = call
        .caller()?
        .caused_by()
        .map_err(|error| Problem::new(Kind::Unauthorized, error.to_string()))?;
    let api = call.api.clone().into_inner();
    let place = api.decisions.place()?;
    let decided = call
        .api
        .run(move |store| async move {
            let _turn = place.turn().await;
            let operator = Operator {
                store: store.as_ref(),
                machines: &api.machines,
                mappings: &api.mappings,
                clock: &SystemClock,
                ids: &RandomIds,
                owner: format!("{} (operator)", api.node_name),
                by,
            };
            operator.decide(&tenant, id, &decision).await
        })
        .await?;
    match decided {
        Ok(decided) => Ok(HttpResponse::Ok().json(json!({ "result": result(&decided) }))),
        Err(error) => Err(refused(error)),
    }
}

/// Decisions under way in this node. Each claims the operator's source partition, so they go one after the
/// other; while the store is away they wait, and more than a few must not pile up.
pub struct Decisions {
    places: Arc<Semaphore>,
    turn: Arc<Mutex<()>>,
}

/// Decisions that are under way or wait for their turn.
const DECISIONS_MAX: usize = 16;

impl Default for Decisions {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(DECISIONS_MAX)),
            turn: Arc::default(),
        }
    }
}

impl Decisions {
    fn place(&self) -> Result<Place, Problem> {
        let place = self.places.clone().try_acquire_owned();
        let _place = place.map_err(|_| {
            let detail = format!("{DECISIONS_MAX} decisions about dead letters wait already");
            Problem::new(Kind::Unavailable, detail)
        })?;
        Ok(Place {
            turn: self.turn.clone(),
            _place,
        })
    }
}

/// A place among those that wait.
struct Place {
    turn: Arc<Mutex<()>>,
    _place: OwnedSemaphorePermit,
}

impl Place {
    async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

fn refused(error: DecisionError) -> Problem {
    let kind = match &error {
        DecisionError::NotFound { .. } => Kind::NotFound,
        DecisionError::NotOpen { .. } | DecisionError::Impossible { .. } => Kind::Conflict,
        DecisionError::Unknown { .. } => Kind::OutcomeUnknown,
        DecisionError::EmittedLeft { .. } => Kind::Unavailable,
        DecisionError::InTheWay { .. } => Kind::Unavailable,
        DecisionError::Store(_) => {
            tracing::warn!(%error, "a decision met a store that is not available");
            return Problem::new(
                Kind::Unavailable,
                "the store does not answer now; try again",
            );
        }
    };
    Problem::new(kind, error.to_string())
}

fn result(decided: &Decided) -> Value {
    match decided {
        Decided::Took { outcome, reason } => {
            json!({ "outcome": outcome.as_str(), "reason": reason })
        }
        Decided::StillDead { fault } => {
            json!({ "outcome": "dead", "reason": fault.reason.as_str(), "detail": fault.detail })
        }
        Decided::Admitted(counts) => json!({
            "outcome": "admitted",
            "applied": counts.applied,
            "rejected": counts.rejected,
            "ignored": counts.ignored,
            "dead": counts.dead,
        }),
        Decided::GivenUp => json!({ "outcome": "discarded" }),
    }
}

fn told(stored: &StoredDeadLetter) -> Value {
    let letter = &stored.letter;
    let mut json = json!({
        "id": letter.id.to_string(),
        "state": stored.state.as_str(),
        "reason": letter.reason.as_str(),
        "detail": letter.detail,
        "fingerprint": letter.fingerprint.to_string(),
        "attempts": stored.attempts,
        "at": letter.at.to_rfc3339(),
    });
    if let Value::Object(object) = &mut json {
        match &letter.source {
            DeadLetterSource::Record {
                position,
                machine,
                key,
            } => {
                object.insert("position".to_owned(), json!(position.to_string()));
                object.insert("machine".to_owned(), json!(machine.as_str()));
                object.insert(
                    "key".to_owned(),
                    json!(key.as_ref().map(|key| key.as_str())),
                );
            }
            DeadLetterSource::Raw {
                source_partition,
                offset,
                ..
            } => {
                object.insert("source".to_owned(), json!(source_partition.to_string()));
                object.insert("offset".to_owned(), json!(offset.map(|offset| offset.0)));
            }
        }
    }
    json
}

fn parse(text: &str, at: &str) -> Result<Hash128, Problem> {
    Hash128::from_hex(text)
        .ok_or_else(|| Problem::invalid(at, "expected the id of a dead letter: 32 hex digits"))
}

#[cfg(test)]
mod tests {
    use super::{DECISIONS_MAX, Decisions, Place};

    #[tokio::test]
    async fn decisions_go_one_at_a_time_and_do_not_pile_up() {
        let decisions = Decisions::default();
        let mut places: Vec<Place> = (0..DECISIONS_MAX)
            .map(|_| {
                decisions
                    .place()
                    .unwrap_or_else(|_| panic!("there is room"))
            })
            .collect();
        assert!(decisions.place().is_err());
        let first = places.pop().unwrap();
        let turn = first.turn().await;
        assert!(decisions.turn.try_lock().is_err());
        drop(turn);
        drop(first);
        assert!(decisions.place().is_ok());
        assert!(decisions.turn.try_lock().is_ok());
    }
}
