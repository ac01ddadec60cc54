//! The thread of a source that polls: it joins the group once a broker answers, answers what the group
//! asks for, and copies records out of the partitions' queues as far as there is room for them. It never
//! waits for the node, so that the group never misses its member; a partition without room is only not
//! read, and pauses nothing that was fetched.

mod joining;
mod starting;
mod taking_up;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_engine::bus::BusError;
use tidegate_engine::position::{Incarnation, Offset};
use tidegate_engine::store::StateStore;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::acknowledger::Acknowledger;
use super::asker::Asker;
use super::client::{Callbacks, Client, Rebalance};
use super::copied::copied;
use super::options::KafkaOptions;
use super::state::Shared;
use super::tokens::Tokens;
use starting::is_given_up;

/// How long it waits for a wake-up. librdkafka wakes it for news; this is for what wakes nobody.
const TICK: Duration = Duration::from_millis(50);

/// Turns at a seek, [`TICK`] apart, while a partition that was just assigned is not fetched yet.
const SEEK_TURNS: u32 = 40;

/// After so many of them it will not be fetched by itself any more.
const GIVEN_UP_TURNS: u32 = 10;

/// How long one turn may take.
const SEEK_WITHIN: Duration = Duration::from_secs(5);

/// What the bus wants of it.
pub(super) enum Command {
    /// Read a partition from there.
    Seek {
        partition: u32,
        offset: Offset,
        done: oneshot::Sender<Result<(), BusError>>,
    },
    /// Give a partition back.
    Release {
        partition: u32,
        done: oneshot::Sender<Result<(), BusError>>,
    },
}

pub(super) struct Poller {
    pub options: KafkaOptions,
    pub shared: Arc<Shared>,
    pub asker: Arc<Asker>,
    pub acknowledger: Arc<Acknowledger>,
    pub commands: Receiver<Command>,
    pub wakes: Receiver<()>,
    /// Where topics are kept.
    pub store: Arc<dyn StateStore>,
    pub io: Handle,
    pub tokens: Option<Arc<Tokens>>,
}

/// The member of the group, once it has joined.
struct Member {
    client: Arc<Client>,
    callbacks: Callbacks,
    cluster: String,
    queues: BTreeMap<u32, PartitionQueue<Callbacks>>,
    /// What the group asked back, until it is all released.
    asked_back: Option<TopicPartitionList>,
    draining: BTreeSet<u32>,
    /// What the group first gives it may be from before its topics grew.
    is_behind_growth: bool,
}

impl Poller {
    /// The thread: until the bus is dropped, or can never be read.
    pub(super) fn run(self) {
        let running = std::panic::AssertUnwindSafe(|| {
            if let Some(mut member) = self.join() {
                self.poll(&mut member);
                member.callbacks.close();
            }
        });
        if std::panic::catch_unwind(running).is_err() {
            self.shared
                .fail("its polling thread panicked. Nothing is lost; restart this node".to_owned());
        }
        self.acknowledger.stop();
    }

    fn is_stopping(&self) -> bool {
        self.shared.lock().stopping
    }

    fn wait(&self, within: Duration) {
        let _ = self.wakes.recv_timeout(within);
    }

    // --- polling --------------------------------------------------------------------------------

    fn poll(&self, member: &mut Member) {
        while !self.is_stopping() {
            self.listen(member);
            if let Some((code, words)) = member.client.client().fatal_error() {
                self.lose_all(member);
                self.shared.fail(self.fatal(code, &words));
                return;
            }
            while let Some(rebalance) = member.callbacks.next_rebalance() {
                match rebalance {
                    Rebalance::Assign(partitions) => {
                        self.assign(member, &partitions);
                        if std::mem::take(&mut member.is_behind_growth) {
                            self.join_anew(member);
                        }
                    }
                    Rebalance::Revoke(partitions) => self.revoke(member, &partitions),
                }
            }
            if member.asked_back.is_some() && member.client.assignment_lost() {
                self.lose_all(member);
            }
            while let Ok(command) = self.commands.try_recv() {
                self.obey(member, command);
            }
            self.copy_out(member);
            self.asker.look();
            self.wait(TICK);
        }
    }

    /// What the group and the brokers have to say.
    fn listen(&self, member: &Member) {
        // A bound, so that a flood of errors stops nothing else.
        let mut left = 0..64;
        while left.next().is_some() {
            match member.client.poll(Duration::ZERO) {
                None => return,
                // Every partition has a queue of its own; what was fetched for another one is over.
                Some(Ok(_)) => {}
                Some(Err(error)) => self.take_error(member, &error),
            }
        }
    }

    fn take_error(&self, member: &Member, error: &KafkaError) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        let words = match member.callbacks.complaint() {
            Some(complaint) => complaint.words,
            None => error.to_string(),
        };
        match code {
            RDKafkaErrorCode::PartitionEOF => {}
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed => {
                self.shared.fail(format!(
                    "{} may not read it: {words}. Grant it READ on the topics and on group `{}`, then \
                     restart this node",
                    self.options.who(),
                    self.options.group
                ));
            }
            RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::SSL
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic => self.shared.trouble(words),
            // A single connection: librdkafka makes it anew, and says when no broker is left.
            _ => tracing::debug!(source = %self.shared.source, ?code, "{words}"),
        }
    }

    fn fatal(&self, code: RDKafkaErrorCode, words: &str) -> String {
        if code == RDKafkaErrorCode::FencedInstanceId {
            return format!(
                "another member of group `{}` has the name `{}`: two nodes have the same `node.name`, or this one \
                 was replaced while it stood still. Give each node a name of its own, then restart this one",
                self.options.group,
                self.options.instance()
            );
        }
        format!("its client ended: {words}. Restart this node")
    }

    /// Copies records out as far as there is room.
    fn copy_out(&self, member: &mut Member) {
        let mut lost = Vec::new();
        for (number, queue) in &member.queues {
            let (mut events, mut bytes) = self.shared.room(*number);
            let (mut deliveries, mut at_end) = (Vec::new(), false);
            while events > 0 && bytes > 0 {
                match queue.poll(Duration::ZERO) {
                    None => break,
                    Some(Ok(message)) => {
                        let delivery = copied(&message, self.options.record_headers);
                        at_end = false;
                        events -= 1;
                        bytes =
                            bytes.saturating_sub(delivery.payload.len() + delivery.headers.bytes());
                        deliveries.push(delivery);
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => at_end = true,
                    Some(Err(error)) => match error.rdkafka_error_code() {
                        Some(
                            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                        ) => {
                            lost.push(*number);
                            break;
                        }
                        _ => self.take_error(member, &error),
                    },
                }
            }
            if at_end || !deliveries.is_empty() {
                self.shared.push(*number, deliveries, at_end);
            }
        }
        for number in lost {
            self.lose_range(member, number);
        }
    }

    /// What was to be read next is gone. It is assigned anew, so that its claim looks at the source: that
    /// stops this partition with an alarm, and no other.
    fn lose_range(&self, member: &Member, number: u32) {
        let is_read = {
            let state = self.shared.lock();
            let slot = state.slots.get(&number);
            slot.is_some_and(|slot| slot.sought.is_some())
        };
        if !is_read {
            return;
        }
        tracing::error!(source = %self.shared.source, partition = number, "the broker does not have what was to be read next: records are lost, or it is another topic of that name");
        self.shared.lost(number);
        self.tell_assigned(member, &[number]);
    }

    // --- assignments ----------------------------------------------------------------------------

    fn assign(&self, member: &mut Member, partitions: &TopicPartitionList) {
        if !self.know(member, partitions) {
            return;
        }
        let Some(ends) = self.ends(member, partitions) else {
            return;
        };
        // At the end and paused: nothing of it is fetched before its claim says from where.
        let mut list = TopicPartitionList::new();
        let mut numbers = Vec::new();
        for (element, end) in partitions.elements().iter().zip(ends) {
            let (topic, partition) = (element.topic(), element.partition());
            let Some(number) = self.shared.topics.number(topic, partition) else {
                tracing::error!(source = %self.shared.source, topic, partition, "a partition is not read: its topic is none of this source, or is nobody's");
                continue;
            };
            self.split(member, number, topic, partition);
            if list.add_partition_offset(topic, partition, end).is_ok() {
                numbers.push(number);
            }
        }
        let assigned = match member.client.rebalance_protocol() {
            RebalanceProtocol::Cooperative => member.client.incremental_assign(&list),
            _ => member.client.assign(&list),
        };
        if let Err(error) = assigned.and_then(|()| member.client.pause(&list)) {
            self.shared
                .trouble(format!("what the group assigned was not taken: {error}"));
            return;
        }
        self.tell_assigned(member, &numbers);
    }

    /// Where partitions end, each as a number. An assignment by the word `End` has librdkafka look that up for
    /// itself, and where a seek comes before the answer, it looks it up again half a second later and goes
    /// there: whatever lies between is skipped. `None` when the source ends.
    fn ends(&self, member: &Member, partitions: &TopicPartitionList) -> Option<Vec<KafkaOffset>> {
        let elements = partitions.elements();
        let places: Vec<(String, i32)> = elements
            .iter()
            .map(|it| (it.topic().to_owned(), it.partition()))
            .collect();
        while !self.is_stopping() && !places.is_empty() {
            match self.asker.latest(&places) {
                Ok(ends) => return Some(ends),
                Err(none) => match super::no_answer(&self.shared, none) {
                    BusError::Unavailable { detail, .. } => self.shared.trouble(detail),
                    error => {
                        self.shared.fail(error.to_string());
                        return None;
                    }
                },
            }
            self.listen(member);
            self.wait(TICK);
        }
        places.is_empty().then(Vec::new)
    }

    fn tell_assigned(&self, member: &Member, numbers: &[u32]) {
        let named = numbers.iter().map(|number| {
            let topic = self.shared.place(*number).ok()?.topic;
            let incarnation = Incarnation::new(&format!("{}/{topic}", member.cluster)).ok()?;
            Some((*number, incarnation))
        });
        match named.collect() {
            Some(assigned) => self.shared.assigned(assigned),
            None => self.shared.fail(format!(
                "the cluster's id `{}` is no text that can be kept",
                member.cluster
            )),
        }
    }

    fn revoke(&self, member: &mut Member, partitions: &TopicPartitionList) {
        if member.client.assignment_lost() {
            return self.lose_all(member);
        }
        let _ = member.client.pause(partitions);
        // Without those that were never taken: what is not held cannot be given back.
        let mut held = TopicPartitionList::new();
        for element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let Some(number) = self.shared.topics.number(topic, partition) else {
                continue;
            };
            held.add_partition(topic, partition);
            member.queues.remove(&number);
            if self.shared.revoked(number) {
                member.draining.insert(number);
            }
        }
        member.asked_back = Some(held);
        self.give_back(member);
    }

    /// Answers the group once nothing is left to be drained.
    fn give_back(&self, member: &mut Member) {
        if !member.draining.is_empty() {
            return;
        }
        let Some(partitions) = member.asked_back.take() else {
            return;
        };
        if let Err(error) = unassign(&member.client, &partitions) {
            tracing::warn!(source = %self.shared.source, %error, "what the group asked back was not given back");
        }
    }

    /// The group has given everything to others.
    fn lose_all(&self, member: &mut Member) {
        member.draining.clear();
        member.asked_back = None;
        member.queues.clear();
        let held: Vec<u32> = self.shared.lock().slots.keys().copied().collect();
        for number in held {
            self.shared.lost(number);
        }
        let _ = member.client.unassign();
    }

    // --- commands -------------------------------------------------------------------------------

    fn obey(&self, member: &mut Member, command: Command) {
        match command {
            Command::Seek {
                partition,
                offset,
                done,
            } => drop(done.send(self.seek(member, partition, offset))),
            Command::Release { partition, done } => {
                drop(done.send(self.release(member, partition)));
            }
        }
    }

    fn seek(&self, member: &mut Member, number: u32, offset: Offset) -> Result<(), BusError> {
        if !self.shared.is_held(number) || !member.queues.contains_key(&number) {
            return Err(self.shared.not_assigned(number));
        }
        let place = self.shared.place(number)?;
        let raw = i64::try_from(offset.0).map_err(|_| {
            self.shared
                .unreadable(format!("offset {offset} is beyond what Kafka counts"))
        })?;
        let list = || -> KafkaResult<TopicPartitionList> {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&place.topic, place.partition, KafkaOffset::Offset(raw))?;
            Ok(list)
        };
        let away = |error: &KafkaError| {
            self.shared.away(format!(
                "partition {number} cannot be read from {offset}: {error}"
            ))
        };
        let mut turns = 0;
        loop {
            turns += 1;
            let sought = list()
                .and_then(|list| member.client.seek_partitions(list, SEEK_WITHIN))
                .and_then(|list| list.elements().iter().try_for_each(|it| it.error()));
            match sought {
                Ok(()) => break,
                Err(error) if turns >= SEEK_TURNS => return Err(away(&error)),
                Err(error) if turns == GIVEN_UP_TURNS && is_given_up(&error) => {
                    let at = KafkaOffset::Offset(raw);
                    let begun = self.start_anew(member, number, at);
                    begun.map_err(|error| away(&error))?;
                }
                Err(_) => self.wait(TICK),
            }
        }
        self.shared.sought(number, offset)?;
        list()
            .and_then(|list| member.client.resume(&list))
            .map_err(|error| away(&error))
    }

    fn release(&self, member: &mut Member, number: u32) -> Result<(), BusError> {
        self.shared.released(number)?;
        member.queues.remove(&number);
        if member.draining.remove(&number) {
            self.give_back(member);
        } else if let Ok(place) = self.shared.place(number) {
            // Nobody asked for it: it stays with the group's member, which does not read it.
            let mut list = TopicPartitionList::new();
            list.add_partition(&place.topic, place.partition);
            let _ = member.client.pause(&list);
        }
        Ok(())
    }
}

fn unassign(client: &Client, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_unassign(partitions),
        _ => client.unassign(),
    }
}
