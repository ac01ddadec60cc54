//! Dead letters and open work, as people and claims read them.

use bytes::Bytes;
use sqlx::postgres::PgRow;
use tidegate_engine::dead_letter::{DeadLetter, DeadLetterSource, DeadLetterState};
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::DeadReason;
use tidegate_engine::position::{Offset, RecordPosition, SourcePartition};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{DeadLetterFilter, StoreError, StoredDeadLetter, StoredOpenWork};
use tidegate_engine::tenant::TenantId;

use super::Inner;
use super::encode::{Moment, Uuid};
use super::error::corrupt;
use super::ownership::{column, counter, source_partition_of};

impl Inner {
    pub(super) async fn dead_letters(
        &self,
        tenant: &TenantId,
        filter: DeadLetterFilter,
        limit: u32,
    ) -> Result<Vec<StoredDeadLetter>, StoreError> {
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(
                    "select * from tidegate.dead_letters \
                     where tenant_id = $1 and ($2::text is null or state = $2) \
                       and ($3::uuid is null or id > $3) \
                     order by id limit $4",
                )
                .bind(number)
                .bind(filter.state.map(DeadLetterState::as_str))
                .bind(filter.after.map(Uuid))
                .bind(i64::from(limit))
            })
            .await?;
        rows.iter().map(|row| letter_of(row, tenant)).collect()
    }

    pub(super) async fn dead_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<Option<StoredDeadLetter>, StoreError> {
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query("select * from tidegate.dead_letters where tenant_id = $1 and id = $2")
                    .bind(number)
                    .bind(Uuid(id))
            })
            .await?;
        rows.first().map(|row| letter_of(row, tenant)).transpose()
    }

    pub(super) async fn open_work(
        &self,
        tenant: &TenantId,
        source_partition: &SourcePartition,
        limit: u32,
    ) -> Result<Vec<StoredOpenWork>, StoreError> {
        let Some(source_partition) = self
            .names
            .source_partition(&self.session, source_partition)
            .await?
        else {
            return Ok(Vec::new());
        };
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(
                    "select id, kind, event from tidegate.open_work \
                     where tenant_id = $1 and source_partition_id = $2 \
                     order by due_at, id limit $3",
                )
                .bind(number)
                .bind(source_partition)
                .bind(i64::from(limit))
            })
            .await?;
        rows.iter()
            .map(|row| {
                Ok(StoredOpenWork {
                    id: column::<Uuid>(row, "id")?.0,
                    kind: column(row, "kind")?,
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
            offset: Offset(counter(row, "source_offset")?),
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
