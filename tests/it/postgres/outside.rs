//! What the contract does to a store from outside, done to Postgres.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tidegate_connectors::contract::store::outside::{Attempt, Hold, Lost, Outside, Pages};
use tidegate_connectors::store::postgres::{Pooler, PostgresOptions, PostgresStore};
use tidegate_engine::commit::EntityName;
use tidegate_engine::store::StateStore as _;
use tokio::sync::Mutex;

use crate::support::database::{TestDatabase, address, with_address};
use crate::support::proxy::{Cut, Proxy};

/// The roles of a database, and whoever administers the server.
pub(super) const ROLES: [&str; 5] = ["owner", "writer", "engine", "reader", "admin"];

/// All of it, for a store that is reached with these options.
pub(super) fn of(database: &Arc<TestDatabase>, options: &PostgresOptions) -> Outside {
    let (losing, holding) = (options.clone(), Arc::clone(database));
    let trying = Arc::clone(database);
    Outside {
        commit_and_lose: Box::new(move |batch, lost| {
            let options = losing.clone();
            Box::pin(async move {
                let proxy = Proxy::start(address(&options.url)).await;
                let url = with_address(&options.url, proxy.address());
                let options = PostgresOptions { url, ..options };
                let store = PostgresStore::connect(options).await.unwrap();
                proxy.cut_next_commit(match lost {
                    Lost::Commit => Cut::BeforeCommit,
                    Lost::Reply => Cut::AfterCommit,
                });
                let told = store.commit(Arc::new(batch)).await;
                assert_eq!(proxy.cuts(), 1);
                told
            })
        }),
        hold: Some(Box::new(move |name| hold(Arc::clone(&holding), name))),
        try_to_change: Some(Box::new(move || {
            Box::pin(try_to_change(Arc::clone(&trying)))
        })),
        // Behind a pooler nobody says which connection a commit gets.
        pages: (options.pooler == Pooler::None).then(|| {
            let (database, options) = (Arc::clone(database), options.clone());
            let pages = move || -> BoxFuture<'static, Pages> {
                Box::pin(pages(Arc::clone(&database), options.clone()))
            };
            Box::new(pages) as Box<_>
        }),
    }
}

fn hold(database: Arc<TestDatabase>, name: EntityName) -> BoxFuture<'static, Hold> {
    Box::pin(async move {
        let mut holder = database.admin().await;
        holder.execute("begin").await.unwrap();
        let held = sqlx::query(
            "select from tidegate.entities e join tidegate.tenants t using (tenant_id)
              where t.name = $1 and e.key = $2 for update of e",
        )
        .bind(name.tenant.as_str())
        .bind(name.key.as_str())
        .fetch_all(&mut holder)
        .await
        .unwrap();
        assert_eq!(held.len(), 1, "{name:?}");
        let release: Hold = Box::new(move || {
            Box::pin(async move {
                holder.execute("rollback").await.unwrap();
            })
        });
        release
    })
}

/// The log and each of its partitions.
const LOG: &str = "\
select c.oid::regclass::text from pg_class c
 where c.oid = 'tidegate.segments'::regclass
    or c.oid in (select inhrelid from pg_inherits where inhparent = 'tidegate.segments'::regclass)";

/// Every change of every table of the log as every role, with the tenants set whose rows stand there,
/// and as the server's administrator, whom no policy stops.
async fn try_to_change(database: Arc<TestDatabase>) -> Vec<Attempt> {
    let mut admin = database.admin().await;
    let tables: Vec<String> = sqlx::query_scalar(LOG).fetch_all(&mut admin).await.unwrap();
    assert!(tables.len() > 1, "no partition: {tables:?}");
    let mut attempts = Vec::new();
    for role in ROLES.iter().map(Some).chain([None]) {
        let mut connection = match role {
            Some(role) => database.as_role(role).await,
            None => database.admin().await,
        };
        connection
            .execute(
                "select set_config('tidegate.tenants', (select string_agg(n::text, ',')
                   from generate_series(1, 20) n), false)",
            )
            .await
            .unwrap();
        for table in &tables {
            for statement in [
                format!("update {table} set body = body"),
                format!("delete from {table}"),
                format!("truncate {table}"),
            ] {
                attempts.push(Attempt {
                    role: role.map_or("administrator", |role| *role).to_owned(),
                    refusal: refusal(&mut connection, &statement).await,
                    statement,
                });
            }
        }
    }
    attempts
}

async fn refusal(connection: &mut PgConnection, statement: &str) -> Option<String> {
    match connection
        .execute(AssertSqlSafe(statement.to_owned()))
        .await
    {
        Err(sqlx::Error::Database(error)) => Some(error.code().unwrap_or_default().into_owned()),
        Err(error) => panic!("`{statement}`: {error}"),
        Ok(_) => None,
    }
}

async fn pages(database: Arc<TestDatabase>, options: PostgresOptions) -> Pages {
    let mut admin = database.admin().await;
    admin
        .execute("create extension pg_stat_statements")
        .await
        .unwrap();
    let store = PostgresStore::connect(PostgresOptions {
        connections_max: 1,
        ..options
    })
    .await
    .unwrap();
    let admin = Arc::new(Mutex::new(admin));
    Pages {
        store: Arc::new(store),
        touched: Box::new(move || {
            let admin = Arc::clone(&admin);
            Box::pin(async move { buffers(&mut *admin.lock().await).await })
        }),
    }
}

/// Buffers touched by commits of this database, over all nested statements.
async fn buffers(admin: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "select coalesce(sum(shared_blks_hit + shared_blks_read), 0)::int8
           from pg_stat_statements s join pg_database d on d.oid = s.dbid
          where d.datname = current_database() and s.toplevel and s.query like '%commit_batch%'",
    )
    .fetch_one(admin)
    .await
    .unwrap()
}
