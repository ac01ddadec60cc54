//! The StateStore implementations, and what they all check of a batch before they touch anything.

pub mod batch_form;
pub mod memory;
mod older_keys;
pub mod postgres;
mod process_leases;
pub mod sqlite;
