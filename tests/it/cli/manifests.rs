//! What stands in `deploy/` for others to run is held against what the binary takes.

use std::collections::BTreeMap;

use tidegate_engine::yaml::{self, Node, Yaml};

use super::Desk;

const KUBERNETES: &str = include_str!("../../../deploy/kubernetes/tidegate.yaml");

/// The documents of a file, by kind and name.
fn documents(text: &str) -> BTreeMap<String, Node> {
    let documents = text.split("\n---\n").map(|text| {
        let node = yaml::read(text).unwrap_or_else(|error| panic!("{}\n{text}", error.message));
        let name = format!(
            "{}/{}",
            text_at(&node, &["kind"]),
            text_at(&node, &["metadata", "name"])
        );
        (name, node)
    });
    documents.collect()
}

fn at<'n>(node: &'n Node, path: &[&str]) -> &'n Node {
    path.iter().fold(node, |node, key| match &node.value {
        Yaml::Map(entries) => {
            let found = entries.iter().find(|(name, _)| name.text == *key);
            &found.unwrap_or_else(|| panic!("no `{key}` of {path:?}")).1
        }
        Yaml::List(items) => &items[key.parse::<usize>().unwrap()],
        other => panic!("`{key}` of {path:?} in {}", other.kind()),
    })
}

fn text_at(node: &Node, path: &[&str]) -> String {
    match &at(node, path).value {
        Yaml::Text(text) => text.clone(),
        Yaml::Int(number) => number.to_string(),
        other => panic!("{path:?} is {}", other.kind()),
    }
}

fn texts_at(node: &Node, path: &[&str]) -> Vec<String> {
    match &at(node, path).value {
        Yaml::List(items) => items.iter().map(|item| text_at(item, &[])).collect(),
        other => panic!("{path:?} is {}", other.kind()),
    }
}

const CONTAINER: [&str; 5] = ["spec", "template", "spec", "containers", "0"];

fn of_container(key: &str) -> Vec<&str> {
    let mut path = CONTAINER.to_vec();
    path.extend(key.split('.'));
    path
}

#[test]
fn the_kubernetes_manifests_describe_a_node_that_starts_and_drains_in_time() {
    let all = documents(KUBERNETES);
    let config = at(&all["ConfigMap/tidegate"], &["data"]);
    let desk = Desk::new();
    desk.write("node.yaml", &text_at(config, &["node.yaml"]));
    desk.write("order.yaml", &text_at(config, &["order.yaml"]));
    let nodes = &all["StatefulSet/tidegate"];
    for name in ["StatefulSet/tidegate", "Job/tidegate-migrate"] {
        let container = at(&all[name], &CONTAINER);
        let Yaml::List(given) = &at(container, &["env"]).value else {
            panic!("a list")
        };
        let mut command = desk.command("-c node.yaml validate");
        command.env_remove("POD_NAME");
        for variable in given {
            let name = text_at(variable, &["name"]);
            let value = match name.as_str() {
                "POSTGRES_URL" | "MIGRATE_URL" => "postgres://engine@db/tidegate",
                _ => "given",
            };
            command.env(name, value);
        }
        let said = super::Said::from(command.output().unwrap());
        said.ended_with(0);
    }
    // The name of a pod is the name of its node: the same one after a restart.
    assert_eq!(
        text_at(nodes, &of_container("env.0.valueFrom.fieldRef.fieldPath")),
        "metadata.name"
    );
    let grace = text_at(
        nodes,
        &["spec", "template", "spec", "terminationGracePeriodSeconds"],
    );
    let node = yaml::read(&text_at(config, &["node.yaml"])).unwrap();
    let drain = text_at(&node, &["limits", "drain_limit_seconds"]);
    assert!(grace.parse::<u64>().unwrap() > drain.parse::<u64>().unwrap() + 5);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let asked = texts_at(nodes, &of_container(&format!("{probe}.exec.command")));
        assert_eq!(asked[0], "tidegate");
        let mut command = desk.command(&format!("{} --help", asked[3..].join(" ")));
        super::Said::from(command.output().unwrap()).ended_with(0);
    }
}

const COMPOSE: &str = include_str!("../../../deploy/compose.yaml");

/// Every command of ours in the compose file is one that the binary takes, and its configuration is valid.
#[test]
fn the_compose_file_runs_what_there_is() {
    let desk = Desk::new();
    let config = include_str!("../../../deploy/compose/node.yaml");
    desk.write("node.yaml", &config.replace("/etc/machines/", ""));
    let mut validate = desk.command("-c node.yaml validate");
    validate.env("NODE_NAME", "node-a");
    for url in ["ENGINE_URL", "ADMIN_URL"] {
        validate.env(url, "postgres://engine@db/tidegate");
    }
    super::Said::from(validate.output().unwrap()).ended_with(0);
    let mut commands = 0;
    for line in COMPOSE.lines() {
        // `command: [-c, /etc/tidegate/node.yaml, …]`, or a whole line of a shell.
        let ours = line.split("/etc/tidegate/node.yaml").nth(1);
        let Some(rest) = ours else { continue };
        let end = rest.find(['&', '}', ']']).unwrap_or(rest.len());
        let arguments = rest[..end].replace([',', '"'], " ");
        let mut command = desk.command(&format!("{arguments} --help"));
        let said = super::Said::from(command.output().unwrap());
        assert!(said.out.contains("Usage: tidegate"), "{line}\n{}", said.err);
        commands += 1;
    }
    assert_eq!(commands, 5, "migrate, tokens, run, health and lag");
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    for mount in COMPOSE
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ./"))
    {
        let path = mount.split(':').next().unwrap();
        assert!(root.join(path).exists(), "{mount}");
    }
}
