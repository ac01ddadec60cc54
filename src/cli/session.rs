//! What most commands need: the configuration, logs, a runtime for I/O and the open store.

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::access::{AccessStore, Leases};
use tidegate_engine::store::StateStore;
use tokio::runtime::Runtime;

use super::args::Global;
use super::exit::{Exit, Failure};
use crate::config::{Config, LogLevel};
use crate::patience::Patience;
use crate::stores::{self, Opened, WhenAbsent};
use crate::telemetry::{self, LogWriter};

/// Configuration, logs, runtime and store of one command.
pub struct Session {
    /// The configuration.
    pub config: Config,
    /// What logs are written to.
    pub log: LogWriter,
    /// Where I/O runs.
    pub runtime: Runtime,
    /// How long to try what the store is away for.
    pub patience: Patience,
    opened: Opened,
}

/// Reads the configuration that the command line names, else the defaults.
pub fn config(global: &Global) -> Result<Config, Failure> {
    match &global.config {
        Some(path) => Ok(Config::load(path)?),
        None => Ok(Config::default()),
    }
}

/// Starts logging. `at_most` keeps commands quiet that only look, unless more is asked for.
pub fn logs(global: &Global, config: &Config, at_most: LogLevel) -> Result<LogWriter, Failure> {
    let level = match &global.log_level {
        Some(word) => LogLevel::from_word(word).ok_or_else(|| {
            Failure::usage(format!(
                "--log-level: expected off, error, warn, info, debug or trace, found `{word}`"
            ))
        })?,
        None => config.log.level.min(at_most),
    };
    let form = (config.log.format, config.log.stream);
    let insists = global.log_level.is_some();
    // What commands that only look do is no part of a node's work.
    let collector = config.collector().filter(|_| at_most == LogLevel::Trace);
    telemetry::start(level, form, insists, collector.as_ref()).map_err(Failure::usage)
}

/// Logs an option that gives a protection up (R51), wherever it was set.
pub fn warn_unsafe(option: &str) {
    tracing::warn!(option, "an unsafe option is in force");
}

/// The runtime for I/O.
pub fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("tidegate-io")
        .build()
        .map_err(|error| Failure::new(Exit::Unavailable, format!("no runtime: {error}")))
}

impl Session {
    /// For a command that looks at a store, or decides about what is in it.
    pub fn look(global: &Global) -> Result<Self, Failure> {
        Self::open(global, LogLevel::Warn, WhenAbsent::Refuse)
    }

    /// For a command that fills a store.
    pub fn fill(global: &Global) -> Result<Self, Failure> {
        Self::open(global, LogLevel::Trace, WhenAbsent::Create)
    }

    /// The same with a configuration that is not a file's.
    pub fn fill_with(global: &Global, config: Config) -> Result<Self, Failure> {
        Self::open_with(global, config, LogLevel::Trace, WhenAbsent::Create)
    }

    fn open(global: &Global, at_most: LogLevel, when_absent: WhenAbsent) -> Result<Self, Failure> {
        Self::open_with(global, config(global)?, at_most, when_absent)
    }

    fn open_with(
        global: &Global,
        config: Config,
        at_most: LogLevel,
        when_absent: WhenAbsent,
    ) -> Result<Self, Failure> {
        let log = logs(global, &config, at_most)?;
        // A command that only looks is not where they do harm.
        if when_absent == WhenAbsent::Create {
            for option in config.unsafe_options() {
                warn_unsafe(&option);
            }
            for source in config.known_by_position() {
                tracing::warn!(
                    %source,
                    "its records are known by their position: one that a producer sends again is a new event"
                );
            }
        }
        let runtime = runtime()?;
        // A person waits for a command that only looks, and can see to the store at once.
        let patience = match when_absent {
            WhenAbsent::Create => Patience::of(&config),
            WhenAbsent::Refuse => Patience::none(),
        };
        let open = async || stores::open(&config.store, when_absent).await;
        let opened = runtime.block_on(patience.take("opening the store", open))?;
        Ok(Self {
            config,
            log,
            runtime,
            patience,
            opened,
        })
    }

    /// The store.
    pub fn store(&self) -> &dyn StateStore {
        self.opened.store()
    }

    /// The store, shared.
    pub fn shared(&self) -> Arc<dyn StateStore> {
        self.opened.shared()
    }

    /// Who may do what.
    pub fn access(&self) -> Arc<dyn AccessStore> {
        self.opened.access()
    }

    /// Leases of source partitions.
    pub fn leases(&self) -> Arc<dyn Leases> {
        self.opened.leases()
    }

    /// Runs a future to its end.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Closes the store. One that does not answer is left as it is: nothing that was committed needs it.
    pub fn close(self) -> Result<(), Failure> {
        let Self {
            config,
            runtime,
            opened,
            ..
        } = self;
        // A second at least, or a limit of zero would never close anything.
        let limit = Duration::from_secs(config.limits.drain_limit_seconds.max(1));
        let closed = runtime.block_on(async { tokio::time::timeout(limit, opened.close()).await });
        match closed {
            Ok(closed) => Ok(closed?),
            Err(_) => {
                tracing::warn!("the store has not answered; ending without it");
                Ok(())
            }
        }
    }
}
