//! What the contract does to a store from outside, done to Postgres.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};
use tidegate_connectors::contract::store::outside::{Attempt, Hold, Lost, Outside, Pages};
use tidegate_connectors::store::postgres::{Pooler, PostgresOptions, PostgresStore};
use tidegate_engine::commit::EntityName;
use tidegate_engine::store::StateStore as _;
use tokio::sync::Mutex;

use super::protection::{IMMUTABLE, ROLES, changes};
use crate::support::database::{TestDatabase, address, with_address};
use crate::support::proxy::{Cut, Proxy};

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

/// Every change of everything that never changes, as every role, and as the server's administrator, whom
/// no policy stops. Rows or not: it is the statement that is refused.
async fn try_to_change(database: Arc<TestDatabase>) -> Vec<Attempt> {
    let mut admin = database.admin().await;
    let tables: Vec<String> = sqlx::query_scalar(IMMUTABLE)
        .fetch_all(&mut admin)
        .await
        .unwrap();
    let mut attempts = Vec::new();
    for role in ROLES.iter().map(Some).chain([None]) {
        let mut connection = match role {
            Some(role) => database.as_role(role).await,
            None => database.admin().await,
        };
        for statement in changes(&tables) {
            attempts.push(Attempt {
                role: role.map_or("superuser", |role| *role).to_owned(),
                refusal: refusal(&mut connection, &statement).await,
                statement,
            });
        }
    }
    attempts
}

async fn refusal(connection: &mut PgConnection, statement: &str) -> Option<String> {
    match connection
        .execute(AssertSqlSafe(statement.to_owned()))
        .await
    {
        // No right, or the trigger: any other error says that the statement was not understood.
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("42501" | "TG008")) =>
        {
            error.code().map(|code| code.into_owned())
        }
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
