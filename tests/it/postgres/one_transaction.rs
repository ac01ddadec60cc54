//! What one transaction of the database writes.

use tidegate_connectors::contract::batch::{Entry, Writer, entity_name, source_partition};
use tidegate_engine::commit::{CommitReply, EntityRow};
use tidegate_engine::position::Version;
use tidegate_engine::store::StateStore as _;

use super::now;
use crate::support::database::TestDatabase;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r07_a_state_and_its_record_are_written_by_one_transaction() {
    let name = "r07_a_state_and_its_record_are_written_by_one_transaction";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    for round in 0..5_u64 {
        let entries: Vec<Entry> = (0..=round)
            .map(|entity| {
                let entry = Entry::new("acme", &format!("{round}-{entity}"));
                let row = EntityRow(i64::try_from(entity + 1).unwrap());
                let row = (round > entity).then_some(row);
                entry.moves(&format!("o{entity}"), row, Version(round - entity))
            })
            .collect();
        let reply = writer.commit(&store, &entries).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
    }
    assert_eq!(
        store
            .entities(&entity_name("acme", "o0").tenant, None, 9)
            .await
            .unwrap()
            .len(),
        5
    );
    // Of each entity: the transaction of its row, and that of the segment with its last version.
    let mut admin = database.admin().await;
    let apart: Vec<String> = sqlx::query_scalar(
        "select e.key from tidegate.entities e
          where not exists (
                select from tidegate.segments s, json_array_elements(s.body::json) r,
                            json_array_elements(r -> 'effects') f
                 where f ->> 'key' = e.key and (f ->> 'version')::int8 = e.version
                   and s.xmin = e.xmin)",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert_eq!(apart, Vec::<String>::new());
}
