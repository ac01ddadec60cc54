//! Nodes that a configuration describes: a mapping, and two nodes over one Postgres.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::client::{request, try_request};
use super::{Environment, STRUCTURED, Served, paid, pause, placed};
use crate::support::database::TestDatabase;

pub const ORDER: &str = include_str!("../../../deploy/examples/order.yaml");

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

/// Makes a token that looks after every tenant.
#[track_caller]
pub fn observer(directory: &Path, config: &str) -> String {
    let out = directory.join("observer.token");
    let out = out.to_str().unwrap();
    let create = [
        "-c",
        config,
        "tokens",
        "create",
        "--installation",
        "--scope",
        "observe",
        "--label",
        "observer",
        "--out",
        out,
    ];
    tidegate(directory, &create, &[]);
    std::fs::read_to_string(out).unwrap().trim().to_owned()
}

/// The figures of a node, for such a token.
#[track_caller]
pub fn metrics(node: &Served, observer: &str) -> String {
    let bearer = format!("Bearer {observer}");
    let headers = [("authorization", &*bearer)];
    let answer = request(&node.address, "GET", "/metrics", &headers, b"");
    answer.with_status(200).text()
}

/// Revokes a token.
#[track_caller]
pub fn revoke(directory: &Path, config: &str, token: &str, environment: &Environment) {
    let id = token.split('_').nth(1).unwrap();
    tidegate(
        directory,
        &["-c", config, "tokens", "revoke", id],
        environment,
    );
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

/// Two nodes, `a.yaml` and `b.yaml`, over one database of their own.
pub struct TwoNodes {
    pub a: Served,
    pub b: Served,
    pub environment: Vec<(&'static str, String)>,
    pub token: String,
    /// Dropped last: the nodes are gone by then.
    database: TestDatabase,
    runtime: tokio::runtime::Runtime,
}

/// Both of them, with the machines of `files` and a token of `acme`; `None` without a server.
pub fn two_nodes_with(name: &str, directory: &Path, files: &[(&str, &str)]) -> Option<TwoNodes> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = runtime.block_on(TestDatabase::create(name))?;
    let engine = database.prefix().role("engine");
    let environment = vec![
        ("ENGINE_URL", database.engine_url()),
        ("ADMIN_URL", database.admin_url()),
        (
            "ROLE_PREFIX",
            engine.strip_suffix("_engine").unwrap().to_owned(),
        ),
    ];
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let machines = names.join(", ");
    for name in ["a", "b"] {
        let config = format!(
            "node: {{ name: {name} }}\nstore:\n  kind: postgres\n  postgres:\n    url: ${{env:ENGINE_URL}}\n    \
             migrate_url: ${{env:ADMIN_URL}}\n    role_prefix: ${{env:ROLE_PREFIX}}\n\
             http: {{ listen: '127.0.0.1:0', lease_seconds: 3 }}\nmachines: {{ paths: [{machines}] }}\n\
             sources:\n  - {{ name: api, kind: http, stream: orders }}\n"
        );
        std::fs::write(directory.join(format!("{name}.yaml")), config).unwrap();
    }
    let whose = ("acme", "publish:fact,read,observe", "orders");
    let token = token(directory, "a.yaml", whose, &environment);
    Some(TwoNodes {
        a: Served::run(directory, "a.yaml", &token, &environment),
        b: Served::run(directory, "b.yaml", &token, &environment),
        environment,
        token,
        database,
        runtime,
    })
}

/// Two nodes with the machine of orders.
pub fn two_nodes(name: &str, directory: &Path) -> Option<TwoNodes> {
    two_nodes_with(name, directory, &[("order.yaml", ORDER)])
}

#[test]
fn two_nodes_on_one_postgres_take_a_slot_each_share_entities_and_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let Some(nodes) = two_nodes("two_nodes_over_http", directory) else {
        return;
    };
    let TwoNodes {
        a,
        b,
        environment,
        token,
        database: _database,
        runtime: _runtime,
    } = nodes;
    let start = |name: &str| Served::run(directory, &format!("{name}.yaml"), &token, &environment);
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

/// What is due when an order is ready, and the letter about it: each hears what the one before emits.
const SHIPMENT: &str = "
apiVersion: tidegate/v1
kind: Machine
machine: shipment
version: 1
key: event.subject
initial: open
states: [open, due]
data:
  cents: { type: int, initial: 0 }
events:
  order.ready:
    - from: [open]
      to: due
      set: { cents: event.data.paid_cents }
      emit:
        - type: shipment.due
          data: { order: event.subject }
";
/// Three machines of which each emits what the next one listens to.
const CHAIN: [(&str, &str); 3] = [
    ("order.yaml", ORDER),
    ("shipment.yaml", SHIPMENT),
    ("letter.yaml", LETTER),
];
const LETTER: &str = "
apiVersion: tidegate/v1
kind: Machine
machine: letter
version: 1
key: event.data.order
initial: open
states: [open, sent]
events:
  shipment.due:
    - from: [open]
      to: sent
";

/// What a node says of an order, of what it set in motion, and of what is not done yet.
fn state_of(node: &Served, n: usize) -> String {
    let mut said = String::new();
    for target in ["order", "shipment", "letter"] {
        let entity = node.get(&format!("/v1/entities/{target}/o-{n}"));
        said.push_str(&format!("\n{target}: {}", entity.text()));
    }
    let metrics = node.get("/metrics").text();
    let told = metrics
        .lines()
        .filter(|line| line.starts_with("tidegate_open_work"));
    told.for_each(|line| said.push_str(&format!("\n{line}")));
    said
}

/// Where two nodes are now: one that was started again is elsewhere.
type Addresses = Mutex<[String; 2]>;

/// Sends an event to one node after the other, `first` before the other, until one has taken it.
fn until_taken(addresses: &Addresses, first: usize, token: &str, event: &serde_json::Value) {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer), ("content-type", STRUCTURED)];
    let body = event.to_string();
    for turn in 0..1_200 {
        let address = addresses.lock().unwrap()[(first + turn) % 2].clone();
        let answer = try_request(&address, "POST", "/v1/events", &headers, body.as_bytes());
        if answer.is_ok_and(|answer| answer.status == 200) {
            return;
        }
        pause(50);
    }
    panic!("nobody takes {body}");
}

/// Places and pays orders, by turns with both nodes, so that each order is moved by both.
fn write_orders(
    orders: impl Iterator<Item = usize>,
    addresses: &Addresses,
    token: &str,
    taken: &AtomicUsize,
) {
    for n in orders {
        let order = format!("o-{n}");
        let events = [
            placed(&format!("1-{n}"), &order),
            paid(&format!("2-{n}"), &order, 400),
            paid(&format!("3-{n}"), &order, 600),
        ];
        for (turn, event) in events.iter().enumerate() {
            until_taken(addresses, n + turn, token, event);
            taken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_hundred_shared_entities_whose_machines_chain_survive_kills_of_either_and_of_both_nodes() {
    const ORDERS: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let Some(nodes) = two_nodes_with("chains_over_http", directory, &CHAIN) else {
        return;
    };
    let TwoNodes { a, b, token, .. } = nodes;
    let addresses = Mutex::new([a.address.clone(), b.address.clone()]);
    let mut running = [Some(a), Some(b)];
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (addresses, token, taken) = (&addresses, &token, &taken);
            scope.spawn(move || {
                write_orders((writer..ORDERS).step_by(4), addresses, token, taken);
            });
        }
        let until = |events: usize| {
            while taken.load(Ordering::Relaxed) < events {
                pause(5);
            }
        };
        // Either, both at once, either again: each time after some progress.
        for (events, killed) in [(40, &[0][..]), (90, &[1]), (140, &[0, 1]), (190, &[1])] {
            until(events);
            for node in killed {
                running[*node].take().unwrap().kill();
            }
            for node in killed {
                let config = ["a.yaml", "b.yaml"][*node];
                let started = Served::run(directory, config, &token, &nodes.environment);
                addresses.lock().unwrap()[*node] = started.address.clone();
                running[*node] = Some(started);
            }
        }
        until(240);
        running[0].take().unwrap().kill();
    });
    let b = running[1].take().unwrap();
    // The killed one is not needed for what it left open: the other takes its slot over.
    for n in 0..ORDERS {
        let order = format!("/v1/entities/order/o-{n}");
        let order = b.get(&order).with_status(200).json();
        assert_eq!(
            (&order["status"], &order["version"]),
            (&json!("paid"), &json!(3))
        );
        let letter = format!("/v1/entities/letter/o-{n}");
        let sent = (0..1_200).find_map(|_| {
            let letter = b.get(&letter);
            (letter.status == 200).then(|| letter.json()).or_else(|| {
                pause(50);
                None
            })
        });
        let sent = sent.unwrap_or_else(|| panic!("{letter}: {}", state_of(&b, n)));
        assert_eq!(
            (&sent["status"], &sent["version"]),
            (&json!("sent"), &json!(1))
        );
    }
    let a = Served::run(directory, "a.yaml", &token, &nodes.environment);
    assert_eq!((a.stop(), b.stop()), (Some(0), Some(0)));
    tidegate(directory, &["-c", "a.yaml", "verify"], &nodes.environment);
}

/// Sends orders that are paid at once, until the node is gone. Those whose payment was answered.
fn paid_until_gone(node: &str, token: &str, name: &str, taken: &AtomicUsize) -> Vec<String> {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", &*bearer), ("content-type", STRUCTURED)];
    let mut orders = Vec::new();
    for n in 0..10_000 {
        let order = format!("{name}-{n}");
        let events = [
            placed(&format!("1-{order}"), &order),
            paid(&format!("2-{order}"), &order, 1000),
        ];
        for event in events {
            let body = event.to_string();
            let answer = try_request(node, "POST", "/v1/events", &headers, body.as_bytes());
            if answer.is_ok_and(|answer| answer.status == 200) {
                taken.fetch_add(1, Ordering::Relaxed);
            } else {
                return orders;
            }
        }
        orders.push(order);
    }
    orders
}

#[test]
fn what_a_killed_node_had_emitted_and_not_taken_up_is_done_by_the_other_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let Some(nodes) = two_nodes_with("left_in_a_slot", directory, &CHAIN) else {
        return;
    };
    let (database, runtime) = (&nodes.database, &nodes.runtime);
    let left = || -> i64 {
        runtime.block_on(async {
            let mut shell = PgConnection::connect(&database.admin_url()).await.unwrap();
            let count = sqlx::query_scalar("select count(*) from tidegate.open_work");
            count.fetch_one(&mut shell).await.unwrap()
        })
    };
    let (mut a, b) = (Some(nodes.a), nodes.b);
    let mut orders = Vec::new();
    // Again, when it was killed in one of the moments in which nothing is open.
    for round in 0..20 {
        let start = || Served::run(directory, "a.yaml", &nodes.token, &nodes.environment);
        let a = a.take().unwrap_or_else(start);
        let (address, token, taken) = (&a.address.clone(), &nodes.token, &AtomicUsize::new(0));
        orders.extend(std::thread::scope(|scope| {
            let writers = (0..6).map(|writer| {
                let name = format!("o-{round}-{writer}");
                scope.spawn(move || paid_until_gone(address, token, &name, taken))
            });
            let writers: Vec<_> = writers.collect();
            while taken.load(Ordering::Relaxed) < 60 {
                pause(5);
            }
            a.kill();
            let sent = writers.into_iter().flat_map(|it| it.join().unwrap());
            sent.collect::<Vec<_>>()
        }));
        if left() > 0 {
            break;
        }
    }
    assert!(left() > 0, "nothing was ever left");
    let is_done = (0..600).any(|_| {
        pause(100);
        left() == 0
    });
    assert!(is_done, "{} events wait for nobody", left());
    for order in orders {
        let letter = b.get(&format!("/v1/entities/letter/{order}"));
        assert_eq!(letter.with_status(200).json()["status"], "sent");
    }
    assert_eq!(b.stop(), Some(0));
    tidegate(directory, &["-c", "b.yaml", "verify"], &nodes.environment);
}
