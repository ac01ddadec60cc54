//! The Leases seam: who tries to own a source partition that no consumer group assigns.

use std::time::Duration;

use crate::limits::{LEASE_HOLDER_BYTES_MAX, LEASE_TTL_MAX};
use crate::position::SourcePartition;
use crate::store::StoreError;

/// The code of an error for terms out of bounds.
const CODE_TERMS: &str = "lease";

/// The bounds of a lease, checked by every store before it is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaseTerms {
    /// How long, in whole milliseconds: 1 to 3,600,000.
    pub ttl_ms: u32,
}

impl LeaseTerms {
    /// Refuses a lease of no time or of more than an hour, and a holder without a name.
    pub fn check(holder: &str, ttl: Duration) -> Result<Self, StoreError> {
        let sound =
            !holder.is_empty() && holder.len() <= LEASE_HOLDER_BYTES_MAX && !holder.contains('\0');
        let millis = u32::try_from(ttl.as_millis())
            .ok()
            .filter(|millis| *millis > 0 && ttl <= LEASE_TTL_MAX);
        match millis {
            Some(ttl_ms) if sound => Ok(Self { ttl_ms }),
            _ => Err(StoreError::Unexpected {
                code: CODE_TERMS.to_owned(),
                detail: format!(
                    "a lease has a holder of 1 to {LEASE_HOLDER_BYTES_MAX} bytes and 1 ms to {} s, found {} \
                     bytes and {ttl:?}",
                    LEASE_TTL_MAX.as_secs(),
                    holder.len()
                ),
            }),
        }
    }
}

/// Leases of source partitions, by the store's own clock. First come, first served; never two holders at
/// once. A holder's name is one process's: two that share a name share its leases.
#[async_trait::async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Takes the lease for `ttl` from now when nobody has it, when it ran out, or when `holder` has it
    /// already (so a call may be repeated whose answer was lost). False when somebody else has it.
    async fn acquire(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError>;

    /// Prolongs the lease to `ttl` from now. False when `holder` has it no more: it ran out, somebody
    /// else took it, or it was released. Whoever hears that stops.
    async fn renew(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError>;

    /// Gives the lease up, so that nobody waits for its end. Nothing happens when `holder` has it no more.
    async fn release(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
    ) -> Result<(), StoreError>;
}
