//! `tidegate migrate`: brings a Postgres database to what this binary needs, or prints how.

use serde_json::json;
use tidegate_connectors::store::postgres::{LeastKept, RoleMode, RolePrefix, migrate, print_sql};
use tidegate_engine::store::StoreError;

use super::args::{Migrate, Roles};
use super::exit::{Exit, Failure};
use super::output::Output;
use crate::config::{Config, PostgresSection, StoreKind};
use crate::say::counted;

/// Runs `tidegate migrate`.
pub async fn run(config: &Config, wanted: &Migrate, output: &mut Output) -> Result<Exit, Failure> {
    let section = &config.store.postgres;
    let mode = match wanted.roles {
        Roles::Create => RoleMode::Create,
        Roles::Existing => RoleMode::Existing,
    };
    let prefix = RolePrefix::new(&section.role_prefix)?;
    if wanted.print_sql {
        // Printing needs no database, so none has to be configured.
        let least = least_kept(config).sql(&prefix);
        output.text(&format!("{}{least}", print_sql(mode, &prefix)))?;
        return Ok(Exit::Done);
    }
    if config.store.kind != StoreKind::Postgres {
        return Err(Failure::usage(
            "only Postgres is migrated by hand; the embedded store sees to itself. Name a configuration \
             with `store.kind: postgres` by -c",
        ));
    }
    let applied = migrate(url(section)?, mode, &prefix)
        .await
        .map_err(|error| refused(error, mode))?;
    least_kept(config)
        .write(url(section)?, &prefix)
        .await
        .map_err(|error| refused(error, mode))?;
    let rows: Vec<_> = applied.iter().map(|name| vec![json!(name)]).collect();
    output.rows(&["applied"], &rows)?;
    match applied.len() {
        0 => crate::say!("the database is up to date"),
        count => {
            crate::say!("{} applied", counted(count as u64, "migration"));
            if mode == RoleMode::Create {
                crate::say!(
                    "nodes connect as `{}`; a role that was just made has no password: give it one \
                     (`alter role … password …`), unless the server lets it in another way",
                    prefix.role("engine")
                );
            }
        }
    }
    Ok(Exit::Done)
}

/// What the configuration keeps: no node that asks upkeep for less is obeyed.
fn least_kept(config: &Config) -> LeastKept {
    const HOUR_MICROS: u64 = 3_600_000_000;
    let micros = |hours: u64| i64::try_from(hours * HOUR_MICROS).unwrap_or(i64::MAX);
    LeastKept {
        retention_micros: config.retention.log_days.map(|days| micros(days * 24)),
        dedupe_window_micros: micros(config.dedupe.window_hours),
    }
}

/// "Insufficient privilege".
const MAY_NOT: &str = "42501";

fn refused(error: StoreError, mode: RoleMode) -> Failure {
    match error {
        StoreError::Unexpected { code, detail } if code == MAY_NOT => {
            let rights = match mode {
                RoleMode::Create => "CREATE on the database and CREATEROLE (or --roles existing)",
                RoleMode::Existing => "CREATE on the database and membership in the existing roles",
            };
            Failure::new(
                Exit::Unavailable,
                format!(
                    "this login may not migrate: {detail}; it needs {rights}. Name another one as \
                     `store.postgres.migrate_url`"
                ),
            )
        }
        other => other.into(),
    }
}

fn url(section: &PostgresSection) -> Result<&str, Failure> {
    let url = section.migrate_url.as_ref().or(section.url.as_ref());
    url.map(crate::config::Secret::expose)
        .ok_or_else(|| Failure::usage("`store.postgres.migrate_url` is not configured"))
}
