//! The node: command line, configuration, logs and wiring. Thin: the rules are in `tidegate-engine`,
//! the movement in `tidegate-actors`, the outside in `tidegate-connectors`; only this crate's wiring
//! names concrete stores and buses.

// `say!` writes messages, `Output` writes data; neither panics when nobody reads.
#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod access;
pub mod bench;
pub mod causes;
pub mod cli;
mod client;
pub mod config;
pub mod demo;
pub mod http;
pub mod ingest;
pub mod machines;
pub mod names;
pub mod operator;
pub mod patience;
pub mod progress;
pub mod runtime;
pub mod say;
pub mod serve;
pub mod stores;
pub mod telemetry;
pub mod top;
pub mod watch;
pub mod wiring;
