//! The end of a run: nothing more goes wrong, everything settles, and what is at rest holds nothing.

use std::time::Duration;

use tidegate_engine::store::StateStore;
use tokio::time::Instant;

use super::{CALM_MAX, Place, World};
use crate::check::Check;
use crate::node;
use crate::stage::source_partition;
use crate::workload::PARTITIONS;

impl World {
    /// Nothing new goes wrong; what was begun is finished, and each partition has one owner.
    pub(super) async fn calm_down(&mut self) {
        self.stage.set_chaos(false);
        for running in self
            .places
            .iter()
            .filter_map(|place| place.running.as_ref())
        {
            running.control.spare();
        }
        while !self.pending.is_empty() && !self.is_wrong() {
            self.tick().await;
        }
        for place in 0..self.places.len() {
            self.start(place);
        }
        for partition in 0..PARTITIONS {
            let mut holders = self.stage.broker.holders(partition);
            holders.pop();
            holders
                .into_iter()
                .for_each(|other| self.stage.broker.lose(partition, other));
        }
    }

    pub(super) async fn settle(&mut self) {
        let until = Instant::now() + CALM_MAX;
        while !(self.is_wrong() || self.is_settled() && self.is_all_looped_back().await) {
            self.tick().await;
            if Instant::now() > until {
                self.stage.violation(Check::Settled, self.where_it_stands());
            }
        }
    }

    /// For people: where each partition stands, and what the nodes show.
    fn where_it_stands(&self) -> String {
        let partitions: Vec<String> = (0..PARTITIONS)
            .map(|partition| {
                let checkpoint = self.stage.checkpoint(partition);
                let at = checkpoint.map(|it| it.progress.next_offset);
                format!(
                    "{partition}: {at:?} of {:?}",
                    self.stage.broker.end(partition)
                )
            })
            .collect();
        let running = self
            .places
            .iter()
            .filter_map(|place| place.running.as_ref());
        let snapshots: Vec<String> = running
            .map(|running| format!("{:?}", running.observed.lock().snapshot))
            .collect();
        format!(
            "after {CALM_MAX:?}: {}\n{}",
            partitions.join(", "),
            snapshots.join("\n")
        )
    }

    fn is_settled(&self) -> bool {
        let settled = |partition| {
            let end = self.stage.broker.end(partition);
            end.is_some_and(|end| self.stage.first_unsettled(partition, end).is_none())
        };
        (0..PARTITIONS).all(settled) && self.stage.store.commits_on_their_way() == 0
    }

    /// Nothing that was emitted waits.
    async fn is_all_looped_back(&self) -> bool {
        for partition in 0..PARTITIONS {
            let place = source_partition(partition);
            let waits = self.stage.store.tenants_with_open_work(&place, None, 1);
            if !waits.await.unwrap().is_empty() {
                return false;
            }
        }
        true
    }

    /// Everything is at rest: every permit is back, and nodes drain at once.
    pub(super) async fn rest(&mut self) {
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until && !self.is_wrong() {
            self.tick().await;
        }
        if self.is_wrong() {
            return;
        }
        for place in &self.places {
            self.check_at_rest(place);
        }
        tokio::time::sleep(node::DRAIN_LIMIT + Duration::from_secs(2)).await;
        for place in &self.places {
            let Some(running) = &place.running else {
                continue;
            };
            let report = running.observed.lock().drained;
            if !report.is_some_and(|report| report.drained && report.unsettled_events == 0) {
                let what = format!("node {} did not: {report:?}", place.name);
                self.stage.violation(Check::Drained, what);
            }
        }
    }

    /// What a node at rest may hold: what its waiting poll may return, and nothing else.
    fn check_at_rest(&self, place: &Place) {
        let Some(running) = &place.running else {
            return;
        };
        let mut seen = running.observed.lock();
        seen.drain_wanted = true;
        let Some(snapshot) = &seen.snapshot else {
            return;
        };
        let options = &place.options;
        // Its one source's poll leaves half of the node's permits to what was received.
        let allowance = options.receive_events_max.min(options.node_events_max / 2);
        let tenants = snapshot.tenants.iter();
        let lanes: usize = tenants.map(|it| it.lane_events + it.lane_bytes).sum();
        if snapshot.unsettled_events != allowance || lanes != 0 {
            self.stage.violation(
                Check::Permits,
                format!(
                    "node {} holds {} permits (its poll has {allowance}), {lanes} in lanes",
                    place.name, snapshot.unsettled_events
                ),
            );
        }
        let partitions = snapshot.sources.iter().flat_map(|it| &it.partitions);
        let tracked: usize = partitions.map(|it| it.tracked_events).sum();
        if tracked > 0 {
            let what = format!("node {} tracks {tracked} events", place.name);
            self.stage.violation(Check::Permits, what);
        }
    }
}
