//! A node that is told to stop: once it answers who waits, twice it waits for nobody.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use crate::tls::Node;

/// A node whose limits are all longer than a test's patience, and a request that keeps it busy.
fn busy(directory: &std::path::Path) -> (Node, TcpStream) {
    let order = include_str!("../../deploy/examples/order.yaml");
    std::fs::write(directory.join("order.yaml"), order).unwrap();
    let config = "
http: { listen: '127.0.0.1:0', body_seconds: 600, answer_seconds: 600 }
limits: { drain_limit_seconds: 600 }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact", "facts");
    let token = crate::http::nodes::token(directory, "node.yaml", whose, &[]);
    let node = Node::run(directory);
    let mut socket = TcpStream::connect(&node.address).unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: n\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\n\
         content-type: application/cloudevents+json\r\ncontent-length: 2\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    // It has begun with the request when it asks for the body.
    let mut continued = [0; 12];
    socket.read_exact(&mut continued).unwrap();
    assert_eq!(&continued, b"HTTP/1.1 100");
    (node, socket)
}

fn tell(node: &Node) {
    let pid = node.id().to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status();
    assert!(told.unwrap().success());
}

#[test]
fn told_once_a_node_answers_who_waits_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let (mut node, mut socket) = busy(directory.path());
    tell(&node);
    node.logged("stopping:");
    assert!(!node.has_ended());
    socket.write_all(b"{}").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("HTTP/1.1 422"), "{answer}");
    assert_eq!(node.end(), Some(0));
}

#[test]
fn told_twice_a_node_ends_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (mut node, socket) = busy(directory.path());
    tell(&node);
    node.logged("stopping:");
    assert!(!node.has_ended());
    tell(&node);
    // The request's limits are ten minutes.
    assert!(node.end().is_some());
    drop(socket);
}
