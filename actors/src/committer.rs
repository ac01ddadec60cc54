//! The committer: one a source partition and ownership. Takes work from the tenants' partitions in fair
//! order, makes one batch of what is ready, commits it, and settles. One commit is in flight; one batch
//! more is prepared meanwhile on speculative state. What a reply means is decided by the engine's
//! [`CommitProtocol`]; this actor only carries it out.

mod batch;
mod carry_out;
mod messages;
mod notices;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context as ActixContext, WrapFuture,
};
use tidegate_engine::bus::EventBus;
use tidegate_engine::checkpoint::Counts;
use tidegate_engine::commit::{CommitBatch, EntityName, EntityRow};
use tidegate_engine::commit_protocol::CommitProtocol;
use tidegate_engine::limits::{DONE_ABOVE_FRAGMENTED, RECEIVE_EVENTS_MAX};
use tidegate_engine::partition::{Allowance, Part};
use tidegate_engine::position::Offset;
use tidegate_engine::tenant::TenantId;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::fair_queue::FairQueue;
use crate::meters::TenantMeters;
use crate::ownership::{Ownership, Standing};
use crate::partition::{PartitionActor, Preparation, Prepare, Report};
use crate::seams::Context;
use batch::Assembled;
pub use messages::{CommitterSnapshot, ObserveCommitter, Ready, Retire};

/// Messages that may wait in a committer's mailbox: one report of each partition at most, the rest is
/// one reply and one observer.
pub const MAILBOX_MESSAGES_MAX: usize = 16_384;

/// Batches that may be refused one after the other, each halved, before that counts as standing still: the
/// largest is down to one event by then.
const SURPRISES_IN_A_ROW_MAX: u32 = 16;

/// The committer of one ownership.
pub struct Committer {
    context: Context,
    ownership: Arc<Ownership>,
    bus: Arc<dyn EventBus>,
    slots: Arc<Semaphore>,
    protocol: CommitProtocol,
    /// Outcomes up to the last commit.
    counts: Counts,
    lanes: BTreeMap<TenantId, Lane>,
    /// The tenants whose lanes are not idle.
    busy: BTreeSet<TenantId>,
    queue: FairQueue,
    /// Counts preparations; answers to one before a reset are recognised by it.
    round: u64,
    preparing: Option<Preparing>,
    /// The last preparation was of a busy tenant alone; the rest has its turn next.
    offered_alone: bool,
    /// The last preparation was of the oldest events alone, for what is settled has too many holes.
    in_order: bool,
    /// Made on speculative state, waits for the batch in flight.
    next: Option<Assembled>,
    in_flight: Option<InFlight>,
    /// The commit in flight waits for one of the node's slots: others have their turn, and that is no
    /// stall of ours.
    waits_for_slot: Arc<AtomicBool>,
    /// Rows of entities that the last settled batch created, for the batch that was made before.
    fresh_rows: BTreeMap<EntityName, EntityRow>,
    acknowledging: bool,
    acknowledged: Offset,
    progressed_at: Instant,
    /// Batches that were refused for what no wait mends, since one was not.
    surprises_in_a_row: u32,
    commits: u64,
    surprises: u64,
    /// Keys that the store has named as known, and whose events are not settled.
    hits_in_store: u64,
}

struct Lane {
    partition: Addr<PartitionActor>,
    report: Report,
    /// Another transaction held its entities: from then on it is offered again, alone, until a batch of
    /// it is settled. With others it would have their batches refused as well.
    busy_until: Option<Instant>,
    /// Parts prepared and not settled.
    prepared: usize,
    /// Settlements and resets that the partition has not answered: what it has to do then is not known.
    unanswered: usize,
    meters: Arc<TenantMeters>,
}

impl Lane {
    fn is_idle(&self) -> bool {
        self.report.unsettled == 0
            && !self.report.stored
            && self.prepared == 0
            && self.unanswered == 0
    }
}

struct Preparing {
    round: u64,
    awaited: usize,
    parts: Vec<Part>,
}

struct InFlight {
    assembled: Assembled,
    batch: Arc<CommitBatch>,
    made: Instant,
}

impl Committer {
    pub(crate) fn new(
        context: Context,
        ownership: Arc<Ownership>,
        bus: Arc<dyn EventBus>,
        slots: Arc<Semaphore>,
        protocol: CommitProtocol,
        counts: Counts,
    ) -> Self {
        let queue = FairQueue::new(context.options.fair_quantum_bytes);
        let acknowledged = ownership.tracker().low_watermark();
        Self {
            context,
            ownership,
            bus,
            slots,
            protocol,
            counts,
            lanes: BTreeMap::new(),
            busy: BTreeSet::new(),
            queue,
            round: 0,
            preparing: None,
            offered_alone: false,
            in_order: false,
            next: None,
            in_flight: None,
            waits_for_slot: Arc::default(),
            fresh_rows: BTreeMap::new(),
            acknowledging: false,
            acknowledged,
            progressed_at: Instant::now(),
            surprises_in_a_row: 0,
            commits: 0,
            surprises: 0,
            hits_in_store: 0,
        }
    }

    /// Does what can be done next: hands a batch over, or prepares one.
    fn advance(&mut self, context: &mut ActixContext<Self>) {
        if !self.ownership.is_owned() {
            return self.retire(context);
        }
        if self.in_flight.is_none()
            && self.protocol.is_idle()
            && let Some(assembled) = self.next.take()
        {
            self.submit(assembled, context);
        }
        if self.preparing.is_none() && self.next.is_none() && self.is_worth_preparing() {
            self.prepare(context);
        }
    }

    /// While a commit is in flight, only a full batch is made ahead. A smaller one would be sealed with
    /// what happens to be there, and batches have to grow with the load.
    fn is_worth_preparing(&self) -> bool {
        // What is made behind the batch of a busy tenant would be thrown away with it, and in order there is
        // little to make before that batch is settled.
        let waits = self.in_flight.is_some() && (self.offered_alone || self.in_order);
        if self.queue.is_empty() || waits {
            return false;
        }
        let options = &self.context.options;
        self.in_flight.is_none()
            || self.queue.events() >= options.batch_events_max
            || self.queue.bytes() >= options.batch_bytes_max
    }

    // --- prepare ------------------------------------------------------------------------------

    fn prepare(&mut self, context: &mut ActixContext<Self>) {
        let terms = self.protocol.terms(0);
        if terms.one_event && self.in_flight.is_some() {
            return;
        }
        let options = self.context.options.clone();
        let events_max = if terms.one_event {
            1
        } else {
            // What somebody else moves all the time is met by a small batch sooner or later.
            let halved = options.batch_events_max >> terms.halved.min(usize::BITS - 1);
            halved.min(terms.events_max).max(1)
        };
        // A stream whose settled events have too many holes between them goes on in their order. The window
        // is larger than a poll: the source may wait for a lane with the rest of one in its hands.
        let ranges_max = options.done_above_ranges_max.min(DONE_ABOVE_FRAGMENTED);
        let poll = options.receive_events_max.min(RECEIVE_EVENTS_MAX);
        let window = options.batch_events_max.max(poll + 1);
        let before = self
            .ownership
            .tracker()
            .settle_before(ranges_max, window.max(ranges_max));
        let batch = Allowance {
            events_max,
            bytes_max: options.batch_bytes_max,
            written_bytes_max: options.batch_written_bytes_max,
            before,
        };
        let may_go = |tenant: &TenantId| {
            let report = self.lanes.get(tenant).map(|lane| lane.report);
            // Emitted events are in no order of offsets, and go.
            let goes = |report: &Report, before| {
                report.emitted > 0 || report.oldest.is_some_and(|oldest| oldest < before)
            };
            before.is_none_or(|before| report.is_some_and(|report| goes(&report, before)))
        };
        let alone = self.to_offer_alone(may_go);
        let grants = self.queue.grant(batch, |tenant| match &alone {
            Some(alone) => alone == tenant,
            None => {
                let lane = self.lanes.get(tenant);
                lane.is_none_or(|lane| lane.busy_until.is_none()) && may_go(tenant)
            }
        });
        let asked: Vec<_> = grants
            .into_iter()
            .filter_map(|(tenant, allowance)| {
                let asked = self
                    .lanes
                    .get(&tenant)?
                    .partition
                    .send(Prepare { allowance });
                Some((tenant, asked))
            })
            .collect();
        if asked.is_empty() {
            return;
        }
        self.offered_alone = alone.is_some();
        self.in_order = before.is_some();
        self.round += 1;
        let round = self.round;
        self.preparing = Some(Preparing {
            round,
            awaited: asked.len(),
            parts: Vec::new(),
        });
        for (tenant, asked) in asked {
            let prepared = asked
                .into_actor(self)
                .map(move |answer, committer, context| {
                    committer.prepared(round, tenant, answer.ok(), context);
                });
            context.spawn(prepared);
        }
    }

    /// The busy tenant that has waited longest, in turns with the rest.
    fn to_offer_alone(&self, may_go: impl Fn(&TenantId) -> bool) -> Option<TenantId> {
        let now = Instant::now();
        let ready = || {
            let lanes = self.lanes.iter();
            lanes.filter(|(tenant, _)| self.queue.is_ready(tenant) && may_go(tenant))
        };
        if self.offered_alone && ready().any(|(_, lane)| lane.busy_until.is_none()) {
            return None;
        }
        ready()
            .filter_map(|(tenant, lane)| Some((lane.busy_until?, tenant)))
            .filter(|(until, _)| *until <= now)
            .min()
            .map(|(_, tenant)| tenant.clone())
    }

    fn prepared(
        &mut self,
        round: u64,
        tenant: TenantId,
        answer: Option<Preparation>,
        context: &mut ActixContext<Self>,
    ) {
        let Some(Preparation { part, report }) = answer else {
            return self.broken("a partition's actor died", context);
        };
        self.take_report(&tenant, report);
        let Some(preparing) = self
            .preparing
            .as_mut()
            .filter(|preparing| preparing.round == round)
        else {
            // Of before a reset: the partition has dropped or will drop that part.
            return self.advance(context);
        };
        if let Some(part) = part {
            preparing.parts.push(*part);
            if let Some(lane) = self.lanes.get_mut(&tenant) {
                lane.prepared += 1;
            }
        }
        preparing.awaited -= 1;
        if preparing.awaited == 0
            && let Some(preparing) = self.preparing.take()
            && !preparing.parts.is_empty()
        {
            // What is made again and again is no progress.
            if self.surprises_in_a_row <= SURPRISES_IN_A_ROW_MAX {
                self.progressed_at = Instant::now();
            }
            self.next = Some(Assembled::new(preparing.parts));
        }
        self.advance(context);
    }

    // --- lanes --------------------------------------------------------------------------------

    /// Sends a message that a partition answers with a report.
    fn tell<M>(&mut self, tenant: &TenantId, message: M, context: &mut ActixContext<Self>)
    where
        M: actix::Message<Result = Report> + Send + 'static,
        PartitionActor: actix::Handler<M>,
    {
        let Some(lane) = self.lanes.get_mut(tenant) else {
            return;
        };
        lane.unanswered += 1;
        let (tenant, tenant_told) = (tenant.clone(), tenant.clone());
        let told =
            lane.partition
                .send(message)
                .into_actor(self)
                .map(move |answer, committer, context| match answer {
                    Ok(report) => {
                        if let Some(lane) = committer.lanes.get_mut(&tenant) {
                            lane.unanswered -= 1;
                        }
                        committer.take_report(&tenant, report);
                        committer.advance(context);
                    }
                    Err(_) => committer.broken("a partition's actor died", context),
                });
        context.spawn(told);
        self.look_at(&tenant_told);
    }

    fn ready(&mut self, ready: Ready, context: &mut ActixContext<Self>) {
        match self.lanes.get(&ready.tenant) {
            Some(lane) if lane.partition == ready.partition => {}
            Some(lane) if lane.partition.connected() || !lane.is_idle() => {
                // Its supervisor died and another made a second partition: neither knows everything.
                return self.broken("a tenant has two partitions", context);
            }
            _ => {
                let report = Report {
                    number: 0,
                    events: 0,
                    bytes: 0,
                    oldest: None,
                    emitted: 0,
                    unsettled: 0,
                    stored: false,
                };
                let partition = ready.partition.clone();
                let lane = Lane {
                    partition,
                    report,
                    busy_until: None,
                    prepared: 0,
                    unanswered: 0,
                    meters: self.context.meters.tenant(&ready.tenant),
                };
                self.lanes.insert(ready.tenant.clone(), lane);
            }
        }
        self.take_report(&ready.tenant, ready.report);
        self.advance(context);
    }

    fn take_report(&mut self, tenant: &TenantId, report: Report) {
        let Some(lane) = self.lanes.get_mut(tenant) else {
            return;
        };
        if report.number > lane.report.number {
            lane.report = report;
            self.queue.set(tenant, report.events, report.bytes);
        }
        self.look_at(tenant);
    }

    /// Tells the ownership when a lane is idle now, or no more.
    fn look_at(&mut self, tenant: &TenantId) {
        match self.lanes.get(tenant) {
            Some(lane) if !lane.is_idle() => {
                if !self.busy.contains(tenant) {
                    self.busy.insert(tenant.clone());
                }
            }
            _ => drop(self.busy.remove(tenant)),
        }
        self.ownership.set_idle(self.busy.is_empty());
    }

    // --- watch and end ------------------------------------------------------------------------

    fn watch(&mut self, context: &mut ActixContext<Self>) {
        if !self.ownership.is_owned() {
            return self.retire(context);
        }
        // A partition that was put away is idle; one that died with work is not.
        self.lanes
            .retain(|_, lane| lane.partition.connected() || !lane.is_idle());
        if self.lanes.values().any(|lane| !lane.partition.connected()) {
            return self.broken("a partition's actor died", context);
        }
        let waiting = !self.ownership.is_settled() && !self.waits_for_slot.load(Ordering::Relaxed);
        if waiting && self.progressed_at.elapsed() > self.context.options.stall_limit {
            return self.broken("stalled: work is waiting and nothing moves", context);
        }
        if !waiting {
            self.progressed_at = Instant::now();
        }
        self.advance(context);
    }

    fn broken(&mut self, reason: &str, context: &mut ActixContext<Self>) {
        self.ownership.end(Standing::Broken {
            reason: reason.to_owned(),
        });
        self.retire(context);
    }

    fn retire(&mut self, context: &mut ActixContext<Self>) {
        self.lanes.clear();
        context.stop();
    }
}

impl Actor for Committer {
    type Context = ActixContext<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        context.run_interval(self.context.options.watch_interval, |committer, context| {
            committer.watch(context)
        });
    }
}

/// However a committer ends, its ownership ends with it, at once: whoever waits for permits that its
/// events hold would wait for ever if only the source task looked, which may be the one that waits.
impl Drop for Committer {
    fn drop(&mut self) {
        self.ownership.end(Standing::Broken {
            reason: "the committer died".to_owned(),
        });
    }
}
