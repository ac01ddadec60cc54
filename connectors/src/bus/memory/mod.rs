//! The memory bus: a broker in memory with partitions, holes in the offsets, assignments that a
//! script moves ([`MemoryBusHandle`]), and faults from a seed ([`BusFaults`]). It is the bus of the
//! simulation and of tests; broker and records outlive a crashed system. Never persists anything.
//!
//! Each [`MemoryBus`] is one consumer. `receive` tells assignments first and then reads the partitions
//! that have something, in order of number unless the hook chooses otherwise; it waits on a
//! notification, so a paused clock can run ahead, and the same calls give the same answers.

mod broker;
mod faults;
mod handle;

use std::sync::Arc;

use tidegate_engine::bus::{BusError, BusEvent, EventBus, Place, ReceiveLimit, Start};
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::position::{Offset, SourceName};
use tokio::sync::Notify;

pub use faults::{BusFault, BusFaults, BusOperation, NoFaults, Redelivery};
pub use handle::MemoryBusHandle;

use broker::{Assignment, Broker, Partition};

/// One consumer of a broker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConsumerId(u32);

/// A consumer's connection to a broker in memory.
pub struct MemoryBus {
    handle: MemoryBusHandle,
    id: ConsumerId,
    /// The broker's way to say that there is news; a stored permit covers what happened in between.
    woken: Arc<Notify>,
    /// The same for assignments alone.
    told: Arc<Notify>,
    faults: Arc<dyn BusFaults>,
}

impl std::fmt::Debug for MemoryBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBus")
            .field("source", &self.handle.source)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl MemoryBus {
    fn new(
        handle: MemoryBusHandle,
        id: ConsumerId,
        (woken, told): (Arc<Notify>, Arc<Notify>),
        faults: Arc<dyn BusFaults>,
    ) -> Self {
        Self {
            handle,
            id,
            woken,
            told,
            faults,
        }
    }

    /// Which consumer of its broker this is.
    pub fn id(&self) -> ConsumerId {
        self.id
    }

    async fn disturb(
        &self,
        operation: BusOperation,
        partition: Option<u32>,
    ) -> Result<(), BusError> {
        let (delay, fault) = self.faults.at_start(operation, partition);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        match fault {
            BusFault::Proceed => Ok(()),
            BusFault::Fail(error) => Err(error),
            BusFault::Stall => std::future::pending().await,
        }
    }

    fn not_assigned(&self, partition: u32) -> BusError {
        BusError::NotAssigned {
            source_name: self.handle.source.clone(),
            partition,
        }
    }

    fn unreadable(&self, detail: String) -> BusError {
        BusError::Unreadable {
            source_name: self.handle.source.clone(),
            detail,
        }
    }

    /// One look at the broker, without waiting.
    fn read(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, BusError> {
        let mut broker = self.handle.lock();
        if let Some((partition, position)) = broker.lost_range(self.id) {
            let target = self.partition(&broker, partition)?;
            return Err(self.lost_range(partition, target, position));
        }
        Ok(broker.receive(self.id, limit, self.faults.as_ref()))
    }

    fn lost_range(&self, number: u32, partition: &Partition, asked: Offset) -> BusError {
        self.unreadable(format!(
            "partition {number} has offsets {} to {}, {asked} was asked for: records are lost, or it \
             is another instance of the source",
            partition.start, partition.end
        ))
    }

    fn partition<'b>(&self, broker: &'b Broker, partition: u32) -> Result<&'b Partition, BusError> {
        broker
            .partitions
            .get(&partition)
            .ok_or_else(|| self.unreadable(format!("there is no partition {partition}")))
    }

    fn assignment<'b>(
        &self,
        broker: &'b mut Broker,
        partition: u32,
    ) -> Result<&'b mut Assignment, BusError> {
        broker
            .consumers
            .get_mut(&self.id)
            .and_then(|consumer| consumer.assignments.get_mut(&partition))
            .ok_or_else(|| self.not_assigned(partition))
    }
}

#[async_trait::async_trait]
impl EventBus for MemoryBus {
    fn source(&self) -> &SourceName {
        &self.handle.source
    }

    async fn receive(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, BusError> {
        loop {
            self.disturb(BusOperation::Receive, None).await?;
            let events = self.read(limit)?;
            if !events.is_empty() {
                return Ok(events);
            }
            self.woken.notified().await;
        }
    }

    async fn news(&self) -> Vec<BusEvent> {
        if !self.faults.hears_news() {
            return std::future::pending().await;
        }
        loop {
            let news = self.handle.lock().take_news(self.id);
            if !news.is_empty() {
                return news;
            }
            self.told.notified().await;
        }
    }

    async fn comes_behind(&self, partition: u32) -> Result<Vec<Place>, BusError> {
        self.disturb(BusOperation::ComesBehind, Some(partition))
            .await?;
        let broker = self.handle.lock();
        let older = self.partition(&broker, partition)?.behind.iter();
        let place = |partition: &u32| {
            Ok(Place {
                partition: *partition,
                offset: self.partition(&broker, *partition)?.end,
            })
        };
        older.map(place).collect()
    }

    async fn is_empty_to(&self, from: Option<Offset>, to: Place) -> Result<bool, BusError> {
        let broker = self.handle.lock();
        let older = self.partition(&broker, to.partition)?;
        let from = from.unwrap_or(older.start);
        Ok(to.offset <= from || older.records.range(from..to.offset).next().is_none())
    }

    async fn start_offset(&self, partition: u32, start: Start) -> Result<Offset, BusError> {
        self.disturb(BusOperation::StartOffset, Some(partition))
            .await?;
        let broker = self.handle.lock();
        let target = self.partition(&broker, partition)?;
        Ok(if target.behind.is_empty() {
            target.start_offset(start)
        } else {
            target.start
        })
    }

    async fn fingerprint_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> Result<Option<Hash128>, BusError> {
        self.disturb(BusOperation::FingerprintAt, Some(partition))
            .await?;
        let broker = self.handle.lock();
        Ok(self
            .partition(&broker, partition)?
            .records
            .get(&offset)
            .map(|record| hash_bytes(&record.payload)))
    }

    async fn seek(&self, partition: u32, offset: Offset) -> Result<(), BusError> {
        self.disturb(BusOperation::Seek, Some(partition)).await?;
        let mut broker = self.handle.lock();
        let target = self.partition(&broker, partition)?;
        if offset < target.start || target.end < offset {
            return Err(self.lost_range(partition, target, offset));
        }
        self.assignment(&mut broker, partition)?.seek(offset);
        self.woken.notify_one();
        Ok(())
    }

    async fn acknowledge(&self, partition: u32, low_watermark: Offset) -> Result<(), BusError> {
        self.disturb(BusOperation::Acknowledge, Some(partition))
            .await?;
        let mut broker = self.handle.lock();
        self.assignment(&mut broker, partition)?;
        if let Some(target) = broker.partitions.get_mut(&partition) {
            target.acknowledged.push((self.id, low_watermark));
        }
        Ok(())
    }

    async fn release(&self, partition: u32) -> Result<(), BusError> {
        self.disturb(BusOperation::Release, Some(partition)).await?;
        let mut broker = self.handle.lock();
        self.assignment(&mut broker, partition)?;
        broker.release(partition, self.id);
        Ok(())
    }

    async fn still_assigned(&self, partition: u32) -> Result<bool, BusError> {
        self.disturb(BusOperation::StillAssigned, Some(partition))
            .await?;
        let mut broker = self.handle.lock();
        Ok(self.assignment(&mut broker, partition).is_ok())
    }

    async fn end_offset(&self, partition: u32) -> Result<Option<Offset>, BusError> {
        self.disturb(BusOperation::EndOffset, Some(partition))
            .await?;
        Ok(self.handle.end(partition))
    }
}

#[cfg(test)]
mod tests;
