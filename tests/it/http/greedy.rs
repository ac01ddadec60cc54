//! Clients that take more than their part: what one of them holds, the others do not miss.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

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

#[test]
fn a_page_ends_by_its_bytes_and_the_next_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let padding = "x".repeat(900_000);
    for id in 0..7 {
        let mut event = placed(&id.to_string(), "o-1");
        event["correlationid"] = json!("visit");
        event["data"]["note"] = json!(padding);
        node.event(&event).with_status(200);
    }
    let mut after = String::new();
    let mut pages = Vec::new();
    loop {
        let page = node.get(&format!("/v1/events?stream=events{after}"));
        let page = page.with_status(200).json();
        pages.push(page["events"].as_array().unwrap().len());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    // Five are the first that have 4 MiB.
    assert_eq!(pages, [5, 2]);
    // The index follows the log.
    let by_visit = |after: &str| {
        let target = format!("/v1/events?correlation_id=visit{after}");
        let page = node.get(&target).with_status(200).json();
        let events = page["events"].as_array().unwrap().len();
        (events, page["next"].as_str().map(str::to_owned))
    };
    let found = (0..600).find_map(|_| {
        pause(50);
        let (first, next) = by_visit("");
        let (second, last) = by_visit(&format!("&after={}", next?));
        (second > 1).then_some((first, second, last))
    });
    assert_eq!(found, Some((5, 2, None)));
}

#[test]
fn what_came_over_several_lines_is_one_line_wherever_a_line_is_an_event() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let node = Served::dev(directory);
    let event = serde_json::to_string_pretty(&placed("1", "o-1")).unwrap();
    node.post("/v1/events", STRUCTURED, &event).with_status(200);
    assert_eq!(node.stop(), Some(0));
    std::fs::write(
        directory.join("node.yaml"),
        "store: { sqlite: { path: tidegate-dev.db } }\n",
    )
    .unwrap();
    for line in [
        "events export --tenant dev",
        "events tail --tenant dev -o json",
        "events get events:http/0:0 --tenant dev -o json",
    ] {
        let said = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["-c", "node.yaml"])
            .args(line.split(' '))
            .current_dir(directory)
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
        let read: Value = serde_json::from_str(&said).unwrap();
        assert!(read.to_string().contains("total_cents"), "{line}: {said}");
    }
}
