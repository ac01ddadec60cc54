//! Upkeep: rotation of the dedupe tables, and retention of the log. Owns the only way in which something
//! stored goes away.

use sqlx::{SqliteConnection, SqlitePool};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::store::{StoreError, Upkeep, UpkeepDone};

use super::errors::unreadable;
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
    let mut done = UpkeepDone {
        rotated,
        ..UpkeepDone::default()
    };
    if let Some(retention) = upkeep.retention_micros {
        let horizon = Timestamp(upkeep.now.0.saturating_sub(retention));
        done.segments_held = held(readers, horizon).await?;
        let old = older_than(readers, horizon).await?;
        for some in old.chunks(DROPPED_AT_ONCE_MAX) {
            let some = some.to_vec();
            done.segments_dropped += writer
                .transaction(move |connection| {
                    Box::pin(async move { drop_segments(connection, &some, upkeep.now).await })
                })
                .await?;
        }
    }
    Ok(done)
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
        "UPDATE dedupe_state
            SET current_table = 1 - current_table, generation = generation + 1, rotated_at = ?1",
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

/// Segments whose last record is older than `?1`: of each log only those in front of its first younger
/// one, so that a clock that stepped back leaves no hole. `held` is the first record of a log that an open
/// dead letter points to. A position reads stream:source/partition:sequence, and no name has any of
/// these signs in it. One statement sees one state: a letter comes in the commit of its record.
macro_rules! past_retention {
    ($columns:literal, $rest:literal) => {
        concat!(
            "WITH pointed AS (
                 SELECT tenant_id, substr(position, 1, instr(position, ':') - 1) AS stream,
                        substr(position, instr(position, ':') + 1) AS rest
                   FROM dead_letters WHERE state = 'open' AND position IS NOT NULL
             ), parts AS (
                 SELECT tenant_id, stream, substr(rest, 1, instr(rest, '/') - 1) AS source,
                        CAST(substr(rest, instr(rest, '/') + 1) AS INTEGER) AS partition,
                        CAST(substr(rest, instr(rest, ':') + 1) AS INTEGER) AS sequence
                   FROM pointed
             ), held AS (
                 SELECT p.stream_partition_id, min(d.sequence) AS sequence
                   FROM parts d
                   JOIN source_partitions s ON s.source = d.source AND s.partition = d.partition
                   JOIN stream_partitions p ON p.tenant_id = d.tenant_id
                        AND p.source_partition_id = s.source_partition_id AND p.stream = d.stream
                  GROUP BY p.stream_partition_id
             ), kept AS (
                 SELECT stream_partition_id, min(first_sequence) AS first_sequence
                   FROM segments WHERE last_at >= ?1 GROUP BY stream_partition_id
             )
             SELECT ",
            $columns,
            " FROM segments g
               LEFT JOIN kept k USING (stream_partition_id)
               LEFT JOIN held h USING (stream_partition_id)
              WHERE g.last_at < ?1
                AND (k.first_sequence IS NULL OR g.first_sequence < k.first_sequence) ",
            $rest
        )
    };
}

/// How many segments stay for an open dead letter's sake.
async fn held(readers: &SqlitePool, horizon: Timestamp) -> Result<u64, StoreError> {
    let found = fetch(
        readers,
        past_retention!(
            "count(*)",
            "AND g.first_sequence + g.event_count > h.sequence"
        ),
        |binds| {
            binds.int(horizon.0);
        },
        |row| number(row, 0),
    )
    .await?;
    found.first().copied().ok_or_else(|| unreadable("count"))
}

/// The segments that go, in order of their logs.
async fn older_than(readers: &SqlitePool, horizon: Timestamp) -> Result<Vec<Old>, StoreError> {
    fetch(
        readers,
        past_retention!(
            "g.segment_id, g.tenant_id, g.stream_partition_id,
             g.first_sequence + g.event_count, g.chain_head",
            "AND (h.sequence IS NULL OR g.first_sequence + g.event_count <= h.sequence)
             ORDER BY g.tenant_id, g.stream_partition_id, g.first_sequence LIMIT ?2"
        ),
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
