//! The seams that a node's actors share: store, machines, clock, randomness, spawner and placement.

use std::sync::Arc;

use tidegate_engine::clock::{Clock, Ids};
use tidegate_engine::machine::MachineSet;
use tidegate_engine::spawner::Spawner;
use tidegate_engine::store::StateStore;

use crate::memory::Memory;
use crate::meters::Meters;
use crate::options::NodeOptions;
use crate::placement::Placement;

/// What a node is given from outside. Actors hold no other way to the world.
#[derive(Clone)]
pub struct NodeSeams {
    /// Where state lives.
    pub store: Arc<dyn StateStore>,
    /// The active machines.
    pub machines: MachineSet,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for jitter.
    pub ids: Arc<dyn Ids>,
    /// Runs store and bus I/O.
    pub spawner: Arc<dyn Spawner>,
    /// Where actors run.
    pub placement: Placement,
}

/// Seams and bounds together, as every actor holds them.
#[derive(Clone)]
pub(crate) struct Context {
    pub seams: NodeSeams,
    pub options: Arc<NodeOptions>,
    pub memory: Arc<Memory>,
    pub meters: Arc<Meters>,
}
