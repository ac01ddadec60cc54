//! What is wrong with a configuration: every problem of a file is collected before the file is refused.
//! A problem never shows a value, which may be a secret.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: u32,
    /// The key with all that encloses it: `store.postgres.url`. Empty for the file itself.
    pub path: String,
    /// What was expected, what was found, what to do.
    pub message: String,
}

/// Everything that is wrong with one file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Problems {
    /// The file as it was named.
    pub file: String,
    /// In order of line.
    pub list: Vec<Problem>,
}

impl Problems {
    /// No problem yet.
    pub fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            list: Vec::new(),
        }
    }

    /// Notes a problem.
    pub fn add(&mut self, line: u32, path: &str, message: impl Into<String>) {
        self.list.push(Problem {
            line,
            path: path.to_owned(),
            message: message.into(),
        });
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&Problem> = self.list.iter().collect();
        sorted.sort_by_key(|problem| problem.line);
        for (index, problem) in sorted.into_iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{}: ", self.file, problem.line)?;
            if !problem.path.is_empty() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
