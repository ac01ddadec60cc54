//! The connection to Postgres with `sslmode=verify-full`, to a server that speaks TLS.

use std::process::Command;
use std::time::Duration;

use tidegate_connectors::store::postgres::{PostgresOptions, PostgresStore};
use tidegate_engine::error::ErrorKind;
use tidegate_engine::store::StateStore as _;

use super::Authority;
use crate::support::database::TestDatabase;
use crate::support::server;

/// The file of the authority that signed the test server's certificate, which is for `localhost` alone.
const POSTGRES_CA: &str = "TIDEGATE_TEST_POSTGRES_CA";

/// The engine's address as `host`, verified against that authority.
fn verified(database: &TestDatabase, host: &str, authority: &str) -> String {
    let url = database.engine_url();
    let (base, _) = url.split_once('?').unwrap_or((&url, ""));
    let base = base.replace("@127.0.0.1:", &format!("@{host}:"));
    format!("{base}?sslmode=verify-full&sslrootcert={authority}")
}

#[tokio::test]
async fn r49_postgres_is_verified_by_its_authority_and_its_name() {
    let test = "r49_postgres_is_verified_by_its_authority_and_its_name";
    let Some(authority) = server(test, POSTGRES_CA) else {
        return;
    };
    let Some(database) = TestDatabase::create(test).await else {
        return;
    };
    let open = async |url: String| PostgresStore::connect(PostgresOptions::new(url)).await;
    let store = open(verified(&database, "localhost", &authority))
        .await
        .unwrap();
    store.checkpoints().await.unwrap();
    let encrypted: bool = sqlx::query_scalar(
        "select bool_and(s.ssl) from pg_stat_ssl s join pg_stat_activity a using (pid) \
          where a.datname = current_database() and a.usename = $1",
    )
    .bind(database.prefix().role("engine"))
    .fetch_one(&mut database.admin().await)
    .await
    .unwrap();
    assert!(encrypted);
    store.close().await;
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.crt");
    std::fs::write(&other, Authority::new("other").pem()).unwrap();
    for (host, authority, says) in [
        ("127.0.0.1", authority.as_str(), "for another host name"),
        ("localhost", other.to_str().unwrap(), "sslrootcert=FILE"),
    ] {
        let Err(error) = open(verified(&database, host, authority)).await else {
            panic!("{host} was believed");
        };
        let said = error.to_string();
        assert!(said.contains(says), "{said}");
        // The password stands in the same address.
        assert!(!said.contains("test@"), "{said}");
        assert_ne!(error.kind(), ErrorKind::Transient, "{said}");
    }
}

#[test]
fn a_node_that_does_not_trust_its_postgres_ends_at_once_and_says_what_to_type() {
    let test = "a_node_that_does_not_trust_its_postgres_ends_at_once_and_says_what_to_type";
    let Some(authority) = server(test, POSTGRES_CA) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(database) = runtime.block_on(TestDatabase::create(test)) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let config = "store: { kind: postgres, postgres: { url: '${env:ENGINE_URL}' } }\n\
                  limits: { start_limit_seconds: 3600 }\nhttp: { listen: '127.0.0.1:0' }\n";
    std::fs::write(directory.path().join("node.yaml"), config).unwrap();
    let ended = runtime.block_on(async {
        let started = tokio::task::spawn_blocking(move || {
            Command::new(env!("CARGO_BIN_EXE_tidegate"))
                .args(["run", "-c", "node.yaml"])
                .env("ENGINE_URL", verified(&database, "127.0.0.1", &authority))
                .current_dir(directory.path())
                .output()
                .unwrap()
        });
        tokio::time::timeout(Duration::from_secs(300), started).await
    });
    let ended = ended.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("for another host name"), "{said}");
}
