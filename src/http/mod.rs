//! The HTTP server: events in, state and events out, health and metrics. Every request but `/livez` brings
//! a bearer token; what it may do stands in one table ([`route`]). Store calls run as owned tasks on the I/O
//! runtime: a client that hangs up ends its request and never a transaction.

mod body;
mod envelope;
mod feed;
mod health;
mod history;
mod ingest;
mod letters;
mod outbox;
mod page;
pub mod problem;
mod rates;
mod read;
mod room;
pub mod route;
mod seats;
mod stream;
pub mod tls;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle, Service as _};
use actix_web::{App, HttpServer, web};
use governor::clock::DefaultClock;
use tidegate_engine::bus::Intake;
use tidegate_engine::machine::MachineSet;
use tidegate_engine::mapping::Mapping;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::secrets::SecretPolicy;
use tidegate_engine::store::{StateStore, StoreError};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::access::Credentials;
use crate::names;
use crate::watch::Telemetry;
pub use body::BodyLimits;
pub use health::OPENAPI;
use problem::{Kind, Problem};
use rates::Rates;
use room::BodyRoom;
pub use stream::StreamLimits;

/// Threads that take requests.
const WORKERS: usize = 2;

/// From a connection to the head of its request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// Connections that wait to be taken: what comes at once may be more than the 128 that a socket has by default.
const BACKLOG: i32 = 1_024;

/// How long a client that reads too slowly may still be told so, before its connection is closed.
const TOLD_SLOW: Duration = Duration::from_secs(10);

/// What bounds requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Of one body.
    pub body: BodyLimits,
    /// Bytes of all bodies together, and of pages.
    pub bodies_bytes_max: usize,
    /// Until what was handed in must be settled; then its outcome is not known.
    pub answer_max: Duration,
    /// Connections of each thread that takes requests.
    pub connections_max: usize,
    /// Events a second of each tenant; `None` without a quota.
    pub tenant_events_per_second: Option<NonZeroU32>,
    /// Of what is followed.
    pub streams: StreamLimits,
}

/// A stream that takes events over HTTP.
pub struct Stream {
    /// Its bus's way in.
    pub intake: Arc<dyn Intake>,
    /// How JSON that is no CloudEvents becomes an event.
    pub mapping: Option<Arc<Mapping>>,
    /// Its events ask for something (`publish:intent`) and do not say what happened (`publish:fact`).
    pub publishes_intents: bool,
    /// What is done with payloads that hold what looks like a secret.
    pub secrets: SecretPolicy,
}

/// What the server serves.
pub struct Api {
    /// What is stored.
    pub store: Arc<dyn StateStore>,
    /// Who may do what.
    pub credentials: Credentials,
    /// Where events go.
    pub streams: BTreeMap<StreamName, Stream>,
    /// The machines that decisions about dead letters apply.
    pub machines: MachineSet,
    /// The mappings of sources, for letters that were unreadable.
    pub mappings: BTreeMap<SourceName, Arc<Mapping>>,
    /// The node's name.
    pub node_name: String,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Where store calls run.
    pub io: Handle,
    /// What bounds requests.
    pub limits: Limits,
    /// Of one tenant alone, who may see all figures: `tidegate dev`.
    pub alone: bool,
    rates: Rates,
    /// For bodies, the events in them, and pages of what is stored.
    room: BodyRoom,
    decisions: letters::Decisions,
    open_streams: seats::Open,
    /// True once they have to end.
    streams_stop: watch::Sender<bool>,
}

/// What an [`Api`] is made of.
pub struct Parts {
    /// See [`Api::store`].
    pub store: Arc<dyn StateStore>,
    /// See [`Api::credentials`].
    pub credentials: Credentials,
    /// See [`Api::streams`].
    pub streams: BTreeMap<StreamName, Stream>,
    /// See [`Api::machines`].
    pub machines: MachineSet,
    /// See [`Api::mappings`].
    pub mappings: BTreeMap<SourceName, Arc<Mapping>>,
    /// See [`Api::node_name`].
    pub node_name: String,
    /// See [`Api::telemetry`].
    pub telemetry: Telemetry,
    /// See [`Api::io`].
    pub io: Handle,
    /// See [`Api::limits`].
    pub limits: Limits,
    /// See [`Api::alone`].
    pub alone: bool,
}

impl Api {
    /// Ready to serve.
    pub fn new(parts: Parts) -> Self {
        let (bodies, body) = (parts.limits.bodies_bytes_max, parts.limits.body.bytes_max);
        Self {
            store: parts.store,
            credentials: parts.credentials,
            streams: parts.streams,
            machines: parts.machines,
            mappings: parts.mappings,
            node_name: parts.node_name,
            telemetry: parts.telemetry,
            io: parts.io,
            rates: Rates::new(
                parts.limits.tenant_events_per_second,
                DefaultClock::default(),
            ),
            room: BodyRoom::new(bodies, body),
            decisions: letters::Decisions::default(),
            limits: parts.limits,
            alone: parts.alone,
            open_streams: seats::Open::default(),
            streams_stop: watch::Sender::new(false),
        }
    }

    /// Asks the store, in a task of its own that goes on when the client has gone.
    async fn ask<T, F>(&self, ask: impl FnOnce(Arc<dyn StateStore>) -> F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        Ok(self.run(ask).await??)
    }

    async fn run<T, F>(&self, ask: impl FnOnce(Arc<dyn StateStore>) -> F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let asked = self.io.spawn(ask(self.store.clone())).await;
        asked.map_err(|_| Problem::new(Kind::Unavailable, "the request failed inside; try again"))
    }

    fn default_stream(&self) -> Result<&StreamName, Problem> {
        let mut names = self.streams.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Problem::new(Kind::NotFound, "this node takes no events")),
            (Some(_), Some(_)) => Err(Problem::invalid(
                "stream",
                format!("say which: ?stream={}", self.stream_names()),
            )),
        }
    }

    fn stream(&self, name: &StreamName) -> Result<&Stream, Problem> {
        self.streams.get(name).ok_or_else(|| {
            let names = self.stream_names();
            Problem::new(
                Kind::NotFound,
                format!("this node takes no events of that stream; it takes those of {names}"),
            )
        })
    }

    fn stream_names(&self) -> String {
        let names: Vec<&str> = self.streams.keys().map(StreamName::as_str).collect();
        names.join(" or ")
    }
}

/// Where requests are taken.
pub struct Listener {
    /// `address:port`.
    pub address: String,
    /// TLS, if any.
    pub certificate: Option<Arc<tls::Certificate>>,
    /// How long a stop waits for requests.
    pub stop_limit: Duration,
}

/// A server that takes requests.
pub struct Serving {
    api: web::Data<Api>,
    handle: ServerHandle,
    /// The address in fact: a port of 0 is chosen by the system.
    pub address: std::net::SocketAddr,
}

impl Serving {
    /// Ends it: open requests are answered first, and streams told that they end.
    pub async fn stop(self) {
        self.api.streams_stop.send_replace(true);
        self.handle.stop(true).await;
    }
}

/// Takes requests from now on; call inside an actix system.
pub fn start(api: web::Data<Api>, listener: &Listener) -> Result<Serving, String> {
    let limits = api.limits;
    let served = api.clone();
    let make = move || {
        let app = App::new()
            .app_data(served.clone())
            .wrap_fn(|request, service| {
                let started = tokio::time::Instant::now();
                let answered = service.call(request);
                async move {
                    let response = answered.await?;
                    count(&response, started.elapsed());
                    Ok(response)
                }
            });
        app.configure(route::register)
            .default_service(web::to(|| async {
                Problem::new(Kind::NotFound, "see /openapi.json for what there is").response()
            }))
    };
    let server = HttpServer::new(make)
        .workers(WORKERS)
        .max_connections(limits.connections_max)
        .client_request_timeout(HEAD_TIME_MAX)
        .shutdown_timeout(listener.stop_limit.as_secs().max(1))
        .disable_signals();
    let refused = |error: std::io::Error| format!("{}: {error}", listener.address);
    let socket = std::net::TcpListener::bind(&listener.address).map_err(refused)?;
    let address = socket.local_addr().map_err(refused)?;
    rustix::net::listen(&socket, BACKLOG).map_err(|error| refused(error.into()))?;
    close_unread(&socket, limits.streams.slow_max + TOLD_SLOW).map_err(refused)?;
    let listening = match &listener.certificate {
        None => server.listen(socket),
        Some(certificate) => {
            actix_web::rt::spawn(certificate.clone().keep());
            server.listen_rustls_0_23(socket, certificate.server()?)
        }
    };
    let running: Server = listening.map_err(refused)?.run();
    let handle = running.handle();
    actix_web::rt::spawn(running);
    Ok(Serving {
        api,
        handle,
        address,
    })
}

/// A connection whose client leaves unread what was sent is closed by the system after `limit`, whatever was asked:
/// the server has no limit of its own for writing, and a few clients that do not read would hold all its
/// connections. What a listener is told, its connections inherit.
#[cfg(target_os = "linux")]
fn close_unread(listener: &std::net::TcpListener, limit: Duration) -> std::io::Result<()> {
    let millis = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(
        listener, millis,
    )?)
}

/// Other systems have no such setting.
#[cfg(not(target_os = "linux"))]
fn close_unread(_: &std::net::TcpListener, _: Duration) -> std::io::Result<()> {
    Ok(())
}

fn count<B>(response: &actix_web::dev::ServiceResponse<B>, took: Duration) {
    // A client may call a method as it likes: one that no route has is none of ours.
    let method = match response.request().method().as_str() {
        known @ ("GET" | "POST") => known,
        _ => "other",
    };
    let method = method.to_owned();
    // The pattern, never the path: a label has few values.
    let route = response.request().match_pattern();
    let route = route.unwrap_or_else(|| "none".to_owned());
    let status = response.status().as_u16().to_string();
    let labels = [
        ("method", method.clone()),
        ("route", route.clone()),
        ("status", status),
    ];
    metrics::counter!(names::REQUESTS, &labels).increment(1);
    let labels = [("method", method), ("route", route)];
    metrics::histogram!(names::REQUEST_SECONDS, &labels).record(took.as_secs_f64());
}
