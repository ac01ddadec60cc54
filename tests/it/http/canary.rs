//! Secrets of clients and operators, and where they must never be seen again.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::client::{Response, request};
use super::nodes::{observer, token};
use super::{STRUCTURED, pause, placed};

const ORDER: &str = include_str!("../../../deploy/examples/order.yaml");

/// In payloads, also in those that are no events.
const PAYLOAD: &str = "canary-payload-4f1d";
/// In idempotency keys.
const KEY: &str = "canary-key-77ab";
/// In tokens that are none.
const TOKEN: &str = "canary-token-90c2";
/// In a Postgres password.
const PASSWORD: &str = "canary-password-e35a";

/// A node whose standard output and error are files.
struct Logged {
    child: Child,
    address: String,
    token: String,
    observer: String,
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(directory: &Path) -> Vec<Value> {
    let log = fs::read_to_string(directory.join("stdout")).unwrap();
    // The last one may be half written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

#[track_caller]
fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    for _ in 0..1_200 {
        if let Some(found) = look() {
            return found;
        }
        pause(50);
    }
    panic!("never: {what}");
}

/// A node that logs everything it can as JSON on standard output.
fn logged(directory: &Path) -> Logged {
    fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
http: { listen: '127.0.0.1:0' }
log: { level: trace, format: json, stream: stdout }
machines: { paths: [order.yaml] }
sources:
  - { name: api, kind: http, stream: orders }
  - { name: file, kind: file, stream: orders, paths: [bad.ndjson], tenant: acme }
";
    fs::write(directory.join("node.yaml"), config).unwrap();
    let bad: Vec<String> = malformed().collect();
    fs::write(directory.join("bad.ndjson"), bad.join("\n")).unwrap();
    let whose = ("acme", "publish:fact,read,operate,observe", "canary");
    let token = token(directory, "node.yaml", whose, &[]);
    let observer = observer(directory, "node.yaml");
    let to = |name: &str| Stdio::from(File::create(directory.join(name)).unwrap());
    let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "-c", "node.yaml"])
        .env_remove("TIDEGATE_LOG")
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(to("stdout"))
        .stderr(to("stderr"))
        .spawn()
        .unwrap();
    let mut node = Logged {
        child,
        address: String::new(),
        token,
        observer,
    };
    node.address = until("it says where it is", || {
        let lines = lines(directory);
        let said = lines.iter().find(|it| it["message"] == "taking requests")?;
        let address = said["address"].as_str()?;
        address.split("//").nth(1).map(str::to_owned)
    });
    until("ready", || {
        (node.get("/readyz").status == 200).then_some(())
    });
    node
}

impl Logged {
    fn get(&self, target: &str) -> Response {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", &*bearer)];
        request(&self.address, "GET", target, &headers, b"")
    }

    fn post(&self, token: &str, key: &str, body: &str) -> Response {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", &*bearer),
            ("content-type", STRUCTURED),
            ("idempotency-key", key),
        ];
        request(
            &self.address,
            "POST",
            "/v1/events",
            &headers,
            body.as_bytes(),
        )
    }
}

/// Everything that a client may do wrong with secrets in its hands; what it is answered.
fn misbehave(node: &Logged) -> Vec<Response> {
    let mut good = placed("1", "o-1");
    good["data"]["note"] = json!(PAYLOAD);
    // The machine's expression finds no total: it is dead.
    let mut dead = placed("dead-1", "o-2");
    dead["data"] = json!({ "note": PAYLOAD });
    dead["correlationid"] = json!("c-1");
    let mut other = good.clone();
    other["data"]["note"] = json!(format!("{PAYLOAD}-2"));
    let half = good.to_string();
    let no_event = json!({ "specversion": PAYLOAD, "id": "2", "source": "/s", "data": PAYLOAD });
    let token = &node.token;
    vec![
        node.post(token, &format!("{KEY}-1"), &good.to_string()),
        node.post(token, &format!("{KEY}-1"), &other.to_string()),
        node.post(token, &format!("{KEY}-2"), &dead.to_string()),
        node.post(token, &format!("{KEY}-3"), &half[..half.len() - 1]),
        node.post(token, &format!("{KEY}-4"), &no_event.to_string()),
        node.post(TOKEN, &format!("{KEY}-5"), &good.to_string()),
        node.post(&format!("{token}{TOKEN}"), KEY, &good.to_string()),
        node.get(&format!("/v1/entities/order/o-1?token={TOKEN}")),
        // In places where a name is expected, and too long or with letters that no name has.
        node.get(&format!("/v1/entities/{TOKEN}%01/o-1")),
        node.get(&format!("/v1/entities/order/{TOKEN}%00")),
        node.get(&format!("/v1/entities/order/o-1/history?limit={TOKEN}")),
        node.get(&format!("/v1/entities/order/o-1/history?next={TOKEN}")),
        node.get(&format!("/v1/trace/{TOKEN}%01")),
        node.get(&format!("/v1/events/{TOKEN}")),
        node.get(&format!("/v1/events?id={TOKEN}%01")),
        node.get(&format!("/v1/events?correlation_id={TOKEN}%01")),
        node.get(&format!("/v1/events?stream={TOKEN}!")),
        node.get(&format!("/v1/events?stream=orders&after={TOKEN}")),
        node.get(&format!("/v1/events?{TOKEN}=1")),
        node.get(&format!("/v1/events?tenant={TOKEN}!")),
        node.get(&format!("/v1/dead-letters?state={TOKEN}")),
        node.get(&format!("/v1/dead-letters/{TOKEN}")),
        node.get(&format!("/v1/stream?from={TOKEN}")),
        node.post(
            token,
            &format!("{KEY}{}", "x".repeat(2_000)),
            &good.to_string(),
        ),
    ]
    .into_iter()
    .chain(malformed().map(|event| node.post(token, &format!("{KEY}-6"), &event)))
    .collect()
}

/// Events with a secret in each attribute that has rules, none of which it keeps.
fn malformed() -> impl Iterator<Item = String> {
    let names = [
        "id",
        "source",
        "type",
        "subject",
        "time",
        "tenantid",
        "correlationid",
        "causationid",
        "idempotencykey",
        "datacontenttype",
        "dataschema",
        "specversion",
        "data_base64",
        "own",
    ];
    names.into_iter().map(|name| {
        let mut event = placed("bad", "o-1");
        event[name] = json!(format!("{PAYLOAD}\u{1}{}", "x".repeat(2_000)));
        event.to_string()
    })
}

#[test]
fn r33_r40_secrets_are_in_no_log_metric_or_error_and_lines_about_events_have_their_ids() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let node = logged(directory);
    let mut said = String::new();
    for answer in misbehave(&node) {
        said.push_str(&answer.text());
    }
    let observer = format!("Bearer {}", node.observer);
    let headers = [("authorization", &*observer)];
    let metrics = request(&node.address, "GET", "/metrics", &headers, b"");
    said.push_str(&metrics.with_status(200).text());
    // What is kept of those that came in a file, where nobody could be answered.
    let letters = node
        .get("/v1/dead-letters?state=all")
        .with_status(200)
        .json();
    let letters = letters["dead_letters"].as_array().unwrap();
    let of_file = letters.iter().filter(|letter| letter["source"] == "file/0");
    assert!(of_file.count() >= 13, "{letters:?}");
    said.push_str(&json!(letters).to_string());
    let notice = until("the dead letter is told", || {
        lines(directory)
            .into_iter()
            .find(|line| line["message"] == "a dead letter is kept" && !line["machine"].is_null())
    });
    // R40: what concerns an event names it.
    for (field, value) in [
        ("event_id", "dead-1"),
        ("event_type", "order.placed"),
        ("tenant_id", "acme"),
        ("correlation_id", "c-1"),
        ("machine", "order"),
    ] {
        assert_eq!(notice[field], value, "{field}: {notice}");
    }
    let all = lines(directory);
    let received = all.iter().filter(|line| line["message"] == "received");
    let ids: Vec<&str> = received.filter_map(|it| it["event_id"].as_str()).collect();
    assert!(ids.contains(&"1") && ids.contains(&"dead-1"), "{ids:?}");
    for line in &all {
        for field in ["timestamp", "level", "target"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    let secret = node.token.clone();
    drop(node);
    for file in ["stdout", "stderr"] {
        said.push_str(&fs::read_to_string(directory.join(file)).unwrap());
    }
    assert!(said.contains("TRACE"), "the finest level was on");
    for canary in [PAYLOAD, KEY, TOKEN, &secret] {
        let at = said.find(canary);
        let around = at.map(|at| &said[at.saturating_sub(200)..(at + 100).min(said.len())]);
        assert_eq!(around, None, "{canary}");
    }
}

#[test]
fn r33_a_password_of_the_store_is_in_nothing_that_is_said_when_it_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    // Nobody listens on port 9 of this machine.
    let config = "
http: { listen: '127.0.0.1:0' }
limits: { start_limit_seconds: 0 }
store: { kind: postgres, postgres: { url: '${env:CANARY_URL}' } }
";
    fs::write(directory.join("node.yaml"), config).unwrap();
    let url = format!("postgres://tidegate_engine:{PASSWORD}@127.0.0.1:9/tidegate");
    for command in [&["run"][..], &["tenants", "create", "acme"], &["verify"]] {
        let ended = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(command)
            .args(["-c", "node.yaml", "--log-level", "trace"])
            .env("CANARY_URL", &url)
            .current_dir(directory)
            .output()
            .unwrap();
        let said = [ended.stdout, ended.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(ended.status.code(), Some(3), "{command:?}: {said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
}
