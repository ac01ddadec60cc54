//! Events of tenants that nobody created, as an operator meets them.

use serde_json::{Value, json};

use super::postgres::Served;
use super::{Desk, Said, event};

const SOURCE: &str = "\
sources:
  - { name: shop, paths: [shop.ndjson], stream: orders, tenant_from_event_unsafe: true, ";

fn config(policy: &str, limits: &str) -> String {
    format!("machines: {{ paths: [order.yaml] }}\n{SOURCE}{policy} }}\n{limits}")
}

/// One order of each of these tenants.
fn orders(tenants: &[&str]) -> String {
    let order = |(number, tenant): (usize, &&str)| {
        let data = json!({"total_cents": 5});
        let event = event(&format!("{number}"), "order.placed", 1, &data);
        event.replace("\"acme\"", &format!("\"{tenant}\""))
    };
    tenants.iter().enumerate().map(order).collect()
}

fn tenants(listed: &Said) -> Vec<String> {
    let name = |line: &Value| line["tenant"].as_str().unwrap().to_owned();
    let mut names: Vec<String> = listed.lines().iter().map(name).collect();
    names.retain(|name| name != "_unassigned");
    names
}

/// The letters of everybody, as (tenant, detail).
fn letters(listed: &Said) -> Vec<(String, String)> {
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let lines = listed.lines();
    lines
        .iter()
        .map(|line| (text(line, "tenant"), text(line, "detail")))
        .collect()
}

/// The whole way, on any store: kept, created by hand, retried; then created on first sight, to a bound.
fn walk(write: impl Fn(&str, &str), run: impl Fn(&str) -> Said) {
    run("tenants create acme").ended_with(0);
    write("shop.ndjson", &orders(&["acme", "bolt", "bolt"]));
    let counts = run("ingest -o json").ended_with(0).lines().remove(0);
    assert_eq!(counts["admitted"], json!(1), "{counts}");
    assert_eq!(counts["unreadable"], json!(2), "{counts}");
    run("state get order o-1 --tenant acme").ended_with(0);
    assert_eq!(
        tenants(&run("tenants list -o json").ended_with(0)),
        ["acme"]
    );
    // Nothing of it is anywhere but with the reserved tenant.
    run("state get order o-1 --tenant bolt").ended_with(4);
    let kept = letters(&run("dead-letters list -o json").ended_with(0));
    assert_eq!(kept.len(), 2);
    for (tenant, detail) in &kept {
        assert_eq!(tenant, "_unassigned");
        assert!(
            detail.contains("`tidegate tenants create bolt`"),
            "{detail}"
        );
    }
    let retry = "dead-letters retry --all --tenant _unassigned";
    let in_vain = run(retry);
    assert_ne!(in_vain.code, 0, "{}", in_vain.out);
    assert_eq!(
        tenants(&run("tenants list -o json").ended_with(0)),
        ["acme"]
    );
    run("tenants create bolt").ended_with(0);
    run(&format!("{retry} --stream orders"));
    run("state get order o-1 --tenant bolt").ended_with(0);
    let left = letters(&run("dead-letters list --tenant _unassigned -o json").ended_with(0));
    assert_eq!(left, []);
    run("verify").ended_with(0);
}

fn walk_creating(write: impl Fn(&str, &str), run: impl Fn(&str) -> Said) {
    run("tenants create acme").ended_with(0);
    run("tenants create gone").ended_with(0);
    run("tenants close gone").ended_with(0);
    write(
        "shop.ndjson",
        &orders(&["acme", "bolt", "gone", "carl", "dora", "bolt"]),
    );
    let said = run("ingest -o json").ended_with(0);
    let counts = &said.lines()[0];
    assert_eq!(counts["admitted"], json!(4), "{counts}");
    assert_eq!(counts["unreadable"], json!(2), "{counts}");
    assert!(
        said.err.contains("tenant created by its first event"),
        "{}",
        said.err
    );
    let listed = run("tenants list -o json").ended_with(0);
    assert_eq!(tenants(&listed), ["acme", "bolt", "carl", "gone"]);
    for tenant in ["acme", "bolt", "carl"] {
        run(&format!("state get order o-1 --tenant {tenant}")).ended_with(0);
    }
    let kept = letters(&run("dead-letters list -o json").ended_with(0));
    assert_eq!(kept.len(), 2, "{kept:?}");
    for (says, name) in [
        ("is closed", "gone"),
        ("limits.created_tenants_max", "dora"),
    ] {
        let of = format!("tenant `{name}`");
        let told = |(tenant, detail): &(String, String)| {
            tenant == "_unassigned" && detail.contains(says) && detail.contains(&of)
        };
        assert!(kept.iter().any(told), "{name}: {kept:?}");
        run(&format!("state get order o-1 --tenant {name}")).ended_with(4);
    }
    run("verify").ended_with(0);
}

fn on_sqlite(policy: &str, limits: &str, walk: impl Fn(&Desk, &dyn Fn(&str) -> Said)) {
    let desk = Desk::new();
    desk.write("node.yaml", &config(policy, limits));
    walk(&desk, &|line| desk.run(&format!("{line} -c node.yaml")));
}

#[test]
fn r02_an_unknown_tenants_events_wait_for_somebody_to_create_it_on_sqlite() {
    on_sqlite("unknown_tenants: dead_letter", "", |desk, run| {
        walk(|name, text| desk.write(name, text), run);
    });
}

#[test]
fn r02_unknown_tenants_are_created_up_to_a_bound_and_closed_ones_are_not_on_sqlite() {
    let limits = "limits: { created_tenants_max: 2 }\n";
    on_sqlite("unknown_tenants: create", limits, |desk, run| {
        walk_creating(|name, text| desk.write(name, text), run);
    });
}

fn on_postgres(test: &str, policy: &str, limits: &str) -> Option<Served> {
    let served = Served::new(test)?;
    served.append("node.yaml", &format!("{SOURCE}{policy} }}\n{limits}"));
    served.migrate();
    Some(served)
}

#[test]
fn r02_an_unknown_tenants_events_wait_for_somebody_to_create_it_on_postgres() {
    let test = "r02_an_unknown_tenants_events_wait_for_somebody_to_create_it_on_postgres";
    let Some(served) = on_postgres(test, "unknown_tenants: dead_letter", "") else {
        return;
    };
    walk(
        |name, text| served.write(name, text),
        |line| served.run(line),
    );
}

#[test]
fn r02_unknown_tenants_are_created_up_to_a_bound_and_closed_ones_are_not_on_postgres() {
    let test = "r02_unknown_tenants_are_created_up_to_a_bound_and_closed_ones_are_not_on_postgres";
    let limits = "limits: { created_tenants_max: 2 }\n";
    let Some(served) = on_postgres(test, "unknown_tenants: create", limits) else {
        return;
    };
    walk_creating(
        |name, text| served.write(name, text),
        |line| served.run(line),
    );
}

/// Two processes meet the same new tenants at once.
#[test]
fn r02_two_nodes_that_create_the_same_tenants_at_once_make_each_once() {
    let test = "r02_two_nodes_that_create_the_same_tenants_at_once_make_each_once";
    let limits = "limits: { created_tenants_max: 20 }\n";
    let Some(served) = on_postgres(test, "unknown_tenants: create", limits) else {
        return;
    };
    let names: Vec<String> = (0..20).map(|number| format!("t-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let nodes: Vec<_> = ["one", "two"]
        .map(|node| {
            // Ids of its own, so that each node's events count.
            let text = orders(&names).replace("\"/shop\"", &format!("\"/{node}\""));
            served.write(&format!("{node}.ndjson"), &text);
            let line = format!(
                "ingest {node}.ndjson --source {node} --tenant-from-event-unsafe --create-tenants -o json"
            );
            let mut command = served.command(&line);
            command.stdout(std::process::Stdio::piped());
            command.stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        })
        .into_iter()
        .map(|node| Said::from(node.wait_with_output().unwrap()).ended_with(0))
        .collect();
    let mut created = 0;
    for said in &nodes {
        assert_eq!(said.lines()[0]["admitted"], json!(20), "{}", said.out);
        created += said
            .err
            .matches("tenant created by its first event")
            .count();
    }
    assert_eq!(created, 20);
    let listed = served.run("tenants list -o json").ended_with(0);
    assert_eq!(tenants(&listed), names);
    assert_eq!(
        letters(&served.run("dead-letters list -o json").ended_with(0)),
        []
    );
    served.run("verify").ended_with(0);
}

#[test]
fn r48_a_sample_says_what_becomes_of_tenants_that_do_not_exist() {
    let desk = Desk::new();
    desk.write("shop.ndjson", &orders(&["acme", "bolt"]));
    for (policy, word, says) in [
        (
            "unknown_tenants: dead_letter",
            "dead_letter",
            "kept as dead letters of `_unassigned`",
        ),
        (
            "unknown_tenants: create",
            "create",
            "up to 1000 by all sources",
        ),
    ] {
        desk.write("node.yaml", &config(policy, ""));
        let sample = "validate -c node.yaml --sample shop.ndjson";
        let said = desk.run(&format!("{sample} -o json")).ended_with(0);
        for line in said.lines() {
            assert_eq!(line["unknown_tenant"], json!(word), "{line}");
        }
        assert!(said.err.contains("2 tenants named"), "{}", said.err);
        assert!(said.err.contains(says), "{}", said.err);
        let table = desk.run(sample).ended_with(0).out;
        assert!(table.contains("if_unknown"), "{table}");
    }
    assert!(!desk.path("tidegate.db").exists(), "no store is asked");
}
