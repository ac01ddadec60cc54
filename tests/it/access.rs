//! Every store keeps the promises of the one access contract; what Postgres refuses by itself; and how
//! soon a server knows of a revocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};
use tidegate::access::{CACHED_TOKENS_MAX, Credentials, draw_secret};
use tidegate_connectors::contract::access::{AccessUnderTest, run_all};
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_connectors::store::postgres::{PostgresAccess, PostgresOptions};
use tidegate_connectors::store::sqlite::{SqliteOptions, SqliteStore};
use tidegate_engine::access::{
    AccessStore, NewToken, Revocation, StoredTenant, StoredToken, TenantCreation, Token,
    TokenCreation, TokenId, TokenLabel, TokenSecret, TokensOf,
};
use tidegate_engine::clock::{Clock, Timestamp};
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;
use tokio::runtime::Handle;

use crate::support::database::{PASSWORD, TestDatabase};

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_keeps_the_access_contract() {
    run_all("memory", async || {
        let store = Arc::new(MemoryStore::new());
        AccessUnderTest {
            admin: store.clone(),
            node: store.clone(),
            leases: store.clone(),
            store,
            keep: Box::new(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_store_keeps_the_access_contract() {
    run_all("sqlite", async || {
        let directory = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(directory.path().join("tidegate.db"));
        let store = Arc::new(SqliteStore::open(options).await.unwrap());
        AccessUnderTest {
            admin: store.clone(),
            node: store.clone(),
            leases: store.clone(),
            store,
            keep: Box::new(directory),
        }
    })
    .await;
}

/// A login that is an administrator of Tidegate and nothing else.
async fn administrator(database: &TestDatabase) -> String {
    let login = database.prefix().role("carol");
    let sql = format!(
        "create role {login} login password '{PASSWORD}' in role {}",
        database.prefix().role("admin")
    );
    let mut superuser = database.admin().await;
    superuser.execute(AssertSqlSafe(sql)).await.unwrap();
    login
}

async fn access_as(database: &TestDatabase, login: &str) -> PostgresAccess {
    let options = PostgresOptions::new(database.url_of(login));
    PostgresAccess::connect(&options, "store.postgres.migrate_url")
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_postgres_store_keeps_the_access_contract() {
    let name = "the_postgres_store_keeps_the_access_contract";
    if crate::support::postgres_url(name).is_none() {
        return;
    }
    run_all("postgres", async || {
        let database = TestDatabase::create(name).await.unwrap();
        let store = database.store().await;
        let login = administrator(&database).await;
        AccessUnderTest {
            admin: Arc::new(access_as(&database, &login).await),
            node: Arc::new(store.access()),
            leases: Arc::new(store.access()),
            store: Arc::new(store),
            keep: Box::new(database),
        }
    })
    .await;
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn token(scopes: &str) -> Token {
    Token {
        id: TokenId::from_random(0),
        tenant: Some(acme()),
        scopes: scopes.parse().unwrap(),
        label: TokenLabel::new("shop").unwrap(),
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
    }
}

#[tokio::test]
async fn r17_a_node_looks_tokens_up_and_makes_none() {
    let name = "r17_a_node_looks_tokens_up_and_makes_none";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let login = administrator(&database).await;
    let admin = access_as(&database, &login).await;
    let node = database.store().await.access();
    let secret = draw_secret().unwrap();
    let new = || NewToken::new(token("read"), &secret).unwrap();
    admin.create_tenant(&acme(), NOW).await.unwrap();
    admin.create_token(new()).await.unwrap();
    let refusals = [
        node.create_tenant(&acme(), NOW).await.map(drop),
        node.close_tenant(&acme(), NOW).await.map(drop),
        node.create_token(new()).await.map(drop),
        node.revoke_token(secret.id(), NOW).await.map(drop),
    ];
    for refusal in refusals {
        match refusal {
            Err(StoreError::NotReady(why)) => {
                assert!(why.contains("store.postgres.migrate_url"), "{why}");
                let engine = database.prefix().role("engine");
                assert!(why.contains(&format!("login `{engine}`")), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Neither login selects hashes, whatever it names, and an administrator does not lease.
    let statements = [
        ("engine", "select * from tidegate.tokens"),
        ("engine", "select token_id from tidegate.tokens"),
        ("admin", "select hash from tidegate.tokens"),
        ("admin", "select * from tidegate.token('0000000000000000')"),
        (
            "admin",
            "select tidegate.lease_acquire('orders', 0, 'carol', 1)",
        ),
        ("reader", "select * from tidegate.tokens"),
        ("reader", "select * from tidegate.leases"),
        ("reader", "select * from tidegate.list_tokens(null, '', 1)"),
    ];
    for (role, sql) in statements {
        let mut connection = database.as_role(role).await;
        for setting in ["tidegate.tenants", "tidegate.token"] {
            sqlx::query("select set_config($1, $2, false)")
                .bind(setting)
                .bind(if setting == "tidegate.token" {
                    secret.id().to_string()
                } else {
                    "1".to_owned()
                })
                .execute(&mut connection)
                .await
                .unwrap();
        }
        match connection.execute(sql).await {
            Err(sqlx::Error::Database(error)) => {
                assert_eq!(error.code().as_deref(), Some("42501"), "{role}: {sql}");
            }
            other => panic!("{role}: {sql}: {other:?}"),
        }
    }
    assert!(node.token(secret.id()).await.unwrap().is_some());
    an_administrator_sees_tokens_of_the_tenant_that_it_names(&database).await;
}

async fn an_administrator_sees_tokens_of_the_tenant_that_it_names(database: &TestDatabase) {
    // Whoever may select names the tenant whose tokens are wanted, as in every other table (R18).
    let mut connection = database.as_role("admin").await;
    for (named, rows) in [("", 0), ("2", 0), ("1", 1)] {
        sqlx::query("select set_config('tidegate.tenants', $1, false)")
            .bind(named)
            .execute(&mut connection)
            .await
            .unwrap();
        let seen: i64 = sqlx::query_scalar("select count(token_id) from tidegate.tokens")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(seen, rows, "{named:?}");
    }
}

#[tokio::test]
async fn r31_what_is_made_and_revoked_is_in_the_audit_and_no_secret_is_anywhere() {
    let name = "r31_what_is_made_and_revoked_is_in_the_audit_and_no_secret_is_anywhere";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let login = administrator(&database).await;
    let admin = access_as(&database, &login).await;
    let secret = draw_secret().unwrap();
    admin.create_tenant(&acme(), NOW).await.unwrap();
    admin.create_tenant(&acme(), NOW).await.unwrap();
    let new = NewToken::new(token("publish:fact,read"), &secret).unwrap();
    admin.create_token(new).await.unwrap();
    let operators = NewToken::new(
        Token {
            tenant: None,
            ..token("operate")
        },
        &draw_secret().unwrap(),
    );
    admin.create_token(operators.unwrap()).await.unwrap();
    admin.revoke_token(secret.id(), NOW).await.unwrap();
    admin.revoke_token(secret.id(), NOW).await.unwrap();
    admin.close_tenant(&acme(), NOW).await.unwrap();
    admin.close_tenant(&acme(), NOW).await.unwrap();
    let mut superuser = PgConnection::connect(&database.admin_url()).await.unwrap();
    let rows = sqlx::query(
        "select action, actor::text, detail::text, tenant_id from tidegate.audit order by audit_id",
    )
    .fetch_all(&mut superuser)
    .await
    .unwrap();
    let actions: Vec<(String, Option<i32>)> = rows
        .iter()
        .map(|row| (row.get("action"), row.get("tenant_id")))
        .collect();
    let expected = [
        ("create_tenant", Some(1)),
        ("create_token", Some(1)),
        ("create_token", None),
        ("revoke_token", Some(1)),
        ("close_tenant", Some(1)),
    ];
    let expected = expected.map(|(action, tenant)| (action.to_owned(), tenant));
    assert_eq!(actions, expected);
    let shown = secret.expose();
    let hidden = &shown[20..];
    let hash: String = secret
        .hash()
        .as_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    for row in &rows {
        assert_eq!(row.get::<String, _>("actor"), login);
        let detail: String = row.get("detail");
        assert!(
            !detail.contains(hidden) && !detail.contains(&hash),
            "{detail}"
        );
    }
    // The whole row of the token has the hash and not the secret.
    let row: String =
        sqlx::query_scalar("select k::text from tidegate.tokens k where token_id = $1")
            .bind(secret.id().to_string())
            .fetch_one(&mut superuser)
            .await
            .unwrap();
    assert!(row.contains(&hash) && !row.contains(hidden));
}

/// A store that counts look-ups and fails when it is told to.
struct Watched {
    store: MemoryStore,
    asked: AtomicU32,
    away: AtomicU32,
    /// Look-ups of tokens that are not there have no answer.
    silent: AtomicBool,
}

#[async_trait::async_trait]
impl AccessStore for Watched {
    async fn create_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<TenantCreation, StoreError> {
        self.store.create_tenant(tenant, at).await
    }
    async fn tenant(&self, tenant: &TenantId) -> Result<Option<StoredTenant>, StoreError> {
        self.store.tenant(tenant).await
    }
    async fn list_tenants(
        &self,
        after: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<StoredTenant>, StoreError> {
        self.store.list_tenants(after, max).await
    }
    async fn close_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<Option<StoredTenant>, StoreError> {
        self.store.close_tenant(tenant, at).await
    }
    async fn create_token(&self, token: NewToken) -> Result<TokenCreation, StoreError> {
        self.store.create_token(token).await
    }
    async fn tokens(
        &self,
        of: &TokensOf,
        after: Option<TokenId>,
        max: u32,
    ) -> Result<Vec<Token>, StoreError> {
        self.store.tokens(of, after, max).await
    }
    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) > 0 {
            return Err(StoreError::Unavailable {
                detail: "away".to_owned(),
            });
        }
        let found = self.store.token(id).await?;
        if found.is_none() && self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(found)
    }
    async fn revoke_token(&self, id: TokenId, at: Timestamp) -> Result<Revocation, StoreError> {
        self.store.revoke_token(id, at).await
    }
}

/// A clock that is set.
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

struct Gate {
    store: Arc<Watched>,
    hands: Arc<Hands>,
    credentials: Credentials,
    secret: TokenSecret,
}

impl Gate {
    async fn new() -> Self {
        let store = Arc::new(Watched {
            store: MemoryStore::new(),
            asked: AtomicU32::new(0),
            away: AtomicU32::new(0),
            silent: AtomicBool::new(false),
        });
        let hands = Arc::new(Hands(AtomicI64::new(NOW.0)));
        let secret = draw_secret().unwrap();
        store.create_tenant(&acme(), NOW).await.unwrap();
        let new = NewToken::new(token("read"), &secret).unwrap();
        store.create_token(new).await.unwrap();
        Self {
            credentials: Credentials::new(store.clone(), hands.clone(), Handle::current()),
            store,
            hands,
            secret,
        }
    }

    async fn said(&self, presented: &str) -> &'static str {
        match self.credentials.admit(presented).await {
            Ok(credential) => {
                assert_eq!(credential.token, self.secret.id());
                "admitted"
            }
            Err(denied) => denied.reason(),
        }
    }

    fn later(&self, seconds: i64) {
        self.hands
            .0
            .fetch_add(seconds * 1_000_000, Ordering::SeqCst);
    }

    fn asked(&self) -> u32 {
        self.store.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_revocation_holds_within_five_seconds_and_the_store_is_asked_once_in_them() {
    let gate = Gate::new().await;
    let presented = gate.secret.expose();
    for _ in 0..100 {
        assert_eq!(gate.said(&presented).await, "admitted");
    }
    assert_eq!(gate.asked(), 1);
    let id = gate.secret.id();
    gate.store.revoke_token(id, NOW).await.unwrap();
    gate.later(4);
    assert_eq!(gate.said(&presented).await, "admitted", "the cache's");
    gate.later(1);
    assert_eq!(gate.said(&presented).await, "revoked");
    assert_eq!(gate.asked(), 2);
    // A clock that stepped back makes nothing last longer.
    gate.later(-3_600);
    assert_eq!(gate.said(&presented).await, "revoked");
    assert_eq!(gate.asked(), 3);
}

#[tokio::test]
async fn a_token_expires_at_its_moment_whatever_is_cached() {
    let gate = Gate::new().await;
    let secret = draw_secret().unwrap();
    let ending = Token {
        expires_at: Some(Timestamp(NOW.0 + 2_000_000)),
        label: TokenLabel::new("till").unwrap(),
        ..token("read")
    };
    let new = NewToken::new(ending, &secret).unwrap();
    gate.store.create_token(new).await.unwrap();
    let presented = secret.expose();
    assert!(gate.credentials.admit(&presented).await.is_ok());
    gate.later(2);
    assert_eq!(gate.said(&presented).await, "expired");
    assert_eq!(gate.asked(), 1);
}

#[tokio::test]
async fn r31_whoever_is_denied_is_denied_for_a_reason_that_logs_tell_apart() {
    let gate = Gate::new().await;
    let presented = gate.secret.expose();
    let other = draw_secret().unwrap().expose();
    let wrong = format!("{}{}", &presented[..20], &other[20..]);
    let weak = format!("{}{}", &presented[..20], "A".repeat(43));
    for (presented, reason) in [
        ("", "unreadable"),
        ("hunter2", "unreadable"),
        (weak.as_str(), "weak"),
        (other.as_str(), "unknown"),
        (wrong.as_str(), "wrong_secret"),
        (presented.as_str(), "admitted"),
    ] {
        assert_eq!(gate.said(presented).await, reason);
    }
    // What cannot be a token costs the store nothing.
    assert_eq!(gate.asked(), 2);
    // An id that nobody has is asked for once in five seconds, a new token is known then.
    assert_eq!(gate.said(&other).await, "unknown");
    assert_eq!(gate.asked(), 2);
    gate.later(5);
    assert_eq!(gate.said(&other).await, "unknown");
    assert_eq!(gate.asked(), 3);
}

#[tokio::test]
async fn a_store_that_is_away_admits_nobody_once_the_answer_is_old() {
    let gate = Gate::new().await;
    let presented = gate.secret.expose();
    assert_eq!(gate.said(&presented).await, "admitted");
    gate.store.away.store(1, Ordering::SeqCst);
    gate.later(4);
    assert_eq!(gate.said(&presented).await, "admitted");
    gate.later(1);
    assert_eq!(gate.said(&presented).await, "unanswered");
    gate.store.away.store(0, Ordering::SeqCst);
    assert_eq!(
        gate.said(&presented).await,
        "admitted",
        "nothing of it is kept"
    );
}

#[tokio::test]
async fn the_memory_of_tokens_is_bounded() {
    let gate = Gate::new().await;
    for _ in 0..CACHED_TOKENS_MAX + 2_000 {
        let unknown = draw_secret().unwrap();
        let denied = gate.credentials.admit(&unknown.expose()).await.unwrap_err();
        assert_eq!(denied.reason(), "unknown");
    }
    let (known, unknown) = gate.credentials.cached();
    assert_eq!(known, 0);
    assert!(unknown > 0 && unknown <= 1_000, "{unknown}");
    assert_eq!(gate.said(&gate.secret.expose()).await, "admitted");
    assert_eq!(gate.credentials.cached().0, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_come_at_once_are_one_question() {
    let gate = Arc::new(Gate::new().await);
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let gate = gate.clone();
            tokio::spawn(async move { gate.said(&gate.secret.expose()).await })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), "admitted");
    }
    assert!(gate.asked() <= 4, "{}", gate.asked());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_silent_is_no_answer_and_guessers_keep_nobody_waiting() {
    let gate = Gate::new().await;
    let presented = gate.secret.expose();
    assert_eq!(gate.said(&presented).await, "admitted");
    gate.store.silent.store(true, Ordering::SeqCst);
    let guesses: Vec<String> = (0..20)
        .map(|_| draw_secret().unwrap().expose().to_string())
        .collect();
    let guessed = futures_util::future::join_all(guesses.iter().map(|it| gate.said(it)));
    let renewed = async {
        gate.later(6);
        let begun = tokio::time::Instant::now();
        assert_eq!(gate.said(&presented).await, "admitted");
        assert!(begun.elapsed().is_zero(), "behind the guessers");
    };
    let (guessed, ()) = tokio::join!(guessed, renewed);
    assert_eq!(guessed, vec!["unanswered"; 20]);
    assert_eq!(
        gate.asked(),
        2 + 2,
        "the known one twice, and as many guesses as may at once"
    );
}
