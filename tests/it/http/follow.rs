//! Following a tenant's logs: nothing missed, nothing twice, and an end that says why.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::{read_head, request};
use super::contract::hold;
use super::history::to;
use super::nodes::{ORDER, node_with, revoke, token, two_nodes};
use super::{STRUCTURED, Served, pause, placed};

/// The body of a chunked response.
struct Chunked {
    socket: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunked {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut size = String::new();
            self.socket.read_line(&mut size)?;
            self.left = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = into.len().min(self.left);
        let read = self.socket.read(&mut into[..most])?;
        self.left -= read;
        if self.left == 0 {
            self.socket.read_exact(&mut [0; 2])?;
        }
        Ok(read)
    }
}

/// One event of the protocol.
#[derive(Debug)]
pub struct Sent {
    pub name: String,
    pub data: Value,
}

/// A client that follows, as a browser would.
pub struct Follower {
    lines: BufReader<Chunked>,
    pub last_id: String,
}

impl Follower {
    pub fn open(node: &Served, token: &str, target: &str, last_id: Option<&str>) -> Self {
        let mut socket = TcpStream::connect(&node.address).unwrap();
        let wait = Some(Duration::from_secs(60));
        socket.set_read_timeout(wait).unwrap();
        let mut head = format!(
            "GET {target} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n",
            node.address
        );
        if let Some(id) = last_id {
            head.push_str(&format!("last-event-id: {id}\r\n"));
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        let mut socket = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(socket.read_line(&mut head).unwrap(), 0, "{head}");
        }
        let answer = read_head(head.trim_end()).with_status(200);
        hold("GET", target, &answer);
        let mut follower = Self {
            lines: BufReader::new(Chunked { socket, left: 0 }),
            last_id: String::new(),
        };
        // The first block has an id and no data: from here on nothing is missed.
        while follower.last_id.is_empty() {
            let line = follower.line().unwrap();
            follower.keep_id(&line);
        }
        follower
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end_matches('\n').to_owned())
    }

    fn keep_id(&mut self, line: &str) {
        if let Some(id) = line.strip_prefix("id: ") {
            self.last_id = id.to_owned();
        }
    }

    /// The next one, or `None` at the end.
    pub fn next(&mut self) -> Option<Sent> {
        let (mut name, mut data) = ("message".to_owned(), String::new());
        loop {
            let line = self.line()?;
            self.keep_id(&line);
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_owned();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data.push_str(text);
                data.push('\n');
            } else if line.is_empty() && !data.is_empty() {
                let data = serde_json::from_str(&data).unwrap();
                return Some(Sent { name, data });
            }
        }
    }

    /// The reason that the last event gives.
    pub fn reason(mut self) -> Value {
        let mut last = None;
        while let Some(sent) = self.next() {
            last = Some(sent);
        }
        let last = last.expect("an event");
        assert_eq!(last.name, "closed");
        last.data["reason"].clone()
    }
}

/// What a follower saw of each log: sequences as they came.
#[derive(Default)]
struct Seen(BTreeMap<String, Vec<u64>>);

impl Seen {
    fn add(&mut self, sent: &Sent) {
        assert_eq!(sent.name, "message", "{sent:?}");
        let position = sent.data["position"].as_str().unwrap();
        let (log, sequence) = position.rsplit_once(':').unwrap();
        let log = self.0.entry(log.to_owned()).or_default();
        log.push(sequence.parse().unwrap());
    }
}

#[test]
fn what_is_stored_and_what_is_written_meanwhile_comes_once_and_in_order_also_across_a_break() {
    const EACH: u64 = 40;
    let directory = tempfile::tempdir().unwrap();
    let (config, _) = node_with(directory.path());
    let scopes = "publish:fact,publish:intent,read,observe";
    let token = token(directory.path(), &config, ("acme", scopes, "both"), &[]);
    let node = Served::run(directory.path(), &config, &token, &[]);
    let write = |stream: &str, from: u64, count: u64| {
        for n in from..from + count {
            let id = format!("{stream}-{n}");
            to(&node, stream, &placed(&id, &id));
        }
    };
    write("orders", 0, 5);
    write("wishes", 0, 5);
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        scope.spawn(|| write("orders", 5, EACH - 5));
        scope.spawn(|| write("wishes", 5, EACH - 5));
        let mut left = 2 * EACH;
        let mut last_id = "start".to_owned();
        while left > 0 {
            // Cut off in the middle, again and again, and back with the last id.
            let mut follower = Follower::open(&node, &token, "/v1/stream", Some(&last_id));
            for _ in 0..left.min(25) {
                seen.add(&follower.next().unwrap());
                left -= 1;
            }
            last_id = follower.last_id;
        }
    });
    let expected: Vec<u64> = (0..EACH).collect();
    let logs: Vec<_> = seen.0.keys().map(String::as_str).collect();
    assert_eq!(logs, ["orders:api/0", "wishes:asks/0"]);
    assert!(seen.0.values().all(|log| *log == expected), "{:?}", seen.0);
    // Of one stream, from a place in the middle.
    let target = "/v1/stream?stream=orders&from=orders:api/0:38";
    let mut follower = Follower::open(&node, &token, target, None);
    let ids = [follower.next().unwrap(), follower.next().unwrap()].map(|it| it.data["id"].clone());
    assert_eq!(json!(ids), json!(["orders-38", "orders-39"]));
    assert_eq!(node.stop(), Some(0));
    assert_eq!(follower.reason(), "stopping");
}

#[test]
fn a_filter_chooses_and_one_that_is_none_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let token = node.token.clone();
    let filter = "/v1/stream?filter=event.data.total_cents%20%3E%201500";
    let mut follower = Follower::open(&node, &token, filter, None);
    for (id, cents) in [
        ("small", 1000),
        ("large", 2000),
        ("none", 0),
        ("huge", 3000),
    ] {
        let mut event = placed(id, id);
        event["data"] = match cents {
            0 => json!({ "other": "\n" }),
            cents => json!({ "total_cents": cents }),
        };
        node.event(&event);
    }
    for id in ["large", "huge"] {
        let sent = follower.next().unwrap();
        assert_eq!((&*sent.name, &sent.data["id"]), ("message", &json!(id)));
        assert_eq!(sent.data["effects"][0]["outcome"], "applied");
    }
    for (query, at) in [
        ("filter=event.data.%28", "filter"),
        ("filter=1", "filter"),
        ("filter=state.x%20%3D%3D%201", "filter"),
        ("filter=", "filter"),
        ("from=yesterday", "from"),
        ("from=events:http/0:99", "from"),
        ("stream=a%20b", "stream"),
    ] {
        let refused = node.get(&format!("/v1/stream?{query}")).with_status(422);
        assert_eq!(refused.json()["faults"][0]["at"], at, "{query}");
    }
}

#[test]
fn of_many_logs_each_event_comes_with_a_short_id_or_none_and_too_many_end_the_stream() {
    const LOGS: usize = 1_000;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
http: { listen: '127.0.0.1:0' }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "all");
    let token = token(directory, "node.yaml", whose, &[]);
    let files = (0..LOGS).map(|n| {
        let line = placed(&n.to_string(), "o").to_string() + "\n";
        std::fs::write(directory.join(format!("{n}.ndjson")), line).unwrap();
        format!("{n}.ndjson")
    });
    let files: Vec<String> = files.collect();
    let ended = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args([
            "ingest",
            "-c",
            "node.yaml",
            "--tenant",
            "acme",
            "--source",
            "many",
        ])
        .args(files)
        .current_dir(directory)
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let node = Served::run(directory, "node.yaml", &token, &[]);
    let mut seen = Seen::default();
    let mut follower = Follower::open(&node, &token, "/v1/stream?from=start", None);
    let mut ids = BTreeSet::new();
    for _ in 0..LOGS {
        seen.add(&follower.next().unwrap());
        ids.insert(follower.last_id.clone());
    }
    assert_eq!(seen.0.len(), LOGS, "each log once");
    // Some kilobytes each: at every event they would be many times what is told.
    let bytes: usize = ids.iter().map(String::len).sum();
    assert!(bytes < 200 * LOGS, "{bytes} bytes in {} ids", ids.len());
    // The last one names them all, and is short enough to come back with.
    while follower.last_id.split(',').count() < LOGS {
        let line = follower.line().unwrap();
        follower.keep_id(&line);
    }
    assert!(follower.last_id.len() < 8 * LOGS, "{}", follower.last_id);
    let mut back = Follower::open(&node, &token, "/v1/stream", Some(&follower.last_id));
    node.event(&placed("new", "o")).with_status(200);
    for one in [&mut follower, &mut back] {
        let last = one.next().unwrap();
        assert_eq!(
            (&*last.name, &last.data["reason"]),
            ("closed", &json!("too-many-logs"))
        );
    }
    let refused = node.get("/v1/stream").with_status(422).json();
    assert_eq!(refused["faults"][0]["at"], "stream");
    let one = Follower::open(&node, &token, "/v1/stream?stream=orders&from=start", None).next();
    assert_eq!(one.unwrap().data["id"], "new");
}

#[test]
fn a_client_that_does_not_read_is_closed_and_told_so_and_its_place_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
http: { listen: '127.0.0.1:0', tenant_streams_max: 1, stream_slow_seconds: 1 }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "all");
    let token = token(directory, "node.yaml", whose, &[]);
    let node = Served::run(directory, "node.yaml", &token, &[]);
    let slow = Follower::open(&node, &token, "/v1/stream", None);
    let second = node.get("/v1/stream").with_status(429);
    assert!(second.header("retry-after").is_some());
    // More than a socket's buffers hold on both sides.
    for n in 0..30 {
        let mut event = placed(&n.to_string(), "o");
        event["data"]["padding"] = json!("x".repeat(900_000));
        node.post("/v1/streams/orders", STRUCTURED, &event.to_string())
            .with_status(200);
    }
    let is_free = (0..600).any(|_| {
        pause(50);
        // Refused for its position once there is a place for it.
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", &*bearer)];
        let target = "/v1/stream?from=orders:api/0:9999";
        request(&node.address, "GET", target, &headers, b"").status == 422
    });
    assert!(is_free, "the slow one keeps its place");
    assert_eq!(slow.reason(), "slow");
}

#[test]
fn a_stream_shows_what_another_node_commits_and_ends_when_its_token_is_revoked() {
    let directory = tempfile::tempdir().unwrap();
    let Some(nodes) = two_nodes("follow_over_http", directory.path()) else {
        return;
    };
    let whose = ("acme", "read", "follower");
    let reader = token(directory.path(), "a.yaml", whose, &nodes.environment);
    let mut follower = Follower::open(&nodes.b, &reader, "/v1/stream", None);
    let mut seen = Seen::default();
    for n in 0..10 {
        for (node, name) in [(&nodes.a, "a"), (&nodes.b, "b")] {
            let id = format!("{name}-{n}");
            to(node, "orders", &placed(&id, &id));
        }
    }
    for _ in 0..20 {
        seen.add(&follower.next().unwrap());
    }
    let expected: Vec<u64> = (0..10).collect();
    assert_eq!(seen.0.len(), 2, "a log a slot");
    assert!(seen.0.values().all(|log| *log == expected), "{:?}", seen.0);
    revoke(directory.path(), "a.yaml", &reader, &nodes.environment);
    assert_eq!(follower.reason(), "unauthorized");
}
