//! R25: the real binary on its embedded store, killed with -9 at every failpoint, and between any two
//! tables' writes of one commit. Whatever the batch had of several tenants, it is there whole or not at all.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};

use super::node::{self, Launch};
use super::{SIGKILL, WITH_FAILPOINTS, in_runtime, support};

const SECOND: Duration = Duration::from_secs(1);
const TENANTS: usize = 3;
const ACCOUNTS: usize = 5;
const EVENTS: usize = 2_400;

/// Adds up deposits and emits an event of each, so that a commit writes every table.
const MACHINE: &str = "\
apiVersion: tidegate/v1
kind: Machine
machine: account
version: 1
key: event.subject
initial: open
states: [open]
data:
  count: { type: int, initial: 0 }
  cents: { type: int, initial: 0 }
events:
  deposited:
    - from: [open]
      set:
        count: state.count + 1
        cents: state.cents + event.data.cents
      emit:
        - { type: booked }
";

/// Where a commit stops for ever: behind the first row that it gives to a table, in the order in which it
/// writes them. A batch has several rows for each, of several tenants.
const PLACES: [&str; 8] = [
    "INSERT ON dedupe_0",
    "INSERT ON segments",
    "INSERT ON entities",
    "UPDATE ON entities",
    "DELETE ON open_work",
    "INSERT ON open_work",
    "INSERT ON dead_letters",
    "UPDATE OF revision ON source_partitions",
];

/// Deposits and cents of each account of each tenant.
type Totals = BTreeMap<(String, String), (i64, i64)>;

struct Scene {
    directory: tempfile::TempDir,
    config: PathBuf,
    /// What the file says, each event once.
    truth: Totals,
}

impl Scene {
    fn set() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (text, truth) = input();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("deposits.ndjson"), text).unwrap();
        std::fs::write(path("account.yaml"), MACHINE).unwrap();
        let config = format!(
            "store:\n  kind: sqlite\n  sqlite:\n    path: {}\nmachines:\n  paths:\n    - {}\n\
             sources:\n  - name: deposits\n    kind: file\n    stream: deposits\n    tenant_from_event_unsafe: true\n    unknown_tenants: create\n\
             \x20   paths:\n      - {}\nlimits:\n  batch_events_max: 40\n",
            path("tidegate.db").display(),
            path("account.yaml").display(),
            path("deposits.ndjson").display(),
        );
        let config_path = path("tidegate.yaml");
        std::fs::write(&config_path, config).unwrap();
        Self {
            config: config_path,
            directory,
            truth,
        }
    }

    fn start(&self, failpoint: Option<String>) -> Child {
        node::start(&Launch {
            binary: Path::new(WITH_FAILPOINTS),
            config: &self.config,
            url: "",
            failpoint,
            log: self.directory.path().join("node.log"),
        })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("node.log")).unwrap_or_default()
    }

    /// A second program on the same file, and how long it waits for a lock.
    async fn shell(&self, patience: Duration) -> SqliteConnection {
        let options = SqliteConnectOptions::new()
            .filename(self.directory.path().join("tidegate.db"))
            .busy_timeout(patience);
        SqliteConnection::connect_with(&options).await.unwrap()
    }

    /// Dies at a failpoint of the node, a few of its hits later.
    async fn die_at(&self, name: &str, hits: usize) {
        let mut child = self.start(Some(format!("{name}:{hits}")));
        if name == "draining" {
            let begun = self.revision().await;
            self.wait_for(&mut child, begun + 2).await;
            let terminated = Command::new("kill")
                .args(["-TERM", &child.id().to_string()])
                .status();
            assert!(terminated.unwrap().success());
        }
        let status = node::wait_for_end(&mut child, 30).await;
        assert_eq!(status.signal(), Some(SIGKILL), "{name}\n{}", self.log());
        assert!(self.log().contains(&format!("failpoint {name} reached")));
    }

    /// Dies while a commit stands in one of the places: a trigger that never ends keeps it there. It is the
    /// first commit from some revision on that comes there: a small batch has not a row for every table.
    async fn die_in_commit(&self, place: &str) {
        let stop_at = self.revision().await + 2;
        let mut shell = self.shell(SECOND * 5).await;
        let trigger = format!(
            "CREATE VIEW endless AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)
                SELECT max(i) AS last FROM n;
             CREATE TRIGGER stop AFTER {place}
             WHEN (SELECT revision FROM source_partitions) >= {stop_at} + {}
             BEGIN SELECT last FROM endless; END",
            // The checkpoint has moved already when its own trigger looks.
            i64::from(place.ends_with("source_partitions"))
        );
        shell.execute(AssertSqlSafe(trigger)).await.unwrap();
        let mut child = self.start(None);
        self.wait_for(&mut child, stop_at).await;
        // Somebody is writing, all the time, and commits nothing.
        let mut probe = self.shell(Duration::ZERO).await;
        let mut refused = 0;
        for _ in 0..2_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            match probe.execute("BEGIN IMMEDIATE").await {
                Err(_) => refused += 1,
                Ok(_) => {
                    probe.execute("ROLLBACK").await.unwrap();
                    refused = 0;
                }
            }
            if refused == 60 {
                break;
            }
        }
        assert_eq!(refused, 60, "{place}: no commit stopped\n{}", self.log());
        let stopped_at = self.revision().await;
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
        shell
            .execute("DROP TRIGGER stop; DROP VIEW endless")
            .await
            .unwrap();
        // Of the batch that was half written there is nothing.
        assert_eq!(self.revision().await, stopped_at, "{place}");
    }

    async fn revision(&self) -> i64 {
        let mut shell = self.shell(SECOND * 5).await;
        let revision = sqlx::query("SELECT coalesce(sum(revision), 0) FROM source_partitions");
        revision.fetch_one(&mut shell).await.unwrap().get(0)
    }

    async fn wait_for(&self, child: &mut Child, revision: i64) {
        for _ in 0..6_000 {
            if self.revision().await >= revision {
                return;
            }
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("no revision {revision} within its time\n{}", self.log());
    }

    /// Every table says the same: the checkpoint counts what the others hold, row by row, over all tenants.
    async fn check_whole(&self, after: &str) {
        let mut shell = self.shell(SECOND * 5).await;
        let rows = sqlx::query(
            "SELECT 'records', sum(admitted + looped_back), (SELECT sum(event_count) FROM segments) FROM source_partitions
             UNION ALL SELECT 'ends of logs', sum(admitted + looped_back), (SELECT sum(next_sequence) FROM stream_partitions)
                         FROM source_partitions
             UNION ALL SELECT 'keys', sum(admitted), (SELECT count(*) FROM dedupe_0) FROM source_partitions
             UNION ALL SELECT 'versions', sum(applied), (SELECT sum(version) FROM entities) FROM source_partitions
             UNION ALL SELECT 'deposits', sum(applied), (SELECT sum(data ->> 'count') FROM entities)
                         FROM source_partitions
             UNION ALL SELECT 'emitted', sum(emitted - looped_back), (SELECT count(*) FROM open_work) FROM source_partitions
             UNION ALL SELECT 'letters', sum(unreadable + dead), (SELECT count(*) FROM dead_letters) FROM source_partitions",
        )
        .fetch_all(&mut shell)
        .await
        .unwrap();
        for row in rows {
            let of = |column: usize| row.get::<Option<i64>, _>(column).unwrap_or(0);
            let what: &str = row.get(0);
            assert_eq!(of(2), of(1), "{what} after {after}");
        }
    }
}

/// The file: deposits of all tenants in turns, a tenth of them twice, some that the machine cannot take, some
/// lines that are no event; and what plain addition makes of it.
fn input() -> (String, Totals) {
    let (mut text, mut truth) = (String::new(), Totals::new());
    for number in 0..EVENTS {
        let (tenant, cents) = (format!("bank{}", number % TENANTS), (number % 97) as i64);
        // The first accounts are known soon; later ones are new in every batch.
        let account = match number % 4 {
            0 => format!("new-{number}"),
            _ => format!("old-{}", number % ACCOUNTS),
        };
        let line = format!(
            "{{\"specversion\":\"1.0\",\"id\":\"e{number}\",\"source\":\"/bank\",\"type\":\"deposited\",\
             \"tenantid\":\"{tenant}\",\"subject\":\"{account}\",\"data\":{{\"cents\":{cents}}}}}"
        );
        for _ in 0..if number % 10 == 0 { 2 } else { 1 } {
            writeln!(text, "{line}").unwrap();
        }
        // What is no event has a tenant of its own, and is done long before the others: so some that is.
        match number % 8 {
            0 => writeln!(text, "no event {number}").unwrap(),
            3 => {
                let dead = line.replace("\"id\":\"e", "\"id\":\"dead");
                let dead = dead.replace("\"cents\"", "\"other\"");
                writeln!(text, "{dead}").unwrap();
            }
            _ => {}
        }
        let (count, sum) = truth.entry((tenant, account)).or_insert((0, 0));
        (*count, *sum) = (*count + 1, *sum + cents);
    }
    (text, truth)
}

#[test]
fn r25_a_commit_over_several_tenants_is_whole_or_absent_wherever_the_process_is_killed() {
    in_runtime(async {
        let scene = Scene::set();
        for (name, hits) in [
            ("before-commit", 3),
            ("after-commit", 2),
            ("before-acknowledge", 3),
            ("claimed", 1),
            ("draining", 1),
            ("before-commit", 1),
            ("after-commit", 1),
        ] {
            scene.die_at(name, hits).await;
            scene.check_whole(name).await;
        }
        for place in PLACES {
            scene.die_in_commit(place).await;
            scene.check_whole(place).await;
        }
        let revisions = scene.revision().await;
        support::say(&format!(
            "15 kills with -9 on the embedded store, revisions {revisions}"
        ));

        let status = node::wait_for_end(&mut scene.start(None), 30).await;
        assert!(status.success(), "{status}\n{}", scene.log());
        assert!(scene.revision().await > revisions, "there was work left");
        scene.check_whole("the end").await;
        let mut shell = scene.shell(SECOND * 5).await;
        let found = sqlx::query(
            "SELECT t.name, e.key, e.data ->> 'count', e.data ->> 'cents'
               FROM entities e JOIN tenants t USING (tenant_id)",
        )
        .fetch_all(&mut shell)
        .await
        .unwrap();
        let found: Totals = found
            .iter()
            .map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3))))
            .collect();
        assert_eq!(found, scene.truth);
        let verify = Command::new(WITH_FAILPOINTS)
            .args(["verify", "-c"])
            .arg(&scene.config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&verify.stderr);
        assert!(verify.status.success(), "{}\n{said}", verify.status);
    });
}
