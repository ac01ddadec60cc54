//! What Postgres promises beyond the contract of every store: what the database itself refuses, what a
//! lost connection leaves, and that plans made on empty tables do no harm.

mod engines;
mod index;
mod least_kept;
mod names;
mod one_transaction;
mod outcomes;
mod outside;
mod pooler;
mod protection;
mod schema;
mod views;

use std::sync::Arc;

use tidegate_connectors::contract::store::{Reopen, StoreUnderTest, run_all};
use tidegate_connectors::store::postgres::{PostgresOptions, PostgresStore};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::store::StateStore;

use crate::support::database::TestDatabase;

/// Now, as a node's clock would say.
fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp(i64::try_from(since.as_micros()).unwrap())
}

fn options(database: &TestDatabase) -> PostgresOptions {
    PostgresOptions {
        // Sixteen writers and a rotation must not wait for each other's connections.
        connections_max: 20,
        ..PostgresOptions::new(database.engine_url())
    }
}

async fn subject(name: &str, options: impl Fn(&TestDatabase) -> PostgresOptions) -> StoreUnderTest {
    let database = Arc::new(TestDatabase::create(name).await.unwrap());
    let options = options(&database);
    let store = PostgresStore::connect(options.clone()).await.unwrap();
    let outside = outside::of(&database, &options);
    let reopen: Reopen = Arc::new(move || {
        let options = options.clone();
        Box::pin(async move {
            let store: Arc<dyn StateStore> =
                Arc::new(PostgresStore::connect(options).await.unwrap());
            store
        })
    });
    StoreUnderTest {
        keep: Box::new(database),
        ..StoreUnderTest::new(Arc::new(store), reopen, outside)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_postgres_store_keeps_the_contract() {
    let name = "the_postgres_store_keeps_the_contract";
    if crate::support::postgres_url(name).is_some() {
        run_all("postgres", async || subject(name, options).await).await;
    }
}
