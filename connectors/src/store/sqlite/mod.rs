//! The embedded store: the tables of Postgres in one SQLite file, for one process. Owns the file, its
//! schema and every statement on it; decides nothing about events.
//!
//! **One writer.** A lock beside the file keeps a second process out. Within the process one connection
//! writes, a transaction after the other, and a few read beside it (write-ahead log), each seeing what was
//! committed when it began. So nothing is ever busy, and the commit path needs no locks of its own; it has
//! the same two paths and gives the same answers as Postgres.
//!
//! **Durable.** A commit returns when it is on the disk (`synchronous=FULL`). A transaction runs in a task
//! of its own to its end; a crash at any place leaves all of it or nothing.
//!
//! **Immutable.** Triggers refuse to change or delete what is stored; retention alone may drop the oldest
//! segments, and leaves an anchor of their chain. There are no roles: whoever may write the file may
//! write anything, and `verify` is what notices.

mod access;
mod commit;
mod definitions;
mod errors;
mod event_index;
mod letters;
mod names;
mod older_keys;
mod options;
mod ownership;
mod reads;
mod rows;
mod settings;
mod standings;
mod surprises;
mod topics;
mod upkeep;
mod writer;
mod writes;

use std::sync::Arc;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{Connection as _, SqliteConnection, SqlitePool};
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
use tokio::sync::Mutex;

use self::errors::store_error;
use self::older_keys::OlderKeysFilter;
use self::options::ProcessLock;
use self::rows::{column, fetch};
use self::writer::Writer;
use super::process_leases::ProcessLeases;

pub use self::options::SqliteOptions;

/// "TIDE": what the first migration writes into the file's header.
const APPLICATION_ID: i64 = 1_414_087_749;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// A store in one SQLite file.
pub struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
    /// Rules the older dedupe table out for nearly every key; made by upkeep.
    older_keys: OlderKeysFilter,
    /// Upkeep goes on with the index of events.
    index_events: bool,
    /// One upkeep at a time: it lists what is old first and drops it afterwards.
    upkeep: Mutex<event_index::Turn>,
    leases: ProcessLeases,
}

impl SqliteStore {
    /// Opens the store, makes it when it is not there, and brings its schema up to date. Refuses a file
    /// that is open in another process, was written by a newer version, or is something else's.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let path = options.path.display().to_string();
        // Three calls of the system on two small files, once a process: not worth a thread.
        let lock = ProcessLock::take(&options).await?;
        options.create_file()?;
        check_ours(&options, &path).await?;
        let mut connection = SqliteConnection::connect_with(&options.writer())
            .await
            .map_err(store_error)?;
        MIGRATIONS
            .run_direct(None, &mut connection, false)
            .await
            .map_err(|error| migration_error(&path, error))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers_max.max(1))
            .connect_lazy_with(options.reader());
        Ok(Self {
            writer: Writer::new(options.writer(), connection, lock),
            readers,
            older_keys: OlderKeysFilter::new(options.dedupe_filter_bytes_max),
            index_events: options.index_events,
            upkeep: Mutex::default(),
            leases: ProcessLeases::default(),
        })
    }

    /// The settings that decide what a commit costs and survives, as the database reports them.
    pub async fn settings(&self) -> Result<Vec<(&'static str, String)>, StoreError> {
        settings::settings(&self.writer).await
    }

    /// Finishes the transaction that is under way, moves the write-ahead log into the file and closes it.
    /// Calls after it fail or open it again. A store that is dropped instead loses nothing; its next
    /// opening reads the write-ahead log.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.readers.close().await;
        self.writer.close().await
    }

    /// Asks `may_end` right before SQLite ends the next commits; a no turns one into a rollback. For
    /// the contract: no file system loses an answer when a test wants it to.
    #[cfg(feature = "contract")]
    pub async fn on_commit(&self, may_end: impl FnMut() -> bool + Send + 'static) {
        self.writer.on_commit(may_end).await;
    }
}

/// Whose file it is, and whether anything is in it. The table of migrations alone is nothing: a process
/// that was killed before its first migration leaves it behind, always empty.
const FOUND_SQL: &str = "\
SELECT application_id,
       EXISTS (SELECT 1 FROM sqlite_schema WHERE tbl_name <> '_sqlx_migrations')
  FROM pragma_application_id";

/// Refuses a database of something else, before anything in it is changed.
async fn check_ours(options: &SqliteOptions, path: &str) -> Result<(), StoreError> {
    let foreign = |detail: &str| {
        StoreError::NotReady(format!(
            "`{path}` is {detail}: give the embedded store a file of its own"
        ))
    };
    let mut connection = SqliteConnection::connect_with(&options.plain())
        .await
        .map_err(store_error)?;
    let found: Vec<(i64, bool)> = fetch(
        &mut connection,
        FOUND_SQL,
        |_| {},
        |row| Ok((column(row, 0)?, column(row, 1)?)),
    )
    .await
    .map_err(|error| match error {
        StoreError::Unexpected { code, .. } if code == "26" => foreign("no SQLite database"),
        other => other,
    })?;
    connection.close().await.map_err(store_error)?;
    match found.first() {
        Some((APPLICATION_ID, _)) | Some((_, false)) => Ok(()),
        _ => Err(foreign("a SQLite database of another program")),
    }
}

fn migration_error(path: &str, error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(version) => StoreError::NotReady(format!(
            "`{path}` has schema {version}, which this version does not know: it was written by a newer \
             one; use that"
        )),
        MigrateError::Execute(error) => store_error(error),
        other => StoreError::NotReady(format!("`{path}` cannot be brought up to date: {other}")),
    }
}

#[async_trait::async_trait]
impl StateStore for SqliteStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            concurrent_writers: false,
            roles: false,
            durable: true,
        }
    }

    async fn claim(&self, claim: Claim) -> Result<Checkpoint, StoreError> {
        ownership::claim(&self.writer, claim).await
    }

    async fn checkpoint(
        &self,
        source_partition: &SourcePartition,
    ) -> Result<Option<Checkpoint>, StoreError> {
        ownership::checkpoint(&self.readers, source_partition).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        ownership::checkpoints(&self.readers).await
    }

    async fn commit(&self, batch: Arc<CommitBatch>) -> Result<CommitReply, StoreError> {
        commit::commit(&self.writer, &self.older_keys, batch).await
    }

    async fn stream_heads(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        reads::stream_heads(&self.readers, tenant, Some(source_partition)).await
    }

    async fn load_entities(
        &self,
        tenant: &TenantId,
        names: Vec<EntityName>,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        reads::load_entities(&self.readers, tenant, &names).await
    }

    async fn tenant_standings(
        &self,
        asked: TenantsAsked,
    ) -> Result<Vec<TenantStanding>, StoreError> {
        standings::of(&self.writer, &self.readers, asked).await
    }

    async fn source_topics(&self, found: TopicsFound) -> Result<Vec<SourceTopic>, StoreError> {
        topics::of(&self.writer, &self.readers, found).await
    }

    async fn definitions(&self) -> Result<Vec<StoredDefinition>, StoreError> {
        definitions::definitions(&self.readers).await
    }

    async fn activate_definition(
        &self,
        definition: NewDefinition,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        definitions::activate(&self.writer, definition, at).await
    }

    async fn entities_by_status(
        &self,
        machine: &MachineName,
    ) -> Result<Vec<(Status, u64)>, StoreError> {
        reads::entities_by_status(&self.readers, machine).await
    }

    async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        reads::tenants(&self.readers).await
    }

    async fn stream_partitions(&self, tenant: &TenantId) -> Result<Vec<StreamHead>, StoreError> {
        reads::stream_heads(&self.readers, tenant, None).await
    }

    async fn chain_anchor(
        &self,
        stream_partition: &StreamPartition,
    ) -> Result<Option<ChainAnchor>, StoreError> {
        reads::chain_anchor(&self.readers, stream_partition).await
    }

    async fn segments(
        &self,
        stream_partition: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        reads::segments(&self.readers, stream_partition, from, limit).await
    }

    async fn event_positions(
        &self,
        tenant: &TenantId,
        wanted: &EventLookup,
        after: Option<&RecordPosition>,
        limit: u32,
    ) -> Result<Vec<RecordPosition>, StoreError> {
        event_index::positions(&self.readers, tenant, wanted, after, limit).await
    }

    async fn entities(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        reads::entities(&self.readers, tenant, after, limit).await
    }

    async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        letters::dead_letters(&self.readers, tenant, filter, limit).await
    }

    async fn open_dead_letters(&self, tenant: &TenantId, at_most: u32) -> Result<u64, StoreError> {
        letters::open_dead_letters(&self.readers, tenant, at_most).await
    }

    async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        letters::dead_letter(&self.readers, tenant, id).await
    }

    async fn tenants_with_open_work(
        &self,
        source_partition: &SourcePartition,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, StoreError> {
        reads::tenants_with_open_work(&self.readers, source_partition, after, limit).await
    }

    async fn open_work(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        reads::open_work(&self.readers, tenant, source_partition, after, limit).await
    }

    async fn upkeep(&self, upkeep: Upkeep) -> Result<UpkeepDone, StoreError> {
        let mut turn = self.upkeep.lock().await;
        let mut done = upkeep::upkeep(&self.writer, &self.readers, upkeep).await?;
        self.older_keys.refresh(&self.readers).await?;
        if self.index_events {
            let lag = event_index::go_on(&self.writer, &self.readers, &mut turn).await?;
            done.index_lag_records = Some(lag);
        }
        Ok(done)
    }
}
