//! The EventBus implementations.

pub mod file;
pub mod http;
pub mod memory;
