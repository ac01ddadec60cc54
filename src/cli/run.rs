//! `tidegate run`: the node, as the configuration says. `tidegate dev`: the same on this machine alone,
//! with a tenant, a token and a machine to try it with.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::{NodeSnapshot, Source};
use tidegate_engine::access::{
    AccessStore, NewToken, Scopes, Token, TokenCreation, TokenLabel, TokenSecret, TokensOf,
};
use tidegate_engine::clock::{Clock as _, Ids as _};
use tidegate_engine::machine::Processor;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::tenant::TenantId;

use super::args::{Dev, Global};
use super::check::none_there;
use super::exit::{Exit, Failure};
use super::ingest::{file_sources, machines_failure, together};
use super::session::{self, Session};
use crate::access::{Credentials, draw_secret};
use crate::config::{Config, SourceKind, StoreKind};
use crate::ingest::{self, Ended, Plan, UpkeepPlan};
use crate::machines;
use crate::runtime::{RandomIds, SystemClock};
use crate::serve::{Behind, Front};
use crate::watch;

/// The machine that `dev` begins with.
const SAMPLE_MACHINE: &str = include_str!("../../deploy/examples/order.yaml");

/// The tenant and the token of `dev`.
const DEV: &str = "dev";

/// Runs `tidegate run`.
pub fn run(global: &Global, own: &[Arc<dyn Processor>]) -> Result<Exit, Failure> {
    if global.config.is_none() {
        return Err(Failure::usage(
            "`run` needs a configuration: -c FILE. `tidegate dev` needs none",
        ));
    }
    let config = session::config(global)?;
    let has_requests = config.sources.iter().any(is_http);
    match (&config.http.listen, config.sources.is_empty()) {
        (None, _) if has_requests => {
            return Err(Failure::usage(
                "a source has `kind: http`, and `http.listen` is not configured: say where requests are \
                 taken",
            ));
        }
        (None, true) => {
            return Err(Failure::usage(
                "nothing to do: configure `sources`, or `http.listen` to serve what is stored",
            ));
        }
        _ => {}
    }
    let session = Session::fill(global)?;
    let told = Box::new(|_: SocketAddr| {});
    node(session, own, &config.machines.paths, told)
}

/// Runs `tidegate dev`.
pub fn dev(global: &Global, wanted: &Dev, own: &[Arc<dyn Processor>]) -> Result<Exit, Failure> {
    if global.config.is_some() {
        return Err(Failure::usage(
            "`dev` has a configuration of its own; `tidegate run -c FILE` takes yours",
        ));
    }
    let machines = dev_machines(wanted)?;
    let config = dev_config(wanted)?;
    let session = Session::fill_with(global, config)?;
    let secret = session.block_on(dev_token(session.access().as_ref()))?;
    let (token, database) = (secret.expose(), wanted.database.display().to_string());
    let told = Box::new(move |address: SocketAddr| tell(address, &token, &database));
    node(session, own, &machines, told)
}

fn is_http(source: &crate::config::Source) -> bool {
    source.kind == SourceKind::Http
}

/// Runs the node that the session's configuration describes, until it is told to stop.
fn node(
    session: Session,
    own: &[Arc<dyn Processor>],
    paths: &[PathBuf],
    told: Box<dyn FnOnce(SocketAddr)>,
) -> Result<Exit, Failure> {
    let given = machines::load(paths).map_err(machines_failure)?;
    if given.is_empty() && !paths.is_empty() {
        return Err(Failure::usage(none_there(paths)));
    }
    let given = together(given, own)?;
    let now = SystemClock.now();
    let activate = async || machines::activate(session.store(), given.clone(), now).await;
    let active = session
        .block_on(session.patience.take("storing the machines", activate))
        .map_err(machines_failure)?;
    let config = session.config.clone();
    if active.iter().next().is_none() && !config.sources.is_empty() {
        return Err(Failure::usage(
            "no machine is given, and none is active in the store: events would be kept and move nothing, \
             now or later. Name definitions as `machines.paths` in the configuration",
        ));
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
    };
    let front = Front::of(&config, behind, told)
        .map_err(|error| Failure::usage(format!("`http`: {error}")))?;
    let mut sources: Vec<Source> = session.block_on(file_sources(&config))?;
    let front = front.map(|(front, of_requests)| {
        sources.extend(of_requests);
        front
    });
    let plan = Plan {
        store: session.shared(),
        machines: active,
        options: config.node_options(),
        sources,
        drain_limit: Duration::from_secs(config.limits.drain_limit_seconds),
        upkeep: UpkeepPlan::of(&config),
        front,
    };
    let mut teller = watch::Teller::default();
    let mut observe = |snapshot: &NodeSnapshot| teller.tell(snapshot);
    let ended = ingest::run(plan, &session.runtime, &mut observe)?;
    session.close()?;
    match ended {
        Ended::Done => Ok(Exit::Done),
        // To stop is what a node is told to in the end.
        Ended::Interrupted(drained) if drained.drained => Ok(Exit::Done),
        Ended::Interrupted(drained) => Err(Failure::new(
            Exit::Unfinished,
            format!(
                "stopped with up to {} events unsettled; they are read again, or sent again by who had no \
                 answer",
                drained.unsettled_events
            ),
        )),
        Ended::Failed(failed) => Err(Failure::new(Exit::Unavailable, failed.to_string())),
    }
}

/// Everything in one file of this directory, requests from this machine alone.
fn dev_config(wanted: &Dev) -> Result<Config, Failure> {
    let mut config = Config::default();
    config.store.kind = StoreKind::Sqlite;
    config.store.sqlite.path = wanted.database.clone();
    // What was just sent is to be found at once.
    config.limits.upkeep_interval_seconds = 1;
    config.http.listen = Some(format!("127.0.0.1:{}", wanted.port));
    let source = crate::config::Source {
        name: Some(SourceName::new("http")?),
        kind: SourceKind::Http,
        stream: Some(StreamName::new("events")?),
        ..crate::config::Source::default()
    };
    config.sources = vec![source];
    Ok(config)
}

/// The given definitions, else one to begin with: written beside the database, to be changed.
fn dev_machines(wanted: &Dev) -> Result<Vec<PathBuf>, Failure> {
    if !wanted.machines.is_empty() {
        return Ok(wanted.machines.clone());
    }
    let directory = Path::new("machines");
    let file = directory.join("order.yaml");
    if !directory.exists() {
        let written = fs::create_dir(directory).and_then(|()| fs::write(&file, SAMPLE_MACHINE));
        written.map_err(|error| {
            Failure::usage(format!(
                "{} cannot be written: {error}; name your definitions with --machines",
                file.display()
            ))
        })?;
        crate::say!("wrote {}, a machine to begin with", file.display());
    }
    Ok(vec![directory.to_owned()])
}

/// A token that may do everything in the tenant `dev`; those of earlier runs are revoked.
async fn dev_token(register: &dyn AccessStore) -> Result<TokenSecret, Failure> {
    let now = SystemClock.now();
    let tenant = TenantId::new(DEV)?;
    register.create_tenant(&tenant, now).await?;
    let before = register
        .tokens(&TokensOf::Tenant(tenant.clone()), None, 100)
        .await?;
    for token in before.iter().filter(|token| token.is_valid(now)) {
        register.revoke_token(token.id, now).await?;
    }
    let scopes: Scopes = "publish:intent,publish:fact,read,operate,observe".parse()?;
    loop {
        let secret = draw_secret()
            .map_err(|error| Failure::new(Exit::Unavailable, format!("no randomness: {error}")))?;
        let token = Token {
            id: secret.id(),
            tenant: Some(tenant.clone()),
            scopes,
            label: TokenLabel::new(DEV)?,
            created_at: now,
            expires_at: None,
            revoked_at: None,
        };
        match register
            .create_token(NewToken::new(token, &secret)?)
            .await?
        {
            TokenCreation::Created => return Ok(secret),
            TokenCreation::IdTaken => {}
            TokenCreation::NoTenant | TokenCreation::TooMany(_) => {
                return Err(Failure::new(
                    Exit::Unavailable,
                    "the tenant `dev` of this database takes no token: delete it, or name another with \
                     --database",
                ));
            }
        }
    }
}

/// Where it is, and what to type: the one place where the token is shown.
fn tell(address: SocketAddr, token: &str, database: &str) {
    crate::say!(
        "\n  Tidegate is at http://{address}, everything in {database}\n\n  \
         TOKEN={token}\n\n  \
         curl http://{address}/v1/events -H \"Authorization: Bearer $TOKEN\" \\\n    \
         -H 'Content-Type: application/cloudevents+json' \\\n    \
         -d '{{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/shop\",\"type\":\"order.placed\",\
         \"subject\":\"o-1\",\"data\":{{\"total_cents\":1000}}}}'\n\n  \
         curl http://{address}/v1/entities/order/o-1 -H \"Authorization: Bearer $TOKEN\"\n\n  \
         Send the first one twice: it takes effect once. Ctrl-C stops.\n"
    );
}
