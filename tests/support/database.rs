//! A migrated database for one test, with roles of its own, dropped when the test ends.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tidegate_connectors::store::postgres::{
    PostgresOptions, PostgresStore, RoleMode, RolePrefix, migrate,
};

/// The password of every login that a test makes: the development server asks for one, and pgbouncer
/// asks the server whether it is right.
pub const PASSWORD: &str = "test";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// One database and its roles. Roles are the cluster's, so their names begin with the database's.
pub struct TestDatabase {
    server_url: String,
    name: String,
    prefix: RolePrefix,
}

impl TestDatabase {
    /// An empty, migrated database for the named test; `None` when there is no server.
    pub async fn create(test: &str) -> Option<Self> {
        let database = Self::create_empty(test).await?;
        migrate(&database.admin_url(), RoleMode::Create, &database.prefix)
            .await
            .unwrap();
        database.let_in(&database.prefix.role("engine")).await;
        // Tests move a node's clock by years, and drop what they have just written.
        let unbounded = "update tidegate.settings set retention_min_micros = 0, \
             dedupe_window_min_micros = 0, clock_ahead_max_micros = 1000000000000000000";
        database.admin().await.execute(unbounded).await.unwrap();
        Some(database)
    }

    /// Gives a login the tests' password.
    pub async fn let_in(&self, login: &str) {
        let sql = format!("alter role {login} password '{PASSWORD}'");
        let mut admin = self.admin().await;
        admin.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    /// A database without schema and roles.
    pub async fn create_empty(test: &str) -> Option<Self> {
        let server_url = super::postgres_url(test)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tg_{}_{number}", std::process::id());
        let database = Self {
            prefix: RolePrefix::new(&name).unwrap(),
            server_url,
            name,
        };
        // What a killed run with the same process id left behind.
        database.drop_all().await;
        let mut server = PgConnection::connect(&database.server_url).await.unwrap();
        let sql = format!("create database {}", database.name);
        server.execute(AssertSqlSafe(sql)).await.unwrap();
        Some(database)
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its roles.
    pub fn prefix(&self) -> &RolePrefix {
        &self.prefix
    }

    /// The administrator, in this database.
    pub fn admin_url(&self) -> String {
        with_database(&self.server_url, &self.name)
    }

    /// A login that was let in, in this database.
    pub fn url_of(&self, login: &str) -> String {
        with_user(&self.admin_url(), login)
    }

    /// The engine's role.
    pub fn engine_url(&self) -> String {
        self.url_of(&self.prefix.role("engine"))
    }

    /// A store as a node would open it.
    pub async fn store(&self) -> PostgresStore {
        PostgresStore::connect(PostgresOptions::new(self.engine_url()))
            .await
            .unwrap()
    }

    /// A connection of the administrator, a superuser here.
    pub async fn admin(&self) -> PgConnection {
        PgConnection::connect(&self.admin_url()).await.unwrap()
    }

    /// A connection of one of the roles; those that may not log in are taken with SET ROLE.
    pub async fn as_role(&self, suffix: &str) -> PgConnection {
        let mut connection = self.admin().await;
        let sql = format!("set role {}", self.prefix.role(suffix));
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        connection
    }

    async fn drop_all(&self) {
        let mut server = PgConnection::connect(&self.server_url).await.unwrap();
        let sql = format!("drop database if exists {} with (force)", self.name);
        server.execute(AssertSqlSafe(sql)).await.unwrap();
        let logins: Vec<String> =
            sqlx::query_scalar("select rolname::text from pg_roles where starts_with(rolname, $1)")
                .bind(format!("{}_", self.name))
                .fetch_all(&mut server)
                .await
                .unwrap();
        for login in logins {
            let sql = format!("drop role {login}");
            server.execute(AssertSqlSafe(sql)).await.unwrap();
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        // A test's runtime cannot be waited for from within it; a thread's own can.
        std::thread::scope(|scope| {
            let dropped = scope.spawn(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(self.drop_all());
            });
            if dropped.join().is_err() {
                eprintln!("database {} was not dropped", self.name);
            }
        });
    }
}

/// The same server, another database.
pub fn with_database(url: &str, database: &str) -> String {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (url, String::new()),
    };
    let host_at = base.find("://").map_or(0, |at| at + 3);
    let end = base[host_at..]
        .find('/')
        .map_or(base.len(), |at| host_at + at);
    format!("{}/{database}{query}", &base[..end])
}

/// The same server and database, another login with the tests' password.
pub fn with_user(url: &str, user: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..authority_end]
        .rsplit_once('@')
        .map_or(&rest[..authority_end], |(_, host)| host);
    format!(
        "{scheme}://{user}:{PASSWORD}@{host}{}",
        &rest[authority_end..]
    )
}

/// The same, through another host and port.
pub fn with_address(url: &str, address: std::net::SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let user = rest[..authority_end]
        .rsplit_once('@')
        .map_or(String::new(), |(user, _)| format!("{user}@"));
    format!("{scheme}://{user}{address}{}", &rest[authority_end..])
}

/// The `host:port` of a server.
pub fn address(url: &str) -> String {
    let (_, rest) = url.split_once("://").unwrap();
    let authority = rest.split('/').next().unwrap();
    authority
        .rsplit_once('@')
        .map_or(authority, |(_, address)| address)
        .to_owned()
}
