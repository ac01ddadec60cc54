//! The ways that are compared: each consumes the same load in a store of its own and says how long the
//! payments took.

use std::sync::Arc;

use tidegate::runtime::SystemClock;
use tidegate_actors::{NodeOptions, Placement};
use tidegate_engine::clock::Clock as _;
use tidegate_engine::machine::Processor;
use tidegate_engine::machine::order::order_processor;
use tokio::runtime::Handle;

use super::Result;
use super::database::Server;
use super::load::Load;
use super::measure::Sample;
use super::node::Ours;
use super::stores::StoreKind;
use super::topics::{Topic, Topics};
use crate::peers::{BatchConsumer, PerEventConsumer, RawCopy};

/// How the order machine is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Machine {
    /// A `Processor` in Rust.
    Rust,
    /// `deploy/examples/order.yaml`.
    Cel,
}

/// One way.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// The hand-written per-event consumer.
    PerEvent(PerEventConsumer),
    /// The hand-written batch consumer.
    Batch(BatchConsumer),
    /// Raw COPY.
    Copy(RawCopy),
    /// Ours.
    Ours(Settings),
}

/// How ours is set.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The store.
    pub store: StoreKind,
    /// The machine.
    pub machine: Machine,
    /// Source partitions.
    pub partitions: usize,
    /// Events of one commit; the default of the node when not set.
    pub batch_events: Option<usize>,
}

/// What every way needs.
pub struct Bench {
    /// The server under test.
    pub server: Server,
    /// The load.
    pub load: Arc<Load>,
    /// Where store and bus work of ours runs.
    pub io: Handle,
    /// Where the actors of ours run.
    pub placement: Placement,
    /// Where the payments are read from; from memory without.
    pub topics: Option<Topics>,
}

impl Bench {
    async fn topic(&self, partitions: usize, payments: u32) -> Result<Option<Topic>> {
        match &self.topics {
            Some(topics) => Ok(Some(topics.of(&self.load, partitions, payments).await?)),
            None => Ok(None),
        }
    }
}

impl Way {
    /// Runs it once over the first `payments` and returns the timed part.
    pub async fn run(self, bench: &Arc<Bench>, payments: u32) -> Result<Sample> {
        if let Way::Ours(settings) = self {
            return settings.run(bench, payments).await;
        }
        // Peers get all the threads that ours gets.
        let (io, bench) = (bench.io.clone(), bench.clone());
        let peer = async move {
            let (server, load) = (&bench.server, &bench.load);
            match self {
                Way::PerEvent(peer) => {
                    let topic = bench.topic(peer.connections, payments).await?;
                    peer.run(server, load, payments, topic).await
                }
                Way::Batch(peer) => {
                    let topic = bench.topic(peer.connections, payments).await?;
                    peer.run(server, load, payments, topic).await
                }
                Way::Copy(peer) => peer.run(server, load, payments).await,
                Way::Ours(_) => Err("not a peer".into()),
            }
        };
        io.spawn(peer).await?
    }
}

impl Settings {
    async fn run(self, bench: &Arc<Bench>, payments: u32) -> Result<Sample> {
        let mut options = NodeOptions::default();
        if let Some(batch_events) = self.batch_events {
            options.batch_events_max = batch_events;
        }
        let opening = {
            let bench = bench.clone();
            async move { self.store.open(&bench.server).await }
        };
        let open = bench.io.spawn(opening).await??;
        let given = vec![self.machine.processor()?];
        let machines =
            tidegate::machines::activate(open.store.as_ref(), given, SystemClock.now()).await?;
        let topic = bench.topic(self.partitions, payments).await?;
        let on_server = self.store == StoreKind::Postgres;
        let mut servers = bench.server.processes;
        servers.postmaster = servers.postmaster.filter(|_| on_server);
        let ours = Ours {
            store: open.store.clone(),
            machines,
            partitions: self.partitions,
            options,
            payments,
            topic,
            servers,
        };
        let before_timed = async || {
            if on_server {
                bench.server.checkpoint().await
            } else {
                Ok(())
            }
        };
        ours.run(
            bench.placement.clone(),
            bench.io.clone(),
            &bench.load,
            before_timed,
        )
        .await
    }
}

impl Machine {
    fn processor(self) -> Result<Arc<dyn Processor>> {
        match self {
            Machine::Rust => Ok(Arc::new(order_processor()?)),
            Machine::Cel => {
                let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples/order.yaml");
                let loaded = tidegate::machines::load_file(std::path::Path::new(file))?;
                Ok(loaded.map_err(tidegate::machines::MachinesError::Load)?)
            }
        }
    }
}
