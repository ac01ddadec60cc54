//! Every store keeps the promises of the one store contract. Run with `--nocapture` to see each case,
//! with its time, and what a store skips and why; `TIDEGATE_CONTRACT_CASE=part-of-a-name` runs a few.

use tidegate_connectors::contract::store::outside::memory;
use tidegate_connectors::contract::store::run_all;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_keeps_the_contract() {
    run_all("memory", async || memory()).await;
}
