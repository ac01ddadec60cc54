//! Open dead letters of each tenant, counted now and then: they are the store's, and other nodes and people
//! make and decide them, too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tidegate_actors::TenantLabels;
use tidegate_engine::store::{StateStore, StoreError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::names;

/// Between two counts.
const INTERVAL: Duration = Duration::from_secs(60);

/// Letters of one tenant that are counted: what is more is as bad.
const COUNTED_MAX: u32 = 10_000;

/// Tenants that are asked for in one round, each with a look into an index.
const TENANTS_MAX: usize = 1_000;

/// The count, as an owned task: no call of the store is dropped halfway.
pub struct LettersTask {
    stop: oneshot::Sender<()>,
}

impl LettersTask {
    /// Counts from now on.
    pub fn start(store: Arc<dyn StateStore>, labels: TenantLabels, io: &Handle) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        io.spawn(async move {
            loop {
                match count(store.as_ref(), &labels).await {
                    Ok(open) => tell(open),
                    Err(error) => tracing::debug!(%error, "open dead letters not counted"),
                }
                tokio::select! {
                    biased;
                    _ = &mut stopped => return,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
            }
        });
        Self { stop }
    }

    /// Ends after the round under way, and does not wait for it.
    pub fn stop(self) {
        let _ = self.stop.send(());
    }
}

async fn count(
    store: &dyn StateStore,
    labels: &TenantLabels,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut open: BTreeMap<String, u64> = BTreeMap::new();
    for tenant in store.tenants().await?.iter().take(TENANTS_MAX) {
        let letters = store.open_dead_letters(tenant, COUNTED_MAX).await?;
        *open.entry(labels.of(tenant)).or_default() += letters;
    }
    Ok(open)
}

fn tell(open: BTreeMap<String, u64>) {
    for (tenant, letters) in open {
        gauge!(names::LETTERS_OPEN, "tenant" => tenant).set(letters as f64);
    }
}
