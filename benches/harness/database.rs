//! The Postgres server under test: durable settings or no measurement, a fresh database for every run,
//! and a checkpoint behind us, so that no run pays for the one before.

use std::str::FromStr as _;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};

use super::Result;
use super::cpu::{Servers, postmaster_of};

/// The database that is dropped and made anew for every run.
const NAME: &str = "tidegate_bench";

/// Settings without which a rate is a rate of losing data.
const DURABLE: [(&str, &str); 3] = [
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
];

/// A server that may be measured.
pub struct Server {
    options: PgConnectOptions,
    /// Its first process, and the broker's where one takes part.
    pub processes: Servers,
    /// Version and settings, for the report.
    pub description: String,
}

impl Server {
    /// Connects as a superuser and checks that the server is durable.
    pub async fn connect(url: &str) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)?.disable_statement_logging();
        let mut connection = options.connect().await?;
        for (name, wanted) in DURABLE {
            let found = setting(&mut connection, name).await?;
            if found != wanted {
                return Err(
                    format!("the server runs with {name} = {found}: set it to {wanted}").into(),
                );
            }
        }
        let backend: i32 = sqlx::query_scalar("select pg_backend_pid()")
            .fetch_one(&mut connection)
            .await?;
        let postmaster = u32::try_from(backend).ok().and_then(postmaster_of);
        let mut description = format!(
            "Postgres {}",
            setting(&mut connection, "server_version").await?
        );
        for name in [
            "shared_buffers",
            "max_wal_size",
            "default_toast_compression",
        ] {
            description.push_str(&format!(
                ", {name} {}",
                setting(&mut connection, name).await?
            ));
        }
        connection.close().await?;
        Ok(Self {
            options,
            processes: Servers {
                postmaster,
                broker: None,
            },
            description,
        })
    }

    /// How to reach the database under test as a superuser.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone().database(NAME)
    }

    /// Drops the database under test and makes it anew, empty.
    pub async fn fresh_database(&self) -> Result<()> {
        let mut connection = self.options.connect().await?;
        for statement in [
            "drop database if exists tidegate_bench with (force)",
            "create database tidegate_bench",
        ] {
            sqlx::query(statement).execute(&mut connection).await?;
        }
        connection.close().await?;
        Ok(())
    }

    /// Removes the database under test.
    pub async fn clean_up(&self) -> Result<()> {
        let mut connection = self.options.connect().await?;
        sqlx::query("drop database if exists tidegate_bench with (force)")
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        Ok(())
    }

    /// Writes out what is dirty, so that the interval that follows pays for itself alone.
    pub async fn checkpoint(&self) -> Result<()> {
        let mut connection = self.options().connect().await?;
        sqlx::query("checkpoint").execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// A pool of `size` connections to the database under test, all of them open.
    pub async fn pool(&self, size: usize) -> Result<PgPool> {
        let size = u32::try_from(size)?;
        let pool = PgPoolOptions::new()
            .min_connections(size)
            .max_connections(size)
            // A ping before each use would be one more round trip a transaction.
            .test_before_acquire(false)
            .connect_with(self.options())
            .await?;
        Ok(pool)
    }
}

async fn setting(connection: &mut PgConnection, name: &str) -> Result<String> {
    Ok(sqlx::query_scalar("select current_setting($1)")
        .bind(name)
        .fetch_one(connection)
        .await?)
}
