//! A bar on standard error, when that is a terminal; otherwise nothing.

use std::io::{IsTerminal as _, stderr};
use std::sync::Arc;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::output::colours_wanted;
use crate::telemetry::{LogWriter, StepAside};

/// A bar with a message, or nothing.
#[derive(Clone)]
pub struct Bar {
    bar: ProgressBar,
    log: LogWriter,
}

impl Bar {
    /// A bar of `unit`s under which log lines are written.
    pub fn start(what: &'static str, unit: Unit, log: &LogWriter) -> Self {
        if !stderr().is_terminal() {
            return Self {
                bar: ProgressBar::hidden(),
                log: log.clone(),
            };
        }
        let bars = MultiProgress::new();
        let bar = bars.add(ProgressBar::no_length());
        bar.set_style(unit.style());
        bar.set_prefix(what);
        let step_aside: StepAside = Arc::new(move |write| bars.suspend(write));
        log.share_with(Some(step_aside));
        Self {
            bar,
            log: log.clone(),
        }
    }

    /// How far it is. A total of 0 is not known yet.
    pub fn set(&self, done: u64, total: u64) {
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
    }

    /// A few words behind the bar.
    pub fn say(&self, words: String) {
        self.bar.set_message(words);
    }

    /// Takes it away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        self.log.share_with(None);
    }
}

/// What a bar counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
}

impl Unit {
    fn style(self) -> ProgressStyle {
        let numbers = match self {
            Unit::Count => "{human_pos} of {human_len}",
            Unit::Bytes => "{binary_bytes} of {binary_total_bytes}",
        };
        let bar = if colours_wanted() {
            "{bar:30.cyan}"
        } else {
            "{bar:30}"
        };
        let template =
            format!("{{prefix}} {bar} {{percent:>3}} %  {numbers}  {{eta}} left  {{msg}}");
        ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─")
    }
}
