//! The one connection that writes. Owns its transactions from BEGIN to their end: each runs in a task of
//! its own, so that a caller who goes away leaves nothing half done, and after anything but a clean end
//! the connection is thrown away and opened again.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tidegate_engine::store::StoreError;
use tokio::sync::Mutex;

use super::errors::{commit_error, store_error};
use super::options::ProcessLock;

/// How a transaction ends.
pub(super) enum End<T> {
    /// COMMIT, and this is the answer once it is durable.
    Commit(T),
    /// ROLLBACK, and this is the answer.
    RollBack(T),
}

/// The one that writes.
#[derive(Clone)]
pub(super) struct Writer(Arc<Shared>);

struct Shared {
    options: SqliteConnectOptions,
    /// Taken out while a transaction runs, and put back only after a clean end.
    connection: Mutex<Option<SqliteConnection>>,
    /// Held until the last transaction is over.
    _lock: ProcessLock,
}

impl Shared {
    /// The connection, opened again when it was thrown away.
    async fn take_from(
        &self,
        place: &mut Option<SqliteConnection>,
    ) -> Result<SqliteConnection, StoreError> {
        match place.take() {
            Some(connection) => Ok(connection),
            None => SqliteConnection::connect_with(&self.options)
                .await
                .map_err(store_error),
        }
    }
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        lock: ProcessLock,
    ) -> Self {
        Self(Arc::new(Shared {
            options,
            connection: Mutex::new(Some(connection)),
            _lock: lock,
        }))
    }

    /// Runs one transaction. It holds the write lock from the beginning, so nothing it read changes
    /// before its end.
    pub(super) async fn transaction<T, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<End<T>, StoreError>>
            + Send
            + 'static,
    {
        let shared = Arc::clone(&self.0);
        let task = tokio::spawn(async move {
            let mut place = shared.connection.lock().await;
            let mut connection = shared.take_from(&mut place).await?;
            let (result, clean) = run(&mut connection, work).await;
            if clean {
                *place = Some(connection);
            } else {
                // Closing rolls back whatever is open; an error of it would say nothing new.
                let _ = connection.close_hard().await;
            }
            result
        });
        // Only when the runtime is shut down or the work panicked; whether it had committed is open.
        task.await.unwrap_or_else(|error| {
            Err(StoreError::OutcomeUnknown {
                detail: format!("the transaction's task ended early: {error}"),
            })
        })
    }

    #[cfg(feature = "contract")]
    #[allow(clippy::unwrap_used, reason = "test code, as all of the contract")]
    pub(super) async fn on_commit(&self, may_end: impl FnMut() -> bool + Send + 'static) {
        let mut place = self.0.connection.lock().await;
        let mut connection = self.0.take_from(&mut place).await.unwrap();
        let mut handle = connection.lock_handle().await.unwrap();
        handle.set_commit_hook(may_end);
        drop(handle);
        *place = Some(connection);
    }

    /// Closes the connection after the transaction that is under way, if any.
    pub(super) async fn close(&self) -> Result<(), StoreError> {
        match self.0.connection.lock().await.take() {
            Some(connection) => connection.close().await.map_err(store_error),
            None => Ok(()),
        }
    }
}

/// One transaction, and whether the connection is as it was before.
async fn run<T, W>(connection: &mut SqliteConnection, work: W) -> (Result<T, StoreError>, bool)
where
    W: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<End<T>, StoreError>>,
{
    if let Err(error) = statement(connection, "BEGIN IMMEDIATE").await {
        return (Err(store_error(error)), false);
    }
    let answer = match work(connection).await {
        Ok(End::Commit(answer)) => {
            return match statement(connection, "COMMIT").await {
                Ok(()) => (Ok(answer), true),
                Err(error) => (Err(commit_error(error)), false),
            };
        }
        Ok(End::RollBack(answer)) => Ok(answer),
        Err(error) => Err(error),
    };
    // Some errors roll back by themselves; then this one says so, and the connection is done with.
    let clean = statement(connection, "ROLLBACK").await.is_ok();
    (answer, clean)
}

async fn statement(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(sql).execute(connection).await.map(drop)
}
