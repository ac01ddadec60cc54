//! The messages of a committer, and its snapshot.

use actix::{Addr, Context as ActixContext, Handler, Message, MessageResult};
use tidegate_engine::checkpoint::{Checkpoint, Counts};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::CommitReply;
use tidegate_engine::position::{Epoch, Offset, SourcePartition};
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use super::Committer;
use crate::partition::{PartitionActor, Report};

/// A partition says what it has ready.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ready {
    /// Its tenant.
    pub tenant: TenantId,
    /// The partition itself.
    pub partition: Addr<PartitionActor>,
    /// What is ready.
    pub report: Report,
}

/// The ownership is over: stop.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Retire;

/// The store answered for the batch in flight.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Replied(pub Result<CommitReply, StoreError>);

/// The checkpoint as it stands, after a commit of unknown outcome.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct CheckpointRead(pub Result<Option<Checkpoint>, StoreError>);

/// Asks for a snapshot.
#[derive(Message)]
#[rtype(result = "CommitterSnapshot")]
pub struct ObserveCommitter;

/// What a committer shows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitterSnapshot {
    /// Its source partition.
    pub source_partition: SourcePartition,
    /// Its ownership.
    pub epoch: Epoch,
    /// Everything below is settled.
    pub low_watermark: Offset,
    /// Outcomes up to the last commit.
    pub counts: Counts,
    /// Events received and not yet below the watermark.
    pub tracked_events: usize,
    /// Events that partitions have ready.
    pub ready_events: usize,
    /// Events in the commit in flight.
    pub in_flight_events: usize,
    /// Commits of this ownership.
    pub commits: u64,
    /// Batches that had to be applied again.
    pub surprises: u64,
    /// Tenants with a partition here.
    pub tenants: usize,
    /// Since when the oldest record that is not settled has been known of.
    pub oldest_known_at: Option<Timestamp>,
    /// Where the bus says that the source partition ends; see [`crate::NodeHandle::ask_ends`].
    pub end: Option<Offset>,
}

impl Handler<Ready> for Committer {
    type Result = ();

    fn handle(&mut self, ready: Ready, context: &mut ActixContext<Self>) {
        self.ready(ready, context);
    }
}

impl Handler<Retire> for Committer {
    type Result = ();

    fn handle(&mut self, _: Retire, context: &mut ActixContext<Self>) {
        self.retire(context);
    }
}

impl Handler<Replied> for Committer {
    type Result = ();

    fn handle(&mut self, Replied(reply): Replied, context: &mut ActixContext<Self>) {
        self.replied(reply, context);
    }
}

impl Handler<CheckpointRead> for Committer {
    type Result = ();

    fn handle(&mut self, read: CheckpointRead, context: &mut ActixContext<Self>) {
        self.checkpoint_read(read, context);
    }
}

impl Handler<ObserveCommitter> for Committer {
    type Result = MessageResult<ObserveCommitter>;

    fn handle(&mut self, _: ObserveCommitter, _: &mut ActixContext<Self>) -> Self::Result {
        let (oldest_known_at, end) = self.ownership.lag();
        let tracker = self.ownership.tracker();
        MessageResult(CommitterSnapshot {
            source_partition: self.ownership.source_partition.clone(),
            epoch: self.ownership.epoch,
            low_watermark: tracker.low_watermark(),
            counts: self.counts,
            tracked_events: tracker.tracked(),
            ready_events: self.queue.events(),
            in_flight_events: self
                .in_flight
                .as_ref()
                .map_or(0, |in_flight| in_flight.assembled.events),
            commits: self.commits,
            surprises: self.surprises,
            tenants: self.lanes.len(),
            oldest_known_at,
            end,
        })
    }
}
