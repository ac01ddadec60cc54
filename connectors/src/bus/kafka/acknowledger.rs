//! The thread that tells the broker how far everything is settled, and asks it whether a partition is
//! still ours. rdkafka reports only commits that are waited for, and the polling thread waits for nothing.
//! Of each partition only the newest is told: what waits is bounded by the partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_engine::bus::BusError;
use tidegate_engine::position::Offset;
use tokio::sync::oneshot;

use super::asker::Asker;
use super::client::Client;
use super::state::Shared;
use super::topics::Place;

/// How long the broker may take to say what a group has committed.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Who waits for an answer.
type Waiting<T> = oneshot::Sender<Result<T, BusError>>;

pub(super) struct Acknowledger {
    shared: Arc<Shared>,
    asker: Arc<Asker>,
    work: Mutex<Work>,
    more: Condvar,
}

#[derive(Default)]
struct Work {
    /// The member of the group, while there is one.
    member: Option<Arc<Client>>,
    tells: BTreeMap<u32, Tell>,
    asks: BTreeMap<u32, Vec<Waiting<bool>>>,
    stopping: bool,
}

struct Tell {
    offset: Offset,
    waiting: Vec<Waiting<()>>,
}

impl Acknowledger {
    pub(super) fn new(shared: Arc<Shared>, asker: Arc<Asker>) -> Self {
        Self {
            shared,
            asker,
            work: Mutex::default(),
            more: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it speaks for this member.
    pub(super) fn begin(&self, member: Arc<Client>) {
        self.lock().member = Some(member);
    }

    /// Tells what is waiting, and ends.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.more.notify_one();
    }

    /// Tells how far a partition is settled. The newest word stands, also one that goes back.
    pub(super) fn tell(
        &self,
        partition: u32,
        offset: Offset,
    ) -> oneshot::Receiver<Result<(), BusError>> {
        let (done, answer) = oneshot::channel();
        let mut work = self.lock();
        let tell = work.tells.entry(partition).or_insert_with(|| Tell {
            offset,
            waiting: Vec::new(),
        });
        tell.offset = offset;
        // Who no longer waits is no reason to keep a place.
        tell.waiting.retain(|waiting| !waiting.is_closed());
        tell.waiting.push(done);
        drop(work);
        self.more.notify_one();
        answer
    }

    /// Asks the broker whether the member still has a partition.
    pub(super) fn ask(&self, partition: u32) -> oneshot::Receiver<Result<bool, BusError>> {
        let (done, answer) = oneshot::channel();
        let mut work = self.lock();
        let waiting = work.asks.entry(partition).or_default();
        waiting.retain(|waiting| !waiting.is_closed());
        waiting.push(done);
        drop(work);
        self.more.notify_one();
        answer
    }

    /// The thread: until it is told to stop.
    pub(super) fn run(&self) {
        loop {
            let mut work = self.lock();
            while work.tells.is_empty() && work.asks.is_empty() && !work.stopping {
                work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner);
            }
            let member = work.member.clone();
            let (tells, asks) = (
                std::mem::take(&mut work.tells),
                std::mem::take(&mut work.asks),
            );
            let is_last = work.stopping;
            if is_last {
                work.member = None;
            }
            drop(work);
            match &member {
                Some(member) => {
                    self.tell_all(member, tells);
                    for (partition, waiting) in asks {
                        let answer = self.is_ours(member, partition);
                        for waiting in waiting {
                            let _ = waiting.send(answer.clone());
                        }
                    }
                }
                // Dropped: whoever waits hears that the source has ended, or has not begun.
                None => drop((tells, asks)),
            }
            if is_last {
                return;
            }
        }
    }

    fn tell_all(&self, member: &Client, tells: BTreeMap<u32, Tell>) {
        if tells.is_empty() {
            return;
        }
        let offsets = tells
            .iter()
            .map(|(partition, tell)| (*partition, tell.offset));
        let answer = self.commit(member, offsets);
        if let Err(error) = &answer {
            tracing::debug!(source = %self.shared.source, %error, "the broker was not told");
        }
        for (partition, tell) in tells {
            if answer.is_ok()
                && let Some(slot) = self.shared.lock().slots.get_mut(&partition)
            {
                slot.acknowledged = Some(tell.offset);
            }
            for waiting in tell.waiting {
                let _ = waiting.send(answer.clone());
            }
        }
    }

    /// A commit that changes nothing: the broker takes it from a member of this generation alone.
    fn is_ours(&self, member: &Client, partition: u32) -> Result<bool, BusError> {
        let known = match self.shared.lock().slots.get(&partition) {
            Some(slot) => slot.acknowledged,
            None => return Ok(false),
        };
        let offset = match known {
            Some(offset) => offset,
            None => self.committed(member, partition)?,
        };
        match self.commit(member, [(partition, offset)].into_iter()) {
            Ok(()) => Ok(self.shared.is_held(partition)),
            Err(BusError::NotAssigned { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the group has of a partition; its beginning when it has nothing, for nothing is done of it.
    fn committed(&self, member: &Client, partition: u32) -> Result<Offset, BusError> {
        let place = self.shared.place(partition)?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition(&place.topic, place.partition);
        let found = member
            .committed_offsets(asked, ANSWER_WITHIN)
            .map_err(|error| self.shared.away(error.to_string()))?;
        let found = found.find_partition(&place.topic, place.partition);
        if let Some(KafkaOffset::Offset(raw)) = found.map(|found| found.offset())
            && let Ok(raw) = u64::try_from(raw)
        {
            return Ok(Offset(raw));
        }
        let (begin, _) = self
            .asker
            .ends(&place)
            .map_err(|none| super::no_answer(&self.shared, none))?;
        Ok(begin)
    }

    fn commit(
        &self,
        member: &Client,
        offsets: impl Iterator<Item = (u32, Offset)>,
    ) -> Result<(), BusError> {
        let mut list = TopicPartitionList::new();
        let mut first = None;
        for (partition, offset) in offsets {
            let Place {
                topic,
                partition: number,
            } = self.shared.place(partition)?;
            let raw = i64::try_from(offset.0).unwrap_or(i64::MAX);
            list.add_partition_offset(&topic, number, KafkaOffset::Offset(raw))
                .map_err(|error| self.shared.unreadable(error.to_string()))?;
            first = first.or(Some(partition));
        }
        match member.commit(&list, CommitMode::Sync) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.not_told(first.unwrap_or_default(), &error)),
        }
    }

    fn not_told(&self, partition: u32, error: &KafkaError) -> BusError {
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::AssignmentLost
                | RDKafkaErrorCode::Fatal,
            ) => self.shared.not_assigned(partition),
            _ => self
                .shared
                .away(format!("the broker takes no commit: {error}")),
        }
    }
}
