//! The HTTP bus: events that requests hand in, numbered in slots. A slot is a source partition that this
//! process holds by a lease. The request is the delivery and its response the acknowledgement: whoever
//! sent an event keeps it until the response said that it is durable, so that the bus keeps no records.
//! What is pending is lost with the process, and its senders, who got no answer, send it again.
//!
//! Knows nothing of HTTP itself: the node's server hands payloads to the [`HttpIntake`].

mod slot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tidegate_engine::bus::{
    Answer, BusError, BusEvent, EventBus, Intake, NotTaken, ReceiveLimit, Settlement, Start,
};
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::position::{Incarnation, Offset, SourceName};
use tokio::sync::Notify;

use slot::Slot;

/// The incarnation of every HTTP source: there is nothing behind it that could be made anew.
const INCARNATION: &str = "http";

/// How much may be pending.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IntakeLimits {
    /// Events.
    pub events_max: usize,
    /// Bytes of their payloads.
    pub bytes_max: usize,
}

/// The bus behind its seam.
pub struct HttpBus {
    shared: Arc<Shared>,
}

/// The way in, and the slots.
#[derive(Clone)]
pub struct HttpIntake {
    shared: Arc<Shared>,
}

struct Shared {
    source: SourceName,
    limits: IntakeLimits,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<u32, Slot>,
    /// Assignments that the node has not heard of.
    untold: VecDeque<BusEvent>,
    closing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each of its steps is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_assigned(&self, partition: u32) -> BusError {
        BusError::NotAssigned {
            source_name: self.source.clone(),
            partition,
        }
    }
}

impl HttpBus {
    /// A bus without a slot.
    pub fn new(source: SourceName, limits: IntakeLimits) -> Self {
        let shared = Shared {
            source,
            limits,
            state: Mutex::default(),
            news: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The way in.
    pub fn intake(&self) -> HttpIntake {
        HttpIntake {
            shared: self.shared.clone(),
        }
    }
}

impl Intake for HttpIntake {
    fn offer(&self, payloads: Vec<Bytes>) -> Result<Vec<Answer>, NotTaken> {
        let limits = self.shared.limits;
        let bytes: usize = payloads.iter().map(Bytes::len).sum();
        if payloads.len() > limits.events_max || bytes > limits.bytes_max {
            return Err(NotTaken::TooMuch);
        }
        let mut state = self.shared.lock();
        if state.closing {
            return Err(NotTaken::Closing);
        }
        let (events_pending, bytes_pending) = state.pending();
        let ready = state.slots.values_mut().filter(|slot| slot.is_ready());
        let slot = ready
            .min_by_key(|slot| slot.events())
            .ok_or(NotTaken::NotReady)?;
        if events_pending + payloads.len() > limits.events_max
            || bytes_pending + bytes > limits.bytes_max
        {
            return Err(NotTaken::Full);
        }
        let waiting: Vec<_> = payloads
            .into_iter()
            .map(|payload| slot.push(payload))
            .collect();
        drop(state);
        self.shared.news.notify_one();
        let answers = waiting
            .into_iter()
            .map(|waiting| Box::pin(async move { waiting.await.ok() }) as Answer);
        Ok(answers.collect())
    }

    fn is_ready(&self) -> bool {
        let state = self.shared.lock();
        !state.closing && state.slots.values().any(Slot::is_ready)
    }

    fn pending(&self) -> (usize, usize) {
        self.shared.lock().pending()
    }

    fn close(&self) {
        let mut state = self.shared.lock();
        state.closing = true;
        for slot in state.slots.values_mut() {
            slot.drop_undelivered();
        }
    }
}

impl State {
    fn pending(&self) -> (usize, usize) {
        let slots = self.slots.values();
        slots.fold((0, 0), |(events, bytes), slot| {
            (events + slot.events(), bytes + slot.bytes())
        })
    }
}

impl HttpIntake {
    /// The slots that this process has.
    pub fn slots(&self) -> Vec<u32> {
        self.shared.lock().slots.keys().copied().collect()
    }

    /// A lease was had: the slot is ours, and requests are numbered in it from its claim on. Nothing else
    /// happens when it is here already.
    pub fn assign(&self, partition: u32) {
        self.add(partition, Slot::default());
    }

    /// A lease was had of a slot whose process has gone: it takes no requests, and is claimed for the open
    /// work that was left in it. Nothing happens when the slot is here already.
    pub fn assign_to_finish(&self, partition: u32) {
        self.add(partition, Slot::to_finish());
    }

    fn add(&self, partition: u32, slot: Slot) {
        let Ok(incarnation) = Incarnation::new(INCARNATION) else {
            unreachable!("the constant is a valid text");
        };
        let mut state = self.shared.lock();
        if let Some(here) = state.slots.get_mut(&partition) {
            here.takes_as(&slot);
            return;
        }
        state.slots.insert(partition, slot);
        state.untold.push_back(BusEvent::Assigned {
            partition,
            incarnation,
        });
        drop(state);
        self.shared.news.notify_one();
    }

    /// A lease was lost: whoever waits for an answer hears that it is not known.
    pub fn lose(&self, partition: u32) {
        let mut state = self.shared.lock();
        if state.slots.remove(&partition).is_some() {
            state.untold.push_back(BusEvent::Lost { partition });
        }
        drop(state);
        self.shared.news.notify_one();
    }
}

impl HttpBus {
    /// What there is to tell, if anything.
    fn take(&self, limit: ReceiveLimit) -> Option<Vec<BusEvent>> {
        let mut state = self.shared.lock();
        if !state.untold.is_empty() {
            return Some(state.untold.drain(..).collect());
        }
        let mut left = limit;
        let mut events = Vec::new();
        for (partition, slot) in &mut state.slots {
            let deliveries = slot.deliver(left, events.is_empty());
            if deliveries.is_empty() {
                continue;
            }
            left.events_max -= deliveries.len();
            let bytes: usize = deliveries.iter().map(|it| it.payload.len()).sum();
            left.bytes_max = left.bytes_max.saturating_sub(bytes);
            events.push(BusEvent::Delivered {
                partition: *partition,
                deliveries,
            });
        }
        (!events.is_empty()).then_some(events)
    }
}

#[async_trait::async_trait]
impl EventBus for HttpBus {
    fn source(&self) -> &SourceName {
        &self.shared.source
    }

    async fn receive(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, BusError> {
        loop {
            if let Some(events) = self.take(limit) {
                return Ok(events);
            }
            // A stored permit covers what came in between.
            self.shared.news.notified().await;
        }
    }

    async fn start_offset(&self, partition: u32, _start: Start) -> Result<Offset, BusError> {
        if !self.shared.lock().slots.contains_key(&partition) {
            return Err(self.shared.not_assigned(partition));
        }
        Ok(Offset(0))
    }

    async fn fingerprint_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> Result<Option<Hash128>, BusError> {
        let state = self.shared.lock();
        let slot = state.slots.get(&partition);
        Ok(slot.and_then(|slot| slot.payload(offset).map(|payload| hash_bytes(payload))))
    }

    async fn seek(&self, partition: u32, offset: Offset) -> Result<(), BusError> {
        let mut state = self.shared.lock();
        let Some(slot) = state.slots.get_mut(&partition) else {
            return Err(self.shared.not_assigned(partition));
        };
        slot.seek(offset);
        drop(state);
        self.shared.news.notify_one();
        Ok(())
    }

    async fn acknowledge(&self, partition: u32, low_watermark: Offset) -> Result<(), BusError> {
        match self.shared.lock().slots.get_mut(&partition) {
            Some(slot) => slot.drop_below(low_watermark),
            None => return Err(self.shared.not_assigned(partition)),
        }
        Ok(())
    }

    async fn release(&self, partition: u32) -> Result<(), BusError> {
        let released = self.shared.lock().slots.remove(&partition);
        released
            .map(drop)
            .ok_or_else(|| self.shared.not_assigned(partition))
    }

    async fn still_assigned(&self, partition: u32) -> Result<bool, BusError> {
        Ok(self.shared.lock().slots.contains_key(&partition))
    }

    async fn end_offset(&self, partition: u32) -> Result<Option<Offset>, BusError> {
        let state = self.shared.lock();
        Ok(state.slots.get(&partition).and_then(Slot::end))
    }

    fn keeps_records(&self) -> bool {
        false
    }

    fn settled_below(&self, partition: u32, end: Offset) {
        if let Some(slot) = self.shared.lock().slots.get_mut(&partition) {
            slot.number_from(end);
        }
    }

    fn wants_settlements(&self) -> bool {
        true
    }

    fn settled(&self, partition: u32, settlements: Vec<Settlement>) {
        if let Some(slot) = self.shared.lock().slots.get_mut(&partition) {
            for settlement in settlements {
                slot.settle(settlement);
            }
        }
    }
}
