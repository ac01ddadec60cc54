//! Nodes that a configuration describes: a mapping, and two nodes over one Postgres.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{Environment, Served, paid, placed};
use crate::support::database::TestDatabase;

const ORDER: &str = include_str!("../../../deploy/examples/order.yaml");

/// Runs the command line to its end and gives what it says.
#[track_caller]
fn tidegate(directory: &Path, arguments: &[&str], environment: &Environment) -> String {
    let ended = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{arguments:?}: {said}");
    String::from_utf8(ended.stdout).unwrap()
}

/// A tenant and a token of it that may do what `scopes` says.
#[track_caller]
pub fn token(
    directory: &Path,
    config: &str,
    (tenant, scopes, label): (&str, &str, &str),
    environment: &Environment,
) -> String {
    let out = directory.join(format!("{tenant}-{label}.token"));
    let out = out.to_str().unwrap();
    let create = ["-c", config, "tenants", "create", tenant];
    tidegate(directory, &create, environment);
    let create = [
        "-c", config, "tokens", "create", "--tenant", tenant, "--scope", scopes, "--label", label,
        "--out", out,
    ];
    tidegate(directory, &create, environment);
    std::fs::read_to_string(out).unwrap().trim().to_owned()
}

/// A node whose stream `orders` takes plain JSON.
pub fn with_mapping(directory: &Path) -> Served {
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
http: { listen: '127.0.0.1:0' }
machines: { paths: [order.yaml] }
sources:
  - name: shop
    kind: http
    stream: orders
    mapping:
      id: { cel: \"payload.order + '-' + payload.kind\" }
      type: { cel: \"'order.' + payload.kind\" }
      subject: { pointer: /order }
      source: { header: x-shop }
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "shop");
    let token = token(directory, "node.yaml", whose, &[]);
    Served::run(directory, "node.yaml", &token, &[])
}

/// A configuration with a stream of facts and one of intents, and a token of `acme` for the facts.
pub fn node_with(directory: &Path) -> (String, String) {
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
http: { listen: '127.0.0.1:0', body_seconds: 2 }
machines: { paths: [order.yaml] }
sources:
  - { name: api, kind: http, stream: orders }
  - { name: asks, kind: http, stream: wishes, publish: intent }
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "facts");
    let token = token(directory, "node.yaml", whose, &[]);
    ("node.yaml".to_owned(), token)
}

#[test]
fn two_nodes_on_one_postgres_take_a_slot_each_share_entities_and_survive_a_kill() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let made = runtime.block_on(TestDatabase::create("two_nodes_over_http"));
    let Some(database) = made else { return };
    let engine = database.prefix().role("engine");
    let environment = [
        ("ENGINE_URL", database.engine_url()),
        ("ADMIN_URL", database.admin_url()),
        (
            "ROLE_PREFIX",
            engine.strip_suffix("_engine").unwrap().to_owned(),
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = |name: &str| {
        format!(
            "node: {{ name: {name} }}\nstore:\n  kind: postgres\n  postgres:\n    url: ${{env:ENGINE_URL}}\n    \
             migrate_url: ${{env:ADMIN_URL}}\n    role_prefix: ${{env:ROLE_PREFIX}}\n\
             http: {{ listen: '127.0.0.1:0', lease_seconds: 3 }}\nmachines: {{ paths: [order.yaml] }}\n\
             sources:\n  - {{ name: api, kind: http, stream: orders }}\n"
        )
    };
    for name in ["a", "b"] {
        std::fs::write(directory.join(format!("{name}.yaml")), config(name)).unwrap();
    }
    let whose = ("acme", "publish:fact,read,observe", "orders");
    let token = token(directory, "a.yaml", whose, &environment);
    let start = |name: &str| Served::run(directory, &format!("{name}.yaml"), &token, &environment);
    let (a, b) = (start("a"), start("b"));
    let mut places = Vec::new();
    for n in 0..20 {
        let order = format!("o-{n}");
        let first = a.event(&placed(&format!("p{n}"), &order)).with_status(200);
        places.push(first.json()["id"].as_str().unwrap().to_owned());
        let second = b
            .event(&paid(&format!("q{n}"), &order, 1000))
            .with_status(200);
        assert_eq!(second.json()["effects"][0]["version"], 2, "of one entity");
        places.push(second.json()["id"].as_str().unwrap().to_owned());
        // Whichever node hears it again, it takes effect once.
        let again = b.event(&placed(&format!("p{n}"), &order)).with_status(200);
        assert_eq!(again.json()["outcome"], "duplicate");
    }
    let slots: std::collections::BTreeSet<_> = places
        .iter()
        .map(|place| place.rsplit_once(':').unwrap().0.to_owned())
        .collect();
    assert_eq!(slots.len(), 2, "{slots:?}");
    a.kill();
    let a = start("a");
    for n in 0..20 {
        let again = a.event(&placed(&format!("p{n}"), &format!("o-{n}")));
        assert_eq!(again.with_status(200).json()["outcome"], "duplicate");
    }
    let entity = a.get("/v1/entities/order/o-7").with_status(200).json();
    assert_eq!(
        entity["data"],
        json!({ "paid_cents": 1000, "total_cents": 1000 })
    );
    assert_eq!((a.stop(), b.stop()), (Some(0), Some(0)));
    tidegate(directory, &["-c", "a.yaml", "verify"], &environment);
}
