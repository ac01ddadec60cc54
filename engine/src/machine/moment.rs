//! Moments in expressions: UTC, microseconds, between the years 1 and 9999. One form, so that equal
//! moments are equal bytes whatever offset they were written with.

use cel::common::types::CelTimestamp;

use crate::clock::Timestamp;

/// The first and the last microsecond that four digits of year can write.
const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

/// Reads RFC 3339. What is finer than a microsecond is cut off.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    Timestamp::parse_rfc3339(text).filter(|moment| RANGE.contains(&moment.0))
}

/// Seconds since 1970.
pub(super) fn from_seconds(seconds: i64) -> Option<Timestamp> {
    let moment = Timestamp(seconds.checked_mul(1_000_000)?);
    RANGE.contains(&moment.0).then_some(moment)
}

/// The moment that a value of the language holds.
pub(super) fn of(value: &CelTimestamp) -> Option<Timestamp> {
    let moment = Timestamp(value.inner().timestamp_micros());
    RANGE.contains(&moment.0).then_some(moment)
}

/// The value of the language.
pub(super) fn to_cel(moment: Timestamp) -> Option<CelTimestamp> {
    let utc = chrono::DateTime::from_timestamp_micros(moment.0)?;
    Some(CelTimestamp::from(utc.fixed_offset()))
}
