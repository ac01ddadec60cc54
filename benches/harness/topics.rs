//! The payments of a load in topics of a broker, so that ours and every peer read them from there: one topic for
//! each number of partitions and payments, written once and read from its beginning by each run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use tidegate_connectors::bus::kafka::{KafkaBus, KafkaOptions};
use tidegate_connectors::contract::kafka::{KafkaClient, PlainReader};
use tidegate_engine::position::SourceName;
use tidegate_engine::store::StateStore;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::Result;
use super::cpu::listener_on;
use super::load::Load;

/// How ours calls the source.
pub const SOURCE: &str = "kafka";

/// Runs so far: each has a group of its own, for what a group of an earlier run has committed is not asked.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Records that are on their way to the broker at once.
const WRITTEN_AT_ONCE: usize = 20_000;

/// A broker, and what was written to it.
pub struct Topics {
    brokers: String,
    client: KafkaClient,
    written: Mutex<HashMap<(usize, u32), String>>,
}

/// The payments of a load, one partition a lane; a payment's offset is its place among those of its lane.
#[derive(Clone)]
pub struct Topic {
    /// Where the brokers are.
    pub brokers: String,
    /// Its name.
    pub name: String,
}

impl Topics {
    /// On that broker.
    pub fn new(brokers: String) -> Self {
        Self {
            client: KafkaClient::new(&brokers),
            brokers,
            written: Mutex::default(),
        }
    }

    /// The broker's process, when it is to be seen from here.
    pub fn broker(&self) -> Option<u32> {
        let (_, port) = self.brokers.rsplit_once(':')?;
        listener_on(port.parse().ok()?)
    }

    /// The first `payments` of a load over so many partitions.
    pub async fn of(&self, load: &Load, partitions: usize, payments: u32) -> Result<Topic> {
        let mut written = self.written.lock().await;
        let name = match written.get(&(partitions, payments)) {
            Some(name) => name.clone(),
            None => {
                let process = std::process::id();
                let name = format!("bench-{process}-{partitions}-{payments}");
                self.write(&name, load, partitions, payments).await?;
                written.insert((partitions, payments), name.clone());
                name
            }
        };
        Ok(Topic {
            brokers: self.brokers.clone(),
            name,
        })
    }

    async fn write(&self, name: &str, load: &Load, partitions: usize, payments: u32) -> Result<()> {
        self.client.make_topic(name, partitions, &[]).await;
        for (partition, lane) in (0..).zip(load.lanes(partitions, payments)) {
            let places = lane.events.get(lane.payments()).unwrap_or_default();
            for numbers in places.chunks(WRITTEN_AT_ONCE) {
                let payloads = numbers.iter().map(|number| load.event(*number));
                let payloads = payloads.map(Bytes::copy_from_slice).collect();
                self.client.write_all(name, partition, payloads).await;
            }
        }
        Ok(())
    }
}

impl Topic {
    /// Our bus, as a node opens it.
    pub fn bus(&self, store: Arc<dyn StateStore>, io: &Handle) -> Result<KafkaBus> {
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let options = KafkaOptions::new(
            SourceName::new(SOURCE)?,
            "bench",
            format!("{}-{run}", self.name),
            vec![self.brokers.clone()],
            vec![self.name.clone()],
        );
        Ok(KafkaBus::open(options, store, io)?)
    }

    /// A consumer of one partition, as one writes it by hand.
    pub fn reader(&self, partition: usize) -> Result<PlainReader> {
        let partition = u32::try_from(partition)?;
        Ok(PlainReader::open(&self.brokers, &self.name, partition))
    }
}
