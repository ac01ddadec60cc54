//! The messages of a partition, its reports and its snapshot.

use std::sync::Arc;

use actix::{Handler, Message, MessageResult};
use tidegate_engine::admission::Received;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{EntityRow, Surprises};
use tidegate_engine::partition::{Allowance, Cached, EventRef, Heads, Part, Partition};
use tidegate_engine::position::{Offset, Revision, StreamPartition};

use super::PartitionActor;
use crate::permits::Permit;

/// Takes events in, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Admit {
    /// The events, each with its permit.
    pub events: Vec<(Received, Permit)>,
    /// When they were admitted.
    pub admitted_at: Timestamp,
}

/// Asks for a part of the next batch.
#[derive(Message)]
#[rtype(result = "Preparation")]
pub struct Prepare {
    /// How much of it.
    pub allowance: Allowance,
}

/// A partition's answer to [`Prepare`].
pub struct Preparation {
    /// Its part, if any.
    pub part: Option<Box<Part>>,
    /// What is ready now.
    pub report: Report,
}

/// What a partition has ready. Reports overtake each other; the higher number is the newer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The report's number.
    pub number: u64,
    /// Events that could go into a batch.
    pub events: usize,
    /// Their bytes.
    pub bytes: usize,
    /// The offset of its oldest received event that is not in a batch, whether it could go or waits for entities.
    pub oldest: Option<Offset>,
    /// Emitted events that are not in a batch, whether they could go or wait for entities.
    pub emitted: usize,
    /// Events that are not settled, those in batches included.
    pub unsettled: usize,
    /// The store may hold emitted events that are not among them.
    pub stored: bool,
}

/// The oldest prepared part is durable.
#[derive(Message)]
#[rtype(result = "Report")]
pub struct Settle {
    /// Rows of the entities it created; `None` when the reply was lost.
    pub new_rows: Option<Vec<EntityRow>>,
    /// The revision that it was committed under.
    pub revision: Revision,
}

/// Nothing of what is prepared was written: apply it again.
#[derive(Message)]
#[rtype(result = "Report")]
pub struct Reset {
    /// What stood in the way.
    pub surprises: Arc<Surprises>,
    /// The one event whose values the store refuses, and what it said.
    pub condemned: Option<(EventRef, String)>,
}

/// Stop, unless there was work lately.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct RetireIfIdle;

/// Asks for a snapshot.
#[derive(Message)]
#[rtype(result = "PartitionSnapshot")]
pub struct ObservePartition;

/// What a partition shows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionSnapshot {
    /// Whose log it writes.
    pub stream_partition: StreamPartition,
    /// Received events not settled.
    pub unsettled_events: usize,
    /// Emitted events in memory and not settled.
    pub emitted_events: usize,
    /// Their bytes.
    pub emitted_bytes: usize,
    /// Batches prepared and not settled.
    pub prepared_batches: usize,
    /// Loads of entities in flight.
    pub loads_in_flight: usize,
    /// Where its committed logs end, once that is known.
    pub heads: Option<Heads>,
    /// Since when the oldest received event that is not settled waits.
    pub oldest_received_at: Option<Timestamp>,
    /// Since when the oldest emitted event in memory waits for its turn, as far as this owner knows.
    pub oldest_emitted_at: Option<Timestamp>,
    /// What it keeps in memory between events.
    pub cached: Cached,
}

impl Handler<ObservePartition> for PartitionActor {
    type Result = MessageResult<ObservePartition>;

    fn handle(&mut self, _: ObservePartition, _: &mut Self::Context) -> Self::Result {
        let emitted = self.state.as_ref().map(Partition::emitted_unsettled);
        let (emitted_events, emitted_bytes) = emitted.unwrap_or_default();
        let cached = self.state.as_ref().map(Partition::cached);
        MessageResult(PartitionSnapshot {
            stream_partition: StreamPartition {
                tenant: self.tenant.clone(),
                stream: self.ownership.stream.clone(),
                source_partition: self.ownership.source_partition.clone(),
            },
            unsettled_events: self.unsettled_events() - emitted_events,
            emitted_events,
            emitted_bytes,
            prepared_batches: self.state.as_ref().map_or(0, Partition::prepared),
            loads_in_flight: self.loads_in_flight,
            heads: self.state.as_ref().map(Partition::heads),
            oldest_received_at: self.state.as_ref().and_then(Partition::oldest_received_at),
            oldest_emitted_at: self.state.as_ref().and_then(Partition::oldest_emitted_at),
            cached: cached.unwrap_or_default(),
        })
    }
}
