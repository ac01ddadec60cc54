//! The index of events by id and correlation: built behind the log, never in a commit. Owns its two
//! tables. A segment is read and taken apart beside the writer, which only gets rows that are ready.

use std::borrow::Cow;

use serde::Deserialize;
use sqlx::{SqliteConnection, SqlitePool};
use tidegate_engine::position::{RecordPosition, Sequence, SourcePartition};
use tidegate_engine::store::{EventLookup, StoreError};
use tidegate_engine::tenant::TenantId;

use super::errors::unreadable;
use super::rows::{ManyRows, column, execute, fetch, number, small_number, valid};
use super::writer::{End, Writer};

/// Segments indexed in one transaction. Commits wait meanwhile: some milliseconds.
const SEGMENTS_AT_ONCE: i64 = 4;

/// Such transactions in one upkeep. What is left is the index's lag, and the next upkeep's work.
const TURNS_MAX: u32 = 500;

/// Rows deleted in one transaction when retention has dropped what they point to.
const DELETED_AT_ONCE: i64 = 20_000;

/// What the index takes from a stored record.
#[derive(Deserialize)]
struct Indexed<'t> {
    sequence: i64,
    /// Absent in a later effect of another event.
    #[serde(borrow)]
    event: Option<IndexedEvent<'t>>,
}

#[derive(Deserialize)]
struct IndexedEvent<'t> {
    #[serde(borrow)]
    id: Cow<'t, str>,
    #[serde(borrow, rename = "correlationid")]
    correlation_id: Option<Cow<'t, str>>,
}

/// A segment that is not indexed yet.
struct Unindexed {
    tenant_id: i64,
    stream_partition_id: i64,
    next_sequence: u64,
    body: String,
}

/// A row of the index.
struct IndexRow {
    tenant_id: i64,
    stream_partition_id: i64,
    sequence: i64,
    event_id: String,
    correlation_id: Option<String>,
}

/// The log behind which the index goes on: a busy one must not keep the others waiting.
#[derive(Debug, Default)]
pub(super) struct Turn(i64);

/// Forgets what retention dropped, goes on behind the logs in turn, and says how many records are left.
pub(super) async fn go_on(
    writer: &Writer,
    readers: &SqlitePool,
    turn: &mut Turn,
) -> Result<u64, StoreError> {
    while forget_dropped(writer).await? == DELETED_AT_ONCE as u64 {}
    for _ in 0..TURNS_MAX {
        let segments = unindexed(readers, turn).await?;
        let is_round = turn.0 == 0;
        let is_short = (segments.len() as i64) < SEGMENTS_AT_ONCE;
        turn.0 = match segments.last() {
            Some(segment) if !is_short => segment.stream_partition_id,
            _ => 0,
        };
        if !segments.is_empty() {
            let rows = rows_of(&segments);
            writer
                .transaction(move |connection| {
                    Box::pin(async move { index(connection, &rows, &segments).await })
                })
                .await?;
        }
        if is_short && is_round {
            break;
        }
    }
    lag(readers).await
}

async fn forget_dropped(writer: &Writer) -> Result<u64, StoreError> {
    writer
        .transaction(|connection| {
            Box::pin(async move {
                let deleted = execute(
                    connection,
                    "DELETE FROM event_index WHERE (tenant_id, stream_partition_id, sequence) IN (
                         SELECT x.tenant_id, x.stream_partition_id, x.sequence
                           FROM (SELECT tenant_id, stream_partition_id,
                                        max(next_sequence) AS next_sequence
                                   FROM chain_anchors GROUP BY tenant_id, stream_partition_id) a
                          CROSS JOIN event_index x
                             ON x.tenant_id = a.tenant_id
                            AND x.stream_partition_id = a.stream_partition_id
                            AND x.sequence < a.next_sequence
                          LIMIT ?1)",
                    |binds| {
                        binds.int(DELETED_AT_ONCE);
                    },
                )
                .await?;
                Ok(End::Commit(deleted))
            })
        })
        .await
}

/// The next segments, log by log.
async fn unindexed(readers: &SqlitePool, turn: &Turn) -> Result<Vec<Unindexed>, StoreError> {
    fetch(
        readers,
        "SELECT g.tenant_id, g.stream_partition_id, g.first_sequence + g.event_count, g.body
           FROM stream_partitions p
           LEFT JOIN event_index_progress i
             ON i.tenant_id = p.tenant_id AND i.stream_partition_id = p.stream_partition_id
          CROSS JOIN segments g
             ON g.tenant_id = p.tenant_id AND g.stream_partition_id = p.stream_partition_id
            AND g.first_sequence >= coalesce(i.next_sequence, 0)
          WHERE p.next_sequence > coalesce(i.next_sequence, 0) AND p.stream_partition_id > ?2
          ORDER BY p.stream_partition_id, g.first_sequence LIMIT ?1",
        |binds| {
            binds.int(SEGMENTS_AT_ONCE).int(turn.0);
        },
        |row| {
            Ok(Unindexed {
                tenant_id: column(row, 0)?,
                stream_partition_id: column(row, 1)?,
                next_sequence: number(row, 2)?,
                body: column(row, 3)?,
            })
        },
    )
    .await
}

/// A segment that cannot be read is stepped over, as its events are not found by anybody else either:
/// `verify` names it.
fn rows_of(segments: &[Unindexed]) -> Vec<IndexRow> {
    let mut rows = Vec::new();
    for segment in segments {
        let Ok(records) = serde_json::from_str::<Vec<Indexed<'_>>>(&segment.body) else {
            let (log, before) = (segment.stream_partition_id, segment.next_sequence);
            tracing::warn!(
                log,
                before,
                "a segment cannot be read and is left out of the event index; run `tidegate verify`"
            );
            continue;
        };
        rows.extend(records.into_iter().filter_map(|record| {
            let event = record.event?;
            Some(IndexRow {
                tenant_id: segment.tenant_id,
                stream_partition_id: segment.stream_partition_id,
                sequence: record.sequence,
                event_id: event.id.into_owned(),
                correlation_id: event.correlation_id.map(Cow::into_owned),
            })
        }));
    }
    rows
}

static ADD_ROWS: ManyRows = ManyRows::new(
    "INSERT INTO event_index (tenant_id, stream_partition_id, sequence, event_id, correlation_id)
     VALUES ",
    "(?,?,?,?,?)",
    " ON CONFLICT DO NOTHING",
);
static MOVE_PROGRESS: ManyRows = ManyRows::new(
    "INSERT OR REPLACE INTO event_index_progress (tenant_id, stream_partition_id, next_sequence)
     VALUES ",
    "(?,?,?)",
    "",
);

/// Writes the rows of some segments, and that they are done. Upkeep is one at a time, so nobody has
/// moved on meanwhile.
async fn index(
    connection: &mut SqliteConnection,
    rows: &[IndexRow],
    segments: &[Unindexed],
) -> Result<End<()>, StoreError> {
    ADD_ROWS
        .execute(connection, rows, |binds, row| {
            binds
                .int(row.tenant_id)
                .int(row.stream_partition_id)
                .int(row.sequence)
                .text(&row.event_id)
                .optional(row.correlation_id.as_deref(), |binds, correlation| {
                    binds.text(correlation);
                });
        })
        .await?;
    // Of several segments of one log the last one stays.
    MOVE_PROGRESS
        .execute(connection, segments, |binds, segment| {
            binds
                .int(segment.tenant_id)
                .int(segment.stream_partition_id)
                .number(segment.next_sequence);
        })
        .await?;
    Ok(End::Commit(()))
}

/// Records of all logs that the index does not know yet.
async fn lag(readers: &SqlitePool) -> Result<u64, StoreError> {
    let found = fetch(
        readers,
        "SELECT coalesce(sum(p.next_sequence - max(
                    coalesce(i.next_sequence, 0),
                    coalesce((SELECT max(a.next_sequence) FROM chain_anchors a
                               WHERE a.tenant_id = p.tenant_id
                                 AND a.stream_partition_id = p.stream_partition_id), 0))), 0)
           FROM stream_partitions p
           LEFT JOIN event_index_progress i
             ON i.tenant_id = p.tenant_id AND i.stream_partition_id = p.stream_partition_id",
        |_| {},
        |row| number(row, 0),
    )
    .await?;
    found.first().copied().ok_or_else(|| unreadable("lag"))
}

/// The joins from an index row to the names of its place.
macro_rules! by {
    ($column:literal) => {
        concat!(
            "SELECT p.stream, s.source, s.partition, x.sequence
               FROM tenants t
              CROSS JOIN event_index x USING (tenant_id)
              CROSS JOIN stream_partitions p ON p.stream_partition_id = x.stream_partition_id
              CROSS JOIN source_partitions s ON s.source_partition_id = p.source_partition_id
              WHERE t.name = ?1 AND x.",
            $column,
            " = ?2 AND (?4 = '' OR (p.stream, s.source, s.partition, x.sequence) > (?4, ?5, ?6, ?7))
              ORDER BY p.stream, s.source, s.partition, x.sequence LIMIT ?3"
        )
    };
}

/// Where a tenant's events stand that have that id or correlation.
pub(super) async fn positions(
    readers: &SqlitePool,
    tenant: &TenantId,
    wanted: &EventLookup,
    after: Option<&RecordPosition>,
    limit: u32,
) -> Result<Vec<RecordPosition>, StoreError> {
    let (sql, text) = match wanted {
        EventLookup::Id(id) => (by!("event_id"), id.as_str()),
        EventLookup::Correlation(id) => (by!("correlation_id"), id.as_str()),
    };
    fetch(
        readers,
        sql,
        |binds| {
            binds.text(tenant.as_str()).text(text).int(limit.into());
            let at = after.map(|it| &it.source_partition);
            binds
                .text(after.map_or("", |it| it.stream.as_str()))
                .text(at.map_or("", |at| at.source.as_str()))
                .int(at.map_or(0, |at| at.partition.into()))
                // Behind the last that there can be stands nothing.
                .int(after.map_or(0, |it| i64::try_from(it.sequence.0).unwrap_or(i64::MAX)));
        },
        |row| {
            Ok(RecordPosition {
                stream: valid(row, 0)?,
                source_partition: SourcePartition {
                    source: valid(row, 1)?,
                    partition: small_number(row, 2)?,
                },
                sequence: Sequence(number(row, 3)?),
            })
        },
    )
    .await
}
