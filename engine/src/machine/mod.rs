//! Machines: how events move entities. A machine is a pure function of state and event, either a YAML
//! definition with CEL expressions or a Rust [`Processor`]; this module owns what both have in common.
//! It never knows the time, randomness or I/O.

pub mod processor;

pub use processor::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, MachineSet, Processor, Verdict,
};
