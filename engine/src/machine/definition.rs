//! A machine's definition as its file says it, with every expression compiled. [`MachineDefinition::load`]
//! is the one way from text to a machine; it collects everything that is wrong before it refuses.

use std::sync::Arc;

use super::candidate::{Handler, read_handlers};
use super::cases::{Case, read_cases};
use super::compiled::CompiledMachine;
use super::document::{Section, item, list, text, within};
use super::expression::Expression;
use super::field::{Field, read_fields};
use super::load_error::{LoadError, Problems, did_you_mean, listed};
use super::payload::PayloadPlan;
use super::reach;
use super::rewrite::Objection;
use super::variables::Place;
use crate::limits::MACHINE_NAMES_MAX;
use crate::state::{MachineName, Status};
use crate::yaml::{self, Node, Yaml};

/// The `apiVersion` of the format that this release reads.
pub const API_VERSION: &str = "tidegate/v1";

/// What becomes of an event that no candidate takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum OnUnmatched {
    /// The machine says no.
    #[default]
    Reject,
    /// A person has to look.
    DeadLetter,
    /// The machine does not care.
    Ignore,
}

impl OnUnmatched {
    /// Every choice, with its name in a definition.
    const NAMED: [(&'static str, OnUnmatched); 3] = [
        ("reject", OnUnmatched::Reject),
        ("dead_letter", OnUnmatched::DeadLetter),
        ("ignore", OnUnmatched::Ignore),
    ];
}

/// A machine's definition.
#[derive(Debug)]
pub struct MachineDefinition {
    /// The file as it was named to the loader; errors name it.
    pub(super) file: Arc<str>,
    pub(super) machine: MachineName,
    pub(super) version: u64,
    pub(super) states: Vec<Status>,
    pub(super) initial: Status,
    pub(super) fields: Vec<Field>,
    pub(super) key: Expression,
    pub(super) key_plan: PayloadPlan,
    /// In order of event type.
    pub(super) handlers: Vec<Handler>,
    pub(super) on_unmatched: OnUnmatched,
    pub(super) cases: Vec<Case>,
}

impl MachineDefinition {
    /// Reads and compiles a definition. `file` is how errors name it; `text` is what is stored and
    /// hashed, byte for byte.
    pub fn load(file: &str, text: &str) -> Result<Arc<CompiledMachine>, Vec<LoadError>> {
        let mut problems = Problems::new(file);
        let definition = match yaml::read(text) {
            Ok(document) => read_machine(file, &document, &mut problems),
            Err(error) => {
                let message = format!("not YAML: {}", error.message);
                let hint =
                    "an expression that holds `: ` or ` #` stands in quotes or in a block (`|`)";
                problems.push_with(error.line, "", message, Some(hint.to_owned()));
                None
            }
        };
        match definition {
            Some(definition) if problems.is_empty() => {
                Ok(Arc::new(CompiledMachine::new(definition, text)))
            }
            _ => Err(problems.into_errors()),
        }
    }
}

/// What every part of a definition is read with.
pub(super) struct Reader<'r> {
    pub(super) states: &'r [Status],
    pub(super) fields: &'r [Field],
    /// False when a field's declaration is wrong: then nothing is held against a type.
    pub(super) sound: bool,
    pub(super) problems: &'r mut Problems,
}

impl Reader<'_> {
    /// Compiles the CEL, or takes the number, boolean or null, at a node.
    pub(super) fn expression(
        &mut self,
        node: &Node,
        path: &str,
        place: Place,
        plan: &mut PayloadPlan,
    ) -> Option<Expression> {
        match &node.value {
            Yaml::Text(text) => {
                match Expression::compile(text, node.line, place, self.fields, plan) {
                    Ok(expression) => Some(expression),
                    Err(objections) => {
                        for Objection {
                            message,
                            suggestion,
                        } in objections
                        {
                            self.problems
                                .push_with(node.line, path, message, suggestion);
                        }
                        None
                    }
                }
            }
            Yaml::Int(int) => Some(Expression::int(*int, node.line)),
            Yaml::Double(double) => Some(Expression::double(*double, node.line)),
            Yaml::Bool(bool) => Some(Expression::bool(*bool, node.line)),
            Yaml::Null => Some(Expression::null(node.line)),
            Yaml::List(_) | Yaml::Map(_) => {
                let message = format!("expected an expression, found {}", node.value.kind());
                let hint = "write CEL in quotes: \"[1, 2]\" or \"{'name': event.data.name}\"";
                self.problems
                    .push_with(node.line, path, message, Some(hint.to_owned()));
                None
            }
        }
    }

    /// A declared status.
    pub(super) fn status(&mut self, node: &Node, path: &str) -> Option<Status> {
        let name = text(node, path, self.problems)?;
        let found = self.states.iter().find(|state| state.as_str() == name);
        if found.is_none() {
            let known = self.states.iter().map(Status::as_str);
            let suggestion = did_you_mean(name, known.clone())
                .or_else(|| Some(format!("the states are {}", listed(known))));
            let message = format!("there is no state `{name}`");
            self.problems
                .push_with(node.line, path, message, suggestion);
        }
        found.cloned()
    }
}

fn read_machine(file: &str, document: &Node, problems: &mut Problems) -> Option<MachineDefinition> {
    const KEYS: [&str; 11] = [
        "apiVersion",
        "kind",
        "machine",
        "version",
        "key",
        "initial",
        "states",
        "data",
        "events",
        "on_unmatched",
        "tests",
    ];
    let root = Section::read(document, "", &KEYS, problems)?;
    read_header(root, problems);
    let machine = read_name(root, problems);
    let version = read_version(root, problems);
    let states = read_states(root, problems);
    let before = problems.count();
    let fields = read_fields(root, problems);
    let sound = problems.count() == before;
    let on_unmatched = read_on_unmatched(root, problems);

    let mut reader = Reader {
        states: &states,
        fields: &fields,
        sound,
        problems,
    };
    let initial = root
        .required("initial", "", "new", reader.problems)
        .and_then(|node| reader.status(node, "initial"));
    let mut key_plan = PayloadPlan::default();
    let key = root
        .required("key", "", "event.subject", reader.problems)
        .and_then(|node| reader.expression(node, "key", Place::Key, &mut key_plan));
    let handlers = root
        .required("events", "", "…", reader.problems)
        .and_then(|node| read_handlers(node, &mut reader));
    let cases = root
        .get("tests")
        .map_or_else(Vec::new, |node| read_cases(node, &mut reader));

    let definition = MachineDefinition {
        file: Arc::from(file),
        machine: machine?,
        version: version?,
        initial: initial?,
        key: key?,
        key_plan,
        handlers: handlers?,
        on_unmatched: on_unmatched?,
        cases,
        states,
        fields,
    };
    // Reachability means something only for a file that is right in every detail.
    if problems.is_empty() {
        reach::check(&definition, root, problems);
    }
    Some(definition)
}

fn read_header(root: Section<'_>, problems: &mut Problems) {
    for (key, expected) in [("apiVersion", API_VERSION), ("kind", "Machine")] {
        let Some(node) = root.required(key, "", expected, problems) else {
            continue;
        };
        if let Some(found) = text(node, key, problems)
            && found != expected
        {
            problems.push(
                node.line,
                key,
                format!("expected `{expected}`, found `{found}`"),
            );
        }
    }
}

fn read_name(root: Section<'_>, problems: &mut Problems) -> Option<MachineName> {
    let node = root.required("machine", "", "order", problems)?;
    let name = text(node, "machine", problems)?;
    MachineName::new(name)
        .map_err(|error| {
            let message = format!("expected {}, found {}", error.expected, error.found);
            problems.push(node.line, "machine", message);
        })
        .ok()
}

fn read_version(root: Section<'_>, problems: &mut Problems) -> Option<u64> {
    let node = root.required("version", "", "1", problems)?;
    if let Yaml::Int(version) = node.value
        && version >= 1
    {
        return u64::try_from(version).ok();
    }
    let message = format!("expected an integer from 1, found {}", node.value.kind());
    problems.push(node.line, "version", message);
    None
}

fn read_states(root: Section<'_>, problems: &mut Problems) -> Vec<Status> {
    let node = root.required("states", "", "[new, placed]", problems);
    let Some((node, items)) = node.and_then(|node| Some((node, list(node, "states", problems)?)))
    else {
        return Vec::new();
    };
    let mut states: Vec<Status> = Vec::new();
    if !within(
        items.len(),
        MACHINE_NAMES_MAX,
        "states",
        (node.line, "states"),
        problems,
    ) {
        return states;
    }
    for (index, node) in items.iter().enumerate() {
        let path = item("states", index);
        let Some(name) = text(node, &path, problems) else {
            continue;
        };
        match Status::new(name) {
            Ok(status) if states.contains(&status) => {
                problems.push(node.line, &path, format!("the state `{name}` stands twice"));
            }
            Ok(status) => states.push(status),
            Err(error) => {
                let message = format!("expected {}, found {}", error.expected, error.found);
                problems.push(node.line, &path, message);
            }
        }
    }
    states
}

fn read_on_unmatched(root: Section<'_>, problems: &mut Problems) -> Option<OnUnmatched> {
    let Some(node) = root.get("on_unmatched") else {
        return Some(OnUnmatched::default());
    };
    let name = text(node, "on_unmatched", problems)?;
    let found = OnUnmatched::NAMED.iter().find(|(known, _)| *known == name);
    if found.is_none() {
        let names = OnUnmatched::NAMED.map(|(known, _)| known);
        let suggestion = did_you_mean(name, names)
            .or_else(|| Some(format!("the choices are {}", listed(names))));
        let message = format!("there is no choice `{name}`");
        problems.push_with(node.line, "on_unmatched", message, suggestion);
    }
    found.map(|(_, choice)| *choice)
}
