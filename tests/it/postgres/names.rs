//! Names and their numbers: kept within a bound, and made by commits alone.

use tidegate_connectors::contract::batch::{Entry, Writer, entity_name, source_partition, tenant};
use tidegate_connectors::store::postgres::{PostgresOptions, PostgresStore};
use tidegate_engine::commit::{CommitReply, EntityName};
use tidegate_engine::state::MachineName;
use tidegate_engine::store::StateStore as _;

use super::now;
use crate::support::database::TestDatabase;

#[tokio::test]
async fn a_batch_with_more_names_than_are_kept_commits() {
    let name = "a_batch_with_more_names_than_are_kept_commits";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let options = PostgresOptions {
        names_max: 2,
        ..PostgresOptions::new(database.engine_url())
    };
    let store = PostgresStore::connect(options).await.unwrap();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    for round in 0..3 {
        // Some names are kept from the round before when the first new one empties the cache.
        let entries: Vec<Entry> = (0..=4 + round)
            .flat_map(|number| {
                let key = format!("{round}-{number}");
                let of = |name: &str| Entry::new(name, &key).stream(&format!("s{number}"));
                [of("acme").creates(&key), of(&format!("t{number}"))]
            })
            .collect();
        let reply = writer.commit(&store, &entries).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
    }
}

#[tokio::test]
async fn reading_makes_no_machine() {
    let name = "reading_makes_no_machine";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let entries = [Entry::new("acme", "k1").creates("o1")];
    let reply = writer.commit(&store, &entries).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
    let known = entity_name("acme", "o1");
    let mistyped = EntityName {
        machine: MachineName::new("ordr").unwrap(),
        ..known.clone()
    };
    let names = vec![mistyped, known.clone()];
    let found = store.load_entities(&tenant("acme"), names).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].name, known);
    let machines: i64 = sqlx::query_scalar("select count(*) from tidegate.machines")
        .fetch_one(&mut database.admin().await)
        .await
        .unwrap();
    assert_eq!(machines, 1);
}
