//! The schema: numbered migrations, embedded in the binary. Owns their order, their checksums and the
//! check that a running node makes; a running node never migrates.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::store::StoreError;

use super::error::{During, store_error};
use super::options::{connect_options, exposed};

/// Whether roles are ours to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RoleMode {
    /// Make the roles that are missing; the administrator may create roles.
    #[default]
    Create,
    /// Somebody made them before, with what `roles.sql` says; the administrator is a member of owner
    /// and writer.
    Existing,
}

/// What the roles' names begin with. Roles belong to the whole cluster, so two databases whose
/// engines must not reach each other need two prefixes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RolePrefix(String);

/// Longest prefix: a name of Postgres has 63 bytes, our longest suffix 7.
const ROLE_PREFIX_BYTES_MAX: usize = 56;

impl RolePrefix {
    /// Lower-case letters, digits and `_`, beginning with a letter.
    pub fn new(text: &str) -> Result<Self, StoreError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let fits = text.len() <= ROLE_PREFIX_BYTES_MAX
            && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            && text.bytes().all(plain);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(StoreError::NotReady(format!(
                "role prefix: expected 1 to {ROLE_PREFIX_BYTES_MAX} of a-z, 0-9 and `_`, beginning \
                 with a letter"
            )))
        }
    }

    /// The name of one role: `owner`, `writer`, `engine`, `reader` or `admin`.
    pub fn role(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.0)
    }

    /// A migration's text with these roles instead of the default ones.
    fn apply(&self, sql: &str) -> String {
        ROLES.iter().fold(sql.to_owned(), |sql, suffix| {
            sql.replace(&format!("tidegate_{suffix}"), &self.role(suffix))
        })
    }
}

impl Default for RolePrefix {
    fn default() -> Self {
        Self("tidegate".to_owned())
    }
}

const ROLES: [&str; 5] = ["owner", "writer", "engine", "reader", "admin"];

struct Migration {
    name: &'static str,
    sql: &'static str,
    /// A binary that knows this many migrations can still run on the schema after this one. What only
    /// adds leaves it at the release before, so that nodes are replaced one after the other.
    runs_from: i32,
}

macro_rules! migration {
    ($name:literal, runs_from $runs_from:literal) => {
        Migration {
            name: $name,
            sql: include_str!(concat!("../../../migrations/postgres/", $name, ".sql")),
            runs_from: $runs_from,
        }
    };
}

const ROLES_SQL: &str = include_str!("../../../migrations/postgres/roles.sql");

/// In order; a number never changes its text once it was released.
const MIGRATIONS: [Migration; 9] = [
    migration!("0001_tables", runs_from 7),
    migration!("0002_protection", runs_from 7),
    migration!("0003_commit", runs_from 7),
    migration!("0004_ownership", runs_from 7),
    migration!("0005_upkeep", runs_from 7),
    migration!("0006_definitions", runs_from 7),
    migration!("0007_access", runs_from 7),
    migration!("0008_created_tenants", runs_from 7),
    migration!("0009_source_topics", runs_from 7),
];

/// The least that upkeep keeps, whatever a node asks for: what only the owner of the schema can change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeastKept {
    /// Microseconds of the log; `None` when it is never dropped.
    pub retention_micros: Option<i64>,
    /// Microseconds of the dedupe window.
    pub dedupe_window_micros: i64,
}

impl LeastKept {
    /// The statement that writes it, for people who migrate by hand.
    pub fn sql(&self, prefix: &RolePrefix) -> String {
        let retention = self
            .retention_micros
            .map_or("null".to_owned(), |micros| micros.to_string());
        format!(
            "\nbegin;\nset local role {};\nupdate tidegate.settings set retention_min_micros = {retention}, \
             dedupe_window_min_micros = {};\ncommit;\n",
            prefix.role("owner"),
            self.dedupe_window_micros
        )
    }

    /// Writes it, as an administrator who migrates.
    pub async fn write(&self, admin_url: &str, prefix: &RolePrefix) -> Result<(), StoreError> {
        let failed = |e| store_error(e, During::Read);
        let options = connect_options(admin_url)?.application_name("tidegate migrate");
        let mut connection = PgConnection::connect_with(&options).await.map_err(failed)?;
        run(&mut connection, &self.sql(prefix)).await?;
        connection.close().await.map_err(failed)
    }
}

/// Its own table, made before the first migration.
const REGISTER_SQL: &str = "\
create table if not exists tidegate.migrations (
    number int4 primary key,
    name text not null,
    checksum text not null,
    runs_from int4 not null,
    applied_at timestamptz not null default now(),
    applied_by name not null default session_user
)";

/// Two migrators at once would both see the first migration missing.
const LOCK_SQL: &str = "select pg_advisory_lock(7482001, 0)";

fn numbered() -> impl Iterator<Item = (i32, &'static Migration)> {
    (1..).zip(MIGRATIONS.iter())
}

fn checksum(migration: &Migration) -> String {
    hash_bytes(migration.sql.as_bytes()).to_string()
}

/// The SQL that [`migrate`] would run on an empty database, for people who run it themselves.
pub fn print_sql(mode: RoleMode, prefix: &RolePrefix) -> String {
    let mut out = String::new();
    if mode == RoleMode::Create {
        out.push_str(&prefix.apply(ROLES_SQL));
    }
    out.push_str(&prefix.apply("\ncreate schema tidegate authorization tidegate_owner;\n"));
    for (number, migration) in numbered() {
        out.push_str("\nbegin;\n");
        out.push_str(&prefix.apply("set local role tidegate_owner;\n"));
        if number == 1 {
            out.push_str(REGISTER_SQL);
            out.push_str(";\n");
        }
        out.push_str(&prefix.apply(migration.sql));
        out.push_str(&format!(
            "insert into tidegate.migrations (number, name, checksum, runs_from)\nvalues ({number}, '{}', '{}', {});\n\
             commit;\n",
            migration.name,
            checksum(migration),
            migration.runs_from
        ));
    }
    out
}

/// Brings the schema to what this binary needs, as an administrator who may create in the database.
/// Returns the names of what was applied; nothing when the schema was there.
pub async fn migrate(
    admin_url: &str,
    mode: RoleMode,
    prefix: &RolePrefix,
) -> Result<Vec<&'static str>, StoreError> {
    let failed = |e| store_error(e, During::Read);
    let options = connect_options(admin_url)?.application_name("tidegate migrate");
    if let Some(warning) = exposed(&options, "store.postgres.migrate_url") {
        tracing::warn!("{warning}");
    }
    let mut connection = PgConnection::connect_with(&options).await.map_err(failed)?;
    connection.execute(LOCK_SQL).await.map_err(failed)?;
    if mode == RoleMode::Create {
        run(&mut connection, &prefix.apply(ROLES_SQL)).await?;
    }
    // Asked first: `if not exists` wants the right to create even when there is nothing to do.
    let there = connection
        .fetch_optional("select from pg_namespace where nspname = 'tidegate'")
        .await
        .map_err(failed)?;
    if there.is_none() {
        run(
            &mut connection,
            &prefix.apply("create schema tidegate authorization tidegate_owner"),
        )
        .await?;
    }
    run(
        &mut connection,
        &prefix.apply(&format!(
            "begin; set local role tidegate_owner; {REGISTER_SQL}; commit"
        )),
    )
    .await?;

    let known = known_migrations(&mut connection).await?;
    let mut applied = Vec::new();
    for (number, migration) in numbered() {
        match known.iter().find(|known| known.number == number) {
            Some(known) if known.checksum == checksum(migration) => continue,
            Some(_) => return Err(other_text(migration.name)),
            None => {}
        }
        // One transaction a migration; nothing of it stays when a statement fails.
        let text = format!(
            "begin; set local role {}; {}; insert into tidegate.migrations (number, name, checksum, \
             runs_from) values ({number}, '{}', '{}', {}); commit",
            prefix.role("owner"),
            prefix.apply(migration.sql),
            migration.name,
            checksum(migration),
            migration.runs_from
        );
        run(&mut connection, &text).await?;
        applied.push(migration.name);
    }
    connection.close().await.map_err(failed)?;
    Ok(applied)
}

/// Checks that the schema is this binary's or a later one that says that it still serves it, and says
/// what to type when it is not.
pub(super) async fn check_schema(connection: &mut PgConnection) -> Result<(), StoreError> {
    let known = known_migrations(connection).await?;
    for (number, migration) in numbered() {
        match known.iter().find(|known| known.number == number) {
            Some(known) if known.checksum == checksum(migration) => {}
            Some(_) => return Err(other_text(migration.name)),
            None => {
                return Err(StoreError::NotReady(format!(
                    "the schema lacks migration {}: run `tidegate migrate`",
                    migration.name
                )));
            }
        }
    }
    let own = MIGRATIONS.len() as i32;
    let newer = || known.iter().filter(|known| known.number > own);
    if let Some(too_new) = newer().find(|known| known.runs_from > own) {
        return Err(StoreError::NotReady(format!(
            "the schema has migration {} ({}), for binaries that know {} migrations at least; this one knows \
             {own}: run a newer binary",
            too_new.number, too_new.name, too_new.runs_from
        )));
    }
    if let Some(last) = newer().next_back() {
        tracing::info!(
            migration = last.name,
            "the schema is newer than this binary and still serves it: replace the binary when you can"
        );
    }
    Ok(())
}

/// One migration that the database says it has.
struct Known {
    number: i32,
    name: String,
    checksum: String,
    runs_from: i32,
}

async fn known_migrations(connection: &mut PgConnection) -> Result<Vec<Known>, StoreError> {
    let failed = |e| store_error(e, During::Read);
    let sql = "select number, name, checksum, runs_from from tidegate.migrations order by number";
    let rows = sqlx::query(sql)
        .persistent(false)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
    rows.iter()
        .map(|row| {
            Ok(Known {
                number: row.try_get(0).map_err(failed)?,
                name: row.try_get(1).map_err(failed)?,
                checksum: row.try_get(2).map_err(failed)?,
                runs_from: row.try_get(3).map_err(failed)?,
            })
        })
        .collect()
}

/// Several statements at once. They are ours, with the five roles' validated names put in.
async fn run(connection: &mut PgConnection, sql: &str) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(|error| match &error {
            sqlx::Error::Database(database) => StoreError::Unexpected {
                code: database.code().unwrap_or_default().into_owned(),
                // Migrations hold no values, so the whole message may be shown.
                detail: format!("migration: {}", database.message()),
            },
            _ => store_error(error, During::Read),
        })
}

fn other_text(name: &str) -> StoreError {
    StoreError::NotReady(format!(
        "migration {name} was applied with another text: this database belongs to another build"
    ))
}
