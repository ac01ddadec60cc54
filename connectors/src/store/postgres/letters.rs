//! Dead letters and open work, as people and claims read them.

use bytes::Bytes;
use sqlx::postgres::PgRow;
use tidegate_engine::commit::WorkPlace;
use tidegate_engine::dead_letter::{DeadLetter, DeadLetterSource, DeadLetterState};
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::DeadReason;
use tidegate_engine::position::{Offset, RecordPosition, Revision, SourcePartition};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{DeadLetterFilter, StoreError, StoredDeadLetter, StoredOpenWork};
use tidegate_engine::tenant::TenantId;

use super::Inner;
use super::commit::int8;
use super::encode::{Moment, Uuid};
use super::error::{During, corrupt};
use super::ownership::{column, counter, source_partition_of};

/// What a letter is read from; named one by one like those of a checkpoint.
macro_rules! letter_columns {
    () => {
        "id, state, attempts, reason, detail, fingerprint, position, machine, key, source, partition, \
         source_offset, payload, created_at"
    };
}

impl Inner {
    pub(super) async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(concat!(
                    "select ",
                    letter_columns!(),
                    " from tidegate.dead_letters \
                     where tenant_id = $1 and ($2::text is null or state = $2) \
                       and ($3::uuid is null or id > $3) \
                     order by id limit $4",
                ))
                .bind(number)
                .bind(filter.state.map(DeadLetterState::as_str))
                .bind(filter.after.map(Uuid))
                .bind(i64::from(limit))
            })
            .await?;
        rows.iter().map(|row| letter_of(row, tenant)).collect()
    }

    pub(super) async fn open_dead_letters(
        &self,
        tenant: &TenantId,
        at_most: u32,
    ) -> Result<u64, StoreError> {
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(
                    "select count(*) as open from (\
                        select from tidegate.dead_letters \
                         where tenant_id = $1 and state = 'open' limit $2) counted",
                )
                .bind(number)
                .bind(i64::from(at_most))
            })
            .await?;
        rows.first().map_or(Ok(0), |row| counter(row, "open"))
    }

    pub(super) async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(concat!(
                    "select ",
                    letter_columns!(),
                    " from tidegate.dead_letters where tenant_id = $1 and id = $2",
                ))
                .bind(number)
                .bind(Uuid(id))
            })
            .await?;
        rows.first().map(|row| letter_of(row, tenant)).transpose()
    }

    pub(super) async fn tenants_with_open_work(
        &self,
        source_partition: &SourcePartition,
        after: Option<&TenantId>,
        limit: u32,
    ) -> Result<Vec<TenantId>, StoreError> {
        let Some(source_partition) = self
            .names
            .source_partition(&self.session, source_partition)
            .await?
        else {
            return Ok(Vec::new());
        };
        let query = sqlx::query("select name from tidegate.tenants_with_open_work($1, $2, $3)")
            .bind(source_partition)
            .bind(after.map_or("", TenantId::as_str).to_owned())
            .bind(i32::try_from(limit).unwrap_or(i32::MAX));
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter()
            .map(|row| TenantId::new(column(row, "name")?).map_err(|_| corrupt("a tenant's name")))
            .collect()
    }

    pub(super) async fn open_work(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        after: Option<WorkPlace>,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        let Some(source_partition) = self
            .names
            .source_partition(&self.session, source_partition)
            .await?
        else {
            return Ok(Vec::new());
        };
        let (revision, number) = match after {
            Some(after) => (int8(after.revision.0)?, i64::from(after.number)),
            None => (-1, -1),
        };
        let rows = self
            .read_as(tenant, |tenant| {
                sqlx::query(
                    "select revision, number, id, kind, cause, event from tidegate.open_work \
                     where tenant_id = $1 and source_partition_id = $2 \
                       and (revision, number) > ($4, $5) \
                     order by revision, number limit $3",
                )
                .bind(tenant)
                .bind(source_partition)
                .bind(i64::from(limit))
                .bind(revision)
                .bind(number)
            })
            .await?;
        rows.iter()
            .map(|row| {
                Ok(StoredOpenWork {
                    id: column::<Uuid>(row, "id")?.0,
                    place: WorkPlace {
                        revision: Revision(counter(row, "revision")?),
                        number: u32::try_from(column::<i32>(row, "number")?)
                            .map_err(|_| corrupt("a number of open work"))?,
                    },
                    kind: column(row, "kind")?,
                    cause: column::<&str>(row, "cause")?
                        .parse()
                        .map_err(|_| corrupt("a position"))?,
                    event: Bytes::from(column::<String>(row, "event")?),
                })
            })
            .collect()
    }
}

fn letter_of(row: &PgRow, tenant: &TenantId) -> Result<StoredDeadLetter, StoreError> {
    let letter = DeadLetter {
        tenant: tenant.clone(),
        id: column::<Uuid>(row, "id")?.0,
        reason: DeadReason::from_name(column(row, "reason")?)
            .ok_or_else(|| corrupt("a dead letter's reason"))?,
        detail: column(row, "detail")?,
        fingerprint: column::<Uuid>(row, "fingerprint")?.0,
        source: source_of(row)?,
        at: column::<Moment>(row, "created_at")?.0,
    };
    Ok(StoredDeadLetter {
        letter,
        state: DeadLetterState::from_name(column(row, "state")?)
            .ok_or_else(|| corrupt("a dead letter's state"))?,
        attempts: u32::try_from(column::<i32>(row, "attempts")?)
            .map_err(|_| corrupt("a dead letter's attempts"))?,
    })
}

fn source_of(row: &PgRow) -> Result<DeadLetterSource, StoreError> {
    let Some(position) = column::<Option<&str>>(row, "position")? else {
        return Ok(DeadLetterSource::Raw {
            source_partition: source_partition_of(row)?,
            offset: match column::<Option<i64>>(row, "source_offset")? {
                Some(_) => Some(Offset(counter(row, "source_offset")?)),
                None => None,
            },
            payload: Bytes::from(column::<Vec<u8>>(row, "payload")?),
        });
    };
    let position: RecordPosition = position.parse().map_err(|_| corrupt("a position"))?;
    Ok(DeadLetterSource::Record {
        position,
        machine: MachineName::new(column(row, "machine")?)
            .map_err(|_| corrupt("a machine's name"))?,
        key: column::<Option<&str>>(row, "key")?
            .map(EntityKey::new)
            .transpose()
            .map_err(|_| corrupt("a key"))?,
    })
}
