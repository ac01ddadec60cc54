//! Writes the reference: every key with its documentation and its default, as YAML.

use std::fmt::Write as _;

/// The reference as it is being written.
#[derive(Debug, Default)]
pub struct Reference {
    text: String,
    depth: usize,
    commented: bool,
}

impl Reference {
    /// What was written.
    pub fn into_text(self) -> String {
        self.text
    }

    /// One line at the current depth.
    pub fn line(&mut self, line: &str) {
        if self.commented {
            self.text.push_str("# ");
        }
        if line.is_empty() {
            let trimmed = self.text.trim_end_matches(' ').len();
            self.text.truncate(trimmed);
        } else {
            let indent = "  ".repeat(self.depth);
            let _ = write!(self.text, "{indent}{line}");
        }
        self.text.push('\n');
    }

    /// The documentation of a key. `range` is what its value must be within.
    pub fn docs(&mut self, docs: &[&str], range: Option<String>) {
        for doc in docs {
            self.line(format!("#{doc}").trim_end());
        }
        if let Some(range) = range {
            self.line(&format!("# {range}."));
        }
    }

    /// Writes what `body` writes one level deeper.
    pub fn nested(&mut self, body: impl FnOnce(&mut Self)) {
        self.depth += 1;
        body(self);
        self.depth -= 1;
    }

    /// Writes what `body` writes as comments.
    pub fn commented(&mut self, body: impl FnOnce(&mut Self)) {
        self.commented = true;
        body(self);
        self.commented = false;
    }
}

/// Writes text so that it reads back as text.
pub fn quoted(text: &str) -> String {
    let plain = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'.' || byte == b'/')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte))
        && !["true", "false", "null"].contains(&text);
    if plain {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
