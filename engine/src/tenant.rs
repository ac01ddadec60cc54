//! The tenant: the unit of isolation, quota and audit. Mandatory on every event, the first column of
//! every key, and taken from a credential or the connector's binding, never from what a client can spoof.

use crate::error::InvalidValue;
use crate::event::Event;

/// The reserved tenant under which deliveries are kept whose own tenant could not be read.
pub const UNASSIGNED: &str = "_unassigned";

crate::text_type!(
    /// A tenant's name.
    TenantId, "tenantid", crate::text::tenant_rule
);

impl TenantId {
    /// The tenant of deliveries that could not be read far enough to know theirs.
    pub fn unassigned() -> Self {
        Self(std::sync::Arc::from(UNASSIGNED))
    }

    /// True for the reserved tenant of unreadable deliveries.
    pub fn is_unassigned(&self) -> bool {
        self.as_str() == UNASSIGNED
    }
}

/// How a source knows the tenant of what it delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantBinding {
    /// Everything from this source belongs to one tenant: an event need not name it, and one that names
    /// another is refused.
    Fixed(TenantId),
    /// The envelope's `tenantid` is trusted: only for sources that no client writes to directly.
    TrustedField,
}

impl TenantBinding {
    /// The tenant under which an unreadable delivery is kept.
    pub fn tenant_of_unreadable(&self) -> TenantId {
        match self {
            TenantBinding::Fixed(tenant) => tenant.clone(),
            TenantBinding::TrustedField => TenantId::unassigned(),
        }
    }

    /// The one tenant of everything, if there is one.
    pub fn fixed(&self) -> Option<&TenantId> {
        match self {
            TenantBinding::Fixed(tenant) => Some(tenant),
            TenantBinding::TrustedField => None,
        }
    }

    /// Checks the tenant that an envelope names against this binding.
    pub fn check(&self, event: &Event) -> Result<(), InvalidValue> {
        match self {
            TenantBinding::Fixed(bound) if *bound != event.tenant => Err(InvalidValue::new(
                "tenantid",
                format!("`{bound}`, the tenant this source is bound to"),
                event.tenant.as_str(),
            )),
            _ if event.tenant.is_unassigned() => Err(InvalidValue::new(
                "tenantid",
                "a tenant's own name; names beginning with `_` are reserved",
                event.tenant.as_str(),
            )),
            _ => Ok(()),
        }
    }
}
