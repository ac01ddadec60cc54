//! All that stands in the way of a batch: keys that were admitted before, entities that are not as
//! expected. Reads only. Nothing is ever busy here: one connection writes.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use tidegate_engine::commit::{
    CommitBatch, DedupeMark, EntityName, KnownKey, StoredEntity, Surprises,
};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::Version;
use tidegate_engine::store::StoreError;

use super::commit::Fence;
use super::names::Names;
use super::reads::entity_of;
use super::rows::{Binds, ManyRows, column, hash, number};

const KEY_ROW: &str = "(?,?,?)";
const KEY_HEAD: &str = "WITH wanted (place, tenant_id, key) AS (VALUES ";
static FIND_KEYS: [ManyRows; 2] = [
    ManyRows::new(
        KEY_HEAD,
        KEY_ROW,
        ") SELECT place, conflict FROM wanted CROSS JOIN dedupe_0 USING (tenant_id, key)",
    ),
    ManyRows::new(
        KEY_HEAD,
        KEY_ROW,
        ") SELECT place, conflict FROM wanted CROSS JOIN dedupe_1 USING (tenant_id, key)",
    ),
];
static FIND_ENTITIES: ManyRows = ManyRows::new(
    "WITH wanted (place, tenant_id, machine_id, key) AS (VALUES ",
    "(?,?,?,?)",
    ") SELECT place, entity_id, version, status, data
         FROM wanted CROSS JOIN entities USING (tenant_id, machine_id, key)",
);

/// What was found.
pub(super) struct Found {
    /// What stands in the way.
    pub(super) surprises: Surprises,
    /// The first entity that is as expected, but in another row than the batch names.
    pub(super) other_row: Option<usize>,
}

/// True when the older dedupe table knows any of these marks.
pub(super) async fn older_knows_any(
    connection: &mut SqliteConnection,
    fence: &Fence,
    names: &Names,
    probes: &[(usize, &DedupeMark)],
) -> Result<bool, StoreError> {
    let older = usize::from(!fence.second_is_current);
    let known = keys_in(connection, older, names, probes).await?;
    Ok(!known.is_empty())
}

/// All that stands in the way, in the order of the batch's arrays.
pub(super) async fn find(
    connection: &mut SqliteConnection,
    fence: &Fence,
    names: &Names,
    batch: &CommitBatch,
) -> Result<Found, StoreError> {
    let current = usize::from(fence.second_is_current);
    let marks: Vec<(usize, &DedupeMark)> = batch.dedupe.iter().enumerate().collect();
    let mut known = keys_in(connection, 1 - current, names, &marks).await?;
    known.extend(keys_in(connection, current, names, &marks).await?);
    let known_keys = batch.dedupe.iter().enumerate().filter_map(|(place, mark)| {
        known.get(&(place as u64)).map(|conflict| KnownKey {
            tenant: mark.tenant.clone(),
            key: mark.key,
            conflict: *conflict,
        })
    });
    let mut found = Found {
        surprises: Surprises {
            known_keys: known_keys.collect(),
            ..Surprises::default()
        },
        other_row: None,
    };
    let written: Vec<&EntityName> = batch.entities.iter().map(|write| &write.name).collect();
    let mut stored = entities_of(connection, names, &written).await?;
    for (place, write) in batch.entities.iter().enumerate() {
        let entity = stored.remove(&(place as u64));
        let version = entity.as_ref().map_or(Version(0), |entity| entity.version);
        if version != write.expected {
            found.surprises.entities.push((write.name.clone(), entity));
        } else if entity.is_some_and(|entity| Some(entity.row) != write.row) {
            found.other_row = found.other_row.or(Some(place));
        }
    }
    let read = moved_reads(connection, names, batch).await?;
    found.surprises.entities.extend(read);
    Ok(found)
}

/// Entities that the batch only looked at and that are not as it saw them, as they are.
pub(super) async fn moved_reads(
    connection: &mut SqliteConnection,
    names: &Names,
    batch: &CommitBatch,
) -> Result<Vec<(EntityName, Option<StoredEntity>)>, StoreError> {
    let read: Vec<&EntityName> = batch.reads.iter().map(|read| &read.name).collect();
    let mut stored = entities_of(connection, names, &read).await?;
    let moved = batch.reads.iter().enumerate().filter_map(|(place, read)| {
        let entity = stored.remove(&(place as u64));
        let version = entity.as_ref().map_or(Version(0), |entity| entity.version);
        (version != read.expected).then(|| (read.name.clone(), entity))
    });
    Ok(moved.collect())
}

/// Which of the marks one dedupe table knows, by their place, with the conflict hash that stands there.
async fn keys_in(
    connection: &mut SqliteConnection,
    table: usize,
    names: &Names,
    wanted: &[(usize, &DedupeMark)],
) -> Result<HashMap<u64, Hash128>, StoreError> {
    let [first, second] = &FIND_KEYS;
    let find = if table == 0 { first } else { second };
    let bind = |binds: &mut Binds, (place, mark): &(usize, &DedupeMark)| {
        binds
            .number(*place as u64)
            .int(names.tenant(&mark.tenant))
            .hash(mark.key);
    };
    let found = find
        .fetch(connection, wanted, bind, |row| {
            Ok((number(row, 0)?, hash(row, 1)?))
        })
        .await?;
    Ok(found.into_iter().collect())
}

/// The named entities that exist, by their place.
async fn entities_of(
    connection: &mut SqliteConnection,
    names: &Names,
    named: &[&EntityName],
) -> Result<HashMap<u64, StoredEntity>, StoreError> {
    let wanted: Vec<(usize, &EntityName)> = named.iter().copied().enumerate().collect();
    let bind = |binds: &mut Binds, (place, name): &(usize, &EntityName)| {
        binds
            .number(*place as u64)
            .int(names.tenant(&name.tenant))
            .int(names.machine(&name.machine))
            .text(name.key.as_str());
    };
    let found = FIND_ENTITIES
        .fetch(connection, &wanted, bind, |row| {
            let place: i64 = column(row, 0)?;
            let name = usize::try_from(place).ok().and_then(|at| named.get(at));
            let entity = match name {
                Some(name) => Some(entity_of(row, 1, (*name).clone())?),
                None => None,
            };
            Ok((place.unsigned_abs(), entity))
        })
        .await?;
    Ok(found
        .into_iter()
        .filter_map(|(place, entity)| Some((place, entity?)))
        .collect())
}
