//! Opens the configured store. The only module of the node that names concrete stores, and it hands out
//! none: everything else knows the `StateStore` seam.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_connectors::store::postgres::{
    Pooler, PostgresAccess, PostgresOptions, PostgresStore, checkup as checkup_of_postgres,
};
use tidegate_connectors::store::sqlite::{SqliteOptions, SqliteStore};
use tidegate_engine::access::{AccessStore, Leases};
use tidegate_engine::clock::Clock as _;
use tidegate_engine::finding::Finding;
use tidegate_engine::store::{StateStore, StoreError};

use crate::config::{PoolerKind, PostgresSection, SqliteSection, Store, StoreKind};
use crate::runtime::SystemClock;

/// An open store.
pub struct Opened(Concrete);

enum Concrete {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
}

/// Whether a command may begin a new embedded database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenAbsent {
    /// It may.
    Create,
    /// There is nothing to look at.
    Refuse,
}

/// Opens the store that the configuration names.
pub async fn open(config: &Store, when_absent: WhenAbsent) -> Result<Opened, StoreError> {
    match config.kind {
        StoreKind::Sqlite => {
            let store = open_sqlite(&config.sqlite, when_absent).await?;
            Ok(Opened(Concrete::Sqlite(store)))
        }
        StoreKind::Postgres => {
            let url = config.postgres.url.as_ref().ok_or_else(|| {
                StoreError::NotReady("`store.postgres.url` is not configured".to_owned())
            })?;
            let options = postgres_options(&config.postgres, url.expose());
            let store = PostgresStore::connect(options).await?;
            Ok(Opened(Concrete::Postgres(Arc::new(store))))
        }
    }
}

async fn open_sqlite(
    section: &SqliteSection,
    when_absent: WhenAbsent,
) -> Result<Arc<SqliteStore>, StoreError> {
    let path = &section.path;
    if when_absent == WhenAbsent::Refuse && !path.exists() {
        return Err(StoreError::NotReady(format!(
            "there is no database at {}; `tidegate ingest` or `tidegate tenants create` begins one, -c \
             names another",
            path.display()
        )));
    }
    create_directory(path)?;
    let store = SqliteStore::open(sqlite_options(section)).await?;
    Ok(Arc::new(store))
}

/// Looks at the store that the configuration names, for people. Changes nothing.
pub async fn checkup(config: &Store) -> Vec<Finding> {
    match config.kind {
        StoreKind::Sqlite => sqlite_checkup(&config.sqlite).await,
        StoreKind::Postgres => match &config.postgres.url {
            // The configuration was checked: it is there.
            None => vec![Finding::fail(
                "connection",
                "`store.postgres.url` is not configured",
            )],
            Some(url) => {
                let options = postgres_options(&config.postgres, url.expose());
                checkup_of_postgres(&options, &|| SystemClock.now()).await
            }
        },
    }
}

async fn sqlite_checkup(section: &SqliteSection) -> Vec<Finding> {
    let path = section.path.display();
    if !section.path.exists() {
        return vec![Finding::ok(
            "database",
            format!("{path} is not there yet; the first start makes it"),
        )];
    }
    let opened = SqliteStore::open(sqlite_options(section)).await;
    let asked = match &opened {
        Ok(store) => store.settings().await,
        Err(error) => return vec![Finding::fail("database", error.to_string())],
    };
    let found = match asked {
        Ok(settings) => {
            let settings: Vec<String> = settings
                .iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            Finding::ok("database", format!("{path}: {}", settings.join(", ")))
        }
        Err(error) => Finding::fail("database", error.to_string()),
    };
    let closed = match opened {
        Ok(store) => store.close().await,
        Err(error) => Err(error),
    };
    let closed = closed.err();
    let closed = closed.map(|error| Finding::fail("database", error.to_string()));
    std::iter::once(found).chain(closed).collect()
}

/// The register of tenants and tokens, open for an administrator.
pub struct Register(ConcreteRegister);

enum ConcreteRegister {
    Sqlite(Arc<SqliteStore>),
    Postgres(PostgresAccess),
}

/// Opens the register as an administrator: in Postgres with `store.postgres.migrate_url`, or `url` where
/// that is not configured. A node's own login may look, and is told what it may not.
pub async fn open_register(
    config: &Store,
    when_absent: WhenAbsent,
) -> Result<Register, StoreError> {
    match config.kind {
        StoreKind::Sqlite => {
            let store = open_sqlite(&config.sqlite, when_absent).await?;
            Ok(Register(ConcreteRegister::Sqlite(store)))
        }
        StoreKind::Postgres => {
            let section = &config.postgres;
            let (url, setting) = match (&section.migrate_url, &section.url) {
                (Some(url), _) => (url, "store.postgres.migrate_url"),
                (None, Some(url)) => (url, "store.postgres.url"),
                (None, None) => {
                    return Err(StoreError::NotReady(
                        "`store.postgres.migrate_url` is not configured".to_owned(),
                    ));
                }
            };
            let options = postgres_options(section, url.expose());
            let register = PostgresAccess::connect(&options, setting).await?;
            Ok(Register(ConcreteRegister::Postgres(register)))
        }
    }
}

impl Register {
    /// The register behind its seam.
    pub fn register(&self) -> &dyn AccessStore {
        match &self.0 {
            ConcreteRegister::Sqlite(store) => store.as_ref(),
            ConcreteRegister::Postgres(register) => register,
        }
    }

    /// Closes it; calls in flight end first.
    pub async fn close(self) -> Result<(), StoreError> {
        match &self.0 {
            ConcreteRegister::Sqlite(store) => store.close().await,
            ConcreteRegister::Postgres(register) => {
                register.close().await;
                Ok(())
            }
        }
    }
}

fn create_directory(path: &Path) -> Result<(), StoreError> {
    let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        StoreError::NotReady(format!(
            "the directory {} cannot be created: {error}",
            directory.display()
        ))
    })
}

/// The section as the embedded store takes it.
fn sqlite_options(section: &SqliteSection) -> SqliteOptions {
    SqliteOptions {
        path: section.path.clone(),
        readers_max: section.readers_max,
        cache_bytes: section.cache_bytes,
        dedupe_filter_bytes_max: section.dedupe_filter_bytes_max,
        index_events: section.index_events,
        unsafe_synchronous_normal: section.unsafe_synchronous_normal,
    }
}

/// The section as the Postgres store takes it.
fn postgres_options(section: &PostgresSection, url: &str) -> PostgresOptions {
    PostgresOptions {
        connections_max: section.connections_max,
        acquire_timeout: Duration::from_millis(section.acquire_timeout_ms),
        answer_timeout: Duration::from_millis(section.answer_timeout_ms),
        pooler: match section.pooler {
            PoolerKind::None => Pooler::None,
            PoolerKind::Transaction => Pooler::Transaction,
        },
        dedupe_filter_bytes_max: section.dedupe_filter_bytes_max,
        index_events: section.index_events,
        ..PostgresOptions::new(url)
    }
}

impl Opened {
    /// The store behind its seam.
    pub fn shared(&self) -> Arc<dyn StateStore> {
        match &self.0 {
            Concrete::Sqlite(store) => store.clone(),
            Concrete::Postgres(store) => store.clone(),
        }
    }

    /// The store behind its seam, borrowed.
    pub fn store(&self) -> &dyn StateStore {
        match &self.0 {
            Concrete::Sqlite(store) => store.as_ref(),
            Concrete::Postgres(store) => store.as_ref(),
        }
    }

    /// The register of tenants and tokens beside it, with the node's own login: for looking up.
    pub fn access(&self) -> Arc<dyn AccessStore> {
        match &self.0 {
            Concrete::Sqlite(store) => store.clone(),
            Concrete::Postgres(store) => Arc::new(store.access()),
        }
    }

    /// Leases of source partitions beside it.
    pub fn leases(&self) -> Arc<dyn Leases> {
        match &self.0 {
            Concrete::Sqlite(store) => store.clone(),
            Concrete::Postgres(store) => Arc::new(store.access()),
        }
    }

    /// What the store is called in the configuration.
    pub fn kind(&self) -> StoreKind {
        match &self.0 {
            Concrete::Sqlite(_) => StoreKind::Sqlite,
            Concrete::Postgres(_) => StoreKind::Postgres,
        }
    }

    /// The settings that decide what a commit costs and survives, as the store reports them.
    pub async fn settings(&self) -> Result<Vec<(&'static str, String)>, StoreError> {
        match &self.0 {
            Concrete::Sqlite(store) => store.settings().await,
            Concrete::Postgres(store) => store.settings().await,
        }
    }

    /// Closes it; calls in flight end first.
    pub async fn close(self) -> Result<(), StoreError> {
        match &self.0 {
            Concrete::Sqlite(store) => store.close().await,
            Concrete::Postgres(store) => {
                store.close().await;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{postgres_options, sqlite_options};
    use crate::config::{PostgresSection, SqliteSection};
    use tidegate_connectors::store::postgres::PostgresOptions;
    use tidegate_connectors::store::sqlite::SqliteOptions;

    #[test]
    fn r51_the_defaults_are_those_of_the_stores() {
        let section = PostgresSection::default();
        let (ours, theirs) = (postgres_options(&section, "u"), PostgresOptions::new("u"));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        let section = SqliteSection::default();
        let (ours, theirs) = (sqlite_options(&section), SqliteOptions::new(&section.path));
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }
}
