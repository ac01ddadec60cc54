//! The movement of Tidegate: the only crate that knows actors. It carries events through the seven
//! verbs; what each verb *means* is decided in `tidegate-engine`.
//!
//! ```text
//!  bus ── receive ≤ 2000 events, 2 MiB a poll, under the node's permits (100000 events, 256 MiB)
//!   │       polls that wait hold half of these at most, shared evenly by the sources
//!   │
//!   ▼
//!  source task (one a bus) ── claims, seeks, looks after its ownerships (10 restarts in 60 s)
//!   │
//!   │ route: one message under way, under the tenant's permits (25000 events, 64 MiB)
//!   ▼
//!  TenantSupervisor (one a tenant) ── mailbox ≤ 256 messages
//!   │
//!   │ admit: one message under way
//!   ▼
//!  Partition (one a tenant and source partition) ── mailbox ≤ 1024 messages; one load of
//!   │  ▲                                            ≤ 2000 entities under way, 2 batches deep;
//!   │  │ prepare, settle, reset                     an equal share each of the
//!   │  │                                            node's memory: 500000 entities, 256 MiB of
//!   │  │                                            them, 1000000 keys, 64 MiB of emitted events
//!   ▼  │
//!  Committer (one a source partition) ── mailbox ≤ 16384 messages; fair order, 64 KiB a turn;
//!   │                                    a batch ≤ 5000 events, 4 MiB
//!   │ commit: one in flight a source partition, 4 in the node
//!   ▼
//!  store ── settle: permits back, low watermark ── acknowledge: one under way
//! ```
//!
//! A test holds the figures in this picture against [`NodeOptions::default`] and the mailbox bounds.
//!
//! **What is deliberately absent.** No actor does I/O or holds state across an await: store and bus
//! calls run as owned tasks of the `Spawner` and come back as messages. No actor is restarted in place:
//! whatever breaks (a panic, a stall, a fence, a lost outcome) ends the *ownership* of its source
//! partition, and a new claim rebuilds everything from the store under a new epoch. There is one way to
//! recover, and it is the one that a crash takes. Only an owner that was fenced asks the bus first.

pub mod committer;
pub mod failpoint;
pub mod fair_queue;
mod lag;
mod memory;
mod meters;
pub mod names;
pub mod node;
pub mod options;
pub mod ownership;
pub mod partition;
pub mod permits;
pub mod placement;
pub mod restart;
pub mod seams;
pub mod source;
mod store_calls;
pub mod supervisor;
mod tenants;

pub use meters::{OTHER_TENANTS, TenantLabels};
pub use node::{DrainReport, Node, NodeHandle, NodeSnapshot, SourceFailed};
pub use options::NodeOptions;
pub use placement::Placement;
pub use seams::NodeSeams;
pub use source::{Source, SourceStatus};

#[cfg(test)]
mod tests {
    use crate::{NodeOptions, committer, partition, supervisor};

    #[test]
    #[allow(clippy::too_many_lines, reason = "a list")]
    fn the_picture_shows_the_bounds_that_hold() {
        const MIB: usize = 1024 * 1024;
        let options = NodeOptions::default();
        let picture: String = include_str!("lib.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//!"))
            .map(|line| line.replace(['│', '▼', '▲'], " "))
            .flat_map(|line| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
            .join(" ");
        let shown = [
            format!(
                "receive ≤ {} events, {} MiB a poll, under the node's permits ({} events, {} MiB)",
                options.receive_events_max,
                options.receive_bytes_max / MIB,
                options.node_events_max,
                options.node_bytes_max / MIB
            ),
            format!(
                "({} restarts in {} s)",
                options.restarts_max,
                options.restart_window.as_secs()
            ),
            format!(
                "tenant's permits ({} events, {} MiB)",
                options.tenant_events_max,
                options.tenant_bytes_max / MIB
            ),
            format!(
                "TenantSupervisor (one a tenant) ── mailbox ≤ {} messages",
                supervisor::MAILBOX_MESSAGES_MAX
            ),
            format!(
                "source partition) ── mailbox ≤ {} messages; one load of",
                partition::MAILBOX_MESSAGES_MAX
            ),
            format!("≤ {} entities under way", options.load_entities_max),
            format!(
                "node's memory: {} entities, {} MiB of them, {} keys, {} MiB of emitted events",
                options.memory.entities_max,
                options.memory.entities_bytes_max / MIB,
                options.memory.known_keys_max,
                options.memory.emitted_bytes_max / MIB
            ),
            format!(
                "under way, {} batches deep",
                tidegate_engine::partition::PREPARED_MAX
            ),
            format!(
                "mailbox ≤ {} messages; fair order, {} KiB a turn",
                committer::MAILBOX_MESSAGES_MAX,
                options.fair_quantum_bytes / 1024
            ),
            format!(
                "a batch ≤ {} events, {} MiB",
                options.batch_events_max,
                options.batch_bytes_max / MIB
            ),
            format!(
                "one in flight a source partition, {} in the node",
                options.commit_slots
            ),
        ];
        for figure in shown {
            assert!(
                picture.contains(&figure),
                "the picture does not say: {figure}\n{picture}"
            );
        }
    }
}
