//! `tidegate run`: the node, as the configuration says; and what a round of it is, which `dev` goes through
//! again for each change of its machines.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_actors::{NodeSnapshot, Source};
use tidegate_engine::clock::{Clock as _, Ids as _};
use tidegate_engine::machine::{CompiledMachine, Processor};

use super::args::Global;
use super::check::none_there;
use super::exit::{Exit, Failure};
use super::ingest::{file_sources, machines_failure, together};
use super::session::{self, Session};
use crate::access::Credentials;
use crate::config::{Config, SourceKind};
use crate::ingest::{self, Ended, Plan, StopAsked, UpkeepPlan};
use crate::machines;
use crate::runtime::{RandomIds, SystemClock};
use crate::serve::{Behind, Front};
use crate::watch;
use crate::wiring;

/// One run of a node, from its start to its end.
pub(super) struct Round {
    /// What it listens to and how.
    pub config: Config,
    /// The definitions of files and of this binary.
    pub given: Vec<Arc<dyn Processor>>,
    /// Told the address once requests are taken.
    pub told: Box<dyn FnOnce(SocketAddr)>,
    /// Ends when another round is to follow, if ever.
    pub replaced: Option<BoxFuture<'static, ()>>,
    /// For somebody on this machine alone.
    pub alone: bool,
}

/// Runs `tidegate run`.
pub fn run(global: &Global, own: &[Arc<dyn Processor>]) -> Result<Exit, Failure> {
    let config = session::config(global)?;
    if let Some(missing) = missing(global, &config) {
        return Err(Failure::usage(missing));
    }
    let session = Session::fill(global)?;
    let round = Round {
        given: together(definitions(&config.machines.paths)?, own)?,
        config,
        told: Box::new(|_| {}),
        replaced: None,
        alone: false,
    };
    let ended = node(&session, round, &mut None)?;
    session.close()?;
    exit(ended)
}

/// What a configuration that can be read leaves out and a node cannot do without.
pub(super) fn missing(global: &Global, config: &Config) -> Option<&'static str> {
    if global.config.is_none() {
        return Some("`run` needs a configuration: -c FILE. `tidegate dev` needs none");
    }
    let has_requests = config.sources.iter().any(is_http);
    match (&config.http.listen, config.sources.is_empty()) {
        (None, _) if has_requests => Some(
            "a source has `kind: http`, and `http.listen` is not configured: say where requests are taken",
        ),
        (None, true) => {
            Some("nothing to do: configure `sources`, or `http.listen` to serve what is stored")
        }
        _ => None,
    }
}

/// What is said of sources whose events nothing listens to.
pub(super) const NO_MACHINE: &str = "no machine is given, and none is active in the store: events would be kept and \
     move nothing, now or later. Name definitions as `machines.paths` in the configuration";

fn is_http(source: &crate::config::Source) -> bool {
    source.kind == SourceKind::Http
}

/// The configured sources that are topics. Their brokers may be away yet.
fn topic_sources(session: &Session, config: &Config) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for source in &config.sources {
        let (Some(name), Some(stream)) = (&source.name, &source.stream) else {
            continue;
        };
        let (store, io) = (session.shared(), session.runtime.handle());
        if let Some(bus) = wiring::kafka(source, &config.node.name, &store, io) {
            sources.push(Source {
                bus: bus?,
                stream: stream.clone(),
                tenant: source.tenant_binding(&config.limits),
                mapping: source.mapping.compiled(name),
                secrets: source.secrets.policy(),
                start: source.start(),
            });
        }
    }
    Ok(sources)
}

/// The definitions in these files.
pub(super) fn definitions(paths: &[PathBuf]) -> Result<Vec<Arc<CompiledMachine>>, Failure> {
    let given = machines::load(paths).map_err(machines_failure)?;
    if given.is_empty() && !paths.is_empty() {
        return Err(Failure::usage(none_there(paths)));
    }
    Ok(given)
}

/// Runs a node until it is told to stop, or replaced. Signals are listened to from the moment on where
/// somebody asks, and further on for the next round.
pub(super) fn node(
    session: &Session,
    round: Round,
    stop_asked: &mut Option<StopAsked>,
) -> Result<Ended, Failure> {
    let Round {
        config,
        given,
        alone,
        ..
    } = round;
    let now = SystemClock.now();
    let activate = async || machines::activate(session.store(), given.clone(), now).await;
    let active = session
        .block_on(session.patience.take("storing the machines", activate))
        .map_err(machines_failure)?;
    if active.iter().next().is_none() && !config.sources.is_empty() {
        return Err(Failure::usage(NO_MACHINE));
    }
    let behind = Behind {
        store: session.shared(),
        credentials: Credentials::new(
            session.access(),
            Arc::new(SystemClock),
            session.runtime.handle().clone(),
        ),
        leases: session.leases(),
        machines: active.clone(),
        io: session.runtime.handle().clone(),
        holder: format!("{}-{:016x}", config.node.name, RandomIds.next_u64()),
        alone,
    };
    let front = Front::of(&config, behind, round.told)
        .map_err(|error| Failure::usage(format!("`http`: {error}")))?;
    let mut sources: Vec<Source> = session.block_on(file_sources(&config))?;
    sources.extend(topic_sources(session, &config)?);
    let front = front.map(|(front, of_requests)| {
        sources.extend(of_requests);
        front
    });
    let telemetry = config.telemetry.clone();
    let plan = Plan {
        store: session.shared(),
        machines: active,
        options: config.node_options(),
        sources,
        drain_limit: Duration::from_secs(config.limits.drain_limit_seconds),
        upkeep: UpkeepPlan::of(&config),
        goes_on: front.is_some() || config.sources.iter().any(|it| it.kind == SourceKind::Kafka),
        front,
        replaced: round.replaced,
    };
    let stop_asked = match stop_asked {
        Some(listening) => listening,
        none => none.insert(StopAsked::listen_on(&session.runtime)?),
    };
    let mut teller = watch::Teller::new(&telemetry);
    let mut observe = |snapshot: &NodeSnapshot| teller.tell(snapshot);
    Ok(ingest::run_until(
        plan,
        &session.runtime,
        stop_asked,
        &mut observe,
    )?)
}

/// What its end means for who started it.
pub(super) fn exit(ended: Ended) -> Result<Exit, Failure> {
    match ended {
        Ended::Done | Ended::Replaced(_) => Ok(Exit::Done),
        // To stop is what a node is told to in the end.
        Ended::Interrupted(drained) if drained.drained => Ok(Exit::Done),
        Ended::Interrupted(drained) => {
            let left = drained.unsettled_events;
            let again = "read again, or sent again by who had no answer";
            Err(Failure::new(
                Exit::Unfinished,
                format!("stopped with up to {left} events unsettled; they are {again}"),
            ))
        }
        Ended::Failed(failed) => Err(Failure::new(Exit::Unavailable, failed.to_string())),
    }
}
