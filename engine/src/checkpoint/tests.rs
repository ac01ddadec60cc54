//! The tracker: what it says is done, where the watermark stands, and that both stay bounded.

use std::collections::{BTreeSet, VecDeque};

use super::{Counts, DoneAbove, DoneRange, OffsetTracker, Progress, Receipt};
use crate::limits::{DONE_ABOVE_FRAGMENTED, TRACKED_RECORDS_MAX};
use crate::position::Offset;

fn at(next_offset: u64, done: &[(u64, u64)]) -> Progress {
    let ranges = done
        .iter()
        .map(|(first, last)| DoneRange {
            first: Offset(*first),
            last: Offset(*last),
        })
        .collect();
    Progress {
        next_offset: Offset(next_offset),
        done_above: DoneAbove(ranges),
        fingerprint: None,
        counts: Counts::default(),
    }
}

fn receive(tracker: &mut OffsetTracker, offset: u64) -> Receipt {
    tracker.receive(Offset(offset), Offset(offset + 1), None)
}

#[test]
fn the_watermark_passes_holes_and_stops_at_the_unsettled() {
    let mut tracker = OffsetTracker::resume(&at(0, &[]));
    for offset in [0, 1, 5, 9, 10] {
        assert_eq!(receive(&mut tracker, offset), Receipt::New);
    }
    tracker.settle(Offset(0));
    tracker.settle(Offset(9));
    let progress = tracker.progress_with(&[Offset(1), Offset(10)], Counts::default());
    assert_eq!(progress, at(2, &[(9, 10)]));
    tracker.settle(Offset(1));
    tracker.settle(Offset(5));
    assert_eq!(tracker.low_watermark(), Offset(10));
}

#[test]
fn what_an_earlier_owner_settled_is_not_done_again() {
    let mut tracker = OffsetTracker::resume(&at(3, &[(5, 6), (9, 12)]));
    assert_eq!(receive(&mut tracker, 3), Receipt::New);
    assert_eq!(receive(&mut tracker, 4), Receipt::New);
    assert_eq!(receive(&mut tracker, 5), Receipt::AlreadyDone);
    // Not received yet, but still settled in whatever is committed next.
    let progress = tracker.progress_with(&[Offset(3)], Counts::default());
    assert_eq!(progress, at(4, &[(5, 6), (9, 12)]));
    assert_eq!(receive(&mut tracker, 6), Receipt::AlreadyDone);
    tracker.settle(Offset(3));
    tracker.settle(Offset(4));
    assert_eq!(tracker.low_watermark(), Offset(7));
    assert_eq!(
        tracker.progress_with(&[], Counts::default()),
        at(7, &[(9, 12)])
    );
}

#[test]
fn a_redelivery_within_one_ownership_is_already_done() {
    let mut tracker = OffsetTracker::resume(&at(0, &[]));
    assert_eq!(receive(&mut tracker, 0), Receipt::New);
    assert_eq!(receive(&mut tracker, 1), Receipt::New);
    assert_eq!(receive(&mut tracker, 0), Receipt::AlreadyDone);
    tracker.settle(Offset(0));
    assert_eq!(receive(&mut tracker, 0), Receipt::AlreadyDone);
}

#[test]
fn r45_one_record_that_stays_behind_does_not_let_the_memory_of_the_others_grow_for_ever() {
    let mut tracker = OffsetTracker::resume(&at(0, &[]));
    receive(&mut tracker, 0);
    for offset in 1..TRACKED_RECORDS_MAX as u64 {
        assert!(
            offset % 100_000 != 0
                || tracker
                    .settle_before(DONE_ABOVE_FRAGMENTED, 1_000)
                    .is_none(),
            "one range of done records is no hole"
        );
        receive(&mut tracker, offset);
        tracker.settle(Offset(offset));
    }
    receive(&mut tracker, TRACKED_RECORDS_MAX as u64);
    let the_oldest_thousand = Some(Offset(1_000));
    assert_eq!(
        tracker.settle_before(DONE_ABOVE_FRAGMENTED, 1_000),
        the_oldest_thousand
    );
    tracker.settle(Offset(0));
    assert_eq!(
        (
            tracker.tracked(),
            tracker.settle_before(DONE_ABOVE_FRAGMENTED, 1_000)
        ),
        (1, None)
    );
}

/// Whoever gets the next batch, and however its events are spread over the stream: with one batch
/// in flight and one behind it, `done_above` has a bound, and the watermark goes on.
#[test]
fn what_is_settled_out_of_order_never_has_more_ranges_than_a_checkpoint_may() {
    let mut random = Random(7);
    for round in 0..20 {
        let batch_max = 1 + random.below(400);
        let window = batch_max.max(DONE_ABOVE_FRAGMENTED);
        let ranges_max = DONE_ABOVE_FRAGMENTED + 2 * batch_max + window;
        let lanes = 2 + random.below(5) as u64;
        let mut tracker = OffsetTracker::resume(&at(0, &[]));
        let mut received = 0;
        let mut batches: VecDeque<Vec<Offset>> = VecDeque::new();
        let mut taken = BTreeSet::new();
        for _ in 0..400 {
            for _ in 0..random.below(1_000) {
                receive(&mut tracker, received);
                received += 1;
            }
            let before = tracker.settle_before(DONE_ABOVE_FRAGMENTED, window);
            let may_go = |offset: &u64| before.is_none_or(|before| *offset < before.0);
            // One lane in its order, as a source of many tenants that has one of them ready.
            let lane = random.below(lanes as usize) as u64;
            let mut batch = Vec::with_capacity(batch_max);
            let low = tracker.low_watermark().0;
            let of_lane = (low..received).filter(|offset| hash(*offset) % lanes == lane);
            for offset in of_lane.take_while(may_go) {
                if batch.len() < batch_max && taken.insert(offset) {
                    batch.push(Offset(offset));
                }
            }
            batches.push_back(batch);
            if batches.len() < 2 {
                continue;
            }
            let settled = batches.pop_front().unwrap();
            let progress = tracker.progress_with(&settled, Counts::default());
            let ranges = progress.done_above.0.len();
            assert!(ranges <= ranges_max, "round {round}: {ranges} ranges");
            for offset in settled {
                tracker.settle(offset);
            }
            // A node that takes over knows as much.
            if random.below(50) == 0 {
                batches.clear();
                tracker = OffsetTracker::resume(&progress);
                let low = progress.next_offset.0;
                received = low;
                taken = (0..low)
                    .chain(
                        progress
                            .done_above
                            .0
                            .iter()
                            .flat_map(|range| range.first.0..=range.last.0),
                    )
                    .collect();
            }
        }
        let low = tracker.low_watermark().0 as usize;
        assert!(low > 20 * batch_max, "round {round}: got to {low}");
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 += 1;
        (hash(self.0) % end as u64) as usize
    }
}

fn hash(of: u64) -> u64 {
    let mixed = (of ^ 0x9e37_79b9).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33
}
