//! The tenant supervisor: one a tenant. Owns the tenant's partitions: makes them when their first event
//! comes, drops them when their ownership ends, and puts idle ones away.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context as ActixContext, Handler,
    Message, ResponseActFuture, WrapFuture,
};
use tidegate_engine::admission::Received;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::position::{Epoch, SourcePartition};
use tidegate_engine::tenant::TenantId;

use crate::committer::Committer;
use crate::ownership::{Ownership, Standing};
use crate::partition::{Admit, ObservePartition, PartitionActor, PartitionSnapshot, RetireIfIdle};
use crate::permits::Permit;
use crate::seams::Context;
use crate::tenants::Tenants;

/// Messages that may wait in a supervisor's mailbox: each source has one routing message under way, so
/// this is far above what can be.
pub const MAILBOX_MESSAGES_MAX: usize = 256;

/// The supervisor of one tenant.
pub struct TenantSupervisor {
    context: Context,
    tenant: TenantId,
    partitions: BTreeMap<SourcePartition, Slot>,
    tenants: Weak<Tenants>,
}

struct Slot {
    epoch: Epoch,
    ownership: Arc<Ownership>,
    partition: Addr<PartitionActor>,
}

/// Brings events of one source partition to the tenant's partition, in order.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Route {
    /// The ownership they were received under.
    pub ownership: Arc<Ownership>,
    /// Its committer.
    pub committer: Addr<Committer>,
    /// The events.
    pub events: Vec<(Received, Permit)>,
    /// When they were admitted.
    pub admitted_at: Timestamp,
}

/// Asks for a snapshot.
#[derive(Message)]
#[rtype(result = "SupervisorSnapshot")]
pub struct ObserveSupervisor;

/// What a supervisor shows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SupervisorSnapshot {
    /// The tenant.
    pub tenant: TenantId,
    /// Its partitions.
    pub partitions: Vec<PartitionSnapshot>,
}

impl TenantSupervisor {
    pub(crate) fn new(context: Context, tenant: TenantId, tenants: Weak<Tenants>) -> Self {
        Self {
            context,
            tenant,
            partitions: BTreeMap::new(),
            tenants,
        }
    }

    /// The partition of an ownership; made from its factory when there is none or only an older one's.
    fn partition_of(
        &mut self,
        ownership: &Arc<Ownership>,
        committer: &Addr<Committer>,
    ) -> Option<Addr<PartitionActor>> {
        match self.partitions.get(&ownership.source_partition) {
            Some(slot) if slot.epoch > ownership.epoch => return None,
            Some(slot) if slot.epoch == ownership.epoch => return Some(slot.partition.clone()),
            _ => {}
        }
        let (context, tenant) = (self.context.clone(), self.tenant.clone());
        let (owned, committer) = (ownership.clone(), committer.clone());
        let belongs_to = (self.tenant.clone(), ownership.source_partition.clone());
        let partition = self.context.seams.placement.start(belongs_to, move |_| {
            PartitionActor::new(context, owned, committer, tenant)
        });
        let slot = Slot {
            epoch: ownership.epoch,
            ownership: ownership.clone(),
            partition: partition.clone(),
        };
        self.partitions
            .insert(ownership.source_partition.clone(), slot);
        Some(partition)
    }

    /// A partition whose mailbox is closed has panicked: its ownership is rebuilt from the store.
    fn watch(&mut self) {
        self.partitions.retain(|_, slot| {
            if !slot.partition.connected() {
                slot.ownership.end(Standing::Broken {
                    reason: "a partition's actor died".to_owned(),
                });
            }
            slot.ownership.is_owned()
        });
    }

    /// Puts idle partitions away, and then the tenant itself: most tenants are idle most of the time.
    /// Nothing is routed while a partition decides, or it could get events after it said yes.
    fn passivate(&mut self, context: &mut ActixContext<Self>) {
        if self.partitions.is_empty() {
            let unused = |tenants: Arc<Tenants>| tenants.put_away(&self.tenant, &context.address());
            if self.tenants.upgrade().is_some_and(unused) {
                context.stop();
            }
            return;
        }
        for (source_partition, slot) in &self.partitions {
            let source_partition = source_partition.clone();
            let asked = slot.partition.send(RetireIfIdle);
            context.wait(
                asked
                    .into_actor(self)
                    .map(move |retired, supervisor: &mut Self, _| {
                        if retired.unwrap_or(false) {
                            supervisor.partitions.remove(&source_partition);
                        }
                    }),
            );
        }
    }
}

impl Actor for TenantSupervisor {
    type Context = ActixContext<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        let options = self.context.options.clone();
        context.run_interval(options.watch_interval, |supervisor, _| supervisor.watch());
        context.run_interval(options.passivate_after, |supervisor, context| {
            supervisor.passivate(context)
        });
    }
}

impl Handler<Route> for TenantSupervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, route: Route, _: &mut Self::Context) -> Self::Result {
        let Route {
            ownership,
            committer,
            events,
            admitted_at,
        } = route;
        let partition = match self.partition_of(&ownership, &committer) {
            Some(partition) if ownership.is_owned() => partition,
            // Of an ownership that is over: the permits go back, the offsets stay unsettled.
            _ => return Box::pin(actix::fut::ready(())),
        };
        // Enqueued here, in order; the future only waits for the partition to have taken it in.
        let admitted = partition.send(Admit {
            events,
            admitted_at,
        });
        Box::pin(admitted.into_actor(self).map(move |admitted, _, _| {
            if admitted.is_err() {
                ownership.end(Standing::Broken {
                    reason: "a partition's actor died".to_owned(),
                });
            }
        }))
    }
}

impl Handler<ObserveSupervisor> for TenantSupervisor {
    type Result = ResponseActFuture<Self, SupervisorSnapshot>;

    fn handle(&mut self, _: ObserveSupervisor, _: &mut Self::Context) -> Self::Result {
        let asked: Vec<_> = self
            .partitions
            .values()
            .map(|slot| slot.partition.send(ObservePartition))
            .collect();
        let tenant = self.tenant.clone();
        let observed = async move {
            let mut partitions = Vec::with_capacity(asked.len());
            for answer in asked {
                partitions.extend(answer.await);
            }
            SupervisorSnapshot { tenant, partitions }
        };
        Box::pin(observed.into_actor(self))
    }
}
