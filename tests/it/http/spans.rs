//! Spans to an OpenTelemetry collector: they arrive, they hold nothing of an event's content, and nobody waits
//! for a collector that is away.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::nodes::token;
use super::{Served, pause, placed};

const ORDER: &str = include_str!("../../../deploy/examples/order.yaml");
const CONTENT: &str = "canary-in-the-content";

/// What a collector was sent, one body a request.
type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;

/// Answers every request with 200 and keeps its body.
fn collector() -> (String, Bodies) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Bodies::default();
    let kept = bodies.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, kept) = (stream.unwrap(), kept.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                while let Some(body) = request(&mut reader) {
                    kept.lock().unwrap().push(body);
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    reader.get_mut().write_all(answer).unwrap();
                }
            });
        }
    });
    (address, bodies)
}

/// The body of the next request to `/v1/traces`, if one comes.
fn request(reader: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    assert!(line.starts_with("POST /v1/traces HTTP/1.1"), "{line}");
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let head = line.trim().to_ascii_lowercase();
        if head.is_empty() {
            break;
        }
        if let Some(value) = head.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(body)
}

fn contains(bodies: &[Vec<u8>], text: &str) -> bool {
    let holds = |body: &Vec<u8>| body.windows(text.len()).any(|at| at == text.as_bytes());
    bodies.iter().any(holds)
}

fn node(directory: &Path, endpoint: &str) -> Served {
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = format!(
        "
node: {{ name: spanning }}
http: {{ listen: '127.0.0.1:0' }}
machines: {{ paths: [order.yaml] }}
telemetry: {{ otlp_endpoint: '{endpoint}' }}
sources:
  - {{ name: api, kind: http, stream: orders }}
"
    );
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let scopes = ("acme", "publish:fact,read,observe", "acme");
    let token = token(directory, "node.yaml", scopes, &[]);
    Served::run(directory, "node.yaml", &token, &[])
}

#[test]
fn spans_of_each_verb_reach_a_collector_and_hold_no_content() {
    let directory = tempfile::tempdir().unwrap();
    let (endpoint, bodies) = collector();
    let node = node(directory.path(), &endpoint);
    let mut event = placed("e1", "o1");
    event["data"]["note"] = CONTENT.into();
    event["idempotencykey"] = CONTENT.into();
    node.event(&event).with_status(200);
    // The last ones are sent at the end.
    assert_eq!(node.stop(), Some(0));
    let bodies = bodies.lock().unwrap();
    for span in [
        "receive",
        "route",
        "admit",
        "apply",
        "commit",
        "settle",
        "acknowledge",
    ] {
        // A name as it is sent, behind its length: no part of another one.
        let name = format!("{}{span}", char::from(span.len() as u8));
        assert!(contains(&bodies, &name), "no span `{span}`");
    }
    for said in ["tidegate", "spanning", "service.instance.id"] {
        assert!(contains(&bodies, said), "nothing says `{said}`");
    }
    assert!(!contains(&bodies, CONTENT), "content left the node");
}

#[test]
fn nobody_waits_for_a_collector_that_is_away() {
    let directory = tempfile::tempdir().unwrap();
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let node = node(directory.path(), &endpoint);
    for number in 0..50 {
        let event = placed(&format!("e{number}"), &format!("o{number}"));
        node.event(&event).with_status(200);
        pause(20);
    }
    assert_eq!(node.stop(), Some(0));
}
