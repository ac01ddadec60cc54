//! The tree as the rules see it: its text files, and Rust code without comments and literals.

use std::path::Path;
use std::sync::OnceLock;

/// Folders at any depth that are not part of the project.
const OUTSIDE: [&str; 3] = ["target", ".git", "node_modules"];

/// Larger files are data, not text that people wrote.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// One text file.
pub struct File {
    /// Its path from the root of the repository, with `/`.
    pub path: String,
    /// What stands in it.
    pub text: String,
}

impl File {
    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is Rust that a build ships: in a `src` folder, and not tests in a file of their own.
    pub fn is_production(&self) -> bool {
        let in_source = ["src/", "engine/src/", "actors/src/", "connectors/src/"]
            .iter()
            .any(|folder| self.path.starts_with(folder));
        in_source
            && self.is_rust()
            && !self.path.contains("/tests/")
            && !self.path.ends_with("/tests.rs")
    }

    /// Its code, line for line, with comments and literals blanked.
    pub fn code(&self) -> String {
        without_comments_and_literals(&self.text)
    }

    /// How many of its lines come before its own test module.
    pub fn production_lines(&self) -> usize {
        let lines: Vec<&str> = self.text.lines().collect();
        lines
            .windows(2)
            .position(|pair| {
                pair[0].trim() == "#[cfg(test)]"
                    && pair[1].trim_start().starts_with("mod ")
                    && pair[1].ends_with('{')
            })
            .unwrap_or(lines.len())
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file of the project.
pub fn files() -> &'static [File] {
    static FILES: OnceLock<Vec<File>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = Vec::new();
        collect(root(), &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        assert!(files.iter().any(|file| file.path == "Cargo.toml"));
        files
    })
}

/// The file at this path.
pub fn file(path: &str) -> &'static File {
    files()
        .iter()
        .find(|file| file.path == path)
        .unwrap_or_else(|| panic!("{path} is missing"))
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            if !OUTSIDE.iter().any(|name| entry.file_name() == *name) {
                collect(&entry.path(), files);
            }
        } else if kind.is_file() && entry.metadata().unwrap().len() <= TEXT_BYTES_MAX {
            let path = entry.path();
            if let Ok(text) = std::fs::read_to_string(&path) {
                let path = path.strip_prefix(root()).unwrap();
                files.push(File {
                    path: path.to_str().unwrap().replace('\\', "/"),
                    text,
                });
            }
        }
    }
}

/// Blanks comments, strings and characters, and keeps every line where it is. It knows as much of
/// Rust's grammar as that takes.
fn without_comments_and_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = comment(rest)
            .or_else(|| raw_string(rest, out.chars().next_back()))
            .or_else(|| string(rest))
            .or_else(|| character(rest));
        let length = skipped.unwrap_or(next.len_utf8());
        let (taken, after) = rest.split_at(length);
        if skipped.is_some() {
            out.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(taken);
        }
        rest = after;
    }
    out
}

/// The length of the comment that `text` begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// The length of the raw string that `text` begins with, unless its `r` ends a name.
fn raw_string(text: &str, before: Option<char>) -> Option<usize> {
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let body = text
        .strip_prefix("br")
        .or_else(|| text.strip_prefix("cr"))
        .or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let body = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let found = body.find(&end)?;
    Some(text.len() - body.len() + found + end.len())
}

/// The length of the string that `text` begins with.
fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 2),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of the character that `text` begins with; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut inner = body.char_indices();
    let (_, first) = inner.next()?;
    if first == '\\' {
        inner.next()?;
        let (end, _) = inner.find(|(_, c)| *c == '\'')?;
        return Some(end + 2);
    }
    match inner.next()? {
        (end, '\'') => Some(end + 2),
        _ => None,
    }
}

#[test]
fn comments_and_literals_are_blanked_and_lines_stay() {
    // `_` stands for a blank, so that they can be counted.
    let cases = [
        ("a // b\nc", "a ____\nc"),
        ("a /* b /* c */ d */ e", "a _________________ e"),
        ("f(\"x \\\" // y\") g", "f(___________) g"),
        ("r#\"a \" b\"# c", "__________ c"),
        ("br\"a\" c", "_____ c"),
        ("for\"a\"", "for___"),
        (
            "'a' '\\n' '\\'' '\\u{1f}' &'a str",
            "___ ____ ____ ________ &'a str",
        ),
        ("x: &'static str = \"y\nz\";", "x: &'static str = __\n__;"),
    ];
    for (text, expected) in cases {
        assert_eq!(
            without_comments_and_literals(text),
            expected.replace('_', " ")
        );
    }
}
