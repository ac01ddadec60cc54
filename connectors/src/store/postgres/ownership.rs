//! Claims, checkpoints, the heads of logs and the states of entities: what an owner loads before it
//! commits.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::{
    Checkpoint, Counts, DoneAbove, DoneRange, Fingerprint, Progress,
};
use tidegate_engine::commit::{EntityName, EntityRow, StoredEntity};
use tidegate_engine::position::{
    Epoch, Incarnation, Offset, Revision, Sequence, SourceName, SourcePartition, StreamName,
    StreamPartition,
};
use tidegate_engine::state::Status;
use tidegate_engine::store::{Claim, StoreError, StreamHead};
use tidegate_engine::tenant::TenantId;

use super::Inner;
use super::commit::int8;
use super::encode::Uuid;
use super::error::{During, corrupt, store_error};
use super::reply::version_of;
use crate::store::batch_form::out_of_form;

/// A column by name; a wrong type is a mistake of ours.
pub(super) fn column<'r, T>(row: &'r PgRow, name: &str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name).map_err(|e| store_error(e, During::Read))
}

/// A counter: unsigned in the engine, signed in SQL.
pub(super) fn counter(row: &PgRow, name: &str) -> Result<u64, StoreError> {
    u64::try_from(column::<i64>(row, name)?).map_err(|_| corrupt(name))
}

/// What a checkpoint is read from. Named one by one: a statement that a connection has prepared must not
/// change its result when a migration adds a column.
macro_rules! checkpoint_columns {
    () => {
        "source_partition_id, source, partition, epoch, owner, revision, incarnation, next_offset, \
         done_above, fingerprint_offset, fingerprint, admitted, duplicates, conflicts, unreadable, \
         applied, rejected, ignored, dead, unhandled, emitted, looped_back"
    };
}

const CLAIM_SQL: &str = concat!(
    "select ",
    checkpoint_columns!(),
    " from tidegate.claim($1, $2, $3, $4, $5)",
);

impl Inner {
    /// Epoch + 1, and the checkpoint.
    pub(super) async fn claim(&self, claim: &Claim) -> Result<Checkpoint, StoreError> {
        let query = sqlx::query(CLAIM_SQL)
            .bind(claim.source_partition.source.as_str())
            .bind(i64::from(claim.source_partition.partition))
            .bind(claim.owner.as_str())
            .bind(claim.incarnation.as_str())
            .bind(int8(claim.start.0)?);
        let rows = self.session.fetch(query, During::Read).await?;
        let row = rows.first().ok_or_else(|| corrupt("no checkpoint"))?;
        self.names.keep_source_partition(
            claim.source_partition.clone(),
            column(row, "source_partition_id")?,
        );
        checkpoint_of(row)
    }

    /// One checkpoint.
    pub(super) async fn checkpoint(
        &self,
        source_partition: &SourcePartition,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let query = sqlx::query(concat!(
            "select ",
            checkpoint_columns!(),
            " from tidegate.source_partitions where source = $1 and partition = $2",
        ))
        .bind(source_partition.source.as_str())
        .bind(i64::from(source_partition.partition));
        let rows = self.session.fetch(query, During::Read).await?;
        rows.first().map(checkpoint_of).transpose()
    }

    /// Every checkpoint.
    pub(super) async fn checkpoints(&self) -> Result<Vec<Checkpoint>, StoreError> {
        let query = sqlx::query(concat!(
            "select ",
            checkpoint_columns!(),
            " from tidegate.source_partitions order by source collate \"C\", partition",
        ));
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter().map(checkpoint_of).collect()
    }

    /// The heads of a tenant's stream partitions in one source partition.
    pub(super) async fn stream_heads(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        let Some(number) = self.names.known_tenant(&self.session, tenant).await? else {
            return Ok(Vec::new());
        };
        let query = sqlx::query(
            "select stream, next_sequence, chain_head from tidegate.stream_heads($1, $2, $3)",
        )
        .bind(number)
        .bind(source_partition.source.as_str())
        .bind(i64::from(source_partition.partition));
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter()
            .map(|row| head_of(row, tenant, source_partition.clone()))
            .collect()
    }

    /// The named entities; those that do not exist are left out.
    pub(super) async fn load_entities(
        &self,
        tenant: &TenantId,
        names: &[EntityName],
    ) -> Result<Vec<StoredEntity>, StoreError> {
        if names.iter().any(|name| name.tenant != *tenant) {
            return Err(out_of_form(
                "an entity was asked for under another tenant than its own",
            ));
        }
        let Some(number) = self.names.known_tenant(&self.session, tenant).await? else {
            return Ok(Vec::new());
        };
        let machines = self
            .names
            .known_machines(&self.session, names.iter().map(|name| &name.machine))
            .await?;
        let machine_ids: Vec<i32> = names
            .iter()
            .map(|name| machines.get(&name.machine).copied().unwrap_or_default())
            .collect();
        let keys: Vec<&str> = names.iter().map(|name| name.key.as_str()).collect();
        let query = sqlx::query(
            "select ordinal, entity_id, version, status, data \
             from tidegate.load_entities($1, $2, $3)",
        )
        .bind(number)
        .bind(machine_ids)
        .bind(keys);
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter()
            .map(|row| {
                let ordinal: i32 = column(row, "ordinal")?;
                let name = usize::try_from(ordinal - 1)
                    .ok()
                    .and_then(|index| names.get(index))
                    .ok_or_else(|| corrupt("an entity's place"))?;
                Ok(StoredEntity {
                    name: name.clone(),
                    row: EntityRow(column(row, "entity_id")?),
                    version: version_of(column(row, "version")?)?,
                    status: Status::new(column(row, "status")?).map_err(|_| corrupt("a status"))?,
                    data: column::<&str>(row, "data")?.into(),
                })
            })
            .collect()
    }
}

/// Columns `stream`, `next_sequence`, `chain_head`.
pub(super) fn head_of(
    row: &PgRow,
    tenant: &TenantId,
    source_partition: SourcePartition,
) -> Result<StreamHead, StoreError> {
    Ok(StreamHead {
        stream_partition: StreamPartition {
            tenant: tenant.clone(),
            stream: StreamName::new(column(row, "stream")?).map_err(|_| corrupt("a stream"))?,
            source_partition,
        },
        next_sequence: Sequence(counter(row, "next_sequence")?),
        chain_head: chain_head_of(row)?,
    })
}

/// Column `chain_head`.
pub(super) fn chain_head_of(row: &PgRow) -> Result<ChainHead, StoreError> {
    ChainHead::from_slice(column(row, "chain_head")?).ok_or_else(|| corrupt("a chain head"))
}

/// Columns `source` and `partition`.
pub(super) fn source_partition_of(row: &PgRow) -> Result<SourcePartition, StoreError> {
    Ok(SourcePartition {
        source: SourceName::new(column(row, "source")?).map_err(|_| corrupt("a source"))?,
        partition: u32::try_from(column::<i64>(row, "partition")?)
            .map_err(|_| corrupt("a partition"))?,
    })
}

fn checkpoint_of(row: &PgRow) -> Result<Checkpoint, StoreError> {
    Ok(Checkpoint {
        source_partition: source_partition_of(row)?,
        epoch: Epoch(counter(row, "epoch")?),
        owner: column(row, "owner")?,
        revision: Revision(counter(row, "revision")?),
        incarnation: Incarnation::new(column(row, "incarnation")?)
            .map_err(|_| corrupt("an incarnation"))?,
        progress: progress_of(row)?,
    })
}

fn progress_of(row: &PgRow) -> Result<Progress, StoreError> {
    let offset = |value: i64| {
        u64::try_from(value)
            .map(Offset)
            .map_err(|_| corrupt("an offset"))
    };
    let mut ranges = Vec::new();
    let mut bounds = column::<Vec<i64>>(row, "done_above")?.into_iter();
    while let Some(first) = bounds.next() {
        let last = bounds.next().ok_or_else(|| corrupt("done_above"))?;
        ranges.push(DoneRange {
            first: offset(first)?,
            last: offset(last)?,
        });
    }
    let fingerprint = match (
        column::<Option<i64>>(row, "fingerprint_offset")?,
        column::<Option<Uuid>>(row, "fingerprint")?,
    ) {
        (Some(at), Some(hash)) => Some(Fingerprint {
            offset: offset(at)?,
            hash: hash.0,
        }),
        _ => None,
    };
    Ok(Progress {
        next_offset: Offset(counter(row, "next_offset")?),
        done_above: DoneAbove(ranges),
        fingerprint,
        counts: Counts {
            admitted: counter(row, "admitted")?,
            duplicates: counter(row, "duplicates")?,
            conflicts: counter(row, "conflicts")?,
            unreadable: counter(row, "unreadable")?,
            applied: counter(row, "applied")?,
            rejected: counter(row, "rejected")?,
            ignored: counter(row, "ignored")?,
            dead: counter(row, "dead")?,
            unhandled: counter(row, "unhandled")?,
            emitted: counter(row, "emitted")?,
            looped_back: counter(row, "looped_back")?,
        },
    })
}
