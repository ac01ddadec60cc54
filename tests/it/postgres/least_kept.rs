//! What upkeep may not lose, whatever the engine's login asks for.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_connectors::store::postgres::LeastKept;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::CommitReply;
use tidegate_engine::store::{StateStore as _, StoreError, Upkeep};

use super::now;
use crate::support::database::TestDatabase;

const DAY_MICROS: i64 = 86_400_000_000;

/// The SQLSTATE of a refusal, or nothing.
async fn refusal(connection: &mut PgConnection, sql: &str) -> Option<String> {
    match connection.execute(AssertSqlSafe(sql.to_owned())).await {
        Ok(_) => None,
        Err(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
        Err(other) => panic!("`{sql}`: {other}"),
    }
}

/// Segments of the log, and keys in both dedupe tables.
async fn kept(admin: &mut PgConnection) -> (i64, i64) {
    sqlx::query_as(
        "select (select count(*) from tidegate.segments),
                (select count(*) from tidegate.dedupe_0) + (select count(*) from tidegate.dedupe_1)",
    )
    .fetch_one(admin)
    .await
    .unwrap()
}

async fn audited(admin: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar("select action from tidegate.audit order by audit_id")
        .fetch_all(admin)
        .await
        .unwrap()
}

/// A database that keeps 30 days of the log and a day of keys, with one event of today in it.
async fn guarded(name: &str) -> Option<TestDatabase> {
    let database = TestDatabase::create(name).await?;
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let entries = [Entry::new("acme", "k1")];
    let reply = writer.commit(&store, &entries).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
    store.close().await;
    let mut admin = database.admin().await;
    admin
        .execute("update tidegate.settings set clock_ahead_max_micros = 300000000")
        .await
        .unwrap();
    let least = LeastKept {
        retention_micros: Some(30 * DAY_MICROS),
        dedupe_window_micros: DAY_MICROS,
    };
    let url = database.admin_url();
    least.write(&url, database.prefix()).await.unwrap();
    Some(database)
}

/// Statements that would lose something, and their SQLSTATEs.
fn attempts() -> Vec<(String, &'static str)> {
    let month = 30 * DAY_MICROS;
    vec![
        // By an invented moment, by keeping too little, and by both.
        (
            "select tidegate.tidegate_maintain(now() + interval '10 y', 0)".to_owned(),
            "TG010",
        ),
        (
            format!("select tidegate.tidegate_maintain(now() + interval '10 y', {month})"),
            "TG010",
        ),
        (
            format!("select tidegate.tidegate_maintain('infinity', {month})"),
            "0A000",
        ),
        (
            format!("select tidegate.tidegate_maintain(now(), {})", month - 1),
            "TG010",
        ),
        (
            "select tidegate.tidegate_maintain(now(), -1)".to_owned(),
            "TG010",
        ),
        (
            format!("select tidegate.rotate_dedupe(now() + interval '2 d', {DAY_MICROS})"),
            "TG010",
        ),
        (
            "select tidegate.rotate_dedupe(now(), 0)".to_owned(),
            "TG010",
        ),
        (
            "select tidegate.rotate_dedupe(now(), null)".to_owned(),
            "TG010",
        ),
        (
            "update tidegate.settings set retention_min_micros = 0".to_owned(),
            "42501",
        ),
        (
            "update tidegate.dedupe_state set rotated_server_at = null".to_owned(),
            "42501",
        ),
        (
            "select tidegate.check_loss('', now(), 0, 0)".to_owned(),
            "42501",
        ),
    ]
}

#[tokio::test]
async fn r08_the_engines_login_cannot_lose_what_is_to_be_kept() {
    let name = "r08_the_engines_login_cannot_lose_what_is_to_be_kept";
    let Some(database) = guarded(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    let mut engine = PgConnection::connect(&database.engine_url()).await.unwrap();
    let before = kept(&mut admin).await;
    assert_eq!(before, (1, 1));
    for (sql, code) in attempts() {
        assert_eq!(
            refusal(&mut engine, &sql).await.as_deref(),
            Some(code),
            "{sql}"
        );
    }
    // Nor by a past in which windows go by as quickly as they are asked for.
    for day in 1..5 {
        let sql =
            format!("select tidegate.rotate_dedupe('2001-01-0{day} 00:00:0{day}', {DAY_MICROS})");
        assert_eq!(refusal(&mut engine, &sql).await, None, "{sql}");
    }
    assert_eq!(kept(&mut admin).await, before);
    assert_eq!(audited(&mut admin).await, Vec::<String>::new());

    // Nothing of a log that is kept for ever, and the node is told what to do.
    let whole = LeastKept {
        retention_micros: None,
        dedupe_window_micros: DAY_MICROS,
    };
    let url = database.admin_url();
    whole.write(&url, database.prefix()).await.unwrap();
    let upkeep = Upkeep {
        now: now(),
        dedupe_window_micros: DAY_MICROS,
        retention_micros: Some(36_500 * DAY_MICROS),
    };
    match database.store().await.upkeep(upkeep).await {
        Err(StoreError::NotReady(why)) => assert!(why.contains("tidegate migrate"), "{why}"),
        other => panic!("expected a refusal, found {other:?}"),
    }
    assert_eq!(kept(&mut admin).await, before);
}

#[tokio::test]
async fn what_upkeep_drops_is_in_the_audit() {
    let name = "what_upkeep_drops_is_in_the_audit";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let store = database.store().await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let entries = [Entry::new("acme", "k1")];
    let reply = writer.commit(&store, &entries).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
    let mut admin = database.admin().await;
    for days in [0, 100] {
        let upkeep = Upkeep {
            now: Timestamp(now().0 + days * DAY_MICROS),
            dedupe_window_micros: 30 * DAY_MICROS,
            retention_micros: Some(30 * DAY_MICROS),
        };
        store.upkeep(upkeep).await.unwrap();
    }
    let actions = audited(&mut admin).await;
    assert!(actions.contains(&"rotate_dedupe".to_owned()), "{actions:?}");
    assert!(actions.contains(&"drop_segments".to_owned()), "{actions:?}");
    let by_engine: bool = sqlx::query_scalar(
        "select bool_and(actor = $1::name) from tidegate.audit where action = 'drop_segments'",
    )
    .bind(database.prefix().role("engine"))
    .fetch_one(&mut admin)
    .await
    .unwrap();
    assert!(by_engine);
}
