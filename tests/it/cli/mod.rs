//! The command line as its users meet it: the real binary, its output, messages and exit codes.

mod access;
mod bench;
mod by_position;
mod dead_letters;
mod demo;
mod doctor;
mod documents;
mod guides;
mod history;
mod hostile;
mod ingest;
mod look;
mod manifests;
mod mapping;
mod mistakes;
mod own_machines;
mod postgres;
mod reload;
mod tenant;
mod unknown_tenants;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A directory to work in, and the binary started there.
struct Desk(tempfile::TempDir);

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn lines(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out:\n{}\nerr:\n{}", self.out, self.err);
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/order.yaml");
        std::fs::copy(example, desk.path("order.yaml")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(line.split_whitespace());
        self.at_home(command)
    }

    /// A script in the desk's directory; its first failure ends it.
    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-euc", script]);
        self.at_home(command)
    }

    fn at_home(&self, mut command: Command) -> Command {
        command
            .current_dir(self.0.path())
            .env_remove("TIDEGATE_CONFIG")
            .env_remove("TIDEGATE_LOG")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Said {
        self.command(line).output().unwrap().into()
    }

    /// Ten orders, and one of each outcome that needs a person.
    fn with_orders() -> Self {
        let desk = Self::new();
        let mut text = String::new();
        for order in 0..10 {
            for (id, event_type, data) in [
                ("placed", "order.placed", json!({"total_cents": 1_000})),
                ("paid", "order.paid", json!({"amount_cents": 1_000})),
                // Delivered twice.
                ("paid", "order.paid", json!({"amount_cents": 1_000})),
                ("again", "order.paid", json!({"amount_cents": 1})),
            ] {
                text.push_str(&event(&format!("{order}-{id}"), event_type, order, &data));
            }
        }
        text.push_str(&event("dead", "order.paid", 90, &json!({})));
        text.push_str(&event(
            "placed-90",
            "order.placed",
            90,
            &json!({"total_cents": "hunter2?", "pin_code": "hunter2"}),
        ));
        text.push_str(&event(
            "0-paid",
            "order.paid",
            0,
            &json!({"amount_cents": 7}),
        ));
        text.push_str("no event: hunter2\n");
        desk.write("orders.ndjson", &text);
        desk
    }
}

fn event(id: &str, event_type: &str, order: u32, data: &Value) -> String {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": event_type,
        "subject": format!("o-{order}"), "tenantid": "acme", "correlationid": format!("visit-{order}"),
        "data": data,
    });
    format!("{event}\n")
}
