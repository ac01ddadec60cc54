//! How a partition is read again that the client has given up: after a range was lost it fetches nothing of
//! it any more, and a seek moves only what is fetched. It has to be assigned anew.

use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use tidegate_engine::position::Offset;

use super::{Member, Poller};

/// True when a seek said that the partition is not fetched.
pub(super) fn is_given_up(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::State)
}

impl Poller {
    /// Gives a partition a queue of its own, which wakes this thread.
    pub(super) fn split(&self, member: &mut Member, number: u32, topic: &str, partition: i32) {
        if let Some(mut queue) = member.client.split_partition_queue(topic, partition) {
            let shared = self.shared.clone();
            queue.set_nonempty_callback(move || shared.wake());
            member.queues.insert(number, queue);
        }
    }

    /// Has the client begin with a partition once more, at that offset. An eager member may only assign
    /// everything: the others go on where they are.
    pub(super) fn start_anew(
        &self,
        member: &mut Member,
        number: u32,
        offset: KafkaOffset,
    ) -> KafkaResult<()> {
        let protocol = member.client.rebalance_protocol();
        let is_cooperative = matches!(protocol, RebalanceProtocol::Cooperative);
        let read_to: Vec<(u32, Option<Offset>)> = {
            let state = self.shared.lock();
            let slots = state.slots.iter();
            let own = slots.filter(|(held, _)| !is_cooperative || **held == number);
            own.map(|(held, slot)| (*held, slot.sought.map(|sought| sought.behind_last)))
                .collect()
        };
        let (mut places, mut asked) = (Vec::new(), TopicPartitionList::new());
        for (held, read_to) in read_to {
            if let Some(place) = self.shared.topics.place(held) {
                asked.add_partition(&place.topic, place.partition);
                places.push((held, place, read_to));
            }
        }
        let Some(ends) = self.ends(member, &asked) else {
            return Ok(());
        };
        // The group waits for an answer, which an assignment would be. The seek fails, and its claim comes again.
        if member.asked_back.is_some() || member.callbacks.has_rebalance() {
            return Ok(());
        }
        let (mut all, mut waiting) = (TopicPartitionList::new(), TopicPartitionList::new());
        for ((held, place, read_to), end) in places.iter().zip(ends) {
            let read_to = read_to.and_then(|at| i64::try_from(at.0).ok());
            let at = match read_to {
                _ if *held == number => offset,
                Some(at) => KafkaOffset::Offset(at),
                None => {
                    waiting.add_partition(&place.topic, place.partition);
                    end
                }
            };
            all.add_partition_offset(&place.topic, place.partition, at)?;
        }
        if is_cooperative {
            member.client.incremental_unassign(&asked)?;
            member.client.incremental_assign(&all)?;
        } else {
            member.client.assign(&all)?;
        }
        for (held, place, _) in places {
            self.split(member, held, &place.topic, place.partition);
        }
        member.client.pause(&waiting)
    }
}
