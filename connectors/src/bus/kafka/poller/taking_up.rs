//! How topics come into the store, and with that to all nodes: before the group is joined, and when it
//! assigns what was not known, a topic that came under a pattern or a partition that was added.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use rdkafka::topic_partition_list::TopicPartitionList;
use tidegate_engine::bus::BusError;
use tidegate_engine::error::ErrorKind;
use tidegate_engine::store::StoreError;
use tidegate_engine::topics::{FoundTopic, SourceTopic, TopicsFound};

use super::{Member, Poller, TICK};

/// Between two questions of a store that is away.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Poller {
    /// Has all nodes know of topics. Waits for the store; `None` when the source ends meanwhile. The member,
    /// where there is one, goes on telling its group that it lives.
    pub(super) fn take_up(&self, found: Vec<FoundTopic>, member: Option<&Member>) -> Option<()> {
        let known = self.ask_store(found, member)?;
        self.shared.topics.learn(known);
        Some(())
    }

    /// The topics that all nodes know, with those that were found.
    pub(super) fn ask_store(
        &self,
        found: Vec<FoundTopic>,
        member: Option<&Member>,
    ) -> Option<Vec<SourceTopic>> {
        let found = TopicsFound {
            source: self.shared.source.clone(),
            topics: found,
        };
        while !self.is_stopping() {
            match self.ask_once(&found, member)? {
                Ok(known) => return Some(known),
                Err(error) if error.kind() == ErrorKind::Transient => {
                    self.shared
                        .trouble(format!("its topics are not kept yet: {error}"));
                }
                Err(error) => {
                    self.shared
                        .fail(format!("its topics are not kept: {error}"));
                    return None;
                }
            }
            self.wait(ASK_AGAIN);
        }
        None
    }

    /// One answer of the store.
    fn ask_once(
        &self,
        found: &TopicsFound,
        member: Option<&Member>,
    ) -> Option<Result<Vec<SourceTopic>, StoreError>> {
        let (told, answer) = sync_channel(1);
        let (store, found) = (self.store.clone(), found.clone());
        self.io.spawn(async move {
            let _ = told.send(store.source_topics(found).await);
        });
        while !self.is_stopping() {
            match answer.recv_timeout(TICK) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) => {}
                // The runtime ends, and the node with it.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if let Some(member) = member {
                self.listen(member);
            }
        }
        None
    }

    /// Has all nodes know of what is assigned; false when the source ends meanwhile.
    pub(super) fn know(&self, member: &Member, partitions: &TopicPartitionList) -> bool {
        let mut unknown: BTreeMap<String, i32> = BTreeMap::new();
        for element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            if !self.shared.topics.knows(topic, partition) {
                let highest = unknown.entry(topic.to_owned()).or_default();
                *highest = partition.max(*highest);
            }
        }
        if unknown.is_empty() {
            return true;
        }
        let mut found = Vec::new();
        for (topic, partition) in unknown {
            loop {
                if self.is_stopping() {
                    return false;
                }
                match self.shared.topics.find_one(&self.asker, &topic, partition) {
                    Ok(topic) => break found.extend(topic),
                    Err(none) => match super::super::no_answer(&self.shared, none) {
                        BusError::Unavailable { detail, .. } => self.shared.trouble(detail),
                        error => {
                            self.shared.fail(error.to_string());
                            return false;
                        }
                    },
                }
                self.listen(member);
                self.wait(TICK);
            }
        }
        let names: Vec<&str> = found.iter().map(|it| it.name.as_str()).collect();
        tracing::info!(source = %self.shared.source, topics = ?names, "topics are new, or have more partitions");
        self.take_up(found, Some(member)).is_some()
    }
}
