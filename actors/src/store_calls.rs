//! Store calls that wait for their answer only so long.
//! A call that is late goes on as the owned task it always was; nobody drops it, only nobody waits for
//! it any more. What it does in the end is the store's to judge, by epoch and revision (ADR 0008).

use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::commit::{CommitBatch, CommitReply, EntityName, StoredEntity, WorkPlace};
use tidegate_engine::limits::OPEN_WORK_TENANTS_PAGE;
use tidegate_engine::position::SourcePartition;
use tidegate_engine::spawner::Spawner;
use tidegate_engine::store::{Claim, StateStore, StoreError, StoredOpenWork, StreamHead};
use tidegate_engine::tenant::{TenantId, TenantStanding, TenantsAsked};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::meters::{Meters, StoreCall};
use crate::seams::Context;

/// The way to the store with a time limit on it.
#[derive(Clone)]
pub(crate) struct StoreCalls {
    store: Arc<dyn StateStore>,
    spawner: Arc<dyn Spawner>,
    limit: Duration,
    meters: Arc<Meters>,
}

impl StoreCalls {
    pub fn of(context: &Context) -> Self {
        Self {
            store: context.seams.store.clone(),
            spawner: context.seams.spawner.clone(),
            limit: context.options.store_answer_limit,
            meters: context.meters.clone(),
        }
    }

    /// Commits a batch. Without an answer in time its outcome is unknown.
    pub async fn commit(&self, batch: Arc<CommitBatch>) -> Result<CommitReply, StoreError> {
        let store = self.store.clone();
        let call = async move { store.commit(batch).await };
        let answered = self.answer(StoreCall::Commit, call).await;
        answered.unwrap_or_else(|detail| Err(StoreError::OutcomeUnknown { detail }))
    }

    /// Reads a checkpoint.
    pub async fn checkpoint(
        &self,
        source_partition: SourcePartition,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let store = self.store.clone();
        let answered = self
            .answer(StoreCall::Checkpoint, async move {
                store.checkpoint(&source_partition).await
            })
            .await;
        answered.unwrap_or_else(|detail| Err(StoreError::Unavailable { detail }))
    }

    /// Claims a source partition. A claim that is late and arrives all the same fences the one made
    /// after it, which is then made once more.
    pub async fn claim(&self, claim: Claim) -> Result<Checkpoint, StoreError> {
        let store = self.store.clone();
        let call = async move { store.claim(claim).await };
        let answered = self.answer(StoreCall::Claim, call).await;
        answered.unwrap_or_else(|detail| Err(StoreError::Unavailable { detail }))
    }

    /// Reads where a tenant's logs of a source partition end.
    pub async fn stream_heads(
        &self,
        tenant: TenantId,
        source_partition: SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        let store = self.store.clone();
        let call = async move { store.stream_heads(&tenant, &source_partition).await };
        let answered = self.answer(StoreCall::StreamHeads, call).await;
        answered.unwrap_or_else(|detail| Err(StoreError::Unavailable { detail }))
    }

    /// Reads entities.
    pub async fn load_entities(
        &self,
        tenant: TenantId,
        names: Vec<EntityName>,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        let store = self.store.clone();
        let call = async move { store.load_entities(&tenant, names).await };
        let answered = self.answer(StoreCall::LoadEntities, call).await;
        answered.unwrap_or_else(|detail| Err(StoreError::Unavailable { detail }))
    }

    /// How tenants stand that events name; those that are missing may be registered.
    pub async fn tenant_standings(
        &self,
        asked: TenantsAsked,
    ) -> Result<Vec<TenantStanding>, StoreError> {
        let store = self.store.clone();
        let call = async move { store.tenant_standings(asked).await };
        let answered = self.answer(StoreCall::TenantStandings, call).await;
        answered.unwrap_or_else(|detail| Err(StoreError::Unavailable { detail }))
    }

    /// A page of a tenant's open work, behind `after`.
    pub async fn open_work(
        &self,
        tenant: TenantId,
        source_partition: SourcePartition,
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        let store = self.store.clone();
        let call = async move {
            store
                .open_work(&tenant, &source_partition, after, limit)
                .await
        };
        let answered = self.answer(StoreCall::OpenWork, call).await;
        answered.unwrap_or_else(|detail| Err(StoreError::Unavailable { detail }))
    }

    /// A page of the tenants with open work, behind `after`.
    pub async fn tenants_with_open_work(
        &self,
        source_partition: SourcePartition,
        after: Option<TenantId>,
    ) -> Result<Vec<TenantId>, StoreError> {
        let store = self.store.clone();
        let answered = self
            .answer(StoreCall::TenantsWithOpenWork, async move {
                store
                    .tenants_with_open_work(
                        &source_partition,
                        after.as_ref(),
                        OPEN_WORK_TENANTS_PAGE,
                    )
                    .await
            })
            .await;
        answered.unwrap_or_else(|detail| Err(StoreError::Unavailable { detail }))
    }

    /// Hands the call to the spawner and waits for what it says; `Err` says why nobody waits any more.
    async fn answer<T: Send + 'static>(
        &self,
        which: StoreCall,
        call: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<Result<T, StoreError>, String> {
        let began = Instant::now();
        let (said, heard) = oneshot::channel();
        self.spawner.spawn(Box::pin(async move {
            if let Err(unheard) = said.send(call.await) {
                let error = unheard.err().map(|error| error.to_string());
                tracing::warn!(error, "the store answered after nobody waited any more");
            }
        }));
        let heard = tokio::time::timeout(self.limit, heard).await;
        let answer = heard.as_ref().ok().and_then(|heard| heard.as_ref().ok());
        self.meters.called(which, began.elapsed(), answer);
        match heard {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err("the call ended without an answer".to_owned()),
            Err(_) => Err(format!("no answer within {} s", self.limit.as_secs_f64())),
        }
    }
}
