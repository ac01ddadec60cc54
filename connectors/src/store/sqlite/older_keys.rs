//! Which keys of a batch the older dedupe table must be asked for. Owns the filter as it stands and its
//! making in upkeep; knows nothing of how a filter works.

use std::sync::{Arc, PoisonError, RwLock};

use sqlx::SqlitePool;
use tidegate_engine::commit::{CommitBatch, DedupeMark};
use tidegate_engine::hash::Hash128;
use tidegate_engine::store::StoreError;

use super::commit::Fence;
use super::names::Names;
use super::rows::{column, fetch, hash};
use crate::store::older_keys::OlderKeys;

/// Keys read at once when a filter is made: a page of about a megabyte.
const SCAN_PAGE_KEYS: usize = 20_000;

/// The filter as it stands, if any.
#[derive(Clone)]
pub(super) struct OlderKeysFilter {
    bytes_max: usize,
    current: Arc<RwLock<Option<Arc<OlderKeys>>>>,
}

impl OlderKeysFilter {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            current: Arc::default(),
        }
    }

    fn current(&self) -> Option<Arc<OlderKeys>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The marks of `batch` that the older table may hold, with their places.
    pub(super) fn probes<'b>(
        &self,
        fence: &Fence,
        names: &Names,
        batch: &'b CommitBatch,
    ) -> Vec<(usize, &'b DedupeMark)> {
        if !fence.older_has_keys {
            return Vec::new();
        }
        let filter = self
            .current()
            .filter(|filter| filter.generation == fence.dedupe_generation);
        let may_hold = |mark: &DedupeMark| {
            filter
                .as_ref()
                .is_none_or(|filter| filter.may_contain(names.tenant(&mark.tenant), mark.key))
        };
        batch
            .dedupe
            .iter()
            .enumerate()
            .filter(|(_, mark)| may_hold(mark))
            .collect()
    }

    /// Makes the filter of the generation that stands, unless it is there. Nobody adds to the older
    /// table within a generation, so pages read one after the other are all of it. Until it is there
    /// every key is asked for, so failing costs speed and nothing else.
    pub(super) async fn refresh(&self, readers: &SqlitePool) -> Result<(), StoreError> {
        let state: Vec<(i64, bool)> = fetch(
            readers,
            "SELECT generation, current_table FROM dedupe_state",
            |_| {},
            |row| Ok((column(row, 0)?, column(row, 1)?)),
        )
        .await?;
        let Some((generation, second_is_current)) = state.first().copied() else {
            return Ok(());
        };
        let is_made = |filter: Arc<OlderKeys>| filter.generation == generation;
        if self.current().is_some_and(is_made) {
            return Ok(());
        }
        let [count, page] = if second_is_current {
            [
                "SELECT count(*) FROM dedupe_0",
                "SELECT tenant_id, key FROM dedupe_0 WHERE (tenant_id, key) > (?1, ?2)
                  ORDER BY tenant_id, key LIMIT ?3",
            ]
        } else {
            [
                "SELECT count(*) FROM dedupe_1",
                "SELECT tenant_id, key FROM dedupe_1 WHERE (tenant_id, key) > (?1, ?2)
                  ORDER BY tenant_id, key LIMIT ?3",
            ]
        };
        let keys: Vec<i64> = fetch(readers, count, |_| {}, |row| column(row, 0)).await?;
        let keys = keys.first().and_then(|keys| usize::try_from(*keys).ok());
        let mut filter =
            OlderKeys::with_room_for(generation, keys.unwrap_or_default(), self.bytes_max);
        let mut after: (i64, Hash128) = (0, Hash128::default());
        while !filter.is_too_large() {
            let read: Vec<(i64, Hash128)> = fetch(
                readers,
                page,
                |binds| {
                    binds.int(after.0).hash(after.1).int(SCAN_PAGE_KEYS as i64);
                },
                |row| Ok((column(row, 0)?, hash(row, 1)?)),
            )
            .await?;
            for (tenant, key) in &read {
                filter.insert(*tenant, *key);
                after = (*tenant, *key);
            }
            if read.len() < SCAN_PAGE_KEYS {
                break;
            }
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(filter));
        Ok(())
    }
}
