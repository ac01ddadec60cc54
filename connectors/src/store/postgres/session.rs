//! How statements reach the server: one statement is one transaction, in one round trip, or in an
//! explicit transaction of four where a pooler hands out connections by transaction. Owns the pool.

use std::future::Future;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection as _, Postgres};
use tidegate_engine::store::StoreError;
use tokio::time::timeout;

use super::error::{During, is_stale_plan, store_error, tls_refusal};
use super::options::{Pooler, PostgresOptions};

/// The connections of one store.
pub(super) struct Session {
    pool: PgPool,
    pooler: Pooler,
    answer_timeout: Duration,
}

impl Session {
    /// Prepares a pool; connects at first use.
    pub fn new(options: &PostgresOptions) -> Result<Self, StoreError> {
        let mut connect = options.connect_options()?;
        if options.pooler == Pooler::Transaction {
            connect = connect.statement_cache_capacity(0);
        }
        let pool = PgPoolOptions::new()
            .max_connections(options.connections_max)
            .acquire_timeout(options.acquire_timeout)
            // A ping before every use would be a second round trip a commit; a dead connection shows
            // itself at its first use and is then replaced.
            .test_before_acquire(false)
            .connect_lazy_with(connect);
        Ok(Self {
            pool,
            pooler: options.pooler,
            answer_timeout: options.answer_timeout,
        })
    }

    /// Runs one statement as one transaction and returns its rows.
    pub async fn fetch(
        &self,
        query: Query<'_, Postgres, PgArguments>,
        during: During,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.fetch_within(self.answer_timeout, query, during).await
    }

    /// The same with a limit of its own, for a question whose asker does not wait for long.
    pub async fn fetch_within(
        &self,
        limit: Duration,
        query: Query<'_, Postgres, PgArguments>,
        during: During,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut connection = self.connection().await?;
        let asked = timeout(limit, self.ask(&mut connection, query, during)).await;
        asked.unwrap_or_else(|_| Err(given_up(connection, limit, during)))
    }

    /// Nothing was sent yet: not having a connection is never an unknown outcome.
    async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        let connection = self.pool.acquire().await;
        connection.map_err(|e| store_error(e, During::Read))
    }

    async fn ask(
        &self,
        connection: &mut PgConnection,
        query: Query<'_, Postgres, PgArguments>,
        during: During,
    ) -> Result<Vec<PgRow>, StoreError> {
        let result = match self.pooler {
            Pooler::None => {
                let result = query.fetch_all(&mut *connection).await;
                forget_stale(&result, connection).await;
                result
            }
            Pooler::Transaction => {
                let mut transaction = connection
                    .begin()
                    .await
                    .map_err(|e| store_error(e, During::Read))?;
                match query.persistent(false).fetch_all(&mut *transaction).await {
                    Ok(rows) => transaction.commit().await.map(|()| rows),
                    Err(error) => Err(error),
                }
            }
        };
        result.map_err(|e| store_error(e, during))
    }

    /// Runs one read in a transaction that names its tenant first.
    pub async fn fetch_as(
        &self,
        tenant: i32,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut connection = self.connection().await?;
        let asked = timeout(
            self.answer_timeout,
            self.ask_as(tenant, &mut connection, query),
        );
        let asked = asked.await;
        asked.unwrap_or_else(|_| Err(given_up(connection, self.answer_timeout, During::Read)))
    }

    async fn ask_as(
        &self,
        tenant: i32,
        connection: &mut PgConnection,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let failed = |e| store_error(e, During::Read);
        let persistent = self.pooler == Pooler::None;
        let mut transaction = connection.begin().await.map_err(failed)?;
        sqlx::query("select set_config('tidegate.tenants', $1, true)")
            .bind(tenant.to_string())
            .persistent(persistent)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let result = query
            .persistent(persistent)
            .fetch_all(&mut *transaction)
            .await;
        if result.is_ok() {
            transaction.commit().await.map_err(failed)?;
        } else {
            drop(transaction);
            forget_stale(&result, connection).await;
        }
        result.map_err(failed)
    }

    /// How long a statement waits for its answer.
    pub fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    /// Closes every connection once it is idle.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The schema was changed under what the connection has prepared: the next try prepares it anew.
async fn forget_stale<T>(result: &Result<T, sqlx::Error>, connection: &mut PgConnection) {
    if result.as_ref().is_err_and(is_stale_plan) {
        // A connection that cannot even do this shows it at its next use.
        let _ = connection.clear_cached_statements().await;
    }
}

/// A connection whose answer did not come. The statement was dropped half way, so the connection goes with it:
/// its socket is closed without another word, and its place in the pool is free.
fn given_up(connection: PoolConnection<Postgres>, limit: Duration, during: During) -> StoreError {
    drop(connection.detach());
    let detail = format!("no answer within {} s", limit.as_secs_f64());
    match during {
        During::Read => StoreError::Unavailable { detail },
        During::Commit => StoreError::OutcomeUnknown { detail },
    }
}

/// One connection outside the pool, which would try again and again until its time is up and then say
/// no more than that. Opening one begins nothing, so its wait may be cut short.
pub(super) async fn connect_once(options: &PostgresOptions) -> Result<PgConnection, StoreError> {
    let mut connect = options.connect_options()?;
    if options.pooler == Pooler::Transaction {
        connect = connect.statement_cache_capacity(0);
    }
    let opening = PgConnection::connect_with(&connect);
    match tokio::time::timeout(options.acquire_timeout, opening).await {
        Ok(opened) => opened.map_err(|e| match tls_refusal(&e) {
            Some(refusal) => {
                StoreError::NotReady(format!("no connection to {}: {refusal}", options.address()))
            }
            None => store_error(e, During::Read),
        }),
        Err(_) => Err(StoreError::Unavailable {
            detail: format!(
                "no connection within {} s",
                options.acquire_timeout.as_secs_f64()
            ),
        }),
    }
}

/// Runs store work as a task of its own. A caller that is dropped (a timeout, a `select!`) then never
/// drops a statement half way: the driver's transactions do not survive that.
pub(super) async fn owned<T, F>(work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, StoreError>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(StoreError::Unexpected {
            code: "panic".to_owned(),
            detail: "store work panicked".to_owned(),
        }),
        // The runtime is going down.
        Err(_) => Err(StoreError::OutcomeUnknown {
            detail: "the runtime stopped the store's work".to_owned(),
        }),
    }
}
