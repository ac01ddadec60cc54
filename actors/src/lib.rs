//! The movement of Tidegate: the only crate that knows actors.

pub mod committer;
pub mod failpoint;
pub mod fair_queue;
pub mod node;
pub mod options;
pub mod ownership;
pub mod partition;
pub mod permits;
pub mod placement;
pub mod restart;
pub mod seams;
pub mod source;
pub mod supervisor;
mod tenants;

pub use node::{DrainReport, Node, NodeHandle, NodeSnapshot, SourceFailed};
pub use options::NodeOptions;
pub use placement::Placement;
pub use seams::NodeSeams;
pub use source::{Source, SourceStatus};
