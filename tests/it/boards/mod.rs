//! The boards of `deploy/grafana` and the rules of `deploy/prometheus`, read as their users read them: what they
//! ask, what they link to, and whether what they name is there.

mod asked;
mod linked;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate_engine::yaml::{self, Node, Yaml};

pub const RULES: &str = include_str!("../../../deploy/prometheus/rules.yaml");

/// One board.
pub struct Board {
    /// Its file without `.json`.
    pub name: String,
    /// What stands in it.
    pub json: Value,
}

/// What a panel asks, or a variable to have its values.
pub struct Query {
    /// The board and the panel, for people.
    pub place: String,
    /// In Prometheus' language, with Grafana's variables in it.
    pub text: String,
    /// How its series are called on the panel.
    pub legend: String,
}

impl Board {
    /// The panels that ask something.
    pub fn panels(&self) -> impl Iterator<Item = &Value> {
        let all = self.json["panels"].as_array().unwrap().iter();
        all.filter(|panel| panel["type"] != "row" && panel["type"] != "text")
    }

    /// The variables.
    pub fn variables(&self) -> &[Value] {
        self.json["templating"]["list"].as_array().unwrap()
    }

    /// What it asks.
    pub fn queries(&self) -> Vec<Query> {
        let mut all = Vec::new();
        for panel in self.panels() {
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{panel}");
            all.extend(targets.iter().map(|target| Query {
                place: format!("{}: {}", self.name, panel["title"].as_str().unwrap()),
                text: target["expr"].as_str().unwrap().to_owned(),
                legend: target["legendFormat"].as_str().unwrap_or("").to_owned(),
            }));
        }
        for variable in self.variables().iter().filter(|it| it["type"] == "query") {
            let asked = variable["query"]["query"].as_str().unwrap();
            let of = asked.strip_prefix("label_values(").unwrap();
            let (metric, label) = of.strip_suffix(')').unwrap().split_once(", ").unwrap();
            all.push(Query {
                place: format!("{}: variable {}", self.name, variable["name"]),
                text: format!("count by ({label}) ({metric})"),
                legend: String::new(),
            });
        }
        all
    }
}

/// All of the folder that is provisioned.
pub fn all() -> Vec<Board> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/grafana/dashboards");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| Board {
        name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
        json: serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap(),
    };
    paths.into_iter().map(read).collect()
}

/// A rule: a recorded series, or an alert.
pub struct Rule {
    pub name: String,
    pub is_alert: bool,
    pub asks: String,
    /// The board that an alert leads to.
    pub board: Option<String>,
}

/// All rules, in their order.
pub fn rules() -> Vec<Rule> {
    let tree = yaml::read(RULES).unwrap();
    let groups = list(get(&tree, "groups").unwrap());
    let rules = groups.iter().flat_map(|it| list(get(it, "rules").unwrap()));
    let read = |rule: &Node| {
        let alert = get(rule, "alert");
        let board = get(rule, "annotations").and_then(|it| get(it, "board"));
        Rule {
            name: text(alert.or_else(|| get(rule, "record")).unwrap()),
            is_alert: alert.is_some(),
            asks: text(get(rule, "expr").unwrap()),
            board: board.map(text),
        }
    };
    rules.map(read).collect()
}

fn get<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    let Yaml::Map(entries) = &node.value else {
        panic!("`{key}` of {}", node.value.kind());
    };
    let found = entries.iter().find(|(name, _)| name.text == key);
    found.map(|(_, value)| value)
}

fn list(node: &Node) -> &[Node] {
    match &node.value {
        Yaml::List(items) => items,
        other => panic!("expected a list, found {}", other.kind()),
    }
}

fn text(node: &Node) -> String {
    match &node.value {
        Yaml::Text(text) => text.clone(),
        other => panic!("expected text, found {}", other.kind()),
    }
}

/// Every text in a value, wherever it stands.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(entries) => entries.values().flat_map(texts).collect(),
        _ => Vec::new(),
    }
}

/// Every value that has this key, wherever it stands.
fn under<'v>(value: &'v Value, key: &str) -> Vec<&'v Value> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| under(item, key)).collect(),
        Value::Object(entries) => {
            let deeper = entries.values().flat_map(|value| under(value, key));
            entries.get(key).into_iter().chain(deeper).collect()
        }
        _ => Vec::new(),
    }
}

/// The names of alerts in a text.
fn alerts_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words
        .filter(|word| word.starts_with("Tidegate") && *word != "Tidegate")
        .collect()
}
