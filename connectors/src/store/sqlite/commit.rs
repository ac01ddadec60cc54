//! One commit: the fence, the fast path, and the careful path with all that stood in the way. Owns the
//! order of things in the transaction; what each table is given stands in `writes`.

use std::sync::Arc;

use sqlx::SqliteConnection;
use tidegate_engine::commit::{CommitBatch, CommitPath, CommitReply, EntityRow};
use tidegate_engine::position::Version;
use tidegate_engine::store::StoreError;

use super::names::{Names, streams};
use super::older_keys::OlderKeysFilter;
use super::rows::{column, fetch, number};
use super::surprises::{self, Found};
use super::writer::{End, Writer};
use super::writes;
use crate::store::batch_form::{self, CODE_LOG_GAP, CODE_ROW};

/// The row of an owned source partition, and which dedupe table is which.
pub(super) struct Fence {
    /// The source partition's row.
    pub(super) source_partition_id: i64,
    /// True when `dedupe_1` is the current one.
    pub(super) second_is_current: bool,
    /// Which rotation the dedupe tables have had.
    pub(super) dedupe_generation: i64,
    /// True when the older dedupe table knows any key.
    pub(super) older_has_keys: bool,
}

/// What writing came to.
pub(super) enum Written {
    /// All of it; the rows of the new entities.
    All(Vec<EntityRow>),
    /// Fewer rows than were to be written: something stands in the way.
    Short,
}

/// Commits a batch: all of it, durably, or nothing.
pub(super) async fn commit(
    writer: &Writer,
    older_keys: &OlderKeysFilter,
    batch: Arc<CommitBatch>,
) -> Result<CommitReply, StoreError> {
    batch_form::check(&batch)?;
    if batch.path == CommitPath::Fast {
        let (batch, older_keys) = (Arc::clone(&batch), older_keys.clone());
        let fast = writer
            .transaction(move |connection| {
                Box::pin(async move { fast(connection, &older_keys, &batch).await })
            })
            .await?;
        if let Some(reply) = fast {
            return Ok(reply);
        }
    }
    writer
        .transaction(move |connection| Box::pin(async move { careful(connection, &batch).await }))
        .await
}

/// Writes and counts. Any shortfall leaves nothing, and is for the careful path to explain.
async fn fast(
    connection: &mut SqliteConnection,
    older_keys: &OlderKeysFilter,
    batch: &CommitBatch,
) -> Result<End<Option<CommitReply>>, StoreError> {
    let Some(fence) = fence(connection, batch).await? else {
        return Ok(End::RollBack(Some(CommitReply::Fenced)));
    };
    let names = Names::of(connection, batch).await?;
    let probes = older_keys.probes(&fence, &names, batch);
    if surprises::older_knows_any(connection, &fence, &names, &probes).await? {
        return Ok(End::RollBack(None));
    }
    if !surprises::moved_reads(connection, &names, batch)
        .await?
        .is_empty()
    {
        return Ok(End::RollBack(None));
    }
    Ok(match write(connection, &fence, &names, batch).await? {
        Written::All(new_rows) => End::Commit(Some(CommitReply::Committed { new_rows })),
        Written::Short => End::RollBack(None),
    })
}

/// Looks first, and writes only when nothing stands in the way.
async fn careful(
    connection: &mut SqliteConnection,
    batch: &CommitBatch,
) -> Result<End<CommitReply>, StoreError> {
    let Some(fence) = fence(connection, batch).await? else {
        return Ok(End::RollBack(CommitReply::Fenced));
    };
    let names = Names::of(connection, batch).await?;
    let Found {
        surprises,
        other_row,
    } = surprises::find(connection, &fence, &names, batch).await?;
    if !surprises.is_empty() {
        return Ok(End::RollBack(CommitReply::Surprised(surprises)));
    }
    check_log(connection, &fence, &names, batch).await?;
    if let Some(place) = other_row {
        return Err(StoreError::Unexpected {
            code: CODE_ROW.to_owned(),
            detail: format!("the entity at place {place} is not in the row that is named"),
        });
    }
    match write(connection, &fence, &names, batch).await? {
        Written::All(new_rows) => Ok(End::Commit(CommitReply::Committed { new_rows })),
        Written::Short => Err(StoreError::Unexpected {
            code: "short".to_owned(),
            detail: "fewer rows were written than looked possible".to_owned(),
        }),
    }
}

/// `epoch = mine AND revision = r`. The write lock is held, so it stays true until the end.
async fn fence(
    connection: &mut SqliteConnection,
    batch: &CommitBatch,
) -> Result<Option<Fence>, StoreError> {
    let place = &batch.source_partition;
    let found = fetch(
        connection,
        "SELECT p.source_partition_id, p.epoch, p.revision, d.current_table, d.generation,
                EXISTS (SELECT 1 FROM dedupe_0), EXISTS (SELECT 1 FROM dedupe_1)
           FROM source_partitions p, dedupe_state d
          WHERE p.source = ?1 AND p.partition = ?2",
        |binds| {
            binds
                .text(place.source.as_str())
                .int(place.partition.into());
        },
        |row| {
            let second_is_current: bool = column(row, 3)?;
            let owned = number(row, 1)? == batch.epoch.0 && number(row, 2)? == batch.revision.0;
            let fence = Fence {
                source_partition_id: column(row, 0)?,
                second_is_current,
                dedupe_generation: column(row, 4)?,
                older_has_keys: column(row, if second_is_current { 5 } else { 6 })?,
            };
            Ok(owned.then_some(fence))
        },
    )
    .await?;
    Ok(found.into_iter().next().flatten())
}

/// Writes everything, the checkpoint last.
async fn write(
    connection: &mut SqliteConnection,
    fence: &Fence,
    names: &Names,
    batch: &CommitBatch,
) -> Result<Written, StoreError> {
    let rows = streams(
        connection,
        names,
        fence.source_partition_id,
        &batch.segments,
    )
    .await?;
    let goes_on =
        |(row, segment): (&super::names::StreamRow, &tidegate_engine::commit::Segment)| {
            row.next_sequence == segment.first_sequence
        };
    if !rows.iter().zip(&batch.segments).all(goes_on)
        || !writes::dedupe(connection, fence, names, &batch.dedupe).await?
    {
        return Ok(Written::Short);
    }
    writes::segments(connection, names, &rows, &batch.segments).await?;
    let (new, known): (Vec<_>, Vec<_>) = batch
        .entities
        .iter()
        .partition(|write| write.expected == Version(0));
    let Some(new_rows) = writes::new_entities(connection, names, &new).await? else {
        return Ok(Written::Short);
    };
    if !writes::known_entities(connection, names, &known).await? {
        return Ok(Written::Short);
    }
    writes::work_done(connection, fence, names, &batch.work_done).await?;
    writes::open_work(connection, fence, names, batch.revision, &batch.open_work).await?;
    writes::dead_letters(connection, names, &batch.dead_letters).await?;
    writes::dead_letter_updates(connection, names, &batch.dead_letter_updates).await?;
    writes::checkpoint(connection, fence, batch).await?;
    Ok(Written::All(new_rows))
}

/// Each segment begins where its log ends.
async fn check_log(
    connection: &mut SqliteConnection,
    fence: &Fence,
    names: &Names,
    batch: &CommitBatch,
) -> Result<(), StoreError> {
    let rows = streams(
        connection,
        names,
        fence.source_partition_id,
        &batch.segments,
    )
    .await?;
    for (row, segment) in rows.iter().zip(&batch.segments) {
        if row.next_sequence != segment.first_sequence {
            return Err(StoreError::Unexpected {
                code: CODE_LOG_GAP.to_owned(),
                detail: format!(
                    "the log of {} goes on at {}, the segment begins at {}",
                    segment.stream_partition, row.next_sequence, segment.first_sequence
                ),
            });
        }
    }
    Ok(())
}
