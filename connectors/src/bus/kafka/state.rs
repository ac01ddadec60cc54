//! What the polling thread and the bus share: the partitions that are ours, what was copied out of them
//! and not received yet, and what is to be told. Bounded by bytes and records; knows no librdkafka.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_engine::bus::{BusError, BusEvent, Delivery, ReceiveLimit};
use tidegate_engine::position::{Incarnation, Offset, SourceName};
use tokio::sync::Notify;

use super::topics::{Place, Topics};

/// Bytes that each partition may have waiting, however many there are: two fetches of the smallest size.
const PARTITION_BYTES_MIN: usize = 128 * 1024;

/// Records that each partition may have waiting, however many there are.
const PARTITION_EVENTS_MIN: usize = 64;

/// What is shared.
pub(super) struct Shared {
    pub source: SourceName,
    pub topics: Topics,
    buffered_bytes_max: usize,
    buffered_events_max: usize,
    state: Mutex<State>,
    /// Wakes who receives.
    news: Notify,
    /// Wakes who waits for assignments alone.
    told: Notify,
    /// Wakes the polling thread; one token is as good as many.
    wake: SyncSender<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub slots: BTreeMap<u32, Slot>,
    /// What happened to assignments and was not told yet; three of a partition at most.
    untold: VecDeque<BusEvent>,
    /// What is wrong for now, told once.
    trouble: Option<BusError>,
    /// What is wrong for good, told whenever somebody asks.
    failure: Option<BusError>,
    /// The partition that was read last: the next one has its turn.
    turn: u32,
    pub stopping: bool,
}

/// A partition that is ours.
#[derive(Default)]
pub(super) struct Slot {
    /// It is asked back, and still ours until it is released.
    pub revoked: bool,
    /// It is read. Nothing is delivered of it before its first seek.
    pub sought: Option<Sought>,
    /// What the broker was told last.
    pub acknowledged: Option<Offset>,
    buffer: VecDeque<Delivery>,
    buffered_bytes: usize,
}

/// How far a partition is read since its last seek.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sought {
    /// The offset behind the last record that was read; where it was sought to, before there was one.
    pub behind_last: Offset,
    /// All was read that was there: whatever is behind is no record, or came since.
    pub at_end: bool,
    /// Up to here there is no record behind the last one, as a look at the topic has shown.
    pub empty_until: Offset,
}

impl Slot {
    fn begin(&mut self, offset: Offset) {
        self.buffer.clear();
        self.buffered_bytes = 0;
        self.sought = Some(Sought {
            behind_last: offset,
            at_end: false,
            empty_until: offset,
        });
    }

    /// Reads nothing more, and forgets what was not received.
    pub(super) fn stop(&mut self) {
        self.buffer.clear();
        self.buffered_bytes = 0;
        self.sought = None;
    }

    fn push(&mut self, deliveries: Vec<Delivery>) {
        let Some(sought) = &mut self.sought else {
            return;
        };
        for delivery in deliveries {
            // A record of in front of the position was fetched for an earlier one.
            if delivery.offset < sought.behind_last {
                continue;
            }
            sought.behind_last = delivery.next;
            sought.at_end = false;
            self.buffered_bytes += held(&delivery);
            self.buffer.push_back(delivery);
        }
    }

    /// What one receive may have of it.
    fn deliver(&mut self, left: &mut ReceiveLimit, first: bool) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while let Some(next) = self.buffer.front() {
            let alone = first && deliveries.is_empty();
            let bytes = held(next);
            if left.events_max == 0 || (bytes > left.bytes_max && !alone) {
                break;
            }
            left.events_max -= 1;
            left.bytes_max = left.bytes_max.saturating_sub(bytes);
            self.buffered_bytes -= bytes;
            deliveries.extend(self.buffer.pop_front());
        }
        deliveries
    }
}

fn held(delivery: &Delivery) -> usize {
    delivery.payload.len() + delivery.headers.bytes()
}

impl Shared {
    pub(super) fn new(options: &super::KafkaOptions, wake: SyncSender<()>) -> Self {
        Self {
            source: options.source.clone(),
            topics: Topics::new(options),
            buffered_bytes_max: options.buffered_bytes_max,
            buffered_events_max: options.buffered_events_max,
            state: Mutex::default(),
            news: Notify::new(),
            told: Notify::new(),
            wake,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Each of its steps is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the polling thread. One that is awake already has its token.
    pub(super) fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    pub(super) async fn news(&self) {
        // A stored permit covers what came in between.
        self.news.notified().await;
    }

    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    /// There is something to be told of assignments.
    fn tell(&self) {
        self.told.notify_one();
        self.news.notify_one();
    }

    // --- numbers --------------------------------------------------------------------------------

    /// The topic's partition of a number.
    pub(super) fn place(&self, number: u32) -> Result<Place, BusError> {
        self.topics.place(number).ok_or_else(|| {
            self.unreadable(format!(
                "there is no partition {number}: the source has found no topic of that number, or does not read it"
            ))
        })
    }

    // --- errors ---------------------------------------------------------------------------------

    pub(super) fn not_assigned(&self, partition: u32) -> BusError {
        BusError::NotAssigned {
            source_name: self.source.clone(),
            partition,
        }
    }

    pub(super) fn unreadable(&self, detail: String) -> BusError {
        BusError::Unreadable {
            source_name: self.source.clone(),
            detail,
        }
    }

    pub(super) fn away(&self, detail: String) -> BusError {
        BusError::Unavailable {
            source_name: self.source.clone(),
            detail,
        }
    }

    /// Tells once that something is wrong for now.
    pub(super) fn trouble(&self, detail: String) {
        self.lock().trouble = Some(self.away(detail));
        self.news.notify_one();
    }

    /// Tells that something is wrong for good.
    pub(super) fn fail(&self, detail: String) {
        let mut state = self.lock();
        if state.failure.is_none() {
            tracing::error!(source = %self.source, %detail, "the source cannot be read");
            state.failure = Some(self.unreadable(detail));
        }
        drop(state);
        self.news.notify_one();
    }

    // --- assignments ----------------------------------------------------------------------------

    /// These partitions are ours. Who hears of one hears of all.
    pub(super) fn assigned(&self, partitions: Vec<(u32, Incarnation)>) {
        let mut state = self.lock();
        for (partition, incarnation) in partitions {
            state.slots.insert(partition, Slot::default());
            state.untold.push_back(BusEvent::Assigned {
                partition,
                incarnation,
            });
        }
        drop(state);
        self.tell();
    }

    /// A partition is asked back; false when nobody knew that it was ours, so that nothing has to be
    /// drained.
    pub(super) fn revoked(&self, partition: u32) -> bool {
        let mut state = self.lock();
        if state.forget_assigned(partition) {
            state.slots.remove(&partition);
            return false;
        }
        let Some(slot) = state.slots.get_mut(&partition) else {
            return false;
        };
        slot.stop();
        slot.revoked = true;
        state.untold.push_back(BusEvent::Revoked { partition });
        drop(state);
        self.tell();
        true
    }

    /// A partition is elsewhere.
    pub(super) fn lost(&self, partition: u32) {
        let mut state = self.lock();
        if state.slots.remove(&partition).is_some() && !state.forget_assigned(partition) {
            state.untold.push_back(BusEvent::Lost { partition });
        }
        drop(state);
        self.tell();
    }

    /// A partition was given back.
    pub(super) fn released(&self, partition: u32) -> Result<(), BusError> {
        let released = self.lock().slots.remove(&partition);
        released
            .map(drop)
            .ok_or_else(|| self.not_assigned(partition))
    }

    /// True while it is ours.
    pub(super) fn is_held(&self, partition: u32) -> bool {
        self.lock().slots.contains_key(&partition)
    }

    // --- records --------------------------------------------------------------------------------

    /// It is read from there: whatever was copied out for another position is gone.
    pub(super) fn sought(&self, partition: u32, offset: Offset) -> Result<(), BusError> {
        match self.lock().slots.get_mut(&partition) {
            Some(slot) if !slot.revoked => {
                slot.begin(offset);
                Ok(())
            }
            _ => Err(self.not_assigned(partition)),
        }
    }

    /// Records and bytes that a partition has room for.
    pub(super) fn room(&self, partition: u32) -> (usize, usize) {
        let state = self.lock();
        let shares = state.slots.len().max(1);
        let events_max = (self.buffered_events_max / shares).max(PARTITION_EVENTS_MIN);
        let bytes_max = (self.buffered_bytes_max / shares).max(PARTITION_BYTES_MIN);
        match state.slots.get(&partition) {
            Some(slot) if slot.sought.is_some() => (
                events_max.saturating_sub(slot.buffer.len()),
                bytes_max.saturating_sub(slot.buffered_bytes),
            ),
            // What comes of it is thrown away.
            _ => (PARTITION_EVENTS_MIN, PARTITION_BYTES_MIN),
        }
    }

    /// Records of one partition, in order.
    pub(super) fn push(&self, partition: u32, deliveries: Vec<Delivery>, at_end: bool) {
        if let Some(slot) = self.lock().slots.get_mut(&partition) {
            slot.push(deliveries);
            if let Some(sought) = &mut slot.sought {
                sought.at_end |= at_end;
            }
        }
        self.news.notify_one();
    }

    /// What there is to tell of assignments.
    pub(super) fn take_news(&self) -> Vec<BusEvent> {
        self.lock().untold.drain(..).collect()
    }

    /// What there is to tell, if anything.
    pub(super) fn take(&self, limit: ReceiveLimit) -> Result<Option<Vec<BusEvent>>, BusError> {
        let mut state = self.lock();
        if !state.untold.is_empty() {
            return Ok(Some(state.untold.drain(..).collect()));
        }
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if let Some(trouble) = state.trouble.take() {
            return Err(trouble);
        }
        let mut left = limit;
        let mut events = Vec::new();
        let turn = state.turn;
        let (after, before): (Vec<u32>, Vec<u32>) = state
            .slots
            .keys()
            .copied()
            .partition(|number| *number > turn);
        for partition in after.into_iter().chain(before) {
            let Some(slot) = state.slots.get_mut(&partition) else {
                continue;
            };
            let deliveries = slot.deliver(&mut left, events.is_empty());
            if deliveries.is_empty() {
                continue;
            }
            state.turn = partition;
            events.push(BusEvent::Delivered {
                partition,
                deliveries,
            });
        }
        drop(state);
        if events.is_empty() {
            return Ok(None);
        }
        self.wake();
        Ok(Some(events))
    }
}

impl State {
    /// Forgets an assignment that nobody was told of; true when there was one.
    fn forget_assigned(&mut self, partition: u32) -> bool {
        let before = self.untold.len();
        self.untold.retain(|event| {
            !matches!(event, BusEvent::Assigned { partition: untold, .. } if *untold == partition)
        });
        self.untold.len() < before
    }
}
