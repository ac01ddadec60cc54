//! The outside of Tidegate: event buses and state stores behind the seams of the engine, and the
//! contract suites that every implementation passes.

pub mod bus;
pub mod store;

#[cfg(any(test, feature = "contract"))]
pub mod contract;
