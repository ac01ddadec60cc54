//! Dead letters as people see them.

use bytes::Bytes;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteRow;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::dead_letter::{DeadLetter, DeadLetterSource, DeadLetterState};
use tidegate_engine::hash::Hash128;
use tidegate_engine::machine::DeadReason;
use tidegate_engine::position::{Offset, SourcePartition};
use tidegate_engine::store::{DeadLetterFilter, StoreError, StoredDeadLetter};
use tidegate_engine::tenant::TenantId;

use super::errors::unreadable;
use super::rows::{column, fetch, hash, number, small_number, valid};

/// The columns that [`letter_of`] reads.
macro_rules! columns {
    () => {
        "SELECT d.id, d.state, d.attempts, d.reason, d.detail, d.fingerprint, d.created_at,
                d.position, d.machine, d.key, d.source, d.partition, d.source_offset, d.payload
           FROM tenants t CROSS JOIN dead_letters d USING (tenant_id) "
    };
}

/// A tenant's dead letters in order of id.
pub(super) async fn dead_letters(
    readers: &SqlitePool,
    tenant: &TenantId,
    filter: DeadLetterFilter,
    limit: u32,
) -> Result<Vec<StoredDeadLetter>, StoreError> {
    fetch(
        readers,
        // The empty blob comes before every id.
        concat!(
            columns!(),
            "WHERE t.name = ?1 AND d.id > coalesce(?2, x'') AND (?3 IS NULL OR d.state = ?3)
             ORDER BY d.id LIMIT ?4"
        ),
        |binds| {
            binds
                .text(tenant.as_str())
                .optional(filter.after, |binds, after| {
                    binds.hash(after);
                })
                .optional(filter.state, |binds, state| {
                    binds.text(state.as_str());
                })
                .int(limit.into());
        },
        |row| letter_of(row, tenant),
    )
    .await
}

/// How many open dead letters a tenant has, counted no further than `at_most`.
pub(super) async fn open_dead_letters(
    readers: &SqlitePool,
    tenant: &TenantId,
    at_most: u32,
) -> Result<u64, StoreError> {
    let counted = fetch(
        readers,
        "SELECT count(*) AS open FROM (
             SELECT 1 FROM tenants t CROSS JOIN dead_letters d USING (tenant_id)
              WHERE t.name = ?1 AND d.state = 'open' LIMIT ?2)",
        |binds| {
            binds.text(tenant.as_str()).int(at_most.into());
        },
        |row| number(row, 0),
    )
    .await?;
    Ok(counted.into_iter().sum())
}

/// One dead letter.
pub(super) async fn dead_letter(
    readers: &SqlitePool,
    tenant: &TenantId,
    id: Hash128,
) -> Result<Option<StoredDeadLetter>, StoreError> {
    let found = fetch(
        readers,
        concat!(columns!(), "WHERE t.name = ?1 AND d.id = ?2"),
        |binds| {
            binds.text(tenant.as_str()).hash(id);
        },
        |row| letter_of(row, tenant),
    )
    .await?;
    Ok(found.into_iter().next())
}

fn letter_of(row: &SqliteRow, tenant: &TenantId) -> Result<StoredDeadLetter, StoreError> {
    let source = if column::<Option<&str>>(row, 7)?.is_some() {
        DeadLetterSource::Record {
            position: valid(row, 7)?,
            machine: valid(row, 8)?,
            key: match column::<Option<&str>>(row, 9)? {
                Some(_) => Some(valid(row, 9)?),
                None => None,
            },
        }
    } else {
        DeadLetterSource::Raw {
            source_partition: SourcePartition {
                source: valid(row, 10)?,
                partition: small_number(row, 11)?,
            },
            offset: match column::<Option<i64>>(row, 12)? {
                Some(_) => Some(Offset(number(row, 12)?)),
                None => None,
            },
            payload: Bytes::from(column::<Vec<u8>>(row, 13)?),
        }
    };
    Ok(StoredDeadLetter {
        letter: DeadLetter {
            tenant: tenant.clone(),
            id: hash(row, 0)?,
            reason: DeadReason::from_name(column(row, 3)?)
                .ok_or_else(|| unreadable("reason of a dead letter"))?,
            detail: column(row, 4)?,
            fingerprint: hash(row, 5)?,
            source,
            at: Timestamp(column(row, 6)?),
        },
        state: DeadLetterState::from_name(column(row, 1)?)
            .ok_or_else(|| unreadable("state of a dead letter"))?,
        attempts: small_number(row, 2)?,
    })
}
