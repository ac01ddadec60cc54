//! Every answer that the description promises is given by some request here; what it looks like is held by
//! `contract`, as with every other response.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;

use serde_json::json;
use tidegate::http::route::{Access, all};
use tidegate_engine::access::Operation;

use super::access::target;
use super::client::{Response, read_response, request};
use super::contract::{Answered, described, hold, routes};
use super::follow::Follower;
use super::nodes::{ORDER, metrics, observer, token};
use super::{BATCH, STRUCTURED, Served, pause, placed};
use crate::support::database::{TestDatabase, address, with_address};
use crate::support::proxy::Proxy;

const NOBODY: &str = "00000000000000000000000000000000";
const TYPE: (&str, &str) = ("content-type", STRUCTURED);
const WRITES: [&str; 2] = ["/v1/events", "/v1/streams/orders"];

/// Asks, and remembers what was answered.
struct Asking<'n> {
    node: &'n Served,
    produced: BTreeSet<Answered>,
}

impl Asking<'_> {
    fn note(&mut self, method: &str, target: &str, status: u16) {
        let routes = routes(method, target).into_iter();
        self.produced.extend(routes.map(|route| (route, status)));
    }

    fn ask(&mut self, method: &str, target: &str, token: &str, body: &[u8]) -> u16 {
        self.ask_as(method, target, token, &[TYPE], body)
    }

    fn ask_as(
        &mut self,
        method: &str,
        target: &str,
        token: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> u16 {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("authorization", &*bearer)];
        headers.extend_from_slice(more);
        let answer = request(&self.node.address, method, target, &headers, body);
        self.note(method, target, answer.status);
        answer.status
    }

    #[track_caller]
    fn must(&mut self, status: u16, method: &str, target: &str) {
        let answered = self.ask(method, target, &self.node.token, b"");
        assert_eq!(answered, status, "{method} {target}");
    }

    #[track_caller]
    fn must_take(&mut self, status: u16, target: &str, media_type: &str, body: &[u8]) {
        let more = [("content-type", media_type)];
        let answered = self.ask_as("POST", target, &self.node.token, &more, body);
        assert_eq!(answered, status, "POST {target}");
    }
}

/// Answers that need a node whose store is away: they are given by the other test here.
fn needs_an_outage((route, status): &Answered) -> bool {
    let given_all_the_same = [
        "GET /v1/stream",
        "POST /v1/events",
        "POST /v1/streams/{stream}",
    ];
    *status == 503 && !given_all_the_same.contains(&&**route)
}

/// A route that cannot do its work without the store.
fn needs_the_store(path: &str) -> bool {
    path.starts_with("/v1/")
}

/// A node with small limits, a token of `acme` that may nothing here, one each of two others that read, and
/// one that looks after all.
fn node(directory: &Path) -> (Served, [String; 4]) {
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    // Room for the bodies of two requests of the largest size.
    let config = "
http:
  listen: '127.0.0.1:0'
  bodies_bytes_max: 33554432
  body_seconds: 4
  tenant_events_per_second: 20
  streams_max: 2
  tenant_streams_max: 1
limits: { upkeep_interval_seconds: 1 }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let others = [("acme", "admin"), ("bolt", "read"), ("coal", "read")];
    let [nothing, bolt, coal] = others.map(|(tenant, scope)| {
        let whose = (tenant, scope, "other");
        token(directory, "node.yaml", whose, &[])
    });
    let others = [nothing, bolt, coal, observer(directory, "node.yaml")];
    let whose = ("acme", "publish:fact,read,observe,operate", "all");
    let token = token(directory, "node.yaml", whose, &[]);
    let node = Served::run(directory, "node.yaml", &token, &[]);
    (node, others)
}

#[test]
fn every_described_answer_of_every_route_is_given() {
    let directory = tempfile::tempdir().unwrap();
    let (node, [nothing, bolt, coal, observer]) = node(directory.path());
    let mut asking = Asking {
        node: &node,
        produced: BTreeSet::new(),
    };
    for route in all() {
        let (method, target) = (route.method.as_str(), target(route.path));
        asking.must(405, "PUT", &target);
        if route.access == Access::Open {
            asking.must(200, method, &target);
            continue;
        }
        assert_eq!(asking.ask(method, &target, "", b""), 401);
        assert_eq!(asking.ask(method, &target, &nothing, b""), 403);
        if route.access == Access::Needs(Operation::Observe) {
            asking.must(200, method, &target);
        }
        if matches!(route.access, Access::OfAll(_)) {
            assert_eq!(asking.ask(method, &target, &observer, b""), 200);
        }
    }
    writes(&mut asking);
    reads(&mut asking);
    letters(&mut asking);
    streams(&mut asking, &bolt, &coal, &observer);
    full(&mut asking);
    let missing = described();
    let missing = missing.difference(&asking.produced);
    let missing: Vec<&Answered> = missing.filter(|it| !needs_an_outage(it)).collect();
    assert!(
        missing.is_empty(),
        "described, and never given: {missing:#?}"
    );
}

fn writes(asking: &mut Asking<'_>) {
    for (name, target, other) in [
        ("a", WRITES[0], "/v1/events?stream=other"),
        ("b", WRITES[1], "/v1/streams/other"),
    ] {
        let mut event = placed(name, name);
        event["correlationid"] = json!("c-1");
        let body = event.to_string();
        asking.must_take(200, target, STRUCTURED, body.as_bytes());
        asking.must_take(404, other, STRUCTURED, body.as_bytes());
        let batch = json!([event, { "specversion": "1.0" }]).to_string();
        asking.must_take(207, target, BATCH, batch.as_bytes());
        event["data"] = json!({ "total_cents": 1 });
        asking.must_take(409, target, STRUCTURED, event.to_string().as_bytes());
        let large = vec![b' '; 9 * 1024 * 1024];
        asking.must_take(413, target, STRUCTURED, &large);
        asking.must_take(415, target, "text/plain", b"x");
        asking.must_take(422, target, STRUCTURED, b"{");
    }
    // One that dies: its letter can be retried.
    let mut dead = placed("dead", "dead");
    dead["data"] = json!({});
    asking.must_take(200, WRITES[0], STRUCTURED, dead.to_string().as_bytes());
}

fn reads(asking: &mut Asking<'_>) {
    for found in [
        "/v1/entities/order/a",
        "/v1/entities/order/a/history",
        "/v1/events?stream=orders",
        "/v1/events/orders:api/0:0",
        "/v1/dead-letters",
    ] {
        asking.must(200, "GET", found);
        let sign = if found.contains('?') { '&' } else { '?' };
        asking.must(422, "GET", &format!("{found}{sign}tenant=%zz"));
    }
    for nothing in [
        "/v1/entities/order/nobody",
        "/v1/entities/order/nobody/history",
        "/v1/events/orders:api/0:999",
        "/v1/trace/nothing",
        &format!("/v1/dead-letters/{NOBODY}"),
    ] {
        asking.must(404, "GET", nothing);
    }
    asking.must(422, "GET", "/v1/trace/c-1?tenant=%zz");
    // The index follows the log, a moment later.
    let is_indexed = (0..600).any(|_| {
        pause(100);
        asking.node.get("/v1/trace/c-1").status == 200
    });
    assert!(is_indexed);
    asking.must(200, "GET", "/v1/trace/c-1");
}

fn letters(asking: &mut Asking<'_>) {
    let letters = asking.node.get("/v1/dead-letters").json();
    let letters = letters["dead_letters"].as_array().unwrap().clone();
    let dead = letters.iter().find(|it| it["reason"] == "expression");
    let id = dead.unwrap_or_else(|| panic!("{letters:?}"))["id"].clone();
    let letter = format!("/v1/dead-letters/{}", id.as_str().unwrap());
    asking.must(200, "GET", &letter);
    asking.must(422, "GET", "/v1/dead-letters/x");
    asking.must(200, "POST", &format!("{letter}/retry"));
    asking.must(200, "POST", &format!("{letter}/discard"));
    for decision in ["retry", "discard"] {
        asking.must(409, "POST", &format!("{letter}/{decision}"));
        let nobody = format!("/v1/dead-letters/{NOBODY}/{decision}");
        asking.must(404, "POST", &nobody);
        asking.must(422, "POST", &format!("/v1/dead-letters/x/{decision}"));
    }
}

fn streams(asking: &mut Asking<'_>, bolt: &str, coal: &str, observer: &str) {
    const STREAM: &str = "/v1/stream";
    asking.must(422, "GET", "/v1/stream?filter=(");
    let _ours = Follower::open(asking.node, &asking.node.token, STREAM, None);
    asking.note("GET", STREAM, 200);
    let shown = metrics(asking.node, observer);
    assert!(
        shown.contains("\ntidegate_http_streams_open 1\n"),
        "{shown}"
    );
    asking.must(429, "GET", STREAM);
    let _theirs = Follower::open(asking.node, bolt, STREAM, None);
    assert_eq!(asking.ask("GET", STREAM, coal, b""), 503);
}

/// What a node refuses for the sake of others.
fn full(asking: &mut Asking<'_>) {
    let token = asking.node.token.clone();
    let batch: Vec<_> = (0..20).map(|_| placed("a", "a")).collect();
    let batch = json!(batch).to_string();
    for target in WRITES {
        // A second's quota in one request: the next ones come within that second, most of them.
        let is_too_much = (0..100).any(|_| {
            let more = [("content-type", BATCH)];
            asking.ask_as("POST", target, &token, &more, batch.as_bytes()) == 429
        });
        assert!(is_too_much, "{target}");
    }
    // Two of the largest body there is, but for its last byte, take all the room that a tenant has.
    let slow = WRITES.map(|target| {
        let mut slow = TcpStream::connect(&asking.node.address).unwrap();
        let head = format!(
            "POST {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
             content-type: {STRUCTURED}\r\nconnection: close\r\ncontent-length: 8388608\r\n\r\n"
        );
        slow.write_all(head.as_bytes()).unwrap();
        slow.write_all(&vec![b' '; 8_388_607]).unwrap();
        slow
    });
    for target in WRITES {
        let is_full = (0..100).any(|_| {
            pause(20);
            asking.ask("POST", target, &token, b"{\"id\":1}") == 503
        });
        assert!(is_full, "{target}");
    }
    for (target, mut slow) in WRITES.into_iter().zip(slow) {
        let answer = read_response(&mut slow).unwrap().with_status(408);
        hold("POST", target, &answer);
        asking.note("POST", target, 408);
    }
}

/// What every route that needs the store answers, all asked at the same time.
fn answers_of_all(node: &Served) -> Vec<(String, String, Response)> {
    std::thread::scope(|scope| {
        let asked = all()
            .into_iter()
            .filter(|route| needs_the_store(route.path));
        let asked = asked.map(|route| {
            scope.spawn(move || {
                let method = route.method.to_string();
                // Ones with which nothing else is wrong.
                let target = match route.path {
                    "/v1/stream" => "/v1/stream".to_owned(),
                    path => target(path),
                };
                let body = placed("away", "o-1").to_string();
                let answer = match &*method {
                    "GET" => node.get(&target),
                    _ => node.post(&target, STRUCTURED, &body),
                };
                (method, target, answer)
            })
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().map(|it| it.join().unwrap()).collect()
    })
}

#[test]
fn while_the_store_is_away_every_route_but_liveness_says_503_and_when_to_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let [runtime, outside] = [(); 2].map(|()| tokio::runtime::Runtime::new().unwrap());
    let Some(database) = runtime.block_on(TestDatabase::create("away_over_http")) else {
        return;
    };
    let proxy = outside.block_on(Proxy::start(address(&database.engine_url())));
    let engine = database.prefix().role("engine");
    let environment = [
        (
            "ENGINE_URL",
            with_address(&database.engine_url(), proxy.address()),
        ),
        ("ADMIN_URL", database.admin_url()),
        ("ROLE_PREFIX", engine.trim_end_matches("_engine").to_owned()),
    ];
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
store:
  kind: postgres
  postgres: { url: '${env:ENGINE_URL}', migrate_url: '${env:ADMIN_URL}', role_prefix: '${env:ROLE_PREFIX}' }
http: { listen: '127.0.0.1:0', answer_seconds: 1 }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe,operate", "all");
    let token = token(directory, "node.yaml", whose, &environment);
    let node = Served::run(directory, "node.yaml", &token, &environment);
    // Nobody has shown this one yet, so that nobody believes it while the store cannot be asked.
    let whose = ("acme", "publish:fact,read,observe,operate", "later");
    let unknown = super::nodes::token(directory, "node.yaml", whose, &environment);
    let mut asking = Asking {
        node: &node,
        produced: BTreeSet::new(),
    };
    node.get("/v1/dead-letters").with_status(200);
    outside.shutdown_background();
    // One that was shown a moment ago is believed for some seconds: there it is the route that says so.
    for (method, target, answer) in answers_of_all(&node) {
        let answer = answer.with_status(503);
        assert!(answer.header("retry-after").is_some(), "{method} {target}");
        assert!(!answer.text().contains("tokens"), "{method} {target}");
    }
    for route in all() {
        let (method, target) = (route.method.as_str(), target(route.path));
        let expected = if route.access == Access::Open {
            200
        } else {
            503
        };
        let answered = asking.ask(method, &target, &unknown, b"");
        assert_eq!(answered, expected, "{method} {target}");
    }
    let described = described();
    let mut outages = described.iter().filter(|it| needs_an_outage(it));
    assert!(outages.all(|it| asking.produced.contains(it)));
}
