//! The node itself on sources of Kafka, as its users meet it: a configuration, the binary, and what its
//! commands say.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_connectors::contract::kafka::PlainReader;

use super::{Stage, name};
use crate::support::database::TestDatabase;

const ORDER: &str = include_str!("../../../deploy/examples/order.yaml");

/// A directory with a configuration over a database of its own, and the binary started there.
pub struct Desk {
    directory: tempfile::TempDir,
    config: PathBuf,
    database: TestDatabase,
}

/// A node; killed when it is dropped.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        let process = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &process]).status();
        assert!(asked.unwrap().success());
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Desk {
    /// A source of that stage's brokers and group; `source` and `kafka` are its other keys.
    pub async fn set(stage: &Stage, source: &str, kafka: &str) -> Option<Self> {
        let database = TestDatabase::create("kafka::node").await?;
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("order.yaml"), ORDER).unwrap();
        let (brokers, group) = (&stage.brokers, &stage.topic);
        let text = format!(
            "store: {{ kind: postgres, postgres: {{ url: '${{env:ENGINE_URL}}' }} }}\nmachines: {{ paths: [order.yaml] }}\nsources:\n  - name: shop\n    kind: kafka\n    stream: orders\n    \
             {source}\n    kafka: {{ brokers: ['{brokers}'], group: {group}, {kafka} }}\n"
        );
        let config = directory.path().join("node.yaml");
        std::fs::write(&config, text).unwrap();
        Some(Self {
            directory,
            config,
            database,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .arg("-c")
            .arg(&self.config)
            .args(arguments)
            .current_dir(self.directory.path())
            .env("ENGINE_URL", self.database.engine_url())
            .stdin(Stdio::null());
        command
    }

    pub fn start(&self) -> Running {
        let log = std::fs::File::create(self.directory.path().join("node.log")).unwrap();
        let mut command = self.command(&["run"]);
        Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("node.log")).unwrap_or_default()
    }

    /// What a command says as JSON, and how it ended.
    pub fn asked(&self, arguments: &[&str]) -> (i32, Vec<Value>, String) {
        let mut command = self.command(&["--output", "json"]);
        let ended = command.args(arguments).output().unwrap();
        let out = String::from_utf8(ended.stdout).unwrap();
        let lines = out.lines().map(|line| serde_json::from_str(line).unwrap());
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        (ended.status.code().unwrap(), lines.collect(), said)
    }

    pub fn lag(&self) -> Vec<Value> {
        let (code, rows, said) = self.asked(&["lag"]);
        assert_eq!(code, 0, "{said}\n{}", self.log());
        rows
    }

    /// Waits until nothing is behind.
    pub async fn drained(&self) {
        let mut rows = Vec::new();
        for _ in 0..120 {
            rows = self.lag();
            if rows.iter().all(|row| row["behind"] == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("still behind: {rows:?}\n{}", self.log());
    }

    /// Waits until the node has said so.
    pub async fn logged(&self, words: &str) {
        for _ in 0..240 {
            if self.log().contains(words) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("never `{words}`:\n{}", self.log());
    }

    /// An order of `acme`, as soon as it is there.
    pub async fn becomes(&self, key: &str) -> Value {
        let arguments = ["state", "get", "order", key, "--tenant", "acme"];
        for _ in 0..120 {
            if let (0, mut rows, _) = self.asked(&arguments) {
                return rows.remove(0);
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        panic!("no order `{key}`:\n{}", self.log());
    }

    pub fn order(&self, tenant: &str, key: &str) -> Value {
        let (code, rows, said) = self.asked(&["state", "get", "order", key, "--tenant", tenant]);
        assert_eq!(code, 0, "{said}");
        rows[0].clone()
    }
}

pub fn placed(id: &str, order: &str) -> String {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed", "subject": order,
        "data": { "total_cents": 1000 }
    })
    .to_string()
}

#[tokio::test]
async fn a_topic_becomes_state_whatever_form_its_events_have() {
    let Some(stage) = Stage::set("becomes-state", 2).await else {
        return;
    };
    let topics = format!("topics: [{}]", stage.topic);
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: earliest", &topics).await else {
        return;
    };
    stage.write(0, &placed("1", "structured")).await;
    let binary: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"2"),
        ("ce_source", b"/shop"),
        ("ce_type", b"order.placed"),
        ("ce_subject", "binär".as_bytes()),
        ("content-type", b"application/json"),
    ];
    let data = Bytes::from_static(br#"{"total_cents":1000}"#);
    stage
        .client
        .write_with_headers(&stage.topic, 1, &binary, data)
        .await;
    stage.write(1, "no event at all").await;
    stage.write(1, &placed("3", "behind-it")).await;
    stage.write(0, &placed("1", "structured")).await;
    let node = desk.start();
    desk.drained().await;
    for order in ["structured", "binär", "behind-it"] {
        assert_eq!(desk.order("acme", order)["version"], 1, "{order}");
    }
    let (_, letters, said) = desk.asked(&["dead-letters", "list", "--tenant", "acme"]);
    assert_eq!(letters.len(), 1, "{letters:?} {said}");
    assert_eq!(letters[0]["reason"], "unreadable");
    node.stop();
    let (code, _, said) = desk.asked(&["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn r41_lag_is_the_computed_truth_while_no_node_runs() {
    const BEHIND: usize = 12_345;
    let Some(stage) = Stage::set("lag-while-stopped", 3).await else {
        return;
    };
    let topics = format!("topics: [{}]", stage.topic);
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: earliest", &topics).await else {
        return;
    };
    stage.write(0, &placed("0", "first")).await;
    let node = desk.start();
    desk.drained().await;
    node.stop();
    let records = (0..BEHIND).map(|number| Bytes::from(placed(&format!("n{number}"), "many")));
    let all = records.collect();
    stage.client.write_all(&stage.topic, 2, all).await;
    let rows = desk.lag();
    let of = |partition: usize, field: &str| rows[partition][field].clone();
    assert_eq!(rows.len(), 3);
    assert_eq!(of(0, "behind"), 0);
    assert_eq!(of(0, "status"), "ok");
    assert_eq!(of(2, "behind"), BEHIND);
    assert_eq!(of(2, "name"), format!("{}/2", stage.topic));
    assert!(of(2, "seconds").as_f64().unwrap() < 600.0);
    let (code, rows, _) = desk.asked(&["lag", "--by", "tenant", "--fail-over", "0s"]);
    assert_eq!(code, 1, "records wait for longer than no time");
    assert_eq!(rows[0]["tenant"], "acme");
    assert_eq!(rows[0]["behind"], BEHIND);
    let (code, _, _) = desk.asked(&["lag", "--fail-over", "1h"]);
    assert_eq!(code, 0);
    let node = desk.start();
    desk.drained().await;
    node.stop();
}

#[tokio::test]
async fn a_topic_may_be_a_tenants_own() {
    let Some(stage) = Stage::set("tenants", 1).await else {
        return;
    };
    let prefix = name("of");
    let topics = ["acme", "bolt"].map(|tenant| format!("{prefix}.{tenant}"));
    for topic in &topics {
        stage.client.make_topic(topic, 1, &[]).await;
    }
    let kafka = format!(
        "topics: ['{}', '{}'], tenant_of_topic: '{prefix}.{{tenant}}'",
        topics[0], topics[1]
    );
    let Some(desk) = Desk::set(&stage, "start: earliest", &kafka).await else {
        return;
    };
    for topic in &topics {
        let payload = Bytes::from(placed("1", "same"));
        stage.client.write(topic, 0, payload).await;
    }
    let mut foreign: Value = serde_json::from_str(&placed("2", "stolen")).unwrap();
    foreign["tenantid"] = json!("acme");
    let payload = Bytes::from(foreign.to_string());
    stage.client.write(&topics[1], 0, payload).await;
    let node = desk.start();
    desk.drained().await;
    for tenant in ["acme", "bolt"] {
        assert_eq!(desk.order(tenant, "same")["version"], 1);
    }
    let (_, letters, _) = desk.asked(&["dead-letters", "list", "--tenant", "bolt"]);
    assert_eq!(letters.len(), 1, "a record cannot choose another tenant");
    let (code, _, _) = desk.asked(&["state", "get", "order", "stolen", "--tenant", "acme"]);
    assert_ne!(code, 0);
    node.stop();
}

#[tokio::test]
async fn a_records_key_and_time_can_be_mapped_and_an_older_consumer_is_taken_over() {
    let Some(stage) = Stage::set("mapped", 1).await else {
        return;
    };
    let source = "tenant: acme\n    start: offsets_of_group\n    mapping:\n      \
                  id: { pointer: /no }\n      type: { literal: order.placed }\n      \
                  subject: { header: kafka.key }\n      time: { header: kafka.timestamp, format: epoch_ms }";
    let old = format!("{}-old", stage.topic);
    let kafka = format!(
        "topics: [{}], record_headers: true, start_group: '{old}'",
        stage.topic
    );
    let Some(desk) = Desk::set(&stage, source, &kafka).await else {
        return;
    };
    for number in 0..4 {
        let payload = Bytes::from(json!({"no": format!("{number}"), "total_cents": 1}).to_string());
        let key = format!("order-{number}");
        stage
            .client
            .write_keyed(&stage.topic, 0, &key, payload)
            .await;
    }
    stage
        .client
        .commit(&old, &stage.topic, 0, tidegate_engine::position::Offset(2));
    let node = desk.start();
    desk.drained().await;
    node.stop();
    let (code, ..) = desk.asked(&["state", "get", "order", "order-1", "--tenant", "acme"]);
    assert_ne!(code, 0, "the older consumer had it");
    assert_eq!(desk.order("acme", "order-2")["version"], 1);
    let (_, events, _) = desk.asked(&["events", "tail", "--tenant", "acme"]);
    assert_eq!(events.len(), 2);
    assert!(events[0].to_string().contains("\"time\""), "{events:?}");
}

#[tokio::test]
async fn doctor_asks_the_brokers() {
    let Some(stage) = Stage::set("doctor", 3).await else {
        return;
    };
    let topics = format!("topics: [{}]", stage.topic);
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: latest", &topics).await else {
        return;
    };
    let (_, rows, _) = desk.asked(&["doctor"]);
    let of_kafka = |rows: &[Value]| rows.iter().find(|row| row["about"] == "kafka").cloned();
    let found = of_kafka(&rows).unwrap();
    assert_eq!(found["result"], "ok");
    assert!(found["says"].to_string().contains("3 partitions"));
    let Some(desk) = Desk::set(
        &stage,
        "tenant: acme\n    start: latest",
        "topics: [nowhere]",
    )
    .await
    else {
        return;
    };
    let (code, rows, _) = desk.asked(&["doctor"]);
    assert_eq!(code, 1);
    let found = of_kafka(&rows).unwrap();
    assert_eq!(found["result"], "fail");
    assert!(found["says"].to_string().contains("no topic `nowhere`"));
}

#[tokio::test]
async fn a_topic_made_anew_stops_its_partition_and_a_person_has_it_go_on_under_the_running_node() {
    let Some(stage) = Stage::set("made-anew", 2).await else {
        return;
    };
    let topics = format!("topics: [{}]", stage.topic);
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: earliest", &topics).await else {
        return;
    };
    for number in 0..3 {
        let order = format!("old-{number}");
        stage.write(0, &placed(&order, &order)).await;
    }
    let node = desk.start();
    desk.drained().await;
    node.stop();
    stage.client.delete_topic(&stage.topic).await;
    stage.client.make_topic(&stage.topic, 2, &[]).await;
    for number in 0..2 {
        let order = format!("new-{number}");
        stage.write(0, &placed(&order, &order)).await;
    }
    stage.write(1, &placed("other", "other")).await;
    let node = desk.start();
    desk.logged("no record stands at offset 2").await;
    // The other partition had settled nothing by which it could be told, and goes on.
    let other = desk.becomes("other").await;
    assert_eq!(other["version"], 1);
    let (code, rows, said) = desk.asked(&["partitions", "list", "--source", "shop"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        (&rows[0]["partition"], &rows[0]["settled"]),
        (&json!(0), &json!(3))
    );
    let resume = |place: &str, at: &str| desk.asked(&["partitions", "resume", place, "--at", at]);
    let (code, _, said) = resume("shop/0", "99");
    assert!(code == 2 && said.contains("has offsets 0 to 2"), "{said}");
    assert_eq!(resume("nowhere/0", "earliest").0, 4);
    assert_eq!(resume("shop", "earliest").0, 2);
    let (code, _, said) = resume("shop/0", "earliest");
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("goes on at 0; it stood at 3"), "{said}");
    desk.drained().await;
    for order in ["new-0", "new-1"] {
        assert_eq!(desk.becomes(order).await["version"], 1, "{order}");
    }
    node.stop();
    let (code, _, said) = desk.asked(&["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn what_compaction_took_stops_nothing_and_its_holes_are_no_lag() {
    let Some(stage) = Stage::set("compacting", 1).await else {
        return;
    };
    let topic = name("compacted");
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "100"),
    ];
    stage.client.make_topic(&topic, 1, &settings).await;
    let topics = format!("topics: ['{topic}']");
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: earliest", &topics).await else {
        return;
    };
    let write = async |key: &str, order: &str| {
        let payload = Bytes::from(placed(order, order));
        stage.client.write_keyed(&topic, 0, key, payload).await;
    };
    write("a", "first").await;
    write("b", "last-settled").await;
    let node = desk.start();
    desk.drained().await;
    node.stop();
    write("b", "instead").await;
    let mut ticks = 0;
    loop {
        // What is written last is never compacted, and each segment ends with what is written behind it.
        write("tick", &format!("tick-{ticks}")).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
        let there = PlainReader::open(&stage.brokers, &topic, 0)
            .read(1_000)
            .await;
        let holds = |words: &str| {
            there
                .iter()
                .any(|it| String::from_utf8_lossy(it).contains(words))
        };
        if holds("\"instead\"") && !holds("last-settled") {
            break;
        }
        ticks += 1;
        assert!(ticks < 240, "compaction never came");
    }
    let node = desk.start();
    desk.logged("gone by the source's own rules").await;
    assert_eq!(desk.becomes("instead").await["version"], 1);
    desk.drained().await;
    node.stop();
    let (code, _, said) = desk.asked(&["verify"]);
    assert_eq!(code, 0, "{said}");
}
