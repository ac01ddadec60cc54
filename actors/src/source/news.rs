//! What a bus tells of assignments, also while nothing may be received: it is heard wherever the task waits.

use tidegate_engine::bus::BusEvent;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::claim::Claimed;
use super::{Command, Slot, SourceTask, until};
use crate::ownership::Ownership;
use crate::permits::Allotment;

impl SourceTask {
    /// Notes what became of a partition.
    pub(super) fn take_news(&mut self, event: BusEvent) {
        match event {
            BusEvent::Assigned {
                partition,
                incarnation,
            } => {
                let named = self.source_partition(partition);
                let meters = self.meters.clone();
                let mut slot = Slot::new(named, incarnation, &self.context.options, meters);
                if let Some(reason) = &self.failed {
                    slot.quarantine(reason.clone());
                }
                if let Some(old) = self.lock().insert(partition, slot) {
                    old.end("assigned anew");
                }
                // A claim under way was made for an assignment that is over.
                if let Some(wanted) = self.claiming.get_mut(&partition) {
                    *wanted = None;
                }
            }
            BusEvent::Revoked { partition } => {
                if let Some(slot) = self.lock().get_mut(&partition) {
                    slot.revoke(Instant::now());
                }
            }
            BusEvent::Lost { partition } => {
                if let Some(slot) = self.lock().remove(&partition) {
                    slot.end("lost to another consumer");
                }
            }
            BusEvent::Ended { partition, end } => {
                if let Some(slot) = self.lock().get_mut(&partition) {
                    slot.ended = Some(end);
                }
            }
            // Told with the permits that they need.
            BusEvent::Delivered { .. } => {}
        }
    }

    /// Waits for permits for so many bytes; false when what they are for is over. A delivery may be larger than
    /// a whole poll. It waits here and not beside the bus: no claim may seek between receipt and routing, or it
    /// would be routed for a position that is over.
    pub(super) async fn raise(
        &mut self,
        ownership: &Ownership,
        allowance: &mut Allotment,
        bytes: usize,
        claims: &mpsc::Sender<Claimed>,
    ) -> bool {
        let (mut commands, node) = (self.commands.clone(), self.node.clone());
        let bus = self.source.bus.clone();
        let mut raised = Box::pin(node.raise(allowance, bytes));
        loop {
            tokio::select! {
                biased;
                _ = commands.wait_for(|command| *command == Command::Stop) => return false,
                () = &mut raised => return true,
                news = bus.news() => news.into_iter().for_each(|event| self.take_news(event)),
                () = until(self.due()) => {}
            }
            self.look_after(claims).await;
            if !ownership.is_owned() {
                return false;
            }
        }
    }
}
