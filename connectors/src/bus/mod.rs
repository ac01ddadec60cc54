//! The EventBus implementations.
