//! YAML as a tree that knows where each of its nodes stands. The only module that names the YAML
//! library; configuration and machine definitions both read from this tree, so that they can report
//! every error at once, each with its line. Never interprets a value beyond its YAML 1.2 type.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, SnippetMode, Spanned};

/// Where a node begins: both count from 1; 0 when the library does not say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub value: Value,
}

/// A YAML value. Quoted scalars are always [`Value::Text`].
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Empty, `null` or `~`.
    Null,
    /// `true` or `false` (YAML 1.2: `yes` and `on` are text).
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// Any other finite number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the text. No key stands twice.
    Map(Vec<Entry>),
}

/// One pair of a map.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_place: Place,
    /// Its value.
    pub node: Node,
}

impl Value {
    /// What it is, for "expected …, found …". Never the value itself: it may be a secret.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

impl Node {
    /// The value of a key, when this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|entry| entry.key == key)
                .map(|entry| &entry.node),
            _ => None,
        }
    }
}

/// A text that is not YAML (or not the part of it that we read).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not valid YAML: {message}")]
pub struct YamlError {
    /// Where the parser stopped.
    pub place: Place,
    /// What it said. Holds no more of the text than a key's name.
    pub message: String,
}

/// Reads one YAML document. Duplicate keys, merge keys and custom tags are errors: they hide what a
/// file says from the person who reads it.
pub fn parse(text: &str) -> Result<Node, YamlError> {
    let mut options = Options::default();
    options.strict_booleans = true;
    options.reject_unsupported_tags = true;
    options.merge_keys = serde_saphyr::options::MergeKeyPolicy::Error;
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(node) => Ok(node),
        Err(error) => Err(YamlError {
            place: error.location().map(place).unwrap_or_default(),
            message: message(&error),
        }),
    }
}

fn message(error: &serde_saphyr::Error) -> String {
    let mut options = serde_saphyr::RenderOptions::default();
    options.snippets = SnippetMode::Off;
    let text = error.render_with_options(options);
    if matches!(
        error.without_snippet(),
        serde_saphyr::Error::MultipleDocuments { .. }
    ) {
        return "a second document begins; one file holds one document".to_owned();
    }
    // The place is reported on its own.
    match text.split_once(" at line ") {
        Some((what, _)) => what.to_owned(),
        None => text,
    }
}

fn place(location: serde_saphyr::Location) -> Place {
    Place {
        line: location.line(),
        column: location.column(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node {
            place: place(spanned.referenced),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }
            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
                Value::deserialize(inner)
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Int(value))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
                i64::try_from(value)
                    .map(Value::Int)
                    .map_err(|_| E::custom("a whole number beyond 64 bits with sign"))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Value::Float(value))
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }
            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(Value::Text(value))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = access.next_element::<Node>()? {
                    items.push(item);
                }
                Ok(Value::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(key) = access.next_key::<Spanned<String>>()? {
                    let key_place = place(key.referenced);
                    let node = access.next_value::<Node>()?;
                    entries.push(Entry {
                        key: key.value,
                        key_place,
                        node,
                    });
                }
                Ok(Value::Map(entries))
            }
        }
        deserializer.deserialize_any(ValueVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, Value, parse};

    #[test]
    fn nodes_know_their_place_and_their_yaml_type() {
        let text = "a: 1\nb:\n  - x\n  - \"7\"\n  - on\nc: {d: true, e: }\nf: 1.5\ng: null\n";
        let root = parse(text).unwrap();
        assert_eq!(root.get("a").unwrap().value, Value::Int(1));
        assert_eq!(root.get("a").unwrap().place, Place { line: 1, column: 4 });
        let Value::List(items) = &root.get("b").unwrap().value else {
            panic!("a list")
        };
        assert_eq!(items[1].value, Value::Text("7".to_owned()));
        assert_eq!(items[1].place, Place { line: 4, column: 5 });
        assert_eq!(items[2].value, Value::Text("on".to_owned()));
        let inner = root.get("c").unwrap();
        assert_eq!(inner.get("d").unwrap().value, Value::Bool(true));
        assert_eq!(inner.get("e").unwrap().value, Value::Null);
        assert_eq!(root.get("f").unwrap().value, Value::Float(1.5));
        assert_eq!(root.get("g").unwrap().value, Value::Null);
        let Value::Map(entries) = &root.value else {
            panic!("a map")
        };
        assert_eq!(entries[2].key_place, Place { line: 6, column: 1 });
        assert_eq!(parse("").unwrap().value, Value::Null);
    }

    #[test]
    fn what_hides_something_is_refused_with_its_place() {
        for (text, line, says) in [
            ("a: 1\nb: 2\na: 3\n", 3, "duplicate"),
            ("a: &x {k: 1}\nb:\n  <<: *x\n", 3, "merge"),
            ("a: [1\nb: 2\n", 2, ""),
            ("a: !secret x\n", 1, "tag"),
            ("a: 1\n---\nb: 2\n", 3, "one document"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(says), "{text:?}: {error}");
            assert_eq!(error.place.line, line, "{text:?}: {error}");
        }
    }
}
