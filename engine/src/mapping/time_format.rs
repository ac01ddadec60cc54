//! The forms in which producers write a moment, and the one exact way from each to ours: decimal digits are
//! shifted, never taken through a floating-point number.

use crate::clock::{RFC_3339_BYTES_MAX, Timestamp};

/// How `time` stands in what a producer sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimeFormat {
    /// RFC 3339 text, as CloudEvents asks.
    #[default]
    Rfc3339,
    /// Seconds since 1970.
    EpochSeconds,
    /// Milliseconds since 1970.
    EpochMillis,
    /// Microseconds since 1970.
    EpochMicros,
}

impl TimeFormat {
    /// Every format, with its name in the configuration.
    pub const NAMED: [(&'static str, TimeFormat); 4] = [
        ("rfc3339", TimeFormat::Rfc3339),
        ("epoch_s", TimeFormat::EpochSeconds),
        ("epoch_ms", TimeFormat::EpochMillis),
        ("epoch_us", TimeFormat::EpochMicros),
    ];

    /// What a value of this format looks like.
    pub fn expected(self) -> &'static str {
        match self {
            TimeFormat::Rfc3339 => "RFC 3339 text, like 2026-11-22T06:17:00Z",
            TimeFormat::EpochSeconds => "seconds since 1970, like 1795328220",
            TimeFormat::EpochMillis => "milliseconds since 1970, like 1795328220000",
            TimeFormat::EpochMicros => "microseconds since 1970, like 1795328220000000",
        }
    }

    /// Powers of ten from the format's unit to microseconds; `None` of text.
    fn shift(self) -> Option<i32> {
        match self {
            TimeFormat::Rfc3339 => None,
            TimeFormat::EpochSeconds => Some(6),
            TimeFormat::EpochMillis => Some(3),
            TimeFormat::EpochMicros => Some(0),
        }
    }

    /// True when a value is a number, or text that holds one.
    pub(super) fn is_number(self) -> bool {
        self.shift().is_some()
    }

    /// The moment that a text stands for: within the years 1 to 9999, and what is finer than a microsecond
    /// cut off towards the past, as it is of RFC 3339.
    pub(super) fn parse(self, text: &str) -> Option<Timestamp> {
        let Some(shift) = self.shift() else {
            return Timestamp::parse_rfc3339(text);
        };
        let moment = Timestamp(shifted(text, shift)?);
        // What cannot be written and read back is no moment for a store.
        (Timestamp::parse_rfc3339(&moment.to_rfc3339()) == Some(moment)).then_some(moment)
    }
}

/// A decimal number times a power of ten, rounded down to an integer; `None` when it is no number or far
/// beyond any moment.
fn shifted(text: &str, shift: i32) -> Option<i64> {
    const DIGITS_MAX: i32 = 18;
    if text.len() > RFC_3339_BYTES_MAX {
        return None;
    }
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (mantissa, ""),
    };
    let digits = format!("{whole}{fraction}");
    if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    let length = i32::try_from(significant.len()).ok()?;
    let scale = exponent
        .saturating_add(shift)
        .saturating_sub(i32::try_from(fraction.len()).ok()?);
    if length == 0 {
        return Some(0);
    }
    let kept_digits = length.saturating_add(scale);
    if kept_digits > DIGITS_MAX {
        return None;
    }
    let kept = usize::try_from(kept_digits.min(length)).unwrap_or(0);
    let (kept, cut) = significant.split_at(kept);
    let zeros = "0".repeat(usize::try_from(scale).unwrap_or(0));
    let amount: i64 = match format!("{kept}{zeros}").as_str() {
        "" => 0,
        digits => digits.parse().ok()?,
    };
    let below = i64::from(negative && cut.bytes().any(|digit| digit != b'0'));
    Some(if negative { -amount - below } else { amount })
}

#[cfg(test)]
mod tests {
    use super::TimeFormat;

    #[test]
    fn each_format_reads_its_edges_exactly() {
        let check = |format: TimeFormat, text: &str, expected: Option<i64>| {
            let found = format.parse(text).map(|moment| moment.0);
            assert_eq!(found, expected, "{format:?} {text}");
        };
        let seconds = TimeFormat::EpochSeconds;
        for (text, micros) in [
            ("0", 0),
            ("-0", 0),
            ("0.000", 0),
            ("1795328220", 1_795_328_220_000_000),
            ("1795328220.123456", 1_795_328_220_123_456),
            ("1795328220.1234569", 1_795_328_220_123_456),
            ("1.79532822E9", 1_795_328_220_000_000),
            ("1.5e-3", 1_500),
            ("1e-9", 0),
            ("-1e-9", -1),
            ("-1", -1_000_000),
            ("-1.5", -1_500_000),
            ("-0.0000001", -1),
            ("0001", 1_000_000),
            // The leap day, and the second after the leap second of 2016: epochs count none.
            ("1709164800", 1_709_164_800_000_000),
            ("1483228800", 1_483_228_800_000_000),
            // The first and last microsecond of the years 1 to 9999.
            ("-62135596800", -62_135_596_800_000_000),
            ("253402300799.999999", 253_402_300_799_999_999),
        ] {
            check(seconds, text, Some(micros));
        }
        for text in [
            "",
            "-",
            "+1",
            " 1",
            "1 ",
            "1.",
            ".5",
            "e5",
            "1e",
            "1e999999999999",
            "1e999",
            "0x1",
            "1_000",
            "1,5",
            "--1",
            "1.2.3",
            "NaN",
            "inf",
            "٣",
            "-62135596800.000001",
            "253402300800",
            "9223372036854775807",
            "99999999999999999999999999",
            "2026-11-22T06:17:00Z",
            // Milliseconds where seconds were announced.
            "1795328220000",
        ] {
            check(seconds, text, None);
        }
        let millis = TimeFormat::EpochMillis;
        check(millis, "1795328220123", Some(1_795_328_220_123_000));
        check(millis, "1795328220123.4567", Some(1_795_328_220_123_456));
        check(millis, "1.795328220123E12", Some(1_795_328_220_123_000));
        check(millis, "-1", Some(-1_000));
        check(millis, "253402300800000", None);
        let micros = TimeFormat::EpochMicros;
        check(micros, "1795328220123456", Some(1_795_328_220_123_456));
        check(micros, "1795328220123456.9", Some(1_795_328_220_123_456));
        check(micros, "-0.9", Some(-1));
        check(micros, "253402300799999999", Some(253_402_300_799_999_999));
        check(micros, "253402300800000000", None);
        check(micros, &"9".repeat(65), None);
    }

    #[test]
    fn rfc_3339_reads_leap_days_leap_seconds_and_offsets() {
        let moment = |text| TimeFormat::Rfc3339.parse(text).map(|moment| moment.0);
        assert_eq!(moment("2024-02-29T00:00:00Z"), Some(1_709_164_800_000_000));
        assert_eq!(moment("2023-02-29T00:00:00Z"), None);
        // A leap second is the moment that follows it, as in Postgres.
        assert!(moment("2016-12-31T23:59:60Z").is_some());
        assert_eq!(moment("2016-12-31T23:59:61Z"), None);
        assert_eq!(moment("1970-01-01T01:00:00.5+01:00"), Some(500_000));
        assert_eq!(moment("1969-12-31T23:59:59.9999995Z"), Some(-1));
        assert_eq!(moment("0"), None);
    }
}
