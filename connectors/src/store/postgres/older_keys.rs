//! Which keys of a batch the older dedupe table must be asked for. Owns the current filter and its
//! making after a rotation; knows nothing of how a filter works.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::Row as _;
use tidegate_engine::commit::CommitBatch;
use tidegate_engine::hash::Hash128;
use tidegate_engine::store::StoreError;

use super::encode::Uuid;
use super::error::{During, store_error};
use super::names::BatchNumbers;
use super::session::Session;
use crate::store::older_keys::OlderKeys;

/// Keys read at once when a filter is made: a page of about a megabyte.
const SCAN_PAGE_KEYS: i32 = 50_000;

/// The filter as it stands, if any.
pub(super) struct OlderKeysFilter {
    bytes_max: usize,
    current: RwLock<Option<Arc<OlderKeys>>>,
    /// The newest generation that a commit has met.
    seen_generation: AtomicI64,
    /// Making one reads the whole older table, so one at a time.
    making: tokio::sync::Mutex<()>,
}

/// The keys to probe, as columns.
#[derive(Default)]
pub(super) struct Probes {
    /// The filter's generation; without one the database probes every key.
    pub generation: Option<i64>,
    pub tenants: Vec<i32>,
    pub keys: Vec<Hash128>,
}

impl OlderKeysFilter {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            current: RwLock::default(),
            seen_generation: AtomicI64::new(0),
            making: tokio::sync::Mutex::default(),
        }
    }

    /// The keys of `batch` that the older table may hold.
    pub fn probes(&self, batch: &CommitBatch, numbers: &BatchNumbers) -> Probes {
        let current = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(filter) = current else {
            return Probes::default();
        };
        let mut probes = Probes {
            generation: Some(filter.generation),
            ..Probes::default()
        };
        for mark in &batch.dedupe {
            let tenant = numbers.tenant(&mark.tenant);
            if filter.may_contain(tenant.into(), mark.key) {
                probes.tenants.push(tenant);
                probes.keys.push(mark.key);
            }
        }
        probes
    }

    /// Takes note of the generation that a commit has met.
    pub fn seen(&self, generation: i64) {
        self.seen_generation
            .fetch_max(generation, Ordering::Relaxed);
    }

    /// True when the filter belongs to a generation that has passed.
    pub fn is_stale(&self) -> bool {
        let seen = self.seen_generation.load(Ordering::Relaxed);
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_none_or(|filter| filter.generation < seen)
    }

    /// Makes the filter of the generation that stands. Until it is there every key is probed, so
    /// failing costs speed and nothing else.
    pub async fn make(&self, session: &Session) -> Result<(), StoreError> {
        let failed = |e| store_error(e, During::Read);
        let _one_at_a_time = self.making.lock().await;
        if !self.is_stale() {
            return Ok(());
        }
        let query = sqlx::query("select generation, keys from tidegate.older_keys_estimate()");
        let rows = session.fetch(query, During::Read).await?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        let generation: i64 = row.try_get(0).map_err(failed)?;
        let keys: i64 = row.try_get(1).map_err(failed)?;
        let room = usize::try_from(keys).unwrap_or_default();
        let mut filter = OlderKeys::with_room_for(generation, room, self.bytes_max);
        let mut after: (i32, Hash128) = (0, Hash128::default());
        while !filter.is_too_large() {
            let query =
                sqlx::query("select tenant_id, key from tidegate.older_keys($1, $2, $3, $4)")
                    .bind(generation)
                    .bind(after.0)
                    .bind(Uuid(after.1))
                    .bind(SCAN_PAGE_KEYS);
            let page = session.fetch(query, During::Read).await?;
            for row in &page {
                let tenant: i32 = row.try_get(0).map_err(failed)?;
                let key: Uuid = row.try_get(1).map_err(failed)?;
                filter.insert(tenant.into(), key.0);
                after = (tenant, key.0);
            }
            if page.len() < SCAN_PAGE_KEYS as usize {
                break;
            }
        }
        self.seen(generation);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(filter));
        Ok(())
    }
}
