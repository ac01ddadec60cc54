//! The contract suites: one for every `StateStore`, one for every `EventBus`, one for every
//! `AccessStore` with its `Leases`. An implementation is right
//! when its suite passes; a case is skipped only for a capability that the implementation names, and
//! the reason is printed. Also the means to build valid batches, which benches and other tests reuse.
//!
//! This is test code behind the feature `contract`: it panics where a promise is broken, and no default
//! build contains it.

// A broken promise ends a case by a panic that says which; results are for code that goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod access;
pub mod batch;
pub mod bus;
#[cfg(feature = "kafka")]
pub mod kafka;
mod runner;
pub mod store;

pub use runner::Case;
