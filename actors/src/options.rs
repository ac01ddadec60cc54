//! Every bound of the movement that an operator may tune, with its unit and its default's reason.

use std::time::Duration;

use tidegate_engine::admission::ENVELOPE_BYTES;
use tidegate_engine::bus::ReceiveLimit;
use tidegate_engine::limits::{DONE_ABOVE_FRAGMENTED, RECEIVE_EVENTS_MAX};
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::retry::BackOff;

/// The bounds of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeOptions {
    /// The node's name: the owner that checkpoints show.
    pub name: String,
    /// Events that may be unsettled in the whole node. Half of them at most are held by polls that wait,
    /// shared evenly by the sources; at least two a source, so that each can hold one.
    pub node_events_max: usize,
    /// Bytes that may be unsettled in the whole node: what bounds its memory beside those of its
    /// partitions, which have bounds of their own each. Polls that wait hold half
    /// of them at most, too.
    pub node_bytes_max: usize,
    /// Events that may be unsettled in one tenant's lane: its share of the node.
    pub tenant_events_max: usize,
    /// Bytes that may be unsettled in one tenant's lane.
    pub tenant_bytes_max: usize,
    /// Records of one poll of a bus, at most: with many sources a poll gets less.
    pub receive_events_max: usize,
    /// Payload bytes of one poll of a bus, at most; a first delivery that is larger comes alone.
    pub receive_bytes_max: usize,
    /// Events of one commit.
    pub batch_events_max: usize,
    /// Bytes of one commit, by the average size of what each tenant has ready: an event that is larger goes
    /// all the same.
    pub batch_bytes_max: usize,
    /// Bytes of states and emitted events of one commit; the event that reaches it goes all the same.
    pub batch_written_bytes_max: usize,
    /// Ranges in `done_above` from which only the oldest events are settled, until the watermark moves; at
    /// most [`DONE_ABOVE_FRAGMENTED`].
    pub done_above_ranges_max: usize,
    /// Bytes that one tenant may put into a batch per turn of the round robin.
    pub fair_quantum_bytes: usize,
    /// Commits in flight in the whole node, each of another source partition.
    pub commit_slots: usize,
    /// What all partitions keep in memory together, in equal shares.
    pub memory: PartitionLimits,
    /// Entities asked for in one load.
    pub load_entities_max: usize,
    /// Spacing of retries.
    pub back_off: BackOff,
    /// How long a tenant waits whose entities another transaction holds, before it is offered again alone.
    pub busy_wait: Duration,
    /// Rebuilds of one source partition within `restart_window` before it is quarantined.
    pub restarts_max: u32,
    /// The window of `restarts_max`.
    pub restart_window: Duration,
    /// How long a source partition that another owner took is let alone before it is claimed again, if
    /// the bus still assigns it; doubled with each of the
    /// [`RECLAIM_ATTEMPTS_MAX`](tidegate_engine::limits::RECLAIM_ATTEMPTS_MAX) times. Longer than a
    /// broker takes to tell who owns what, or two would fence each other meanwhile.
    pub reclaim_wait_first: Duration,
    /// How long a source partition that the bus asks back is drained. Then it is given back as it is, and
    /// its next owner does the rest: nothing is lost, and some of it is done again. As long as a node's
    /// own drain, and well below what a broker waits for a consumer before it puts it out of its group.
    pub release_limit: Duration,
    /// How long a commit or claim waits for the store's answer; then the outcome counts as unknown.
    /// Longer than the server's own limit of a statement, so that the server speaks first.
    pub store_answer_limit: Duration,
    /// Work waiting and no progress for so long is a stall: rebuild.
    pub stall_limit: Duration,
    /// How often actors look after each other.
    pub watch_interval: Duration,
    /// A partition without events for so long is put away.
    pub passivate_after: Duration,
    /// Tenants whose metrics have a series of their own; the others are one. Each costs about thirty
    /// lines of `/metrics`.
    pub tenants_measured_max: usize,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            name: "tidegate".to_owned(),
            node_events_max: 100_000,
            node_bytes_max: 256 * 1024 * 1024,
            tenant_events_max: 25_000,
            tenant_bytes_max: 64 * 1024 * 1024,
            receive_events_max: 2_000,
            receive_bytes_max: 2 * 1024 * 1024,
            batch_events_max: 5_000,
            batch_bytes_max: 4 * 1024 * 1024,
            batch_written_bytes_max: 16 * 1024 * 1024,
            done_above_ranges_max: DONE_ABOVE_FRAGMENTED,
            fair_quantum_bytes: 64 * 1024,
            commit_slots: 4,
            memory: PartitionLimits {
                entities_max: 500_000,
                entities_bytes_max: 256 * 1024 * 1024,
                known_keys_max: 1_000_000,
                emitted_bytes_max: 64 * 1024 * 1024,
            },
            load_entities_max: 2_000,
            back_off: BackOff::default(),
            busy_wait: Duration::from_millis(20),
            restarts_max: 10,
            restart_window: Duration::from_secs(60),
            reclaim_wait_first: Duration::from_millis(500),
            release_limit: Duration::from_secs(30),
            store_answer_limit: Duration::from_secs(45),
            stall_limit: Duration::from_secs(30),
            watch_interval: Duration::from_secs(1),
            passivate_after: Duration::from_secs(60),
            tenants_measured_max: 100,
        }
    }
}

/// What one poll of a bus may return, and the permits that it holds while it waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Poll {
    pub limit: ReceiveLimit,
    /// Payload bytes and what each event costs beside them.
    pub bytes: usize,
}

impl NodeOptions {
    /// The poll of one of so many sources. An idle bus never answers, so that all polls together must
    /// leave a half of the node's permits to what was received.
    pub(crate) fn poll(&self, sources: usize) -> Poll {
        let share = |stock: usize| (stock / (2 * sources.max(1))).max(1);
        let bytes = share(self.node_bytes_max);
        let events_max = self
            .receive_events_max
            .min(RECEIVE_EVENTS_MAX)
            .min(share(self.node_events_max))
            // Half of the bytes at least stay for payload.
            .min(bytes / (2 * ENVELOPE_BYTES))
            .max(1);
        let envelopes = events_max * ENVELOPE_BYTES;
        let bytes_max = bytes
            .saturating_sub(envelopes)
            .clamp(1, self.receive_bytes_max.max(1));
        Poll {
            limit: ReceiveLimit {
                events_max,
                bytes_max,
            },
            bytes: bytes.min(bytes_max + envelopes),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_engine::admission::ENVELOPE_BYTES;

    use super::NodeOptions;

    #[test]
    fn one_source_polls_as_much_as_it_may_and_many_hold_half_of_the_node() {
        let options = NodeOptions::default();
        let alone = options.poll(1).limit;
        assert_eq!(alone.events_max, options.receive_events_max);
        assert_eq!(alone.bytes_max, options.receive_bytes_max);
        for sources in [2, 25, 100, 256, 1_000, 10_000] {
            let poll = options.poll(sources);
            assert!(sources * poll.limit.events_max <= options.node_events_max / 2);
            assert!(sources * poll.bytes <= options.node_bytes_max / 2);
            assert!(poll.limit.events_max * ENVELOPE_BYTES + poll.limit.bytes_max <= poll.bytes);
        }
    }
}
