//! A foreign client of Kafka, for tests: it makes topics, writes records and transactions, and reads what
//! a group has committed. It is no part of the bus, and knows nothing of it.

pub mod injecting;

use std::time::Duration;

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_engine::position::Offset;

/// Longer than a broker needs that has just been started.
const WITHIN: Duration = Duration::from_secs(60);

/// A client of one broker.
pub struct KafkaClient {
    brokers: String,
    producer: FutureProducer,
    admin: AdminClient<DefaultClientContext>,
}

impl KafkaClient {
    /// Of the broker with that address.
    pub fn new(brokers: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers);
        Self {
            brokers: brokers.to_owned(),
            // In order, and each once, also when the broker went away in between.
            producer: config
                .clone()
                .set("linger.ms", "0")
                .set("enable.idempotence", "true")
                .create()
                .unwrap(),
            admin: config.create().unwrap(),
        }
    }

    /// Makes a topic, with settings such as `cleanup.policy`.
    pub async fn make_topic(&self, topic: &str, partitions: usize, settings: &[(&str, &str)]) {
        let partitions = i32::try_from(partitions).unwrap();
        let mut made = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (setting, value) in settings {
            made = made.set(setting, value);
        }
        let answers = self.admin.create_topics([&made], &AdminOptions::new());
        for answer in answers.await.unwrap() {
            answer.unwrap();
        }
    }

    /// Deletes a topic.
    pub async fn delete_topic(&self, topic: &str) {
        let answers = self.admin.delete_topics(&[topic], &AdminOptions::new());
        for answer in answers.await.unwrap() {
            answer.unwrap();
        }
    }

    /// Gives a topic more partitions, so many in all.
    pub async fn grow_topic(&self, topic: &str, partitions: usize) {
        let grown = NewPartitions::new(topic, partitions);
        let answers = self.admin.create_partitions([&grown], &AdminOptions::new());
        for answer in answers.await.unwrap() {
            answer.unwrap();
        }
    }

    /// Deletes the records in front of an offset, as retention does.
    pub async fn truncate(&self, topic: &str, partition: u32, before: Offset) {
        let list = list(topic, partition, Some(before));
        self.admin
            .delete_records(&list, &AdminOptions::new())
            .await
            .unwrap();
    }

    /// Writes a record, and waits until the broker has it.
    pub async fn write(&self, topic: &str, partition: u32, payload: Bytes) -> Offset {
        self.write_with_headers(topic, partition, &[], payload)
            .await
    }

    /// Writes many records, in their order, and waits until the broker has all of them.
    pub async fn write_all(&self, topic: &str, partition: u32, payloads: Vec<Bytes>) {
        let writing = payloads
            .iter()
            .map(|payload| send(&self.producer, topic, partition, &[], payload));
        futures_util::future::join_all(writing).await;
    }

    /// The offset behind the last record of a partition.
    pub fn end(&self, topic: &str, partition: u32) -> Offset {
        let partition = i32::try_from(partition).unwrap();
        let member = self.member("none");
        let (_, end) = member.fetch_watermarks(topic, partition, WITHIN).unwrap();
        Offset(u64::try_from(end).unwrap())
    }

    /// Writes a record with headers.
    pub async fn write_with_headers(
        &self,
        topic: &str,
        partition: u32,
        headers: &[(&str, &[u8])],
        payload: Bytes,
    ) -> Offset {
        send(&self.producer, topic, partition, headers, &payload).await
    }

    /// Writes a record with a key.
    pub async fn write_keyed(&self, topic: &str, partition: u32, key: &str, payload: Bytes) {
        let record = FutureRecord::<str, [u8]>::to(topic)
            .partition(i32::try_from(partition).unwrap())
            .key(key)
            .payload(&payload[..]);
        let written = self.producer.send(record, WITHIN).await;
        written.unwrap_or_else(|(error, _)| panic!("not written: {error}"));
    }

    /// Writes records in one transaction, and then commits or aborts it.
    pub async fn transaction(&self, topic: &str, partition: u32, records: &[Bytes], commits: bool) {
        let name = format!("{topic}-{partition}-{commits}");
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("transactional.id", name)
            .create()
            .unwrap();
        producer.init_transactions(WITHIN).unwrap();
        producer.begin_transaction().unwrap();
        for record in records {
            send(&producer, topic, partition, &[], record).await;
        }
        if commits {
            producer.commit_transaction(WITHIN).unwrap();
        } else {
            producer.abort_transaction(WITHIN).unwrap();
        }
    }

    /// What a group has committed of a partition.
    pub fn committed(&self, group: &str, topic: &str, partition: u32) -> Option<Offset> {
        let found = self
            .member(group)
            .committed_offsets(list(topic, partition, None), WITHIN)
            .unwrap();
        match found.elements()[0].offset() {
            KafkaOffset::Offset(raw) => Some(Offset(u64::try_from(raw).unwrap())),
            _ => None,
        }
    }

    /// Commits for a group that has no members, as a tool does that resets offsets.
    pub fn commit(&self, group: &str, topic: &str, partition: u32, offset: Offset) {
        self.member(group)
            .commit(&list(topic, partition, Some(offset)), CommitMode::Sync)
            .unwrap();
    }

    fn member(&self, group: &str) -> BaseConsumer {
        ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", group)
            .create()
            .unwrap()
    }
}

/// A consumer of one partition as one writes it by hand: no group, records in their order, a batch at a time.
pub struct PlainReader {
    consumer: StreamConsumer,
}

/// How long a batch that has begun waits for more.
const BATCH_WAIT: Duration = Duration::from_millis(20);

impl PlainReader {
    /// Reads a partition from its first record on.
    pub fn open(brokers: &str, topic: &str, partition: u32) -> Self {
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "by-hand")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let from = list(topic, partition, Some(Offset(0)));
        consumer.assign(&from).unwrap();
        Self { consumer }
    }

    /// The next records: the first of them is waited for, the others come within moments or not yet.
    pub async fn read(&self, records_max: usize) -> Vec<Vec<u8>> {
        let mut payloads = vec![payload(&self.consumer.recv().await.unwrap())];
        let until = tokio::time::Instant::now() + BATCH_WAIT;
        while payloads.len() < records_max {
            match tokio::time::timeout_at(until, self.consumer.recv()).await {
                Ok(record) => payloads.push(payload(&record.unwrap())),
                Err(_) => break,
            }
        }
        payloads
    }
}

fn payload(record: &BorrowedMessage<'_>) -> Vec<u8> {
    record.payload().unwrap_or_default().to_vec()
}

fn list(topic: &str, partition: u32, offset: Option<Offset>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    let partition = i32::try_from(partition).unwrap();
    let offset = offset.map_or(KafkaOffset::Invalid, |offset| {
        KafkaOffset::Offset(i64::try_from(offset.0).unwrap())
    });
    list.add_partition_offset(topic, partition, offset).unwrap();
    list
}

async fn send(
    producer: &FutureProducer,
    topic: &str,
    partition: u32,
    headers: &[(&str, &[u8])],
    payload: &Bytes,
) -> Offset {
    let record = FutureRecord::<(), [u8]>::to(topic)
        .partition(i32::try_from(partition).unwrap())
        .payload(&payload[..]);
    let mut all = OwnedHeaders::new();
    for (key, value) in headers {
        let value = Some(*value);
        all = all.insert(Header { key, value });
    }
    let written = producer.send(record.headers(all), WITHIN).await;
    let written = written.unwrap_or_else(|(error, _)| panic!("not written: {error}"));
    Offset(u64::try_from(written.offset).unwrap())
}
