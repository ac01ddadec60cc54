//! What machines emitted on its way back to them: from open work into the partition's queue, each piece
//! once and in the order of the commits that made them.
//!
//! The queue holds a beginning of the tenant's open work: everything up to some place, and nothing behind
//! it. While there is room, what a settled batch emitted goes on from memory. Once there is none, what
//! follows stays in the store and is read from there, in pages.

use super::queue::{Origin, Queued};
use super::{Overlay, Partition};
use crate::admission::{Content, ENVELOPE_BYTES};
use crate::clock::Timestamp;
use crate::commit::WorkPlace;
use crate::event::Event;
use crate::planted::{Bug, active};
use crate::position::{RecordPosition, Revision};
use crate::store::StoredOpenWork;

/// How far the queue of emitted events reaches.
#[derive(Default)]
pub(super) struct Backlog {
    /// The store may hold open work behind `reached`.
    stored: bool,
    /// The last piece that was queued.
    reached: Option<WorkPlace>,
    /// A page is being read.
    reading: bool,
    /// Something was emitted since the page was asked for that it may lack.
    outdated: bool,
    bytes_max: usize,
}

impl Backlog {
    pub fn set_bound(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    pub fn is_stored(&self) -> bool {
        self.stored
    }
}

impl<P> Partition<P> {
    /// The store holds open work of before this partition was made: nothing received is applied before it
    /// was read.
    pub fn expect_open_work(&mut self) {
        self.backlog.stored = true;
    }

    /// True when the store may hold emitted events that are not queued.
    pub fn has_stored_work(&self) -> bool {
        self.backlog.stored
    }

    /// Emitted events that are queued and not settled, and their bytes.
    pub fn emitted_unsettled(&self) -> (usize, usize) {
        (self.emitted.queue.len(), self.emitted.bytes)
    }

    /// When the next page of open work has to be read: behind which piece. It counts as being read until
    /// [`Partition::work_loaded`] or [`Partition::work_load_failed`].
    pub fn work_wanted(&mut self) -> Option<Option<WorkPlace>> {
        let backlog = &mut self.backlog;
        let has_room = self.emitted.queue.is_empty() || self.emitted.bytes < backlog.bytes_max;
        if !backlog.stored || backlog.reading || !has_room {
            return None;
        }
        backlog.reading = true;
        backlog.outdated = false;
        Some(backlog.reached.filter(|_| !active(Bug::WorkTakenTwice)))
    }

    /// The store answered with what follows; `is_last` when it held no more at that moment.
    pub fn work_loaded(&mut self, page: Vec<StoredOpenWork>, is_last: bool, at: Timestamp) {
        self.backlog.reading = false;
        for work in page {
            self.queue_work(work.place, work.cause, &work.event, at);
        }
        self.backlog.stored = !is_last || self.backlog.outdated;
    }

    /// The store did not answer: ask again.
    pub fn work_load_failed(&mut self) {
        self.backlog.reading = false;
    }

    /// What a batch emitted is durable as open work of `revision`.
    pub(super) fn loop_back(&mut self, overlay: &mut Overlay, revision: Revision, at: Timestamp) {
        for work in std::mem::take(&mut overlay.open_work) {
            let number = work.number;
            let place = WorkPlace { revision, number };
            if self.backlog.stored {
                // Behind what is still to be read, unless the page has brought it already.
                self.backlog.outdated = true;
                continue;
            }
            let bytes = self.emitted.bytes + work.event.len() + ENVELOPE_BYTES;
            if bytes > self.backlog.bytes_max && !self.emitted.queue.is_empty() {
                self.backlog.stored = true;
                continue;
            }
            self.queue_work(place, work.cause, &work.event, at);
        }
    }

    fn queue_work(
        &mut self,
        place: WorkPlace,
        cause: RecordPosition,
        json: &bytes::Bytes,
        at: Timestamp,
    ) {
        let is_known = self.backlog.reached.is_some_and(|last| place <= last);
        if is_known && !active(Bug::WorkTakenTwice) {
            return;
        }
        self.backlog.reached = Some(place);
        let tenant = &self.stream_partition.tenant;
        let content = match Event::read_json_for(json, Some(tenant)) {
            Ok(event) => Content::Event {
                key: event.idempotency_hash(),
                conflict: event.conflict_hash(),
                event: Box::new(event),
            },
            // It was checked when it was emitted. Whatever it is now, a person sees it.
            Err(fault) => Content::Unreadable {
                payload: json.clone(),
                fault,
            },
        };
        let targets = self.targets_of(&content, at);
        self.emitted.push(Queued {
            origin: Origin::Emitted(place, cause),
            bytes: json.len() + ENVELOPE_BYTES,
            content,
            permit: None,
            admitted_at: at,
            waits_since: at,
            targets,
        });
    }
}

#[cfg(test)]
mod tests;
