//! A source of Kafka seen from outside its group: which partitions there are and what lies behind a place
//! in each, for lag that is true also while nobody reads.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tidegate_engine::bus::{Behind, BusError, Seen, SourceView};
use tidegate_engine::position::Offset;
use tidegate_engine::topics::{SourceTopic, take_up};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::KafkaOptions;
use super::asker::{Asker, NoAnswer};
use super::client::is_refusal;
use super::state::Shared;
use super::topics::NotFound;

/// Between two looks for a first token.
const LOOK: Duration = Duration::from_millis(20);

/// How long a broker may take to say who it is, and a signer to sign.
const CLUSTER_WITHIN: Duration = Duration::from_secs(5);

/// A source seen from outside.
pub struct KafkaView {
    options: KafkaOptions,
    shared: Arc<Shared>,
    asker: Arc<Asker>,
    /// As they are kept.
    known: Vec<SourceTopic>,
}

impl std::fmt::Debug for KafkaView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaView")
            .field("source", &self.shared.source)
            .finish_non_exhaustive()
    }
}

impl KafkaView {
    /// Of a source with these options, whose nodes know these topics.
    pub fn open(
        options: KafkaOptions,
        known: Vec<SourceTopic>,
        io: &Handle,
    ) -> Result<Self, BusError> {
        options.check()?;
        let asker = Asker::open(&options, super::tokens(&options, io));
        let asker = asker.map_err(|error| options.refused(super::invalid(&error)))?;
        // Nobody polls here.
        let (wake, _) = sync_channel(1);
        let shared = Shared::new(&options, wake);
        shared.topics.learn(known.clone());
        Ok(Self {
            shared: Arc::new(shared),
            asker: Arc::new(asker),
            options,
            known,
        })
    }

    /// Waits for a first token, where one logs in.
    async fn has_token(&self) -> Result<(), BusError> {
        let until = Instant::now() + CLUSTER_WITHIN;
        while let Some(why) = self.asker.callbacks().lacks_token() {
            if until < Instant::now() {
                return Err(self.shared.away(why));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Asker, &Shared) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        self.has_token().await?;
        let (asker, shared) = (self.asker.clone(), self.shared.clone());
        let asked = tokio::task::spawn_blocking(move || {
            // Nobody else does, and a token is taken within it.
            asker.look();
            question(&asker, &shared)
        })
        .await;
        asked.map_err(|error| {
            self.shared
                .away(format!("the question was not asked: {error}"))
        })?
    }
}

fn reachable(asker: &Asker, shared: &Shared, options: &KafkaOptions) -> Result<(), BusError> {
    let brokers = options.brokers.join(", ");
    if asker.cluster(CLUSTER_WITHIN).is_some() {
        return Ok(());
    }
    asker.look();
    Err(match asker.callbacks().complaint() {
        Some(complaint) if is_refusal(&complaint) => shared.unreadable(format!(
            "the brokers {brokers} refuse {}: {}. Correct `kafka.login` or `kafka.tls`",
            options.who(),
            complaint.words
        )),
        Some(complaint) => shared.away(format!(
            "no broker of {brokers} answers: {}",
            complaint.words
        )),
        None => shared.away(format!("no broker of {brokers} answers")),
    })
}

#[async_trait::async_trait]
impl SourceView for KafkaView {
    async fn partitions(&self) -> Result<Vec<Seen>, BusError> {
        let (options, mut known) = (self.options.clone(), self.known.clone());
        self.ask(move |asker, shared| {
            reachable(asker, shared, &options)?;
            let topics = &shared.topics;
            let found = topics.find(asker).map_err(|none| match none {
                NotFound::Missing(topic) => shared.unreadable(format!(
                    "there is no topic `{topic}`, or {} may not see it. Make it or correct `kafka.topics`",
                    options.who()
                )),
                NotFound::NoAnswer(none) => super::no_answer(shared, none),
            })?;
            // What no node has found yet gets the numbers that it will get there.
            if let Err(error) = take_up(&mut known, &found) {
                return Err(shared.unreadable(error.to_string()));
            }
            topics.learn(known);
            let places = found.iter().flat_map(|topic| {
                (0..topic.partitions).map(|partition| (topic.name.as_str(), partition))
            });
            let seen = places.filter_map(|(topic, partition)| {
                let number = topics.number(topic, i32::try_from(partition).ok()?)?;
                Some(Seen {
                    partition: number,
                    name: format!("{topic}/{partition}"),
                    tenant: topics.tenant_of(number),
                })
            });
            Ok(seen.collect())
        })
        .await
    }

    async fn behind(&self, partition: u32, from: Option<Offset>) -> Result<Behind, BusError> {
        self.ask(move |asker, shared| {
            let place = shared.place(partition)?;
            let answer = |none: NoAnswer| super::no_answer(shared, none);
            let (begin, end) = asker.ends(&place).map_err(answer)?;
            let from = from.unwrap_or(begin);
            let nothing = Behind {
                begin,
                end: from,
                first_at: None,
            };
            if end <= from {
                return Ok(Behind { end, ..nothing });
            }
            // Behind what is settled may be nothing but marks of transactions.
            let found = asker.first_from(&place, from.max(begin)).map_err(answer)?;
            Ok(found.map_or(nothing, |found| Behind {
                begin,
                end,
                first_at: found.at,
            }))
        })
        .await
    }
}
