//! Through pgbouncer in transaction mode, which knows nothing of prepared statements.

use std::time::Duration;

use sqlx::Executor as _;
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_connectors::contract::store::run_all;
use tidegate_connectors::store::postgres::{Pooler, PostgresOptions, PostgresStore};
use tidegate_engine::access::AccessStore;
use tidegate_engine::store::StoreError;

use super::{now, subject};
use crate::support::database::{TestDatabase, address, with_address, with_database, with_user};
use crate::support::proxy::Proxy;
use crate::support::{pgbouncer_url, postgres_url};

fn through(url: &str, database: &TestDatabase) -> String {
    with_user(
        &with_database(url, database.name()),
        &database.prefix().role("engine"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_postgres_store_keeps_the_contract_through_a_pooler() {
    let name = "the_postgres_store_keeps_the_contract_through_a_pooler";
    let (Some(_), Some(url)) = (postgres_url(name), pgbouncer_url(name)) else {
        return;
    };
    let options = |database: &TestDatabase| PostgresOptions {
        pooler: Pooler::Transaction,
        connections_max: 20,
        ..PostgresOptions::new(through(&url, database))
    };
    run_all("postgres through pgbouncer", async || {
        subject(name, options).await
    })
    .await;
}

/// Connections that something between forgot never answer again. Each costs one question its time and is replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_connections_are_replaced_and_keep_nobody_out() {
    let Some(database) = TestDatabase::create("forgotten_connections").await else {
        return;
    };
    let proxy = Proxy::start(address(&database.engine_url())).await;
    let store = PostgresStore::connect(PostgresOptions {
        connections_max: 2,
        answer_timeout: Duration::from_secs(1),
        ..PostgresOptions::new(with_address(&database.engine_url(), proxy.address()))
    })
    .await
    .unwrap();
    let unknown = "0123456789abcdef".parse().unwrap();
    let register = store.access();
    // Both connections of the pool are in use, then idle, then forgotten.
    let (one, other) = tokio::join!(register.token(unknown), register.token(unknown));
    assert!(one.unwrap().is_none() && other.unwrap().is_none());
    // Each is asked once more as it goes back to the pool, which is a task of its own.
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.forget_connections();
    let (mut unanswered, mut without_connection) = (0, 0);
    while let Err(error) = register.token(unknown).await {
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        if error.to_string().contains("no answer within") {
            unanswered += 1;
        } else {
            // The other tests have all connections of the server just now.
            without_connection += 1;
        }
        assert!(
            unanswered <= 2,
            "a connection was handed out again: {error}"
        );
        assert!(
            without_connection <= 5,
            "a forgotten connection keeps its place: {error}"
        );
    }
    assert!(unanswered >= 1);
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    // In the middle of a commit nobody knows what became of it; before it, nothing did.
    proxy.forget_connections();
    let told = writer.commit(&store, &[Entry::new("acme", "k")]).await;
    assert!(
        matches!(
            told,
            Err(StoreError::OutcomeUnknown { .. } | StoreError::Unavailable { .. })
        ),
        "{told:?}"
    );
}

/// Without the setting, the error says what to set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_was_not_named_is_recognised() {
    let name = "a_pooler_that_was_not_named_is_recognised";
    let (Some(database), Some(url)) = (TestDatabase::create(name).await, pgbouncer_url(name))
    else {
        return;
    };
    if std::env::var("TIDEGATE_TEST_PGBOUNCER_PREPARED").as_deref() == Ok("1") {
        println!("this pgbouncer keeps prepared statements apart: nothing to recognise");
        return;
    }
    let options = PostgresOptions::new(through(&url, &database));
    let mut found = None;
    for _ in 0..10 {
        let store = match PostgresStore::connect(options.clone()).await {
            Ok(store) => store,
            Err(error) => {
                found = Some(error);
                break;
            }
        };
        let place = source_partition("orders", 0);
        let mut writer = match Writer::claim(&store, &place, "a", now()).await {
            Ok(writer) => writer,
            Err(error) => {
                found = Some(error);
                break;
            }
        };
        if let Err(error) = writer.commit(&store, &[Entry::new("acme", "k")]).await {
            found = Some(error);
            break;
        }
    }
    match found {
        Some(StoreError::NotReady(why)) => assert!(why.contains("pooler: transaction"), "{why}"),
        other => panic!("expected a hint, found {other:?}"),
    }
    let mut admin = database.admin().await;
    admin.execute("select 1").await.unwrap();
}
