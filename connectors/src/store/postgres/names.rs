//! The numbers behind names: tenants, machines, source and stream partitions stand in the large tables
//! as `int4`. Numbers never change, so they are kept once read; the cache is bounded by being emptied,
//! at any moment: what a call needs it collects for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

use dashmap::DashMap;
use sqlx::Row as _;
use tidegate_engine::commit::{CommitBatch, Segment};
use tidegate_engine::position::{SourcePartition, StreamName, StreamPartition};
use tidegate_engine::state::MachineName;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use super::error::{During, corrupt, store_error};
use super::session::Session;

/// Known numbers.
pub(super) struct Names {
    tenants: Known<TenantId>,
    machines: Known<MachineName>,
    source_partitions: Known<SourcePartition>,
    stream_partitions: Known<StreamPartition>,
}

/// Known numbers of one kind.
struct Known<K: Eq + Hash> {
    numbers: DashMap<K, i32>,
    names_max: usize,
}

impl<K: Eq + Hash> Known<K> {
    fn new(names_max: usize) -> Self {
        Self {
            numbers: DashMap::new(),
            names_max,
        }
    }

    fn get(&self, name: &K) -> Option<i32> {
        self.numbers.get(name).map(|number| *number)
    }

    fn remember(&self, name: K, number: i32) {
        if self.numbers.len() >= self.names_max {
            self.numbers.clear();
        }
        self.numbers.insert(name, number);
    }
}

/// The numbers of one batch, each list in the order of the batch.
pub(super) struct BatchNumbers {
    pub source_partition: i32,
    pub tenants: BTreeMap<TenantId, i32>,
    pub machines: BTreeMap<MachineName, i32>,
    /// By segment.
    pub stream_partitions: Vec<i32>,
}

impl BatchNumbers {
    /// The number of a tenant that stands in the batch; 0, which no policy lets through, for one that
    /// the batch does not name.
    pub fn tenant(&self, tenant: &TenantId) -> i32 {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    /// The number of a machine that stands in the batch.
    pub fn machine(&self, machine: &MachineName) -> i32 {
        self.machines.get(machine).copied().unwrap_or_default()
    }
}

impl Names {
    /// No names yet, and never more than so many of one kind.
    pub fn new(names_max: usize) -> Self {
        Self {
            tenants: Known::new(names_max),
            machines: Known::new(names_max),
            source_partitions: Known::new(names_max),
            stream_partitions: Known::new(names_max),
        }
    }

    /// Keeps the number of a source partition that was just claimed.
    pub fn keep_source_partition(&self, source_partition: SourcePartition, number: i32) {
        self.source_partitions.remember(source_partition, number);
    }

    /// Everything that a commit of `batch` needs; `None` when its source partition was never claimed.
    pub async fn of_batch(
        &self,
        session: &Session,
        batch: &CommitBatch,
    ) -> Result<Option<BatchNumbers>, StoreError> {
        let Some(source_partition) = self
            .source_partition(session, &batch.source_partition)
            .await?
        else {
            return Ok(None);
        };
        let tenants = self.tenants(session, batch.tenants.iter()).await?;
        let written = batch.entities.iter().map(|write| &write.name.machine);
        let read = batch.reads.iter().map(|read| &read.name.machine);
        let machines = self.machines(session, written.chain(read)).await?;
        let stream_partitions = self
            .of_segments(session, batch, source_partition, &tenants)
            .await?;
        Ok(Some(BatchNumbers {
            source_partition,
            tenants,
            machines,
            stream_partitions,
        }))
    }

    /// The number of a source partition, when it was ever claimed.
    pub async fn source_partition(
        &self,
        session: &Session,
        source_partition: &SourcePartition,
    ) -> Result<Option<i32>, StoreError> {
        if let Some(number) = self.source_partitions.get(source_partition) {
            return Ok(Some(number));
        }
        let query = sqlx::query(
            "select source_partition_id from tidegate.source_partitions \
             where source = $1 and partition = $2",
        )
        .bind(source_partition.source.as_str())
        .bind(i64::from(source_partition.partition));
        let rows = session.fetch(query, During::Read).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let number: i32 = row.try_get(0).map_err(|e| store_error(e, During::Read))?;
        self.source_partitions
            .remember(source_partition.clone(), number);
        Ok(Some(number))
    }

    /// One tenant's number, when it is known to the database. Makes none: for reads.
    pub async fn known_tenant(
        &self,
        session: &Session,
        tenant: &TenantId,
    ) -> Result<Option<i32>, StoreError> {
        if let Some(number) = self.tenants.get(tenant) {
            return Ok(Some(number));
        }
        let query = sqlx::query("select tenant_id from tidegate.tenants where name = $1")
            .bind(tenant.as_str());
        let rows = session.fetch(query, During::Read).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let number: i32 = row.try_get(0).map_err(|e| store_error(e, During::Read))?;
        self.tenants.remember(tenant.clone(), number);
        Ok(Some(number))
    }

    async fn tenants<'n>(
        &self,
        session: &Session,
        names: impl Iterator<Item = &'n TenantId>,
    ) -> Result<BTreeMap<TenantId, i32>, StoreError> {
        let sql = "select name, tenant_id from tidegate.tenant_ids($1)";
        numbers(session, sql, &self.tenants, names, TenantId::as_str).await
    }

    /// Numbers of the machines that are known to the database. Makes none: for reads.
    pub async fn known_machines<'n>(
        &self,
        session: &Session,
        names: impl Iterator<Item = &'n MachineName>,
    ) -> Result<BTreeMap<MachineName, i32>, StoreError> {
        let sql = "select name, machine_id from tidegate.machines where name = any($1)";
        numbers(session, sql, &self.machines, names, MachineName::as_str).await
    }

    /// Numbers of machines, made for those that have none.
    async fn machines<'n>(
        &self,
        session: &Session,
        names: impl Iterator<Item = &'n MachineName>,
    ) -> Result<BTreeMap<MachineName, i32>, StoreError> {
        let sql = "select name, machine_id from tidegate.machine_ids($1)";
        numbers(session, sql, &self.machines, names, MachineName::as_str).await
    }

    async fn of_segments(
        &self,
        session: &Session,
        batch: &CommitBatch,
        source_partition: i32,
        tenants: &BTreeMap<TenantId, i32>,
    ) -> Result<Vec<i32>, StoreError> {
        let mut numbers = BTreeMap::new();
        let mut missing = BTreeSet::new();
        for name in batch.segments.iter().map(|it| &it.stream_partition) {
            match self.stream_partitions.get(name) {
                Some(number) => {
                    numbers.insert(name.clone(), number);
                }
                None => {
                    missing.insert(name);
                }
            }
        }
        if !missing.is_empty() {
            let made = self
                .load_stream_partitions(session, &missing, source_partition, tenants)
                .await?;
            numbers.extend(made);
        }
        let number = |segment: &Segment| {
            let number = numbers.get(&segment.stream_partition).copied();
            number.ok_or_else(|| corrupt("a stream partition's number"))
        };
        batch.segments.iter().map(number).collect()
    }

    async fn load_stream_partitions(
        &self,
        session: &Session,
        missing: &BTreeSet<&StreamPartition>,
        source_partition: i32,
        tenants: &BTreeMap<TenantId, i32>,
    ) -> Result<BTreeMap<StreamPartition, i32>, StoreError> {
        let mut found = BTreeMap::new();
        let by_number: BTreeMap<i32, &TenantId> = tenants
            .iter()
            .map(|(name, number)| (*number, name))
            .collect();
        let tenant_ids: Vec<i32> = missing
            .iter()
            .map(|name| tenants.get(&name.tenant).copied().unwrap_or_default())
            .collect();
        let streams: Vec<&str> = missing.iter().map(|name| name.stream.as_str()).collect();
        let query = sqlx::query(
            "select tenant_id, stream, stream_partition_id \
             from tidegate.stream_partition_ids($1, $2, $3)",
        )
        .bind(source_partition)
        .bind(tenant_ids)
        .bind(streams);
        let Some(owner) = missing.iter().next().map(|name| &name.source_partition) else {
            return Ok(found);
        };
        for row in session.fetch(query, During::Read).await? {
            let failed = |e| store_error(e, During::Read);
            let tenant: i32 = row.try_get(0).map_err(failed)?;
            let stream: &str = row.try_get(1).map_err(failed)?;
            let number: i32 = row.try_get(2).map_err(failed)?;
            let tenant = by_number
                .get(&tenant)
                .ok_or_else(|| corrupt("a stream partition's tenant"))?;
            let name = StreamPartition {
                tenant: (*tenant).clone(),
                stream: StreamName::new(stream).map_err(|_| corrupt("a stream's name"))?,
                source_partition: owner.clone(),
            };
            self.stream_partitions.remember(name.clone(), number);
            found.insert(name, number);
        }
        Ok(found)
    }
}

/// The numbers of `names`, from the cache or from `sql`, which may make those that are missing.
async fn numbers<'n, N>(
    session: &Session,
    sql: &'static str,
    known: &Known<N>,
    names: impl Iterator<Item = &'n N>,
    text: fn(&N) -> &str,
) -> Result<BTreeMap<N, i32>, StoreError>
where
    N: Ord + Eq + Hash + Clone + 'n,
{
    let names: BTreeSet<&N> = names.collect();
    let mut found = BTreeMap::new();
    let mut missing = BTreeMap::new();
    for name in names {
        match known.get(name) {
            Some(number) => {
                found.insert(name.clone(), number);
            }
            None => {
                missing.insert(text(name), name);
            }
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let asked: Vec<&str> = missing.keys().copied().collect();
    for row in session
        .fetch(sqlx::query(sql).bind(asked), During::Read)
        .await?
    {
        let failed = |e| store_error(e, During::Read);
        let name: &str = row.try_get(0).map_err(failed)?;
        let number: i32 = row.try_get(1).map_err(failed)?;
        if let Some(name) = missing.get(name) {
            known.remember((*name).clone(), number);
            found.insert((*name).clone(), number);
        }
    }
    Ok(found)
}
