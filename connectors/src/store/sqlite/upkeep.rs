//! Upkeep: rotation of the dedupe tables, and retention of the log. Owns the only way in which something
//! stored goes away.

use sqlx::{SqliteConnection, SqlitePool};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::store::{StoreError, Upkeep, UpkeepDone};

use super::rows::{ManyRows, column, execute, fetch, number};
use super::writer::{End, Writer};

/// Segments dropped in one transaction: deleting reads all their pages, and commits wait meanwhile.
const DROPPED_AT_ONCE_MAX: usize = 256;

/// Segments dropped in one upkeep: what is left waits for the next one. Bounds the list in memory.
const DROPPED_MAX: i64 = 65_536;

/// Rotates when the current dedupe table is old enough, then drops what retention no longer keeps.
pub(super) async fn upkeep(
    writer: &Writer,
    readers: &SqlitePool,
    upkeep: Upkeep,
) -> Result<UpkeepDone, StoreError> {
    let rotated = writer
        .transaction(move |connection| Box::pin(rotate(connection, upkeep)))
        .await?;
    let mut segments_dropped = 0;
    if let Some(retention) = upkeep.retention_micros {
        let horizon = Timestamp(upkeep.now.0.saturating_sub(retention));
        let old = older_than(readers, horizon).await?;
        for some in old.chunks(DROPPED_AT_ONCE_MAX) {
            let some = some.to_vec();
            segments_dropped += writer
                .transaction(move |connection| {
                    Box::pin(async move { drop_segments(connection, &some, upkeep.now).await })
                })
                .await?;
        }
    }
    Ok(UpkeepDone {
        rotated,
        segments_dropped,
    })
}

/// Empties the older table and makes it the current one. A key lives between one and two windows.
async fn rotate(
    connection: &mut SqliteConnection,
    upkeep: Upkeep,
) -> Result<End<bool>, StoreError> {
    // The first upkeep of a store begins to count.
    execute(
        connection,
        "UPDATE dedupe_state SET rotated_at = ?1 WHERE rotated_at IS NULL",
        |binds| {
            binds.int(upkeep.now.0);
        },
    )
    .await?;
    let state: Vec<(bool, i64)> = fetch(
        &mut *connection,
        "SELECT current_table, rotated_at FROM dedupe_state",
        |_| {},
        |row| Ok((column(row, 0)?, column(row, 1)?)),
    )
    .await?;
    let due = |since: i64| upkeep.now.0.saturating_sub(since) > upkeep.dedupe_window_micros;
    let Some((second_is_current, _)) = state.first().filter(|(_, since)| due(*since)) else {
        return Ok(End::Commit(false));
    };
    let empty_the_older = if *second_is_current {
        "DELETE FROM dedupe_0"
    } else {
        "DELETE FROM dedupe_1"
    };
    execute(connection, empty_the_older, |_| {}).await?;
    execute(
        connection,
        "UPDATE dedupe_state SET current_table = 1 - current_table, rotated_at = ?1",
        |binds| {
            binds.int(upkeep.now.0);
        },
    )
    .await?;
    Ok(End::Commit(true))
}

/// A segment that retention no longer keeps.
#[derive(Clone)]
struct Old {
    segment_id: i64,
    tenant_id: i64,
    stream_partition_id: i64,
    next_sequence: u64,
    chain_head: Vec<u8>,
}

/// Segments whose last record is older than `horizon`, in order of their logs. Of each log only those in
/// front of its first younger one, so that a clock that stepped back leaves no hole.
async fn older_than(readers: &SqlitePool, horizon: Timestamp) -> Result<Vec<Old>, StoreError> {
    fetch(
        readers,
        "WITH kept AS (
             SELECT stream_partition_id, min(first_sequence) AS first_sequence
               FROM segments WHERE last_at >= ?1 GROUP BY stream_partition_id
         )
         SELECT g.segment_id, g.tenant_id, g.stream_partition_id,
                g.first_sequence + g.event_count, g.chain_head
           FROM segments g LEFT JOIN kept k USING (stream_partition_id)
          WHERE g.last_at < ?1
            AND (k.first_sequence IS NULL OR g.first_sequence < k.first_sequence)
          ORDER BY g.tenant_id, g.stream_partition_id, g.first_sequence
          LIMIT ?2",
        |binds| {
            binds.int(horizon.0).int(DROPPED_MAX);
        },
        |row| {
            Ok(Old {
                segment_id: column(row, 0)?,
                tenant_id: column(row, 1)?,
                stream_partition_id: column(row, 2)?,
                next_sequence: number(row, 3)?,
                chain_head: column(row, 4)?,
            })
        },
    )
    .await
}

static DROP_SEGMENTS: ManyRows = ManyRows::new(
    "DELETE FROM segments WHERE segment_id IN (VALUES ",
    "(?)",
    ")",
);
static ADD_ANCHORS: ManyRows = ManyRows::new(
    "INSERT INTO chain_anchors (tenant_id, stream_partition_id, next_sequence, chain_head, dropped_at)
     VALUES ",
    "(?,?,?,?,?)",
    "",
);

/// Drops segments and anchors each of their chains behind the last one dropped.
async fn drop_segments(
    connection: &mut SqliteConnection,
    old: &[Old],
    now: Timestamp,
) -> Result<End<u64>, StoreError> {
    execute(connection, "UPDATE retention_state SET at_work = 1", |_| {}).await?;
    let last_of_each: Vec<&Old> = old
        .chunk_by(|left, right| left.stream_partition_id == right.stream_partition_id)
        .filter_map(<[Old]>::last)
        .collect();
    ADD_ANCHORS
        .execute(connection, &last_of_each, |binds, last| {
            binds
                .int(last.tenant_id)
                .int(last.stream_partition_id)
                .number(last.next_sequence)
                .bytes(&last.chain_head)
                .int(now.0);
        })
        .await?;
    let dropped = DROP_SEGMENTS
        .execute(connection, old, |binds, old| {
            binds.int(old.segment_id);
        })
        .await?;
    execute(connection, "UPDATE retention_state SET at_work = 0", |_| {}).await?;
    Ok(End::Commit(dropped))
}
