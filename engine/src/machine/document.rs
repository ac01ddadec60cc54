//! Reads sections of a definition strictly: unknown and repeated keys, missing keys and values of the
//! wrong kind are noted with their line and path, and reading goes on.

use super::load_error::{Problems, did_you_mean, listed, nearest};
use crate::yaml::{Key, Node, Yaml};

/// A mapping whose keys are known.
#[derive(Clone, Copy)]
pub(super) struct Section<'n> {
    entries: &'n [(Key, Node)],
    /// The keys that may stand here; empty when they are the author's names.
    known: &'static [&'static str],
    /// The line it begins on.
    pub(super) line: u32,
}

/// The place of a value in the document: `events.order.paid[0].to`.
pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The place of an item of a list.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

impl<'n> Section<'n> {
    /// The mapping at `path`, with only these keys, each at most once.
    pub(super) fn read(
        node: &'n Node,
        path: &str,
        known: &'static [&'static str],
        problems: &mut Problems,
    ) -> Option<Self> {
        let section = Self {
            known,
            ..Self::open(node, path, problems)?
        };
        for (key, _) in section.entries {
            if !known.contains(&key.text.as_str()) {
                let suggestion = did_you_mean(&key.text, known.iter().copied())
                    .or_else(|| Some(format!("the keys are {}", listed(known.iter().copied()))));
                let message = format!("there is no key `{}`", key.text);
                problems.push_with(key.line, path, message, suggestion);
            }
        }
        Some(section)
    }

    /// The mapping at `path`, whose keys are the author's names.
    pub(super) fn open(node: &'n Node, path: &str, problems: &mut Problems) -> Option<Self> {
        let Yaml::Map(entries) = &node.value else {
            let message = format!("expected a mapping, found {}", node.value.kind());
            problems.push(node.line, path, message);
            return None;
        };
        for (place, (key, _)) in entries.iter().enumerate() {
            let earlier = entries
                .iter()
                .take(place)
                .find(|(earlier, _)| earlier.text == key.text);
            if let Some((earlier, _)) = earlier {
                let message = format!(
                    "`{}` stands twice, first on line {}",
                    key.text, earlier.line
                );
                problems.push(key.line, &below(path, &key.text), message);
            }
        }
        Some(Self {
            entries,
            known: &[],
            line: node.line,
        })
    }

    /// Every entry, in the order of the file.
    pub(super) fn entries(&self) -> &'n [(Key, Node)] {
        self.entries
    }

    /// The value of a key.
    pub(super) fn get(&self, name: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(key, _)| key.text == name)
            .map(|(_, node)| node)
    }

    /// True when an unknown key here looks like this one: it has been reported already.
    fn has_mistyped(&self, name: &str) -> bool {
        self.entries
            .iter()
            .map(|(key, _)| key.text.as_str())
            .filter(|key| !self.known.contains(key))
            .any(|key| nearest(key, self.known.iter().copied()) == Some(name))
    }

    /// The value of a key that must be there.
    pub(super) fn required(
        &self,
        name: &str,
        path: &str,
        example: &str,
        problems: &mut Problems,
    ) -> Option<&'n Node> {
        let node = self.get(name);
        if node.is_none() && !self.has_mistyped(name) {
            let message = format!("the key `{name}` is missing");
            problems.push_with(
                self.line,
                path,
                message,
                Some(format!("like `{name}: {example}`")),
            );
        }
        node
    }
}

/// The text of a node; a number or boolean asks for quotes.
pub(super) fn text<'n>(node: &'n Node, path: &str, problems: &mut Problems) -> Option<&'n str> {
    let suggestion = match &node.value {
        Yaml::Text(text) => return Some(text),
        Yaml::Bool(_) | Yaml::Int(_) | Yaml::Double(_) => {
            Some("put it in quotes if it is meant as text".to_owned())
        }
        Yaml::Null | Yaml::List(_) | Yaml::Map(_) => None,
    };
    let message = format!("expected text, found {}", node.value.kind());
    problems.push_with(node.line, path, message, suggestion);
    None
}

/// The items of a list of at least one.
pub(super) fn list<'n>(node: &'n Node, path: &str, problems: &mut Problems) -> Option<&'n [Node]> {
    match &node.value {
        Yaml::List(items) if !items.is_empty() => return Some(items),
        Yaml::List(_) => problems.push(node.line, path, "the list is empty"),
        other => {
            let message = format!("expected a list, found {}", other.kind());
            problems.push(node.line, path, message);
        }
    }
    None
}

/// Notes when there are more of something than are allowed; true when there are not.
pub(super) fn within(
    count: usize,
    limit: usize,
    what: &str,
    at: (u32, &str),
    problems: &mut Problems,
) -> bool {
    if count > limit {
        problems.push(at.0, at.1, format!("{count} {what}, at most {limit}"));
    }
    count <= limit
}
