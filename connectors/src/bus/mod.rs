//! The EventBus implementations.

pub mod memory;
