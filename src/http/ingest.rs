//! Events come in: read, stamped with who sent them, handed to the stream's bus, and answered once they are
//! durable, each with what became of it.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::RETRY_AFTER;
use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_engine::access::Operation;
use tidegate_engine::bus::{Answer, Became, NotTaken};
use tidegate_engine::event::{Event, IdempotencyKey};
use tidegate_engine::headers::Headers;
use tidegate_engine::mapping::Input;
use tidegate_engine::position::StreamName;
use tidegate_engine::record::{Effect, Outcome};
use tidegate_engine::tenant::TenantId;

use super::body;
use super::envelope::{self, Form};
use super::problem::{FAULTY, Fault, Kind, Problem};
use super::route::Call;
use super::{Api, Stream};
use crate::names;

/// `POST /v1/events`: CloudEvents into the first stream, or `?stream=`.
pub async fn events(call: Call) -> Result<HttpResponse, Problem> {
    let stream = match call.parameter("stream")? {
        Some(name) => stream_name(&name)?,
        None => call.api.default_stream()?.clone(),
    };
    take(call, stream).await
}

/// `POST /v1/streams/{stream}`
pub async fn stream(call: Call) -> Result<HttpResponse, Problem> {
    let stream = stream_name(&call.segment("stream")?)?;
    take(call, stream).await
}

fn stream_name(text: &str) -> Result<StreamName, Problem> {
    StreamName::new(text).map_err(|error| Problem::of_value("stream", &error))
}

async fn take(call: Call, stream: StreamName) -> Result<HttpResponse, Problem> {
    let api = call.api.clone();
    let stream = api.stream(&stream)?;
    call.may(match stream.publishes_intents {
        true => Operation::PublishIntent,
        false => Operation::PublishFact,
    })?;
    let tenant = call.tenant()?;
    let caused_by = call.caller()?.caused_by();
    let caused_by =
        caused_by.map_err(|error| Problem::new(Kind::Unauthorized, error.to_string()))?;
    let whole = match call.parameter("atomic")?.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::invalid("atomic", "expected true or false")),
    };
    let form = Form::of(call.request.headers())?;
    let key = idempotency_key(&call, &form)?;
    let mut room = api.room.of(tenant.clone());
    let encoding = match call.request.headers().get("content-encoding") {
        None => None,
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| Problem::invalid("content-encoding", "expected gzip or zstd"))?
                .to_owned(),
        ),
    };
    let headers = call.request.headers().clone();
    let limits = api.limits.body;
    let body = body::read(call.payload, encoding.as_deref(), limits, &mut room).await?;
    let texts = envelope::texts(&form, &headers, &body)?;
    let beside = match &stream.mapping {
        Some(mapping) if mapping.uses_headers() => envelope::beside(&headers),
        _ => Headers::NONE,
    };
    let items: Vec<Result<Bytes, Fault>> = texts
        .iter()
        .map(|text| {
            let mut event = read_item(stream, &form, &beside, text, &tenant)?;
            secrets_of(stream, &mut event)?;
            // Whoever sent it chose none of these.
            event.caused_by = Some(caused_by.clone());
            if let Some(key) = &key {
                name_key(&mut event, key)?;
            }
            Ok(stored(&event))
        })
        .collect();
    let answers = offer(&api, stream, &tenant, &items, whole || form.is_single()).await?;
    drop(room);
    Ok(respond(&form, answers))
}

fn read_item(
    stream: &Stream,
    form: &Form,
    headers: &Headers,
    text: &Bytes,
    tenant: &TenantId,
) -> Result<Event, Fault> {
    let mapping = match form {
        Form::Structured | Form::Batch | Form::Binary(_) => return envelope::read(text, tenant),
        Form::Json | Form::JsonLines => stream.mapping.as_ref().ok_or_else(|| Fault {
            at: "content-type".to_owned(),
            detail: "this stream has no mapping: send CloudEvents (application/cloudevents+json)"
                .to_owned(),
        })?,
    };
    let input = Input {
        headers,
        payload: text,
    };
    let event = mapping.envelope(input, Some(tenant));
    event.map_err(|fault| Fault {
        at: fault.field,
        detail: fault.reason,
    })
}

/// Does what the stream's policy says about what looks like a secret; before anything is written.
fn secrets_of(stream: &Stream, event: &mut Event) -> Result<(), Fault> {
    let found = stream.secrets.hold(event).map_err(|fault| Fault {
        at: format!("/{}", fault.field),
        detail: fault.reason,
    })?;
    if let Some(found) = found {
        tracing::warn!(
            tenant_id = %event.tenant,
            event_type = %event.event_type,
            event_id = %event.id,
            values = found.values,
            first_at = %found.first,
            policy = stream.secrets.as_str(),
            "a payload holds what looks like a secret"
        );
    }
    Ok(())
}

fn stored(event: &Event) -> Bytes {
    let mut json = String::with_capacity(512 + event.data.stored_bytes().len());
    event.write_json(&mut json);
    Bytes::from(json)
}

/// The `Idempotency-Key` header, which stands for the event's own.
fn idempotency_key(call: &Call, form: &Form) -> Result<Option<IdempotencyKey>, Problem> {
    const NAME: &str = "idempotency-key";
    let Some(value) = call.request.headers().get(NAME) else {
        return Ok(None);
    };
    if !form.is_single() {
        return Err(Problem::invalid(
            NAME,
            "a request of several events has a key in each, not one for all",
        ));
    }
    let text = value.to_str().unwrap_or_default();
    let key = IdempotencyKey::new(text);
    Ok(Some(key.map_err(|error| Problem::of_value(NAME, &error))?))
}

fn name_key(event: &mut Event, key: &IdempotencyKey) -> Result<(), Fault> {
    match &event.idempotency_key {
        Some(own) if own != key => Err(Fault {
            at: "/idempotencykey".to_owned(),
            detail: "the header Idempotency-Key says another one; send one of them".to_owned(),
        }),
        _ => {
            event.idempotency_key = Some(key.clone());
            Ok(())
        }
    }
}

/// What is said of one item.
struct Said {
    body: Value,
    problem: Option<Problem>,
}

impl Said {
    fn problem(problem: Problem) -> Self {
        Self {
            body: problem.json(),
            problem: Some(problem),
        }
    }

    fn fault(fault: &Fault) -> Self {
        Self::problem(Problem::invalid(fault.at.clone(), fault.detail.clone()))
    }
}

/// Hands in what could be read, unless all is to go or nothing, and waits for what becomes of it.
async fn offer(
    api: &Api,
    stream: &Stream,
    tenant: &TenantId,
    items: &[Result<Bytes, Fault>],
    whole: bool,
) -> Result<Vec<Said>, Problem> {
    let faults = || items.iter().enumerate();
    if whole && items.iter().any(Result::is_err) {
        let single = items.len() == 1;
        let mut problem = Problem::new(Kind::Invalid, FAULTY);
        for (index, item) in faults() {
            if let Err(fault) = item {
                let at = match single {
                    true => fault.at.clone(),
                    false => format!("/{index}{}", fault.at),
                };
                let detail = fault.detail.clone();
                problem.faults.push(Fault { at, detail });
            }
        }
        return Err(problem);
    }
    let payloads: Vec<Bytes> = items.iter().flatten().cloned().collect();
    let count = payloads.len() as u64;
    let waiting = match payloads.is_empty() {
        true => Vec::new(),
        false => {
            api.rates.take(tenant, count)?;
            stream.intake.offer(payloads).map_err(not_taken)?
        }
    };
    metrics::counter!(names::EVENTS_OFFERED).increment(count);
    let mut settled = settled(api, waiting).await.into_iter();
    let said = items.iter().map(|item| match item {
        Err(fault) => Said::fault(fault),
        Ok(_) => match settled.next().flatten() {
            Some(became) => say(became),
            None => Said::problem(Problem::new(
                Kind::OutcomeUnknown,
                "send it again with the same id or idempotency key: if it was taken, it takes no effect \
                 a second time",
            )),
        },
    });
    Ok(said.collect())
}

/// All answers, as far as they come in time.
async fn settled(api: &Api, waiting: Vec<Answer>) -> Vec<Option<Became>> {
    let until = tokio::time::Instant::now() + api.limits.answer_max;
    let mut settled = Vec::with_capacity(waiting.len());
    for answer in waiting {
        let answered = tokio::time::timeout_at(until, answer).await;
        settled.push(answered.ok().flatten());
    }
    settled
}

fn not_taken(why: NotTaken) -> Problem {
    match why {
        NotTaken::Full => Problem::new(
            Kind::Unavailable,
            "too much is waiting to be committed; send it again a little later",
        ),
        NotTaken::TooMuch => Problem::new(
            Kind::TooLarge,
            "these are more events or bytes than the node takes at once; send fewer",
        ),
        NotTaken::NotReady => Problem::new(
            Kind::Unavailable,
            "this node takes no events of this stream yet; send it again a little later",
        ),
        NotTaken::Closing => Problem::new(
            Kind::Unavailable,
            "this node is stopping; another one takes it, or this one after its start",
        ),
    }
}

fn say(became: Became) -> Said {
    let (outcome, position, effects) = match became {
        Became::Admitted { position, effects } => ("admitted", Some(position), effects),
        Became::Duplicate => ("duplicate", None, Vec::new()),
        Became::Conflict => {
            return Said::problem(Problem::new(
                Kind::Conflict,
                "this id or idempotency key was admitted with other content; this one is kept as a dead \
                 letter and takes no effect",
            ));
        }
        Became::Unreadable { detail } => return Said::problem(Problem::invalid("", detail)),
    };
    let effects: Vec<Value> = effects.iter().map(effect).collect();
    let mut body = json!({ "status": 200, "outcome": outcome });
    if let (Value::Object(object), Some(position)) = (&mut body, position) {
        object.insert("id".to_owned(), json!(position.to_string()));
        object.insert("effects".to_owned(), json!(effects));
    }
    Said {
        body,
        problem: None,
    }
}

/// What an event did to one machine's entity.
pub fn effect(effect: &Effect) -> Value {
    json!({
        "machine": effect.machine.as_str(),
        "key": effect.key.as_ref().map(|key| key.as_str()),
        "outcome": outcome(effect.outcome),
        "version": effect.version.map(|version| version.0),
        "reason": effect.reason,
    })
}

fn outcome(outcome: Outcome) -> &'static str {
    outcome.as_str()
}

fn respond(form: &Form, mut said: Vec<Said>) -> HttpResponse {
    if form.is_single()
        && let Some(said) = said.pop()
    {
        return match said.problem {
            Some(problem) => problem.response(),
            None => HttpResponse::Ok().json(said.body),
        };
    }
    let all_taken = said.iter().all(|said| said.problem.is_none());
    let status = match all_taken {
        true => StatusCode::OK,
        false => StatusCode::MULTI_STATUS,
    };
    let problems = said.iter().filter_map(|said| said.problem.as_ref());
    let retry_after = problems.filter_map(|problem| problem.retry_after).max();
    let items: Vec<Value> = said.into_iter().map(|said| said.body).collect();
    let mut response = HttpResponse::build(status);
    if let Some(seconds) = retry_after {
        response.insert_header((RETRY_AFTER, seconds.to_string()));
    }
    response.json(json!({ "items": items }))
}

#[cfg(test)]
mod tests {
    use super::{Form, Kind, Problem, RETRY_AFTER, Said, respond};

    #[test]
    fn a_batch_with_an_item_that_is_worth_another_try_says_when() {
        let wait = |said: Vec<Said>| {
            let response = respond(&Form::Batch, said);
            let wait = response.headers().get(RETRY_AFTER).cloned();
            (
                response.status().as_u16(),
                wait.map(|wait| wait.to_str().map(str::to_owned).ok()),
            )
        };
        let said = |kind: Kind| Said::problem(Problem::new(kind, "why"));
        let one = Some(Some("1".to_owned()));
        assert_eq!(wait(vec![said(Kind::OutcomeUnknown)]), (207, one.clone()));
        let some = vec![said(Kind::Conflict), said(Kind::Unavailable)];
        assert_eq!(wait(some), (207, one));
        assert_eq!(wait(vec![said(Kind::Conflict)]), (207, None));
    }
}
