//! The clock and identifier seams. Nothing in the engine asks the system for the time or for
//! randomness; a simulation gives both from its seed.

use serde::{Deserialize, Serialize};

/// Bytes of the longest RFC 3339 text that is read: nanoseconds and an offset fit twice.
pub const RFC_3339_BYTES_MAX: usize = 64;

/// A moment: microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Reads RFC 3339, as CloudEvents asks for `time`. Refuses what a database's `timestamptz` would not
    /// read back from the text: year 0, offsets of 16 hours and more, and texts longer than
    /// [`RFC_3339_BYTES_MAX`].
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        use chrono::Datelike as _;
        const OFFSET_SECONDS_MAX: i32 = 16 * 60 * 60;
        let moment = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        let readable = text.len() <= RFC_3339_BYTES_MAX
            && (1..=9_999).contains(&moment.year())
            && (1..=9_999).contains(&moment.to_utc().year())
            && moment.offset().local_minus_utc().abs() < OFFSET_SECONDS_MAX;
        readable.then(|| Self(moment.timestamp_micros()))
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

#[cfg(test)]
mod tests {
    use super::Timestamp;

    #[test]
    fn a_moment_that_a_database_would_not_read_back_is_refused() {
        let long = format!("2026-01-01T00:00:00.{}Z", "0".repeat(200));
        for text in [
            "0000-01-01T00:00:00Z",
            "2026-01-01T00:00:00+16:00",
            "2026-01-01T00:00:00-23:59",
            "0001-01-01T00:00:00+01:00",
            long.as_str(),
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
        for text in [
            "0001-01-01T00:00:00Z",
            "2026-01-01T00:00:00.123456789+15:59",
        ] {
            assert!(Timestamp::parse_rfc3339(text).is_some(), "{text}");
        }
    }
}
