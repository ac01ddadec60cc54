//! `tidegate health` and what it asks: liveness is open, readiness needs the token.

use std::path::Path;
use std::process::Command;

use super::listener::configure;
use super::{Authority, Node};
use crate::http::client::request;
use crate::http::watch::top;
use crate::http::{Served, pause};

/// Its exit code and its one line.
fn health(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("health")
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap();
    let out = String::from_utf8(ended.stdout).unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    let code = ended.status.code().unwrap();
    if code < 2 {
        assert_eq!((out.lines().count(), &*err), (1, ""), "{out}");
    }
    (code, format!("{out}{err}"))
}

#[test]
fn r34_liveness_is_open_and_readiness_is_behind_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let node = Served::dev(directory);
    let url = format!("http://{}", node.address);
    std::fs::write(directory.join("token"), format!("{}\n", node.token)).unwrap();
    std::fs::write(directory.join("wrong"), "tg_0000000000000000_AAAA").unwrap();
    let ask = |more: &[&str]| health(directory, &[&["--url", &url], more].concat());
    assert_eq!(ask(&[]), (0, "live\n".to_owned()));
    let ready = ask(&["--ready", "--token-file", "token"]);
    assert_eq!(ready, (0, "ready\n".to_owned()));
    let (code, json) = ask(&["--ready", "--token-file", "token", "-o", "json"]);
    assert_eq!(code, 0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["healthy"], true);
    let (code, said) = ask(&["--ready", "--token-file", "wrong"]);
    assert!(code == 1 && said.contains("`observe`"), "{said}");
    assert!(!said.contains("AAAA"), "{said}");
    // What cannot be asked is neither.
    for (more, says) in [
        (&["--ready"][..], "--token-file"),
        (&["--ready", "--token-file", "absent"], "absent"),
        (&["--ca-file", "ca.crt"], "--ca-file is for https"),
    ] {
        let (code, said) = ask(more);
        assert!(code == 2 && said.contains(says), "{code}: {said}");
    }
    node.kill();
    let (code, said) = ask(&[]);
    assert!(code == 1 && said.contains("refused"), "{said}");
}

#[test]
fn r35_there_is_no_management_page() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    for path in [
        "/",
        "/admin",
        "/management",
        "/dashboard",
        "/ui",
        "/console",
        "/index.html",
    ] {
        assert_eq!(node.get(path).status, 404, "{path}");
        let without = request(&node.address, "GET", path, &[], b"");
        assert_eq!(without.status, 404, "{path}");
    }
}

#[test]
fn a_node_with_tls_is_probed_by_its_own_certificate_or_by_its_authority() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    ours.certify("localhost", directory);
    configure(directory);
    std::fs::write(directory.join("ours.crt"), ours.pem()).unwrap();
    std::fs::write(directory.join("other.crt"), other.pem()).unwrap();
    let node = Node::run(directory);
    let port = node.address.rsplit(':').next().unwrap();
    // The probe's configuration names the port that the system chose.
    let config = std::fs::read_to_string(directory.join("node.yaml")).unwrap();
    let config = config.replace("127.0.0.1:0", &node.address);
    std::fs::write(directory.join("probe.yaml"), &config).unwrap();
    let live = (0, "live\n".to_owned());
    assert_eq!(health(directory, &["-c", "probe.yaml"]), live);
    let url = format!("https://localhost:{port}");
    assert_eq!(
        health(directory, &["--url", &url, "--ca-file", "ours.crt"]),
        live
    );
    let (code, said) = health(directory, &["--url", &url, "--ca-file", "other.crt"]);
    assert!(code == 1 && said.contains("UnknownIssuer"), "{said}");
    std::fs::write(directory.join("empty.crt"), "").unwrap();
    for wrong in ["nowhere.crt", "empty.crt"] {
        let (code, _) = health(directory, &["--url", &url, "--ca-file", wrong]);
        assert_eq!(code, 2, "{wrong}: the question cannot be asked");
    }
    std::fs::write(directory.join("some.token"), "tg_0_0").unwrap();
    let far = [
        "--url",
        "http://192.0.2.1",
        "--ready",
        "--token-file",
        "some.token",
    ];
    assert_eq!(
        health(directory, &far).0,
        2,
        "the token would be read on its way"
    );
    let by_address = format!("https://{}", node.address);
    let (code, said) = health(directory, &["--url", &by_address, "--ca-file", "ours.crt"]);
    assert!(code == 1 && said.contains("not valid for name"), "{said}");
    let plain = format!("http://{}", node.address);
    let (code, _) = health(directory, &["--url", &plain]);
    assert_eq!(code, 1);
    // After a renewal it is asked for the new one, and shows it within seconds.
    ours.certify("localhost", directory);
    let mut probed = health(directory, &["-c", "probe.yaml"]);
    for _ in 0..600 {
        if probed == live {
            break;
        }
        assert_eq!(probed.0, 1);
        pause(50);
        probed = health(directory, &["-c", "probe.yaml"]);
    }
    assert_eq!(probed, live);
}

#[test]
fn a_node_with_tls_is_looked_at_by_those_who_know_it() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    ours.certify("localhost", directory);
    configure(directory);
    std::fs::write(directory.join("ours.crt"), ours.pem()).unwrap();
    std::fs::write(directory.join("other.crt"), other.pem()).unwrap();
    let whose = ["--installation", "--scope", "observe", "--label", "oncall"];
    let create = ["tokens", "create", "--out", "token"];
    for arguments in [
        &["tenants", "create", "acme"][..],
        &[&create[..], &whose].concat(),
    ] {
        let created = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["-c", "node.yaml"])
            .args(arguments)
            .current_dir(directory)
            .output()
            .unwrap();
        assert!(created.status.success(), "{created:?}");
    }
    let node = Node::run(directory);
    let config = std::fs::read_to_string(directory.join("node.yaml")).unwrap();
    let config = config.replace("127.0.0.1:0", &node.address);
    std::fs::write(directory.join("probe.yaml"), config).unwrap();
    let port = node.address.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}");
    let token = ["--token-file", "token"];
    for at in [
        &["-c", "probe.yaml"][..],
        &["--url", &url, "--ca-file", "ours.crt"],
        &["--url", &format!("{url}/metrics"), "--ca-file", "ours.crt"],
    ] {
        let (code, picture, said) = top(directory, &[at, &token].concat());
        assert_eq!((code, &*said), (Some(0), ""), "{at:?}");
        assert!(picture.contains("https://"), "{picture}");
    }
    let stranger = ["--url", &url, "--ca-file", "other.crt"];
    let (code, _, said) = top(directory, &[&stranger[..], &token].concat());
    assert!(code == Some(3) && said.contains("UnknownIssuer"), "{said}");
    // Whom this machine believes: nobody who signed that.
    let (code, _, said) = top(directory, &[&["--url", &url], &token[..]].concat());
    assert!(code != Some(0) && !said.contains("tg_"), "{said}");
}
