//! `tidegate dev`: the node on this machine alone, with a tenant, a token and a machine to try it with. A
//! definition that is changed takes effect while it runs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tidegate_engine::access::{
    AccessStore, NewToken, Scopes, Token, TokenCreation, TokenLabel, TokenSecret, TokensOf,
};
use tidegate_engine::clock::Clock as _;
use tidegate_engine::machine::Processor;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::tenant::TenantId;

use super::args::{Dev, Global};
use super::exit::{Exit, Failure};
use super::ingest::together;
use super::reload::Reload;
use super::run::{Round, definitions, exit, node};
use super::session::Session;
use crate::access::draw_secret;
use crate::config::{Config, SourceKind, StoreKind};
use crate::ingest::Ended;
use crate::runtime::SystemClock;

/// The machine that `dev` begins with.
const SAMPLE_MACHINE: &str = include_str!("../../deploy/examples/order.yaml");

/// The tenant and the token of `dev`.
const DEV: &str = "dev";

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
    let ended = rounds(&session, own, &machines, told)?;
    session.close()?;
    exit(ended)
}

/// One node after another: each applies what the files said when it began.
fn rounds(
    session: &Session,
    own: &[Arc<dyn Processor>],
    paths: &[PathBuf],
    told: Box<dyn FnOnce(SocketAddr)>,
) -> Result<Ended, Failure> {
    let mut stop_asked = None;
    let mut config = session.config.clone();
    let mut loaded = definitions(paths)?;
    let mut told = Some(told);
    loop {
        let reload = Reload::watch(
            paths.to_vec(),
            own.to_vec(),
            loaded.clone(),
            session.shared(),
            session.runtime.handle(),
        );
        let address = Arc::new(OnceLock::new());
        let (at, tell) = (address.clone(), told.take());
        let round = Round {
            config: config.clone(),
            given: together(loaded.clone(), own)?,
            told: Box::new(move |address| {
                let _ = at.set(address);
                match tell {
                    Some(tell) => tell(address),
                    None => crate::say!("  It goes on at http://{address}, with the same token.\n"),
                }
            }),
            replaced: Some(reload.changed()),
            alone: true,
        };
        let ended = node(session, round, &mut stop_asked)?;
        let next = reload.end();
        match (ended, next) {
            (Ended::Replaced(_), Some(next)) => loaded = next,
            (ended, _) => return Ok(ended),
        }
        // A port that the system chose once is kept.
        if let Some(address) = address.get() {
            config.http.listen = Some(address.to_string());
        }
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
