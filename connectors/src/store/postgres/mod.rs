//! The store in a user's own Postgres. One commit is one call of one function; the engine's role has
//! no right to write anything by itself. Owns the wiring of its parts; each part says what it owns.

mod access;
mod checkup;
mod commit;
mod definitions;
mod encode;
mod error;
mod letters;
mod migrate;
mod names;
mod older_keys;
mod options;
mod ownership;
mod reads;
mod reply;
mod session;
mod settings;
mod standings;
mod startup;
mod topics;
mod upkeep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{
    CommitBatch, CommitReply, EntityName, Segment, StoredEntity, WorkPlace,
};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::{RecordPosition, Sequence, SourcePartition, StreamPartition};
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::store::{
    Capabilities, ChainAnchor, Claim, DeadLetterFilter, EventLookup, NewDefinition, StateStore,
    StoreError, StoredDeadLetter, StoredDefinition, StoredOpenWork, StreamHead, Upkeep, UpkeepDone,
};
use tidegate_engine::tenant::{TenantId, TenantStanding, TenantsAsked};
use tidegate_engine::topics::{SourceTopic, TopicsFound};

pub use access::PostgresAccess;
pub use checkup::checkup;
pub use migrate::{LeastKept, RoleMode, RolePrefix, migrate, print_sql};
pub use options::{Pooler, PostgresOptions};

use names::Names;
use older_keys::OlderKeysFilter;
use session::{Session, owned};
use upkeep::Coverage;

/// A store in Postgres. Cheap to clone: all clones share one pool of connections.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

/// What the parts share. Everything but the session is a cache of what the database says and never
/// decides anything by itself.
struct Inner {
    session: Arc<Session>,
    login: Arc<str>,
    names: Names,
    older_keys: OlderKeysFilter,
    /// A filter is being made in the background.
    making_filter: AtomicBool,
    coverage: Coverage,
    /// Upkeep goes on with the index of events.
    index_events: bool,
}

impl Inner {
    /// What an error of a commit tells about the caches.
    fn after_failure(&self, error: StoreError) -> StoreError {
        match error {
            // No partition for the segment: retention or an operator dropped it since we looked. That
            // looks like a data error and is none; the next attempt makes the partition.
            StoreError::Unexpected { code, detail }
                if code == "23514" && detail.contains("no partition of relation") =>
            {
                self.coverage.forget();
                StoreError::Unavailable {
                    detail: format!("{code}: {detail}"),
                }
            }
            other => other,
        }
    }
}

impl PostgresStore {
    /// Connects as the engine's role and checks role, settings and schema. Migrates nothing.
    pub async fn connect(options: PostgresOptions) -> Result<Self, StoreError> {
        let session = Arc::new(Session::new(&options)?);
        startup::check(&options).await?;
        let store = Self {
            inner: Arc::new(Inner {
                session,
                login: options.login()?,
                names: Names::new(options.names_max),
                older_keys: OlderKeysFilter::new(options.dedupe_filter_bytes_max),
                making_filter: AtomicBool::new(false),
                coverage: Coverage::default(),
                index_events: options.index_events,
            }),
        };
        store.refresh_filter();
        Ok(store)
    }

    /// The settings that decide what a commit costs and survives, as the server reports them.
    pub async fn settings(&self) -> Result<Vec<(&'static str, String)>, StoreError> {
        self.run(|inner| async move { settings::settings(&inner.session).await })
            .await
    }

    /// The register of tenants, tokens and leases, over the same connections and with the same login.
    pub fn access(&self) -> PostgresAccess {
        PostgresAccess::over(
            Arc::clone(&self.inner.session),
            Arc::clone(&self.inner.login),
        )
    }

    /// Closes the connections; calls in flight end first.
    pub async fn close(&self) {
        self.inner.session.close().await;
    }

    /// Makes the filter of the older dedupe table anew, in the background, when a rotation made it
    /// stale. Until it is there commits probe every key.
    fn refresh_filter(&self) {
        let inner = Arc::clone(&self.inner);
        if !inner.older_keys.is_stale() || inner.making_filter.swap(true, Ordering::AcqRel) {
            return;
        }
        tokio::spawn(async move {
            if let Err(error) = inner.older_keys.make(&inner.session).await {
                tracing::warn!(%error, "the filter of the older dedupe table could not be made; commits probe every key");
            }
            inner.making_filter.store(false, Ordering::Release);
        });
    }

    /// Runs work on the shared parts as a task of its own.
    async fn run<T, F, W>(&self, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        W: FnOnce(Arc<Inner>) -> F,
    {
        owned(work(Arc::clone(&self.inner))).await
    }
}

#[async_trait::async_trait]
impl StateStore for PostgresStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            concurrent_writers: true,
            roles: true,
            durable: true,
        }
    }

    async fn claim(&self, claim: Claim) -> Result<Checkpoint, StoreError> {
        self.run(|inner| async move { inner.claim(&claim).await })
            .await
    }

    async fn checkpoint(
        &self,
        source_partition: &SourcePartition,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let name = source_partition.clone();
        self.run(|inner| async move { inner.checkpoint(&name).await })
            .await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        self.run(|inner| async move { inner.checkpoints().await })
            .await
    }

    async fn commit(&self, batch: Arc<CommitBatch>) -> Result<CommitReply, StoreError> {
        let reply = self
            .run(|inner| async move { inner.commit(&batch).await })
            .await;
        self.refresh_filter();
        reply
    }

    async fn stream_heads(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        let (tenant, source_partition) = (tenant.clone(), source_partition.clone());
        self.run(|inner| async move { inner.stream_heads(&tenant, &source_partition).await })
            .await
    }

    async fn load_entities(
        &self,
        tenant: &TenantId,
        names: Vec<EntityName>,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        let tenant = tenant.clone();
        self.run(|inner| async move { inner.load_entities(&tenant, &names).await })
            .await
    }

    async fn tenant_standings(
        &self,
        asked: TenantsAsked,
    ) -> Result<Vec<TenantStanding>, StoreError> {
        self.run(|inner| async move { inner.tenant_standings(&asked).await })
            .await
    }

    async fn source_topics(&self, found: TopicsFound) -> Result<Vec<SourceTopic>, StoreError> {
        self.run(|inner| async move { inner.source_topics(&found).await })
            .await
    }

    async fn definitions(&self) -> Result<Vec<StoredDefinition>, StoreError> {
        self.run(|inner| async move { inner.definitions().await })
            .await
    }

    async fn activate_definition(
        &self,
        definition: NewDefinition,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        self.run(|inner| async move { inner.activate_definition(&definition, at).await })
            .await
    }

    async fn entities_by_status(
        &self,
        machine: &MachineName,
    ) -> Result<Vec<(Status, u64)>, StoreError> {
        let machine = machine.clone();
        self.run(|inner| async move { inner.entities_by_status(&machine).await })
            .await
    }

    async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        self.run(|inner| async move { inner.tenants().await }).await
    }

    async fn stream_partitions(&self, tenant: &TenantId) -> Result<Vec<StreamHead>, StoreError> {
        let tenant = tenant.clone();
        self.run(|inner| async move { inner.stream_partitions(&tenant).await })
            .await
    }

    async fn chain_anchor(
        &self,
        stream_partition: &StreamPartition,
    ) -> Result<Option<ChainAnchor>, StoreError> {
        let name = stream_partition.clone();
        self.run(|inner| async move { inner.chain_anchor(&name).await })
            .await
    }

    async fn segments(
        &self,
        stream_partition: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        let name = stream_partition.clone();
        self.run(|inner| async move { inner.segments(&name, from, limit).await })
            .await
    }

    async fn event_positions(
        &self,
        tenant: &TenantId,
        wanted: &EventLookup,
        after: Option<&RecordPosition>,
        limit: u32,
    ) -> Result<Vec<RecordPosition>, StoreError> {
        let (tenant, wanted, after) = (tenant.clone(), wanted.clone(), after.cloned());
        self.run(|inner| async move {
            let after = after.as_ref();
            inner.event_positions(&tenant, &wanted, after, limit).await
        })
        .await
    }

    async fn entities(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        let tenant = tenant.clone();
        self.run(|inner| async move { inner.entities(&tenant, after, limit).await })
            .await
    }

    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        let tenant = tenant.clone();
        self.run(|inner| async move { inner.dead_letters(&tenant, filter, limit).await })
            .await
    }

    async fn open_dead_letters(&self, tenant: &TenantId, at_most: u32) -> Result<u64, StoreError> {
        let tenant = tenant.clone();
        self.run(|inner| async move { inner.open_dead_letters(&tenant, at_most).await })
            .await
    }

    async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        let tenant = tenant.clone();
        self.run(|inner| async move { inner.dead_letter(&tenant, id).await })
            .await
    }

    async fn tenants_with_open_work(
        &self,
        source_partition: &SourcePartition,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, StoreError> {
        let (place, after) = (source_partition.clone(), after.cloned());
        self.run(|inner| async move {
            inner
                .tenants_with_open_work(&place, after.as_ref(), limit)
                .await
        })
        .await
    }

    async fn open_work(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        let (tenant, place) = (tenant.clone(), source_partition.clone());
        self.run(|inner| async move { inner.open_work(&tenant, &place, after, limit).await })
            .await
    }

    async fn upkeep(&self, upkeep: Upkeep) -> Result<UpkeepDone, StoreError> {
        self.run(|inner| async move { inner.upkeep(upkeep).await })
            .await
    }
}
