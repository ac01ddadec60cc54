//! The EventBus seam: where deliveries come from and where what is settled is acknowledged. Everything
//! above it is the same for Kafka, NATS JetStream, HTTP and files.

use std::pin::Pin;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::error::ErrorKind;
use crate::hash::Hash128;
use crate::headers::Headers;
use crate::position::{Incarnation, Offset, RecordPosition, SourceName};
use crate::record::Effect;
use crate::tenant::TenantId;

/// One attempt of a bus to hand us an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Its offset in the source partition.
    pub offset: Offset,
    /// The offset right behind it: where a reader that has done with it goes on.
    pub next: Offset,
    /// The record's own bytes. Copied out of any fetch buffer they would otherwise pin.
    pub payload: Bytes,
    /// What stood beside it. Files have none.
    pub headers: Headers,
    /// When it was written, where the broker says so: lag goes by it.
    pub recorded_at: Option<Timestamp>,
}

/// What a bus has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BusEvent {
    /// A source partition is ours. Nothing of it is delivered before [`EventBus::seek`].
    Assigned {
        /// Its number.
        partition: u32,
        /// Which instance of the source it is.
        incarnation: Incarnation,
    },
    /// A source partition goes elsewhere: drain within the limit, then give it back.
    Revoked {
        /// Its number.
        partition: u32,
    },
    /// A source partition is already elsewhere: drop what is unsettled.
    Lost {
        /// Its number.
        partition: u32,
    },
    /// Records of one source partition, in order of offset.
    Delivered {
        /// Its number.
        partition: u32,
        /// The records.
        deliveries: Vec<Delivery>,
    },
    /// A bounded source partition has no more records, ever.
    Ended {
        /// Its number.
        partition: u32,
        /// The offset behind its last record.
        end: Offset,
    },
}

/// How much one [`EventBus::receive`] may return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiveLimit {
    /// Records, at least one.
    pub events_max: usize,
    /// Payload bytes; a first record larger than this is returned alone.
    pub bytes_max: usize,
}

/// Where a source partition starts that has no checkpoint yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the oldest record there is.
    Earliest,
    /// With the next record that arrives.
    Latest,
    /// With the first record of that time or later.
    Time(Timestamp),
    /// Where the consumer group that the bus was told of has got to.
    OffsetsOfGroup,
}

/// A place in a source partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its number.
    pub partition: u32,
    /// The offset.
    pub offset: Offset,
}

/// What became of a delivery, once that is durable.
#[derive(Clone, PartialEq, Debug)]
pub struct Settlement {
    /// The delivery's offset.
    pub offset: Offset,
    /// What became of it.
    pub became: Became,
}

/// What a delivery became.
#[derive(Clone, PartialEq, Debug)]
pub enum Became {
    /// A record of the log.
    Admitted {
        /// Where it stands.
        position: RecordPosition,
        /// What it did, one a machine that listens to it.
        effects: Vec<Effect>,
    },
    /// Its idempotency key was admitted before, with the same content.
    Duplicate,
    /// Its idempotency key was admitted before, with other content. It is kept as a dead letter.
    Conflict,
    /// No event. It is kept as a dead letter.
    Unreadable {
        /// What is wrong with it.
        detail: String,
    },
}

/// Why events were not taken. None of them was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// More is pending than may be: back-pressure.
    Full,
    /// More than may ever be pending at once.
    TooMuch,
    /// No slot is ours and ready yet.
    NotReady,
    /// The node stops.
    Closing,
}

/// What became of an event that was handed in; `None` when nobody will ever know here. Then its sender sends
/// it again, and the idempotency key says whether it was admitted.
pub type Answer = Pin<Box<dyn Future<Output = Option<Became>> + Send>>;

/// The way in of a bus that requests hand events to.
pub trait Intake: Send + Sync + 'static {
    /// Hands events in, in order and all to one source partition, or none of them. One answer each.
    fn offer(&self, payloads: Vec<Bytes>) -> Result<Vec<Answer>, NotTaken>;

    /// True while it takes events.
    fn is_ready(&self) -> bool;

    /// Events, and bytes of their payloads, that are not settled.
    fn pending(&self) -> (usize, usize);

    /// Takes nothing more, and gives up what was not delivered yet. What was, is answered as it settles.
    fn close(&self);
}

/// What the offsets of a bus count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetUnit {
    /// Records, with holes where some are missing.
    Records,
    /// Bytes.
    Bytes,
}

/// What can go wrong with a bus.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The broker is away or busy.
    #[error("bus `{source_name}` is not reachable: {detail}")]
    Unavailable {
        /// The source.
        source_name: SourceName,
        /// What the client said.
        detail: String,
    },
    /// The source is not there, not readable, or not the one the checkpoint was written for.
    #[error("bus `{source_name}` cannot be read: {detail}")]
    Unreadable {
        /// The source.
        source_name: SourceName,
        /// What was expected, found, and what to do.
        detail: String,
    },
    /// The source partition is not ours any more.
    #[error("partition {partition} of `{source_name}` is not assigned to this process")]
    NotAssigned {
        /// The source.
        source_name: SourceName,
        /// The partition.
        partition: u32,
    },
}

impl BusError {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            BusError::Unavailable { .. } => ErrorKind::Transient,
            BusError::Unreadable { .. } => ErrorKind::Permanent,
            BusError::NotAssigned { .. } => ErrorKind::Fenced,
        }
    }
}

/// A source of deliveries.
#[async_trait::async_trait]
pub trait EventBus: Send + Sync + 'static {
    /// The configured source that this is.
    fn source(&self) -> &SourceName;

    /// Waits for news, at most `limit` of them. Waits for ever when there are none; the caller is an
    /// owned task. One caller at a time. Dropped before it returns, it has taken nothing: what it would
    /// have returned comes with the next call.
    async fn receive(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, BusError>;

    /// Waits for news of assignments alone, for who has no room for records: what is asked back must not
    /// wait for it. Each is told once, here or by [`EventBus::receive`]. Dropped before it returns, it has
    /// taken nothing.
    async fn news(&self) -> Vec<BusEvent> {
        std::future::pending().await
    }

    /// What a partition without checkpoint waits for: that all which stands in front of these places is
    /// settled. It came to a topic that had partitions already, and what was written before of its keys stands
    /// in those.
    async fn comes_behind(&self, _partition: u32) -> Result<Vec<Place>, BusError> {
        Ok(Vec::new())
    }

    /// True when no record stands from `from` on, or from the beginning, to right in front of `to`.
    async fn is_empty_to(&self, _from: Option<Offset>, _to: Place) -> Result<bool, BusError> {
        Ok(false)
    }

    /// The offset at which a partition without checkpoint starts; one that came to a known source later starts
    /// with its oldest record, whatever `start` says.
    async fn start_offset(&self, partition: u32, start: Start) -> Result<Offset, BusError>;

    /// The hash of the record at exactly `offset`; `None` when there is no such record any more.
    async fn fingerprint_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> Result<Option<Hash128>, BusError>;

    /// Asked when no record stands at `offset`, the last settled one: true when the source takes records away
    /// by rules of its own and may have taken this one, so that its absence says nothing. Whether everything
    /// behind it is still there says [`EventBus::seek`].
    async fn takes_records_away(&self, _partition: u32, _offset: Offset) -> Result<bool, BusError> {
        Ok(false)
    }

    /// From now on delivers the partition's records from `offset`. Also called again after a re-claim:
    /// once this has returned, nothing is received of the partition that was fetched for an earlier
    /// position. A [`EventBus::receive`] at the same time is being polled, or was dropped: one that is
    /// only kept may hold what this waits for.
    async fn seek(&self, partition: u32, offset: Offset) -> Result<(), BusError>;

    /// Tells the broker how far everything is settled: a hint for its tools, never the truth.
    async fn acknowledge(&self, partition: u32, low_watermark: Offset) -> Result<(), BusError>;

    /// Gives a revoked partition back after its drain. Called again after a failure.
    async fn release(&self, partition: u32) -> Result<(), BusError>;

    /// Asks whether the partition is still ours. The answer is the broker's, from an exchange that began
    /// after the call: an owner that was fenced asks here before it claims again, and what its client
    /// remembers from before it was fenced would say yes to a zombie.
    async fn still_assigned(&self, partition: u32) -> Result<bool, BusError>;

    /// The tenant of everything in a partition, where the bus was told: see
    /// [`TenantBinding::OfPartition`](crate::tenant::TenantBinding::OfPartition).
    fn tenant_of(&self, _partition: u32) -> Option<TenantId> {
        None
    }

    /// How often what it logs in with could not be renewed. Most logins need not be.
    fn login_failures(&self) -> u64 {
        0
    }

    /// What others call a source partition, where its bus has names of its own for it.
    fn name_of(&self, _partition: u32) -> Option<TopicPartition> {
        None
    }

    /// False for a bus whose senders keep what is not settled, and send it again: there is no record to
    /// recognise it by.
    fn keeps_records(&self) -> bool {
        true
    }

    /// Told at each claim, before [`EventBus::seek`]: in front of `end` there are settled offsets. A bus
    /// that numbers what it is given gives none of these again.
    fn settled_below(&self, _partition: u32, _end: Offset) {}

    /// True when whoever sent a delivery waits for what becomes of it: then [`EventBus::settled`] tells.
    fn wants_settlements(&self) -> bool {
        false
    }

    /// What became of deliveries, right after their commit. Told at most once of each, and never of one
    /// whose owner was gone before it knew. Must not wait.
    fn settled(&self, _partition: u32, _settlements: Vec<Settlement>) {}

    /// What its offsets count.
    fn offset_unit(&self) -> OffsetUnit {
        OffsetUnit::Records
    }

    /// The offset behind the last record known, for lag; `None` while unknown.
    async fn end_offset(&self, partition: u32) -> Result<Option<Offset>, BusError>;
}

/// What the tools of a broker call a source partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicPartition {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
}

/// A source partition as it is seen from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its number.
    pub partition: u32,
    /// What people call it, like `orders/3`.
    pub name: String,
    /// The tenant of everything in it, where the bus was told.
    pub tenant: Option<TenantId>,
}

/// How a source partition lies behind a place in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Behind {
    /// The first offset that there is.
    pub begin: Offset,
    /// The offset behind the last record; the place itself when no record lies behind it.
    pub end: Offset,
    /// When the first record behind it was written, where there is one and the broker says so.
    pub first_at: Option<Timestamp>,
}

/// A source seen from outside: by no member of anything, so that nothing moves by a look.
#[async_trait::async_trait]
pub trait SourceView: Send + Sync + 'static {
    /// Its partitions, of now.
    async fn partitions(&self) -> Result<Vec<Seen>, BusError>;

    /// How a partition lies behind `from`; from its beginning when there is none.
    async fn behind(&self, partition: u32, from: Option<Offset>) -> Result<Behind, BusError>;
}
