//! Machines: how events move entities. A machine is a pure function of state and event, either a YAML
//! definition with CEL expressions or a Rust [`Processor`]; this module owns what both have in common.
//! It never knows the time, randomness or I/O.

mod budget;
mod candidate;
mod cases;
mod compiled;
mod decimal;
mod definition;
mod delivery;
mod difference;
mod document;
mod expression;
mod field;
mod field_type;
mod filter;
mod finite;
mod load_error;
mod moment;
mod numbers;
mod operators;
pub mod order;
mod payload;
pub mod processor;
mod reach;
mod rewrite;
pub mod typed;
pub mod upgrade;
mod variables;
mod warnings;

pub use cases::{Case, CaseResult, Difference};
pub use compiled::CompiledMachine;
pub use definition::{API_VERSION, MachineDefinition};
pub use delivery::{Computed, DeliveryExpression, DeliveryPlan, DeliveryScope};
pub use difference::differences;
pub use field_type::FieldType;
pub use filter::EventFilter;
pub use load_error::LoadError;
pub use processor::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, MachineSet, Processor, Verdict,
};
pub use rewrite::Objection;
pub use warnings::{Warning, warnings};

#[cfg(test)]
mod tests;
