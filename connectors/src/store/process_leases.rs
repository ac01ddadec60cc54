//! Leases of a store that one process has to itself: held in its memory, by its monotonic clock. They end
//! with the process, since nobody else may open the store before that anyway; written down, they would
//! only make the next start wait for holders that are gone.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tidegate_engine::access::LeaseTerms;
use tidegate_engine::position::SourcePartition;
use tidegate_engine::store::StoreError;
use tokio::time::Instant;

/// The leases of one store. One entry a source partition at most.
#[derive(Debug, Default)]
pub(super) struct ProcessLeases(Mutex<BTreeMap<SourcePartition, Lease>>);

#[derive(Debug)]
struct Lease {
    holder: String,
    until: Instant,
}

impl ProcessLeases {
    /// See `Leases::acquire`.
    pub(super) fn acquire(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        LeaseTerms::check(holder, ttl)?;
        let now = Instant::now();
        Ok(self.with(|leases| {
            let taken = leases
                .get(source_partition)
                .is_some_and(|lease| lease.until > now && lease.holder != holder);
            if !taken {
                let lease = Lease {
                    holder: holder.to_owned(),
                    until: now + ttl,
                };
                leases.insert(source_partition.clone(), lease);
            }
            !taken
        }))
    }

    /// See `Leases::renew`.
    pub(super) fn renew(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        LeaseTerms::check(holder, ttl)?;
        let now = Instant::now();
        Ok(self.with(|leases| {
            let own = leases
                .get_mut(source_partition)
                .filter(|lease| lease.until > now && lease.holder == holder);
            own.map(|lease| lease.until = now + ttl).is_some()
        }))
    }

    /// See `Leases::release`.
    pub(super) fn release(&self, source_partition: &SourcePartition, holder: &str) {
        self.with(|leases| {
            if leases
                .get(source_partition)
                .is_some_and(|lease| lease.holder == holder)
            {
                leases.remove(source_partition);
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<SourcePartition, Lease>) -> T) -> T {
        // Nothing inside panics; were it to, each entry is still whole.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
