//! Plans made on empty tables must not stay: a store is filled in one connection, and the last batch
//! touches hardly more buffers than the first.

use sqlx::Row as _;
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_connectors::store::postgres::{PostgresOptions, PostgresStore};
use tidegate_engine::commit::CommitReply;
use tidegate_engine::store::{StateStore as _, Upkeep};

use super::now;
use crate::support::database::TestDatabase;

const BATCH: usize = 1_000;
const BATCHES: usize = 200;

/// Buffers touched by commits of this database since the last reset, over all nested statements.
async fn buffers(admin: &mut sqlx::PgConnection) -> i64 {
    let touched: i64 = sqlx::query(
        "select coalesce(sum(shared_blks_hit + shared_blks_read), 0)::int8 as touched
           from pg_stat_statements s join pg_database d on d.oid = s.dbid
          where d.datname = current_database() and s.toplevel and s.query like '%commit_batch%'",
    )
    .fetch_one(&mut *admin)
    .await
    .unwrap()
    .get("touched");
    touched
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_store_filled_in_one_connection_does_not_get_slower() {
    let name = "an_empty_store_filled_in_one_connection_does_not_get_slower";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    sqlx::query("create extension pg_stat_statements")
        .execute(&mut admin)
        .await
        .unwrap();
    // One connection for everything: the plans made on empty tables are the ones that are used.
    let store = PostgresStore::connect(PostgresOptions {
        connections_max: 1,
        ..PostgresOptions::new(database.engine_url())
    })
    .await
    .unwrap();
    let upkeep = Upkeep {
        now: now(),
        dedupe_window_micros: i64::MAX / 2,
        retention_micros: None,
    };
    store.upkeep(upkeep).await.unwrap();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let mut touched = Vec::new();
    for batch in 0..BATCHES {
        let entries: Vec<Entry> = (0..BATCH)
            .map(|event| {
                // In no order, as real keys come.
                let number = (batch * BATCH + event).wrapping_mul(2_654_435_761) % 1_000_000_007;
                Entry::new("acme", &format!("{batch}-{event}")).creates(&format!("o{number:010}"))
            })
            .collect();
        let before = buffers(&mut admin).await;
        let reply = writer.commit(&store, &entries).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
        touched.push(buffers(&mut admin).await - before);
    }
    let mean = |of: &[i64]| of.iter().sum::<i64>() / of.len() as i64;
    let (first, last) = (mean(&touched[1..11]), mean(&touched[BATCHES - 10..]));
    println!(
        "buffers touched by a commit of {BATCH} new entities: first {first}, last {last}, most {}",
        touched.iter().max().unwrap()
    );
    assert!(last <= 2 * first, "first {first}, last {last}");
}
