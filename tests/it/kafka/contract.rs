//! The bus contract, whole, against a real broker.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_connectors::bus::kafka::KafkaAssignment;
use tidegate_connectors::contract::bus::{Append, BusCapabilities, BusUnderTest, run_all};

use super::{KAFKA, Stage, open};
use crate::support::server;

/// A topic with those records, and its group's only member.
async fn kafka(
    records: Vec<Vec<Bytes>>,
    transactions: bool,
    assignment: KafkaAssignment,
) -> BusUnderTest {
    let stage = Stage::set("contract", records.len()).await.unwrap();
    for (partition, records) in (0..).zip(records) {
        // Behind each transaction stands its mark: a hole in the offsets.
        if transactions && !records.is_empty() {
            let (topic, client) = (&stage.topic, &stage.client);
            let (first, rest) = records.split_at(records.len() / 2);
            client.transaction(topic, partition, first, true).await;
            client.transaction(topic, partition, &records, false).await;
            client.transaction(topic, partition, rest, true).await;
            continue;
        }
        for record in records {
            stage.client.write(&stage.topic, partition, record).await;
        }
    }
    let mut options = stage.options("node-a");
    options.assignment = assignment;
    let bus = open(options).unwrap();
    let stage = Arc::new(stage);
    let append: Append = Arc::new(move |partition, payload| {
        let stage = stage.clone();
        Box::pin(async move {
            stage.client.write(&stage.topic, partition, payload).await;
        })
    });
    BusUnderTest {
        bus: Arc::new(bus),
        capabilities: BusCapabilities {
            ends: false,
            grows: true,
            keeps: true,
        },
        append,
        keep: Box::new(()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kafka_bus_keeps_the_contract() {
    if server("the_kafka_bus_keeps_the_contract", KAFKA).is_none() {
        return;
    }
    for (name, transactions, assignment) in [
        ("kafka", false, KafkaAssignment::Eager),
        ("kafka, transactions", true, KafkaAssignment::Eager),
        ("kafka, cooperative", false, KafkaAssignment::Cooperative),
    ] {
        run_all(name, async |records| {
            kafka(records, transactions, assignment).await
        })
        .await;
    }
}
