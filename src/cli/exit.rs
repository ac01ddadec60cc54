//! How a command ends: one exit code for each thing a caller may want to do next, and the sentence on
//! standard error that goes with it.

use std::fmt;
use std::process::ExitCode;

use tidegate_engine::bus::BusError;
use tidegate_engine::error::InvalidValue;
use tidegate_engine::store::StoreError;

use crate::config::Problems;

/// The exit codes, as `--help` and `docs/cli.md` list them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// What was asked for was done.
    Done = 0,
    /// A machine's test fails, a record of a sample is refused, `verify`, `demo` or `bench` found a
    /// difference, `health` or `doctor` found something wrong, or a retry leaves a dead letter: the one that it was about, or a new one.
    Differs = 1,
    /// The command line, the configuration or a machine's definition cannot be used as it is.
    Usage = 2,
    /// The store or the bus is away, or not ready for this binary (the message says what to type).
    Unavailable = 3,
    /// What was asked for does not exist.
    NotFound = 4,
    /// It was stopped before it was done. Everything settled is kept: the same command goes on.
    Unfinished = 5,
}

/// What stands in `--help` about exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  a test, sample or health check fails, verify, demo or bench differ, a retry leaves a letter
  2  the command line, the configuration or a machine's definition cannot be used
  3  the store or the source is not available, or not ready; the message says what to type
  4  what was asked for does not exist
  5  stopped before the end; everything settled is kept, the same command goes on";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command could not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// How it ends.
    pub exit: Exit,
    /// The sentences for standard error; empty when all was said already, or nobody reads any more.
    pub message: String,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// The command line cannot be used.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something that was asked for does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Exit::NotFound, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(Exit::Unavailable, error.to_string())
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        Self::new(Exit::Unavailable, error.to_string())
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::usage(problems.to_string())
    }
}

impl From<InvalidValue> for Failure {
    fn from(error: InvalidValue) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // `tidegate … | head`: the reader has what it wanted.
            return Self::new(Exit::Done, "");
        }
        Self::new(Exit::Unavailable, error.to_string())
    }
}
