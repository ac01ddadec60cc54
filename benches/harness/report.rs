//! The table: one row a way, medians over the rounds, and where it is kept.

use std::fmt::Write as _;
use std::path::Path;

use tidegate::runtime::SystemClock;
use tidegate_engine::clock::Clock as _;

use super::Result;
use super::arguments::BusKind;
use super::measure::{Sample, median};
use super::processors::Processors;

/// Between one of these and the end the table stands in the README.
const BEGIN: &str = "<!-- table: `make bench` writes it -->";
const BEGIN_APART: &str = "<!-- table, apart: `make bench` writes it -->";
const BEGIN_KAFKA: &str = "<!-- table, kafka: `make bench` writes it -->";
const BEGIN_KAFKA_APART: &str = "<!-- table, kafka, apart: `make bench` writes it -->";
const END: &str = "<!-- end of table -->";

/// One way and what was measured of it.
pub struct Row {
    /// What it is.
    pub name: String,
    /// How it was set.
    pub settings: String,
    /// One sample a round.
    pub samples: Vec<Sample>,
}

/// The finished table.
pub struct Table<'r> {
    rows: &'r [Row],
    /// Its rates are 1 in the last columns, in this order.
    baselines: [Option<&'r Row>; 3],
}

impl<'r> Table<'r> {
    /// A table of `rows`, compared with the rows of these names.
    pub fn new(rows: &'r [Row], baselines: [&str; 3]) -> Self {
        let named = |name: &str| rows.iter().find(|row| row.name == name);
        Self {
            rows,
            baselines: baselines.map(named),
        }
    }

    /// Markdown.
    pub fn to_markdown(&self) -> String {
        let samples = self.rows.iter().flat_map(|row| &row.samples);
        let has_broker = samples.into_iter().any(|it| it.broker_micros().is_some());
        let (broker_head, broker_line) = match has_broker {
            true => (" broker CPU, µs/event |", "---|"),
            false => ("", ""),
        };
        let mut text = format!(
            "| way | settings | events/s (lowest to highest) | × per-event | × batch | \
             × batch, state machine | Postgres CPU, µs/event | client CPU, µs/event |{broker_head}\n\
             |---|---|---|---|---|---|---|---|{broker_line}\n",
        );
        for row in self.rows {
            let [per_event, batch, machine] = self.baselines.map(|base| ratio(row, base));
            let broker = match has_broker {
                true => format!(" {} |", micros(&row.samples, Sample::broker_micros)),
                false => String::new(),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {per_event} | {batch} | {machine} | {} | {} |{broker}",
                row.name,
                row.settings,
                rates(&row.samples),
                micros(&row.samples, Sample::server_micros),
                micros(&row.samples, Sample::client_micros),
            );
        }
        text
    }
}

/// Replaces what stands between the marks of a README.
pub fn write_into(readme: &Path, bus: BusKind, processors: Processors, text: &str) -> Result<()> {
    let begin = match (bus, processors) {
        (BusKind::Memory, Processors::Shared(_)) => BEGIN,
        (BusKind::Memory, Processors::Apart { .. }) => BEGIN_APART,
        (BusKind::Kafka, Processors::Shared(_)) => BEGIN_KAFKA,
        (BusKind::Kafka, Processors::Apart { .. }) => BEGIN_KAFKA_APART,
    };
    write_between(readme, begin, text)
}

/// Replaces what stands between a mark of a README and the end of its table.
pub fn write_between(readme: &Path, begin: &str, text: &str) -> Result<()> {
    let current = std::fs::read_to_string(readme)?;
    let (before, rest) = current
        .split_once(begin)
        .ok_or("the README has no mark for the table")?;
    let (_, after) = rest
        .split_once(END)
        .ok_or("the README has no mark for the table's end")?;
    std::fs::write(
        readme,
        format!("{before}{begin}\n{}\n{END}{after}", text.trim_end()),
    )?;
    Ok(())
}

/// When, on what, with what: the sentence above the table.
pub fn circumstances(processors: Processors, server: &str, load: &str, rounds: u32) -> String {
    let (date, compiler) = (today(), compiler());
    format!(
        "{date}, {processors}, {server}, {compiler}, release build. {load} \
         Medians of {rounds} interleaved rounds; ratios are medians of the rounds' own ratios.\n",
    )
}

/// The date, as a README says it.
pub fn today() -> String {
    SystemClock.now().to_rfc3339().chars().take(10).collect()
}

/// What built this.
pub fn compiler() -> String {
    let compiler = std::process::Command::new("rustc")
        .arg("--version")
        .output();
    compiler.map_or_else(
        |_| "rustc unknown".to_owned(),
        |output| {
            let said = String::from_utf8_lossy(&output.stdout);
            said.split(" (")
                .take(1)
                .collect::<String>()
                .trim()
                .to_owned()
        },
    )
}

fn rates(samples: &[Sample]) -> String {
    let rates = || samples.iter().map(Sample::rate);
    let (lowest, highest) = (
        rates().fold(f64::INFINITY, f64::min),
        rates().fold(0.0, f64::max),
    );
    match median(rates()) {
        Some(median) if samples.len() > 1 => {
            format!(
                "**{}** ({} to {})",
                grouped(median),
                grouped(lowest),
                grouped(highest)
            )
        }
        Some(median) => format!("**{}**", grouped(median)),
        None => "–".to_owned(),
    }
}

fn micros(samples: &[Sample], of: fn(&Sample) -> Option<f64>) -> String {
    match median(samples.iter().filter_map(of)) {
        Some(micros) if micros >= 100.0 => format!("{micros:.0}"),
        Some(micros) => format!("{micros:.1}"),
        None => "–".to_owned(),
    }
}

fn ratio(row: &Row, base: Option<&Row>) -> String {
    let pairs = base
        .into_iter()
        .flat_map(|base| row.samples.iter().zip(&base.samples));
    match median(pairs.map(|(own, other)| own.rate() / other.rate())) {
        Some(ratio) if ratio >= 10.0 => format!("{ratio:.1}"),
        Some(ratio) => format!("{ratio:.2}"),
        None => "–".to_owned(),
    }
}

/// 84123.4 as `84,100`: three figures are more than the noise allows.
fn grouped(rate: f64) -> String {
    let unit = 10_f64.powf((rate.max(1.0).log10().floor() - 2.0).max(0.0));
    let digits = ((rate / unit).round() * unit).to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
