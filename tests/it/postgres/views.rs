//! What people read: the events, the state of each machine in typed columns, and where an event stands.

use sqlx::{Executor as _, PgConnection, Row as _};
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_connectors::store::postgres::PostgresStore;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitReply, EntityWrite};
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::state::MachineName;
use tidegate_engine::store::{NewDefinition, StateStore as _, StoreError, Upkeep};

use super::now;
use crate::support::database::TestDatabase;

fn definition(version: u64, fields: &[(&str, &'static str)]) -> NewDefinition {
    NewDefinition {
        machine: MachineName::new("order").unwrap(),
        version,
        hash: hash_bytes(&version.to_le_bytes()),
        text: format!("version: {version}").into(),
        fields: fields
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), *kind))
            .collect(),
    }
}

/// Commits one event that creates an order with this data.
async fn create(store: &PostgresStore, writer: &mut Writer, tenant: &str, key: &str, data: &str) {
    let mut batch = writer.batch(&[Entry::new(tenant, &format!("k-{tenant}-{key}")).creates(key)]);
    for EntityWrite { data: of, .. } in &mut batch.entities {
        *of = data.into();
    }
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
}

/// The engine's own login with both tenants named.
async fn reader(database: &TestDatabase) -> PgConnection {
    let mut connection = <PgConnection as sqlx::Connection>::connect(&database.engine_url())
        .await
        .unwrap();
    connection
        .execute("select set_config('tidegate.tenants', '1,2', false)")
        .await
        .unwrap();
    connection
}

#[tokio::test]
async fn state_stands_in_typed_columns_ready_to_join() {
    let name = "state_stands_in_typed_columns_ready_to_join";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let fields = [
        ("total_cents", "int"),
        ("rate", "double"),
        ("price", "decimal"),
        ("open", "bool"),
        ("due", "timestamp"),
        ("note", "string"),
        ("lines", "list"),
        ("version", "int"),
        ("odd \"name'; drop", "string"),
    ];
    store
        .activate_definition(definition(1, &fields), now())
        .await
        .unwrap();
    let data = "{\"due\":\"2026-11-22T10:00:00Z\",\"lines\":[1,2],\"note\":\"it's\",\
                \"odd \\\"name'; drop\":\"x\",\"open\":true,\"price\":\"12.50\",\"rate\":0.1,\
                \"total_cents\":9007199254740993,\"version\":7}";
    create(&store, &mut writer, "acme", "o1", data).await;
    create(&store, &mut writer, "bolt", "o1", "{\"total_cents\":5}").await;

    let mut connection = reader(&database).await;
    // As a user would: a table of their own, joined by tenant and key.
    let rows = sqlx::query(
        "with mine (tenant, id, customer) as (values ('acme', 'o1', 'Ada'), ('bolt', 'o1', 'Bob'))
         select m.customer, s.total_cents, s.rate, s.price::text, s.open, s.due::text, s.note,
                s.lines::text, s.version, s.field_version, s.\"odd \"\"name'; drop\" as odd, s.data::text as data
           from mine m join tidegate.state_order s on s.tenant = m.tenant and s.key = m.id
          order by m.customer",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    let ada = &rows[0];
    assert_eq!(ada.get::<i64, _>("total_cents"), 9_007_199_254_740_993);
    assert_eq!(ada.get::<f64, _>("rate"), 0.1);
    assert_eq!(ada.get::<String, _>("price"), "12.50");
    assert!(ada.get::<bool, _>("open"));
    assert_eq!(ada.get::<String, _>("due"), "2026-11-22 10:00:00+00");
    assert_eq!(ada.get::<String, _>("note"), "it's");
    assert_eq!(ada.get::<String, _>("lines"), "[1,2]");
    assert_eq!(ada.get::<i64, _>("version"), 1);
    assert_eq!(ada.get::<i64, _>("field_version"), 7);
    assert_eq!(ada.get::<String, _>("odd"), "x");
    assert_eq!(ada.get::<String, _>("data"), data, "byte for byte");
    assert_eq!(rows[1].get::<Option<f64>, _>("rate"), None);
}

#[tokio::test]
async fn a_new_definition_keeps_what_others_built_on_a_view_or_is_refused() {
    let name = "a_new_definition_keeps_what_others_built_on_a_view_or_is_refused";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let first = [("total_cents", "int")];
    store
        .activate_definition(definition(1, &first), now())
        .await
        .unwrap();
    let mut admin = database.admin().await;
    admin
        .execute("create view public.mine as select key, total_cents from tidegate.state_order")
        .await
        .unwrap();
    let more = [("paid_cents", "int"), ("total_cents", "int")];
    store
        .activate_definition(definition(2, &more), now())
        .await
        .unwrap();
    admin.execute("select * from public.mine").await.unwrap();
    // A column of another type: not under somebody's view, and fine without one.
    let other = [("total_cents", "string")];
    let answer = store
        .activate_definition(definition(3, &other), now())
        .await;
    assert!(answer.is_err(), "{answer:?}");
    let active: Vec<u64> = store
        .definitions()
        .await
        .unwrap()
        .iter()
        .filter(|it| it.active)
        .map(|it| it.version)
        .collect();
    assert_eq!(active, [2], "a refused definition leaves nothing");
    admin.execute("drop view public.mine").await.unwrap();
    store
        .activate_definition(definition(3, &other), now())
        .await
        .unwrap();
    let again = store.activate_definition(
        NewDefinition {
            hash: hash_bytes(b"another text"),
            ..definition(3, &other)
        },
        now(),
    );
    let answer = again.await;
    assert!(
        matches!(&answer, Err(StoreError::Unexpected { code, .. }) if code == "TG005"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn every_event_is_one_row_with_its_effects_and_its_place() {
    let name = "every_event_is_one_row_with_its_effects_and_its_place";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    for key in ["o1", "o2", "o3"] {
        create(&store, &mut writer, "acme", key, "{}").await;
    }
    let upkeep = |now| Upkeep {
        now,
        dedupe_window_micros: i64::MAX / 2,
        retention_micros: None,
    };
    store.upkeep(upkeep(now())).await.unwrap();
    create(&store, &mut writer, "bolt", "o1", "{}").await;
    store.upkeep(upkeep(now())).await.unwrap();

    let mut connection = reader(&database).await;
    let rows = sqlx::query(
        "select tenant, sequence, position, id, type, subject, data::text as data,
                effects -> 0 ->> 'key' as key, effects -> 0 ->> 'outcome' as outcome
           from tidegate.events order by tenant, sequence",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let places: Vec<(String, i64)> = rows
        .iter()
        .map(|row| (row.get("tenant"), row.get("sequence")))
        .collect();
    let expected = [("acme", 0), ("acme", 1), ("acme", 2), ("bolt", 0)];
    assert_eq!(places, expected.map(|(tenant, at)| (tenant.to_owned(), at)));
    assert_eq!(rows[1].get::<String, _>("position"), "orders:orders/0:1");
    assert_eq!(rows[1].get::<String, _>("key"), "o2");
    assert_eq!(rows[1].get::<String, _>("outcome"), "applied");
    become_settled(&mut connection).await;

    // The index says the same of each event as the log.
    let differing: i64 = sqlx::query_scalar(
        "select count(*) from tidegate.events e
           full join tidegate.event_positions p on p.tenant = e.tenant and p.event_id = e.id
          where p.position is distinct from e.position
             or p.correlation_id is distinct from e.correlation_id",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(differing, 0);

    is_built_anew(&database, &mut connection).await;

    // What retention drops is dropped from the index too.
    let later = Timestamp(now().0 + 400 * 86_400_000_000);
    let done = store
        .upkeep(Upkeep {
            retention_micros: Some(30 * 86_400_000_000),
            ..upkeep(later)
        })
        .await
        .unwrap();
    assert_eq!(done.segments_dropped, 4);
    assert_eq!(indexed(&mut connection).await, 0);
}

/// Events come out from behind the oldest transaction in flight: any on the server, other tests' too.
async fn become_settled(connection: &mut PgConnection) {
    let sql = "select bool_and(committed_xid < pg_snapshot_xmin(pg_current_snapshot()))
                 from tidegate.events";
    for _ in 0..600 {
        if sqlx::query_scalar(sql)
            .fetch_one(&mut *connection)
            .await
            .unwrap()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("a transaction was in flight for half a minute");
}

/// Rows of the index of events.
async fn indexed(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select count(*) from tidegate.event_positions")
        .fetch_one(connection)
        .await
        .unwrap()
}

/// An administrator has the index of four events forgotten, and the next upkeep makes it again.
async fn is_built_anew(database: &TestDatabase, connection: &mut PgConnection) {
    let mut operator = database.as_role("admin").await;
    sqlx::query("select tidegate.forget_event_index()::text")
        .execute(&mut operator)
        .await
        .unwrap();
    assert_eq!(indexed(connection).await, 0);
    let upkeep = Upkeep {
        now: now(),
        dedupe_window_micros: i64::MAX / 2,
        retention_micros: None,
    };
    let done = database.store().await.upkeep(upkeep).await.unwrap();
    assert_eq!(done.index_lag_records, Some(0));
    assert_eq!(indexed(connection).await, 4);
}
