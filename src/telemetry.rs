//! Logs: JSON lines on standard error or output (text on a terminal), with the ids of events where they are known
//! and never a payload. Owns the format and the level; what is logged is decided where it happens.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry};

#[cfg(feature = "otel")]
mod spans;

use crate::config::{LogFormat, LogLevel, LogStream};

/// Where spans go, by OTLP over HTTP.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Its address, as in `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// Of 1,000 trees of spans, how many are sent.
    pub sampled_per_mille: u32,
    /// The node's name.
    pub node: String,
}

/// The environment variable that overrides the configured level: a level, or filter directives such as
/// `info,tidegate_actors=debug`.
pub const LEVEL_VARIABLE: &str = "TIDEGATE_LOG";

/// What draws on the terminal while logs are written: it steps aside for each line.
pub type StepAside = Arc<dyn Fn(&mut dyn FnMut()) + Send + Sync>;

/// Where lines go, shared with whatever draws on standard error.
#[derive(Clone)]
pub struct LogWriter {
    step_aside: Arc<Mutex<Option<StepAside>>>,
    stream: LogStream,
}

impl LogWriter {
    fn to(stream: LogStream) -> Self {
        Self {
            step_aside: Arc::default(),
            stream,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<StepAside>> {
        self.step_aside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every line is written through `step_aside`; `None` writes straight again.
    pub fn share_with(&self, step_aside: Option<StepAside>) {
        *self.lock() = step_aside;
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let step_aside = self.lock().clone();
        // A log that nobody can read must not end the work.
        let mut written = || {
            let _ = match self.stream {
                LogStream::Stderr => io::stderr().lock().write_all(line),
                LogStream::Stdout => io::stdout().lock().write_all(line),
            };
        };
        match step_aside {
            Some(step_aside) => step_aside(&mut written),
            None => written(),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self.clone()
    }
}

/// Starts logging. `TIDEGATE_LOG` comes before a configured level, and a level from the command line
/// (`insists`) before both. Spans go to the collector, if there is one. Returns the writer, to share the
/// terminal with.
pub fn start(
    level: LogLevel,
    (format, stream): (LogFormat, LogStream),
    insists: bool,
    collector: Option<&Collector>,
) -> Result<LogWriter, String> {
    let variable = std::env::var(LEVEL_VARIABLE).ok().filter(|_| !insists);
    let filter = filter(variable.as_deref(), level)?;
    let writer = LogWriter::to(stream);
    let on_terminal = match stream {
        LogStream::Stderr => io::stderr().is_terminal(),
        LogStream::Stdout => io::stdout().is_terminal(),
    };
    let builder = tracing_subscriber::fmt::layer().with_writer(writer.clone());
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !on_terminal,
    };
    let lines = if json {
        let builder = builder.json().flatten_event(true);
        builder.with_span_list(false).with_filter(filter).boxed()
    } else {
        let ansi = on_terminal && crate::cli::output::colours_wanted();
        let builder = builder.with_ansi(ansi).with_target(false);
        builder.with_filter(filter).boxed()
    };
    let registry = Registry::default().with(lines);
    #[cfg(feature = "otel")]
    let registry = registry.with(collector.map(spans::layer).transpose()?);
    #[cfg(not(feature = "otel"))]
    let _no_collector = collector;
    registry.try_init().map_err(|error| error.to_string())?;
    Ok(writer)
}

/// Sends what spans are left. The last thing that a process does.
pub fn finish() {
    #[cfg(feature = "otel")]
    spans::finish();
}

/// Our own crates at the level; everybody else at `warn` at most, since what libraries say at finer
/// levels is not ours to promise (statements, addresses).
fn filter(variable: Option<&str>, level: LogLevel) -> Result<EnvFilter, String> {
    let wanted = match variable.map(str::trim) {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => level.as_str().to_owned(),
    };
    // A word that is no level would be read as the name of a target, and silence everything else.
    for directive in wanted
        .split(',')
        .filter(|directive| !directive.contains('='))
    {
        if LogLevel::from_word(directive.trim()).is_none() {
            return Err(format!(
                "{LEVEL_VARIABLE}: expected off, error, warn, info, debug or trace, or filters such as \
                 `info,tidegate_actors=debug`, found `{directive}`"
            ));
        }
    }
    let directives = match wanted.as_str() {
        "off" | "error" | "warn" => wanted,
        "info" | "debug" | "trace" => format!("warn,tidegate={wanted}"),
        _ => wanted,
    };
    EnvFilter::try_new(&directives)
        .map_err(|error| format!("{LEVEL_VARIABLE}: no level and no filter: {error}"))
}

#[cfg(test)]
mod tests {
    use super::filter;
    use crate::config::LogLevel;

    #[test]
    fn the_variable_comes_first_and_libraries_stay_quiet() {
        for (variable, level, expected) in [
            (None, LogLevel::Info, "tidegate=info,warn"),
            (Some(""), LogLevel::Debug, "tidegate=debug,warn"),
            (Some("error"), LogLevel::Debug, "error"),
            (Some("warn,sqlx=debug"), LogLevel::Info, "sqlx=debug,warn"),
        ] {
            assert_eq!(filter(variable, level).unwrap().to_string(), expected);
        }
        assert!(filter(Some("tidegate=loud"), LogLevel::Info).is_err());
        assert!(filter(Some("loud"), LogLevel::Info).is_err());
        assert!(filter(Some("info,loud"), LogLevel::Info).is_err());
    }
}
