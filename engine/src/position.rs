//! Where an event stands: in its source (source partition and offset) and in our log (stream partition
//! and sequence), and who may move on there (epoch, revision).

use serde::{Deserialize, Serialize};

use crate::tenant::TenantId;

crate::text_type!(
    /// The name of a configured source (a bus binding), unique in one installation.
    SourceName, "source", crate::text::name_rule
);
crate::text_type!(
    /// The name of a stream: what a tenant's events of one kind are called in the log.
    StreamName, "stream", crate::text::name_rule
);
crate::text_type!(
    /// Which instance of a topic or file a source partition is: changes when it is re-created.
    Incarnation, "incarnation", crate::text::attribute_rule
);

/// The stream of the events that machines emitted. No configured source may have it.
pub const INTERNAL: &str = "internal";

impl StreamName {
    /// The stream [`INTERNAL`].
    pub fn internal() -> Self {
        #[allow(clippy::expect_used)]
        Self::new(INTERNAL).expect("the constant is a valid name")
    }

    /// True for the stream [`INTERNAL`].
    pub fn is_internal(&self) -> bool {
        self.as_str() == INTERNAL
    }
}

/// The broker's partition, subject or HTTP slot: the unit of ownership and of the checkpoint.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SourcePartition {
    /// The configured source.
    pub source: SourceName,
    /// The partition's number in that source.
    pub partition: u32,
}

impl std::fmt::Display for SourcePartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.source, self.partition)
    }
}

/// A source partition as one instance of its source has it: with an offset, the place of one record, once
/// and for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceInstance {
    /// Which partition.
    pub source_partition: SourcePartition,
    /// Of which instance of the source: in another one the same offsets are other records.
    pub incarnation: Incarnation,
}

impl SourceInstance {
    /// `<source>/<incarnation>/<partition>/<position>`: no two records have the same. No source's name has
    /// a `/`, and the last two are numbers, so that one in an incarnation misleads nobody.
    pub fn place(&self, offset: Offset) -> String {
        let SourcePartition { source, partition } = &self.source_partition;
        format!("{source}/{}/{partition}/{offset}", self.incarnation)
    }
}

/// (tenant, stream, source partition): the unit of order and sequence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct StreamPartition {
    /// The tenant: first, as in every key.
    pub tenant: TenantId,
    /// The stream.
    pub stream: StreamName,
    /// The source partition whose owner is this stream partition's only writer.
    pub source_partition: SourcePartition,
}

impl std::fmt::Display for StreamPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            self.tenant, self.stream, self.source_partition
        )
    }
}

macro_rules! counter_type {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        pub struct $name(pub u64);

        impl $name {
            /// The next value. Saturates: 2^64 is out of reach of any source.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

counter_type!(
    /// Position in a source partition; may have holes.
    Offset
);
counter_type!(
    /// Position in a stream partition; gapless from 0.
    Sequence
);
counter_type!(
    /// Growing number of an ownership; the lower one loses.
    Epoch
);
counter_type!(
    /// Growing number of a checkpoint's commits; moves by exactly one.
    Revision
);
counter_type!(
    /// Version of an entity; gapless from 1, 0 while it does not exist.
    Version
);

/// The place of one stored record: what is handed out as its id, `stream:source/partition:sequence`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct RecordPosition {
    /// The stream.
    pub stream: StreamName,
    /// The source partition.
    pub source_partition: SourcePartition,
    /// The sequence in the stream partition of the record's tenant.
    pub sequence: Sequence,
}

impl std::fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            self.stream, self.source_partition, self.sequence
        )
    }
}

impl std::str::FromStr for RecordPosition {
    type Err = crate::error::InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            crate::error::InvalidValue::new(
                "event position",
                "`stream:source/partition:sequence`",
                text,
            )
        };
        let mut parts = text.split(':');
        let (Some(stream), Some(place), Some(sequence), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        let (source, partition) = place.split_once('/').ok_or_else(wrong)?;
        Ok(Self {
            stream: StreamName::new(stream)?,
            source_partition: SourcePartition {
                source: SourceName::new(source)?,
                partition: partition.parse().map_err(|_| wrong())?,
            },
            sequence: Sequence(sequence.parse().map_err(|_| wrong())?),
        })
    }
}
