//! The topics of a source as all its nodes know them: which number each has, and how often it got more
//! partitions. Pure; where that is kept is the store's ([`StateStore::source_topics`]).
//!
//! A number once given stays, whatever order a configuration lists topics in. Of partitions, those that came
//! later are read behind those that were there before: keys moved when the topic grew, and what was written
//! of a key before that stands in an older partition.
//!
//! [`StateStore::source_topics`]: crate::store::StateStore::source_topics

use std::ops::Range;

use crate::position::SourceName;
use crate::store::StoreError;
use crate::tenant::TenantId;

/// Topics of one source: a partition's number has 16 bits for its topic.
pub const TOPIC_NUMBERS: u32 = 1 << 16;

/// Said of more topics than there are numbers: the code that SQL has for it.
const CODE_TOO_MANY: &str = "54000";

/// What stands for a tenant's name in the name of its topic.
const PLACE: &str = "{tenant}";

/// How a topic's name says whose it is: `orders.{tenant}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TenantOfTopic {
    before: String,
    after: String,
}

impl TenantOfTopic {
    /// Refuses a pattern that has not `{tenant}` once with something in front of it: whoever may make a topic
    /// could else name any tenant's.
    pub fn new(pattern: &str) -> Result<Self, String> {
        match pattern.split_once(PLACE) {
            Some((before, after)) if !before.is_empty() && !after.contains(PLACE) => Ok(Self {
                before: before.to_owned(),
                after: after.to_owned(),
            }),
            _ => Err(format!(
                "expected `{PLACE}` once and something in front of it, like `orders.{PLACE}`"
            )),
        }
    }

    /// The tenant of a topic, or what is wrong with its name.
    pub fn tenant(&self, topic: &str) -> Result<TenantId, String> {
        let name = topic
            .strip_prefix(self.before.as_str())
            .and_then(|rest| rest.strip_suffix(self.after.as_str()));
        let name = name.ok_or_else(|| {
            let (before, after) = (&self.before, &self.after);
            format!("expected a topic like `{before}{PLACE}{after}`, found `{topic}`")
        })?;
        let tenant = TenantId::new(name)
            .map_err(|error| format!("the tenant of `{topic}` would be `{name}`: {error}"))?;
        if tenant.is_unassigned() {
            return Err(format!(
                "the tenant of `{topic}` would be `{tenant}`, which is reserved"
            ));
        }
        Ok(tenant)
    }
}

/// A topic as a broker shows it now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundTopic {
    /// Its name.
    pub name: String,
    /// Its partitions, of now.
    pub partitions: u32,
    /// No configuration names it: it fits a pattern of one.
    pub by_pattern: bool,
}

/// Topics that a node of a source has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicsFound {
    /// The source.
    pub source: SourceName,
    /// What was found. Those that are new get their numbers in this order.
    pub topics: Vec<FoundTopic>,
}

/// A topic of a source, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceTopic {
    /// Its name.
    pub name: String,
    /// Its number in the source.
    pub number: u32,
    /// How many partitions it had each time that it was found with more, ascending; the first is what it
    /// had when it was found.
    pub partitions: Vec<u32>,
    /// It came under a pattern when its source had topics already. Then all of it is younger than that,
    /// and is read from its beginning.
    pub came_later: bool,
}

impl SourceTopic {
    /// The partitions that are read before this one, as far as they went when it came.
    pub fn before(&self, partition: u32) -> Range<u32> {
        let until = self.partitions.iter().rev().find(|had| **had <= partition);
        0..until.copied().unwrap_or(0)
    }

    /// True when all of a partition is younger than the moment at which its source was first read.
    pub fn is_younger(&self, partition: u32) -> bool {
        self.came_later || !self.before(partition).is_empty()
    }

    /// True when it is known that there are so many.
    pub fn knows(&self, partitions: u32) -> bool {
        self.partitions.last().is_some_and(|had| partitions <= *had)
    }
}

/// Takes up what was found among the topics of its source: new ones, and how far others have grown; nothing
/// of it when there are not numbers enough. A topic that lost partitions was deleted and made anew, which
/// its partitions' claims find out.
pub fn take_up(known: &mut Vec<SourceTopic>, found: &[FoundTopic]) -> Result<(), StoreError> {
    let is_new = |topic: &&FoundTopic| !known.iter().any(|it| it.name == topic.name);
    let added = found.iter().filter(is_new).count();
    let mut next = known.iter().map(|it| it.number + 1).max().unwrap_or(0);
    if u32::try_from(added).map_or(true, |added| TOPIC_NUMBERS - next < added) {
        return Err(StoreError::Refused {
            code: CODE_TOO_MANY.to_owned(),
            detail: format!("the source has more than {TOPIC_NUMBERS} topics"),
        });
    }
    let had_topics = !known.is_empty();
    for topic in found {
        match known.iter_mut().find(|it| it.name == topic.name) {
            None => {
                known.push(SourceTopic {
                    name: topic.name.clone(),
                    number: next,
                    partitions: vec![topic.partitions],
                    came_later: topic.by_pattern && had_topics,
                });
                next += 1;
            }
            Some(kept) if !kept.knows(topic.partitions) => kept.partitions.push(topic.partitions),
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, partitions: u32) -> FoundTopic {
        FoundTopic {
            name: name.to_owned(),
            partitions,
            by_pattern: false,
        }
    }

    #[test]
    fn a_number_stays_whatever_is_listed_later() {
        let mut known = Vec::new();
        take_up(&mut known, &[found("b", 4), found("a", 2)]).unwrap();
        take_up(&mut known, &[found("c", 1), found("a", 2)]).unwrap();
        let named: Vec<_> = known
            .iter()
            .map(|it| (it.name.as_str(), it.number))
            .collect();
        assert_eq!(named, [("b", 0), ("a", 1), ("c", 2)]);
        assert!(known.iter().all(|it| !it.came_later));
    }

    #[test]
    fn a_partition_goes_behind_all_that_its_topic_had_before_it() {
        let mut known = Vec::new();
        for partitions in [4, 4, 6, 5, 8] {
            take_up(&mut known, &[found("orders", partitions)]).unwrap();
        }
        assert_eq!(known[0].partitions, [4, 6, 8]);
        let before: Vec<u32> = (0..9).map(|it| known[0].before(it).end).collect();
        assert_eq!(before, [0, 0, 0, 0, 4, 4, 6, 6, 8]);
        assert!(known[0].is_younger(4) && !known[0].is_younger(3));
    }

    #[test]
    fn a_topic_that_comes_under_a_pattern_is_read_whole() {
        let by_pattern = |name: &str| FoundTopic {
            by_pattern: true,
            ..found(name, 1)
        };
        let mut known = Vec::new();
        take_up(&mut known, &[by_pattern("orders.acme")]).unwrap();
        let both = [by_pattern("orders.acme"), by_pattern("orders.bolt")];
        take_up(&mut known, &both).unwrap();
        let later: Vec<bool> = known.iter().map(|it| it.is_younger(0)).collect();
        assert_eq!(later, [false, true]);
    }

    #[test]
    fn there_are_only_so_many_numbers() {
        let all: Vec<_> = (0..TOPIC_NUMBERS)
            .map(|it| found(&it.to_string(), 1))
            .collect();
        let mut known = Vec::new();
        take_up(&mut known, &all).unwrap();
        let before = known.clone();
        take_up(&mut known, &[found("one more", 1), found("0", 2)]).unwrap_err();
        assert_eq!(known, before);
    }
}
