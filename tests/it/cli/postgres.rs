//! The commands on a Postgres of their own.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;
use tokio::runtime::Runtime;

use super::{Desk, Said, event};
use crate::support::database::TestDatabase;

/// A desk whose `node.yaml` names an empty database.
pub(super) struct Served {
    desk: Desk,
    pub(super) database: TestDatabase,
    runtime: Runtime,
}

impl Served {
    pub(super) fn new(test: &str) -> Option<Self> {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(TestDatabase::create_empty(test))?;
        let desk = Desk::with_orders();
        desk.write(
            "node.yaml",
            "store:\n  kind: postgres\n  postgres:\n    url: ${env:ENGINE_URL}\n    \
             migrate_url: ${env:ADMIN_URL}\n    role_prefix: ${env:ROLE_PREFIX}\n\
             machines: { paths: [order.yaml] }\n",
        );
        Some(Self {
            desk,
            database,
            runtime,
        })
    }

    pub(super) fn engine(&self) -> String {
        self.database.prefix().role("engine")
    }

    pub(super) fn command(&self, line: &str) -> Command {
        let engine = self.engine();
        let mut command = self.desk.command(&format!("{line} -c node.yaml"));
        command
            .env("ENGINE_URL", self.database.engine_url())
            .env("ADMIN_URL", self.database.admin_url())
            .env("ROLE_PREFIX", engine.strip_suffix("_engine").unwrap());
        command
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        self.desk.write(name, text);
    }

    /// Adds lines to a file.
    pub(super) fn append(&self, name: &str, text: &str) {
        let before = std::fs::read_to_string(self.desk.path(name)).unwrap();
        self.desk.write(name, &format!("{before}{text}"));
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(super) fn run(&self, line: &str) -> Said {
        self.command(line).output().unwrap().into()
    }

    pub(super) fn migrate(&self) -> Said {
        let migrated = self.run("migrate -o json").ended_with(0);
        self.runtime.block_on(self.database.let_in(&self.engine()));
        migrated
    }
}

#[test]
fn postgres_is_migrated_by_hand_and_the_message_says_what_is_next() {
    let test = "postgres_is_migrated_by_hand_and_the_message_says_what_is_next";
    let Some(served) = Served::new(test) else {
        return;
    };
    // What is printed is what is run, and printing runs nothing.
    let engine = served.engine();
    let printed = served.run("migrate --print-sql").ended_with(0).out;
    assert!(printed.contains(&engine.replace("_engine", "_writer")));
    let without_roles = served.run("migrate --print-sql --roles existing");
    assert!(without_roles.ended_with(0).out.len() < printed.len());
    let migrated = served.migrate();
    assert!(migrated.lines().len() > 1);
    let next = format!("nodes connect as `{engine}`");
    assert!(migrated.err.contains(&next), "{}", migrated.err);
    let again = served.run("migrate --roles existing -o json").ended_with(0);
    assert_eq!(again.out, "");
    // The engine's own role may not, and the message says who may.
    let as_engine = served
        .command("migrate")
        .env("ADMIN_URL", served.database.engine_url())
        .output()
        .unwrap();
    let as_engine = Said::from(as_engine).ended_with(3);
    assert!(
        as_engine.err.contains("store.postgres.migrate_url"),
        "{}",
        as_engine.err
    );
    // Without its schema the database is not ready, and the message says what to type.
    served.runtime.block_on(async {
        use sqlx::{Connection as _, Executor as _};
        let url = served.database.admin_url();
        let mut admin = sqlx::PgConnection::connect(&url).await.unwrap();
        admin.execute("drop schema tidegate cascade").await.unwrap();
    });
    let refused = served
        .run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants")
        .ended_with(3);
    assert!(refused.err.contains("tidegate migrate"), "{}", refused.err);
    let unset = served.desk.run("verify -c node.yaml").ended_with(2);
    assert!(
        unset.err.contains("`ENGINE_URL` is not set"),
        "{}",
        unset.err
    );
}

#[test]
fn postgres_is_filled_and_looked_at_by_the_same_commands() {
    let test = "postgres_is_filled_and_looked_at_by_the_same_commands";
    let Some(served) = Served::new(test) else {
        return;
    };
    served.migrate();
    let first = served
        .run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants -o json")
        .ended_with(0);
    assert_eq!(first.lines()[0]["admitted"], json!(32));
    let again = served
        .run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants -o json")
        .ended_with(0);
    assert_eq!(again.lines()[0]["received"], json!(0));
    let state = served.run("state get order o-3 --tenant acme -o json");
    assert_eq!(state.ended_with(0).lines()[0]["version"], json!(2));
    let discarded = served.run("dead-letters discard --all --tenant acme -o json");
    assert_eq!(discarded.ended_with(0).lines().len(), 2);
    served.run("verify").ended_with(0);

    // What arrives is shown once, under the one heading.
    let mut follow = served
        .command("events tail --tenant acme -n 1 -f")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut followed = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut line = || followed.next().unwrap().unwrap();
    assert!(line().starts_with("POSITION"));
    line();
    served.desk.write(
        "more.ndjson",
        &event("more", "order.placed", 91, &json!({"total_cents": 5})),
    );
    served
        .run("ingest more.ndjson --tenant-from-event-unsafe --create-tenants --source more")
        .ended_with(0);
    let next = line();
    assert!(next.starts_with("events:more/0:0"), "{next}");
    follow.kill().unwrap();
    follow.wait().unwrap();
}
