//! Requests over TLS: who is let in, and certificates that are renewed while the node runs.

use std::path::Path;
use std::process::Command;

use super::{Authority, Connection, Node};
use crate::http::client::try_request;
use crate::http::pause;

/// A configuration beside `tls.crt` and `tls.key`, whose paths are relative to it.
pub fn configure(directory: &Path) {
    let config = "
http: { listen: '127.0.0.1:0', tls_certificate: tls.crt, tls_key: tls.key }
store: { sqlite: { path: node.db } }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let order = include_str!("../../../deploy/examples/order.yaml");
    std::fs::write(directory.join("order.yaml"), order).unwrap();
}

#[test]
fn r49_requests_over_tls_need_the_right_authority_and_name_and_plaintext_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let certificate = ours.certify("localhost", directory.path());
    configure(directory.path());
    let node = Node::run(directory.path());
    let mut connection = Connection::open(&node.address, "localhost", &ours).unwrap();
    assert_eq!(connection.shown(), certificate);
    assert_eq!(connection.get("/livez"), 200);
    // Every bound on slow and greedy clients is one of HTTP/1.1: HTTP/2 is not chosen where it is offered.
    assert_ne!(connection.spoken().as_deref(), Some("h2"));
    // A health check that carries no token, over the same connection.
    assert_eq!(connection.get("/readyz"), 401);
    let refused = |host: &str, believes: &Authority| {
        let refused = Connection::open(&node.address, host, believes);
        refused.map(drop).unwrap_err().to_string()
    };
    let unknown = refused("localhost", &other);
    assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    let misnamed = refused("tidegate.example", &ours);
    assert!(misnamed.contains("not valid for name"), "{misnamed}");
    let plaintext = try_request(&node.address, "GET", "/livez", &[], b"");
    assert!(plaintext.is_err(), "{plaintext:?}");
    // Those who failed took nobody's place.
    assert_eq!(connection.get("/livez"), 200);
}

#[test]
fn a_renewed_certificate_is_taken_without_a_restart_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let ours = Authority::new("ours");
    let first = ours.certify("localhost", directory);
    configure(directory);
    let node = Node::run(directory);
    let open = || Connection::open(&node.address, "localhost", &ours).unwrap();
    // Half of a renewal: a certificate that is not for the key.
    let key = std::fs::read(directory.join("tls.key")).unwrap();
    let second = ours.certify("localhost", directory);
    std::fs::write(directory.join("tls.key"), key).unwrap();
    let said = node.logged("the one before stays");
    assert_eq!(said["level"], "ERROR");
    let error = said["error"].as_str().unwrap();
    assert!(
        error.contains("tls.key: it is not the certificate's key"),
        "{error}"
    );
    assert_eq!(open().shown(), first);
    std::fs::write(directory.join("tls.crt"), "no certificate").unwrap();
    let error = node.logged("the one before stays")["error"].to_string();
    assert!(
        error.contains("tls.crt: no certificate is in it"),
        "{error}"
    );
    // The rest of it: who comes now is shown the new one, who is there stays.
    let mut before = open();
    let third = ours.certify("localhost", directory);
    assert_ne!(second, third);
    let mut shown = open().shown();
    for _ in 0..600 {
        assert_eq!(before.get("/livez"), 200);
        if shown == third {
            break;
        }
        assert_eq!(shown, first, "never one that was broken");
        pause(50);
        shown = open().shown();
    }
    assert_eq!((shown, before.shown()), (third, first));
}

#[test]
fn r32_without_tls_other_machines_are_listened_to_only_when_told_to_in_so_many_words() {
    let directory = tempfile::tempdir().unwrap();
    let start = |http: &str| {
        let config = format!("http: {http}\nstore: {{ sqlite: {{ path: node.db }} }}\n");
        std::fs::write(directory.path().join("node.yaml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command
            .args(["run", "-c", "node.yaml"])
            .current_dir(directory.path());
        command
    };
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8080"] {
        let refused = start(&format!("{{ listen: '{listen}' }}"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{listen}: {said}");
        assert!(said.contains("unsafe_plaintext_listener: true"), "{said}");
    }
    let half = start("{ listen: '0.0.0.0:0', tls_certificate: tls.crt }").output();
    let said = String::from_utf8_lossy(&half.unwrap().stderr).into_owned();
    assert!(said.contains("http.tls_key: is needed"), "{said}");
    let absent = "{ listen: '0.0.0.0:0', tls_certificate: no.crt, tls_key: no.key }";
    let absent = start(absent).output().unwrap();
    let said = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert_eq!(absent.status.code(), Some(2), "{said}");
    assert!(said.contains("no.crt"), "{said}");
    drop(start(
        "{ listen: '0.0.0.0:0', unsafe_plaintext_listener: true }",
    ));
    let node = Node::run(directory.path());
    let port = node.address.rsplit(':').next().unwrap().to_owned();
    let local = format!("127.0.0.1:{port}");
    let live = try_request(&local, "GET", "/livez", &[], b"").unwrap();
    assert_eq!(live.status, 200);
}
