//! A bus that costs as little as a bus can: deliveries lie in memory and each is copied once, as every
//! real bus has to copy out of its fetch buffer. It holds the payments back until it is told to go on,
//! and says when everything is settled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_engine::bus::{BusError, BusEvent, Delivery, EventBus, ReceiveLimit, Start};
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::headers::Headers;
use tidegate_engine::position::{Incarnation, Offset, SourceName};
use tokio::sync::{Notify, watch};

use super::Result;
use super::load::{Lane, Load};

/// The bus of one run.
pub struct BenchBus {
    source: SourceName,
    incarnation: Incarnation,
    load: Arc<Load>,
    lanes: Vec<Lane>,
    readers: Mutex<Readers>,
    woken: Notify,
    settled: watch::Sender<Vec<usize>>,
}

/// Where each lane is read, and up to where it may be.
struct Readers {
    positions: Vec<Option<usize>>,
    ends: Vec<usize>,
    unassigned: Vec<u32>,
    /// The lane whose turn it is: they share the receiver.
    turn: usize,
}

impl BenchBus {
    /// A bus that delivers the opening of every lane.
    pub fn new(load: Arc<Load>, lanes: Vec<Lane>) -> Result<Self> {
        let readers = Readers {
            positions: vec![None; lanes.len()],
            ends: lanes.iter().map(|lane| lane.opening).collect(),
            unassigned: (0..u32::try_from(lanes.len())?).collect(),
            turn: 0,
        };
        Ok(Self {
            source: SourceName::new("bench")?,
            incarnation: Incarnation::new("bench-1")?,
            load,
            settled: watch::Sender::new(vec![0; lanes.len()]),
            lanes,
            readers: Mutex::new(readers),
            woken: Notify::new(),
        })
    }

    /// Delivers the payments too; returns how many there are.
    pub fn open(&self) -> usize {
        let mut readers = self.lock();
        readers.ends = self.lanes.iter().map(|lane| lane.events.len()).collect();
        drop(readers);
        self.woken.notify_one();
        self.lanes.iter().map(|lane| lane.payments().len()).sum()
    }

    /// Waits until everything that is delivered so far is settled.
    pub async fn all_settled(&self) {
        let ends = self.lock().ends.clone();
        let mut settled = self.settled.subscribe();
        // The sender lives as long as we do.
        let _ = settled.wait_for(|settled| *settled == ends).await;
    }

    fn lock(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self, limit: ReceiveLimit) -> Option<BusEvent> {
        let mut readers = self.lock();
        if let Some(partition) = readers.unassigned.pop() {
            let incarnation = self.incarnation.clone();
            return Some(BusEvent::Assigned {
                partition,
                incarnation,
            });
        }
        for _ in 0..self.lanes.len() {
            let number = readers.turn;
            readers.turn = (number + 1) % self.lanes.len();
            let (Some(lane), Some(Some(from)), Some(end)) = (
                self.lanes.get(number),
                readers.positions.get(number),
                readers.ends.get(number),
            ) else {
                continue;
            };
            let places = *from..(*from + limit.events_max).min(*end);
            if places.is_empty() {
                continue;
            }
            if let Some(position) = readers.positions.get_mut(number) {
                *position = Some(places.end);
            }
            drop(readers);
            let events = lane.events.get(places.clone()).unwrap_or_default();
            let deliveries = places.zip(events).map(|(place, event)| Delivery {
                offset: Offset(place as u64),
                next: Offset(place as u64 + 1),
                payload: Bytes::copy_from_slice(self.load.event(*event)),
                headers: Headers::NONE,
                recorded_at: None,
            });
            return Some(BusEvent::Delivered {
                partition: number as u32,
                deliveries: deliveries.collect(),
            });
        }
        None
    }
}

#[async_trait::async_trait]
impl EventBus for BenchBus {
    fn source(&self) -> &SourceName {
        &self.source
    }

    async fn receive(&self, limit: ReceiveLimit) -> std::result::Result<Vec<BusEvent>, BusError> {
        loop {
            if let Some(event) = self.ready(limit) {
                return Ok(vec![event]);
            }
            self.woken.notified().await;
        }
    }

    async fn start_offset(&self, _: u32, _: Start) -> std::result::Result<Offset, BusError> {
        Ok(Offset(0))
    }

    async fn fingerprint_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> std::result::Result<Option<Hash128>, BusError> {
        let event = self
            .lanes
            .get(partition as usize)
            .and_then(|lane| lane.events.get(offset.0 as usize));
        Ok(event.map(|event| hash_bytes(self.load.event(*event))))
    }

    async fn seek(&self, partition: u32, offset: Offset) -> std::result::Result<(), BusError> {
        if let Some(position) = self.lock().positions.get_mut(partition as usize) {
            *position = Some(offset.0 as usize);
        }
        self.woken.notify_one();
        Ok(())
    }

    async fn acknowledge(
        &self,
        partition: u32,
        low_watermark: Offset,
    ) -> std::result::Result<(), BusError> {
        self.settled.send_modify(|settled| {
            if let Some(watermark) = settled.get_mut(partition as usize) {
                *watermark = low_watermark.0 as usize;
            }
        });
        Ok(())
    }

    async fn release(&self, _: u32) -> std::result::Result<(), BusError> {
        Ok(())
    }

    async fn still_assigned(&self, _: u32) -> std::result::Result<bool, BusError> {
        Ok(true)
    }

    async fn end_offset(&self, partition: u32) -> std::result::Result<Option<Offset>, BusError> {
        let lane = self.lanes.get(partition as usize);
        Ok(lane.map(|lane| Offset(lane.events.len() as u64)))
    }
}
