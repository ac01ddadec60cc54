//! What every measurement shares: the generated load, ours end to end, a fresh database, CPU
//! accounting, and the table.

pub mod arguments;
pub mod bus;
pub mod client;
pub mod cpu;
pub mod database;
pub mod latency;
pub mod load;
pub mod measure;
pub mod node;
pub mod processors;
pub mod report;
pub mod stores;
pub mod topics;
pub mod ways;

/// A benchmark stops at the first error: a figure beside a failure means nothing.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
