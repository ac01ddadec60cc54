//! One slot: what is pending in it, by offset, and who waits for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidegate_engine::bus::{Became, Delivery, ReceiveLimit, Settlement};
use tidegate_engine::headers::Headers;
use tidegate_engine::position::Offset;
use tokio::sync::oneshot;

/// An event from its request to its settlement. Whoever waits hears an error when it is dropped before.
struct Pending {
    payload: Bytes,
    answer: oneshot::Sender<Became>,
}

#[derive(Default)]
pub(super) struct Slot {
    pending: BTreeMap<Offset, Pending>,
    bytes: usize,
    /// The next offset that is delivered; nothing is before the claim has sought.
    cursor: Option<Offset>,
    /// The next offset that is given.
    next: Offset,
    /// It takes nothing new: it is here for the work that another process left in it.
    finishes: bool,
}

impl Slot {
    /// One that takes no requests.
    pub fn to_finish() -> Self {
        Self {
            finishes: true,
            ..Self::default()
        }
    }

    /// Takes requests from now on, when the other does.
    pub fn takes_as(&mut self, other: &Self) {
        self.finishes &= other.finishes;
    }

    pub fn is_ready(&self) -> bool {
        self.cursor.is_some() && !self.finishes
    }

    pub fn events(&self) -> usize {
        self.pending.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn end(&self) -> Option<Offset> {
        self.cursor.map(|_| self.next)
    }

    pub fn payload(&self, offset: Offset) -> Option<&Bytes> {
        self.pending.get(&offset).map(|pending| &pending.payload)
    }

    pub fn push(&mut self, payload: Bytes) -> oneshot::Receiver<Became> {
        let (answer, answered) = oneshot::channel();
        self.bytes += payload.len();
        self.pending.insert(self.next, Pending { payload, answer });
        self.next = Offset(self.next.0 + 1);
        answered
    }

    /// Gives no offset in front of `end` any more.
    pub fn number_from(&mut self, end: Offset) {
        self.next = self.next.max(end);
    }

    /// Delivers from there on. Who sent what is in front of it, and has no answer yet, hears none from here.
    pub fn seek(&mut self, offset: Offset) {
        self.drop_below(offset);
        self.number_from(offset);
        self.cursor = Some(offset);
    }

    pub fn deliver(&mut self, limit: ReceiveLimit, is_first: bool) -> Vec<Delivery> {
        let mut deliveries: Vec<Delivery> = Vec::new();
        let Some(cursor) = self.cursor else {
            return deliveries;
        };
        let mut bytes = 0;
        for (offset, pending) in self.pending.range(cursor..) {
            bytes += pending.payload.len();
            let alone = is_first && deliveries.is_empty();
            if deliveries.len() >= limit.events_max || bytes > limit.bytes_max && !alone {
                break;
            }
            deliveries.push(Delivery {
                offset: *offset,
                next: Offset(offset.0 + 1),
                headers: Headers::NONE,
                payload: pending.payload.clone(),
                recorded_at: None,
            });
        }
        if let Some(last) = deliveries.last() {
            self.cursor = Some(last.next);
        }
        deliveries
    }

    pub fn settle(&mut self, settlement: Settlement) {
        if let Some(pending) = self.pending.remove(&settlement.offset) {
            self.bytes -= pending.payload.len();
            // Nobody waits any more when the client has gone.
            let _ = pending.answer.send(settlement.became);
        }
    }

    pub fn drop_below(&mut self, offset: Offset) {
        let kept = self.pending.split_off(&offset);
        let dropped = std::mem::replace(&mut self.pending, kept);
        self.forget(dropped);
    }

    pub fn drop_undelivered(&mut self) {
        let dropped = self.pending.split_off(&self.cursor.unwrap_or_default());
        self.forget(dropped);
    }

    fn forget(&mut self, dropped: BTreeMap<Offset, Pending>) {
        let bytes: usize = dropped.values().map(|it| it.payload.len()).sum();
        self.bytes -= bytes;
    }
}
