//! The node: sources, tenants and committers as one thing that is started, observed, drained and stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;
use tidegate_engine::bus::{EventBus, OffsetUnit, TopicPartition};
use tidegate_engine::checkpoint::Counts;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::position::{Offset, SourceName, SourcePartition};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::committer::{Committer, CommitterSnapshot, ObserveCommitter};
use crate::memory::Memory;
use crate::meters::{Meters, SourceMeters, TenantLabels};
use crate::options::NodeOptions;
use crate::ownership::Ownership;
use crate::permits::Stock;
use crate::seams::{Context, NodeSeams};
use crate::source::{Believed, Command, Held, Slot, Slots, Source, SourceStatus, SourceTask};
use crate::supervisor::{ObserveSupervisor, SupervisorSnapshot};
use crate::tenants::Tenants;

/// Starts nodes.
pub struct Node;

/// A running node. Dropping the handle stops it without a drain.
pub struct NodeHandle {
    sources: Vec<SourceHandle>,
    tenants: Arc<Tenants>,
    node: Arc<Stock>,
    context: Context,
}

struct SourceHandle {
    name: SourceName,
    slots: Slots,
    commands: watch::Sender<Command>,
    status: watch::Receiver<SourceStatus>,
    bus: Arc<dyn EventBus>,
    /// Its bus is being asked where its partitions end.
    asks: Arc<AtomicBool>,
}

/// What a node shows of itself.
#[derive(Clone, Debug)]
pub struct NodeSnapshot {
    /// Its sources.
    pub sources: Vec<SourceSnapshot>,
    /// Its tenants.
    pub tenants: Vec<TenantSnapshot>,
    /// Events unsettled in the node.
    pub unsettled_events: usize,
    /// Bytes unsettled in the node.
    pub unsettled_bytes: usize,
    /// The most of both that may be.
    pub unsettled_max: (usize, usize),
    /// The most events and bytes of a tenant's lane.
    pub lane_max: (usize, usize),
    /// What the partitions may keep in memory together.
    pub memory_max: PartitionLimits,
}

/// A source partition that is assigned and not read: stopped with an alarm, or waiting for its turn.
#[derive(Clone, Debug)]
pub struct UnreadPartition {
    /// Which one.
    pub source_partition: SourcePartition,
    /// What the tools of its broker call it.
    pub name: Option<TopicPartition>,
    /// Everything before it is settled.
    pub low_watermark: Offset,
    /// Where it ends, as its bus says.
    pub end: Offset,
    /// When it was first seen that something waits.
    pub since: Option<Timestamp>,
}

/// What a source shows of itself.
#[derive(Clone, Debug)]
pub struct SourceSnapshot {
    /// Its name.
    pub source: SourceName,
    /// How it stands.
    pub status: SourceStatus,
    /// Its partitions that are owned.
    pub partitions: Vec<CommitterSnapshot>,
    /// What the tools of its broker call these, each in its place.
    pub names: Vec<Option<TopicPartition>>,
    /// Its partitions that are assigned and not owned yet: their claim is under way, or waits for its turn.
    pub claiming: usize,
    /// How far those are behind that are assigned and not read, as far as that was seen.
    pub unread: Vec<UnreadPartition>,
    /// Its partitions that are stopped with an alarm.
    pub quarantined: usize,
    /// How often what its bus logs in with could not be renewed.
    pub login_failures: u64,
    /// What the offsets of its bus count.
    pub offset_unit: OffsetUnit,
    /// How long the slowest of its committers let a message wait, that of this snapshot.
    pub slowest_answer: Duration,
}

/// What a tenant shows of itself.
#[derive(Clone, Debug)]
pub struct TenantSnapshot {
    /// Its supervisor and partitions.
    pub supervisor: SupervisorSnapshot,
    /// Events in its lane.
    pub lane_events: usize,
    /// Bytes in its lane.
    pub lane_bytes: usize,
    /// What the label `tenant` of its metrics says: its name, or that of all that have no series of their
    /// own.
    pub label: String,
    /// How long its actors let a message wait, that of this snapshot.
    pub answer: Duration,
}

impl NodeSnapshot {
    /// The outcomes of every source partition together.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for partition in self.sources.iter().flat_map(|source| &source.partitions) {
            sum.add(&partition.counts);
        }
        sum
    }
}

/// How a drain went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainReport {
    /// True when everything received was settled in time.
    pub drained: bool,
    /// Events that were not, at most, dropped ones of partitions that broke included: they stay in their
    /// source and are delivered again.
    pub unsettled_events: usize,
}

/// Why a node's sources will not end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("source `{source_name}` failed: {reason}")]
pub struct SourceFailed {
    /// The source.
    pub source_name: SourceName,
    /// What happened.
    pub reason: String,
}

impl Node {
    /// Starts a node inside an actix system. Its sources run as owned tasks of the spawner.
    pub fn start(mut options: NodeOptions, seams: NodeSeams, sources: Vec<Source>) -> NodeHandle {
        // Each source's poll holds one event at least, and half of the stock is for what was received.
        options.node_events_max = options.node_events_max.max(2 * sources.len());
        // What permits can count, so that the sources' shares are of the same.
        options.node_bytes_max = options.node_bytes_max.min(u32::MAX as usize);
        let node = Stock::new(options.node_events_max, options.node_bytes_max);
        let poll = options.poll(sources.len());
        let commit_slots = Arc::new(Semaphore::new(options.commit_slots.max(1)));
        let context = Context {
            seams,
            memory: Memory::new(options.memory),
            meters: Meters::new(options.tenants_measured_max),
            options: Arc::new(options),
        };
        let tenants = Tenants::new(context.clone());
        let sources = sources
            .into_iter()
            .map(|source| {
                let (commands, commands_received) = watch::channel(Command::Run);
                let (status, status_received) = watch::channel(SourceStatus::Running);
                let slots: Slots = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
                let name = source.bus.source().clone();
                let bus = source.bus.clone();
                let task = SourceTask {
                    context: context.clone(),
                    source,
                    tenants: tenants.clone(),
                    node: node.clone(),
                    poll,
                    commit_slots: commit_slots.clone(),
                    slots: slots.clone(),
                    meters: SourceMeters::new(&name),
                    claiming: std::collections::BTreeMap::new(),
                    commands: commands_received,
                    status,
                    failed: None,
                    moved: Arc::new(Notify::new()),
                    believed: Believed::default(),
                    receiving: None,
                };
                context.seams.spawner.spawn(Box::pin(task.run()));
                SourceHandle {
                    name,
                    slots,
                    commands,
                    status: status_received,
                    bus,
                    asks: Arc::default(),
                }
            })
            .collect();
        NodeHandle {
            sources,
            tenants,
            node,
            context,
        }
    }
}

impl NodeHandle {
    /// Waits until every source is bounded, read to its end and settled, or until one fails.
    pub async fn ended(&self) -> Result<(), SourceFailed> {
        // All at once: one that fails is told while the others run.
        let ended = |source| SourceHandle::ended(source, false);
        try_join_all(self.sources.iter().map(ended)).await?;
        Ok(())
    }

    /// The same, but partitions that are stopped with an alarm wait for a person's decision, and the others go
    /// on meanwhile.
    pub async fn ended_as_a_whole(&self) -> Result<(), SourceFailed> {
        let ended = |source| SourceHandle::ended(source, true);
        try_join_all(self.sources.iter().map(ended)).await?;
        Ok(())
    }

    /// Receives nothing more, settles what was received within `limit`, then stops.
    pub async fn drain(self, limit: Duration) -> DrainReport {
        for source in &self.sources {
            let _ = source.commands.send(Command::Drain);
        }
        let deadline = tokio::time::Instant::now() + limit;
        let mut drained = true;
        // What is stopped has nothing that could be settled, and says itself what it left.
        let is_drained = |status: &SourceStatus| {
            matches!(
                status,
                SourceStatus::Drained
                    | SourceStatus::Failed {
                        is_whole: false,
                        ..
                    }
            )
        };
        for source in &self.sources {
            let mut status = source.status.clone();
            let waited = tokio::time::timeout_at(
                deadline,
                status.wait_for(|status| match status {
                    SourceStatus::Running | SourceStatus::Ended => false,
                    SourceStatus::Drained | SourceStatus::Stopped => true,
                    // Said of what was set aside before; the rest may still be on its way.
                    SourceStatus::Failed { .. } => source.is_drained(),
                }),
            )
            .await;
            drained &= matches!(waited, Ok(Ok(ref status)) if is_drained(status));
        }
        let unsettled_events = self.unsettled();
        self.stop().await;
        DrainReport {
            drained: drained && unsettled_events == 0,
            unsettled_events,
        }
    }

    /// Stops at once. What is unsettled stays in its source and is delivered again.
    pub async fn stop(self) {
        self.kill();
        for source in &self.sources {
            let mut status = source.status.clone();
            let _ = status
                .wait_for(|status| *status == SourceStatus::Stopped)
                .await;
        }
        self.tenants.clear();
    }

    /// Tells everything to stop and waits for nothing.
    pub fn kill(&self) {
        for source in &self.sources {
            let _ = source.commands.send(Command::Stop);
            for slot in source
                .slots
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .values()
            {
                slot.end("the node stops");
            }
        }
    }

    /// Asks every actor for its snapshot.
    pub async fn snapshot(&self) -> NodeSnapshot {
        let mut sources = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let mut partitions = Vec::new();
            let mut slowest_answer = Duration::ZERO;
            for committer in source.committers() {
                let asked = Instant::now();
                partitions.extend(committer.send(ObserveCommitter).await);
                slowest_answer = slowest_answer.max(asked.elapsed());
            }
            let status = source.status.borrow().clone();
            let name_of =
                |it: &CommitterSnapshot| source.bus.name_of(it.source_partition.partition);
            sources.push(SourceSnapshot {
                names: partitions.iter().map(name_of).collect(),
                source: source.name.clone(),
                status,
                partitions,
                claiming: source.claiming(),
                unread: source.unread(),
                quarantined: source.quarantined(),
                login_failures: source.bus.login_failures(),
                offset_unit: source.bus.offset_unit(),
                slowest_answer,
            });
        }
        let mut tenants = Vec::new();
        for (_, tenant) in self.tenants.all() {
            let asked = Instant::now();
            if let Ok(supervisor) = tenant.supervisor.send(ObserveSupervisor).await {
                let (lane_events, lane_bytes) = tenant.lane.in_use();
                tenants.push(TenantSnapshot {
                    supervisor,
                    lane_events,
                    lane_bytes,
                    label: tenant.meters.label().to_owned(),
                    answer: asked.elapsed(),
                });
            }
        }
        let (unsettled_events, unsettled_bytes) = self.node.in_use();
        NodeSnapshot {
            sources,
            tenants,
            unsettled_events,
            unsettled_bytes,
            unsettled_max: self.node.limits(),
            lane_max: (
                self.context.options.tenant_events_max,
                self.context.options.tenant_bytes_max,
            ),
            memory_max: self.context.options.memory,
        }
    }

    /// Says which series a tenant's metrics are in.
    pub fn tenant_labels(&self) -> TenantLabels {
        TenantLabels(self.context.meters.clone())
    }

    /// Has each bus asked where its partitions end, for the lag that later snapshots show. Waits for
    /// nothing, and leaves out a bus that has not answered the question before.
    pub fn ask_ends(&self) {
        for source in &self.sources {
            if source.asks.swap(true, Ordering::AcqRel) {
                continue;
            }
            let (bus, asks) = (source.bus.clone(), source.asks.clone());
            let (owned, clock) = (source.ownerships(), self.context.seams.clock.clone());
            self.context.seams.spawner.spawn(Box::pin(async move {
                for ownership in owned {
                    let partition = ownership.source_partition.partition;
                    match bus.end_offset(partition).await {
                        Ok(Some(end)) => ownership.ends(end, clock.now()),
                        Ok(None) => {}
                        Err(error) => {
                            tracing::debug!(partition = %ownership.source_partition, %error, "the end is not known");
                        }
                    }
                }
                asks.store(false, Ordering::Release);
            }));
        }
    }

    /// Events that were received and are not settled, at most.
    pub fn unsettled(&self) -> usize {
        let tracked = |source: &SourceHandle| -> usize {
            let slots = source.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.values().map(Slot::unsettled).sum()
        };
        self.sources.iter().map(tracked).sum()
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.kill();
    }
}

impl SourceHandle {
    fn is_drained(&self) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().all(Slot::is_drained)
    }

    /// Waits until the source is read to its end and settled, or fails: in one of its partitions, or `as_a_whole`.
    async fn ended(&self, as_a_whole: bool) -> Result<(), SourceFailed> {
        let mut status = self.status.clone();
        let settled = status
            .wait_for(|status| match status {
                SourceStatus::Running => false,
                SourceStatus::Failed { is_whole, .. } => *is_whole || !as_a_whole,
                _ => true,
            })
            .await
            .map_or(SourceStatus::Stopped, |status| status.clone());
        let reason = match settled {
            SourceStatus::Failed { reason, .. } => reason,
            SourceStatus::Stopped => "it was stopped".to_owned(),
            SourceStatus::Ended | SourceStatus::Drained | SourceStatus::Running => return Ok(()),
        };
        Err(SourceFailed {
            source_name: self.name.clone(),
            reason,
        })
    }

    fn committers(&self) -> Vec<actix::Addr<Committer>> {
        self.held(|held| match held {
            Held::Owned { committer, .. } => Some(committer.clone()),
            _ => None,
        })
    }

    fn ownerships(&self) -> Vec<Arc<Ownership>> {
        self.held(|held| match held {
            Held::Owned { ownership, .. } => Some(ownership.clone()),
            _ => None,
        })
    }

    fn unread(&self) -> Vec<UnreadPartition> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = slots.iter().filter_map(|(partition, slot)| {
            let unread = slot.unread?;
            Some(UnreadPartition {
                source_partition: SourcePartition {
                    source: self.name.clone(),
                    partition: *partition,
                },
                name: self.bus.name_of(*partition),
                low_watermark: unread.low_watermark,
                end: unread.end,
                since: unread.since,
            })
        });
        seen.collect()
    }

    fn claiming(&self) -> usize {
        let is_claiming = |held: &Held| matches!(held, Held::Unclaimed(_) | Held::Claiming);
        self.held(|held| is_claiming(held).then_some(())).len()
    }

    fn quarantined(&self) -> usize {
        self.held(|held| matches!(held, Held::Quarantined { .. }).then_some(()))
            .len()
    }

    fn held<T>(&self, look: impl Fn(&Held) -> Option<T>) -> Vec<T> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter_map(|slot| look(&slot.held)).collect()
    }
}
