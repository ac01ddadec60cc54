//! `GET /v1/stream`: a tenant's logs as server-sent events, from any place and on into what is committed from
//! now on. What a node commits another one sees in the store alone, so the store is what is followed: the heads
//! are read again and again. Owns when a stream ends; what it reads is the feed's.

use std::time::Duration;

use actix_web::web::Bytes;
use actix_web::{HttpResponse, web};
use serde_json::json;
use tidegate_engine::access::Operation;
use tidegate_engine::machine::{EventContext, EventFilter};
use tidegate_engine::position::{RecordPosition, Sequence, StreamName, StreamPartition};
use tidegate_engine::record::{Record, RecordBody};
use tidegate_engine::store::StreamHead;
use tidegate_engine::tenant::TenantId;
use tokio::time::Instant;

use super::Api;
use super::feed::{self, Marks, Piece};
use super::outbox::{Outbox, outbox};
use super::problem::{Fault, Kind, Problem};
use super::read::{push_raw, told};
use super::route::{Call, bearer};
use super::seats::Seat;

/// Bytes that wait for one client, beside the segment that is being read.
const WAITING_BYTES_MAX: usize = 256 * 1024;

/// Bytes that are put together before they are handed on.
const CHUNK_BYTES: usize = 32 * 1024;

/// What a segment that ends in events that are left out counts towards the next id.
const PASSED_OVER_BYTES: usize = CHUNK_BYTES / 8;

/// Without anything to send, a comment goes out so often: what stands between may close what is silent.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How often the token is looked at. With what [`crate::access`] believes, a revocation holds within 5 s.
const TOKEN_INTERVAL: Duration = Duration::from_secs(1);

/// Milliseconds after which a client comes back, as it is told.
const RETRY_MILLIS: u32 = 2_000;

/// Events between two looks at what else is to do: a filter may cost some milliseconds.
const EVENTS_AT_ONCE: usize = 16;

/// What bounds streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamLimits {
    /// Open ones of this node.
    pub open_max: usize,
    /// Open ones of one tenant on this node.
    pub tenant_open_max: usize,
    /// Between two looks at the heads.
    pub poll: Duration,
    /// How long a client may let what waits for it wait.
    pub slow_max: Duration,
}

/// `GET /v1/stream`
pub async fn stream(call: Call) -> Result<HttpResponse, Problem> {
    let tenant = call.tenant()?;
    let stream = match call.parameter("stream")? {
        None => None,
        Some(text) => {
            Some(StreamName::new(&text).map_err(|error| Problem::of_value("stream", &error))?)
        }
    };
    let filter = match call.parameter("filter")? {
        None => None,
        Some(text) => Some(EventFilter::compile(&text).map_err(|wrong| {
            let mut problem =
                Problem::new(Kind::Invalid, "the filter is not one; `faults` says why");
            problem.faults = wrong.into_iter().map(filter_fault).collect();
            problem
        })?),
    };
    let wanted = wanted(&call)?;
    let seat = Seat::take(&call.api, &tenant)?;
    let (of, only) = (tenant.clone(), stream.clone());
    let heads = call
        .api
        .ask(move |store| async move { feed::heads(store.as_ref(), &of, only.as_ref()).await });
    let heads = heads.await?;
    if heads.len() > feed::LOGS_MAX {
        return Err(Problem::invalid(
            "stream",
            format!(
                "this has {} logs, and the id of an event can name {}: follow one stream of fewer, \
                 with ?stream=",
                heads.len(),
                feed::LOGS_MAX
            ),
        ));
    }
    let marks = match wanted {
        (_, None) => Marks::at(&heads),
        (at, Some(marks)) => match marks.beyond(&heads) {
            None => marks,
            Some(beyond) => {
                return Err(Problem::invalid(
                    at,
                    format!("no log of this tenant and stream reaches {beyond}"),
                ));
            }
        },
    };
    let (out, body) = outbox(WAITING_BYTES_MAX);
    let pump = Pump {
        api: call.api.clone(),
        tenant,
        stream,
        filter,
        marks,
        text: String::new(),
        unmarked: 0,
        undecided: 0,
        undecided_why: String::new(),
        _seat: seat,
    };
    let token = bearer(&call.request)?.to_owned();
    call.api.io.spawn(pump.run(token, out));
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        // For what stands between and would collect a response first.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body))
}

fn filter_fault(wrong: tidegate_engine::machine::Objection) -> Fault {
    let detail = match wrong.suggestion {
        Some(suggestion) => format!("{}; {suggestion}", wrong.message),
        None => wrong.message,
    };
    Fault {
        at: "filter".to_owned(),
        detail,
    }
}

/// Where it was said where to begin, and where; `None` for the end.
fn wanted(call: &Call) -> Result<(&'static str, Option<Marks>), Problem> {
    let header = call.request.headers().get("last-event-id");
    let (at, text) = match header {
        // What a client comes back with is newer than what its address says.
        Some(value) => ("Last-Event-ID", value.to_str().ok().map(str::to_owned)),
        None => (
            "from",
            Some(call.parameter("from")?.unwrap_or_else(|| "now".to_owned())),
        ),
    };
    let text = text.unwrap_or_default();
    if text == "now" {
        return Ok((at, None));
    }
    let marks = Marks::parse(&text);
    let marks = marks.ok_or_else(|| {
        Problem::invalid(
            at,
            "expected `now`, `start`, or the id of an event of a stream",
        )
    })?;
    Ok((at, Some(marks)))
}

/// Why a stream ends: the `reason` of its last event, and what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Nobody listens any more.
    Gone,
    Slow,
    Unauthorized,
    Stopping,
    Unavailable,
    TooManyLogs,
}

impl End {
    fn says(self) -> (&'static str, &'static str) {
        match self {
            End::Gone => ("gone", ""),
            End::Slow => ("slow", "you read too slowly; come back with Last-Event-ID"),
            End::Unauthorized => ("unauthorized", "the token is no longer valid for this"),
            End::Stopping => ("stopping", "this node stops; come back with Last-Event-ID"),
            End::Unavailable => (
                "unavailable",
                "the store does not answer now; come back with Last-Event-ID",
            ),
            End::TooManyLogs => (
                "too-many-logs",
                "there are more logs than an id can name; follow one stream of fewer, with ?stream=",
            ),
        }
    }
}

/// What fills one stream.
struct Pump {
    api: web::Data<Api>,
    tenant: TenantId,
    stream: Option<StreamName>,
    filter: Option<EventFilter>,
    marks: Marks,
    /// What is put together for the next chunk.
    text: String,
    /// Bytes of events since the last id.
    unmarked: usize,
    /// Events since the last heartbeat of which the filter could not tell.
    undecided: u64,
    undecided_why: String,
    _seat: Seat,
}

impl Pump {
    async fn run(mut self, token: String, out: Outbox) {
        let mut stopped = self.api.streams_stop.subscribe();
        let (api, tenant) = (self.api.clone(), self.tenant.clone());
        let end = tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => End::Stopping,
            () = out.gone() => End::Gone,
            end = token_ends(api, token, tenant) => end,
            end = self.feed(&out) => end,
        };
        let (reason, detail) = end.says();
        tracing::debug!(tenant_id = %self.tenant, reason, "a stream ends");
        let data = json!({ "reason": reason, "detail": detail });
        let last = format!("event: closed\ndata: {data}\n\n");
        // Who may not read, or does not, gets nothing of what waits.
        let instead = matches!(end, End::Slow | End::Unauthorized);
        out.end(Bytes::from(last), instead);
    }

    /// Reads and sends until one of the two does not go on. What was read and not sent when it is dropped is
    /// read again by a client that comes back.
    async fn feed(&mut self, out: &Outbox) -> End {
        // Who is cut off before the first event comes back to here, too.
        self.text = format!("retry: {RETRY_MILLIS}\nid: {}\n\n", self.marks);
        let mut silent_since = Instant::now();
        let mut told_at = Instant::now();
        loop {
            // Also beside many that are sent: a filter that cannot be told of most is a mistake.
            if self.undecided > 0 && told_at.elapsed() >= HEARTBEAT {
                self.beat();
                told_at = Instant::now();
            }
            if !self.text.is_empty() {
                silent_since = Instant::now();
            }
            if let Err(end) = self.hand_on(out).await {
                return end;
            }
            let Ok(news) = self.news().await else {
                return End::Unavailable;
            };
            if news.is_empty() && self.unmarked > 0 {
                self.mark();
                continue;
            }
            for head in &news {
                if let Err(end) = self.take(out, head).await {
                    return end;
                }
                silent_since = Instant::now();
            }
            if news.is_empty() {
                if silent_since.elapsed() >= HEARTBEAT {
                    self.beat();
                    continue;
                }
                tokio::time::sleep(self.api.limits.streams.poll).await;
            }
        }
    }

    /// The heads of the logs that have something new.
    async fn news(&self) -> Result<Vec<StreamHead>, Problem> {
        let (tenant, stream) = (self.tenant.clone(), self.stream.clone());
        let heads = self.api.ask(move |store| async move {
            feed::heads(store.as_ref(), &tenant, stream.as_ref()).await
        });
        let mut heads = heads.await?;
        heads.retain(|head| self.marks.next(&head.stream_partition) < head.next_sequence);
        Ok(heads)
    }

    /// The next segment of one log: then it is the next log's turn.
    async fn take(&mut self, out: &Outbox, head: &StreamHead) -> Result<(), End> {
        let log = &head.stream_partition;
        if !self.marks.name(log) {
            return Err(End::TooManyLogs);
        }
        let next = self.marks.next(log);
        let (of, end) = (log.clone(), head.next_sequence);
        let piece = self
            .api
            .ask(move |store| async move { feed::piece(store.as_ref(), &of, next, end).await });
        let segment = match piece.await.map_err(|_| End::Unavailable)? {
            Piece::Segment(segment) => segment,
            Piece::DroppedBefore(first) => {
                self.marks.advance(log, first);
                let log = format!("{}:{}", log.stream, log.source_partition);
                let data = json!({ "log": log, "from": next.0, "before": first.0 });
                self.say(Some("dropped"), &data.to_string());
                return self.hand_on(out).await;
            }
        };
        let mut is_told = true;
        for (index, (sequence, record)) in feed::records(&segment, next).enumerate() {
            self.marks.advance(log, sequence.next());
            is_told = self.tell(log, sequence, record.as_ref());
            if self.text.len() >= CHUNK_BYTES {
                self.hand_on(out).await?;
            }
            if index % EVENTS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
        }
        if !is_told {
            // What the filter left out is not read again.
            self.unmarked += PASSED_OVER_BYTES;
            if self.marks.are_short() || self.unmarked >= CHUNK_BYTES {
                self.mark();
            }
        }
        self.hand_on(out).await
    }

    /// Puts one record behind the others, if it is wanted.
    fn tell(&mut self, log: &StreamPartition, sequence: Sequence, record: Option<&Record>) -> bool {
        let position = RecordPosition {
            stream: log.stream.clone(),
            source_partition: log.source_partition.clone(),
            sequence,
        };
        let Some(record) = record else {
            let data = json!({ "position": position.to_string() });
            self.say(Some("unreadable"), &data.to_string());
            return true;
        };
        if !self.wants(record) {
            return false;
        }
        let (head, data) = told(&self.tenant, &position, record);
        let mut json = String::new();
        match data {
            Some((name, data)) => push_raw(&mut json, head, name, &data),
            None => json = head.to_string(),
        }
        self.say(None, &json);
        true
    }

    fn wants(&mut self, record: &Record) -> bool {
        let Some(filter) = &self.filter else {
            return true;
        };
        let RecordBody::Event(event) = &record.body else {
            return false;
        };
        let context = EventContext {
            event,
            admitted_at: record.admitted_at,
        };
        filter.wants(&context).unwrap_or_else(|why| {
            self.undecided += 1;
            self.undecided_why = why;
            false
        })
    }

    /// An id alone, which clients keep.
    fn mark(&mut self) {
        self.text.push_str(&format!("id: {}\n\n", self.marks));
        self.unmarked = 0;
    }

    /// An event of the protocol, with the marks behind it as its id. Marks of many logs would be more than the
    /// events: they stand once a chunk, and who is cut off between gets some events again.
    fn say(&mut self, name: Option<&str>, data: &str) {
        let began = self.text.len();
        if let Some(name) = name {
            self.text.push_str(&format!("event: {name}\n"));
        }
        let is_marked = self.marks.are_short() || self.unmarked >= CHUNK_BYTES;
        if is_marked {
            self.text.push_str(&format!("id: {}\n", self.marks));
        }
        for line in data.split(['\n', '\r']) {
            self.text.push_str("data: ");
            self.text.push_str(line);
            self.text.push('\n');
        }
        self.text.push('\n');
        self.unmarked = match is_marked {
            true => 0,
            false => self.unmarked + self.text.len() - began,
        };
    }

    /// A comment, which clients pass over.
    fn beat(&mut self) {
        match std::mem::take(&mut self.undecided) {
            0 => self.text.push_str(": alive\n\n"),
            events => {
                let why = self.undecided_why.replace(['\n', '\r'], " ");
                let text = format!(": left out {events} events; of the last, {why}\n\n");
                self.text.push_str(&text);
            }
        }
    }

    async fn hand_on(&mut self, out: &Outbox) -> Result<(), End> {
        if self.text.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::take(&mut self.text));
        let pushed = tokio::time::timeout(self.api.limits.streams.slow_max, out.push(chunk));
        pushed.await.map_err(|_| End::Slow)
    }
}

/// Comes back when the token is no longer good for this, or nobody can say so.
async fn token_ends(api: web::Data<Api>, token: String, tenant: TenantId) -> End {
    loop {
        tokio::time::sleep(TOKEN_INTERVAL).await;
        let (of, token) = (api.clone(), token.clone());
        // A task of its own: a look-up that was begun is not given up in the middle.
        let admitted = api
            .io
            .spawn(async move { of.credentials.admit_again(&token).await });
        match admitted.await {
            Ok(Ok(credential)) => {
                let may = credential.may(Operation::Read);
                if may.and_then(|()| credential.reaches(&tenant)).is_err() {
                    return End::Unauthorized;
                }
            }
            Ok(Err(denied)) if !denied.is_transient() => return End::Unauthorized,
            Ok(Err(_)) | Err(_) => return End::Unavailable,
        }
    }
}
