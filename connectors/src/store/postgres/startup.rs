//! What is checked before a node may use a database: the schema, the role's rights and the server's
//! settings. Each refusal names what was found and what to do.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;
use tidegate_engine::store::StoreError;

use super::error::{During, store_error};
use super::migrate::check_schema;

const ROLE_SQL: &str = "\
select r.rolname::text as role, r.rolsuper, r.rolbypassrls,
       coalesce((select pg_has_role(current_user, c.relowner, 'member')
                   from pg_class c
                  where c.oid = to_regclass('tidegate.segments')), false) as owns,
       coalesce((select pg_has_role(current_user, p.proowner, 'member')
                   from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                  where n.nspname = 'tidegate' and p.proname = 'commit_batch'), false) as writes
  from pg_roles r
 where r.rolname = current_user";

/// Settings without which a commit is not durable, or a statement without end.
const SETTINGS_SQL: &str = "\
select current_setting('fsync') as fsync,
       current_setting('full_page_writes') as full_page_writes,
       current_setting('synchronous_commit') as synchronous_commit,
       current_setting('server_version_num')::int4 as version,
       current_setting('statement_timeout') as statement_timeout,
       current_setting('idle_in_transaction_session_timeout') as idle_timeout,
       pg_is_in_recovery() as standby";

/// The oldest server: `security_invoker` views came with it.
const SERVER_VERSION_MIN: i32 = 150_000;

/// Checks everything, and warns of what is allowed but weaker than promised.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), StoreError> {
    check_server(connection).await?;
    check_role(connection).await?;
    check_schema(connection).await
}

async fn check_server(connection: &mut PgConnection) -> Result<(), StoreError> {
    let failed = |e| store_error(e, During::Read);
    let row = sqlx::query(SETTINGS_SQL)
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
    let version: i32 = row.try_get("version").map_err(failed)?;
    if version < SERVER_VERSION_MIN {
        return Err(StoreError::NotReady(format!(
            "Postgres 15 or later is needed, this server says {version}"
        )));
    }
    for name in ["fsync", "full_page_writes"] {
        if text(name)? == "off" {
            return Err(StoreError::NotReady(format!(
                "the server runs with {name} = off, so a crash may lose or tear what was committed: \
                 set it to on"
            )));
        }
    }
    if row.try_get::<bool, _>("standby").map_err(failed)? {
        return Err(StoreError::Unavailable {
            detail: "the server is a standby: connect to the primary".to_owned(),
        });
    }
    let synchronous = text("synchronous_commit")?;
    if !["on", "remote_apply"].contains(&synchronous.as_str()) {
        tracing::warn!(
            synchronous_commit = synchronous,
            "commits are acknowledged before they are as durable as promised; set synchronous_commit \
             to on"
        );
    }
    for name in ["statement_timeout", "idle_timeout"] {
        if text(name)? == "0" {
            tracing::warn!(
                setting = name,
                "no limit is set for this login: set it as `alter role … set` does for the engine's \
                 role"
            );
        }
    }
    Ok(())
}

async fn check_role(connection: &mut PgConnection) -> Result<(), StoreError> {
    let failed = |e| store_error(e, During::Read);
    let row = sqlx::query(ROLE_SQL)
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    let role: String = row.try_get("role").map_err(failed)?;
    for (found, what) in [
        ("rolsuper", "is a superuser"),
        ("rolbypassrls", "bypasses row-level security"),
        ("owns", "owns the tables"),
        ("writes", "owns the functions"),
    ] {
        if row.try_get::<bool, _>(found).map_err(failed)? {
            return Err(StoreError::NotReady(format!(
                "the login `{role}` {what}: connect as the engine's role, which only executes \
                 functions and reads"
            )));
        }
    }
    Ok(())
}
