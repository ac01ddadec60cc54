//! The client that is asked: who the cluster is, which partitions a topic has, where they begin and end,
//! and which record stands at an offset. Every question has a limit of time. It is no member of the
//! group, so that no answer moves what is delivered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::position::Offset;
use tokio::time::Instant;

use super::client::{Callbacks, Client, is_forbidden};
use super::options::KafkaOptions;
use super::tokens::Tokens;
use super::topics::Place;

/// How long an answer may take. Longer than a leader's change, shorter than anybody waits.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One look at who the cluster is.
const CLUSTER_LOOK: Duration = Duration::from_millis(50);

/// One look at a queue.
const LOOK: Duration = Duration::from_millis(100);

/// Why there was no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The broker is away, or does not know yet.
    Away(String),
    /// Asking again would bring the same.
    Wrong(String),
}

/// The first record of some offset on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub offset: Offset,
    pub hash: Hash128,
    /// When it was written, as the broker has it.
    pub at: Option<Timestamp>,
}

pub(super) struct Asker {
    client: Client,
    callbacks: Callbacks,
    /// Its one position belongs to one question at a time.
    reading: Mutex<()>,
}

impl Asker {
    pub(super) fn open(
        options: &KafkaOptions,
        tokens: Option<Arc<Tokens>>,
    ) -> Result<Self, KafkaError> {
        let callbacks = Callbacks::new(tokens);
        let client: Client = options.asker().create_with_context(callbacks.clone())?;
        Ok(Self {
            client,
            callbacks,
            reading: Mutex::default(),
        })
    }

    /// What it heard that is wrong.
    pub(super) fn callbacks(&self) -> &Callbacks {
        &self.callbacks
    }

    /// Takes in what it has to tell, which would else add up.
    pub(super) fn look(&self) {
        if let Ok(_reading) = self.reading.try_lock() {
            let mut looks = 0..16;
            while looks.next().is_some() && self.client.poll(Duration::ZERO).is_some() {}
        }
    }

    /// Who the cluster is; `None` while no broker has answered.
    pub(super) fn cluster(&self, within: Duration) -> Option<String> {
        // A token is taken within a poll, and without one no broker answers.
        self.look();
        // The answer wakes nobody who waits for it already: it is seen at the next look, or a second later.
        let looks = within.as_millis() / CLUSTER_LOOK.as_millis();
        (0..looks).find_map(|_| self.client.client().fetch_cluster_id(CLUSTER_LOOK))
    }

    /// How many partitions a topic has; `None` when there is no such topic.
    pub(super) fn partitions(&self, topic: &str) -> Result<Option<usize>, NoAnswer> {
        let metadata = self
            .client
            .fetch_metadata(Some(topic), ANSWER_WITHIN)
            .map_err(|error| self.no_answer(&error))?;
        let Some(found) = metadata.topics().iter().find(|it| it.name() == topic) else {
            return Ok(None);
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(Some(found.partitions().len())),
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                Ok(None)
            }
            Some(code) => Err(self.no_answer(&KafkaError::MetadataFetch(code))),
        }
    }

    /// Every topic that the login may see, with how many partitions it has.
    pub(super) fn topics(&self) -> Result<Vec<(String, usize)>, NoAnswer> {
        let metadata = self
            .client
            .fetch_metadata(None, ANSWER_WITHIN)
            .map_err(|error| self.no_answer(&error))?;
        let topics = metadata.topics().iter();
        let told = topics.filter(|it| it.error().is_none());
        Ok(told
            .map(|it| (it.name().to_owned(), it.partitions().len()))
            .collect())
    }

    /// The first offset there is, and the one behind the last that may be read.
    pub(super) fn ends(&self, place: &Place) -> Result<(Offset, Offset), NoAnswer> {
        let (low, high) = self
            .client
            .fetch_watermarks(&place.topic, place.partition, ANSWER_WITHIN)
            .map_err(|error| self.no_answer(&error))?;
        let offset = |raw: i64| u64::try_from(raw).map(Offset).unwrap_or_default();
        Ok((offset(low), offset(high)))
    }

    /// The offsets behind the last records of partitions, asked all at once.
    pub(super) fn latest(&self, places: &[(String, i32)]) -> Result<Vec<KafkaOffset>, NoAnswer> {
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in places {
            asked
                .add_partition_offset(topic, *partition, KafkaOffset::End)
                .map_err(|error| self.no_answer(&error))?;
        }
        let found = self
            .client
            .offsets_for_times(asked, ANSWER_WITHIN)
            .map_err(|error| self.no_answer(&error))?;
        let each = places.iter().map(|(topic, partition)| {
            let found = found.find_partition(topic, *partition);
            let found = found.filter(|found| found.error().is_ok());
            match found.map(|found| found.offset()) {
                Some(offset @ KafkaOffset::Offset(_)) => Ok(offset),
                _ => Err(NoAnswer::Away(format!(
                    "the broker does not say where partition {partition} of `{topic}` ends"
                ))),
            }
        });
        each.collect()
    }

    /// The first offset of that time or later; `None` when all records are older.
    pub(super) fn at_time(&self, place: &Place, millis: i64) -> Result<Option<Offset>, NoAnswer> {
        let mut asked = TopicPartitionList::new();
        asked
            .add_partition_offset(&place.topic, place.partition, KafkaOffset::Offset(millis))
            .map_err(|error| self.no_answer(&error))?;
        let found = self
            .client
            .offsets_for_times(asked, ANSWER_WITHIN)
            .map_err(|error| self.no_answer(&error))?;
        let Some(found) = found.find_partition(&place.topic, place.partition) else {
            return Err(NoAnswer::Away(
                "the broker's answer has no offset".to_owned(),
            ));
        };
        found.error().map_err(|error| self.no_answer(&error))?;
        Ok(match found.offset() {
            KafkaOffset::Offset(raw) => u64::try_from(raw).ok().map(Offset),
            _ => None,
        })
    }

    /// Where the group has got to that a new source takes over; `None` when it never committed.
    pub(super) fn committed(&self, place: &Place) -> Result<Option<Offset>, NoAnswer> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&place.topic, place.partition);
        let found = self
            .client
            .committed_offsets(asked, ANSWER_WITHIN)
            .map_err(|error| self.no_answer(&error))?;
        let found = found.find_partition(&place.topic, place.partition);
        let Some(found) = found else {
            return Err(NoAnswer::Away(
                "the broker's answer has no partition".to_owned(),
            ));
        };
        found.error().map_err(|error| self.no_answer(&error))?;
        Ok(match found.offset() {
            KafkaOffset::Offset(raw) => u64::try_from(raw).ok().map(Offset),
            _ => None,
        })
    }

    /// The first record at `from` or behind it; `None` when there is none up to the end.
    pub(super) fn first_from(
        &self,
        place: &Place,
        from: Offset,
    ) -> Result<Option<Found>, NoAnswer> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let raw = i64::try_from(from.0)
            .map_err(|_| NoAnswer::Wrong(format!("offset {from} is beyond what Kafka counts")))?;
        let mut asked = TopicPartitionList::new();
        asked
            .add_partition_offset(&place.topic, place.partition, KafkaOffset::Offset(raw))
            .and_then(|()| self.client.assign(&asked))
            .map_err(|error| self.no_answer(&error))?;
        let found = self.read_one(place, from);
        // What it would read on for nobody.
        let _ = self.client.unassign();
        found
    }

    fn read_one(&self, place: &Place, from: Offset) -> Result<Option<Found>, NoAnswer> {
        let until = Instant::now() + ANSWER_WITHIN;
        while Instant::now() < until {
            match self.client.poll(LOOK) {
                None => {}
                Some(Ok(message)) => {
                    let offset = Offset(u64::try_from(message.offset()).unwrap_or_default());
                    let is_asked =
                        message.topic() == place.topic && message.partition() == place.partition;
                    if is_asked && offset >= from {
                        let hash = hash_bytes(message.payload().unwrap_or_default());
                        let millis = message.timestamp().to_millis();
                        let at = millis.map(|millis| Timestamp(millis.saturating_mul(1_000)));
                        return Ok(Some(Found { offset, hash, at }));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == place.partition => {
                    return Ok(None);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) => match error.rdkafka_error_code() {
                    // Nothing stands outside of what there is.
                    Some(
                        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                    ) => {
                        return Ok(None);
                    }
                    // Brokers come back.
                    Some(
                        RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown,
                    ) => {}
                    _ => return Err(self.no_answer(&error)),
                },
            }
        }
        Err(NoAnswer::Away(self.words("no record within ten seconds")))
    }

    fn no_answer(&self, error: &KafkaError) -> NoAnswer {
        let words = self.words(&error.to_string());
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic,
            ) => NoAnswer::Wrong(format!("there is no such topic or partition: {words}")),
            Some(code) if is_forbidden(code) => NoAnswer::Wrong(words),
            _ => NoAnswer::Away(words),
        }
    }

    /// An error with the last words of the client, which say why.
    fn words(&self, error: &str) -> String {
        match self.callbacks.complaint() {
            Some(complaint) => format!("{error} ({})", complaint.words),
            None => error.to_owned(),
        }
    }
}
