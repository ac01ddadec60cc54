//! The bus of Kafka: a member of a consumer group, whose partitions are the source partitions. The group
//! assigns; the store's checkpoint says where to read, and the broker's committed offset is a hint for its
//! tools. Two threads a source: one polls, one tells the broker. Nothing of librdkafka is seen outside.

mod acknowledger;
mod asker;
mod client;
mod copied;
#[cfg(feature = "msk-iam")]
mod msk_iam;
mod options;
mod poller;
mod state;
#[cfg(test)]
mod tests;
mod tokens;
mod topics;
mod view;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use tidegate_engine::bus::{
    self, BusError, BusEvent, EventBus, ReceiveLimit, Start, TopicPartition,
};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::{Offset, SourceName};
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use options::{
    KafkaAssignment, KafkaIdentity, KafkaLogin, KafkaMechanism, KafkaOptions, KafkaTls,
};

#[cfg(feature = "msk-iam")]
pub use msk_iam::MskIamSigner;
pub use tokens::{KafkaSigner, KafkaToken, TokenSigner};
pub use view::KafkaView;

use acknowledger::Acknowledger;
use asker::{Asker, NoAnswer};
use poller::{Command, Poller};
use state::Shared;
use tokens::Tokens;
use topics::Place;

/// Commands that may wait for the polling thread, which takes them within its tick: two a partition of
/// what one node has.
const COMMANDS_MAX: usize = 1_024;

/// Bytes of stack of the two threads, which go nowhere deep; a record lies on the heap.
const STACK_BYTES: usize = 512 * 1024;

/// A member of a consumer group.
pub struct KafkaBus {
    shared: Arc<Shared>,
    asker: Arc<Asker>,
    acknowledger: Arc<Acknowledger>,
    commands: SyncSender<Command>,
    group: String,
    /// Whose position a new source takes over, when it does.
    start_group: String,
    /// How a client is set that asks.
    asking: ClientConfig,
    tokens: Option<Arc<Tokens>>,
}

impl std::fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaBus")
            .field("source", &self.shared.source)
            .finish_non_exhaustive()
    }
}

impl KafkaBus {
    /// Opens it. Waits for no broker: while none answers, [`EventBus::receive`] says so. Options that
    /// cannot work are [`BusError::Unreadable`]. Its topics are kept in the store, which is asked on `io`.
    pub fn open(
        options: KafkaOptions,
        store: Arc<dyn StateStore>,
        io: &Handle,
    ) -> Result<Self, BusError> {
        options.check()?;
        let refused = |error: KafkaError| options.refused(invalid(&error));
        options.member(1).create_native_config().map_err(refused)?;
        let tokens = tokens(&options, io);
        let asker = Arc::new(Asker::open(&options, tokens.clone()).map_err(refused)?);
        if let Some(exposed) = options.exposed() {
            tracing::warn!(source = %options.source, "{exposed}");
        }
        let (wake, wakes) = sync_channel(1);
        let (commands, waiting) = sync_channel(COMMANDS_MAX);
        let shared = Arc::new(Shared::new(&options, wake));
        let acknowledger = Arc::new(Acknowledger::new(shared.clone(), asker.clone()));
        let no_thread = |error: std::io::Error| {
            shared.unreadable(format!("the system gives it no thread: {error}"))
        };
        let telling = acknowledger.clone();
        thread("kafka-commit", &options.source, move || telling.run()).map_err(no_thread)?;
        let bus = Self {
            shared: shared.clone(),
            asker: asker.clone(),
            acknowledger: acknowledger.clone(),
            commands,
            asking: options.asker(),
            tokens: tokens.clone(),
            group: options.group.clone(),
            start_group: options
                .start_group
                .as_ref()
                .unwrap_or(&options.group)
                .clone(),
        };
        let poller = Poller {
            shared: shared.clone(),
            asker,
            acknowledger,
            commands: waiting,
            wakes,
            options,
            store,
            io: io.clone(),
            tokens,
        };
        let source = shared.source.clone();
        thread("kafka-poll", &source, move || poller.run()).map_err(no_thread)?;
        Ok(bus)
    }

    /// Asks something of a broker, off the async threads.
    async fn ask<T: Send + 'static>(
        &self,
        partition: u32,
        question: impl FnOnce(&Asker, &Place) -> Result<T, NoAnswer> + Send + 'static,
    ) -> Result<T, BusError> {
        let place = self.shared.place(partition)?;
        let asker = self.asker.clone();
        let answered = tokio::task::spawn_blocking(move || question(&asker, &place)).await;
        answered
            .map_err(|error| {
                self.shared
                    .away(format!("the question was not asked: {error}"))
            })?
            .map_err(|none| no_answer(&self.shared, none))
    }

    /// Has the polling thread do something.
    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), BusError>>) -> Command,
    ) -> Result<(), BusError> {
        let (done, answer) = oneshot::channel();
        self.commands.try_send(command(done)).map_err(|_| {
            self.shared
                .away("its polling thread takes no more".to_owned())
        })?;
        self.shared.wake();
        self.answered(answer).await
    }

    async fn answered<T>(
        &self,
        answer: oneshot::Receiver<Result<T, BusError>>,
    ) -> Result<T, BusError> {
        answer.await.map_err(|_| {
            self.shared
                .away("the source has not joined its group, or has ended".to_owned())
        })?
    }

    fn held(&self, partition: u32) -> Result<(), BusError> {
        if self.shared.is_held(partition) {
            return Ok(());
        }
        Err(self.shared.not_assigned(partition))
    }
}

impl Drop for KafkaBus {
    /// The threads end by themselves; nothing waits for a broker that may be away.
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake();
    }
}

#[async_trait::async_trait]
impl EventBus for KafkaBus {
    fn source(&self) -> &SourceName {
        &self.shared.source
    }

    async fn receive(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, BusError> {
        loop {
            if let Some(events) = self.shared.take(limit)? {
                return Ok(events);
            }
            self.shared.news().await;
        }
    }

    async fn news(&self) -> Vec<BusEvent> {
        loop {
            let told = self.shared.take_news();
            if !told.is_empty() {
                return told;
            }
            self.shared.told().await;
        }
    }

    async fn comes_behind(&self, partition: u32) -> Result<Vec<bus::Place>, BusError> {
        let mut behind = Vec::new();
        for older in self.shared.topics.before(partition) {
            let (begin, end) = self.ask(older, |asker, place| asker.ends(place)).await?;
            if begin < end {
                behind.push(bus::Place {
                    partition: older,
                    offset: end,
                });
            }
        }
        Ok(behind)
    }

    async fn is_empty_to(&self, from: Option<Offset>, to: bus::Place) -> Result<bool, BusError> {
        self.ask(to.partition, move |asker, place| {
            let (begin, _) = asker.ends(place)?;
            let from = from.unwrap_or(begin).max(begin);
            if to.offset <= from {
                return Ok(true);
            }
            let found = asker.first_from(place, from)?;
            Ok(found.is_none_or(|found| to.offset <= found.offset))
        })
        .await
    }

    async fn start_offset(&self, partition: u32, start: Start) -> Result<Offset, BusError> {
        let start = match start {
            // All of it was written since the source was first read.
            _ if self.shared.topics.is_younger(partition) => Start::Earliest,
            start => start,
        };
        let group = self.start_group.clone();
        self.ask(partition, move |asker, place| {
            let (begin, end) = asker.ends(place)?;
            Ok(match start {
                Start::Earliest => begin,
                Start::Latest => end,
                // Kafka's times are whole milliseconds.
                Start::Time(at) => {
                    let millis = at.0.div_euclid(1_000) + i64::from(at.0.rem_euclid(1_000) > 0);
                    asker.at_time(place, millis)?.unwrap_or(end)
                }
                Start::OffsetsOfGroup => {
                    let committed = asker
                        .committed(place)?
                        .ok_or_else(|| nothing_of(&group, place))?;
                    if committed < begin || end < committed {
                        return Err(lost_of(&group, place, committed, begin, end));
                    }
                    committed
                }
            })
        })
        .await
    }

    async fn fingerprint_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> Result<Option<Hash128>, BusError> {
        self.ask(partition, move |asker, place| {
            let (begin, end) = asker.ends(place)?;
            if offset < begin || end <= offset {
                return Ok(None);
            }
            let found = asker.first_from(place, offset)?;
            Ok(found
                .filter(|found| found.offset == offset)
                .map(|found| found.hash))
        })
        .await
    }

    async fn takes_records_away(&self, partition: u32, offset: Offset) -> Result<bool, BusError> {
        let (begin, end) = self
            .ask(partition, |asker, place| asker.ends(place))
            .await?;
        if offset < begin || end <= offset {
            // What was settled may expire. What is not there yet was never taken away.
            return Ok(offset < begin);
        }
        let topic = self.shared.place(partition)?.topic;
        if self.tokens.is_some() {
            tracing::warn!(source = %self.shared.source, topic, "whether the topic is compacted cannot be asked with a token; it counts as not compacted");
            return Ok(false);
        }
        client::is_compacted(&self.asking, &topic)
            .await
            .map_err(|why| self.shared.away(why))
    }

    async fn seek(&self, partition: u32, offset: Offset) -> Result<(), BusError> {
        self.held(partition)?;
        let (begin, end) = self
            .ask(partition, |asker, place| asker.ends(place))
            .await?;
        if offset < begin || end < offset {
            return Err(self.shared.unreadable(format!(
                "partition {partition} has offsets {begin} to {end}, {offset} was asked for: records are \
                 lost, or it is another topic of that name. Give the new source a name of its own, or \
                 restore the old topic"
            )));
        }
        self.command(|done| Command::Seek {
            partition,
            offset,
            done,
        })
        .await
    }

    async fn acknowledge(&self, partition: u32, low_watermark: Offset) -> Result<(), BusError> {
        self.held(partition)?;
        self.answered(self.acknowledger.tell(partition, low_watermark))
            .await
    }

    async fn release(&self, partition: u32) -> Result<(), BusError> {
        self.held(partition)?;
        self.command(|done| Command::Release { partition, done })
            .await
    }

    async fn still_assigned(&self, partition: u32) -> Result<bool, BusError> {
        if !self.shared.is_held(partition) {
            return Ok(false);
        }
        self.answered(self.acknowledger.ask(partition)).await
    }

    fn name_of(&self, partition: u32) -> Option<TopicPartition> {
        let place = self.shared.place(partition).ok()?;
        Some(TopicPartition {
            group: self.group.clone(),
            topic: place.topic,
            partition: u32::try_from(place.partition).ok()?,
        })
    }

    fn login_failures(&self) -> u64 {
        self.tokens.as_ref().map_or(0, |tokens| tokens.failures())
    }

    fn tenant_of(&self, partition: u32) -> Option<TenantId> {
        self.shared.topics.tenant_of(partition)
    }

    async fn end_offset(&self, partition: u32) -> Result<Option<Offset>, BusError> {
        let (_, end) = self
            .ask(partition, |asker, place| asker.ends(place))
            .await?;
        let sought = self
            .shared
            .lock()
            .slots
            .get(&partition)
            .and_then(|slot| slot.sought);
        let Some(sought) = sought.filter(|sought| sought.at_end && sought.behind_last < end) else {
            return Ok(Some(end));
        };
        // Everything was read, and the topic still goes on: by the marks of transactions, by records of
        // such as were aborted, by what compaction took, or by a record that has just come. One look tells.
        if sought.empty_until < end {
            let from = sought.behind_last;
            let found = self
                .ask(partition, move |asker, place| asker.first_from(place, from))
                .await?;
            if found.is_some() {
                return Ok(Some(end));
            }
            let mut state = self.shared.lock();
            let now = state
                .slots
                .get_mut(&partition)
                .and_then(|slot| slot.sought.as_mut());
            if let Some(now) = now.filter(|now| now.behind_last == from) {
                now.empty_until = now.empty_until.max(end);
            }
        }
        Ok(Some(sought.behind_last))
    }
}

/// Has tokens kept fresh, where they are what logs in.
fn tokens(options: &KafkaOptions, io: &Handle) -> Option<Arc<Tokens>> {
    let signer = options.signer.clone()?;
    Some(Tokens::keep(options.source.clone(), signer, io))
}

fn nothing_of(group: &str, place: &Place) -> NoAnswer {
    NoAnswer::Wrong(format!(
        "group `{group}` has committed nothing of partition {} of `{}`, so that nobody knows where it has got to. \
         Correct `kafka.start_group`, or start with `earliest` or `latest`",
        place.partition, place.topic
    ))
}

fn lost_of(group: &str, place: &Place, committed: Offset, begin: Offset, end: Offset) -> NoAnswer {
    NoAnswer::Wrong(format!(
        "group `{group}` has got to offset {committed} of partition {} of `{}`, which has {begin} to {end}: records \
         that it had not read are lost. Start with `earliest` to go on with what is there",
        place.partition, place.topic
    ))
}

fn no_answer(shared: &Shared, none: NoAnswer) -> BusError {
    match none {
        NoAnswer::Away(detail) => shared.away(detail),
        NoAnswer::Wrong(detail) => shared.unreadable(detail),
    }
}

/// What is wrong with an option, as librdkafka says it. The value may be a secret and is not shown.
fn invalid(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, description, option, _) => {
            format!("librdkafka does not take the option `{option}`: {description}")
        }
        error => {
            format!("librdkafka does not start: {error}. Correct `tls`, `login` or `librdkafka`")
        }
    }
}

fn thread(
    name: &str,
    source: &SourceName,
    work: impl FnOnce() + Send + 'static,
) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name(format!("{name}-{source}"))
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map(drop)
}
