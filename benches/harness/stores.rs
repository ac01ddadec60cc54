//! Fresh stores for one run of ours, opened as a node opens them: durable, as the engine's own role.

use std::path::Path;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tempfile::TempDir;
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_connectors::store::postgres::{
    PostgresOptions, PostgresStore, RoleMode, RolePrefix, migrate,
};
use tidegate_connectors::store::sqlite::{SqliteOptions, SqliteStore};
use tidegate_engine::store::StateStore;

use super::Result;
use super::database::Server;

/// Where ours keeps its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreKind {
    /// Nowhere: what our side costs alone.
    Memory,
    /// One file.
    Sqlite,
    /// The server under test.
    Postgres,
}

/// An open store and what has to be tidied up after it.
pub struct OpenStore {
    /// The store.
    pub store: Arc<dyn StateStore>,
    /// Deleted when dropped.
    _directory: Option<TempDir>,
}

/// Prefix of the roles of a run. Roles are the cluster's: another would be left behind by each run.
const ROLES: &str = "tidegate_bench";

/// Any will do: the server listens on this machine alone and is removed after the run.
const PASSWORD: &str = "bench";

impl StoreKind {
    /// Opens a fresh store. Call on the runtime that does its work.
    pub async fn open(self, server: &Server) -> Result<OpenStore> {
        let mut directory = None;
        let store: Arc<dyn StateStore> = match self {
            StoreKind::Memory => Arc::new(MemoryStore::new()),
            StoreKind::Sqlite => {
                // Beside the build, on a disk: where temporary files live in memory, waiting for
                // them to be durable costs nothing, and a rate of that would lie.
                let made = TempDir::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
                let store =
                    SqliteStore::open(SqliteOptions::new(made.path().join("store"))).await?;
                directory = Some(made);
                Arc::new(store)
            }
            StoreKind::Postgres => Arc::new(postgres(server).await?),
        };
        Ok(OpenStore {
            store,
            _directory: directory,
        })
    }
}

async fn postgres(server: &Server) -> Result<PostgresStore> {
    let (engine, _) = migrated(server).await?;
    Ok(PostgresStore::connect(PostgresOptions::new(engine)).await?)
}

/// Makes the database under test anew, with our schema in it. Returns the addresses of the engine's login
/// and of an administrator.
pub async fn migrated(server: &Server) -> Result<(String, String)> {
    server.fresh_database().await?;
    let prefix = RolePrefix::new(ROLES)?;
    let login = prefix.role("engine");
    let admin_url = server.options().to_url_lossy();
    migrate(admin_url.as_str(), RoleMode::Create, &prefix).await?;
    let mut admin = server.options().connect().await?;
    let let_in = format!("alter role {login} password '{PASSWORD}'");
    sqlx::query(AssertSqlSafe(let_in))
        .execute(&mut admin)
        .await?;
    admin.close().await?;
    let engine = server.options().username(&login).password(PASSWORD);
    Ok((engine.to_url_lossy().into(), admin_url.into()))
}
