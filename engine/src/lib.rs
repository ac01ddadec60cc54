//! The rules of Tidegate: what an event is, what admits it, what a machine makes of it, and what one
//! commit contains. Pure: no actor, no SQL, no socket and no clock of its own; time, randomness and
//! I/O come in through the seams [`clock`], [`spawner`], [`bus`] and [`store`].
//!
//! The life of an event is seven verbs, and the modules follow them: **receive** ([`bus`]),
//! **route** ([`event`], [`mapping`], [`tenant`]), **admit** ([`admission`]), **apply** ([`machine`], [`transition`]),
//! **commit** ([`commit`], [`commit_protocol`], [`store`]), **settle** and **acknowledge**
//! ([`checkpoint`]).

pub mod access;
pub mod admission;
pub mod bus;
pub mod chain;
pub mod checkpoint;
pub mod clock;
pub mod codec;
pub mod commit;
pub mod commit_protocol;
pub mod dead_letter;
pub mod error;
pub mod event;
pub mod finding;
pub mod follow_up;
pub mod hash;
pub mod headers;
pub mod json_text;
pub mod limits;
pub mod machine;
pub mod mapping;
pub mod partition;
pub mod planted;
pub mod position;
pub mod record;
pub mod retry;
pub mod secrets;
pub mod spawner;
pub mod state;
pub mod store;
pub mod tenant;
pub mod text;
pub mod topics;
pub mod transition;
pub mod verify;
pub mod yaml;
