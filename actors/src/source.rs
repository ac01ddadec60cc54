//! The source task: one a bus. Receives with permits, claims what is assigned, routes to tenants, and
//! looks after its ownerships: what breaks is claimed again within the restart budget, then quarantined.

mod claim;
mod look_after;
mod news;
mod receipt;
mod register;
mod slot;
mod unread;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use tidegate_engine::admission::{self, Binding, Received};
use tidegate_engine::bus::{BusError, BusEvent, Delivery, EventBus, Start};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::mapping::Mapping;
use tidegate_engine::position::{SourceInstance, SourcePartition, StreamName};
use tidegate_engine::secrets::SecretPolicy;
use tidegate_engine::tenant::{TenantBinding, TenantId};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::failpoint::{self, Failpoint};
use crate::meters::SourceMeters;
use crate::options::Poll;
use crate::ownership::{Ownership, Standing};
use crate::permits::{Allotment, Permit, Stock};
use crate::seams::Context;
use crate::supervisor::Route;
use crate::tenants::Tenants;
use claim::Claimed;
use receipt::{note_receipt, say_secrets, trace_receipt};
pub(crate) use register::Believed;
pub(crate) use slot::{Held, Slot};

/// A source of the node: a bus, and what its deliveries have in common.
#[derive(Clone)]
pub struct Source {
    /// Where deliveries come from.
    pub bus: Arc<dyn EventBus>,
    /// The stream that they become.
    pub stream: StreamName,
    /// Where their tenant comes from.
    pub tenant: TenantBinding,
    /// How they become events, when they are none by themselves.
    pub mapping: Option<Arc<Mapping>>,
    /// What is done with payloads that hold what looks like a secret.
    pub secrets: SecretPolicy,
    /// Where a source partition starts that has no checkpoint.
    pub start: Start,
}

impl Source {
    /// What the deliveries of a partition are read with.
    fn binding(&self, partition: u32) -> Binding {
        let known = match self.tenant {
            TenantBinding::OfPartition => self.bus.tenant_of(partition),
            _ => None,
        };
        Binding {
            stream: self.stream.clone(),
            tenant: known.map_or_else(|| self.tenant.clone(), TenantBinding::Fixed),
            mapping: self.mapping.clone(),
            secrets: self.secrets,
        }
    }
}

/// What the node wants of a source task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Command {
    Run,
    /// Receive nothing more; settle what was received.
    Drain,
    /// End now.
    Stop,
}

/// How a source stands as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceStatus {
    /// It runs.
    Running,
    /// Bounded, and everything in it is settled.
    Ended,
    /// It was drained: nothing more will be settled of what was received. What broke meanwhile is not.
    Drained,
    /// Some partition is stopped or quarantined, with the reason; the others go on.
    Failed {
        /// What happened, by partition.
        reason: String,
        /// Nothing of the source goes on, or nothing that a person could decide would mend it under this node.
        is_whole: bool,
    },
    /// The task has ended.
    Stopped,
}

/// The slots of a source, shared with whoever observes it.
pub(crate) type Slots = Arc<Mutex<BTreeMap<u32, Slot>>>;

pub(crate) struct SourceTask {
    pub context: Context,
    pub source: Source,
    pub tenants: Arc<Tenants>,
    pub node: Arc<Stock>,
    /// What one poll may return, and holds of the node's stock.
    pub poll: Poll,
    pub commit_slots: Arc<Semaphore>,
    pub slots: Slots,
    pub meters: SourceMeters,
    /// Claims that have not returned, one a partition; the sender is dropped when nobody wants it any
    /// more. The next claim of a partition waits for the one before: two at once fence each other.
    pub claiming: BTreeMap<u32, Option<oneshot::Sender<()>>>,
    pub commands: watch::Receiver<Command>,
    pub status: watch::Sender<SourceStatus>,
    /// Why the bus can never be read again, once it said so. Polls go on all the same: what is asked
    /// back is given back.
    pub failed: Option<String>,
    pub moved: Arc<Notify>,
    /// Tenants that the store knew as open a moment ago.
    pub believed: Believed,
    /// The poll of the bus that is under way. It is let go of before the bus is asked for anything else
    /// here: a future that nobody polls may hold what the answer waits for.
    pub receiving: Option<Receiving>,
}

pub(crate) type Receiving =
    Pin<Box<dyn Future<Output = (Allotment, Result<Vec<BusEvent>, BusError>)> + Send>>;

/// Claims that may wait to be taken in: one a partition at most, and the task takes them in at once.
const CLAIMS_MAX: usize = 64;

impl SourceTask {
    /// Runs until it is told to stop. A panic stops the source with an alarm: what the bus has told of
    /// assignments may be lost with it, so that only a new consumer knows again who owns what.
    pub async fn run(self) {
        let (slots, status) = (self.slots.clone(), self.status.clone());
        let source = self.source.bus.source().clone();
        if AssertUnwindSafe(self.receive_and_route())
            .catch_unwind()
            .await
            .is_err()
        {
            let reason = "its task panicked. Nothing is lost; restart this node".to_owned();
            tracing::error!(%source, %reason, "source stopped");
            stop_all(&slots, &reason);
            let is_whole = true;
            let _ = status.send_replace(SourceStatus::Failed { reason, is_whole });
        }
    }

    async fn receive_and_route(mut self) {
        let (claims, mut claimed) = mpsc::channel::<Claimed>(CLAIMS_MAX);
        let mut watch = tokio::time::interval(self.context.options.watch_interval);
        let mut failures = 0;
        loop {
            let command = *self.commands.borrow_and_update();
            if command == Command::Stop {
                break;
            }
            if command == Command::Drain {
                failpoint::hit(Failpoint::Draining);
                self.receiving = None;
            }
            self.look_after(&claims).await;
            self.tell_status(command);
            if self.receiving.is_none() && command == Command::Run {
                self.receiving = Some(self.receive(failures));
            }
            let (moved, due, bus) = (self.moved.clone(), self.due(), self.source.bus.clone());
            tokio::select! {
                biased;
                changed = self.commands.changed() => if changed.is_err() { break },
                Some(done) = claimed.recv() => self.take_claim(done).await,
                _ = moved.notified() => {}
                () = until(due) => {}
                // Also while what is received waits for permits, or nothing is to be received any more.
                news = bus.news() => news.into_iter().for_each(|event| self.take_news(event)),
                _ = watch.tick() => {}
                (allowance, received) = next(&mut self.receiving) => {
                    self.receiving = None;
                    match received {
                        Ok(events) => {
                            failures = 0;
                            self.take_events(events, allowance, &claims).await;
                        }
                        Err(error) => {
                            failures += 1;
                            self.meters.receive_failed(error.kind());
                            tracing::warn!(source = %self.source.bus.source(), %error, "nothing received");
                            if error.kind() != tidegate_engine::error::ErrorKind::Transient {
                                if self.failed.is_none() {
                                    stop_all(&self.slots, &error.to_string());
                                }
                                self.failed = Some(error.to_string());
                            }
                        }
                    }
                }
            }
        }
        self.end_all("the node stops");
        let _ = self.status.send_replace(SourceStatus::Stopped);
    }

    /// One poll of the bus, with permits for all it may return. After failures it waits first.
    fn receive(&self, failures: u32) -> Receiving {
        let options = self.context.options.clone();
        let wait = match failures {
            0 => None,
            attempt => Some(
                options
                    .back_off
                    .wait(attempt, self.context.seams.ids.next_u64()),
            ),
        };
        let (node, bus, poll) = (self.node.clone(), self.source.bus.clone(), self.poll);
        let span = tracing::debug_span!("receive", source = %bus.source());
        let received = async move {
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
            let allowance = node.take(poll.limit.events_max, poll.bytes).await;
            let received = bus.receive(poll.limit).await;
            (allowance, received)
        };
        Box::pin(received.instrument(span))
    }

    async fn take_events(
        &mut self,
        events: Vec<BusEvent>,
        mut allowance: Allotment,
        claims: &mpsc::Sender<Claimed>,
    ) {
        for event in events {
            match event {
                BusEvent::Delivered {
                    partition,
                    deliveries,
                } => {
                    let source = self.source.bus.source().clone();
                    let span = tracing::debug_span!("route", %source, partition);
                    self.route(partition, deliveries, &mut allowance, claims)
                        .instrument(span)
                        .await
                }
                news => self.take_news(news),
            }
        }
    }

    /// Receipt and routing of one partition's records, in order.
    async fn route(
        &mut self,
        partition: u32,
        deliveries: Vec<Delivery>,
        allowance: &mut Allotment,
        claims: &mpsc::Sender<Claimed>,
    ) {
        let next = deliveries.last().map(|delivery| delivery.next);
        let owned = self.lock().get_mut(&partition).and_then(|slot| {
            let owned = slot.owned()?;
            slot.received(next?);
            Some(owned)
        });
        let Some((ownership, committer)) = owned else {
            // Not claimed (any more): the claim will seek to where it has to go on.
            return;
        };
        let bus = self.source.bus.clone();
        let bytes = deliveries.iter().map(admission::bytes_held).sum();
        if !self.raise(&ownership, allowance, bytes, claims).await {
            return;
        }
        let admitted_at = self.context.seams.clock.now();
        let began = Instant::now();
        let (groups, fresh) = self.take_note(&ownership, deliveries, admitted_at);
        let groups = self.registered(&ownership, groups, &fresh, claims).await;
        let Some(groups) = groups else { return };
        say_secrets(&ownership, &groups);
        for (tenant, events) in groups {
            let lane = self.tenants.get(&tenant);
            for events in self.cut(events) {
                let (count, bytes) = (events.len(), events.iter().map(|event| event.bytes).sum());
                let mut commands = self.commands.clone();
                if lane.lane.is_short_of(count, bytes) {
                    lane.meters.lane_is_full();
                }
                let mut lane_taken = std::pin::pin!(lane.lane.take(count, bytes));
                let taken = loop {
                    tokio::select! {
                        biased;
                        // A full lane stops the source; only the end of the node goes past it, …
                        _ = commands.wait_for(|command| *command == Command::Stop) => return,
                        taken = &mut lane_taken => break taken,
                        // … and what is asked back, or due to be given back.
                        news = bus.news() => news.into_iter().for_each(|event| self.take_news(event)),
                        () = until(self.due()) => {}
                    }
                    self.look_after(claims).await;
                    if !ownership.is_owned() {
                        return;
                    }
                };
                let route = Route {
                    ownership: ownership.clone(),
                    committer: committer.clone(),
                    events: permitted(events, allowance, taken),
                    admitted_at,
                };
                if lane.supervisor.send(route).await.is_err() {
                    ownership.end(Standing::Broken {
                        reason: "a tenant's supervisor died".to_owned(),
                    });
                    return;
                }
            }
        }
        self.meters.routed(fresh.len(), began.elapsed());
    }

    /// Receipt: what was not settled before, by tenant, and the deliveries that it was read from.
    fn take_note(
        &self,
        ownership: &Ownership,
        deliveries: Vec<Delivery>,
        at: Timestamp,
    ) -> (BTreeMap<TenantId, Vec<Received>>, Vec<Delivery>) {
        let delivered = deliveries.len();
        if let Some(last) = deliveries.last() {
            let recorded = deliveries.first().and_then(|first| first.recorded_at);
            ownership.received(last.next, at, recorded);
        }
        let fresh = note_receipt(ownership, deliveries);
        self.meters.received(delivered, delivered - fresh.len());
        let binding = self.source.binding(ownership.source_partition.partition);
        let instance = self.instance(&ownership.source_partition);
        // Asked once: a line an event is for somebody who looks for one.
        let is_traced = tracing::enabled!(tracing::Level::TRACE);
        let mut groups: BTreeMap<TenantId, Vec<Received>> = BTreeMap::new();
        for delivery in &fresh {
            let (tenant, received) = admission::read_at(instance.as_ref(), delivery, &binding);
            if is_traced {
                trace_receipt(ownership, &tenant, &received);
            }
            groups.entry(tenant).or_default().push(received);
        }
        (groups, fresh)
    }

    /// Which instance of the source a partition's records are of, for a mapping that looks at it.
    fn instance(&self, source_partition: &SourcePartition) -> Option<SourceInstance> {
        let mapping = self.source.mapping.as_ref();
        mapping.filter(|mapping| mapping.uses_position())?;
        let slots = self.lock();
        let slot = slots.get(&source_partition.partition)?;
        Some(SourceInstance {
            source_partition: source_partition.clone(),
            incarnation: slot.incarnation.clone(),
        })
    }

    /// Cuts a tenant's events so that each piece fits its lane twice: one is committed while the next
    /// is routed.
    fn cut(&self, events: Vec<Received>) -> Vec<Vec<Received>> {
        let events_max = (self.context.options.tenant_events_max / 2).max(1);
        let bytes_max = self.context.options.tenant_bytes_max / 2;
        let mut pieces: Vec<Vec<Received>> = Vec::new();
        let mut bytes = 0;
        for event in events {
            match pieces.last_mut() {
                Some(piece) if piece.len() < events_max && bytes + event.bytes <= bytes_max => {
                    bytes += event.bytes;
                    piece.push(event);
                }
                _ => {
                    bytes = event.bytes;
                    pieces.push(vec![event]);
                }
            }
        }
        pieces
    }

    fn tell_status(&self, command: Command) {
        let mut status = slot::status(&self.lock(), self.failed.as_deref(), command);
        // What comes in by requests is nowhere else: a slot that is stopped would be so for ever.
        if let SourceStatus::Failed { is_whole, .. } = &mut status {
            *is_whole |= !self.source.bus.keeps_records();
        }
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }

    fn end_all(&self, reason: &str) {
        for slot in self.lock().values() {
            slot.end(reason);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stops every partition with an alarm.
fn stop_all(slots: &Slots, reason: &str) {
    for slot in slots
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .values_mut()
    {
        slot.quarantine(reason.to_owned());
    }
}

fn permitted(
    events: Vec<Received>,
    node: &mut Allotment,
    tenant: Allotment,
) -> Vec<(Received, Permit)> {
    let permits = Permit::each(node, tenant, events.iter().map(|event| event.bytes));
    events.into_iter().zip(permits).collect()
}

/// Waits for a moment, for ever when there is none.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits for the poll under way, for ever when there is none.
async fn next(receiving: &mut Option<Receiving>) -> (Allotment, Result<Vec<BusEvent>, BusError>) {
    match receiving {
        Some(receiving) => receiving.await,
        None => std::future::pending().await,
    }
}
