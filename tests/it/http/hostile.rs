//! Clients that mean no good: nothing panics, memory is bounded, and what is wrong is said.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::client::request;
use super::nodes::node_with;
use super::{BATCH, STRUCTURED, Served, placed};

#[test]
fn r44_hostile_requests_are_refused_and_the_next_one_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let nul = placed("1", "o\u{0}").to_string();
    let long = placed(&"x".repeat(100_000), "o").to_string();
    for (content_type, body) in [
        (STRUCTURED, ""),
        (STRUCTURED, "{"),
        (STRUCTURED, "null"),
        (STRUCTURED, &*deep),
        (STRUCTURED, &*nul),
        (STRUCTURED, &*long),
        (
            STRUCTURED,
            "{\"specversion\":\"1.0\",\"specversion\":\"1.0\"}",
        ),
        (BATCH, "[]"),
        (BATCH, "{}"),
        (BATCH, "[[[[]]]"),
        (BATCH, &*deep),
        ("application/json", "{}"),
    ] {
        let refused = node.post("/v1/events", content_type, body);
        let problem = refused.json();
        assert!(
            [207, 422].contains(&refused.status),
            "{} to {content_type} {body:.40}",
            refused.status
        );
        assert!(
            problem["status"] == 422 || problem["items"][0]["status"] == 422,
            "{problem}"
        );
    }
    node.post("/v1/events", "text/plain", "x").with_status(415);
    let headers = [("content-type", STRUCTURED), ("content-encoding", "br")];
    node.send("/v1/events", &headers, b"x").with_status(415);
    let headers = [("content-type", STRUCTURED), ("content-encoding", "gzip")];
    node.send("/v1/events", &headers, b"x").with_status(422);
    let large = vec![b' '; 9 * 1024 * 1024];
    node.send("/v1/events", &[("content-type", STRUCTURED)], &large)
        .with_status(413);
    node.get("/v1/streams/events").with_status(405);
    node.get("/v1/entities/order/%zz").with_status(422);
    node.get("/v1/events/nonsense").with_status(422);
    node.get("/v1/events?stream=events&limit=0")
        .with_status(422);
    node.get("/v1/events?stream=events&limit=x")
        .with_status(422);
    node.post("/v1/streams/other", STRUCTURED, "{}")
        .with_status(404);
    node.event(&placed("fine", "o-1")).with_status(200);
}

#[test]
fn r45_a_client_that_sends_its_body_slowly_is_answered_and_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let (config, token) = node_with(directory.path());
    let node = Served::run(directory.path(), &config, &token, &[]);
    let mut slow = TcpStream::connect(&node.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let head = format!(
        "POST /v1/streams/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: {STRUCTURED}\r\ncontent-length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).unwrap();
    let body = placed("1", "o-1").to_string();
    node.post("/v1/streams/orders", STRUCTURED, &body)
        .with_status(200);
    let mut said = [0; 12];
    slow.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"HTTP/1.1 408");
}

#[test]
fn r31_no_token_stands_in_a_log_a_metric_or_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let secret = node.token.rsplit('_').next().unwrap().to_owned();
    let body = placed("1", &node.token).to_string();
    let answers = [
        node.get("/metrics"),
        node.get(&format!("/v1/entities/order/{}", "o".repeat(300))),
        node.post("/v1/events", STRUCTURED, &format!("{{{body}")),
        request(
            &node.address,
            "GET",
            "/metrics",
            &[("authorization", "Bearer x")],
            b"",
        ),
    ];
    for answer in answers {
        assert!(!answer.text().contains(&secret), "{}", answer.text());
    }
}
