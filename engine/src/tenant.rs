//! The tenant: the unit of isolation, quota and audit. Mandatory on every event, the first column of
//! every key, and taken from a credential or the connector's binding, never from what a client can spoof.

use crate::clock::Timestamp;
use crate::error::InvalidValue;
use crate::event::{Event, Unreadable};
use crate::position::SourceName;

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
    /// The envelope's `tenantid` is trusted as it stands, and nobody asks whether it is registered: where
    /// whoever filled it in has asked before, as with the token of a request.
    TrustedField,
    /// The envelope's `tenantid` is trusted, if the store knows such a tenant: only for sources that no
    /// client writes to directly.
    RegisteredField(UnknownTenants),
    /// Each partition of the source belongs to one tenant, which its bus knows; see
    /// [`EventBus::tenant_of`](crate::bus::EventBus::tenant_of). Of one whose tenant it does not know,
    /// nothing is taken.
    OfPartition,
}

/// What becomes of an event whose tenant is not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownTenants {
    /// It is kept as a dead letter of the reserved tenant.
    DeadLetter,
    /// The tenant is registered, while sources have registered fewer than so many.
    Create {
        /// Tenants that all sources of a store together may register. Whoever writes the field would
        /// otherwise fill the register.
        created_max: u32,
    },
}

/// Tenants that events name, on their way to a store that knows how they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantsAsked {
    /// Which, each once. Where there is room for some only, the first are registered.
    pub names: Vec<TenantId>,
    /// Register those that are unknown; `None` only looks.
    pub create: Option<CreateTenants>,
}

/// How a source registers tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTenants {
    /// The source, for whoever asks later where a tenant came from.
    pub source: SourceName,
    /// See [`UnknownTenants::Create`].
    pub created_max: u32,
    /// Now.
    pub at: Timestamp,
}

/// How a tenant stands that an event names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantStanding {
    /// It takes events.
    Open,
    /// It takes events, since this very question.
    Created,
    /// It was closed, and is not opened again.
    Closed,
    /// There is none of this name.
    Unknown,
    /// There is none of this name, and sources may register no more.
    TooMany,
}

impl TenantStanding {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            TenantStanding::Open => "open",
            TenantStanding::Created => "created",
            TenantStanding::Closed => "closed",
            TenantStanding::Unknown => "unknown",
            TenantStanding::TooMany => "too_many",
        }
    }

    /// The standing of that name.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            TenantStanding::Open,
            TenantStanding::Created,
            TenantStanding::Closed,
            TenantStanding::Unknown,
            TenantStanding::TooMany,
        ]
        .into_iter()
        .find(|standing| standing.as_str() == word)
    }

    /// Why an event of `tenant` is not taken, and what to do; `None` when it is.
    pub fn refusal(self, tenant: &TenantId) -> Option<Unreadable> {
        let makes = format!("`tidegate tenants create {tenant}` makes it; then retry this letter");
        let reason = match self {
            TenantStanding::Open | TenantStanding::Created => return None,
            TenantStanding::Closed => {
                format!("tenant `{tenant}` is closed and takes no events; discard this letter")
            }
            TenantStanding::Unknown => format!("there is no tenant `{tenant}`; {makes}"),
            TenantStanding::TooMany => format!(
                "there is no tenant `{tenant}`, and sources have created as many as \
                 `limits.created_tenants_max` allows; {makes}"
            ),
        };
        Some(Unreadable::new("tenantid", reason))
    }
}

impl TenantBinding {
    /// The tenant under which an unreadable delivery is kept.
    pub fn tenant_of_unreadable(&self) -> TenantId {
        match self {
            TenantBinding::Fixed(tenant) => tenant.clone(),
            TenantBinding::TrustedField
            | TenantBinding::RegisteredField(_)
            | TenantBinding::OfPartition => TenantId::unassigned(),
        }
    }

    /// The one tenant of everything, if there is one.
    pub fn fixed(&self) -> Option<&TenantId> {
        match self {
            TenantBinding::Fixed(tenant) => Some(tenant),
            TenantBinding::TrustedField
            | TenantBinding::RegisteredField(_)
            | TenantBinding::OfPartition => None,
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
            TenantBinding::OfPartition => Err(InvalidValue::new(
                "tenantid",
                "a partition whose tenant is known",
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
