//! The topics of a source: which there are, what numbers their partitions have, and whose they are. The
//! numbers are the store's to give, so that all nodes have the same; what was told of them is kept here.

use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use tidegate_engine::tenant::TenantId;
use tidegate_engine::topics::{FoundTopic, SourceTopic, TOPIC_NUMBERS, TenantOfTopic};

use super::KafkaOptions;
use super::asker::{Asker, NoAnswer};
use super::options::{covers, prefix};

/// Bits of a source partition's number that are the topic's partition. The others are the topic's number.
const PARTITION_BITS: u32 = 16;

/// A partition of one of the source's topics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub topic: String,
    pub partition: i32,
}

/// A topic of the source, and whose it is where topics are somebody's.
#[derive(Clone)]
struct Topic {
    kept: SourceTopic,
    tenant: Option<TenantId>,
}

/// The topics of a source.
pub(super) struct Topics {
    /// As they are configured: names, and what names begin with.
    listed: Vec<String>,
    tenant_of_topic: Option<TenantOfTopic>,
    /// Those that are known to all nodes.
    known: RwLock<Vec<Topic>>,
}

/// Why topics were not found.
pub(super) enum NotFound {
    /// There is none of that name.
    Missing(String),
    NoAnswer(NoAnswer),
}

impl From<NoAnswer> for NotFound {
    fn from(none: NoAnswer) -> Self {
        Self::NoAnswer(none)
    }
}

impl Topics {
    pub(super) fn new(options: &KafkaOptions) -> Self {
        Self {
            listed: options.topics.clone(),
            tenant_of_topic: options.tenant_of_topic.clone(),
            known: RwLock::default(),
        }
    }

    /// The topics of now that the source reads: those that are named, then those that fit a pattern, by
    /// name. One whose tenant cannot be told is left out.
    pub(super) fn find(&self, asker: &Asker) -> Result<Vec<FoundTopic>, NotFound> {
        let mut found = Vec::new();
        for name in self.listed.iter().filter(|it| prefix(it).is_none()) {
            let partitions = asker.partitions(name)?;
            let partitions = partitions.ok_or_else(|| NotFound::Missing(name.clone()))?;
            found.push(of(name.clone(), partitions, false));
        }
        if found.len() < self.listed.len() {
            let mut all = asker.topics()?;
            all.retain(|(name, _)| self.is_by_pattern(name));
            all.sort();
            let fitting = all.into_iter().filter(|(name, _)| self.has_tenant(name));
            found.extend(fitting.map(|(name, partitions)| of(name, partitions, true)));
        }
        Ok(found)
    }

    /// One topic as it is now, that has this partition at least; `None` when it is none of ours.
    pub(super) fn find_one(
        &self,
        asker: &Asker,
        name: &str,
        partition: i32,
    ) -> Result<Option<FoundTopic>, NoAnswer> {
        if !self.is_listed(name) || !self.has_tenant(name) {
            return Ok(None);
        }
        let seen = asker.partitions(name)?.unwrap_or(0);
        let needed = usize::try_from(partition).map_or(0, |partition| partition + 1);
        let by_pattern = self.is_by_pattern(name);
        Ok(Some(of(name.to_owned(), seen.max(needed), by_pattern)))
    }

    fn is_listed(&self, name: &str) -> bool {
        self.listed.iter().any(|it| covers(it, name))
    }

    fn is_by_pattern(&self, name: &str) -> bool {
        self.is_listed(name) && !self.listed.iter().any(|it| it == name)
    }

    fn has_tenant(&self, name: &str) -> bool {
        let tenant = self.tenant_by_name(name);
        if let Err(why) = &tenant {
            tracing::error!(topic = name, "a topic is not read: {why}");
        }
        tenant.is_ok()
    }

    fn tenant_by_name(&self, name: &str) -> Result<Option<TenantId>, String> {
        let tenants = self.tenant_of_topic.as_ref();
        tenants.map(|tenants| tenants.tenant(name)).transpose()
    }

    /// Takes in the topics of the source as all nodes know them. What is not read here is left out.
    pub(super) fn learn(&self, known: Vec<SourceTopic>) {
        let ours = known.into_iter().filter_map(|kept| {
            let tenant = self.tenant_by_name(&kept.name).ok()?;
            self.is_listed(&kept.name).then_some(Topic { kept, tenant })
        });
        let ours = ours.collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = ours;
    }

    fn known(&self) -> RwLockReadGuard<'_, Vec<Topic>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_number(&self, number: u32) -> Option<Topic> {
        let topic = number >> PARTITION_BITS;
        let known = self.known();
        known.iter().find(|it| it.kept.number == topic).cloned()
    }

    /// The number of a topic's partition; `None` for what is none of ours.
    pub(super) fn number(&self, topic: &str, partition: i32) -> Option<u32> {
        let partition = u32::try_from(partition).ok()?;
        let known = self.known();
        let topic = known.iter().find(|it| it.kept.name == topic)?;
        numbered(topic.kept.number, partition)
    }

    /// True when all nodes know that a topic has that partition.
    pub(super) fn knows(&self, topic: &str, partition: i32) -> bool {
        let needed = u32::try_from(partition).map_or(0, |partition| partition + 1);
        let known = self.known();
        known
            .iter()
            .any(|it| it.kept.name == topic && it.kept.knows(needed))
    }

    /// The topic's partition of a number.
    pub(super) fn place(&self, number: u32) -> Option<Place> {
        Some(Place {
            topic: self.of_number(number)?.kept.name,
            partition: i32::try_from(partition_of(number)).ok()?,
        })
    }

    /// The older partitions that a number comes behind.
    pub(super) fn before(&self, number: u32) -> Vec<u32> {
        let Some(topic) = self.of_number(number) else {
            return Vec::new();
        };
        let before = topic.kept.before(partition_of(number));
        before
            .filter_map(|partition| numbered(topic.kept.number, partition))
            .collect()
    }

    /// True when all of a number's partition is younger than the moment at which the source was first read.
    pub(super) fn is_younger(&self, number: u32) -> bool {
        let topic = self.of_number(number);
        topic.is_some_and(|topic| topic.kept.is_younger(partition_of(number)))
    }

    /// The tenant of a number's topic.
    pub(super) fn tenant_of(&self, number: u32) -> Option<TenantId> {
        self.of_number(number)?.tenant
    }
}

fn of(name: String, partitions: usize, by_pattern: bool) -> FoundTopic {
    FoundTopic {
        name,
        partitions: u32::try_from(partitions).unwrap_or(u32::MAX),
        by_pattern,
    }
}

fn partition_of(number: u32) -> u32 {
    number & ((1 << PARTITION_BITS) - 1)
}

/// The number of a topic's partition; `None` when it has more than there are numbers for.
fn numbered(topic: u32, partition: u32) -> Option<u32> {
    let fits = partition < 1 << PARTITION_BITS && topic < TOPIC_NUMBERS;
    fits.then_some((topic << PARTITION_BITS) | partition)
}
