//! Definitions, mappings and configurations that mean no good, or were half eaten: each is refused with its
//! place, in bounded time and memory, before anything is made.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tidegate::config::Config;
use tidegate_engine::machine::MachineDefinition;

use super::Desk;
use crate::http::hostile::spoiled;

const MACHINE: &str = include_str!("../../../deploy/examples/order.yaml");
const REFERENCE: &str = include_str!("../../../deploy/config/reference.yaml");

/// A source that maps each attribute in one of the ways that there are.
const MAPPED: &str = "
machines: { paths: [order.yaml] }
sources:
  - name: shop
    kind: file
    stream: orders
    paths: [orders.ndjson]
    tenant: acme
    mapping:
      id: { cel: \"payload.order + '-' + payload.kind\" }
      type: { cel: \"'order.' + payload.kind\" }
      subject: { pointer: /order }
      source: { header: x-shop }
      time: { pointer: /at, format: epoch_ms }
";

/// Holds that a refusal has its file, a line of it, and something to say.
#[track_caller]
fn must_have_a_place(seed: u64, text: &str, said: &str) {
    assert!(!said.is_empty(), "seed {seed}");
    for line in said.lines().filter(|line| line.starts_with("spoiled.yaml")) {
        let mut parts = line.splitn(3, ':').skip(1);
        let number: usize = parts.next().unwrap().parse().unwrap();
        let last = text.lines().count() + 1;
        assert!((1..=last).contains(&number), "seed {seed}: {line}");
        assert!(
            parts.next().is_some_and(|said| said.len() > 3),
            "seed {seed}: {line}"
        );
    }
}

#[test]
fn r44_seeded_nonsense_in_machines_is_compiled_or_refused_with_its_place() {
    let mut refused = 0;
    for seed in 0..600 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let text = String::from_utf8_lossy(&spoiled(random, MACHINE)).into_owned();
        if let Err(errors) = MachineDefinition::load("spoiled.yaml", &text) {
            refused += 1;
            for error in errors {
                must_have_a_place(seed, &text, &error.to_string());
            }
        }
    }
    assert!(refused > 200, "only {refused} were spoiled");
}

#[test]
fn r44_seeded_nonsense_in_configurations_and_mappings_is_read_or_refused_with_its_place() {
    let desk = Desk::new();
    let path = desk.path("spoiled.yaml");
    let mut refused = 0;
    for seed in 0..600 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let whole = if seed % 2 == 0 { MAPPED } else { REFERENCE };
        let text = String::from_utf8_lossy(&spoiled(random, whole)).into_owned();
        std::fs::write(&path, &text).unwrap();
        if let Err(problems) = Config::load(&path) {
            refused += 1;
            let directory = desk.path("").display().to_string();
            let said = problems.to_string().replace(&directory, "");
            assert!(said.starts_with("spoiled.yaml:"), "seed {seed}: {said}");
            must_have_a_place(seed, &text, &said);
        }
    }
    assert!(refused > 200, "only {refused} were spoiled");
}

/// A chain of names, each ten times the one before.
fn aliases() -> String {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = format!("*a{}, ", n - 1).repeat(10);
        text.push_str(&format!("a{n}: &a{n} [{before}]\n"));
    }
    text
}

/// Files that no node may take, and what is said of them.
fn hostile_files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let machine = |from: &str, to: &str| {
        assert!(MACHINE.contains(from), "{from}");
        MACHINE.replacen(from, to, 1).into_bytes()
    };
    let key = "key: event.subject";
    let deep = format!("{}event.subject{}", "(".repeat(5_000), ")".repeat(5_000));
    let long = "event.subject + ".repeat(10_000) + "event.subject";
    let lists = "[1].map(a, [1].map(b, [1].map(c, a + b + c)))";
    vec![
        ("empty.yaml", Vec::new(), ""),
        ("nul.yaml", b"limits:\n  \0: 1\n".to_vec(), "nul.yaml:"),
        ("latin.yaml", b"node: { name: caf\xe9 }\n".to_vec(), "UTF-8"),
        ("aliases.yaml", aliases().into_bytes(), "aliases.yaml:"),
        (
            "deep.yaml",
            [b"a: ".to_vec(), b"[".repeat(10_000)].concat(),
            "deep.yaml:",
        ),
        (
            "large.yaml",
            b"# more\n".repeat(100_000),
            "more than the 262144 bytes",
        ),
        (
            "twice.yaml",
            b"node: {}\nnode: {}\n".to_vec(),
            "twice.yaml:2: node",
        ),
        (
            "merge.yaml",
            b"a: &a { b: 1 }\nnode: { <<: *a }\n".to_vec(),
            "merge.yaml:",
        ),
        (
            "two.yaml",
            b"node: {}\n---\nnode: {}\n".to_vec(),
            "two.yaml:",
        ),
        ("list.yaml", b"[1, 2]\n".to_vec(), "list.yaml:1"),
        (
            "fill.yaml",
            b"node: { name: '${file:/dev/zero}' }\n".to_vec(),
            "fill.yaml:1: node.name",
        ),
        (
            "deep_key.yaml",
            machine(key, &format!("key: {deep}")),
            "deep_key.yaml:",
        ),
        (
            "long_key.yaml",
            machine(key, &format!("key: {long}")),
            "long_key.yaml:",
        ),
        (
            "lists.yaml",
            machine(key, &format!("key: string(size({lists}))")),
            "lists.yaml:",
        ),
        (
            "regex.yaml",
            machine(key, "key: string(event.subject.matches('(a+)+$'))"),
            "regex.yaml:",
        ),
        (
            "states.yaml",
            machine("initial: new", "initial: ../../etc"),
            "states.yaml:",
        ),
    ]
}

#[test]
fn r44_hostile_files_are_refused_by_validate_and_by_run_with_their_place() {
    let desk = Desk::new();
    for (name, bytes, said) in hostile_files() {
        std::fs::write(desk.path(name), bytes).unwrap();
        if name == "empty.yaml" {
            // It says nothing, and so nothing wrong; a node of it has nothing to do.
            desk.run("validate empty.yaml").ended_with(0);
            let run = desk.run("run -c empty.yaml").ended_with(2);
            assert!(run.err.contains("nothing to do"), "{}", run.err);
            continue;
        }
        let validated = desk.run(&format!("validate {name}")).ended_with(2);
        let told = format!("{}{}", validated.out, validated.err);
        assert!(told.contains(said), "{name}: {told}");
        assert!(told.len() < 20_000, "{name}: {} bytes", told.len());
        assert!(!told.contains("panicked"), "{name}: {told}");
        let run = desk.run(&format!("run -c {name}")).ended_with(2);
        assert!(!run.err.contains("panicked"), "{name}: {}", run.err);
    }
    // What has no end is not read to its end.
    for endless in ["validate /dev/zero", "run -c /dev/zero"] {
        let refused = desk.run(endless).ended_with(2);
        let told = format!("{}{}", refused.out, refused.err);
        assert!(told.contains("more than the 262144 bytes"), "{told}");
    }
    assert!(
        !desk.path("tidegate.db").exists(),
        "a refused file makes nothing"
    );
}
