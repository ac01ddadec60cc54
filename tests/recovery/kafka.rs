//! Nodes of one consumer group over one Postgres: killed with -9, stopped past their session and let go on,
//! their broker and their database crashed. Nothing is lost, nothing took effect twice, and the order of
//! each key is kept.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use sqlx::{PgConnection, Row as _};
use tidegate_connectors::contract::kafka::KafkaClient;

use super::input::{self, Shape};
use super::support::{self, database::TestDatabase};
use super::{WITH_FAILPOINTS, default_binary, in_runtime, node};

/// The group takes a member for gone that says nothing for so long.
const SESSION: Duration = Duration::from_secs(6);

/// Partitions of the topic: one a file.
const PARTITIONS: usize = 12;

/// What is done to one of the two nodes, or to a server of theirs.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    /// Killed with -9, and back under its name: its partitions wait for it.
    KillAndReturn(usize),
    /// Killed with -9, and another one comes in its place: the group has to notice.
    KillAndReplace(usize),
    /// Stands still for longer than its session, and goes on with what it believes to own.
    Stop(usize),
    CrashBroker,
    CrashDatabase,
}

use Disturbance::{CrashBroker, CrashDatabase, KillAndReplace, KillAndReturn, Stop};

const PLAN: [Disturbance; 15] = [
    KillAndReturn(0),
    KillAndReplace(1),
    Stop(0),
    KillAndReturn(1),
    KillAndReplace(0),
    CrashBroker,
    KillAndReturn(0),
    Stop(1),
    KillAndReplace(1),
    KillAndReturn(1),
    CrashDatabase,
    KillAndReplace(0),
    Stop(0),
    KillAndReturn(0),
    KillAndReplace(1),
];

struct Group {
    database: TestDatabase,
    directory: tempfile::TempDir,
    files: Vec<PathBuf>,
    brokers: String,
    client: KafkaClient,
    topic: String,
    nodes: Vec<Running>,
    started: usize,
    by_shipped: usize,
    shipped: Option<PathBuf>,
}

struct Running {
    name: String,
    child: Child,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Group {
    /// Two nodes on an empty topic; `None` without servers.
    async fn set(test: &str, events_a_file: usize) -> Option<Self> {
        let brokers = support::server(test, "TIDEGATE_TEST_KAFKA")?;
        let database = TestDatabase::create(test).await?;
        let directory = tempfile::tempdir().unwrap();
        let shape = Shape {
            files: PARTITIONS,
            events_a_file,
            repeated_percent: 5,
        };
        let files = input::write_shaped(directory.path(), &shape, 15);
        let client = KafkaClient::new(&brokers);
        let topic = format!("{test}-{}", std::process::id());
        client.make_topic(&topic, PARTITIONS, &[]).await;
        let mut group = Self {
            database,
            directory,
            files,
            brokers,
            client,
            topic,
            nodes: Vec::new(),
            started: 0,
            by_shipped: 0,
            shipped: default_binary(test),
        };
        for _ in 0..2 {
            let node = group.start_new();
            group.nodes.push(node);
        }
        Some(group)
    }

    fn start_new(&mut self) -> Running {
        let name = format!("node-{}", self.started);
        self.started += 1;
        self.start(&name)
    }

    /// Starts the node of that name, as it is shipped where that is known.
    fn start(&mut self, name: &str) -> Running {
        let config = self.config(name);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(name))
            .unwrap();
        let shipped = self.shipped.as_deref();
        let binary = shipped.unwrap_or(Path::new(WITH_FAILPOINTS));
        self.by_shipped += usize::from(shipped.is_some());
        let child = Command::new(binary)
            .args(["run", "-c"])
            .arg(config)
            .env("RECOVERY_POSTGRES_URL", self.database.engine_url())
            .env_remove("TIDEGATE_FAILPOINT")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Running {
            name: name.to_owned(),
            child,
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.log"))
    }

    fn config(&self, name: &str) -> PathBuf {
        let machine = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recovery/account.yaml");
        let session = SESSION.as_millis();
        let (brokers, topic) = (&self.brokers, &self.topic);
        let text = format!(
            "node: {{ name: {name} }}\n\
             store: {{ kind: postgres, postgres: {{ url: '${{env:RECOVERY_POSTGRES_URL}}' }} }}\n\
             machines: {{ paths: [{machine}] }}\n\
             sources:\n\
             \x20 - name: deposits\n\
             \x20   kind: kafka\n\
             \x20   stream: deposits\n\
             \x20   start: earliest\n\
             \x20   tenant_from_event_unsafe: true\n\
             \x20   unknown_tenants: create\n\
             \x20   kafka:\n\
             \x20     brokers: ['{brokers}']\n\
             \x20     group: {topic}\n\
             \x20     topics: [{topic}]\n\
             \x20     librdkafka: {{ session.timeout.ms: {session}, heartbeat.interval.ms: 1000 }}\n\
             limits: {{ batch_events_max: 200, restarts_max: 1000 }}\n"
        );
        let path = self.directory.path().join(format!("{name}.yaml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn logs(&self) -> String {
        let mut all = String::new();
        for number in 0..self.started {
            let name = format!("node-{number}");
            let log = std::fs::read_to_string(self.log(&name)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(12)..].join("\n");
            all.push_str(&format!("--- {name}\n{tail}\n"));
        }
        all
    }

    /// Publishes one part of so many of every file to the partition of its number.
    async fn publish(&self, part: usize, parts: usize) {
        for (partition, file) in self.files.iter().enumerate() {
            let text = std::fs::read_to_string(file).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            let (from, to) = (lines.len() * part / parts, lines.len() * (part + 1) / parts);
            let records = lines[from..to].iter();
            let records = records.map(|line| Bytes::copy_from_slice(line.as_bytes()));
            let partition = u32::try_from(partition).unwrap();
            self.client
                .write_all(&self.topic, partition, records.collect())
                .await;
        }
    }

    async fn progress(&self, admin: &mut PgConnection, commits: i64) {
        let before = node::revisions(admin).await;
        for _ in 0..6_000 {
            if node::revisions(admin).await >= before + commits {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no progress within a minute\n{}", self.logs());
    }

    async fn disturb(&mut self, what: Disturbance) {
        match what {
            KillAndReturn(of) => {
                self.nodes[of].child.kill().unwrap();
                self.nodes[of].child.wait().unwrap();
                let name = self.nodes[of].name.clone();
                self.nodes[of] = self.start(&name);
            }
            KillAndReplace(of) => {
                self.nodes[of].child.kill().unwrap();
                self.nodes[of].child.wait().unwrap();
                self.nodes[of] = self.start_new();
            }
            Stop(of) => {
                let process = self.nodes[of].child.id().to_string();
                signal(&process, "-STOP");
                tokio::time::sleep(SESSION + Duration::from_secs(3)).await;
                signal(&process, "-CONT");
            }
            CrashBroker => control("TIDEGATE_TEST_KAFKA_CTL", "kafka"),
            CrashDatabase => control("TIDEGATE_TEST_POSTGRES_CTL", "postgres"),
        }
    }

    /// Records in front of the ends of all partitions that no checkpoint has passed yet.
    async fn behind(&self, admin: &mut PgConnection) -> i64 {
        let mut behind = 0;
        let rows = sqlx::query(
            "select partition, next_offset from tidegate.source_partitions where source = 'deposits'",
        )
        .fetch_all(&mut *admin)
        .await
        .unwrap();
        for partition in 0..PARTITIONS {
            let number = i64::try_from(partition).unwrap();
            let settled = rows
                .iter()
                .find(|row| row.get::<i64, _>("partition") == number)
                .map_or(0, |row| row.get::<i64, _>("next_offset"));
            let end = self
                .client
                .end(&self.topic, u32::try_from(partition).unwrap());
            behind += i64::try_from(end.0).unwrap() - settled;
        }
        behind
    }

    async fn drained(&self, admin: &mut PgConnection) {
        let mut behind = 0;
        for _ in 0..1_800 {
            behind = self.behind(admin).await;
            if behind == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("still {behind} records behind\n{}", self.logs());
    }

    /// A node ends in order, with what it had received settled.
    fn end(&mut self, of: usize) -> Running {
        let mut node = self.nodes.remove(of);
        signal(&node.child.id().to_string(), "-TERM");
        let status = node.child.wait().unwrap();
        assert!(status.success(), "{}: {status}\n{}", node.name, self.logs());
        node
    }

    /// All nodes end in order, with everything settled.
    fn stop(&mut self) {
        for node in &mut self.nodes {
            signal(&node.child.id().to_string(), "-TERM");
        }
        let ended: Vec<_> = self
            .nodes
            .iter_mut()
            .map(|node| (node.name.clone(), node.child.wait().unwrap()))
            .collect();
        for (name, status) in ended {
            assert!(status.success(), "{name}: {status}\n{}", self.logs());
        }
    }

    fn verify(&self) {
        let verify = Command::new(WITH_FAILPOINTS)
            .args(["verify", "-c"])
            .arg(self.config("node-0"))
            .env("RECOVERY_POSTGRES_URL", self.database.engine_url())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&verify.stderr);
        assert!(verify.status.success(), "verify: {said}");
    }
}

fn signal(process: &str, signal: &str) {
    let sent = Command::new("kill").args([signal, process]).status();
    assert!(sent.unwrap().success());
}

/// Crashes a server and starts it again.
fn control(variable: &str, server: &str) {
    let control = std::env::var(variable).unwrap();
    for step in ["crash", "start"] {
        let done = Command::new(&control).args([server, step]).status();
        assert!(done.unwrap().success(), "{control} {server} {step}");
    }
}

#[test]
fn r41_nodes_of_a_group_are_killed_stopped_and_cut_off() {
    in_runtime(async {
        let name = "nodes_of_a_group_are_killed";
        let Some(mut group) = Group::set(name, 16_667).await else {
            return;
        };
        let parts = PLAN.len() + 1;
        for (part, what) in PLAN.into_iter().enumerate() {
            let mut admin = group.database.admin().await;
            group.publish(part, parts).await;
            group.progress(&mut admin, 15).await;
            let behind = group.behind(&mut admin).await;
            drop(admin);
            group.disturb(what).await;
            support::say(&format!("{part}: {what:?}, {behind} records behind"));
        }
        let mut admin = group.database.admin().await;
        group.publish(PLAN.len(), parts).await;
        group.drained(&mut admin).await;
        group.stop();
        if group.shipped.is_some() {
            assert!(group.by_shipped >= 5);
        }
        let deposits = input::compare(&mut admin, &group.files).await;
        assert!(deposits > 0);
        group.verify();
    });
}

#[test]
fn nodes_of_a_group_join_leave_and_are_restarted_one_by_one() {
    const PARTS: usize = 7;
    in_runtime(async {
        let Some(mut group) = Group::set("nodes_join_and_leave", 3_000).await else {
            return;
        };
        let mut admin = group.database.admin().await;
        for part in 0..PARTS {
            group.publish(part, PARTS).await;
            group.progress(&mut admin, 10).await;
            match part {
                // A third one joins.
                1 => {
                    let node = group.start_new();
                    group.nodes.push(node);
                }
                // Each is restarted in turn, under its name.
                2..=4 => {
                    let ended = group.end(0);
                    let node = group.start(&ended.name);
                    group.nodes.push(node);
                }
                // One leaves for good.
                5 => drop(group.end(0)),
                _ => {}
            }
        }
        group.drained(&mut admin).await;
        group.stop();
        let deposits = input::compare(&mut admin, &group.files).await;
        assert!(deposits > 0);
        group.verify();
    });
}
