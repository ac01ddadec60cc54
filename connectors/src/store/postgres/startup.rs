//! What is checked before a node may use a database: the schema, the role's rights and the server's
//! settings. Each refusal names what was found and what to do.

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tidegate_engine::store::StoreError;

use super::error::{During, store_error};
use super::migrate::check_schema;
use super::options::{PostgresOptions, exposed};
use super::session::connect_once;

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
       current_setting('default_transaction_isolation') as isolation,
       current_setting('server_version_num')::int4 as version,
       current_setting('statement_timeout') as statement_timeout,
       current_setting('idle_in_transaction_session_timeout') as idle_timeout,
       pg_is_in_recovery() as standby";

/// The oldest server: `security_invoker` views came with it.
const SERVER_VERSION_MIN: i32 = 150_000;

/// Checks everything, and warns of what is allowed but weaker than promised. On a connection of its own:
/// a pool that cannot connect says only that it waited, and this one says why.
pub(super) async fn check(options: &PostgresOptions) -> Result<(), StoreError> {
    let failed = |e| store_error(e, During::Read);
    if let Some(warning) = exposed(&options.connect_options()?, "store.postgres.url") {
        tracing::warn!("{warning}");
    }
    let mut connection = connect_once(options)
        .await
        .map_err(|error| no_connection(error, options, "store.postgres.url"))?;
    // One transaction, so that a pooler hands out one of its connections for all of it.
    let mut transaction = connection.begin().await.map_err(failed)?;
    check_server(&mut transaction).await?;
    check_role(&mut transaction).await?;
    check_schema(&mut transaction).await?;
    transaction.commit().await.map_err(failed)?;
    // What it was opened for is done; a failure to say goodbye changes nothing.
    let _ = connection.close().await;
    Ok(())
}

/// Checks the schema and nothing about the login: for an administrator's commands, which a node's rules do
/// not hold for. `setting` is the configuration key of the address.
pub(super) async fn check_schema_alone(
    options: &PostgresOptions,
    setting: &str,
) -> Result<(), StoreError> {
    let failed = |e| store_error(e, During::Read);
    if let Some(warning) = exposed(&options.connect_options()?, setting) {
        tracing::warn!("{warning}");
    }
    let mut connection = connect_once(options)
        .await
        .map_err(|error| no_connection(error, options, setting))?;
    let mut transaction = connection.begin().await.map_err(failed)?;
    check_schema(&mut transaction).await?;
    transaction.commit().await.map_err(failed)?;
    let _ = connection.close().await;
    Ok(())
}

/// Says where no connection was had, and what to look at.
pub(super) fn no_connection(
    error: StoreError,
    options: &PostgresOptions,
    setting: &str,
) -> StoreError {
    match error {
        StoreError::Unavailable { detail } => StoreError::Unavailable {
            detail: format!(
                "no connection to {}: {detail}; is the server running, and is that the address that is \
                 meant (`{setting}`)?",
                options.address()
            ),
        },
        other => other,
    }
}

/// What the server says of itself.
struct Server {
    version: i32,
    standby: bool,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    /// Of this login's transactions, when they say nothing else: ours do not.
    isolation: String,
    statement_timeout: String,
    idle_timeout: String,
}

async fn check_server(connection: &mut PgConnection) -> Result<(), StoreError> {
    for warning in server_warnings(connection).await? {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// What of the server's settings weakens the promise; what breaks it is an error.
pub(super) async fn server_warnings(
    connection: &mut PgConnection,
) -> Result<Vec<String>, StoreError> {
    let failed = |e| store_error(e, During::Read);
    let row = sqlx::query(SETTINGS_SQL)
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(failed)?;
    let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
    let server = Server {
        version: row.try_get("version").map_err(failed)?,
        standby: row.try_get("standby").map_err(failed)?,
        fsync: text("fsync")?,
        full_page_writes: text("full_page_writes")?,
        synchronous_commit: text("synchronous_commit")?,
        isolation: text("isolation")?,
        statement_timeout: text("statement_timeout")?,
        idle_timeout: text("idle_timeout")?,
    };
    judge(&server)
}

/// Refuses what breaks the promise, and returns warnings of what weakens it.
fn judge(server: &Server) -> Result<Vec<String>, StoreError> {
    if server.version < SERVER_VERSION_MIN {
        return Err(StoreError::NotReady(format!(
            "expected Postgres 15 or later, found {}",
            server.version
        )));
    }
    for (name, value) in [
        ("fsync", &server.fsync),
        ("full_page_writes", &server.full_page_writes),
    ] {
        if value == "off" {
            return Err(StoreError::NotReady(format!(
                "the server runs with {name} = off, so a crash may lose or tear what was committed: \
                 set it to on"
            )));
        }
    }
    // A commit looks at what others committed while it waited for their locks; a snapshot taken before
    // would show the checkpoint and the keys as they were.
    if server.isolation != "read committed" {
        return Err(StoreError::NotReady(format!(
            "default_transaction_isolation is {} for this login: set it to read committed (`alter role \
             … set default_transaction_isolation = 'read committed'`)",
            server.isolation
        )));
    }
    if server.standby {
        return Err(StoreError::Unavailable {
            detail: "the server is a standby: connect to the primary".to_owned(),
        });
    }
    let mut warnings = Vec::new();
    let level = server.synchronous_commit.as_str();
    if !["on", "remote_apply"].contains(&level) {
        warnings.push(format!(
            "synchronous_commit is {level}: commits are acknowledged before they are as durable as \
             promised; set it to on"
        ));
    }
    for (name, value) in [
        ("statement_timeout", &server.statement_timeout),
        ("idle_in_transaction_session_timeout", &server.idle_timeout),
    ] {
        if value == "0" {
            warnings.push(format!(
                "{name} is not set for this login: set it as the migration does for the engine's role"
            ));
        }
    }
    Ok(warnings)
}

pub(super) async fn check_role(connection: &mut PgConnection) -> Result<(), StoreError> {
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

#[cfg(test)]
mod tests {
    use super::{Server, judge};
    use tidegate_engine::store::StoreError;

    fn durable() -> Server {
        Server {
            version: 150_018,
            standby: false,
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
            isolation: "read committed".to_owned(),
            statement_timeout: "30s".to_owned(),
            idle_timeout: "10s".to_owned(),
        }
    }

    #[test]
    fn r51_a_server_that_may_lose_commits_is_refused() {
        let changes: [fn(&mut Server); 5] = [
            |it| it.fsync = "off".to_owned(),
            |it| it.full_page_writes = "off".to_owned(),
            |it| it.version = 140_010,
            |it| it.isolation = "repeatable read".to_owned(),
            |it| it.isolation = "serializable".to_owned(),
        ];
        for change in changes {
            let mut server = durable();
            change(&mut server);
            assert!(matches!(judge(&server), Err(StoreError::NotReady(_))));
        }
        let standby = Server {
            standby: true,
            ..durable()
        };
        let answer = judge(&standby);
        assert!(matches!(answer, Err(StoreError::Unavailable { .. })));
    }

    #[test]
    fn what_weakens_the_promise_is_warned_of() {
        let warnings = |change: fn(&mut Server)| {
            let mut server = durable();
            change(&mut server);
            judge(&server).map(|warnings| warnings.len()).ok()
        };
        assert_eq!(warnings(|_| {}), Some(0));
        for level in ["off", "local", "remote_write"] {
            let server = Server {
                synchronous_commit: level.to_owned(),
                ..durable()
            };
            assert_eq!(judge(&server).map(|it| it.len()).ok(), Some(1), "{level}");
        }
        assert_eq!(
            warnings(|it| it.synchronous_commit = "remote_apply".to_owned()),
            Some(0)
        );
        assert_eq!(
            warnings(|it| it.statement_timeout = "0".to_owned()),
            Some(1)
        );
        assert_eq!(warnings(|it| it.idle_timeout = "0".to_owned()), Some(1));
    }
}
