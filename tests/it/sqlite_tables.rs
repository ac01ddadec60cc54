//! What the embedded store's tables refuse by themselves.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tidegate_connectors::store::sqlite::{SqliteOptions, SqliteStore};

/// What belongs to the installation: nothing of a tenant stands there.
const WITHOUT_TENANT: [&str; 8] = [
    "active_definitions",
    "dedupe_state",
    "machine_definitions",
    "machines",
    "retention_state",
    "source_partitions",
    "source_topics",
    "tenants",
];

#[tokio::test]
async fn r01_no_table_takes_a_row_without_its_tenant() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tidegate.db");
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    drop(store);
    let options = SqliteConnectOptions::new().filename(&path);
    let mut shell = SqliteConnection::connect_with(&options).await.unwrap();
    // Without those that SQLite and sqlx keep for themselves.
    let tables = sqlx::query(
        "SELECT t.name, (SELECT c.\"notnull\" FROM pragma_table_info(t.name) c WHERE c.name = 'tenant_id')
           FROM sqlite_schema t WHERE t.type = 'table' AND t.name NOT GLOB '*sql*' AND t.name <> 'tenants' ORDER BY t.name",
    )
    .fetch_all(&mut shell)
    .await
    .unwrap();
    let mut without = vec!["tenants"];
    let mut required = 0;
    for table in &tables {
        let name: &str = table.get(0);
        let Some(not_null) = table.get::<Option<i64>, _>(1) else {
            without.push(name);
            continue;
        };
        // Tokens of the installation itself have none.
        if name == "tokens" {
            continue;
        }
        assert_eq!(not_null, 1, "{name}");
        required += 1;
        // Each says so; anchors have a trigger that is asked before.
        let sql = format!("INSERT INTO {name} (tenant_id) VALUES (NULL)");
        let refusal = sqlx::query(AssertSqlSafe(sql)).execute(&mut shell).await;
        let refusal = refusal.unwrap_err().to_string();
        let by_trigger = name == "chain_anchors";
        let missed = refusal.contains(&format!("NOT NULL constraint failed: {name}.tenant_id"));
        assert!(missed != by_trigger, "{name}: {refusal}");
    }
    without.sort_unstable();
    assert_eq!(without, WITHOUT_TENANT);
    assert!(required >= 9, "{required} of {}", tables.len());
    // The register of tenants itself knows nobody without a name.
    let nobody = sqlx::query("INSERT INTO tenants (name) VALUES (NULL)");
    let refusal = nobody.execute(&mut shell).await.unwrap_err().to_string();
    assert!(
        refusal.contains("NOT NULL constraint failed: tenants.name"),
        "{refusal}"
    );
}
