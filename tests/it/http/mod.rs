//! The node over HTTP, as a client sees it: the binary with its default features is not needed for that,
//! only a process, a port and a token.

mod access;
mod answers;
mod canary;
pub mod client;
mod contract;
mod documents;
mod follow;
mod greedy;
mod history;
pub mod hostile;
mod hostile_clients;
mod ingest;
pub mod nodes;
mod spans;
pub mod watch;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use client::{Response, request, try_request};
use serde_json::{Value, json};

/// How long a node may take to say where it is.
const START: Duration = Duration::from_secs(60);

/// What a process finds in its environment beside ours.
pub type Environment = [(&'static str, String)];

/// A node in a process of its own; killed when it is dropped.
pub struct Served {
    child: Child,
    pub address: String,
    /// The token that `dev` showed, or one that was given.
    pub token: String,
}

impl Served {
    /// `tidegate dev` in that directory.
    pub fn dev(directory: &Path) -> Self {
        Self::start(directory, &["dev", "--port", "0"], None, &[])
    }

    /// `tidegate run` with that configuration, which listens on a port of its own choice.
    pub fn run(directory: &Path, config: &str, token: &str, environment: &Environment) -> Self {
        Self::start(directory, &["run", "-c", config], Some(token), environment)
    }

    fn start(
        directory: &Path,
        arguments: &[&str],
        token: Option<&str>,
        environment: &Environment,
    ) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, heard) = mpsc::sync_channel(1_000);
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                let _ = lines.try_send(line);
            }
        });
        let (mut address, mut said) = (None, token.map(str::to_owned));
        let mut log = String::new();
        while address.is_none() || said.is_none() {
            let line = heard
                .recv_timeout(START)
                .unwrap_or_else(|_| panic!("it did not say where it is:\n{log}"));
            if let Ok(json) = serde_json::from_str::<Value>(&line)
                && json["message"] == "taking requests"
            {
                let text = json["address"].as_str().unwrap();
                address = text.split("//").nth(1).map(str::to_owned);
            }
            if let Some(token) = line.trim().strip_prefix("TOKEN=") {
                said = Some(token.to_owned());
            }
            log.push_str(&line);
            log.push('\n');
        }
        Self {
            child,
            address: address.unwrap(),
            token: said.unwrap(),
        }
        .ready()
    }

    /// Waits until it takes events.
    fn ready(self) -> Self {
        for _ in 0..600 {
            let probe = self.try_get("/readyz");
            if probe.is_ok_and(|response| response.status == 200) {
                return self;
            }
            pause(50);
        }
        panic!("not ready: {}", self.get("/readyz").text());
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub fn get(&self, target: &str) -> Response {
        self.try_get(target).unwrap()
    }

    pub fn try_get(&self, target: &str) -> std::io::Result<Response> {
        let headers = [("authorization", &*self.bearer())];
        try_request(&self.address, "GET", target, &headers, b"")
    }

    pub fn post(&self, target: &str, content_type: &str, body: &str) -> Response {
        self.send(target, &[("content-type", content_type)], body.as_bytes())
    }

    pub fn send(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let bearer = self.bearer();
        let mut all = vec![("authorization", &*bearer)];
        all.extend_from_slice(headers);
        request(&self.address, "POST", target, &all, body)
    }

    /// One structured event.
    pub fn event(&self, event: &Value) -> Response {
        self.post("/v1/events", STRUCTURED, &event.to_string())
    }

    /// The most memory that it has had so far, in bytes; 0 where nobody says.
    pub fn peak_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(status).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.map(|text| text.trim().trim_end_matches(" kB"));
        kibibytes.map_or(0, |text| text.parse::<u64>().unwrap() * 1_024)
    }

    /// Kills it with -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop and says how it ended.
    pub fn stop(mut self) -> Option<i32> {
        self.tell();
        self.child.wait().unwrap().code()
    }

    /// Asks it to stop.
    pub fn tell(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits so many milliseconds of real time: what is waited for is another process.
#[allow(clippy::disallowed_methods, reason = "no task runs on this thread")]
pub fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

pub const STRUCTURED: &str = "application/cloudevents+json";
pub const BATCH: &str = "application/cloudevents-batch+json";

/// An order that is placed.
pub fn placed(id: &str, order: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed", "subject": order,
        "data": { "total_cents": 1000 }
    })
}

/// An order that is paid.
pub fn paid(id: &str, order: &str, cents: i64) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "order.paid", "subject": order,
        "data": { "amount_cents": cents }
    })
}
