//! The EventBus implementations.

pub mod file;
pub mod memory;
