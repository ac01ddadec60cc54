//! The index of events is fair: what one stream partition writes keeps no other from being found.

use sqlx::{Connection as _, PgConnection};
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_engine::commit::CommitReply;

use super::now;
use crate::support::database::TestDatabase;

/// Segments of the busy one.
const BUSY: i64 = 20;

#[tokio::test]
async fn a_busy_stream_partition_keeps_no_other_from_being_indexed() {
    let name = "a_busy_stream_partition_keeps_no_other_from_being_indexed";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    for number in 0..BUSY {
        let mut entries = vec![Entry::new("acme", &format!("k{number}"))];
        if number + 1 == BUSY {
            // Later in every order: of the log, of tenants, of numbers.
            entries.push(Entry::new("zeta", "k"));
        }
        let reply = writer.commit(&store, &entries).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }));
    }
    let mut engine = PgConnection::connect(&database.engine_url()).await.unwrap();
    let mut admin = database.admin().await;
    // Two events a call: one of each, and then all of it to the busy one.
    let mut left = BUSY + 1;
    for call in 0.. {
        let (done, known_left): (i64, i64) =
            sqlx::query_as("select events, events_left from tidegate.index_events(2)")
                .fetch_one(&mut engine)
                .await
                .unwrap();
        left -= done;
        assert_eq!(known_left, left);
        if done == 0 {
            break;
        }
        assert_eq!(done, 2.min(done + left));
        let tenants: i64 =
            sqlx::query_scalar("select count(distinct tenant_id) from tidegate.event_index")
                .fetch_one(&mut admin)
                .await
                .unwrap();
        assert_eq!(tenants, 2, "after call {call}");
    }
    assert_eq!(left, 0);
}
