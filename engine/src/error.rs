//! The one question every error of a seam answers: what kind is it? Retry, dead-letter, drop and stop
//! are decided from the kind, in [`crate::retry`], and nowhere else.

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Try again: the same call can succeed later.
    Transient,
    /// This event, or this request, can never succeed.
    Permanent,
    /// We no longer own what we wrote to.
    Fenced,
    /// A programming error of ours: rebuild from the store, within a budget.
    Bug,
}

impl ErrorKind {
    /// The lower-case name, as it stands in logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Transient => "transient",
            ErrorKind::Permanent => "permanent",
            ErrorKind::Fenced => "fenced",
            ErrorKind::Bug => "bug",
        }
    }
}

/// A value that breaks the rules of its type: which value, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct InvalidValue {
    /// Which value it is, in the words of the outside (`tenantid`, `subject`, …).
    pub what: &'static str,
    /// What the rules ask for.
    pub expected: String,
    /// What was found, cut short and without control characters; for the person who typed it.
    pub found: String,
    /// Bytes of what was found.
    pub found_bytes: usize,
}

impl InvalidValue {
    /// An error for `what`, with a printable, shortened picture of what was found.
    pub fn new(what: &'static str, expected: impl Into<String>, found: &str) -> Self {
        const SHOWN_CHARS: usize = 40;
        let mut shown: String = found
            .chars()
            .take(SHOWN_CHARS)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        if found.chars().nth(SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        Self {
            what,
            expected: expected.into(),
            found: format!("`{shown}` ({} bytes)", found.len()),
            found_bytes: found.len(),
        }
    }

    /// What was expected, and of what was found no more than its size. For answers, logs and whatever is
    /// stored: others read these than whoever sent the value, which may be a secret in the wrong place.
    pub fn without_value(&self) -> String {
        format!(
            "expected {}, found {} bytes",
            self.expected, self.found_bytes
        )
    }
}
