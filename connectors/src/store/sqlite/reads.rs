//! The log, entities and open work as they stand. Every statement names its tenant first; CROSS JOIN keeps
//! the order of look-ups as it is written, whatever the planner knows of an empty file.

use bytes::Bytes;
use sqlx::SqlitePool;
use sqlx::sqlite::SqliteRow;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{EntityName, EntityRow, Segment, StoredEntity, WorkPlace};
use tidegate_engine::position::{Revision, Sequence, SourcePartition, StreamPartition, Version};
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::store::{ChainAnchor, StoreError, StoredOpenWork, StreamHead};
use tidegate_engine::tenant::TenantId;

use super::errors::store_error;
use super::rows::{Binds, ManyRows, chain_head, column, fetch, hash, number, small_number, valid};
use crate::store::batch_form;

/// Every tenant with anything stored, in order.
pub(super) async fn tenants(readers: &SqlitePool) -> Result<Vec<TenantId>, StoreError> {
    fetch(
        readers,
        "SELECT name FROM tenants t
          WHERE EXISTS (SELECT 1 FROM stream_partitions p WHERE p.tenant_id = t.tenant_id)
             OR EXISTS (SELECT 1 FROM entities e WHERE e.tenant_id = t.tenant_id)
             OR EXISTS (SELECT 1 FROM dead_letters d WHERE d.tenant_id = t.tenant_id)
             OR EXISTS (SELECT 1 FROM open_work w WHERE w.tenant_id = t.tenant_id)
          ORDER BY name",
        |_| {},
        |row| valid(row, 0),
    )
    .await
}

/// The heads of a tenant's stream partitions, of one source partition or of all, in order.
pub(super) async fn stream_heads(
    readers: &SqlitePool,
    tenant: &TenantId,
    place: Option<&SourcePartition>,
) -> Result<Vec<StreamHead>, StoreError> {
    fetch(
        readers,
        "SELECT p.stream, s.source, s.partition, p.next_sequence, p.chain_head
           FROM tenants t
          CROSS JOIN stream_partitions p USING (tenant_id)
          CROSS JOIN source_partitions s USING (source_partition_id)
          WHERE t.name = ?1 AND (?2 IS NULL OR (s.source = ?2 AND s.partition = ?3))
          ORDER BY p.stream, s.source, s.partition",
        |binds| {
            binds
                .text(tenant.as_str())
                .optional(place, |binds, place| {
                    binds.text(place.source.as_str());
                })
                .optional(place, |binds, place| {
                    binds.int(place.partition.into());
                });
        },
        |row| {
            Ok(StreamHead {
                stream_partition: StreamPartition {
                    tenant: tenant.clone(),
                    stream: valid(row, 0)?,
                    source_partition: SourcePartition {
                        source: valid(row, 1)?,
                        partition: small_number(row, 2)?,
                    },
                },
                next_sequence: Sequence(number(row, 3)?),
                chain_head: chain_head(row, 4)?,
            })
        },
    )
    .await
}

/// The joins that find a stream partition by its names: the first four values of the statement.
macro_rules! of_stream {
    () => {
        " FROM tenants t
         CROSS JOIN source_partitions o ON o.source = ?2 AND o.partition = ?3
         CROSS JOIN stream_partitions p ON p.tenant_id = t.tenant_id
               AND p.source_partition_id = o.source_partition_id AND p.stream = ?4 "
    };
}

fn bind_stream<'b>(binds: &'b mut Binds, place: &StreamPartition) -> &'b mut Binds {
    binds
        .text(place.tenant.as_str())
        .text(place.source_partition.source.as_str())
        .int(place.source_partition.partition.into())
        .text(place.stream.as_str())
}

/// Where the log of a stream partition begins when retention dropped something.
pub(super) async fn chain_anchor(
    readers: &SqlitePool,
    place: &StreamPartition,
) -> Result<Option<ChainAnchor>, StoreError> {
    let found = fetch(
        readers,
        concat!(
            "SELECT a.next_sequence, a.chain_head",
            of_stream!(),
            "CROSS JOIN chain_anchors a USING (tenant_id, stream_partition_id)
              WHERE t.name = ?1 ORDER BY a.next_sequence DESC LIMIT 1"
        ),
        |binds| {
            bind_stream(binds, place);
        },
        |row| {
            Ok(ChainAnchor {
                stream_partition: place.clone(),
                next_sequence: Sequence(number(row, 0)?),
                chain_head: chain_head(row, 1)?,
            })
        },
    )
    .await?;
    Ok(found.into_iter().next())
}

/// Segments that contain `from` or stand behind it, in order.
pub(super) async fn segments(
    readers: &SqlitePool,
    place: &StreamPartition,
    from: Sequence,
    limit: u32,
) -> Result<Vec<Segment>, StoreError> {
    // No sequence is larger than what a column holds, so beyond that there is nothing.
    let Ok(from) = i64::try_from(from.0) else {
        return Ok(Vec::new());
    };
    fetch(
        readers,
        concat!(
            "SELECT g.first_sequence, g.event_count, g.first_at, g.last_at, g.chain_head, g.body",
            of_stream!(),
            "CROSS JOIN segments g ON g.tenant_id = p.tenant_id
                   AND g.stream_partition_id = p.stream_partition_id
              WHERE t.name = ?1
                AND g.first_sequence >= coalesce(
                    (SELECT max(b.first_sequence) FROM segments b
                      WHERE b.tenant_id = p.tenant_id
                        AND b.stream_partition_id = p.stream_partition_id
                        AND b.first_sequence <= ?5), 0)
                AND g.first_sequence + g.event_count > ?5
              ORDER BY g.first_sequence LIMIT ?6"
        ),
        |binds| {
            bind_stream(binds, place).int(from).int(limit.into());
        },
        |row| {
            Ok(Segment {
                stream_partition: place.clone(),
                first_sequence: Sequence(number(row, 0)?),
                count: small_number(row, 1)?,
                first_at: Timestamp(column(row, 2)?),
                last_at: Timestamp(column(row, 3)?),
                chain_head: chain_head(row, 4)?,
                body: column::<&str>(row, 5)?.into(),
            })
        },
    )
    .await
}

static LOAD_ENTITIES: ManyRows = ManyRows::new(
    "WITH wanted (place, tenant, machine, key) AS (VALUES ",
    "(?,?,?,?)",
    ") SELECT w.place, e.entity_id, e.version, e.status, e.data
         FROM wanted w
        CROSS JOIN tenants t ON t.name = w.tenant
        CROSS JOIN machines m ON m.name = w.machine
        CROSS JOIN entities e ON e.tenant_id = t.tenant_id AND e.machine_id = m.machine_id
              AND e.key = w.key",
);

/// The named entities of a tenant that exist.
pub(super) async fn load_entities(
    readers: &SqlitePool,
    tenant: &TenantId,
    names: &[EntityName],
) -> Result<Vec<StoredEntity>, StoreError> {
    if names.iter().any(|name| name.tenant != *tenant) {
        return Err(batch_form::out_of_form(
            "an entity was asked for under another tenant than its own",
        ));
    }
    let mut connection = readers.acquire().await.map_err(store_error)?;
    let wanted: Vec<(usize, &EntityName)> = names.iter().enumerate().collect();
    let found = LOAD_ENTITIES
        .fetch(
            &mut connection,
            &wanted,
            |binds, (place, name)| {
                binds
                    .number(*place as u64)
                    .text(tenant.as_str())
                    .text(name.machine.as_str())
                    .text(name.key.as_str());
            },
            |row| {
                let place = usize::try_from(column::<i64>(row, 0)?).unwrap_or(usize::MAX);
                names
                    .get(place)
                    .map(|name| entity_of(row, 1, name.clone()))
                    .transpose()
            },
        )
        .await?;
    Ok(found.into_iter().flatten().collect())
}

/// A tenant's entities in order of machine and key, behind `after`. Machine by machine, since the index
/// has their numbers in it and not their names.
pub(super) async fn entities(
    readers: &SqlitePool,
    tenant: &TenantId,
    after: Option<(MachineName, EntityKey)>,
    limit: u32,
) -> Result<Vec<StoredEntity>, StoreError> {
    let (first, behind) = match &after {
        Some((machine, key)) => (machine.as_str(), key.as_str()),
        None => ("", ""),
    };
    let machines: Vec<(i64, MachineName)> = fetch(
        readers,
        "SELECT machine_id, name FROM machines WHERE name >= ?1 ORDER BY name",
        |binds| {
            binds.text(first);
        },
        |row| Ok((column(row, 0)?, valid(row, 1)?)),
    )
    .await?;
    let mut found = Vec::new();
    for (machine_id, machine) in machines {
        let left = i64::from(limit) - found.len() as i64;
        if left <= 0 {
            break;
        }
        // No key is empty, so behind the empty one stands all of them.
        let behind = if machine.as_str() == first {
            behind
        } else {
            ""
        };
        let page = fetch(
            readers,
            "SELECT e.entity_id, e.version, e.status, e.data, e.key
               FROM tenants t CROSS JOIN entities e USING (tenant_id)
              WHERE t.name = ?1 AND e.machine_id = ?2 AND e.key > ?3 ORDER BY e.key LIMIT ?4",
            |binds| {
                binds
                    .text(tenant.as_str())
                    .int(machine_id)
                    .text(behind)
                    .int(left);
            },
            |row| {
                let name = EntityName {
                    tenant: tenant.clone(),
                    machine: machine.clone(),
                    key: valid(row, 4)?,
                };
                entity_of(row, 0, name)
            },
        )
        .await?;
        found.extend(page);
    }
    Ok(found)
}

/// An entity from its row number, version, status and data, which stand from column `first` on.
pub(super) fn entity_of(
    row: &SqliteRow,
    first: usize,
    name: EntityName,
) -> Result<StoredEntity, StoreError> {
    Ok(StoredEntity {
        name,
        row: EntityRow(column(row, first)?),
        version: Version(number(row, first + 1)?),
        status: valid(row, first + 2)?,
        data: column::<&str>(row, first + 3)?.into(),
    })
}

/// How many entities of a machine are in each status, over all tenants.
pub(super) async fn entities_by_status(
    readers: &SqlitePool,
    machine: &MachineName,
) -> Result<Vec<(Status, u64)>, StoreError> {
    fetch(
        readers,
        "SELECT e.status, count(*) FROM entities e
          WHERE e.machine_id = (SELECT machine_id FROM machines WHERE name = ?1)
          GROUP BY e.status ORDER BY e.status",
        |binds| {
            binds.text(machine.as_str());
        },
        |row| Ok((valid(row, 0)?, number(row, 1)?)),
    )
    .await
}

/// The tenants that have open work of one source partition, in order.
pub(super) async fn tenants_with_open_work(
    readers: &SqlitePool,
    place: &SourcePartition,
    after: Option<&TenantId>,
    limit: u32,
) -> Result<Vec<TenantId>, StoreError> {
    fetch(
        readers,
        "SELECT t.name
           FROM source_partitions s
          CROSS JOIN tenants t ON t.name > ?3
          WHERE s.source = ?1 AND s.partition = ?2
            AND EXISTS (SELECT 1 FROM open_work w WHERE w.tenant_id = t.tenant_id
                           AND w.source_partition_id = s.source_partition_id)
          ORDER BY t.name LIMIT ?4",
        |binds| {
            binds
                .text(place.source.as_str())
                .int(place.partition.into())
                .text(after.map_or("", TenantId::as_str))
                .int(limit.into());
        },
        |row| valid(row, 0),
    )
    .await
}

/// A tenant's open work of one source partition, in order of place, behind `after`.
pub(super) async fn open_work(
    readers: &SqlitePool,
    tenant: &TenantId,
    place: &SourcePartition,
    after: Option<WorkPlace>,
    limit: u32,
) -> Result<Vec<StoredOpenWork>, StoreError> {
    fetch(
        readers,
        "SELECT w.id, w.revision, w.number, w.kind, w.cause, w.event
           FROM tenants t
          CROSS JOIN source_partitions s ON s.source = ?2 AND s.partition = ?3
          CROSS JOIN open_work w ON w.tenant_id = t.tenant_id
                AND w.source_partition_id = s.source_partition_id
          WHERE t.name = ?1 AND (w.revision, w.number) > (?5, ?6)
          ORDER BY w.revision, w.number LIMIT ?4",
        |binds| {
            binds
                .text(tenant.as_str())
                .text(place.source.as_str())
                .int(place.partition.into())
                .int(limit.into());
            match after {
                Some(after) => binds.number(after.revision.0).int(after.number.into()),
                None => binds.int(-1).int(-1),
            };
        },
        |row| {
            Ok(StoredOpenWork {
                id: hash(row, 0)?,
                place: WorkPlace {
                    revision: Revision(number(row, 1)?),
                    number: small_number(row, 2)?,
                },
                kind: column(row, 3)?,
                cause: valid(row, 4)?,
                event: Bytes::from(column::<Vec<u8>>(row, 5)?),
            })
        },
    )
    .await
}
