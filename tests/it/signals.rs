//! A node that is told to stop: once it answers who waits, twice it waits for nobody.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use sqlx::{Connection as _, PgConnection};

use crate::http::{Served, placed};
use crate::support::database::TestDatabase;
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
    // No event was under way, so that there is nothing unsettled to tell of.
    assert_eq!(node.end(), Some(0));
    drop(socket);
}

#[test]
fn with_something_unsettled_a_node_ends_with_5_at_its_limit_or_told_twice_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Some(database) = runtime.block_on(TestDatabase::create("too_slow_to_drain")) else {
        return;
    };
    let engine = database.prefix().role("engine");
    let prefix = engine.trim_end_matches("_engine").to_owned();
    let environment = [
        ("ENGINE_URL", database.engine_url()),
        ("ADMIN_URL", database.admin_url()),
        ("ROLE_PREFIX", prefix),
    ];
    let order = include_str!("../../deploy/examples/order.yaml");
    std::fs::write(directory.join("order.yaml"), order).unwrap();
    for (name, drain_limit_seconds) in [("limit.yaml", 1), ("twice.yaml", 600)] {
        let config = format!(
            "
store:
  kind: postgres
  postgres: {{ url: '${{env:ENGINE_URL}}', migrate_url: '${{env:ADMIN_URL}}', role_prefix: '${{env:ROLE_PREFIX}}' }}
http: {{ listen: '127.0.0.1:0', answer_seconds: 1 }}
limits: {{ drain_limit_seconds: {drain_limit_seconds} }}
machines: {{ paths: [order.yaml] }}
sources: [{{ name: api, kind: http, stream: orders }}]
"
        );
        std::fs::write(directory.join(name), config).unwrap();
    }
    let whose = ("acme", "publish:fact,read,observe", "all");
    let token = crate::http::nodes::token(directory, "limit.yaml", whose, &environment);
    let run = |config: &str| Served::run(directory, config, &token, &environment);
    for (config, order) in [("limit.yaml", "o-1"), ("twice.yaml", "o-2")] {
        let node = run(config);
        let held = runtime.block_on(async {
            let mut shell = PgConnection::connect(&database.admin_url()).await.unwrap();
            for statement in ["begin", "lock table tidegate.entities in exclusive mode"] {
                sqlx::raw_sql(statement).execute(&mut shell).await.unwrap();
            }
            shell
        });
        let event = placed(order, order);
        let answer = node.event(&event).with_status(503).json();
        assert_eq!(answer["type"], "/problems/outcome-unknown");
        if config == "twice.yaml" {
            node.tell();
            crate::http::pause(500);
        }
        assert_eq!(node.stop(), Some(5), "{config}");
        drop(held);
        // Sent again, as that answer says, it is there once.
        let node = run(config);
        node.event(&event).with_status(200);
        let entity = node.get(&format!("/v1/entities/order/{order}"));
        assert_eq!(entity.with_status(200).json()["version"], 1);
        assert_eq!(node.stop(), Some(0));
    }
}
