//! How a member comes into its group: it waits for a broker, looks at the topics, and subscribes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use tidegate_engine::bus::BusError;
use tidegate_engine::topics::{FoundTopic, SourceTopic};

use super::super::client::{Callbacks, Client, is_refusal};
use super::super::topics::NotFound;
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
        let Found {
            partitions,
            has_grown,
        } = self.topics()?;
        let callbacks = Callbacks::new(self.tokens.clone());
        let config = self.options.member(partitions);
        let joined =
            config
                .create_with_context(callbacks.clone())
                .and_then(|mut client: Client| {
                    let shared = self.shared.clone();
                    client.set_nonempty_callback(move || shared.wake());
                    let asked = self.options.subscription();
                    let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
                    client.subscribe(&asked).map(|()| Arc::new(client))
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
                    is_behind_growth: has_grown,
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
            if let Some(why) = self.asker.callbacks().lacks_token() {
                self.shared.trouble(why);
                self.wait(LOOK_AGAIN);
                continue;
            }
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
                        "the brokers {brokers} refuse {}: {}. Correct `login` or `tls`, then restart this node",
                        self.options.who(),
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

    /// Has all nodes know of the topics, and looks whether those were fewer or smaller when a node last joined.
    fn topics(&self) -> Option<Found> {
        let before = self.ask_store(Vec::new(), None)?;
        let mut found = self.find()?;
        let partitions = found.iter().map(|topic| topic.partitions as usize).sum();
        let has_grown = leave_growth(&mut found, &before);
        self.take_up(found, None)?;
        Some(Found {
            partitions,
            has_grown,
        })
    }

    /// The topics, once all are there that are named.
    fn find(&self) -> Option<Vec<FoundTopic>> {
        let mut looks = 0;
        while !self.is_stopping() {
            looks += 1;
            match self.shared.topics.find(&self.asker) {
                Ok(found) => return Some(found),
                Err(NotFound::Missing(topic)) if looks >= LOOKS_FOR_TOPIC => {
                    self.shared.fail(format!(
                        "there is no topic `{topic}`, or {} may not see it. Make it or correct `topics`, then restart \
                         this node",
                        self.options.who()
                    ));
                    return None;
                }
                Err(NotFound::Missing(_)) => {}
                Err(NotFound::NoAnswer(none)) => {
                    match super::super::no_answer(&self.shared, none) {
                        BusError::Unavailable { detail, .. } => self.shared.trouble(detail),
                        error => {
                            self.shared.fail(error.to_string());
                            return None;
                        }
                    }
                }
            }
            self.asker.look();
            self.wait(LOOK_AGAIN);
        }
        None
    }

    /// Leaves the group and joins it anew. A member that comes back under its name has what it had, and what
    /// was added meanwhile nobody has: the group deals out only when somebody comes, goes, or sees a change.
    pub(super) fn join_anew(&self, member: &mut Member) {
        tracing::info!(source = %self.shared.source, "its topics have grown since a node last joined; having them dealt out anew");
        let asked = self.options.subscription();
        let asked: Vec<&str> = asked.iter().map(String::as_str).collect();
        member.client.unsubscribe();
        if let Err(error) = member.client.subscribe(&asked) {
            self.shared
                .trouble(format!("the group is not joined anew: {error}"));
        }
    }
}

/// What was found of the topics before joining.
struct Found {
    partitions: usize,
    has_grown: bool,
}

/// Leaves of what was found only what is known already, and says whether that was all. What grew or is new is
/// taken up as it is assigned: were it known before, and this node gone, nobody would have it dealt out.
fn leave_growth(found: &mut Vec<FoundTopic>, known: &[SourceTopic]) -> bool {
    // Before the first start nobody has been dealt anything.
    if known.is_empty() {
        return false;
    }
    let mut has_grown = false;
    found.retain_mut(|topic| {
        let kept = known.iter().find(|it| it.name == topic.name);
        has_grown |= kept.is_none_or(|kept| !kept.knows(topic.partitions));
        let Some(kept) = kept else { return false };
        let highest = kept.partitions.last().copied().unwrap_or(0);
        topic.partitions = topic.partitions.min(highest);
        true
    });
    has_grown
}

#[cfg(test)]
mod tests {
    use super::{FoundTopic, SourceTopic, leave_growth};

    #[test]
    fn what_grew_or_is_new_waits_until_it_is_assigned() {
        let found = |topics: &[(&str, u32)]| -> Vec<FoundTopic> {
            let topics = topics.iter().map(|(name, partitions)| FoundTopic {
                name: (*name).to_owned(),
                partitions: *partitions,
                by_pattern: true,
            });
            topics.collect()
        };
        let known = [SourceTopic {
            name: "orders".to_owned(),
            number: 0,
            partitions: vec![2, 3],
            came_later: false,
        }];
        for (now, kept, grew) in [
            (found(&[("orders", 3)]), found(&[("orders", 3)]), false),
            (found(&[("orders", 5)]), found(&[("orders", 3)]), true),
            (found(&[("orders", 1)]), found(&[("orders", 1)]), false),
            (
                found(&[("orders", 3), ("bills", 1)]),
                found(&[("orders", 3)]),
                true,
            ),
        ] {
            let mut left = now.clone();
            assert_eq!(leave_growth(&mut left, &known), grew, "{now:?}");
            assert_eq!(left, kept, "{now:?}");
            left.clone_from(&now);
            assert!(!leave_growth(&mut left, &[]), "the first start");
            assert_eq!(left, now);
        }
    }
}
