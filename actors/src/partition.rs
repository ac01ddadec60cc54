//! The partition actor: drives one [`Partition`] of the engine. Asks the store for the entities that
//! queued events need, and answers its committer. Does no I/O itself and holds no state across an await.

mod messages;

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context as ActixContext, Handler, Message,
    MessageResult, WeakAddr, WrapFuture,
};
use tidegate_engine::commit::{EntityName, StoredEntity};
use tidegate_engine::error::ErrorKind;
use tidegate_engine::limits::OPEN_WORK_PAGE;
use tidegate_engine::partition::{Heads, Partition, Prepared, Settled};
use tidegate_engine::position::StreamPartition;
use tidegate_engine::store::{StoreError, StoredOpenWork, StreamHead};
use tidegate_engine::tenant::TenantId;
use tokio::time::Instant;

use crate::committer::{Committer, Ready};
use crate::memory::Share;
use crate::ownership::{Ownership, Standing};
use crate::permits::Permit;
use crate::seams::Context;
use crate::store_calls::StoreCalls;
pub use messages::{
    Admit, ObservePartition, PartitionSnapshot, Preparation, Prepare, Report, Reset, RetireIfIdle,
    Settle,
};

/// Messages that may wait in a partition's mailbox. Routing is bounded by permits and the committer has
/// at most a handful outstanding, so this is a second fence, never the bound that is felt.
pub const MAILBOX_MESSAGES_MAX: usize = 1_024;

/// One tenant's partition of one ownership.
pub struct PartitionActor {
    context: Context,
    ownership: Arc<Ownership>,
    committer: Addr<Committer>,
    tenant: TenantId,
    memory: Share,
    /// Absent until the head of its log was read.
    state: Option<Partition<Permit>>,
    /// Events that came before that.
    early: Vec<Admit>,
    loads_in_flight: usize,
    load_attempt: u32,
    /// Tries in a row to read open work.
    work_attempt: u32,
    reports: u64,
    active_at: Instant,
    /// A report is on its way to the committer, …
    telling: bool,
    /// … and something changed since it left.
    untold: bool,
}

#[derive(Message)]
#[rtype(result = "()")]
struct HeadRead(Result<Vec<StreamHead>, StoreError>);

#[derive(Message)]
#[rtype(result = "()")]
struct EntitiesRead {
    asked: Vec<EntityName>,
    found: Result<Vec<StoredEntity>, StoreError>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct WorkRead(Result<Vec<StoredOpenWork>, StoreError>);

impl PartitionActor {
    pub(crate) fn new(
        context: Context,
        ownership: Arc<Ownership>,
        committer: Addr<Committer>,
        tenant: TenantId,
    ) -> Self {
        Self {
            memory: context.memory.share(),
            context,
            ownership,
            committer,
            tenant,
            state: None,
            early: Vec::new(),
            loads_in_flight: 0,
            load_attempt: 0,
            work_attempt: 0,
            reports: 0,
            active_at: Instant::now(),
            telling: false,
            untold: false,
        }
    }

    fn read_head(&self, wait: Duration, context: &ActixContext<Self>) {
        let (calls, address) = (StoreCalls::of(&self.context), weak(context));
        let (tenant, source_partition) =
            (self.tenant.clone(), self.ownership.source_partition.clone());
        self.context.seams.spawner.spawn(Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let heads = calls.stream_heads(tenant, source_partition).await;
            answer(&address, HeadRead(heads)).await;
        }));
    }

    fn load(&mut self, wait: Duration, context: &ActixContext<Self>) {
        let Some(state) = &mut self.state else { return };
        // One load at a time: while it runs, what else is needed gathers for the next.
        if self.loads_in_flight > 0 {
            return;
        }
        let asked = state.wanted(self.context.options.load_entities_max);
        if asked.is_empty() {
            return;
        }
        self.loads_in_flight += 1;
        let (calls, address, tenant) = (
            StoreCalls::of(&self.context),
            weak(context),
            self.tenant.clone(),
        );
        self.context.seams.spawner.spawn(Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let found = calls.load_entities(tenant, asked.clone()).await;
            answer(&address, EntitiesRead { asked, found }).await;
        }));
    }

    /// Reads the next page of open work when it is wanted: one at a time.
    fn read_work(&mut self, wait: Duration, context: &ActixContext<Self>) {
        let Some(state) = &mut self.state else { return };
        let Some(after) = state.work_wanted() else {
            return;
        };
        let (calls, address, tenant) = (
            StoreCalls::of(&self.context),
            weak(context),
            self.tenant.clone(),
        );
        let place = self.ownership.source_partition.clone();
        self.context.seams.spawner.spawn(Box::pin(async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let page = calls.open_work(tenant, place, after, OPEN_WORK_PAGE).await;
            answer(&address, WorkRead(page)).await;
        }));
    }

    fn back_off(&self, attempt: u32) -> Duration {
        let random = self.context.seams.ids.next_u64();
        self.context.options.back_off.wait(attempt, random)
    }

    fn report(&mut self) -> Report {
        self.reports += 1;
        let (events, bytes) = match &self.state {
            Some(state) => state.ready(),
            None => (0, 0),
        };
        let oldest = self.state.as_ref().and_then(Partition::oldest_ready);
        Report {
            number: self.reports,
            events,
            bytes,
            oldest,
            emitted: self.state.as_ref().map_or(0, Partition::emitted_ready),
            unsettled: self.unsettled_events(),
            stored: self.has_stored_work(),
        }
    }

    /// Tells the committer, unasked, what is ready. One such message is under way at a time; what
    /// changes meanwhile is told right after.
    fn tell(&mut self, context: &mut ActixContext<Self>) {
        if self.telling {
            self.untold = true;
            return;
        }
        self.telling = true;
        self.untold = false;
        let ready = Ready {
            tenant: self.tenant.clone(),
            partition: context.address(),
            report: self.report(),
        };
        let told = self
            .committer
            .send(ready)
            .into_actor(self)
            .map(|told, actor, context| {
                actor.telling = false;
                if told.is_ok() && actor.state.is_some() {
                    actor.ownership.brought_up(&actor.tenant);
                }
                if told.is_err() {
                    actor.ownership.end(Standing::Broken {
                        reason: "the committer died".to_owned(),
                    });
                } else if actor.untold {
                    actor.tell(context);
                }
            });
        context.spawn(told);
    }

    fn unsettled_events(&self) -> usize {
        let early: usize = self.early.iter().map(|admit| admit.events.len()).sum();
        early + self.state.as_ref().map_or(0, Partition::unsettled)
    }

    fn has_stored_work(&self) -> bool {
        self.state.as_ref().is_some_and(Partition::has_stored_work)
    }

    /// A read failed: true when it is worth another try. Anything but an absence stops the source
    /// partition with an alarm, as it does for a commit.
    fn may_try_again(&self, what: &str, error: &StoreError) -> bool {
        let again = error.kind() == ErrorKind::Transient;
        tracing::warn!(tenant_id = %self.tenant, partition = %self.ownership.source_partition, %error, again, "{what} not read");
        if !again {
            let reason = format!("{what} not read: {error}. Fix the cause, then restart this node");
            self.ownership.end(Standing::Stopped { reason });
        }
        again
    }

    fn take_in(state: &mut Partition<Permit>, admit: Admit) {
        for (received, permit) in admit.events {
            state.offer(received, permit, admit.admitted_at);
        }
    }
}

/// What a read holds of its partition. A read that hangs must not keep it alive once its ownership is
/// over: with it the permits of its events would be gone for as long.
fn weak(context: &ActixContext<PartitionActor>) -> WeakAddr<PartitionActor> {
    context.address().downgrade()
}

/// Brings what was read, unless the partition is gone or its mailbox closed: the ownership is over.
async fn answer<M>(partition: &WeakAddr<PartitionActor>, read: M)
where
    M: Message<Result = ()> + Send + 'static,
    PartitionActor: Handler<M>,
{
    if let Some(partition) = partition.upgrade() {
        let _ = partition.send(read).await;
    }
}

impl Actor for PartitionActor {
    type Context = ActixContext<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        self.read_head(Duration::ZERO, context);
    }
}

/// A partition that ends with work in it ends its ownership, at once: its events are read again.
impl Drop for PartitionActor {
    fn drop(&mut self) {
        if self.unsettled_events() > 0 {
            self.ownership.end(Standing::Broken {
                reason: "a partition's actor died".to_owned(),
            });
        }
    }
}

impl Handler<HeadRead> for PartitionActor {
    type Result = ();

    fn handle(&mut self, HeadRead(heads): HeadRead, context: &mut Self::Context) {
        let heads = match heads {
            Ok(heads) => heads,
            Err(error) => {
                if self.may_try_again("log head", &error) {
                    self.load_attempt += 1;
                    let wait = self.back_off(self.load_attempt);
                    self.read_head(wait, context);
                }
                return;
            }
        };
        self.load_attempt = 0;
        let stream_partition = StreamPartition {
            tenant: self.tenant.clone(),
            stream: self.ownership.stream.clone(),
            source_partition: self.ownership.source_partition.clone(),
        };
        let heads = Heads::among(&heads, &stream_partition);
        let machines = self.context.seams.machines.clone();
        let mut state = Partition::new(stream_partition, machines, heads, self.memory.limits());
        state.keep_settlements(self.ownership.wants_settlements);
        if self.ownership.has_open_work(&self.tenant) {
            state.expect_open_work();
        }
        for admit in std::mem::take(&mut self.early) {
            Self::take_in(&mut state, admit);
        }
        self.state = Some(state);
        self.read_work(Duration::ZERO, context);
        self.load(Duration::ZERO, context);
        self.tell(context);
    }
}

impl Handler<Admit> for PartitionActor {
    type Result = ();

    fn handle(&mut self, admit: Admit, context: &mut Self::Context) {
        let place = &self.ownership.source_partition;
        let span = tracing::debug_span!("admit", tenant_id = %self.tenant, partition = %place);
        let _entered = span.entered();
        self.active_at = Instant::now();
        let Some(state) = &mut self.state else {
            return self.early.push(admit);
        };
        Self::take_in(state, admit);
        self.load(Duration::ZERO, context);
        self.tell(context);
    }
}

impl Handler<EntitiesRead> for PartitionActor {
    type Result = ();

    fn handle(&mut self, EntitiesRead { asked, found }: EntitiesRead, context: &mut Self::Context) {
        self.loads_in_flight -= 1;
        let Some(state) = &mut self.state else { return };
        let wait = match found {
            Ok(found) => {
                state.loaded(&asked, found);
                self.load_attempt = 0;
                Duration::ZERO
            }
            Err(error) => {
                state.load_failed(&asked);
                if !self.may_try_again("entities", &error) {
                    return;
                }
                self.load_attempt += 1;
                self.back_off(self.load_attempt)
            }
        };
        self.load(wait, context);
        self.tell(context);
    }
}

impl Handler<WorkRead> for PartitionActor {
    type Result = ();

    fn handle(&mut self, WorkRead(page): WorkRead, context: &mut Self::Context) {
        let now = self.context.seams.clock.now();
        let Some(state) = &mut self.state else { return };
        let wait = match page {
            Ok(page) => {
                let is_last = page.len() < OPEN_WORK_PAGE as usize;
                state.work_loaded(page, is_last, now);
                self.work_attempt = 0;
                Duration::ZERO
            }
            Err(error) => {
                state.work_load_failed();
                if !self.may_try_again("open work", &error) {
                    return;
                }
                self.work_attempt += 1;
                self.back_off(self.work_attempt)
            }
        };
        self.read_work(wait, context);
        self.load(Duration::ZERO, context);
        self.tell(context);
    }
}

impl Handler<Prepare> for PartitionActor {
    type Result = MessageResult<Prepare>;

    fn handle(
        &mut self,
        Prepare { allowance }: Prepare,
        context: &mut Self::Context,
    ) -> Self::Result {
        let place = &self.ownership.source_partition;
        let span = tracing::debug_span!("apply", tenant_id = %self.tenant, partition = %place);
        let _entered = span.entered();
        let limits = self.memory.limits();
        let began = Instant::now();
        let prepared = self.state.as_mut().map_or(Prepared::Empty, |state| {
            state.set_limits(limits);
            state.prepare(allowance)
        });
        let waiting = matches!(prepared, Prepared::Waiting);
        let part = match prepared {
            Prepared::Part(part) => {
                let meters = &self.ownership.meters;
                meters.prepared(&part.counts, began.elapsed());
                Some(part)
            }
            Prepared::Waiting | Prepared::Empty => None,
        };
        self.load(Duration::ZERO, context);
        let mut report = self.report();
        if waiting {
            // Not ready before the load returns, which tells the committer anew.
            (report.events, report.bytes) = (0, 0);
        }
        MessageResult(Preparation { part, report })
    }
}

impl Handler<Settle> for PartitionActor {
    type Result = MessageResult<Settle>;

    fn handle(
        &mut self,
        Settle { new_rows, revision }: Settle,
        context: &mut Self::Context,
    ) -> Self::Result {
        let settled = Settled {
            revision,
            new_rows: new_rows.as_deref(),
            at: self.context.seams.clock.now(),
        };
        if let Some(state) = &mut self.state {
            Permit::release_all(state.settle(settled));
        }
        self.read_work(Duration::ZERO, context);
        self.load(Duration::ZERO, context);
        MessageResult(self.report())
    }
}

impl Handler<Reset> for PartitionActor {
    type Result = MessageResult<Reset>;

    fn handle(
        &mut self,
        Reset {
            surprises,
            condemned,
        }: Reset,
        context: &mut Self::Context,
    ) -> Self::Result {
        if let Some(state) = &mut self.state {
            if let Some((event, detail)) = condemned {
                state.condemn(event, &detail);
            }
            state.reset(&surprises);
        }
        self.load(Duration::ZERO, context);
        MessageResult(self.report())
    }
}

impl Handler<RetireIfIdle> for PartitionActor {
    type Result = bool;

    fn handle(&mut self, _: RetireIfIdle, context: &mut Self::Context) -> bool {
        let idle = self.unsettled_events() == 0
            && !self.has_stored_work()
            && !self.telling
            && self.active_at.elapsed() >= self.context.options.passivate_after;
        if idle {
            use actix::ActorContext as _;
            context.stop();
        }
        idle
    }
}
