//! The broker behind a memory bus: partitions with their records, consumers with their assignments.
//! Never waits; what it does is decided by its callers alone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_engine::bus::{BusEvent, Delivery, ReceiveLimit, Start};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::headers::Headers;
use tidegate_engine::position::{Incarnation, Offset};
use tokio::sync::Notify;

use super::ConsumerId;
use super::faults::{BusFaults, Redelivery};

/// One record of a partition.
#[derive(Clone, Debug)]
pub(super) struct StoredRecord {
    pub(super) next: Offset,
    pub(super) payload: Bytes,
    pub(super) headers: Headers,
    pub(super) at: Timestamp,
}

/// One partition of the source.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) incarnation: Incarnation,
    pub(super) records: BTreeMap<Offset, StoredRecord>,
    /// Where records begin: moved by truncation.
    pub(super) start: Offset,
    /// The offset behind the last record.
    pub(super) end: Offset,
    /// No more records, ever.
    pub(super) finished: bool,
    /// The partitions that were there before it.
    pub(super) behind: Vec<u32>,
    /// Who gets it when its present consumer gives it back.
    pub(super) promised_to: Option<ConsumerId>,
    /// Every acknowledgement, in order, with who made it.
    pub(super) acknowledged: Vec<(ConsumerId, Offset)>,
}

/// What one consumer believes of a partition that it was given.
#[derive(Debug)]
pub(super) struct Assignment {
    /// The next offset it reads; nothing is delivered while it is `None`.
    pub(super) position: Option<Offset>,
    /// The offset of the last seek: redelivery goes back no further.
    floor: Offset,
    /// The end was told since the last seek.
    ended: bool,
    /// Told to give it back: no more deliveries, acknowledgements still count.
    pub(super) revoked: bool,
}

/// One consumer: a node's connection to the broker.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    pub(super) assignments: BTreeMap<u32, Assignment>,
    /// News about assignments that it has not received yet.
    pub(super) news: VecDeque<BusEvent>,
    pub(super) woken: Arc<Notify>,
    /// Told of news alone.
    pub(super) told: Arc<Notify>,
}

impl Consumer {
    /// Something to be told of an assignment.
    pub(super) fn tell(&mut self, news: BusEvent) {
        self.news.push_back(news);
        self.told.notify_one();
        self.woken.notify_one();
    }
}

#[derive(Debug, Default)]
pub(super) struct Broker {
    pub(super) partitions: BTreeMap<u32, Partition>,
    pub(super) consumers: BTreeMap<ConsumerId, Consumer>,
    pub(super) last_consumer: u32,
}

impl Partition {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            records: BTreeMap::new(),
            start: Offset(0),
            end: Offset(0),
            finished: false,
            behind: Vec::new(),
            promised_to: None,
            acknowledged: Vec::new(),
        }
    }

    pub(super) fn append(
        &mut self,
        hole: u64,
        at: Timestamp,
        headers: Headers,
        payload: Bytes,
    ) -> Offset {
        let offset = Offset(self.end.0 + hole);
        let next = offset.next();
        let record = StoredRecord {
            next,
            payload,
            headers,
            at,
        };
        self.records.insert(offset, record);
        self.end = next;
        offset
    }

    pub(super) fn start_offset(&self, start: Start) -> Offset {
        match start {
            Start::Earliest => self.records.keys().next().copied().unwrap_or(self.end),
            Start::Latest => self.end,
            Start::OffsetsOfGroup => match self.acknowledged.last() {
                Some((_, offset)) => *offset,
                None => self.start_offset(Start::Earliest),
            },
            Start::Time(time) => self
                .records
                .iter()
                .find(|(_, record)| record.at >= time)
                .map_or(self.end, |(offset, _)| *offset),
        }
    }
}

impl Assignment {
    fn new() -> Self {
        Self {
            position: None,
            floor: Offset(0),
            ended: false,
            revoked: false,
        }
    }

    pub(super) fn seek(&mut self, offset: Offset) {
        self.position = Some(offset);
        self.floor = offset;
        self.ended = false;
    }
}

impl Broker {
    /// Tells a consumer that a partition is its own now.
    pub(super) fn assign(&mut self, number: u32, to: ConsumerId) {
        let (Some(partition), Some(consumer)) =
            (self.partitions.get(&number), self.consumers.get_mut(&to))
        else {
            return;
        };
        consumer.assignments.insert(number, Assignment::new());
        consumer.tell(BusEvent::Assigned {
            partition: number,
            incarnation: partition.incarnation.clone(),
        });
    }

    /// Ends an assignment that its consumer gave back, and keeps the promise made for it.
    pub(super) fn release(&mut self, number: u32, by: ConsumerId) {
        if let Some(consumer) = self.consumers.get_mut(&by) {
            consumer.assignments.remove(&number);
        }
        let promised = self
            .partitions
            .get_mut(&number)
            .and_then(|partition| partition.promised_to.take());
        if let Some(next) = promised {
            self.assign(number, next);
        }
    }

    /// A partition in which a consumer stands where there are no records any more, or never were:
    /// it was truncated or re-created under its reader.
    pub(super) fn lost_range(&self, by: ConsumerId) -> Option<(u32, Offset)> {
        let consumer = self.consumers.get(&by)?;
        consumer
            .assignments
            .iter()
            .filter(|(_, assignment)| !assignment.revoked)
            .find_map(|(number, assignment)| {
                let (partition, position) = (self.partitions.get(number)?, assignment.position?);
                let readable = partition.start <= position && position <= partition.end;
                (!readable).then_some((*number, position))
            })
    }

    /// What a consumer has to be told of assignments.
    pub(super) fn take_news(&mut self, by: ConsumerId) -> Vec<BusEvent> {
        let consumer = self.consumers.get_mut(&by);
        consumer.map_or_else(Vec::new, |consumer| consumer.news.drain(..).collect())
    }

    /// What a consumer has to be told now; empty when it has to wait.
    pub(super) fn receive(
        &mut self,
        by: ConsumerId,
        limit: ReceiveLimit,
        faults: &dyn BusFaults,
    ) -> Vec<BusEvent> {
        let Some(consumer) = self.consumers.get_mut(&by) else {
            return Vec::new();
        };
        let mut events: Vec<BusEvent> = consumer.news.drain(..).collect();
        let mut room = Room {
            events: limit.events_max.max(1),
            bytes: limit.bytes_max,
            empty: true,
        };
        let mut readable: Vec<u32> = consumer
            .assignments
            .iter()
            .filter(|(number, assignment)| {
                self.partitions
                    .get(number)
                    .is_some_and(|partition| assignment.has_something(partition))
            })
            .map(|(number, _)| *number)
            .collect();
        while !readable.is_empty() && room.events > 0 {
            let chosen = faults.choose(&readable) % readable.len();
            let number = readable.remove(chosen);
            if let (Some(partition), Some(assignment)) = (
                self.partitions.get(&number),
                consumer.assignments.get_mut(&number),
            ) {
                assignment.read(number, partition, &mut room, faults, &mut events);
            }
        }
        events
    }
}

/// What one `receive` may still return.
struct Room {
    events: usize,
    bytes: usize,
    empty: bool,
}

impl Room {
    /// Makes room for a payload; a first one always fits.
    fn take(&mut self, payload: usize) -> bool {
        if self.events == 0 || (payload > self.bytes && !self.empty) {
            return false;
        }
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(payload);
        self.empty = false;
        true
    }
}

impl Assignment {
    fn has_something(&self, partition: &Partition) -> bool {
        let Some(position) = self.position.filter(|_| !self.revoked) else {
            return false;
        };
        partition.records.range(position..).next().is_some() || self.is_at_end(partition, position)
    }

    fn is_at_end(&self, partition: &Partition, position: Offset) -> bool {
        partition.finished && !self.ended && partition.records.range(position..).next().is_none()
    }

    /// Reads one partition into `events`: redelivery first, then what is new, then its end.
    fn read(
        &mut self,
        number: u32,
        partition: &Partition,
        room: &mut Room,
        faults: &dyn BusFaults,
        events: &mut Vec<BusEvent>,
    ) {
        let Some(mut position) = self.position else {
            return;
        };
        let delivery = |offset: &Offset, record: &StoredRecord| Delivery {
            offset: *offset,
            next: record.next,
            payload: record.payload.clone(),
            headers: record.headers.clone(),
            recorded_at: None,
        };
        match faults.redeliver(number, position) {
            Redelivery::None => {}
            Redelivery::Rewind(to) => position = to.max(self.floor).min(position),
            Redelivery::Repeat(offset) => {
                let passed = self.floor <= offset && offset < position;
                if let Some(record) = partition.records.get(&offset).filter(|_| passed)
                    && room.take(record.payload.len())
                {
                    events.push(BusEvent::Delivered {
                        partition: number,
                        deliveries: vec![delivery(&offset, record)],
                    });
                }
            }
        }
        let most = faults.records_max(number, room.events).max(1);
        let mut deliveries = Vec::new();
        for (offset, record) in partition.records.range(position..).take(most) {
            if !room.take(record.payload.len()) {
                break;
            }
            deliveries.push(delivery(offset, record));
            position = record.next;
        }
        self.position = Some(position);
        if !deliveries.is_empty() {
            events.push(BusEvent::Delivered {
                partition: number,
                deliveries,
            });
        }
        if self.is_at_end(partition, position) {
            self.ended = true;
            events.push(BusEvent::Ended {
                partition: number,
                end: partition.end,
            });
        }
    }
}
