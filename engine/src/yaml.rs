//! YAML text as a tree of nodes with their lines: the only module that knows the YAML library. Machine
//! definitions and the configuration both read from it. It decides nothing about either; duplicate keys
//! stay in the tree, so that whoever reads it can report them together with everything else.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Bytes of a YAML text. Far above any definition or configuration that a person reads.
pub const YAML_BYTES_MAX: usize = 256 * 1024;

/// A value and the line it begins on.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Counted from 1.
    pub line: u32,
    /// The value.
    pub value: Yaml,
}

/// A YAML value, as YAML 1.2's core schema reads it.
#[derive(Clone, PartialEq, Debug)]
pub enum Yaml {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`; `yes`, `on` and their like are text.
    Bool(bool),
    /// An integer within 64 bits.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// Text, quoted or plain.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file, duplicates included.
    Map(Vec<(Key, Node)>),
}

/// The key of one entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Key {
    /// Counted from 1.
    pub line: u32,
    /// The key's text; a number or boolean as it was written.
    pub text: String,
}

/// Text that is no YAML.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct NotYaml {
    /// Counted from 1.
    pub line: u32,
    /// The library's sentence.
    pub message: String,
}

impl Yaml {
    /// What the value is, for messages; never the value itself, which may be a secret.
    pub fn kind(&self) -> &'static str {
        match self {
            Yaml::Null => "nothing",
            Yaml::Bool(_) => "a boolean",
            Yaml::Int(_) => "an integer",
            Yaml::Double(_) => "a number",
            Yaml::Text(_) => "text",
            Yaml::List(_) => "a list",
            Yaml::Map(_) => "a mapping",
        }
    }
}

/// Reads one document.
pub fn read(text: &str) -> Result<Node, NotYaml> {
    if text.len() > YAML_BYTES_MAX {
        return Err(NotYaml {
            line: 1,
            message: format!("{} bytes, at most {YAML_BYTES_MAX} are read", text.len()),
        });
    }
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
        // Aliases may repeat parts of a file; this bounds what they can grow it to.
        budget: serde_saphyr::budget! { max_depth: 32, max_nodes: 50_000, max_documents: 1 },
    };
    serde_saphyr::from_str_with_options::<Spanned<Yaml>>(text, options)
        .map(Node::from)
        .map_err(|error| NotYaml {
            line: error.location().map_or(1, |at| line_number(at.line())),
            message: error
                .render_with_formatter(&serde_saphyr::UserMessageFormatter)
                .lines()
                .next()
                .unwrap_or("not YAML")
                .to_owned(),
        })
}

impl From<Spanned<Yaml>> for Node {
    fn from(spanned: Spanned<Yaml>) -> Self {
        Self {
            line: line_number(spanned.referenced.line()),
            value: spanned.value,
        }
    }
}

fn line_number(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX).max(1)
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Yaml, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        // The same rule as for JSON: what no i64 holds is a double.
        Ok(i64::try_from(value).map_or(Yaml::Double(value as f64), Yaml::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Yaml, E> {
        Ok(Yaml::Double(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Yaml, E> {
        Ok(Yaml::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Yaml, E> {
        Ok(Yaml::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Yaml, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Yaml>>()? {
            items.push(Node::from(item));
        }
        Ok(Yaml::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Yaml, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key = Key {
                line: line_number(key.referenced.line()),
                text: key.value,
            };
            entries.push((key, Node::from(map.next_value::<Spanned<Yaml>>()?)));
        }
        Ok(Yaml::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::{Node, Yaml, read};

    fn entry<'n>(node: &'n Node, name: &str) -> (u32, &'n Node) {
        let Yaml::Map(entries) = &node.value else {
            panic!("no mapping: {node:?}");
        };
        entries
            .iter()
            .find(|(key, _)| key.text == name)
            .map(|(key, node)| (key.line, node))
            .unwrap_or_else(|| panic!("no `{name}` in {node:?}"))
    }

    #[test]
    fn scalars_are_what_the_core_schema_says_and_know_their_lines() {
        let text = "a: 1\nb: 1.0\nc: true\nd: ~\ne: yes\nf: '1'\n\ng:\n  - x\n  - { h: 10.5 }\n1: one\ntrue: t\nbig: 9223372036854775808\n";
        let node = read(text).unwrap();
        let value = |name: &str| entry(&node, name).1.value.clone();
        assert_eq!(value("a"), Yaml::Int(1));
        assert_eq!(value("b"), Yaml::Double(1.0));
        assert_eq!(value("c"), Yaml::Bool(true));
        assert_eq!(value("d"), Yaml::Null);
        assert_eq!(value("e"), Yaml::Text("yes".to_owned()));
        assert_eq!(value("f"), Yaml::Text("1".to_owned()));
        assert_eq!(value("1"), Yaml::Text("one".to_owned()));
        assert_eq!(value("true"), Yaml::Text("t".to_owned()));
        assert_eq!(value("big"), Yaml::Double(9.223_372_036_854_776e18));
        assert_eq!(entry(&node, "f").0, 6);
        let (_, list) = entry(&node, "g");
        let Yaml::List(items) = &list.value else {
            panic!("no list: {list:?}");
        };
        assert_eq!(items[0].line, 9);
        assert_eq!(entry(&items[1], "h").1.value, Yaml::Double(10.5));
    }

    #[test]
    fn duplicate_keys_stay_in_the_tree() {
        let Yaml::Map(entries) = read("a: 1\na: 2\n").unwrap().value else {
            panic!("no mapping");
        };
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].0.line, 2);
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        let error = read("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        let merged = read("a: &x { b: 1 }\nc:\n  <<: *x\n").unwrap_err();
        assert_eq!(merged.line, 3, "{merged:?}");
        assert!(read(&"a".repeat(300 * 1024)).is_err());
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(read(&text).is_err());
    }
}
