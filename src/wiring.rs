//! The only place in the node that names concrete buses; everything else knows the `EventBus` seam. The
//! concrete stores are named in [`crate::stores`].

pub use tidegate_connectors::bus::file::{FileBus, FileInput};
