//! Places for open streams: so many of a node, and so many of one tenant.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use actix_web::web;
use tidegate_engine::tenant::TenantId;

use super::Api;
use super::problem::{Kind, Problem};

/// Who has how many streams open.
#[derive(Default)]
pub struct Open(Mutex<BTreeMap<TenantId, usize>>);

impl Open {
    /// How many there are.
    pub fn count(&self) -> usize {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.values().sum()
    }
}

/// One open stream's place among them, free again when it is dropped.
pub struct Seat {
    api: web::Data<Api>,
    tenant: TenantId,
}

impl Seat {
    /// Takes one, unless all of the node's or of the tenant's are taken.
    pub fn take(api: &web::Data<Api>, tenant: &TenantId) -> Result<Self, Problem> {
        let limits = api.limits.streams;
        let mut open = api
            .open_streams
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        if all >= limits.open_max {
            return Err(Problem::new(
                Kind::Unavailable,
                "this node has as many streams open as it may; ask another one, or later",
            ));
        }
        let its = open.entry(tenant.clone()).or_default();
        if *its >= limits.tenant_open_max {
            let most = limits.tenant_open_max;
            return Err(Problem::new(
                Kind::RateLimited,
                format!("this tenant has {most} streams open here already; close one"),
            ));
        }
        *its += 1;
        Ok(Self {
            api: api.clone(),
            tenant: tenant.clone(),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let open = &self.api.open_streams.0;
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(its) = open.get_mut(&self.tenant) {
            *its = its.saturating_sub(1);
            if *its == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}
