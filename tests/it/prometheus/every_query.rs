//! Every query of every board has a series, once there is something of everything.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tidegate_connectors::contract::kafka::KafkaClient;

use super::tool;
use crate::boards::{self, Query, RULES};
use crate::http::client::request;
use crate::http::nodes::{ORDER, observer, token};
use crate::http::{BATCH, Served, paid, pause, placed};
use crate::kafka::{KAFKA, name};
use crate::support::server;

struct Prometheus {
    child: Child,
    address: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Scrapes a node and computes the rules each second.
    fn start(binary: &Path, directory: &Path, node: &str, token: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        std::fs::write(directory.join("scrape.token"), token).unwrap();
        std::fs::write(directory.join("rules.yaml"), RULES).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [rules.yaml]\nscrape_configs:\n  - job_name: tidegate\n    \
             authorization: {{ credentials_file: scrape.token }}\n    static_configs: [{{ targets: ['{node}'] }}]\n"
        );
        std::fs::write(directory.join("prometheus.yml"), config).unwrap();
        let log = std::fs::File::create(directory.join("prometheus.log")).unwrap();
        let child = Command::new(binary)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=prometheus-data")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// How many series a query returns now, or what is wrong with it.
    fn series(&self, query: &str) -> Result<usize, String> {
        let mut target = String::from("/api/v1/query?query=");
        for byte in query.bytes() {
            match byte.is_ascii_alphanumeric() {
                true => target.push(char::from(byte)),
                false => target.push_str(&format!("%{byte:02X}")),
            }
        }
        let mut socket = TcpStream::connect(&self.address).map_err(|error| error.to_string())?;
        let head = format!("GET {target} HTTP/1.0\r\n\r\n");
        socket
            .write_all(head.as_bytes())
            .map_err(|error| error.to_string())?;
        let mut answer = String::new();
        socket
            .read_to_string(&mut answer)
            .map_err(|error| error.to_string())?;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        let body: Value = serde_json::from_str(body).map_err(|_| answer.clone())?;
        match body["data"]["result"].as_array() {
            Some(series) => Ok(series.len()),
            None => Err(body.to_string()),
        }
    }
}

/// What the boards ask, with Grafana's own words filled in.
fn queries() -> Vec<Query> {
    let mut all = Vec::new();
    for board in boards::all() {
        for mut query in board.queries() {
            query.text = query.text.replace("$__rate_interval", "10s");
            for variable in board.variables().iter().filter(|it| it["type"] == "query") {
                let word = format!("${}", variable["name"].as_str().unwrap());
                let of_all = variable["allValue"].as_str().unwrap();
                query.text = query.text.replace(&word, of_all);
            }
            assert!(!query.text.contains('$'), "{}", query.text);
            all.push(query);
        }
    }
    assert!(all.len() > 80, "{} queries", all.len());
    all
}

/// A node that has something to show of everything: files, records and requests, events of every outcome, what machines
/// emit, a dead letter, a partition that has a name at its broker, somebody without a token.
fn busy_node(directory: &Path, brokers: &str) -> (Served, String) {
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let lines = [
        placed("f1", "of-a-file").to_string(),
        placed("f1", "of-a-file").to_string(),
        "no event".to_owned(),
    ];
    std::fs::write(directory.join("events.ndjson"), lines.join("\n") + "\n").unwrap();
    let topic = name("every-query");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(KafkaClient::new(brokers).make_topic(&topic, 1, &[]));
    let config = format!(
        "
http: {{ listen: '127.0.0.1:0' }}
machines: {{ paths: [order.yaml] }}
sources:
  - {{ name: files, kind: file, stream: files, tenant: acme, paths: [events.ndjson] }}
  - {{ name: shop, kind: http, stream: orders }}
  - name: till
    kind: kafka
    stream: till
    tenant: acme
    start: earliest
    kafka: {{ brokers: ['{brokers}'], group: {topic}, topics: [{topic}] }}
"
    );
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "shop");
    let token = token(directory, "node.yaml", whose, &[]);
    let observer = observer(directory, "node.yaml");
    let start = || Served::run(directory, "node.yaml", &token, &[]);
    // Dead letters are counted as a node starts and once a minute: they are there when this one does.
    let before = start();
    keep_busy(&before, 0);
    assert_eq!(before.stop(), Some(0));
    (start(), observer)
}

fn keep_busy(node: &Served, round: usize) {
    let order = format!("o-{round}");
    let mut other = placed(&format!("{round}-1"), &order);
    other["data"]["total_cents"] = 7.into();
    let events = [
        placed(&format!("{round}-1"), &order),
        other,
        paid(&format!("{round}-2"), &order, 5_000),
        // Refused by the machine, and heard by none.
        paid(&format!("{round}-3"), "never-placed", 1),
    ];
    node.post(
        "/v1/events",
        BATCH,
        &Value::from(events.to_vec()).to_string(),
    );
    let nobody = [("authorization", "Bearer nonsense")];
    request(&node.address, "GET", "/readyz", &nobody, b"").with_status(401);
}

#[test]
fn r41_every_query_of_every_board_returns_a_series() {
    let test = "every_query_of_every_board";
    let (Some(binary), Some(brokers)) = (tool(test, "prometheus"), server(test, KAFKA)) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (node, observer) = busy_node(directory, &brokers);
    let prometheus = Prometheus::start(&binary, directory, &node.address, &observer);
    let mut left = queries();
    for round in 1..120 {
        keep_busy(&node, round);
        // What has a series once is left alone: what is asked is whether it can have one.
        left.retain(|query| {
            let series = prometheus.series(&query.text);
            !series.is_ok_and(|series| series > 0)
        });
        if left.is_empty() {
            return;
        }
        pause(500);
    }
    let log = std::fs::read_to_string(directory.join("prometheus.log")).unwrap_or_default();
    let answers: Vec<_> = left
        .iter()
        .map(|query| (&query.place, &query.text, prometheus.series(&query.text)))
        .collect();
    panic!("without a series: {answers:#?}\n{log}");
}
