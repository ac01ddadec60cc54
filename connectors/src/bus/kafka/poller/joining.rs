//! How a member comes into its group: it waits for a broker, looks at the topics, and subscribes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use tidegate_engine::bus::BusError;

use super::super::client::{Callbacks, Client, is_refusal};
use super::{Member, Poller};

/// How long a broker may take to say who it is, before that is told.
const CLUSTER_WITHIN: Duration = Duration::from_secs(3);

/// Looks for a topic before it is missing: one that was just made is not known everywhere.
const LOOKS_FOR_TOPIC: u32 = 5;

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Poller {
    /// Waits for a broker, looks at the topics, and joins the group. `None` when it stops, or never can.
    pub(super) fn join(&self) -> Option<Member> {
        let cluster = self.cluster()?;
        let partitions = self.partitions()?;
        let callbacks = Callbacks::default();
        let config = self.options.member(partitions);
        let joined =
            config
                .create_with_context(callbacks.clone())
                .and_then(|mut client: Client| {
                    let shared = self.shared.clone();
                    client.set_nonempty_callback(move || shared.wake());
                    let topics: Vec<&str> =
                        self.options.topics.iter().map(String::as_str).collect();
                    client.subscribe(&topics).map(|()| Arc::new(client))
                });
        match joined {
            Ok(client) => {
                self.acknowledger.begin(client.clone());
                tracing::info!(source = %self.shared.source, %cluster, partitions, group = %self.options.group, "joining");
                Some(Member {
                    client,
                    callbacks,
                    cluster,
                    queues: BTreeMap::new(),
                    asked_back: None,
                    draining: BTreeSet::new(),
                })
            }
            Err(error) => {
                self.shared.fail(super::super::invalid(&error));
                None
            }
        }
    }

    fn cluster(&self) -> Option<String> {
        while !self.is_stopping() {
            let cluster = self.asker.cluster(CLUSTER_WITHIN);
            if cluster.is_some() {
                self.asker.callbacks().forget_complaint();
                return cluster;
            }
            self.asker.look();
            let brokers = self.options.brokers.join(", ");
            match self.asker.callbacks().complaint() {
                Some(complaint) if is_refusal(&complaint) => {
                    self.shared.fail(format!(
                        "the brokers {brokers} refuse us: {}. Correct `login` or `tls`, then restart this node",
                        complaint.words
                    ));
                    return None;
                }
                Some(complaint) => self.shared.trouble(format!(
                    "no broker of {brokers} answers: {}",
                    complaint.words
                )),
                None => self
                    .shared
                    .trouble(format!("no broker of {brokers} answers")),
            }
        }
        None
    }

    /// How many partitions the topics have.
    fn partitions(&self) -> Option<usize> {
        let mut all = 0;
        for topic in &self.options.topics {
            let mut looks = 0;
            loop {
                if self.is_stopping() {
                    return None;
                }
                looks += 1;
                match self.asker.partitions(topic) {
                    Ok(Some(partitions)) => {
                        all += partitions;
                        break;
                    }
                    Ok(None) if looks >= LOOKS_FOR_TOPIC => {
                        self.shared.fail(format!(
                            "there is no topic `{topic}`, or {} may not see it. Make it or correct `topics`, \
                             then restart this node",
                            self.login()
                        ));
                        return None;
                    }
                    Ok(None) => {}
                    Err(none) => match super::super::no_answer(&self.shared, none) {
                        BusError::Unavailable { detail, .. } => self.shared.trouble(detail),
                        error => {
                            self.shared.fail(error.to_string());
                            return None;
                        }
                    },
                }
                self.asker.look();
                self.wait(LOOK_AGAIN);
            }
        }
        Some(all)
    }
}
