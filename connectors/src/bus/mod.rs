//! The EventBus implementations.

pub mod file;
pub mod http;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod memory;
