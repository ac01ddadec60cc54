//! What one setting is: how it is read from a filled tree, and how it is written into the reference.
//! Sections are declared with the macro [`section!`](crate::section).

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::fill::{Tree, Value, join};
use super::problem::Problems;
use super::reference::{Reference, quoted};

/// A value that can stand in the configuration.
pub trait Setting: Sized {
    /// Reads it, or notes why it cannot be read.
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self>;

    /// Writes `key: value` into the reference.
    fn write(&self, key: &str, reference: &mut Reference);
}

/// A map of settings.
pub trait Section: Default {
    /// The keys it has.
    const KEYS: &'static [&'static str];

    /// Reads every key, and notes unknown ones and ones that stand twice.
    fn read_keys(tree: &Tree, path: &str, problems: &mut Problems) -> Self;

    /// Writes every key with its documentation.
    fn write_keys(&self, reference: &mut Reference);
}

/// The key of a field: a word that Rust keeps for itself is written `r#type` there.
pub const fn key(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// What a section asks of its keys together.
pub trait Check {
    /// Notes what does not fit together.
    fn check(&self, _line: u32, _path: &str, _problems: &mut Problems) {}
}

/// A text that must not be shown: read from `${env:…}` or `${file:…}` only when it holds a password.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// The text itself. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads a section, its keys' own checks included.
pub fn read_section<S: Section + Check>(
    tree: &Tree,
    path: &str,
    problems: &mut Problems,
) -> Option<S> {
    match &tree.value {
        // `store:` with nothing below it asks for the defaults.
        Value::Null => Some(S::default()),
        Value::Map(_) => {
            let before = problems.list.len();
            let section = S::read_keys(tree, path, problems);
            // With a key that could not be read, what does not fit together may only follow from it.
            if problems.list.len() == before {
                section.check(tree.line, path, problems);
            }
            Some(section)
        }
        other => {
            problems.add(
                tree.line,
                path,
                format!("expected a map, found {}", other.kind()),
            );
            None
        }
    }
}

/// Reads one key of a section's map into `place`; leaves the default when it is absent.
pub fn read_key<T: Setting>(
    tree: &Tree,
    key: &str,
    path: &str,
    place: &mut T,
    problems: &mut Problems,
) -> u32 {
    let Value::Map(entries) = &tree.value else {
        return tree.line;
    };
    let mut standing = entries.iter().filter(|(name, _, _)| name == key);
    let Some((_, line, value)) = standing.next() else {
        return tree.line;
    };
    for (_, again, _) in standing {
        problems.add(
            *again,
            &join(path, key),
            format!("stands here a second time; the first is in line {line}"),
        );
    }
    if let Some(read) = T::read(value, &join(path, key), problems) {
        *place = read;
    }
    value.line
}

/// Notes every key that the section does not have.
pub fn unknown_keys(tree: &Tree, known: &[&str], path: &str, problems: &mut Problems) {
    let Value::Map(entries) = &tree.value else {
        return;
    };
    for (key, line, _) in entries {
        if !known.contains(&key.as_str()) {
            let message = format!("unknown key{}", suggestion(key, known));
            problems.add(*line, &join(path, key), message);
        }
    }
}

/// `; did you mean …?` when something known is close, else the list of what is known.
pub fn suggestion(found: &str, known: &[&str]) -> String {
    const CLOSE: f64 = 0.75;
    let best = known
        .iter()
        .map(|name| (strsim::jaro_winkler(found, name), name))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    match best {
        Some((score, name)) if score >= CLOSE => format!("; did you mean `{name}`?"),
        _ => format!("; known here: {}", known.join(", ")),
    }
}

fn wrong<T>(tree: &Tree, path: &str, expected: &str, problems: &mut Problems) -> Option<T> {
    problems.add(
        tree.line,
        path,
        format!("expected {expected}, found {}", tree.value.kind()),
    );
    None
}

/// Text of a leaf. A plain number or boolean is refused: it would not be written back as it was.
pub fn text(tree: &Tree, path: &str, problems: &mut Problems) -> Option<String> {
    match &tree.value {
        Value::Text { text, .. } => Some(text.clone()),
        Value::Int(_) | Value::Double(_) | Value::Bool(_) => {
            wrong(tree, path, "text (put it in quotes)", problems)
        }
        _ => wrong(tree, path, "text", problems),
    }
}

/// A number that may be bounded.
pub trait Bounded {
    /// The number, when there is one.
    fn number(&self) -> Option<u64>;
}

/// Notes a number outside its range.
pub fn in_range(
    value: &impl Bounded,
    range: &RangeInclusive<u64>,
    line: u32,
    path: &str,
    problems: &mut Problems,
) {
    if let Some(number) = value.number()
        && !range.contains(&number)
    {
        problems.add(
            line,
            path,
            format!(
                "expected {} to {}, found {number}",
                range.start(),
                range.end()
            ),
        );
    }
}

macro_rules! number_setting {
    ($($ty:ty),*) => {$(
        impl Setting for $ty {
            fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
                let number = match &tree.value {
                    Value::Int(value) => <$ty>::try_from(*value).ok(),
                    Value::Text { text, filled: true } => text.trim().parse().ok(),
                    _ => return wrong(tree, path, "a whole number", problems),
                };
                if number.is_none() {
                    problems.add(tree.line, path, "expected a whole number of at least 0");
                }
                number
            }

            fn write(&self, key: &str, reference: &mut Reference) {
                reference.line(&format!("{key}: {self}"));
            }
        }

        impl Bounded for $ty {
            fn number(&self) -> Option<u64> {
                u64::try_from(*self).ok()
            }
        }
    )*};
}

number_setting!(u32, u64, usize);

impl<T: Bounded> Bounded for Option<T> {
    fn number(&self) -> Option<u64> {
        self.as_ref().and_then(Bounded::number)
    }
}

impl Setting for bool {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        match &tree.value {
            Value::Bool(value) => Some(*value),
            Value::Text { text, filled: true } if text == "true" => Some(true),
            Value::Text { text, filled: true } if text == "false" => Some(false),
            _ => wrong(tree, path, "true or false", problems),
        }
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: {self}"));
    }
}

impl Setting for String {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        text(tree, path, problems)
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: {}", quoted(self)));
    }
}

impl Setting for Secret {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        text(tree, path, problems).map(Secret)
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: \"\""));
    }
}

impl Setting for PathBuf {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        let text = text(tree, path, problems)?;
        if text.is_empty() {
            problems.add(tree.line, path, "expected a path, found empty text");
            return None;
        }
        Some(PathBuf::from(text))
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: {}", quoted(&self.to_string_lossy())));
    }
}

impl<T: Setting> Setting for Option<T> {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        match &tree.value {
            Value::Null => Some(None),
            // An unset `${env:NAME:-}` means the same as nothing.
            Value::Text { text, filled: true } if text.is_empty() => Some(None),
            _ => T::read(tree, path, problems).map(Some),
        }
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        match self {
            None => reference.line(&format!("{key}: null")),
            Some(value) => value.write(key, reference),
        }
    }
}

fn items<T>(
    tree: &Tree,
    path: &str,
    problems: &mut Problems,
    read: fn(&Tree, &str, &mut Problems) -> Option<T>,
) -> Option<Vec<T>> {
    match &tree.value {
        Value::Null => Some(Vec::new()),
        Value::List(list) => Some(
            list.iter()
                .enumerate()
                .filter_map(|(index, item)| read(item, &format!("{path}[{index}]"), problems))
                .collect(),
        ),
        _ => wrong(tree, path, "a list", problems),
    }
}

impl Setting for Vec<PathBuf> {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        items(tree, path, problems, PathBuf::read)
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        let list: Vec<String> = self
            .iter()
            .map(|path| quoted(&path.to_string_lossy()))
            .collect();
        reference.line(&format!("{key}: [{}]", list.join(", ")));
    }
}

impl Setting for Vec<String> {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        items(tree, path, problems, String::read)
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        let list: Vec<String> = self.iter().map(|text| quoted(text)).collect();
        reference.line(&format!("{key}: [{}]", list.join(", ")));
    }
}

impl<S: Section + Check> Setting for Vec<S> {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        items(tree, path, problems, read_section::<S>)
    }

    /// An empty list is written with one item of defaults behind it, as a comment.
    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: []"));
        reference.commented(|reference| {
            reference.line(&format!("{key}:"));
            reference.nested(|reference| {
                reference.line("-");
                reference.nested(|reference| S::default().write_keys(reference));
            });
        });
    }
}

macro_rules! text_setting {
    ($($ty:ty),*) => {$(
        impl Setting for $ty {
            fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
                let text = text(tree, path, problems)?;
                match <$ty>::new(&text) {
                    Ok(value) => Some(value),
                    Err(error) => {
                        problems.add(
                            tree.line,
                            path,
                            format!("expected {}, found {}", error.expected, error.found),
                        );
                        None
                    }
                }
            }

            fn write(&self, key: &str, reference: &mut Reference) {
                reference.line(&format!("{key}: {}", quoted(self.as_str())));
            }
        }
    )*};
}

text_setting!(
    tidegate_engine::position::SourceName,
    tidegate_engine::position::StreamName,
    tidegate_engine::tenant::TenantId
);
