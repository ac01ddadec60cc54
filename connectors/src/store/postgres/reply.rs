//! What `tidegate.commit_batch` answered, in the engine's words.

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tidegate_engine::commit::{
    CommitBatch, CommitReply, EntityName, EntityRow, KnownKey, StoredEntity, Surprises,
};
use tidegate_engine::position::Version;
use tidegate_engine::state::Status;
use tidegate_engine::store::StoreError;

use super::commit::EntitySplit;
use super::encode::Uuid;
use super::error::{During, corrupt, store_error};

/// The reply, and which generation of dedupe tables the commit met.
pub(super) struct Answer {
    pub reply: CommitReply,
    pub dedupe_generation: i64,
}

/// Reads the one row. What it tells is durable by now: an answer that cannot be read stops the source
/// partition, and the next claim reads the checkpoint.
pub(super) fn read(
    rows: Vec<PgRow>,
    split: &EntitySplit<'_>,
    batch: &CommitBatch,
) -> Result<Answer, StoreError> {
    let row = rows.first().ok_or_else(|| corrupt("no answer"))?;
    let outcome: &str = column(row, "outcome")?;
    let reply = match outcome {
        "committed" => committed(row, split)?,
        "fenced" => CommitReply::Fenced,
        "surprised" => CommitReply::Surprised(surprises(row, split, batch)?),
        _ => return Err(corrupt("a commit's outcome")),
    };
    Ok(Answer {
        reply,
        dedupe_generation: column(row, "dedupe_generation")?,
    })
}

fn column<'r, T>(row: &'r PgRow, name: &str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name)
        .map_err(|e| store_error(e, During::Commit))
}

fn list<T>(row: &PgRow, name: &str) -> Result<Vec<T>, StoreError>
where
    Option<Vec<T>>: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    Ok(column::<Option<Vec<T>>>(row, name)?.unwrap_or_default())
}

fn committed(row: &PgRow, split: &EntitySplit<'_>) -> Result<CommitReply, StoreError> {
    let new_rows: Vec<EntityRow> = list::<i64>(row, "new_rows")?
        .into_iter()
        .map(EntityRow)
        .collect();
    // Rows are numbered as they are inserted, in the order of the array.
    if new_rows.len() != split.new.len() || !new_rows.is_sorted() {
        return Err(corrupt("the rows of new entities"));
    }
    Ok(CommitReply::Committed { new_rows })
}

fn surprises(
    row: &PgRow,
    split: &EntitySplit<'_>,
    batch: &CommitBatch,
) -> Result<Surprises, StoreError> {
    let known = list::<i32>(row, "known_keys")?;
    let conflicts = list::<Uuid>(row, "known_conflicts")?;
    let mut known_keys = Vec::with_capacity(known.len());
    for (index, conflict) in known.into_iter().zip(conflicts) {
        let mark = usize::try_from(index - 1)
            .ok()
            .and_then(|index| batch.dedupe.get(index))
            .ok_or_else(|| corrupt("a surprise"))?;
        known_keys.push(KnownKey {
            tenant: mark.tenant.clone(),
            key: mark.key,
            conflict: conflict.0,
        });
    }
    known_keys.sort_by(|a, b| (&a.tenant, a.key).cmp(&(&b.tenant, b.key)));

    let mut entities = moved(row, split)?;
    entities.sort_by(|a, b| a.0.cmp(&b.0));
    let mut busy = list::<i32>(row, "busy")?
        .into_iter()
        .map(|index| name_at(split, index))
        .collect::<Result<Vec<EntityName>, StoreError>>()?;
    busy.sort();
    Ok(Surprises {
        known_keys,
        entities,
        busy,
    })
}

/// Entities that are not as expected, as they are.
fn moved(
    row: &PgRow,
    split: &EntitySplit<'_>,
) -> Result<Vec<(EntityName, Option<StoredEntity>)>, StoreError> {
    let indexes = list::<i32>(row, "moved")?;
    let rows = list::<Option<i64>>(row, "moved_row")?;
    let versions = list::<Option<i64>>(row, "moved_version")?;
    let statuses = list::<Option<String>>(row, "moved_status")?;
    let texts = list::<Option<String>>(row, "moved_data")?;
    let states = rows.into_iter().zip(versions).zip(statuses).zip(texts);
    indexes
        .into_iter()
        .zip(states)
        .map(|(index, (((row, version), status), data))| {
            let name = name_at(split, index)?;
            let stored = match (row, version, status, data) {
                (Some(row), Some(version), Some(status), Some(data)) => Some(StoredEntity {
                    name: name.clone(),
                    row: EntityRow(row),
                    version: version_of(version)?,
                    status: Status::new(&status).map_err(|_| corrupt("a status"))?,
                    data: data.into(),
                }),
                _ => None,
            };
            Ok((name, stored))
        })
        .collect()
}

/// A version as it is stored.
pub(super) fn version_of(version: i64) -> Result<Version, StoreError> {
    u64::try_from(version)
        .map(Version)
        .map_err(|_| corrupt("a version"))
}

fn name_at(split: &EntitySplit<'_>, index: i32) -> Result<EntityName, StoreError> {
    let name = split.name_at(index).ok_or_else(|| corrupt("a surprise"))?;
    Ok(name.clone())
}
