//! Migrations: once, with checksums, by anybody who may create; and what a node says when they are missing.

use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};
use tidegate_connectors::contract::batch::{Entry, Writer, entity_name, source_partition};
use tidegate_connectors::store::postgres::{
    PostgresOptions, PostgresStore, RoleMode, RolePrefix, migrate, print_sql,
};
use tidegate_engine::hash::Hash128;
use tidegate_engine::store::{DeadLetterFilter, StateStore as _, StoreError, Upkeep};
use tidegate_engine::tenant::TenantId;

use super::now;
use crate::support::database::{PASSWORD, TestDatabase, with_user};

async fn refusal(options: PostgresOptions) -> String {
    match PostgresStore::connect(options).await {
        Err(StoreError::NotReady(why)) => why,
        Err(other) => panic!("expected `not ready`, found {other}"),
        Ok(_) => panic!("expected `not ready`, found a store"),
    }
}

#[tokio::test]
async fn without_a_connection_the_cause_and_the_address_are_said_and_no_login() {
    // A port that was free a moment ago: whoever comes is turned away at once.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let url = format!("postgres://someone:hunter2@{address}/orders");
    let begun = tokio::time::Instant::now();
    match PostgresStore::connect(PostgresOptions::new(url)).await {
        Err(StoreError::Unavailable { detail }) => {
            for part in [&address.to_string(), "refused", "`orders`"] {
                assert!(detail.contains(part), "{part}: {detail}");
            }
            for part in ["someone", "hunter2"] {
                assert!(!detail.contains(part), "{part}: {detail}");
            }
        }
        Err(other) => panic!("expected `unavailable`, found {other}"),
        Ok(_) => panic!("expected `unavailable`, found a store"),
    }
    assert!(begun.elapsed().as_secs() < 5, "it was not waited for");
}

#[tokio::test]
async fn r51_a_login_with_another_isolation_is_refused() {
    let name = "r51_a_login_with_another_isolation_is_refused";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let engine = database.prefix().role("engine");
    let mut admin = database.admin().await;
    for level in ["repeatable read", "serializable"] {
        let sql = format!("alter role {engine} set default_transaction_isolation = '{level}'");
        admin.execute(AssertSqlSafe(sql)).await.unwrap();
        let why = refusal(PostgresOptions::new(database.engine_url())).await;
        assert!(
            why.contains(level) && why.contains("read committed"),
            "{why}"
        );
    }
}

#[tokio::test]
async fn a_running_node_goes_on_when_a_migration_adds_a_column() {
    let name = "a_running_node_goes_on_when_a_migration_adds_a_column";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    // One connection: what it has prepared is what is asked again.
    let store = PostgresStore::connect(PostgresOptions {
        connections_max: 1,
        ..PostgresOptions::new(database.engine_url())
    });
    let store = store.await.unwrap();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(&store, &place, "a", now()).await.unwrap();
    let entry = Entry::new("acme", "k1").creates("o1");
    writer.commit(&store, &[entry]).await.unwrap();
    let acme = TenantId::new("acme").unwrap();
    let mut admin = database.admin().await;
    for column in ["", "added", "added_later"] {
        if !column.is_empty() {
            for table in ["source_partitions", "dead_letters", "entities", "segments"] {
                let sql = format!("alter table tidegate.{table} add column {column} int4");
                admin.execute(AssertSqlSafe(sql)).await.unwrap();
            }
        }
        assert!(store.checkpoint(&place).await.unwrap().is_some());
        assert_eq!(store.checkpoints().await.unwrap().len(), 1);
        let letters = store.dead_letters(&acme, DeadLetterFilter::default(), 10);
        letters.await.unwrap();
        store.dead_letter(&acme, Hash128(7)).await.unwrap();
        let found = store.load_entities(&acme, vec![entity_name("acme", "o1")]);
        assert_eq!(found.await.unwrap().len(), 1);
        assert_eq!(store.stream_heads(&acme, &place).await.unwrap().len(), 1);
        Writer::claim(&store, &place, "a", now()).await.unwrap();
    }
}

/// What belongs to the installation: nothing of a tenant stands there.
const WITHOUT_TENANT: [&str; 10] = [
    "active_definitions",
    "dedupe_state",
    "leases",
    "machine_definitions",
    "machines",
    "migrations",
    "segment_partitions",
    "settings",
    "source_partitions",
    "source_topics",
];

#[tokio::test]
async fn r01_no_table_takes_a_row_without_its_tenant() {
    let name = "r01_no_table_takes_a_row_without_its_tenant";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    // With partitions of the log, as a node has them made.
    let upkeep = Upkeep {
        now: now(),
        dedupe_window_micros: i64::MAX / 2,
        retention_micros: None,
    };
    database.store().await.upkeep(upkeep).await.unwrap();
    let mut admin = database.admin().await;
    let tables = sqlx::query(
        "select c.relname::text as name, a.attnotnull as required
           from pg_class c
           left join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
          where c.relnamespace = 'tidegate'::regnamespace and c.relkind in ('r', 'p')
          order by c.relname collate \"C\"",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    let mut without = Vec::new();
    let mut required = 0;
    for table in &tables {
        let name: &str = table.get("name");
        match table.get::<Option<bool>, _>("required") {
            Some(true) => required += 1,
            // Actions and tokens of the installation itself have none.
            Some(false) => assert!(["audit", "tokens"].contains(&name), "{name}"),
            None => without.push(name),
        }
    }
    assert_eq!(without, WITHOUT_TENANT);
    assert!(required >= 15, "{required} of {}", tables.len());
    // The register itself knows nobody without a name, and all the others know only numbers.
    for sql in [
        "insert into tidegate.tenants (name) values (null)",
        "insert into tidegate.dedupe_0 (tenant_id, key, conflict, source_partition_id, source_offset)
         values (null, gen_random_uuid(), gen_random_uuid(), 1, 1)",
    ] {
        match admin.execute(sql).await {
            Err(sqlx::Error::Database(error)) => {
                assert_eq!(error.code().as_deref(), Some("23502"), "{sql}: {error}");
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn migrating_twice_changes_nothing_and_another_text_is_refused() {
    let name = "migrating_twice_changes_nothing_and_another_text_is_refused";
    let Some(database) = TestDatabase::create_empty(name).await else {
        return;
    };
    let url = database.admin_url();
    let first = migrate(&url, RoleMode::Create, database.prefix())
        .await
        .unwrap();
    assert!(first.len() >= 6, "{first:?}");
    let second = migrate(&url, RoleMode::Create, database.prefix()).await;
    assert_eq!(second.unwrap(), Vec::<&str>::new());
    let third = migrate(&url, RoleMode::Existing, database.prefix()).await;
    assert_eq!(third.unwrap(), Vec::<&str>::new());

    // Nobody let the engine in yet.
    let why = refusal(PostgresOptions::new(database.engine_url())).await;
    assert!(why.contains("cannot log in"), "{why}");
    database.let_in(&database.prefix().role("engine")).await;
    let mut admin = database.admin().await;
    admin
        .execute("update tidegate.migrations set checksum = 'other' where number = 2")
        .await
        .unwrap();
    let answer = migrate(&url, RoleMode::Create, database.prefix()).await;
    assert!(matches!(answer, Err(StoreError::NotReady(_))), "{answer:?}");
    let why = refusal(PostgresOptions::new(database.engine_url())).await;
    assert!(why.contains("another text"), "{why}");
}

#[tokio::test]
async fn a_node_never_migrates_and_names_the_command() {
    let name = "a_node_never_migrates_and_names_the_command";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    admin
        .execute("delete from tidegate.migrations where number = 9")
        .await
        .unwrap();
    let why = refusal(PostgresOptions::new(database.engine_url())).await;
    assert!(why.contains("tidegate migrate"), "{why}");
    admin
        .execute("insert into tidegate.migrations values (9, 'y', 'z', 9), (10, 'later', 'x', 10), (11, 'a', 'b', 11)")
        .await
        .unwrap();
    let why = refusal(PostgresOptions::new(database.engine_url())).await;
    assert!(
        why.contains("another text") || why.contains("newer"),
        "{why}"
    );
    admin.execute("drop schema tidegate cascade").await.unwrap();
    let why = refusal(PostgresOptions::new(database.engine_url())).await;
    assert!(why.contains("tidegate migrate"), "{why}");
}

/// What an operator without superuser does: a login that may create roles, and the right to create in
/// its database; then another one that may not, once the roles are there.
#[tokio::test]
async fn no_superuser_is_needed() {
    let name = "no_superuser_is_needed";
    let Some(database) = TestDatabase::create_empty(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    let maker = database.prefix().role("maker");
    let plain = database.prefix().role("plain");
    let sql = format!(
        "create role {maker} login createrole password '{PASSWORD}';
         create role {plain} login password '{PASSWORD}';
         grant create on database {0} to {maker}; grant create on database {0} to {plain}",
        database.name()
    );
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
    let maker_url = with_user(&database.admin_url(), &maker);
    let applied = migrate(&maker_url, RoleMode::Create, database.prefix()).await;
    assert!(!applied.unwrap().is_empty());
    database.let_in(&database.prefix().role("engine")).await;
    database.store().await.close().await;

    // The roles exist; somebody who may not create roles makes the schema anew.
    let sql = format!(
        "drop schema tidegate cascade; grant {}, {} to {plain}",
        database.prefix().role("owner"),
        database.prefix().role("writer")
    );
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
    let plain_url = with_user(&database.admin_url(), &plain);
    let applied = migrate(&plain_url, RoleMode::Existing, database.prefix()).await;
    assert!(!applied.unwrap().is_empty());
    database.let_in(&database.prefix().role("engine")).await;
    database.store().await.close().await;
    let sql = format!("drop owned by {maker}, {plain}; drop role {maker}, {plain}");
    drop(admin);
    let mut admin = database.admin().await;
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
}

#[tokio::test]
async fn printed_sql_makes_what_migrate_makes() {
    let name = "printed_sql_makes_what_migrate_makes";
    let (Some(printed), Some(migrated)) = (
        TestDatabase::create_empty(name).await,
        TestDatabase::create(name).await,
    ) else {
        return;
    };
    let text = print_sql(RoleMode::Create, printed.prefix());
    let mut admin = printed.admin().await;
    sqlx::raw_sql(AssertSqlSafe(text))
        .execute(&mut admin)
        .await
        .unwrap();
    let again = migrate(&printed.admin_url(), RoleMode::Existing, printed.prefix()).await;
    assert_eq!(again.unwrap(), Vec::<&str>::new());
    printed.let_in(&printed.prefix().role("engine")).await;
    printed.store().await.close().await;
    let mut other = migrated.admin().await;
    assert_eq!(objects(&mut admin).await, objects(&mut other).await);
}

/// Every object of the schema by kind and name.
async fn objects(connection: &mut PgConnection) -> Vec<(String, String)> {
    sqlx::query(
        "select kind, name from (
            select 'relation ' || relkind::text as kind, relname::text as name from pg_class
             where relnamespace = 'tidegate'::regnamespace
            union all
            select 'function', oid::regprocedure::text from pg_proc
             where pronamespace = 'tidegate'::regnamespace
            union all
            select 'policy', tablename || '.' || policyname from pg_policies
             where schemaname = 'tidegate'
            union all
            select 'trigger', tgrelid::regclass || '.' || tgname from pg_trigger
             where not tgisinternal) o
         order by kind collate \"C\", name collate \"C\"",
    )
    .fetch_all(connection)
    .await
    .unwrap()
    .iter()
    .map(|row| (row.get("kind"), row.get("name")))
    .collect()
}

#[tokio::test]
async fn a_role_prefix_is_a_plain_identifier() {
    for wrong in ["", "1a", "A", "a-b", "a b", "a\"; drop", &"a".repeat(57)] {
        assert!(RolePrefix::new(wrong).is_err(), "{wrong}");
    }
    for right in ["a", "tidegate", "tg_1_2", &"a".repeat(56)] {
        assert!(RolePrefix::new(right).is_ok(), "{right}");
    }
    // Without a server: the text itself.
    let text = print_sql(RoleMode::Create, &RolePrefix::new("acme").unwrap());
    for role in ["owner", "writer", "engine", "reader", "admin"] {
        assert!(text.contains(&format!("acme_{role}")));
        assert!(!text.contains(&format!("tidegate_{role}")));
    }
}

#[tokio::test]
async fn a_lost_server_is_unavailable() {
    let options = PostgresOptions {
        acquire_timeout: std::time::Duration::from_secs(2),
        ..PostgresOptions::new("postgres://nobody@127.0.0.1:1/none")
    };
    let answer = PostgresStore::connect(options).await;
    assert!(matches!(answer, Err(StoreError::Unavailable { .. })));
    let options = PostgresOptions::new("not a url with secret");
    let Err(error) = PostgresStore::connect(options).await else {
        panic!("expected an error");
    };
    assert!(!error.to_string().contains("secret"));
}

/// Kept here, since it needs no schema: the url never shows.
#[test]
fn r33_options_do_not_print_the_connection_string() {
    let options = PostgresOptions::new("postgres://me:secret@host/db");
    assert!(!format!("{options:?}").contains("secret"));
}

#[tokio::test]
async fn a_binary_runs_on_a_later_schema_that_says_that_it_still_serves_it() {
    let name = "a_binary_runs_on_a_later_schema_that_says_that_it_still_serves_it";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    let own: i32 = sqlx::query_scalar("select max(number) from tidegate.migrations")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    // What a later release adds: a column with a default, and a function that this binary never calls.
    let next = "alter table tidegate.audit add column why text not null default '';
         create function tidegate.of_later() returns int4 language sql as 'select 1';";
    sqlx::raw_sql(next).execute(&mut admin).await.unwrap();
    let register = "insert into tidegate.migrations (number, name, checksum, runs_from) \
                    values ($1, 'later', 'another', $2)";
    for (number, runs_from) in [(own + 1, own), (own + 2, own - 1)] {
        let insert = sqlx::query(register).bind(number).bind(runs_from);
        insert.execute(&mut admin).await.unwrap();
    }
    let store = database.store().await;
    let upkeep = Upkeep {
        now: now(),
        dedupe_window_micros: i64::MAX / 2,
        retention_micros: None,
    };
    store.upkeep(upkeep).await.unwrap();
    drop(store);
    // And what this binary does not understand.
    let insert = sqlx::query(register).bind(own + 3).bind(own + 1);
    insert.execute(&mut admin).await.unwrap();
    let why = refusal(PostgresOptions::new(database.engine_url())).await;
    assert!(why.contains("run a newer binary"), "{why}");
}
