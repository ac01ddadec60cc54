//! What a check-up of a store found: one line a question, with what to type where something is wrong.

/// How well it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Grade {
    /// As it should be.
    Ok,
    /// A node starts, and somebody should know.
    Warn,
    /// A node does not start, or breaks its promise.
    Fail,
}

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What was looked at.
    pub about: &'static str,
    /// How well it is.
    pub grade: Grade,
    /// What was found, and what to do; never a password or a connection string.
    pub says: String,
}

impl Finding {
    /// As it should be.
    pub fn ok(about: &'static str, says: impl Into<String>) -> Self {
        Self::new(about, Grade::Ok, says)
    }

    /// Somebody should know.
    pub fn warn(about: &'static str, says: impl Into<String>) -> Self {
        Self::new(about, Grade::Warn, says)
    }

    /// It has to be mended first.
    pub fn fail(about: &'static str, says: impl Into<String>) -> Self {
        Self::new(about, Grade::Fail, says)
    }

    fn new(about: &'static str, grade: Grade, says: impl Into<String>) -> Self {
        Self {
            about,
            grade,
            says: says.into(),
        }
    }
}
