//! `tidegate dev` while its machines are edited.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::Desk;
use crate::http::client::{Response, request};
use crate::http::{STRUCTURED, placed};

struct Dev {
    child: Child,
    heard: mpsc::Receiver<String>,
    address: String,
    token: String,
}

impl Dev {
    fn start(desk: &Desk) -> Self {
        let mut child = desk
            .command("dev --port 0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, heard) = mpsc::sync_channel(10_000);
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = lines.try_send(line);
            }
        });
        let mut dev = Self {
            child,
            heard,
            address: String::new(),
            token: String::new(),
        };
        let (address, _) = dev.until("Tidegate is at http://");
        dev.address = address.split(',').next().unwrap().to_owned();
        (dev.token, _) = dev.until("TOKEN=");
        dev
    }

    /// What follows `text` in the next line that has it, and the lines before.
    fn until(&self, text: &str) -> (String, String) {
        let mut before = String::new();
        loop {
            let line = self.heard.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|_| panic!("not heard `{text}`:\n{before}"));
            if let Some((_, rest)) = line.split_once(text) {
                return (rest.to_owned(), before);
            }
            before.push_str(&line);
            before.push('\n');
        }
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Response {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", &*bearer), ("content-type", STRUCTURED)];
        let mut answer = request(&self.address, method, target, &headers, body.as_bytes());
        // It has no slot for a moment after its start.
        for _ in 0..600 {
            if answer.status != 503 {
                break;
            }
            crate::http::pause(50);
            answer = request(&self.address, method, target, &headers, body.as_bytes());
        }
        answer
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_definition_that_is_edited_takes_effect_and_a_broken_one_keeps_the_one_before() {
    let desk = Desk::new();
    let mut dev = Dev::start(&desk);
    let event = |event: serde_json::Value| dev.ask("POST", "/v1/events", &event.to_string());
    event(placed("1", "o-1")).with_status(200);
    let order = std::fs::read_to_string(desk.path("machines/order.yaml")).unwrap();

    desk.write(
        "machines/order.yaml",
        &order.replace("initial: new", "initial: nwe"),
    );
    let (_, _) = dev.until("those before stay in force");
    let (said, _) = dev.until("order.yaml:");
    assert!(said.contains("nwe"), "{said}");
    desk.write(
        "machines/order.yaml",
        &order.replace("already paid", "paid before"),
    );
    dev.until("those before stay in force");
    let (said, _) = dev.until("machine `order`");
    assert!(said.contains("version 1"), "{said}");
    // A state that an entity is in.
    let without = order
        .replace("version: 1", "version: 2")
        .replace("placed", "begun")
        .replace("order.begun", "order.placed");
    desk.write("machines/order.yaml", &without);
    dev.until("those before stay in force");
    let (said, _) = dev.until("lacks states");
    assert!(said.contains("`placed` (1 entities)"), "{said}");
    event(placed("2", "o-2")).with_status(200);

    let next = order
        .replace("version: 1", "version: 2")
        .replace("states: [new,", "states: [new, settled,")
        .replace(
            "on_unmatched",
            "  order.settled:\n    - from: [placed]\n      to: settled\non_unmatched",
        );
    desk.write("machines/order.yaml", &next);
    let (at, told) = dev.until("It goes on at http://");
    for line in [
        "order: version 1 → 2",
        "+ state settled",
        "+ transition order.settled: placed → settled",
        "2 entities are stored, and all fit",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(at.split(',').next(), Some(&*dev.address));
    // The same token, the same address, the new machine.
    let mut settled = placed("3", "o-1");
    settled["type"] = "order.settled".into();
    event(settled).with_status(200);
    let entity = dev
        .ask("GET", "/v1/entities/order/o-1", "")
        .with_status(200);
    assert_eq!(entity.json()["status"], "settled");
    let pid = dev.child.id().to_string();
    let told = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    assert!(told.unwrap().success());
    assert_eq!(dev.child.wait().unwrap().code(), Some(0));
    desk.write("dev.yaml", "store: { sqlite: { path: tidegate-dev.db } }\n");
    desk.run("verify -c dev.yaml").ended_with(0);
}
