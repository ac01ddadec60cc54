//! The StateStore implementations.
