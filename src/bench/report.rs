//! One round's figures, the medians of all, and how they are written.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::cli::output::Output;

/// What one round came to.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Events that were settled.
    pub events: u64,
    /// Bytes that they had in their files.
    pub bytes: u64,
    /// From the start of the node until everything was settled.
    pub seconds: f64,
    /// The times of its commits, in microseconds.
    pub commits: Histogram<u64>,
    /// CPU time of this process meanwhile, where the system tells.
    pub cpu: Option<Duration>,
}

/// A column: its name, its figure of a round, and the digits behind its point.
type Column = (&'static str, fn(&Sample) -> Option<f64>, i32);

const COLUMNS: [Column; 7] = [
    (
        "events_per_second",
        |sample| Some(sample.events as f64 / sample.seconds),
        0,
    ),
    (
        "megabytes_per_second",
        |sample| Some(sample.bytes as f64 / 1e6 / sample.seconds),
        1,
    ),
    ("commits", |sample| Some(sample.commits.len() as f64), 0),
    (
        "events_per_commit",
        |sample| Some(sample.events as f64 / sample.commits.len().max(1) as f64),
        0,
    ),
    ("commit_p50_ms", |sample| Some(millis(sample, 0.50)), 2),
    ("commit_p99_ms", |sample| Some(millis(sample, 0.99)), 2),
    (
        "cpu_micros_per_event",
        |sample| Some(sample.cpu?.as_secs_f64() * 1e6 / sample.events.max(1) as f64),
        1,
    ),
];

fn millis(sample: &Sample, quantile: f64) -> f64 {
    sample.commits.value_at_quantile(quantile) as f64 / 1e3
}

/// Writes a row a round, and the medians as the last one. A column of which nothing is known is left out.
pub fn write(samples: &[Sample], output: &mut Output) -> io::Result<()> {
    let columns: Vec<&Column> = COLUMNS
        .iter()
        .filter(|(_, figure, _)| samples.iter().any(|sample| figure(sample).is_some()))
        .collect();
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for (number, sample) in (1..).zip(samples) {
        let figures = columns
            .iter()
            .map(|(_, figure, digits)| rounded(figure(sample), *digits));
        rows.push(
            [json!(number.to_string())]
                .into_iter()
                .chain(figures)
                .collect(),
        );
    }
    let medians = columns
        .iter()
        .map(|(_, figure, digits)| rounded(median(samples.iter().filter_map(figure)), *digits));
    rows.push([json!("median")].into_iter().chain(medians).collect());
    let headings: Vec<&str> = ["round"]
        .into_iter()
        .chain(columns.iter().map(|(name, _, _)| *name))
        .collect();
    output.rows(&headings, &rows)
}

/// A figure with so many digits behind its point; without any it is a whole number.
fn rounded(figure: Option<f64>, digits: i32) -> Value {
    match figure {
        None => Value::Null,
        // A conversion from float saturates.
        Some(figure) if digits == 0 => json!(figure.round() as u64),
        Some(figure) => {
            let tens = 10_f64.powi(digits);
            json!((figure * tens).round() / tens)
        }
    }
}

/// The middle of some values; `None` of none.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((upper + values.get(middle.checked_sub(1)?)?) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::{median, rounded};
    use serde_json::{Value, json};

    #[test]
    fn medians_and_digits() {
        for (values, middle) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![9.0, 1.0, 2.0], Some(2.0)),
            (vec![4.0, 1.0, 2.0, 9.0], Some(3.0)),
        ] {
            assert_eq!(median(values.into_iter()), middle);
        }
        assert_eq!(rounded(Some(12.345), 2), json!(12.35));
        assert_eq!(rounded(Some(12.5), 0), json!(13));
        assert_eq!(rounded(None, 0), Value::Null);
    }
}
