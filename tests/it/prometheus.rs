//! A real Prometheus: its checker reads the rules, its tester runs their tests, and it asks what each panel
//! of the dashboard asks of a node that it scrapes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::http::client::request;
use crate::http::nodes::{ORDER, observer, token};
use crate::http::{BATCH, Served, paid, pause, placed};
use crate::support::server;

/// The directory of `prometheus` and `promtool`; `deploy/dev/prometheus` prints it.
const PROMETHEUS: &str = "TIDEGATE_TEST_PROMETHEUS";

const DASHBOARD: &str = include_str!("../../deploy/grafana/tidegate.json");

fn tool(test: &str, name: &str) -> Option<PathBuf> {
    server(test, PROMETHEUS).map(|directory| Path::new(&directory).join(name))
}

#[test]
fn r41_alert_rules_pass_the_checker_and_their_own_tests() {
    let Some(promtool) = tool("alert_rules", "promtool") else {
        return;
    };
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ] {
        let ended = Command::new(&promtool)
            .args(arguments)
            .current_dir(rules)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(
            ended.status.success(),
            "{arguments:?}: {said}{}",
            String::from_utf8_lossy(&ended.stdout)
        );
    }
    let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
    let tests = include_str!("../../deploy/prometheus/alerts.test.yaml");
    for line in alerts.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            let fires = format!("alertname: {name}\n        exp_alerts:\n");
            assert!(
                tests.contains(&fires),
                "{name} has no test in which it fires"
            );
        }
    }
}

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
    /// Scrapes a node each second.
    fn start(binary: &Path, directory: &Path, node: &str, token: &str) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        std::fs::write(directory.join("scrape.token"), token).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: tidegate\n    \
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

/// What the panels ask, with Grafana's own words filled in.
fn queries() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap().to_owned();
            let query = target["expr"].as_str().unwrap();
            all.push((title, query.replace("$__rate_interval", "10s")));
        }
    }
    assert!(all.len() > 40, "{} queries", all.len());
    all
}

/// A node that has something to show of everything: files and requests, events of every outcome, what machines
/// emit, a dead letter, somebody without a token.
fn busy_node(directory: &Path) -> (Served, String) {
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let lines = [
        placed("f1", "of-a-file").to_string(),
        placed("f1", "of-a-file").to_string(),
        "no event".to_owned(),
    ];
    std::fs::write(directory.join("events.ndjson"), lines.join("\n") + "\n").unwrap();
    let config = "
http: { listen: '127.0.0.1:0' }
machines: { paths: [order.yaml] }
sources:
  - { name: files, kind: file, stream: files, tenant: acme, paths: [events.ndjson] }
  - { name: shop, kind: http, stream: orders }
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "shop");
    let token = token(directory, "node.yaml", whose, &[]);
    let observer = observer(directory, "node.yaml");
    (Served::run(directory, "node.yaml", &token, &[]), observer)
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
fn r41_every_query_of_the_dashboard_returns_a_series() {
    let Some(binary) = tool("every_query_of_the_dashboard", "prometheus") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (node, observer) = busy_node(directory);
    let prometheus = Prometheus::start(&binary, directory, &node.address, &observer);
    let mut left = queries();
    for round in 0..120 {
        keep_busy(&node, round);
        // What has a series once is left alone: what is asked is whether it can have one.
        left.retain(|(_, query)| !prometheus.series(query).is_ok_and(|series| series > 0));
        if left.is_empty() {
            return;
        }
        pause(500);
    }
    let log = std::fs::read_to_string(directory.join("prometheus.log")).unwrap_or_default();
    let answers: Vec<_> = left
        .iter()
        .map(|(title, query)| (title, query, prometheus.series(query)))
        .collect();
    panic!("without a series: {answers:#?}\n{log}");
}
