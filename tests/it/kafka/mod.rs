//! The bus of Kafka against a real broker. Without one each test says SKIPPED; `make test` starts it.

mod broker;
mod contract;
mod growing;
mod injected;
mod node;
mod options;
mod reading;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tidegate_connectors::bus::kafka::{KafkaBus, KafkaOptions};
use tidegate_connectors::contract::kafka::KafkaClient;
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_engine::bus::{BusError, BusEvent, Delivery, EventBus as _, ReceiveLimit};
use tidegate_engine::position::{Incarnation, Offset, SourceName};
use tokio::runtime::Handle;

use crate::support::server;

/// Names the development broker; `deploy/dev/services env` prints it.
pub const KAFKA: &str = "TIDEGATE_TEST_KAFKA";

/// Long enough for a group to form again after a member's session is over.
const NEWS_WITHIN: Duration = Duration::from_secs(60);

const WIDE: ReceiveLimit = ReceiveLimit {
    events_max: 1_000,
    bytes_max: 1_000_000,
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A topic and a group of a test's own.
struct Stage {
    brokers: String,
    client: KafkaClient,
    topic: String,
}

impl Stage {
    /// `None` without a broker.
    async fn set(test: &str, partitions: usize) -> Option<Self> {
        let brokers = server(test, KAFKA)?;
        let client = KafkaClient::new(&brokers);
        let topic = name(test);
        client.make_topic(&topic, partitions, &[]).await;
        Some(Self {
            brokers,
            client,
            topic,
        })
    }

    /// What a node of that name would read it with. The group has the topic's name.
    fn options(&self, node: &str) -> KafkaOptions {
        let source = SourceName::new("kafka").unwrap();
        let (brokers, topics) = (vec![self.brokers.clone()], vec![self.topic.clone()]);
        KafkaOptions::new(source, node, &self.topic, brokers, topics)
    }

    fn bus(&self, node: &str) -> KafkaBus {
        open(self.options(node)).unwrap()
    }

    async fn write(&self, partition: u32, text: &str) -> Offset {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        self.client.write(&self.topic, partition, payload).await
    }
}

/// A bus whose topics are kept for it alone.
pub fn open(options: KafkaOptions) -> Result<KafkaBus, BusError> {
    let store = Arc::new(MemoryStore::new());
    KafkaBus::open(options, store, &Handle::current())
}

/// A name that no other test, and no other run on the same broker, has.
pub fn name(test: &str) -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let random = getrandom::u32().unwrap();
    format!("{test}-{number}-{random:08x}")
}

/// The next news of a bus.
async fn news(bus: &KafkaBus) -> Result<Vec<BusEvent>, BusError> {
    tokio::time::timeout(NEWS_WITHIN, bus.receive(WIDE))
        .await
        .expect("news within a minute")
}

/// Waits until so many partitions are assigned.
async fn assigned(bus: &KafkaBus, partitions: usize) -> Vec<(u32, Incarnation)> {
    let mut all = Vec::new();
    while all.len() < partitions {
        for event in news(bus).await.unwrap() {
            match event {
                BusEvent::Assigned {
                    partition,
                    incarnation,
                } => all.push((partition, incarnation)),
                other => panic!("expected assignments, found {other:?}"),
            }
        }
    }
    all.sort();
    all
}

/// Receives so many records of one partition. Troubles on the way are waited out.
async fn read(bus: &KafkaBus, partition: u32, records: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < records {
        match news(bus).await {
            Ok(events) => {
                for event in events {
                    match event {
                        BusEvent::Delivered {
                            partition: of,
                            deliveries,
                        } if of == partition => all.extend(deliveries),
                        other => panic!("expected records of {partition}, found {other:?}"),
                    }
                }
            }
            Err(BusError::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(all.len(), records, "more records than were written");
    all
}

fn texts(deliveries: &[Delivery]) -> Vec<&str> {
    let texts = deliveries.iter().map(|it| std::str::from_utf8(&it.payload));
    texts.collect::<Result<_, _>>().unwrap()
}

/// Waits until the end that a bus tells is the expected one: an end is told when it was reached.
async fn ends_at(bus: &KafkaBus, partition: u32, expected: Offset) {
    let mut last = None;
    for _ in 0..200 {
        last = bus.end_offset(partition).await.unwrap();
        if last == Some(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("expected the end at {expected}, found {last:?}");
}
