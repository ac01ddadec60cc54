//! What goes to standard output: data, as a table for people or as JSON for programs. Messages never
//! stand here; a reader that went away is no error.

use std::io::{self, IsTerminal as _, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

/// How data is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON object a line.
    Json,
}

/// Standard output in the chosen format.
pub struct Output {
    format: Format,
    bold: bool,
    to: io::BufWriter<Box<dyn Write + Send>>,
}

impl Output {
    /// Standard output; headings are bold on a terminal unless `NO_COLOR` is set.
    pub fn stdout(format: Format) -> Self {
        let bold = io::stdout().is_terminal() && colours_wanted();
        Self::new(format, bold, Box::new(io::stdout()))
    }

    fn new(format: Format, bold: bool, to: Box<dyn Write + Send>) -> Self {
        Self {
            format,
            bold,
            to: io::BufWriter::new(to),
        }
    }

    /// The chosen format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Writes rows under headings, or one object a row. Nothing but the headings stands there when there
    /// are no rows.
    pub fn rows(&mut self, headings: &[&str], rows: &[Vec<Value>]) -> io::Result<()> {
        self.rows_under(headings, rows, true)
    }

    /// Writes rows that go on below others: without the headings in a table.
    pub fn more_rows(&mut self, headings: &[&str], rows: &[Vec<Value>]) -> io::Result<()> {
        self.rows_under(headings, rows, false)
    }

    fn rows_under(
        &mut self,
        headings: &[&str],
        rows: &[Vec<Value>],
        headings_wanted: bool,
    ) -> io::Result<()> {
        match self.format {
            Format::Json => {
                for row in rows {
                    let object: Map<String, Value> = headings
                        .iter()
                        .map(|heading| (*heading).to_owned())
                        .zip(row.iter().cloned())
                        .collect();
                    self.json(&Value::Object(object))?;
                }
            }
            Format::Table => self.table(headings, rows, headings_wanted)?,
        }
        self.to.flush()
    }

    /// Writes one thing: a line for each field, or one object.
    pub fn fields(&mut self, fields: &[(&str, Value)]) -> io::Result<()> {
        match self.format {
            Format::Json => {
                let object: Map<String, Value> = fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect();
                self.json(&Value::Object(object))?;
            }
            Format::Table => {
                let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                for (name, value) in fields {
                    let name = self.heading(&format!("{name:<width$}"));
                    writeln!(self.to, "{name}  {}", shown(value))?;
                }
            }
        }
        self.to.flush()
    }

    /// Writes one thing in one line: a sentence, or one object.
    pub fn line(&mut self, fields: &[(&str, Value)], sentence: &str) -> io::Result<()> {
        match self.format {
            Format::Json => self.fields(fields),
            Format::Table => {
                writeln!(self.to, "{}", shown(&Value::String(sentence.to_owned())))?;
                self.to.flush()
            }
        }
    }

    /// Writes an object whose text is kept as it is, but for line breaks: in JSON they stand between tokens only,
    /// where a space says the same, and whoever reads a line has the whole object.
    pub fn json_line(&mut self, json: &str) -> io::Result<()> {
        match json.contains(['\n', '\r']) {
            true => writeln!(self.to, "{}", json.replace(['\n', '\r'], " "))?,
            false => writeln!(self.to, "{json}")?,
        }
        self.to.flush()
    }

    /// Writes text as it is.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(text.as_bytes())?;
        self.to.flush()
    }

    fn json(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.to, "{value}")
    }

    fn table(
        &mut self,
        headings: &[&str],
        rows: &[Vec<Value>],
        headings_wanted: bool,
    ) -> io::Result<()> {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(shown).collect())
            .collect();
        let width = |column: usize| {
            let in_rows = cells.iter().filter_map(|row| row.get(column));
            let longest = in_rows.map(|cell| cell.chars().count()).max().unwrap_or(0);
            longest.max(headings.get(column).map_or(0, |heading| heading.len()))
        };
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        let numeric: Vec<bool> = (0..headings.len())
            .map(|column| {
                !rows.is_empty()
                    && rows
                        .iter()
                        .all(|row| matches!(row.get(column), Some(Value::Number(_) | Value::Null)))
            })
            .collect();
        let line = |cells: &[String]| -> String {
            let padded: Vec<String> = cells
                .iter()
                .zip(&widths)
                .zip(&numeric)
                .map(|((cell, &width), &numeric)| {
                    let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                    if numeric {
                        format!("{pad}{cell}")
                    } else {
                        format!("{cell}{pad}")
                    }
                })
                .collect();
            padded.join("  ").trim_end().to_owned()
        };
        if headings_wanted {
            let upper: Vec<String> = headings
                .iter()
                .map(|heading| heading.replace('_', " ").to_uppercase())
                .collect();
            let heading = self.heading(&line(&upper));
            writeln!(self.to, "{heading}")?;
        }
        for row in &cells {
            writeln!(self.to, "{}", line(row))?;
        }
        Ok(())
    }

    fn heading(&self, text: &str) -> String {
        if self.bold {
            format!("\u{1b}[1m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// False when `NO_COLOR` is set to anything (no-color.org).
pub fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// 1234567 as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A value as a cell: text without quotes, nothing as `-`, and no character that a terminal obeys.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.as_u64().map_or_else(|| number.to_string(), grouped),
        other => other.to_string(),
    };
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::{Format, Output, grouped};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(format: Format, write: impl FnOnce(&mut Output)) -> String {
        let kept = Kept::default();
        let mut output = Output::new(format, false, Box::new(kept.clone()));
        write(&mut output);
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_table_aligns_and_never_lets_a_terminal_be_driven() {
        let rows: Vec<Vec<Value>> = vec![
            vec![json!("acme"), json!(1_234_567), Value::Null],
            vec![json!("b\u{1b}[2Jx"), json!(2), json!(true)],
        ];
        let table = written(Format::Table, |output| {
            output
                .rows(&["tenant", "dead_letters", "open"], &rows)
                .unwrap();
        });
        let expected = "\
TENANT  DEAD LETTERS  OPEN
acme       1,234,567  -
b\u{fffd}[2Jx             2  true
";
        assert_eq!(table, expected);
        let json = written(Format::Json, |output| {
            output
                .rows(&["tenant", "dead_letters", "open"], &rows)
                .unwrap();
        });
        assert_eq!(
            json.lines().next().unwrap(),
            r#"{"dead_letters":1234567,"open":null,"tenant":"acme"}"#
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
