//! What a seed really had: read from the broker's records, the log and the nodes, not from what was
//! planned, and asserted for every seed.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_engine::store::StateStore as _;

use crate::checker::{Findings, ROWS_MAX, tenants};
use crate::faults::Counts;
use crate::stage::Stage;
use crate::workload::{EVENTS_MIN, PARTITIONS, TENANTS};

/// Faults that took effect, in each seed.
pub const FAULTS_MIN: u64 = 20;
/// Entities, in each seed.
const ENTITIES_MIN: u64 = 20;
/// Emitted events that were taken up, in each seed.
const LOOPED_BACK_MIN: u64 = 10;
/// Deliveries that repeat an event, of a thousand.
const DUPLICATES_PER_MILLE_MIN: u64 = 100;

/// What is no fault and has to happen all the same.
#[derive(Clone, Copy, Default)]
pub struct Quiet {
    /// Partitions of tenants that were idle and were put away.
    pub passivated: u64,
    /// Of those, the ones that came back to the same owner.
    pub activated_again: u64,
    /// Looks at a tenant whose lane had not one permit left.
    pub lanes_full: u64,
    /// Looks at a node that had not one permit left.
    pub nodes_full: u64,
}

impl Quiet {
    pub fn merge(&mut self, other: &Quiet) {
        self.passivated += other.passivated;
        self.activated_again += other.activated_again;
        self.lanes_full += other.lanes_full;
        self.nodes_full += other.nodes_full;
    }
}

/// What one run had.
#[derive(Clone, Copy, Default)]
pub struct Census {
    /// Different events: tenant and key.
    pub events: u64,
    pub deliveries: u64,
    /// Deliveries of an event that an earlier record held already, without redelivery by the broker.
    pub duplicates: u64,
    pub tenants: u64,
    pub partitions: u64,
    pub entities: u64,
    /// Entities that events of both of the first two source partitions moved.
    pub shared_entities: u64,
    /// Records of emitted events.
    pub looped_back: u64,
}

impl Census {
    pub async fn take(stage: &Stage, findings: &Findings) -> Self {
        let mut seen = BTreeSet::new();
        let (mut keys, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut duplicates = 0;
        for (_, event) in findings.deliveries.values() {
            let Some(event) = event else { continue };
            names.insert(&event.tenant);
            keys.insert((&event.tenant, &event.key));
            let is_new = seen.insert((&event.tenant, &event.key, &event.content));
            duplicates += u64::from(!is_new);
        }
        let mut entities = 0;
        for tenant in tenants(stage).await {
            let stored = stage.store.entities(&tenant, None, ROWS_MAX).await;
            entities += stored.map_or(0, |stored| stored.len() as u64);
        }
        let partitions: BTreeSet<u32> = findings.deliveries.keys().map(|place| place.0).collect();
        Self {
            events: keys.len() as u64,
            deliveries: findings.deliveries.len() as u64,
            duplicates,
            tenants: names.len() as u64,
            partitions: partitions.len() as u64,
            entities,
            shared_entities: shared_entities(findings),
            looped_back: findings.records.iter().filter(|it| it.internal).count() as u64,
        }
    }

    /// What is less than it has to be.
    pub fn shortfalls(&self, faults: &Counts) -> Vec<String> {
        let wanted = [
            ("events", self.events, EVENTS_MIN),
            ("tenants", self.tenants, TENANTS as u64),
            ("source partitions", self.partitions, u64::from(PARTITIONS)),
            ("entities", self.entities, ENTITIES_MIN),
            ("entities of two source partitions", self.shared_entities, 1),
            ("emitted events taken up", self.looped_back, LOOPED_BACK_MIN),
            (
                "duplicates of a thousand deliveries",
                self.duplicates * 1_000 / self.deliveries.max(1),
                DUPLICATES_PER_MILLE_MIN,
            ),
            ("faults that took effect", faults.injected(), FAULTS_MIN),
        ];
        let short = wanted.into_iter().filter(|(_, found, least)| found < least);
        short
            .map(|(what, found, least)| format!("{found} {what}, at least {least} are wanted"))
            .collect()
    }

    /// The smaller of each figure.
    pub fn least(&self, other: &Census) -> Census {
        let rarer = if self.duplicates * other.deliveries <= other.duplicates * self.deliveries {
            self
        } else {
            other
        };
        Census {
            events: self.events.min(other.events),
            deliveries: rarer.deliveries,
            duplicates: rarer.duplicates,
            tenants: self.tenants.min(other.tenants),
            partitions: self.partitions.min(other.partitions),
            entities: self.entities.min(other.entities),
            shared_entities: self.shared_entities.min(other.shared_entities),
            looped_back: self.looped_back.min(other.looped_back),
        }
    }
}

fn shared_entities(findings: &Findings) -> u64 {
    let mut movers: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
    for logged in &findings.records {
        for effect in &logged.record.effects {
            if let (Some(_), Some(key)) = (effect.version, &effect.key) {
                let place = (&logged.event.tenant, effect.machine.as_str(), key.as_str());
                movers.entry(place).or_default().insert(logged.partition);
            }
        }
    }
    let both = |movers: &&BTreeSet<u32>| movers.contains(&0) && movers.contains(&1);
    movers.values().filter(both).count() as u64
}
