//! A binary with the whole command line of `tidegate` and a machine written in Rust. Copy the file into a
//! crate of your own that depends on `tidegate` and `tidegate-engine`.
//!
//! ```text
//! cargo run --example own_machines -- ingest visits.ndjson --tenant acme
//! cargo run --example own_machines -- state get visitor ada --tenant acme
//! cargo run --example own_machines -- verify
//! ```

use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_engine::error::InvalidValue;
use tidegate_engine::machine::typed::{Answer, Entity, Typed, TypedEvent, TypedMachine};
use tidegate_engine::machine::{Fault, FieldType, Processor};

fn main() -> Result<ExitCode, InvalidValue> {
    Ok(tidegate::cli::main_with(machines()?))
}

pub(crate) fn machines() -> Result<Vec<Arc<dyn Processor>>, InvalidValue> {
    Ok(vec![Arc::new(Typed::new(Visitor)?)])
}

/// Counts the visits of each visitor, who is the event's subject.
struct Visitor;

#[derive(Default, Serialize, Deserialize)]
struct Visits {
    visits: i64,
}

impl TypedMachine for Visitor {
    type Data = Visits;

    const NAME: &'static str = "visitor";
    const VERSION: u64 = 1;
    const SOURCE: &'static str = include_str!("own_machines.rs");
    const STATES: &'static [&'static str] = &["new", "known"];
    const EVENTS: &'static [&'static str] = &["visit.begun"];
    const FIELDS: &'static [(&'static str, FieldType)] = &[("visits", FieldType::Int)];

    fn apply(
        &self,
        _: &TypedEvent<'_>,
        mut visitor: Entity<'_, Visits>,
    ) -> Result<Answer<Visits>, Fault> {
        visitor.data.visits += 1;
        Ok(visitor.to("known"))
    }
}
