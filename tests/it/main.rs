//! The promises of the whole and of its outside, a module each.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod access;
mod boards;
mod bus_contract;
mod cli;
mod file_bus;
mod follow_up;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
mod mapping;
mod movement;
mod node;
mod postgres;
mod prometheus;
mod reclaimed;
mod replay;
mod secrets;
mod signals;
mod sqlite;
mod sqlite_tables;
mod start;
mod store_contract;
#[path = "../support/mod.rs"]
mod support;
mod tls;
