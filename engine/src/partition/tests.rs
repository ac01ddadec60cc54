//! What a partition remembers, forgets and takes back, whatever its memory holds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{Allowance, Heads, Part, Partition, PartitionLimits, Prepared, Settled};
use crate::admission::{self, Binding};
use crate::bus::Delivery;
use crate::clock::Timestamp;
use crate::commit::{EntityName, EntityRow, KnownKey, StoredEntity, Surprises};
use crate::hash::Hash128;
use crate::headers::Headers;
use crate::machine::order::order_processor;
use crate::machine::{DeadReason, MachineSet};
use crate::position::{
    Offset, Revision, SourceName, SourcePartition, StreamName, StreamPartition, Version,
};
use crate::record::{Record, split_segment};
use crate::state::{EntityKey, MachineName, Status};
use crate::tenant::{TenantBinding, TenantId};

const ALL: Allowance = Allowance {
    events_max: usize::MAX,
    bytes_max: usize::MAX,
    written_bytes_max: usize::MAX,
    before: None,
};

/// A partition of the order machine with room for so few entities that it forgets all the time.
fn partition() -> Partition<()> {
    partition_of(PartitionLimits {
        entities_max: 1,
        entities_bytes_max: usize::MAX,
        known_keys_max: 40,
        emitted_bytes_max: 1,
    })
}

fn partition_of(limits: PartitionLimits) -> Partition<()> {
    let source_partition = SourcePartition {
        source: SourceName::new("test").unwrap(),
        partition: 0,
    };
    Partition::new(
        StreamPartition {
            tenant: TenantId::new("acme").unwrap(),
            stream: StreamName::new("orders").unwrap(),
            source_partition,
        },
        MachineSet::new([Arc::new(order_processor().unwrap()) as _]),
        Heads::default(),
        limits,
    )
}

fn offer(partition: &mut Partition<()>, offset: u64, id: &str, kind: &str, order: &str) {
    let data = r#"{"total_cents":1000,"amount_cents":1}"#;
    let json = format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"order.{kind}","subject":"{order}","tenantid":"acme","data":{data}}}"#
    );
    let delivery = Delivery {
        offset: Offset(offset),
        next: Offset(offset + 1),
        payload: Bytes::from(json),
        headers: Headers::NONE,
        recorded_at: None,
    };
    let binding = Binding {
        stream: StreamName::new("orders").unwrap(),
        tenant: TenantBinding::TrustedField,
        mapping: None,
        secrets: crate::secrets::SecretPolicy::Off,
    };
    let (_, received) = admission::read(&delivery, &binding);
    partition.offer(received, (), Timestamp(7));
}

fn settle(partition: &mut Partition<()>, new_rows: Option<&[EntityRow]>) -> Vec<()> {
    partition.settle(Settled {
        revision: Revision(0),
        new_rows,
        at: Timestamp(7),
    })
}

fn name(order: &str) -> EntityName {
    EntityName {
        tenant: TenantId::new("acme").unwrap(),
        machine: MachineName::new("order").unwrap(),
        key: EntityKey::new(order).unwrap(),
    }
}

fn stored(order: &str, row: i64, version: u64, paid_cents: u64) -> StoredEntity {
    StoredEntity {
        name: name(order),
        row: EntityRow(row),
        version: Version(version),
        status: Status::new("placed").unwrap(),
        data: format!(r#"{{"paid_cents":{paid_cents},"total_cents":1000}}"#).into(),
    }
}

fn part(partition: &mut Partition<()>) -> Option<Part> {
    match partition.prepare(ALL) {
        Prepared::Part(part) => Some(*part),
        Prepared::Waiting | Prepared::Empty => None,
    }
}

/// A store of one tenant: what is committed, and nothing else.
#[derive(Default)]
struct Table {
    entities: BTreeMap<EntityName, StoredEntity>,
    keys: BTreeMap<Hash128, Hash128>,
}

impl Table {
    fn answer(&self, partition: &mut Partition<()>, names_max: usize) {
        let wanted = partition.wanted(names_max);
        let found = wanted.iter().filter_map(|it| self.entities.get(it));
        let found = found.cloned().collect();
        partition.loaded(&wanted, found);
    }

    /// Every refusal of the part is of an entity that it names, written or looked at.
    fn check_decisions(&self, part: &Part) {
        let written = part.entities.iter().map(|write| &write.name);
        let named: BTreeSet<_> = written
            .chain(part.reads.iter().map(|read| &read.name))
            .collect();
        for record in part
            .segments
            .iter()
            .flat_map(|it| split_segment(&it.body).unwrap())
        {
            let (record, _) = Record::read(record.get()).unwrap();
            for effect in record.effects {
                let order = effect.key.unwrap();
                let is_named = named.contains(&name(order.as_str()));
                assert!(is_named, "{order} was decided unseen: {:?}", effect.outcome);
            }
        }
    }

    /// Writes a part if everything in it is as it says, or names what is not.
    fn commit(&mut self, part: &Part) -> Result<Vec<EntityRow>, Surprises> {
        let mut surprises = Surprises::default();
        for mark in &part.dedupe {
            if let Some(conflict) = self.keys.get(&mark.key) {
                surprises.known_keys.push(KnownKey {
                    tenant: mark.tenant.clone(),
                    key: mark.key,
                    conflict: *conflict,
                });
            }
        }
        for write in &part.entities {
            let stored = self.entities.get(&write.name);
            if stored.map_or(Version(0), |it| it.version) != write.expected {
                surprises
                    .entities
                    .push((write.name.clone(), stored.cloned()));
            }
        }
        for read in &part.reads {
            let stored = self.entities.get(&read.name);
            if stored.map_or(Version(0), |it| it.version) != read.expected {
                let as_is = (read.name.clone(), stored.cloned());
                surprises.entities.push(as_is);
            }
        }
        if !surprises.is_empty() {
            return Err(surprises);
        }
        self.check_decisions(part);
        self.keys
            .extend(part.dedupe.iter().map(|mark| (mark.key, mark.conflict)));
        let mut rows = Vec::new();
        for write in &part.entities {
            let row = match self.entities.get(&write.name) {
                Some(stored) => stored.row,
                None => EntityRow(self.entities.len() as i64 + 1),
            };
            if write.expected == Version(0) {
                rows.push(row);
            }
            let stored = StoredEntity {
                name: write.name.clone(),
                row,
                version: write.version,
                status: write.status.clone(),
                data: write.data.clone(),
            };
            self.entities.insert(write.name.clone(), stored);
        }
        Ok(rows)
    }
}

#[test]
fn a_part_ends_with_the_event_whose_states_fill_it() {
    let mut partition = partition_of(PartitionLimits::default());
    for order in 0..10 {
        offer(
            &mut partition,
            order,
            &format!("e{order}"),
            "placed",
            &format!("o{order}"),
        );
    }
    Table::default().answer(&mut partition, 100);
    let mut allowance = ALL;
    let mut prepared = |written_bytes_max| {
        allowance.written_bytes_max = written_bytes_max;
        match partition.prepare(allowance) {
            Prepared::Part(part) => *part,
            other => panic!("{other:?}"),
        }
    };
    let one = prepared(1);
    assert_eq!(one.events, 1, "the first goes however much it writes");
    assert_eq!(one.written_bytes, one.entities[0].data.len());
    let four = prepared(4 * one.written_bytes - 1);
    assert_eq!((four.events, four.entities.len()), (4, 4));
    assert_eq!(four.written_bytes, 4 * one.written_bytes);
}

#[test]
fn large_states_are_forgotten_by_their_bytes_and_every_event_goes_on() {
    const BYTES_MAX: usize = 20_000;
    const ORDERS: u64 = 300;
    let mut partition = partition_of(PartitionLimits {
        entities_bytes_max: BYTES_MAX,
        ..PartitionLimits::default()
    });
    let mut table = Table::default();
    for order in 0..ORDERS {
        let note = "n".repeat(if order % 10 == 9 { 4_000 } else { 100 });
        let mut entity = stored(&format!("o{order}"), order as i64 + 1, 1, 0);
        entity.data = format!(r#"{{"note":"{note}","paid_cents":0,"total_cents":1000}}"#).into();
        table.entities.insert(entity.name.clone(), entity);
    }
    for event in 0..3 * ORDERS {
        let order = format!("o{}", event % ORDERS);
        offer(&mut partition, event, &format!("e{event}"), "paid", &order);
    }
    let (mut settled, mut rounds) = (0, 0);
    while settled < 3 * ORDERS as usize {
        rounds += 1;
        assert!(rounds < 9 * ORDERS, "{settled} events in {rounds} rounds");
        table.answer(&mut partition, 2_000);
        let allowance = Allowance {
            written_bytes_max: BYTES_MAX,
            ..ALL
        };
        let Prepared::Part(part) = partition.prepare(allowance) else {
            continue;
        };
        let rows = table.commit(&part).unwrap();
        settled += settle(&mut partition, Some(&rows)).len();
        // Both generations, what one event adds to each, and what the batch had pinned.
        let held = partition.cached().entity_bytes;
        assert!(held <= 3 * BYTES_MAX, "{held} bytes");
    }
    assert!(table.entities.values().all(|it| it.version == Version(4)));
}

/// Few, and the memory holds even fewer.
const ORDERS: u64 = 4;

/// The table, and surprising versions, of 400 events of four orders, a quarter of them delivered twice, when loads, batches,
/// failures and lost replies come in an order that `seed` chooses.
fn played(seed: u64) -> (Table, usize) {
    let mut random = seed;
    let mut draw = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let (mut partition, mut table) = (partition(), Table::default());
    let (mut sent, mut moved_by_others) = (0, 0);
    let mut parts: VecDeque<Part> = VecDeque::new();
    while sent < 500 || partition.unsettled() > 0 {
        match draw(8) {
            0 | 1 if sent < 500 => {
                // Every fifth is one of before. An order soon has its next event, while the one before
                // is speculation.
                let number = if sent % 5 == 4 { sent - 3 } else { sent };
                let order = format!("o{}", number % ORDERS);
                let kind = if sent < ORDERS { "placed" } else { "paid" };
                offer(&mut partition, sent, &format!("e{number}"), kind, &order);
                sent += 1;
            }
            2 | 3 => table.answer(&mut partition, 1 + draw(10) as usize),
            4 | 5 => parts.extend(part(&mut partition)),
            6 if draw(4) == 0 => {
                // An unknown outcome that turns out to be a failure.
                parts.clear();
                partition.reset(&Surprises::default());
            }
            _ => {
                let Some(part) = parts.pop_front() else {
                    continue;
                };
                match table.commit(&part) {
                    Err(surprises) => {
                        moved_by_others += surprises.entities.len();
                        parts.clear();
                        partition.reset(&surprises);
                    }
                    Ok(_) if draw(5) == 0 => {
                        // The reply was lost: as the node does, what was made meanwhile is made again.
                        settle(&mut partition, None);
                        parts.clear();
                        partition.reset(&Surprises::default());
                    }
                    Ok(rows) => drop(settle(&mut partition, Some(&rows))),
                }
            }
        }
    }
    (table, moved_by_others)
}

#[test]
fn whatever_a_small_memory_forgets_every_event_moves_its_order_once() {
    for seed in 0..50 {
        let (table, moved_by_others) = played(seed);
        assert_eq!(table.keys.len(), 400, "seed {seed}");
        for (name, order) in &table.entities {
            // Each has 100 events: placed once, then paid a cent by each of the others.
            assert_eq!(order.version, Version(100), "seed {seed}: {name:?}");
            assert!(order.data.contains("\"paid_cents\":99,"), "{}", order.data);
        }
        // Nobody else writes: a version that surprises is one that was forgotten while it was speculation.
        assert_eq!(moved_by_others, 0, "seed {seed}");
    }
}

#[test]
fn speculation_is_taken_back_to_what_was_committed() {
    let mut partition = partition();
    offer(&mut partition, 0, "a", "paid", "o1");
    let wanted = partition.wanted(10);
    partition.loaded(&wanted, vec![stored("o1", 5, 3, 10)]);
    let first = part(&mut partition).unwrap();
    offer(&mut partition, 1, "b", "paid", "o1");
    let second = part(&mut partition).unwrap();
    assert_eq!(second.entities[0].expected, Version(4), "made on the first");
    partition.reset(&Surprises::default());
    let again = part(&mut partition).unwrap();
    assert_eq!(again.events, 2, "both, once more");
    let write = &again.entities[0];
    assert_eq!((write.expected, write.version), (Version(3), Version(5)));
    assert!(write.data.contains("\"paid_cents\":12,"), "{}", write.data);
    assert_eq!(again.dedupe.len(), first.dedupe.len() + second.dedupe.len());
}

#[test]
fn stored_data_that_cannot_be_read_kills_its_own_events_and_stops_nobody() {
    let mut partition = partition();
    offer(&mut partition, 0, "a", "paid", "broken");
    offer(&mut partition, 1, "b", "paid", "sound");
    let wanted = partition.wanted(10);
    let mut broken = stored("broken", 1, 3, 0);
    broken.data = "[]".into();
    partition.loaded(&wanted, vec![broken, stored("sound", 2, 3, 0)]);
    let part = part(&mut partition).unwrap();
    assert_eq!(
        (part.events, part.counts.dead, part.counts.applied),
        (2, 1, 1)
    );
    let letter = &part.dead_letters[0];
    assert_eq!(letter.reason, DeadReason::Store);
    assert!(
        letter.detail.contains("tidegate verify"),
        "{}",
        letter.detail
    );
    assert_eq!(part.entities[0].name, name("sound"));
}

#[test]
fn a_shared_entity_is_asked_for_again_also_when_it_was_only_read() {
    let mut partition = partition();
    let mut theirs = stored("o1", 5, 4, 1000);
    theirs.status = Status::new("paid").unwrap();
    let surprises = Surprises {
        entities: vec![(name("o1"), Some(theirs))],
        ..Surprises::default()
    };
    partition.reset(&surprises);
    for offset in 0..2 {
        offer(&mut partition, offset, &format!("e{offset}"), "paid", "o1");
    }
    let part = part(&mut partition).unwrap();
    assert_eq!((part.events, part.counts.rejected), (2, 2), "paid already");
    settle(&mut partition, Some(&[]));
    offer(&mut partition, 2, "e2", "paid", "o1");
    assert_eq!(partition.wanted(10), [name("o1")]);
}

#[test]
fn an_entity_is_known_as_shared_however_many_others_were_before_it() {
    let mut partition = partition();
    let surprised = |order: &str| Surprises {
        entities: vec![(name(order), Some(stored(order, 5, 4, 1000)))],
        ..Surprises::default()
    };
    for other in 0..=super::SHARED_ENTITIES_MAX {
        partition.reset(&surprised(&format!("other{other}")));
    }
    partition.reset(&surprised("o1"));
    offer(&mut partition, 0, "e0", "paid", "o1");
    part(&mut partition).unwrap();
    settle(&mut partition, Some(&[]));
    offer(&mut partition, 1, "e1", "paid", "o1");
    assert_eq!(partition.wanted(10), [name("o1")]);
}
