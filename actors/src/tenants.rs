//! The tenants that this node serves: each with its supervisor and its lane's stock of permits.

use std::sync::{Arc, Weak};

use actix::Addr;
use dashmap::{DashMap, Entry};
use tidegate_engine::tenant::TenantId;

use crate::meters::TenantMeters;
use crate::permits::Stock;
use crate::seams::Context;
use crate::supervisor::TenantSupervisor;

/// The node's tenants. Look-ups return clones: no guard outlives a call, so none is held across an await.
pub(crate) struct Tenants {
    context: Context,
    tenants: DashMap<TenantId, Tenant>,
    /// What a supervisor gets to be put away by.
    me: Weak<Tenants>,
}

/// One tenant of this node.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub supervisor: Addr<TenantSupervisor>,
    /// Whoever routes to the tenant, and every permit of one of its events, holds a reference: the map's
    /// alone means that nothing of the tenant is anywhere in the node.
    pub lane: Arc<Stock>,
    pub meters: Arc<TenantMeters>,
}

impl Tenants {
    pub fn new(context: Context) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            context,
            tenants: DashMap::new(),
            me: me.clone(),
        })
    }

    /// The tenant, with its supervisor started or, if that died, rebuilt. The lane stays the same: its
    /// permits come back when the dead actors' events are dropped.
    pub fn get(&self, id: &TenantId) -> Tenant {
        if let Some(tenant) = self.tenants.get(id)
            && tenant.supervisor.connected()
        {
            return tenant.clone();
        }
        // Under the entry's lock: of two sources that meet a new tenant at once, one makes it.
        match self.tenants.entry(id.clone()) {
            Entry::Occupied(mut entry) => {
                if !entry.get().supervisor.connected() {
                    entry.get_mut().supervisor = self.supervisor_of(id);
                }
                entry.get().clone()
            }
            Entry::Vacant(entry) => {
                let options = &self.context.options;
                let tenant = Tenant {
                    supervisor: self.supervisor_of(id),
                    lane: Stock::new(options.tenant_events_max, options.tenant_bytes_max),
                    meters: self.context.meters.tenant(id),
                };
                entry.insert(tenant).clone()
            }
        }
    }

    fn supervisor_of(&self, id: &TenantId) -> Addr<TenantSupervisor> {
        let (context, tenant, tenants) = (self.context.clone(), id.clone(), self.me.clone());
        self.context
            .seams
            .placement
            .start(id, move |_| TenantSupervisor::new(context, tenant, tenants))
    }

    /// Forgets a tenant of which nothing is anywhere in the node. False when something is, or when the
    /// supervisor is not the tenant's any more.
    pub fn put_away(&self, id: &TenantId, supervisor: &Addr<TenantSupervisor>) -> bool {
        self.tenants
            .remove_if(id, |_, tenant| {
                tenant.supervisor == *supervisor && Arc::strong_count(&tenant.lane) == 1
            })
            .is_some()
    }

    /// Every tenant, in order.
    pub fn all(&self) -> Vec<(TenantId, Tenant)> {
        let mut all: Vec<_> = self
            .tenants
            .iter()
            .map(|entry| (entry.key().clone(), entry.value().clone()))
            .collect();
        all.sort_by(|left, right| left.0.cmp(&right.0));
        all
    }

    /// Lets go of every supervisor.
    pub fn clear(&self) {
        self.tenants.clear();
    }
}
