//! Where actors run: on a fixed number of arbiters that do no I/O, or, in a simulation, all on the
//! current one (a new arbiter would bring the real clock back).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use actix::{Actor, Addr, ArbiterHandle, Context};

/// The arbiters of a node.
#[derive(Clone, Debug)]
pub enum Placement {
    /// Everything on the arbiter that starts it.
    Current,
    /// Spread over these by what an actor belongs to.
    Arbiters(Arc<[ArbiterHandle]>),
}

impl Placement {
    /// Starts an actor on the arbiter that `belongs_to` falls to.
    pub fn start<A>(
        &self,
        belongs_to: impl Hash,
        make: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
    ) -> Addr<A>
    where
        A: Actor<Context = Context<A>>,
    {
        let Placement::Arbiters(arbiters) = self else {
            return A::create(make);
        };
        let mut hasher = DefaultHasher::new();
        belongs_to.hash(&mut hasher);
        let index = hasher.finish() as usize % arbiters.len().max(1);
        match arbiters.get(index) {
            Some(arbiter) => A::start_in_arbiter(arbiter, make),
            None => A::create(make),
        }
    }
}
