//! Clients that take more than their part: what one of them holds, the others do not miss.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::json;

use super::nodes::node_with;
use super::{STRUCTURED, Served, pause, placed};

#[test]
fn r45_a_body_that_is_announced_and_never_sent_takes_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    // As large as a body may be, and more of them than `http.bodies_bytes_max` would hold.
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: {STRUCTURED}\r\ncontent-length: 8388608\r\n\r\n{{",
        node.token
    );
    let announced: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut socket = TcpStream::connect(&node.address).unwrap();
            socket.write_all(head.as_bytes()).unwrap();
            socket
        })
        .collect();
    for id in 0..5 {
        node.event(&placed(&id.to_string(), "o-1")).with_status(200);
    }
    drop(announced);
}

/// Only Linux closes them (`http.stream_slow_seconds`); elsewhere they stay until the client goes.
#[cfg(target_os = "linux")]
#[test]
fn r45_an_answer_that_nobody_reads_is_given_up_with_its_connection() {
    let directory = tempfile::tempdir().unwrap();
    let (config, token) = node_with(directory.path());
    let path = directory.path().join(&config);
    let text = std::fs::read_to_string(&path).unwrap();
    let quick = text.replace("body_seconds: 2", "body_seconds: 2, stream_slow_seconds: 1");
    assert_ne!(quick, text);
    std::fs::write(&path, quick).unwrap();
    let node = Served::run(directory.path(), &config, &token, &[]);
    let padding = "x".repeat(900_000);
    for id in 0..5 {
        let mut event = placed(&id.to_string(), "o-1");
        event["data"]["note"] = json!(padding);
        node.post("/v1/streams/orders", STRUCTURED, &event.to_string())
            .with_status(200);
    }
    let mut unread = TcpStream::connect(&node.address).unwrap();
    let ask = format!(
        "GET /v1/events?stream=orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    // More than the buffers of two sockets hold.
    unread.write_all(ask.repeat(8).as_bytes()).unwrap();
    let is_closed = (0..300).any(|_| {
        pause(100);
        unread.write_all(b"G").is_err()
    });
    assert!(is_closed, "it holds the connection still");
    node.get("/v1/entities/order/o-1").with_status(200);
}
