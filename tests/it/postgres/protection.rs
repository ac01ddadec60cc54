//! What the database itself refuses, whatever our code does: roles, row-level security, immutability.

use sqlx::{AssertSqlSafe, Executor as _, PgConnection, Row as _};
use tidegate_connectors::contract::batch::{Entry, Writer, source_partition};
use tidegate_connectors::store::postgres::{PostgresOptions, PostgresStore};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::CommitReply;
use tidegate_engine::store::{StateStore, StoreError, Upkeep};

use super::now;
use crate::support::database::{PASSWORD, TestDatabase};

pub(super) const ROLES: [&str; 5] = ["owner", "writer", "engine", "reader", "admin"];

/// A store with rows of two tenants in every table that a commit writes.
async fn filled(name: &str) -> Option<(TestDatabase, PostgresStore)> {
    let database = TestDatabase::create(name).await?;
    let store = database.store().await;
    let mut writer = Writer::claim(&store, &source_partition("orders", 0), "a", now())
        .await
        .unwrap();
    let entries = [
        Entry::new("acme", "k1").creates("o1").emits(1),
        Entry::new("bolt", "k1").creates("o1").emits(1),
    ];
    let reply = writer.commit(&store, &entries).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }));
    Some((database, store))
}

/// The SQLSTATE of a statement that must fail.
async fn refused(connection: &mut PgConnection, sql: &str) -> String {
    match connection.execute(AssertSqlSafe(sql.to_owned())).await {
        Err(sqlx::Error::Database(error)) => error.code().unwrap_or_default().into_owned(),
        other => panic!("`{sql}`: expected a refusal, found {other:?}"),
    }
}

async fn names(connection: &mut PgConnection, sql: &'static str) -> Vec<String> {
    sqlx::query_scalar(sql).fetch_all(connection).await.unwrap()
}

/// The log and each of its partitions, and the other tables of which no row ever changes.
pub(super) const IMMUTABLE: &str = "\
select c.oid::regclass::text from pg_class c
 where c.oid = any (array['tidegate.segments', 'tidegate.machine_definitions', 'tidegate.audit']::regclass[])
    or c.oid in (select inhrelid from pg_inherits where inhparent = 'tidegate.segments'::regclass)";

#[tokio::test]
async fn r08_stored_events_cannot_be_changed() {
    let Some((database, store)) = filled("r08_stored_events_cannot_be_changed").await else {
        return;
    };
    let mut admin = database.admin().await;
    fill_every_partition(&mut admin, &store).await;
    let tables = names(&mut admin, IMMUTABLE).await;
    assert!(
        tables.len() >= 6,
        "log, three partitions, definitions, audit: {tables:?}"
    );
    // The audit and a definition have rows too.
    admin
        .execute(
            "insert into tidegate.audit (at, action, detail) values (now(), 'test', '{}');
             insert into tidegate.machine_definitions values (1, 1, gen_random_uuid(), '', now())",
        )
        .await
        .unwrap();
    // Each has, so that a statement that does nothing is one that was not stopped.
    for table in &tables {
        let sql = format!("select count(*) from {table}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut admin)
            .await
            .unwrap();
        assert!(rows > 0, "{table}");
    }
    for role in ["writer", "engine", "reader", "admin"] {
        let mut connection = database.as_role(role).await;
        name_both_tenants(&mut connection).await;
        for sql in changes(&tables) {
            let code = refused(&mut connection, &sql).await;
            assert_eq!(code, "42501", "{role} has no right: {sql}");
        }
    }
    // The owner has the right, and the superuser of the cluster goes past policies too.
    let mut owner = database.as_role("owner").await;
    for (who, connection) in [("the owner", &mut owner), ("the superuser", &mut admin)] {
        for sql in changes(&tables) {
            let code = refused(connection, &sql).await;
            assert_eq!(code, "TG008", "{who} is stopped by the trigger: {sql}");
        }
    }
}

/// A segment in each partition of the log from today on.
async fn fill_every_partition(admin: &mut PgConnection, store: &PostgresStore) {
    let begins: Vec<i64> = sqlx::query_scalar(
        "select (extract(epoch from greatest(from_at, now())) * 1000000)::int8
           from tidegate.segment_partitions where to_at > now() order by from_at",
    )
    .fetch_all(admin)
    .await
    .unwrap();
    assert!(begins.len() >= 3, "{begins:?}");
    for (number, begin) in begins.into_iter().enumerate() {
        let place = source_partition("later", 0);
        let mut writer = Writer::claim(store, &place, "a", Timestamp(begin))
            .await
            .unwrap();
        let entry = Entry::new("acme", &format!("later-{number}"));
        let reply = writer.commit(store, &[entry]).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }));
    }
}

async fn name_both_tenants(connection: &mut PgConnection) {
    connection
        .execute("select set_config('tidegate.tenants', '1,2', false)")
        .await
        .unwrap();
}

/// Every kind of change, of each of the tables.
pub(super) fn changes(tables: &[String]) -> Vec<String> {
    let of = |table: &String| {
        [
            format!("update {table} set {}", same_value(table)),
            format!("delete from {table}"),
            format!("truncate {table}"),
        ]
    };
    tables.iter().flat_map(of).collect()
}

/// An assignment that changes nothing, to a column that the table has.
fn same_value(table: &str) -> String {
    let column = match table {
        "tidegate.machine_definitions" => "text",
        "tidegate.audit" => "action",
        _ => "body",
    };
    format!("{column} = {column}")
}

#[tokio::test]
async fn r09_state_changes_through_the_commit_function_alone() {
    let name = "r09_state_changes_through_the_commit_function_alone";
    let Some((database, _store)) = filled(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    let tables = names(
        &mut admin,
        "select c.oid::regclass::text from pg_class c
          where c.relnamespace = 'tidegate'::regnamespace and c.relkind in ('r', 'p')",
    )
    .await;
    assert!(tables.len() > 20, "{tables:?}");
    // R17 too: the three roles that people and engines log in with write nowhere.
    for role in ["engine", "reader", "admin"] {
        for table in &tables {
            for right in [
                "insert",
                "update",
                "delete",
                "truncate",
                "references",
                "trigger",
            ] {
                let granted: bool = sqlx::query_scalar(
                    "select case when $3 in ('insert', 'update', 'references')
                                 then has_any_column_privilege($1, $2, $3)
                                 else has_table_privilege($1, $2, $3) end",
                )
                .bind(database.prefix().role(role))
                .bind(table)
                .bind(right)
                .fetch_one(&mut admin)
                .await
                .unwrap();
                assert!(!granted, "{role} may {right} {table}");
            }
        }
    }
    // No function is anybody's by default, each has a fixed path, and only two run what they compose.
    let functions = sqlx::query(
        "select p.oid::regprocedure::text as name, p.proname::text as short, p.prosecdef,
                coalesce(array_to_string(p.proconfig, ' '), '') as settings, p.prosrc,
                has_function_privilege('public', p.oid, 'execute') as public
           from pg_proc p where p.pronamespace = 'tidegate'::regnamespace",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    assert!(functions.len() > 10);
    for row in functions {
        let name: String = row.get("name");
        assert!(!row.get::<bool, _>("public"), "{name} is everybody's");
        let settings: String = row.get("settings");
        assert!(
            settings.contains("search_path=pg_catalog, pg_temp"),
            "{name}: {settings}"
        );
        let dynamic = row.get::<String, _>("prosrc").contains("execute ");
        let short: String = row.get("short");
        let may = ["tidegate_maintain", "activate_definition"].contains(&short.as_str());
        assert_eq!(dynamic, may, "{name}");
    }
}

/// Which functions a role may execute, and what it may write without one.
struct Rights {
    role: &'static str,
    functions: &'static [&'static str],
    writes: &'static [&'static str],
}

/// All rights of all roles, so that a new grant is a change of this table. What the owner may write is left
/// out: it owns the tables, nobody logs in with it, and triggers and policies hold for it too (R08, R18).
const RIGHTS: [Rights; 5] = [
    Rights {
        role: "owner",
        functions: &[
            "activate_definition",
            "check_loss",
            "close_tenant",
            "create_tenant",
            "create_token",
            "forget_event_index",
            "let_read",
            "reader_tenant",
            "refuse_change",
            "revoke_token",
            "rotate_dedupe",
            "tidegate_maintain",
        ],
        writes: &[],
    },
    // Nobody logs in with this one either: the functions run as it, and need these.
    Rights {
        role: "writer",
        functions: &[
            "claim",
            "commit_batch",
            "entities_by_status",
            "event_index_lag",
            "index_events",
            "lease_acquire",
            "lease_release",
            "lease_renew",
            "list_tokens",
            "load_entities",
            "machine_ids",
            "older_keys",
            "older_keys_estimate",
            "source_topics",
            "stored_tenants",
            "stream_heads",
            "stream_partition_ids",
            "tenant_ids",
            "tenant_standings",
            "tenants_with_open_work",
            "token",
        ],
        writes: &[
            "active_definitions: insert, update",
            "audit: insert",
            "dead_letters: insert, update of state attempts changed_at",
            "dedupe_0: insert",
            "dedupe_1: insert",
            "entities: insert, update of version changed_at status data",
            "event_index: insert, delete",
            "event_index_progress: insert, update",
            "leases: insert, update of holder acquired_at expires_at",
            "machine_definitions: insert",
            "machines: insert",
            "open_work: insert, delete",
            "segments: insert",
            "source_partitions: insert, update",
            "source_topics: insert, update of partitions",
            "stream_partitions: insert, update of next_sequence chain_head logged_at",
            "tenants: insert",
        ],
    },
    Rights {
        role: "engine",
        functions: &[
            "activate_definition",
            "claim",
            "commit_batch",
            "entities_by_status",
            "event_index_lag",
            "index_events",
            "lease_acquire",
            "lease_release",
            "lease_renew",
            "list_tokens",
            "load_entities",
            "machine_ids",
            "older_keys",
            "older_keys_estimate",
            "rotate_dedupe",
            "source_topics",
            "stored_tenants",
            "stream_heads",
            "stream_partition_ids",
            "tenant_ids",
            "tenant_standings",
            "tenants_with_open_work",
            "tidegate_maintain",
            "token",
        ],
        writes: &[],
    },
    Rights {
        role: "reader",
        functions: &["reader_tenant"],
        writes: &[],
    },
    Rights {
        role: "admin",
        functions: &[
            "close_tenant",
            "create_tenant",
            "create_token",
            "forget_event_index",
            "let_read",
            "list_tokens",
            "revoke_token",
        ],
        writes: &[],
    },
];

#[tokio::test]
async fn r09_each_role_has_the_rights_of_this_table_and_no_other() {
    let name = "r09_each_role_has_the_rights_of_this_table_and_no_other";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    let mut found = Vec::new();
    for role in ROLES {
        let login = database.prefix().role(role);
        let functions: Vec<String> = sqlx::query_scalar(
            "select p.proname::text from pg_proc p
              where p.pronamespace = 'tidegate'::regnamespace and has_function_privilege($1, p.oid, 'execute')
              order by p.proname::text collate \"C\"",
        )
        .bind(&login)
        .fetch_all(&mut admin)
        .await
        .unwrap();
        // A right to update some columns names them.
        let writes: Vec<String> = sqlx::query_scalar(
            "select relname || ': ' || concat_ws(', ',
                        case when has_table_privilege($1, oid, 'insert') then 'insert' end,
                        case when has_table_privilege($1, oid, 'update') then 'update'
                             when columns is not null then 'update of ' || columns end,
                        case when has_table_privilege($1, oid, 'delete') then 'delete' end,
                        case when has_table_privilege($1, oid, 'truncate') then 'truncate' end)
               from pg_class,
                    lateral (select string_agg(attname::text, ' ' order by attnum) as columns
                               from pg_attribute a
                              where a.attrelid = pg_class.oid and attnum > 0 and not attisdropped
                                and has_column_privilege($1, a.attrelid, attnum, 'update')) as of_columns
              where relnamespace = 'tidegate'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'S')
                and case when relkind = 'S' then has_sequence_privilege($1, oid, 'usage, update')
                         else has_any_column_privilege($1, oid, 'insert, update')
                           or has_table_privilege($1, oid, 'delete, truncate') end
              order by relname::text collate \"C\"",
        )
        .bind(&login)
        .fetch_all(&mut admin)
        .await
        .unwrap();
        let writes = if role == "owner" { Vec::new() } else { writes };
        found.push((role, functions, writes));
    }
    let texts = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let expected = RIGHTS.map(|it| (it.role, texts(it.functions), texts(it.writes)));
    assert_eq!(found, expected);
}

/// Every table with a tenant, and the partitions of the log.
const TENANT_TABLES: &str = "\
select c.oid::regclass::text from pg_class c
 where c.relnamespace = 'tidegate'::regnamespace and c.relkind in ('r', 'p')
   and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')";

#[tokio::test]
async fn r18_row_level_security_is_enabled_and_forced_on_every_tenant_table() {
    let name = "r18_row_level_security_is_enabled_and_forced_on_every_tenant_table";
    let Some((database, store)) = filled(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    let tables = names(&mut admin, TENANT_TABLES).await;
    assert!(tables.len() >= 17, "{tables:?}");
    for table in &tables {
        let row = sqlx::query(
            "select relrowsecurity and relforcerowsecurity as forced from pg_class where oid = $1::regclass",
        )
        .bind(table)
        .fetch_one(&mut admin)
        .await
        .unwrap();
        assert!(row.get::<bool, _>("forced"), "{table}");
    }
    // Without a tenant, and with one set to nothing, no role sees a row; with one, only that one's.
    for role in ROLES {
        let mut connection = database.as_role(role).await;
        for (setting, most) in [(None, 0), (Some(""), 0), (Some("1"), 1)] {
            if let Some(setting) = setting {
                sqlx::query("select set_config('tidegate.tenants', $1, false)")
                    .bind(setting)
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
            for table in tables.iter().filter(|it| *it != "tidegate.tenants") {
                let most = if role == "reader" { 0 } else { most };
                let sql = format!("select count(distinct tenant_id) from {table}");
                let counted: Result<i64, _> = sqlx::query_scalar(AssertSqlSafe(sql))
                    .fetch_one(&mut connection)
                    .await;
                match counted {
                    Ok(tenants) => {
                        assert!(tenants <= most, "{role}, {setting:?}: {table}: {tenants}")
                    }
                    Err(sqlx::Error::Database(error)) => {
                        assert_eq!(error.code().as_deref(), Some("42501"), "{role}: {table}");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    // What upkeep makes later is protected as well.
    let later = Timestamp(now().0 + 90 * 24 * 3_600 * 1_000_000);
    let upkeep = Upkeep {
        now: later,
        dedupe_window_micros: i64::MAX / 2,
        retention_micros: None,
    };
    store.upkeep(upkeep).await.unwrap();
    let unprotected = names(
        &mut admin,
        "select oid::regclass::text from pg_class
          where oid in (select inhrelid from pg_inherits where inhparent = 'tidegate.segments'::regclass)
            and not (relrowsecurity and relforcerowsecurity
                and exists (select from pg_trigger t where t.tgrelid = pg_class.oid and t.tgname = 'no_change'))",
    )
    .await;
    assert_eq!(unprotected, Vec::<String>::new());
}

/// The setting by which the engine names its tenants gives a reader nothing.
async fn sees_only_bolt_whatever_it_sets(reader: &mut PgConnection) {
    let views = [
        ("tidegate.events", "tenant", 1),
        ("tidegate.state_order", "tenant", 1),
        ("tidegate.tenants", "name", 1),
        ("tidegate.open_dead_letters", "tenant", 0),
    ];
    for attempt in ["", "1", "1,2"] {
        sqlx::query("select set_config('tidegate.tenants', $1, false)")
            .bind(attempt)
            .execute(&mut *reader)
            .await
            .unwrap();
        for (view, column, rows) in views {
            let sql = format!("select {column} from {view}");
            let seen: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_all(&mut *reader)
                .await
                .unwrap();
            assert_eq!(seen, vec!["bolt".to_owned(); rows], "{view}");
        }
    }
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "one reader, and all that it tries")]
async fn r02_a_reader_sees_the_tenant_of_its_login_and_cannot_name_another() {
    let name = "r02_a_reader_sees_the_tenant_of_its_login_and_cannot_name_another";
    let Some((database, store)) = filled(name).await else {
        return;
    };
    let acmes = source_partition("acme-only", 0);
    let mut writer = Writer::claim(&store, &acmes, "a", now()).await.unwrap();
    let entry = Entry::new("acme", "k2").creates("o2");
    writer.commit(&store, &[entry]).await.unwrap();
    let machine = tidegate_engine::state::MachineName::new("order").unwrap();
    let definition = tidegate_engine::store::NewDefinition {
        hash: tidegate_engine::hash::hash_bytes(b"order"),
        machine,
        version: 1,
        text: "text".into(),
        fields: vec![
            ("total_cents".to_owned(), "int"),
            ("status".to_owned(), "string"),
        ],
    };
    store.activate_definition(definition, now()).await.unwrap();
    let login = database.prefix().role("bolt_reader");
    let mut superuser = database.admin().await;
    let sql = format!(
        "create role {login} login password '{PASSWORD}' in role {}",
        database.prefix().role("reader")
    );
    superuser.execute(AssertSqlSafe(sql)).await.unwrap();
    let mut admin = database.as_role("admin").await;
    let let_read = "select tidegate.let_read($1, $2)::text";
    for tenant in ["acme", "bolt"] {
        sqlx::query(let_read)
            .bind(&login)
            .bind(tenant)
            .execute(&mut admin)
            .await
            .unwrap();
    }
    let mut reader = <PgConnection as sqlx::Connection>::connect(&database.url_of(&login))
        .await
        .unwrap();
    sees_only_bolt_whatever_it_sets(&mut reader).await;
    let sources: Vec<String> =
        sqlx::query_scalar("select distinct source from tidegate.source_partitions")
            .fetch_all(&mut reader)
            .await
            .unwrap();
    assert_eq!(
        sources,
        ["orders"],
        "of the source of others not even the name"
    );
    assert_eq!(
        refused(&mut reader, "select * from tidegate.tokens").await,
        "42501"
    );
    assert_eq!(
        refused(&mut reader, "select * from tidegate.dedupe_0").await,
        "42501"
    );
    assert_eq!(
        refused(&mut reader, "select tidegate.rotate_dedupe(now(), 0)").await,
        "42501"
    );
    let sql = format!("set role {}", database.prefix().role("engine"));
    assert_eq!(refused(&mut reader, &sql).await, "42501");
    let sql = format!("select tidegate.let_read('{login}', 'acme')");
    assert_eq!(refused(&mut reader, &sql).await, "42501");
    sqlx::query(let_read)
        .bind(&login)
        .bind(None::<&str>)
        .execute(&mut admin)
        .await
        .unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from tidegate.events")
        .fetch_one(&mut reader)
        .await
        .unwrap();
    assert_eq!(left, 0, "a login without tenant sees nothing");
}

#[tokio::test]
async fn r19_a_node_refuses_a_login_with_too_many_rights() {
    let name = "r19_a_node_refuses_a_login_with_too_many_rights";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let mut admin = database.admin().await;
    let engine = database.prefix().role("engine");
    for (rights, words) in [
        ("superuser", "superuser"),
        ("bypassrls", "bypasses row-level security"),
        ("in role {owner}", "owns the tables"),
        ("in role {writer}", "owns the functions"),
    ] {
        let login = database.prefix().role("wrong");
        let rights = rights
            .replace("{owner}", &database.prefix().role("owner"))
            .replace("{writer}", &database.prefix().role("writer"));
        let sql = format!(
            "create role {login} login password '{PASSWORD}' {rights}; grant {engine} to {login}"
        );
        admin.execute(AssertSqlSafe(sql)).await.unwrap();
        let answer = PostgresStore::connect(PostgresOptions::new(database.url_of(&login))).await;
        match answer {
            Err(StoreError::NotReady(why)) => assert!(why.contains(words), "{why}"),
            Err(other) => panic!("{rights}: {other}"),
            Ok(_) => panic!("{rights}: taken"),
        }
        let sql = format!("drop role {login}");
        admin.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    // A login of the operator's own that may execute is welcome.
    let login = database.prefix().role("own_login");
    let sql = format!("create role {login} login password '{PASSWORD}' in role {engine}");
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
    let store = PostgresStore::connect(PostgresOptions::new(database.url_of(&login)))
        .await
        .unwrap();
    Writer::claim(&store, &source_partition("orders", 0), "a", now())
        .await
        .unwrap();
}

#[tokio::test]
async fn r38_the_engine_writes_no_row_of_a_tenant_that_its_transaction_does_not_name() {
    let name = "r38_the_engine_writes_no_row_of_a_tenant_that_its_transaction_does_not_name";
    let Some((database, _store)) = filled(name).await else {
        return;
    };
    // The function called by hand, past every check of the client: tenant 1 is named, 2 is written.
    let mut engine = <PgConnection as sqlx::Connection>::connect(&database.engine_url())
        .await
        .unwrap();
    let empty = vec!["'{}'"; 13].join(",");
    let call = |keys: &str, new: &str| {
        format!(
            "select * from tidegate.commit_batch(1, 1, 1, false, now(), 9, '{{}}', null, null,
             array[0,0,0,0,0,0,0,0,0,0,0], array[1], null, null, null, {keys},
             '{{}}','{{}}','{{}}','{{}}','{{}}','{{}}','{{}}','{{}}','{{}}', {new},
             '{{}}','{{}}','{{}}','{{}}','{{}}', '{{}}','{{}}','{{}}',
             '{{}}','{{}}','{{}}','{{}}','{{}}','{{}}','{{}}','{{}}',
             '{{}}','{{}}','{{}}','{{}}','{{}}','{{}}','{{}}','{{}}', '{{}}','{{}}','{{}}', {empty}, '{{}}','{{}}','{{}}','{{}}')"
        )
    };
    let no_keys = "'{}','{}','{}','{}'";
    let no_new = "'{}','{}','{}','{}','{}','{}','{}'";
    let key_of_2 = "array[2], array[gen_random_uuid()], array[gen_random_uuid()], array[1]";
    let new_of_2 =
        "array[2], array[1], array['x'], array[1], array['s'], array['{}'], array[now()]";
    assert_eq!(refused(&mut engine, &call(key_of_2, no_new)).await, "42501");
    assert_eq!(
        refused(&mut engine, &call(no_keys, new_of_2)).await,
        "42501"
    );
    // Naming them beforehand does not help: the function names its own.
    engine
        .execute("select set_config('tidegate.tenants', '1,2', false)")
        .await
        .unwrap();
    assert_eq!(refused(&mut engine, &call(key_of_2, no_new)).await, "42501");
    let done = engine
        .execute(AssertSqlSafe(call(no_keys, no_new)))
        .await
        .unwrap();
    assert_eq!(done.rows_affected(), 1);
}
