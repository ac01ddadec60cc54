//! What a user would otherwise write by hand, as well as we know how: the same input, the same durable
//! server, the same guarantees. They share nothing with ours but the load.

mod batch;
mod copy;
mod envelope;
mod machine;
mod per_event;
mod schema;

pub use batch::{BatchConsumer, State, Tables};
pub use copy::{RawCopy, RawType};
pub use per_event::PerEventConsumer;
