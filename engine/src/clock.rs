//! The clock and identifier seams. Nothing in the engine asks the system for the time or for
//! randomness; a simulation gives both from its seed.

use serde::{Deserialize, Serialize};

/// A moment: microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads RFC 3339, as CloudEvents asks for `time`.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        chrono::DateTime::parse_from_rfc3339(text)
            .ok()
            .map(|moment| Self(moment.timestamp_micros()))
    }

    /// RFC 3339 in UTC with microseconds.
    pub fn to_rfc3339(self) -> String {
        match chrono::DateTime::from_timestamp_micros(self.0) {
            Some(moment) => moment.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            None => format!("{}us", self.0),
        }
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Where randomness comes from: back-off jitter and the identities of owners. Never machines.
pub trait Ids: Send + Sync + 'static {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}
