//! Every store keeps the promises of the one store contract. Run with `--nocapture` to see each case,
//! with its time, and what a store skips and why; `TIDEGATE_CONTRACT_CASE=part-of-a-name` runs a few.

use std::sync::Arc;

use tidegate_connectors::contract::store::{Reopen, StoreUnderTest, run_all};
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_engine::store::StateStore;

async fn memory() -> StoreUnderTest {
    let store = MemoryStore::new();
    let again = store.clone();
    let reopen: Reopen = Arc::new(move || {
        let store: Arc<dyn StateStore> = Arc::new(again.clone());
        Box::pin(async move { store })
    });
    StoreUnderTest::new(Arc::new(store), reopen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_keeps_the_contract() {
    run_all("memory", memory).await;
}
