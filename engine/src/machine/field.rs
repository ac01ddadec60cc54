//! The declared fields of a machine's data, and how their section is read.

use std::borrow::Cow;
use std::collections::HashMap;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelNull, CelString};
use cel::common::value::Val;
use serde_json::Value;

use super::document::{Section, below, text, within};
use super::field_type::{FieldType, map_key};
use super::load_error::{Problems, did_you_mean, listed};
use crate::limits::{MACHINE_NAMES_MAX, NAME_BYTES_MAX};
use crate::yaml::{Key, Node, Yaml};

/// A declared field of a machine's data.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: FieldType,
    /// Its first value, as it is stored.
    pub(super) initial: Value,
}

/// Reads the section `data`.
pub(super) fn read_fields(root: Section<'_>, problems: &mut Problems) -> Vec<Field> {
    let Some(data) = root
        .get("data")
        .and_then(|node| Section::open(node, "data", problems))
    else {
        return Vec::new();
    };
    let entries = data.entries();
    if !within(
        entries.len(),
        MACHINE_NAMES_MAX,
        "fields",
        (data.line, "data"),
        problems,
    ) {
        return Vec::new();
    }
    let mut fields: Vec<Field> = Vec::with_capacity(entries.len());
    for (key, node) in entries {
        let path = below("data", &key.text);
        if !is_field_name(&key.text) {
            let message =
                "a field's name is a-z, 0-9 and `_`, beginning with a letter, at most 63 bytes";
            problems.push(key.line, &path, message);
        }
        let kind_and_initial = Section::read(node, &path, &["type", "initial"], problems)
            .and_then(|section| read_field(section, &path, problems));
        // A field that is wrong is still declared, so that its uses are not reported too.
        let (kind, initial) = kind_and_initial.unwrap_or((FieldType::String, Value::Null));
        fields.push(Field {
            name: key.text.clone(),
            kind,
            initial,
        });
    }
    refuse_one_column_for_two(entries, problems);
    fields
}

/// Columns that the view of every machine has. A field of such a name is the column `field_<name>`.
const VIEW_COLUMNS: [&str; 7] = [
    "tenant",
    "key",
    "status",
    "version",
    "created_at",
    "changed_at",
    "data",
];

/// Two fields may not become the same column of the machine's view: `version` and `field_version` would.
fn refuse_one_column_for_two(entries: &[(Key, Node)], problems: &mut Problems) {
    for (key, _) in entries {
        let taken = key
            .text
            .strip_prefix("field_")
            .filter(|name| VIEW_COLUMNS.contains(name))
            .filter(|name| entries.iter().any(|(other, _)| other.text == *name));
        if let Some(name) = taken {
            let message = format!(
                "the field `{name}` is the column `field_{name}` of the machine's view, since the view has \
                 a column `{name}` of its own: rename one of the two fields"
            );
            problems.push(key.line, &below("data", &key.text), message);
        }
    }
}

/// A field's name can be written in CEL and is a column of the machine's view.
fn is_field_name(name: &str) -> bool {
    let begins = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase());
    begins
        && name.len() <= NAME_BYTES_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn read_field(
    section: Section<'_>,
    path: &str,
    problems: &mut Problems,
) -> Option<(FieldType, Value)> {
    let kind_node = section.required("type", path, "int", problems);
    let initial = section.required("initial", path, "0", problems);
    let kind_node = kind_node?;
    let kind_path = below(path, "type");
    let name = text(kind_node, &kind_path, problems)?;
    let Some(kind) = FieldType::from_name(name) else {
        let names = FieldType::ALL.map(FieldType::as_str);
        let suggestion =
            did_you_mean(name, names).or_else(|| Some(format!("the types are {}", listed(names))));
        let message = format!("there is no type `{name}`");
        problems.push_with(kind_node.line, &kind_path, message, suggestion);
        return None;
    };
    let node = initial?;
    match kind.convert(yaml_value(node).as_ref()) {
        Ok(initial) => Some((kind, initial)),
        Err(misfit) => {
            problems.push(node.line, &below(path, "initial"), misfit.0);
            None
        }
    }
}

/// A YAML value as a value of the expression language: initial values convert by the same table.
pub(super) fn yaml_value(node: &Node) -> Box<dyn Val + '_> {
    match &node.value {
        Yaml::Null => Box::new(CelNull),
        Yaml::Bool(bool) => Box::new(CelBool::from(*bool)),
        Yaml::Int(int) => Box::new(CelInt::from(*int)),
        Yaml::Double(double) => Box::new(CelDouble::from(*double)),
        Yaml::Text(text) => Box::new(CelString::from(text.as_str())),
        Yaml::List(items) => Box::new(CelList::from(
            items.iter().map(yaml_value).collect::<Vec<_>>(),
        )),
        Yaml::Map(entries) => {
            let entries = entries.iter().map(|(key, node)| {
                let key = Cow::Borrowed(key.text.as_str());
                (map_key(key), yaml_value(node))
            });
            Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
        }
    }
}
