//! The tenants that this node serves: each with its supervisor and its lane's stock of permits.

use std::sync::Arc;

use actix::Addr;
use dashmap::DashMap;
use tidegate_engine::tenant::TenantId;

use crate::permits::Stock;
use crate::seams::Context;
use crate::supervisor::TenantSupervisor;

/// The node's tenants. Look-ups return clones: no guard outlives a call, so none is held across an await.
pub(crate) struct Tenants {
    context: Context,
    tenants: DashMap<TenantId, Tenant>,
}

/// One tenant of this node.
#[derive(Clone)]
pub(crate) struct Tenant {
    pub supervisor: Addr<TenantSupervisor>,
    pub lane: Arc<Stock>,
}

impl Tenants {
    pub fn new(context: Context) -> Self {
        Self {
            context,
            tenants: DashMap::new(),
        }
    }

    /// The tenant, with its supervisor started or, if that died, rebuilt. The lane stays the same: its
    /// permits come back when the dead actors' events are dropped.
    pub fn get(&self, id: &TenantId) -> Tenant {
        if let Some(tenant) = self.tenants.get(id)
            && tenant.supervisor.connected()
        {
            return tenant.clone();
        }
        let lane = self.tenants.get(id).map(|tenant| tenant.lane.clone());
        let options = &self.context.options;
        let lane =
            lane.unwrap_or_else(|| Stock::new(options.tenant_events_max, options.tenant_bytes_max));
        let (context, tenant_id) = (self.context.clone(), id.clone());
        let supervisor = self
            .context
            .seams
            .placement
            .start(id, move |_| TenantSupervisor::new(context, tenant_id));
        let tenant = Tenant { supervisor, lane };
        self.tenants.insert(id.clone(), tenant.clone());
        tenant
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
