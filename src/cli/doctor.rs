//! `tidegate doctor`: looks at everything that a node needs before one is started, says of each thing
//! whether it is well, and where it is not, what to type. Changes nothing.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tidegate_engine::clock::Clock as _;
use tidegate_engine::finding::{Finding, Grade};
use tidegate_engine::machine::Processor;
use tidegate_engine::machine::upgrade::Upgrade;
use tokio::runtime::{Handle, Runtime};

use super::args::Global;
use super::exit::{Exit, Failure};
use super::ingest::together;
use super::output::Output;
use super::run::{NO_MACHINE, missing};
use super::session;
use crate::config::{Config, LogLevel, StoreKind};
use crate::http::tls;
use crate::machines;
use crate::runtime::SystemClock;
use crate::say::counted;
use crate::stores::{self, WhenAbsent};
use crate::wiring;

/// A certificate that ends sooner is worth a word: most are renewed a month before.
const EXPIRY_SECONDS_WARN: i64 = 21 * 24 * 3_600;

/// Room on the disk of the embedded store below which the next hours are uncertain.
const DISK_BYTES_WARN: u64 = 1 << 30;

/// And below which the next minutes are.
const DISK_BYTES_MIN: u64 = 64 << 20;

/// Runs `tidegate doctor`.
pub fn run(
    global: &Global,
    own: &[Arc<dyn Processor>],
    output: &mut Output,
) -> Result<Exit, Failure> {
    let config = session::config(global)?;
    // What would be logged is said here.
    session::logs(global, &config, LogLevel::Off)?;
    let runtime = session::runtime()?;
    let mut found = configuration(global, &config);
    found.extend(listener(&config));
    if config.store.kind == StoreKind::Sqlite {
        found.push(disk(&config.store.sqlite.path));
    }
    let of_store = runtime.block_on(stores::checkup(&config.store));
    let is_open = of_store.iter().all(|it| it.grade != Grade::Fail);
    found.extend(of_store);
    found.extend(runtime.block_on(topics(&config, runtime.handle())));
    found.extend(definitions(&config, own, is_open, &runtime));
    let rows: Vec<_> = found
        .iter()
        .map(|it| vec![json!(word(it.grade)), json!(it.about), json!(it.says)])
        .collect();
    output.rows(&["result", "about", "says"], &rows)?;
    let count = |grade| found.iter().filter(|it| it.grade == grade).count() as u64;
    let (fails, warnings) = (count(Grade::Fail), count(Grade::Warn));
    if fails > 0 {
        crate::say!("{} to mend before a node can run", counted(fails, "thing"));
        return Ok(Exit::Differs);
    }
    match missing(global, &config) {
        Some(_) => crate::say!("other commands can work with this; `run` cannot, as a row says"),
        None if warnings > 0 => {
            crate::say!("a node can run; {} to know of", counted(warnings, "thing"));
        }
        None => {}
    }
    Ok(Exit::Done)
}

fn word(grade: Grade) -> &'static str {
    match grade {
        Grade::Ok => "ok",
        Grade::Warn => "warn",
        Grade::Fail => "fail",
    }
}

fn configuration(global: &Global, config: &Config) -> Vec<Finding> {
    let about = "configuration";
    let mut found = Vec::new();
    found.push(match &global.config {
        Some(path) => Finding::ok(about, format!("{} can be used", path.display())),
        None => Finding::warn(
            about,
            "none is named, so these are the defaults: name yours with -c FILE",
        ),
    });
    found.extend(missing(global, config).map(|says| Finding::warn(about, says)));
    for option in config.unsafe_options() {
        found.push(Finding::warn(
            about,
            format!("`{option}` is in force, and gives a protection up"),
        ));
    }
    for path in config.sources.iter().flat_map(|source| &source.paths) {
        if path.as_os_str() != "-" && std::fs::File::open(path).is_err() {
            found.push(Finding::fail(
                about,
                format!(
                    "{} of `sources` cannot be read: is it there?",
                    path.display()
                ),
            ));
        }
    }
    found
}

/// What the brokers of each source say.
async fn topics(config: &Config, io: &Handle) -> Vec<Finding> {
    let about = "kafka";
    let mut found = Vec::new();
    for source in &config.sources {
        // How many there are is asked, and not what numbers they have.
        let view = wiring::source_view(source, &config.node.name, Vec::new(), io);
        let (Some(name), Some(view)) = (&source.name, view) else {
            continue;
        };
        let seen = match view {
            Ok(view) => view.partitions().await,
            Err(error) => Err(error),
        };
        found.push(match seen {
            Ok(seen) => {
                let partitions = counted(seen.len() as u64, "partition");
                Finding::ok(
                    about,
                    format!("`{name}` reads {partitions}; the login may see them"),
                )
            }
            Err(error) => Finding::fail(about, error.to_string()),
        });
    }
    found
}

fn listener(config: &Config) -> Option<Finding> {
    let about = "tls";
    let section = &config.http;
    section.listen.as_ref()?;
    let (Some(certificate), Some(key)) = (&section.tls_certificate, &section.tls_key) else {
        return Some(match section.unsafe_plaintext_listener {
            true => Finding::warn(
                about,
                "requests come without it: something in front has to do it",
            ),
            false => Finding::ok(about, "requests come from this machine alone, without it"),
        });
    };
    let files = tls::Files {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    Some(match tls::ends_at(&files) {
        Err(error) => Finding::fail(about, error),
        Ok(ends_at) => validity(ends_at - SystemClock.now().0 / 1_000_000),
    })
}

/// What to say of a certificate with so many seconds left.
fn validity(left_seconds: i64) -> Finding {
    let about = "tls";
    let days = left_seconds / (24 * 3_600);
    if left_seconds <= 0 {
        return Finding::fail(
            about,
            "the certificate has expired: renew it; a running node takes the new files within seconds",
        );
    }
    match left_seconds < EXPIRY_SECONDS_WARN {
        true => Finding::warn(
            about,
            format!("the certificate ends in {days} days: renew it"),
        ),
        false => Finding::ok(
            about,
            format!("the certificate fits its key and has {days} days left"),
        ),
    }
}

/// Room for the embedded database, which is made on the first start.
fn disk(database: &Path) -> Finding {
    let about = "disk";
    let mut place = database.parent().unwrap_or(Path::new(""));
    while !place.as_os_str().is_empty() && !place.exists() {
        place = place.parent().unwrap_or(Path::new(""));
    }
    let place = match place.as_os_str().is_empty() {
        true => Path::new("."),
        false => place,
    };
    let room = match rustix::fs::statvfs(place) {
        Ok(room) => room,
        Err(error) => return Finding::fail(about, format!("{}: {error}", place.display())),
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let says = format!("{} MiB are free at {}", free >> 20, place.display());
    if free < DISK_BYTES_MIN {
        return Finding::fail(
            about,
            format!("{says}: make room, or name another `store.sqlite.path`"),
        );
    }
    match free < DISK_BYTES_WARN {
        true => Finding::warn(
            about,
            format!("{says}: the log only grows until retention is set"),
        ),
        false => Finding::ok(about, says),
    }
}

/// The files against what the store has active.
fn definitions(
    config: &Config,
    own: &[Arc<dyn Processor>],
    is_open: bool,
    runtime: &Runtime,
) -> Vec<Finding> {
    let about = "machines";
    let given = machines::load(&config.machines.paths)
        .map_err(|error| error.to_string())
        .and_then(|given| together(given, own).map_err(|error| error.to_string()));
    let given = match given {
        Ok(given) => given,
        Err(error) => return vec![Finding::fail(about, error)],
    };
    // What else is active is not known before the store is there.
    let has_sources = !config.sources.is_empty();
    let is_there = config.store.kind == StoreKind::Postgres || config.store.sqlite.path.exists();
    if given.is_empty() && has_sources && !is_there {
        return vec![Finding::fail(about, NO_MACHINE)];
    }
    if !is_open || !is_there {
        let count = counted(given.len() as u64, "definition");
        return vec![Finding::ok(
            about,
            format!("{count} can be used; not compared with the store"),
        )];
    }
    match runtime.block_on(compared(config, &given)) {
        Ok(found) => found,
        Err(error) => vec![Finding::fail(about, error)],
    }
}

async fn compared(config: &Config, given: &[Arc<dyn Processor>]) -> Result<Vec<Finding>, String> {
    let about = "machines";
    let text = |error: tidegate_engine::store::StoreError| error.to_string();
    let opened = stores::open(&config.store, WhenAbsent::Refuse)
        .await
        .map_err(text)?;
    let compared = machines::compare(opened.store(), given).await;
    let active = opened.store().definitions().await;
    let closed = opened.close().await;
    let (compared, active) = (compared.map_err(text)?, active.map_err(text)?);
    closed.map_err(text)?;
    let mut found = Vec::new();
    for (machine, may) in given.iter().zip(compared) {
        let definition = machine.definition();
        let (name, version) = (&definition.machine, definition.version);
        found.push(match may {
            Ok(Upgrade::Unchanged) => {
                Finding::ok(about, format!("`{name}` version {version} is active"))
            }
            Ok(Upgrade::Activate) => Finding::warn(
                about,
                format!(
                    "`{name}` version {version} is not active yet; the next start activates it"
                ),
            ),
            Err(refused) => Finding::fail(about, refused.to_string()),
        });
    }
    for stored in active.iter().filter(|stored| stored.active) {
        let is_given = given
            .iter()
            .any(|machine| machine.definition().machine == stored.machine);
        if !is_given {
            found.push(Finding::ok(
                about,
                format!(
                    "`{}` version {} is active in the store, and in no file",
                    stored.machine, stored.version
                ),
            ));
        }
    }
    if found.is_empty() {
        found.push(match config.sources.is_empty() {
            true => Finding::warn(
                about,
                "none is given and none is active: name definitions as `machines.paths`",
            ),
            false => Finding::fail(about, NO_MACHINE),
        });
    }
    Ok(found)
}
