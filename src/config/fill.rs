//! Fills `${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}` into the string leaves of a parsed
//! configuration, and refuses secrets that stand there as literals. Works on the parsed tree, never on
//! the text, so that no value can change the structure around it.

use tidegate_engine::yaml::{Node, Yaml};

use super::problem::Problems;

/// Where `${env:…}` and `${file:…}` come from: the process and its disk, or a table in a test.
pub trait Outside {
    /// An environment variable, when it is set (and is text).
    fn env(&self, name: &str) -> Option<String>;
    /// A file's whole text, or why it cannot be had.
    fn file(&self, path: &str) -> Result<String, String>;
}

/// The process's own environment and files.
#[derive(Debug, Clone, Copy)]
pub struct Process;

impl Outside for Process {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn file(&self, path: &str) -> Result<String, String> {
        super::read_text(std::path::Path::new(path)).map_err(|error| error.to_string())
    }
}

/// A filled node.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The line it begins on.
    pub line: u32,
    /// What it is.
    pub value: Value,
}

/// A filled value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Double(f64),
    /// Text; `filled` when any of it came from outside. Filled text may stand for a number.
    Text {
        /// The text.
        text: String,
        /// Something of it came from outside.
        filled: bool,
    },
    /// A list.
    List(Vec<Tree>),
    /// A map: key, the key's line, value.
    Map(Vec<(String, u32, Tree)>),
}

impl Value {
    /// What it is, for messages; never the value itself.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a whole number",
            Value::Double(_) => "a number",
            Value::Text { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Fills every string leaf below `node`.
pub fn fill(node: Node, path: &str, outside: &dyn Outside, problems: &mut Problems) -> Tree {
    let value = match node.value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Int(value) => Value::Int(value),
        Yaml::Double(value) => Value::Double(value),
        Yaml::Text(text) => fill_leaf(&text, node.line, path, outside, problems),
        Yaml::List(items) => Value::List(
            items
                .into_iter()
                .enumerate()
                .map(|(index, item)| fill(item, &format!("{path}[{index}]"), outside, problems))
                .collect(),
        ),
        Yaml::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let below = join(path, &key.text);
                    (key.text, key.line, fill(value, &below, outside, problems))
                })
                .collect(),
        ),
    };
    Tree {
        line: node.line,
        value,
    }
}

/// `path.key`, or `key` at the top.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn fill_leaf(
    text: &str,
    line: u32,
    path: &str,
    outside: &dyn Outside,
    problems: &mut Problems,
) -> Value {
    // A key of this name holds one as a whole, a URL may hold one inside.
    let is_password = path.rsplit('.').next() == Some("password");
    if has_literal_password(text) || (is_password && !is_only_references(text)) {
        problems.add(
            line,
            path,
            "a password stands here as a literal; write `${env:NAME}` or `${file:PATH}` in its place",
        );
    }
    let mut filled = false;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            // `$${` is how a literal `${` is written.
            out.push_str(before);
            out.push_str("${");
            rest = from.get(2..).unwrap_or_default();
            continue;
        }
        out.push_str(before);
        let Some((inside, after)) = from.get(2..).and_then(|open| open.split_once('}')) else {
            problems.add(line, path, "`${` is not closed by `}`");
            break;
        };
        match expand(inside, outside) {
            Ok(value) if value.contains(['\n', '\r']) => {
                problems.add(
                    line,
                    path,
                    format!(
                        "the value of `{}` has more than one line",
                        reference(inside)
                    ),
                );
            }
            Ok(value) => out.push_str(&value),
            Err(message) => problems.add(line, path, message),
        }
        filled = true;
        rest = after;
    }
    if !filled || !rest.contains("${") {
        out.push_str(rest);
    }
    Value::Text { text: out, filled }
}

/// What stands between `${` and `}` without its default, which might be a secret.
fn reference(inside: &str) -> String {
    let shown = inside.split(":-").next().unwrap_or_default();
    format!("${{{shown}}}")
}

fn expand(inside: &str, outside: &dyn Outside) -> Result<String, String> {
    if let Some(name) = inside.strip_prefix("env:") {
        let (name, default) = match name.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (name, None),
        };
        let valid = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid {
            return Err(format!("`{name}` is no name of an environment variable"));
        }
        // As in a shell, `:-` also replaces a variable that is set to nothing.
        return match (outside.env(name), default) {
            (Some(value), _) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (Some(value), None) => Ok(value),
            (None, None) => Err(format!(
                "environment variable `{name}` is not set; set it or write `${{env:{name}:-default}}`"
            )),
        };
    }
    if let Some(path) = inside.strip_prefix("file:") {
        return match outside.file(path) {
            // Editors and `echo` end a file with a newline that nobody means.
            Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
            Err(error) => Err(format!("file `{path}` cannot be read: {error}")),
        };
    }
    Err(format!(
        "`{}` is neither `${{env:NAME}}` nor `${{file:PATH}}`; a literal `${{` is written `$${{`",
        reference(inside)
    ))
}

/// True when a URL in the text has a password of which any part is no reference to the outside.
fn has_literal_password(text: &str) -> bool {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("://") {
        let authority = authority(after);
        if let Some((user_info, _)) = authority.rsplit_once('@')
            && let Some((_, password)) = split_outside_braces(user_info, ':')
            && !is_only_references(password)
        {
            return true;
        }
        rest = after;
    }
    let lower = text.to_ascii_lowercase();
    ["?password=", "&password=", "?sslpassword=", "&sslpassword="]
        .iter()
        .filter_map(|name| {
            let at = lower.find(name)? + name.len();
            text.get(at..)
        })
        .any(|value| {
            let end = split_outside_braces(value, '&').map_or(value, |(value, _)| value);
            !end.is_empty() && !is_only_references(end)
        })
}

/// What stands before the first `/`, `?` or `#` that is not inside a reference.
fn authority(text: &str) -> &str {
    ['/', '?', '#']
        .into_iter()
        .fold(text, |text, end| match split_outside_braces(text, end) {
            Some((before, _)) => before,
            None => text,
        })
}

fn split_outside_braces(text: &str, at: char) -> Option<(&str, &str)> {
    let mut inside = false;
    for (index, character) in text.char_indices() {
        match character {
            '{' => inside = true,
            '}' => inside = false,
            _ if character == at && !inside => {
                let after = text.get(index + at.len_utf8()..).unwrap_or_default();
                return text.get(..index).map(|before| (before, after));
            }
            _ => {}
        }
    }
    None
}

/// True when the text is nothing but references without a default (a default is a literal too).
fn is_only_references(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let Some((inside, after)) = rest.strip_prefix("${").and_then(|r| r.split_once('}')) else {
            return false;
        };
        if inside.contains(":-") {
            return false;
        }
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{Outside, Value, fill, has_literal_password};
    use crate::config::problem::Problems;
    use tidegate_engine::yaml;

    struct Table;

    impl Outside for Table {
        fn env(&self, name: &str) -> Option<String> {
            match name {
                "HOST" => Some("db".to_owned()),
                "EMPTY" => Some(String::new()),
                "LINES" => Some("a\nb: c".to_owned()),
                "TRICKY" => Some("${env:HOST}: [x]".to_owned()),
                _ => None,
            }
        }
        fn file(&self, path: &str) -> Result<String, String> {
            match path {
                "/run/secrets/pw" => Ok("s3cret\n".to_owned()),
                _ => Err("no such file".to_owned()),
            }
        }
    }

    fn filled(leaf: &str) -> Result<String, String> {
        let text = format!("key: {}\n", serde_json::Value::from(leaf));
        let mut problems = Problems::new("t.yaml");
        let tree = fill(yaml::read(&text).unwrap(), "", &Table, &mut problems);
        if !problems.list.is_empty() {
            return Err(problems.to_string());
        }
        let Value::Map(entries) = tree.value else {
            panic!("a map")
        };
        match &entries[0].2.value {
            Value::Text { text, .. } => Ok(text.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn leaves_are_filled_and_never_parsed_again() {
        for (leaf, expected) in [
            ("plain", "plain"),
            ("${env:HOST}", "db"),
            ("a ${env:HOST} b ${env:HOST}", "a db b db"),
            ("${env:NONE:-fallback}", "fallback"),
            ("${env:EMPTY:-fallback}", "fallback"),
            ("${env:EMPTY}", ""),
            ("${env:NONE:-}", ""),
            ("${file:/run/secrets/pw}", "s3cret"),
            ("$${env:HOST}", "${env:HOST}"),
            ("cost $5", "cost $5"),
            ("${env:TRICKY}", "${env:HOST}: [x]"),
        ] {
            assert_eq!(filled(leaf), Ok(expected.to_owned()), "{leaf}");
        }
    }

    #[test]
    fn what_cannot_be_filled_names_the_key_and_never_the_value() {
        for (leaf, says) in [
            ("${env:NONE}", "`NONE` is not set"),
            ("${env:LINES}", "more than one line"),
            ("${file:/nowhere}", "`/nowhere` cannot be read"),
            ("${HOST}", "neither `${env:NAME}`"),
            ("${env:HOST", "not closed"),
            ("${env:A-B}", "no name"),
        ] {
            let error = filled(leaf).unwrap_err();
            assert!(error.starts_with("t.yaml:1: key: "), "{error}");
            assert!(error.contains(says), "{leaf}: {error}");
        }
    }

    #[test]
    fn r13_a_literal_password_is_refused_and_not_echoed() {
        for leaf in [
            "postgres://app:hunter2@db/x",
            "postgres://app:${env:PW:-hunter2}@db/x",
            "postgres://app:hunter2${env:PW}@db/x",
            "${env:URL:-postgres://app:hunter2@db/x}",
            "postgres://db/x?user=a&password=hunter2",
            "postgres://app:p@ss:hunter2@db/x",
        ] {
            assert!(has_literal_password(leaf), "{leaf}");
            let error = filled(leaf).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        for leaf in [
            "postgres://app@db/x",
            "postgres://app:${env:PW}@db/x",
            "postgres://app:${file:/run/secrets/pw}@db:5432/x",
            "postgres://db/x?password=${env:PW}&sslmode=require",
            "a: b@c",
        ] {
            assert!(!has_literal_password(leaf), "{leaf}");
        }
    }
}
