//! Commits whose backend is ended or whose caller goes away: the outcome is said to be unknown, and the
//! checkpoint tells it.

use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_connectors::contract::store::reading::verified_records;
use tidegate_engine::commit::CommitReply;
use tidegate_engine::store::{StateStore as _, StoreError};

use super::now;
use crate::support::database::TestDatabase;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_is_ended_leaves_an_unknown_outcome_and_a_working_store() {
    let name = "a_backend_that_is_ended_leaves_an_unknown_outcome_and_a_working_store";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let entry =
        |round: u32| [Entry::new("acme", &format!("k{round}")).creates(&format!("o{round}"))];
    writer.commit(&store, &entry(0)).await.unwrap();
    let mut admin = database.admin().await;
    // A lock that the commit waits for, and its backend ended while it waits.
    let mut blocker = database.admin().await;
    sqlx::raw_sql("begin; lock table tidegate.entities in exclusive mode")
        .execute(&mut blocker)
        .await
        .unwrap();
    let batch = writer.batch(&entry(1));
    let waiting = {
        let (store, batch) = (store.clone(), std::sync::Arc::new(batch.clone()));
        tokio::spawn(async move { store.commit(batch).await })
    };
    let ended = loop {
        let ended: Option<bool> = sqlx::query_scalar(
            "select pg_terminate_backend(pid) from pg_stat_activity
              where datname = current_database() and wait_event_type = 'Lock' limit 1",
        )
        .fetch_optional(&mut admin)
        .await
        .unwrap();
        if let Some(ended) = ended {
            break ended;
        }
        assert!(!waiting.is_finished(), "the commit did not wait");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert!(ended);
    let answer = waiting.await.unwrap();
    assert!(
        matches!(answer, Err(StoreError::OutcomeUnknown { .. })),
        "{answer:?}"
    );
    // A lock that stays is a lock timeout: nothing written, try again.
    let answer = writer.commit_batch(&store, batch.clone()).await;
    assert!(
        matches!(answer, Err(StoreError::Unavailable { .. })),
        "{answer:?}"
    );
    sqlx::raw_sql("rollback")
        .execute(&mut blocker)
        .await
        .unwrap();
    let checkpoint = store.checkpoint(&place).await.unwrap().unwrap();
    assert_eq!(checkpoint.revision, batch.revision);
    let reply = writer.commit_batch(&store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_call_ends_its_work_all_the_same() {
    let name = "a_dropped_call_ends_its_work_all_the_same";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    for round in 0..30_u32 {
        let batch = writer.batch(&[Entry::new("acme", &format!("k{round}"))]);
        let call = store.commit(std::sync::Arc::new(batch.clone()));
        // Dropped at some point of its way, also before it begins.
        let patience = std::time::Duration::from_micros(u64::from(round) * 200);
        let dropped = tokio::time::timeout(patience, call).await.is_err();
        // Whoever drops a call must ask the checkpoint, as after any unknown outcome.
        let mut waited = 0;
        loop {
            let checkpoint = store.checkpoint(&place).await.unwrap().unwrap();
            if checkpoint.revision == batch.revision.next() {
                break;
            }
            assert!(dropped, "round {round}: committed, and not there");
            waited += 1;
            if waited > 200 {
                // Never begun: then nothing of it is in the database, and the next one goes first.
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let checkpoint = store.checkpoint(&place).await.unwrap().unwrap();
        if checkpoint.revision == batch.revision.next() {
            writer.settle(&batch);
        }
    }
    // No connection was left inside a transaction.
    let mut admin = database.admin().await;
    let open: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity
          where datname = current_database() and state like 'idle in transaction%'",
    )
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert_eq!(open, 0);
    let tenant = tidegate_connectors::contract::batch::tenant("acme");
    let records = verified_records(&store, &tenant).await;
    assert_eq!(
        records.len() as u64,
        writer.checkpoint.progress.next_offset.0
    );
}
