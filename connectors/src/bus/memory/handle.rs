//! The script of a memory bus: what a test or simulation does to the broker and reads from it. Owns
//! who is assigned what; a consumer only learns it by `receive`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_engine::bus::BusEvent;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::headers::Headers;
use tidegate_engine::position::{Incarnation, Offset, SourceName};

use super::broker::{Broker, Consumer, Partition};
use super::faults::{BusFaults, NoFaults};
use super::{ConsumerId, MemoryBus};

/// The broker itself. Cheap to clone, and it outlives every consumer.
#[derive(Clone)]
pub struct MemoryBusHandle {
    pub(super) source: SourceName,
    pub(super) broker: Arc<Mutex<Broker>>,
}

impl std::fmt::Debug for MemoryBusHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBusHandle")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl MemoryBusHandle {
    /// A broker without partitions.
    pub fn new(source: SourceName) -> Self {
        Self {
            source,
            broker: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Broker> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- records ------------------------------------------------------------------------------

    /// Makes an empty partition. One that is there is re-created: its records are gone and its
    /// offsets begin again at 0, as after a topic was deleted and made anew. Assignments stay.
    pub fn create_partition(&self, partition: u32, incarnation: Incarnation) {
        self.lock()
            .partitions
            .insert(partition, Partition::new(incarnation));
    }

    /// Makes a partition that comes to a source later: what stands in these is read before it.
    pub fn add_partition(&self, partition: u32, incarnation: Incarnation, behind: &[u32]) {
        let mut added = Partition::new(incarnation);
        added.behind = behind.to_vec();
        self.lock().partitions.insert(partition, added);
    }

    /// Adds a record and returns its offset; `None` when the partition is not there or finished.
    pub fn append(&self, partition: u32, payload: impl Into<Bytes>) -> Option<Offset> {
        self.append_after_hole(partition, 0, Timestamp(0), payload)
    }

    /// Adds a record `hole` offsets behind the end, with its time. Holes are what transactions,
    /// compaction and other subjects leave in a broker's offsets.
    pub fn append_after_hole(
        &self,
        partition: u32,
        hole: u64,
        at: Timestamp,
        payload: impl Into<Bytes>,
    ) -> Option<Offset> {
        self.add(partition, (hole, at), Headers::NONE, payload.into())
    }

    /// Adds a record with headers.
    pub fn append_with_headers(
        &self,
        partition: u32,
        headers: Headers,
        payload: impl Into<Bytes>,
    ) -> Option<Offset> {
        self.add(partition, (0, Timestamp(0)), headers, payload.into())
    }

    fn add(
        &self,
        partition: u32,
        (hole, at): (u64, Timestamp),
        headers: Headers,
        payload: Bytes,
    ) -> Option<Offset> {
        let mut broker = self.lock();
        let target = broker
            .partitions
            .get_mut(&partition)
            .filter(|target| !target.finished)?;
        let offset = target.append(hole, at, headers, payload);
        wake_readers(&broker, partition);
        Some(offset)
    }

    /// Ends a partition: its readers are told when they have read everything.
    pub fn finish(&self, partition: u32) {
        let mut broker = self.lock();
        if let Some(target) = broker.partitions.get_mut(&partition) {
            target.finished = true;
        }
        wake_readers(&broker, partition);
    }

    /// Drops every record below `offset`, as a broker's retention does.
    pub fn truncate(&self, partition: u32, offset: Offset) {
        if let Some(target) = self.lock().partitions.get_mut(&partition) {
            target.records = target.records.split_off(&offset);
            target.start = target.start.max(offset).min(target.end);
        }
    }

    // --- consumers and assignments -------------------------------------------------------------

    /// A new consumer that nothing disturbs.
    pub fn consumer(&self) -> MemoryBus {
        self.consumer_with_faults(Arc::new(NoFaults))
    }

    /// A new consumer, disturbed by `faults`.
    pub fn consumer_with_faults(&self, faults: Arc<dyn BusFaults>) -> MemoryBus {
        let mut broker = self.lock();
        broker.last_consumer += 1;
        let id = ConsumerId(broker.last_consumer);
        let consumer = Consumer::default();
        let (woken, told) = (Arc::clone(&consumer.woken), Arc::clone(&consumer.told));
        broker.consumers.insert(id, consumer);
        drop(broker);
        MemoryBus::new(self.clone(), id, (woken, told), faults)
    }

    /// Tells a consumer that a partition is its own. Nobody else is told: two consumers that both
    /// hold a partition are a zombie and its successor.
    pub fn assign(&self, partition: u32, to: ConsumerId) {
        self.lock().assign(partition, to);
    }

    /// Asks a consumer to give a partition back; `next` gets it once it was released.
    pub fn revoke(&self, partition: u32, from: ConsumerId, next: Option<ConsumerId>) {
        let mut broker = self.lock();
        if let Some(target) = broker.partitions.get_mut(&partition) {
            target.promised_to = next;
        }
        let Some(consumer) = broker.consumers.get_mut(&from) else {
            return;
        };
        if let Some(assignment) = consumer.assignments.get_mut(&partition) {
            assignment.revoked = true;
            consumer.tell(BusEvent::Revoked { partition });
        }
    }

    /// Tells a consumer that a partition is already elsewhere.
    pub fn lose(&self, partition: u32, from: ConsumerId) {
        let mut broker = self.lock();
        let Some(consumer) = broker.consumers.get_mut(&from) else {
            return;
        };
        if consumer.assignments.remove(&partition).is_some() {
            consumer.tell(BusEvent::Lost { partition });
        }
    }

    /// Forgets a consumer, as when its process died: its assignments end without a word. What was
    /// promised to it stays with nobody.
    pub fn drop_consumer(&self, consumer: ConsumerId) {
        let mut broker = self.lock();
        broker.consumers.remove(&consumer);
        for partition in broker.partitions.values_mut() {
            if partition.promised_to == Some(consumer) {
                partition.promised_to = None;
            }
        }
    }

    // --- what can be seen ----------------------------------------------------------------------

    /// Who holds a partition, in order of consumer; one that was asked to give it back still does.
    pub fn holders(&self, partition: u32) -> Vec<ConsumerId> {
        self.lock()
            .consumers
            .iter()
            .filter(|(_, consumer)| consumer.assignments.contains_key(&partition))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Every low watermark that was acknowledged for a partition, in order, with who did it.
    pub fn acknowledged(&self, partition: u32) -> Vec<(ConsumerId, Offset)> {
        self.lock()
            .partitions
            .get(&partition)
            .map(|target| target.acknowledged.clone())
            .unwrap_or_default()
    }

    /// A partition's records, in order of offset.
    pub fn records(&self, partition: u32) -> Vec<(Offset, Bytes)> {
        self.lock()
            .partitions
            .get(&partition)
            .map(|target| {
                target
                    .records
                    .iter()
                    .map(|(offset, record)| (*offset, record.payload.clone()))
                    .collect()
            })
            .unwrap_or_default()
    }

    /// The offset behind a partition's last record.
    pub fn end(&self, partition: u32) -> Option<Offset> {
        self.lock().partitions.get(&partition).map(|it| it.end)
    }
}

fn wake_readers(broker: &Broker, partition: u32) {
    for consumer in broker.consumers.values() {
        if consumer.assignments.contains_key(&partition) {
            consumer.woken.notify_one();
        }
    }
}
