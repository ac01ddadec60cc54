//! What a commit gives to each table: plain statements over many rows, counted where a shortfall means
//! something. Decides nothing; runs inside the transaction of `commit`.

use sqlx::SqliteConnection;
use tidegate_engine::commit::{
    CommitBatch, DedupeMark, EntityRow, EntityWrite, OpenWork, Segment, WorkDone,
};
use tidegate_engine::dead_letter::{
    DeadLetter, DeadLetterSource, DeadLetterState, DeadLetterUpdate,
};
use tidegate_engine::position::Revision;
use tidegate_engine::store::StoreError;

use super::commit::Fence;
use super::errors::unreadable;
use super::names::{Names, StreamRow};
use super::ownership::done_above_bytes;
use super::rows::{ManyRows, column, execute, fetch};
use crate::store::batch_form::{CODE_DEAD_LETTER_NOT_OPEN, work_is_gone};

const DEDUPE_ROW: &str = "(?,?,?,?,?)";
static ADD_DEDUPE: [ManyRows; 2] = [
    ManyRows::new(
        "INSERT INTO dedupe_0 (tenant_id, key, conflict, source_partition_id, source_offset) VALUES ",
        DEDUPE_ROW,
        " ON CONFLICT DO NOTHING",
    ),
    ManyRows::new(
        "INSERT INTO dedupe_1 (tenant_id, key, conflict, source_partition_id, source_offset) VALUES ",
        DEDUPE_ROW,
        " ON CONFLICT DO NOTHING",
    ),
];

/// Marks keys as admitted; false when one was before.
pub(super) async fn dedupe(
    connection: &mut SqliteConnection,
    fence: &Fence,
    names: &Names,
    marks: &[DedupeMark],
) -> Result<bool, StoreError> {
    let [first, second] = &ADD_DEDUPE;
    let current = if fence.second_is_current {
        second
    } else {
        first
    };
    let added = current
        .execute(connection, marks, |binds, mark| {
            binds
                .int(names.tenant(&mark.tenant))
                .hash(mark.key)
                .hash(mark.conflict)
                .int(fence.source_partition_id)
                .number(mark.offset.0);
        })
        .await?;
    Ok(added == marks.len() as u64)
}

static ADD_SEGMENTS: ManyRows = ManyRows::new(
    "INSERT INTO segments (tenant_id, stream_partition_id, first_sequence, event_count, first_at,
                           last_at, chain_head, body) VALUES ",
    "(?,?,?,?,?,?,?,?)",
    "",
);
static MOVE_STREAMS: ManyRows = ManyRows::new(
    "WITH moved (tenant_id, stream_partition_id, next_sequence, chain_head) AS (VALUES ",
    "(?,?,?,?)",
    ") UPDATE stream_partitions AS s SET next_sequence = m.next_sequence, chain_head = m.chain_head
         FROM moved m
        WHERE s.stream_partition_id = m.stream_partition_id AND s.tenant_id = m.tenant_id",
);

/// Writes the log on. A trigger compares each first sequence with the end of its log, so the log moves
/// after its segments.
pub(super) async fn segments(
    connection: &mut SqliteConnection,
    names: &Names,
    streams: &[StreamRow],
    segments: &[Segment],
) -> Result<(), StoreError> {
    let rows: Vec<(&StreamRow, &Segment)> = streams.iter().zip(segments).collect();
    ADD_SEGMENTS
        .execute(connection, &rows, |binds, (stream, segment)| {
            binds
                .int(names.tenant(&segment.stream_partition.tenant))
                .int(stream.id)
                .number(segment.first_sequence.0)
                .int(segment.count.into())
                .int(segment.first_at.0)
                .int(segment.last_at.0)
                .bytes(&segment.chain_head.0)
                .shared_text(&segment.body);
        })
        .await?;
    MOVE_STREAMS
        .execute(connection, &rows, |binds, (stream, segment)| {
            binds
                .int(names.tenant(&segment.stream_partition.tenant))
                .int(stream.id)
                .number(
                    segment
                        .first_sequence
                        .0
                        .saturating_add(segment.count.into()),
                )
                .bytes(&segment.chain_head.0);
        })
        .await?;
    Ok(())
}

static ADD_ENTITIES: ManyRows = ManyRows::new(
    "INSERT INTO entities (entity_id, tenant_id, machine_id, key, status, version, created_at,
                           changed_at, data) VALUES ",
    "(?,?,?,?,?,?,?,?,?)",
    " ON CONFLICT DO NOTHING",
);

/// Makes entities, numbered in the order given; `None` when one is there already. Nobody else writes,
/// so the numbers can be taken before: in order, they also go to the end of the table one after the other.
pub(super) async fn new_entities(
    connection: &mut SqliteConnection,
    names: &Names,
    new: &[&EntityWrite],
) -> Result<Option<Vec<EntityRow>>, StoreError> {
    if new.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let last: Vec<i64> = fetch(
        &mut *connection,
        "SELECT coalesce(max(entity_id), 0) FROM entities",
        |_| {},
        |row| column(row, 0),
    )
    .await?;
    let last = last
        .first()
        .copied()
        .ok_or_else(|| unreadable("row number"))?;
    let rows: Vec<(i64, &EntityWrite)> = (last + 1..).zip(new.iter().copied()).collect();
    let added = ADD_ENTITIES
        .execute(connection, &rows, |binds, (row, write)| {
            binds
                .int(*row)
                .int(names.tenant(&write.name.tenant))
                .int(names.machine(&write.name.machine))
                .text(write.name.key.as_str())
                .text(write.status.as_str())
                .number(write.version.0)
                .int(write.changed_at.0)
                .int(write.changed_at.0)
                .shared_text(&write.data);
        })
        .await?;
    let numbers = || rows.iter().map(|(row, _)| EntityRow(*row)).collect();
    Ok((added == rows.len() as u64).then(numbers))
}

static MOVE_ENTITIES: ManyRows = ManyRows::new(
    "WITH moved (entity_id, tenant_id, machine_id, key, expected, status, version, changed_at, data)
       AS (VALUES ",
    "(?,?,?,?,?,?,?,?,?)",
    ") UPDATE entities AS e
          SET status = m.status, version = m.version, changed_at = m.changed_at, data = m.data
         FROM moved m
        WHERE e.entity_id = m.entity_id AND e.version = m.expected AND e.tenant_id = m.tenant_id
          AND e.machine_id = m.machine_id AND e.key = m.key",
);

/// Moves entities by row and expected version; false when one is not as expected. The name is compared
/// too: the row is read anyway, and a row of another entity is never written.
pub(super) async fn known_entities(
    connection: &mut SqliteConnection,
    names: &Names,
    known: &[&EntityWrite],
) -> Result<bool, StoreError> {
    let moved = MOVE_ENTITIES
        .execute(connection, known, |binds, write| {
            binds
                .optional(write.row, |binds, row| {
                    binds.int(row.0);
                })
                .int(names.tenant(&write.name.tenant))
                .int(names.machine(&write.name.machine))
                .text(write.name.key.as_str())
                .number(write.expected.0)
                .text(write.status.as_str())
                .number(write.version.0)
                .int(write.changed_at.0)
                .shared_text(&write.data);
        })
        .await?;
    Ok(moved == known.len() as u64)
}

static ADD_OPEN_WORK: ManyRows = ManyRows::new(
    "INSERT INTO open_work (tenant_id, source_partition_id, revision, number, id, kind, due_at, cause,
                            event_type, event)
     VALUES ",
    "(?,?,?,?,?,?,?,?,?,?)",
    "",
);

/// Keeps the open work that a batch of `revision` makes.
pub(super) async fn open_work(
    connection: &mut SqliteConnection,
    fence: &Fence,
    names: &Names,
    revision: Revision,
    work: &[OpenWork],
) -> Result<(), StoreError> {
    ADD_OPEN_WORK
        .execute(connection, work, |binds, work| {
            binds
                .int(names.tenant(&work.tenant))
                .int(fence.source_partition_id)
                .number(revision.0)
                .int(work.number.into())
                .hash(work.id)
                .text(work.kind.as_str())
                .int(work.due.0)
                .text(&work.cause.to_string())
                .text(work.event_type.as_str())
                .bytes(&work.event);
        })
        .await
        .map(drop)
}

static DELETE_DONE: ManyRows = ManyRows::new(
    "WITH done (tenant_id, source_partition_id, revision, number) AS (VALUES ",
    "(?,?,?,?)",
    ") DELETE FROM open_work WHERE rowid IN (
         SELECT w.rowid FROM done d
          CROSS JOIN open_work w ON w.tenant_id = d.tenant_id
                AND w.source_partition_id = d.source_partition_id
                AND w.revision = d.revision AND w.number = d.number)",
);

/// Deletes the open work that is done. All of it has to be there.
pub(super) async fn work_done(
    connection: &mut SqliteConnection,
    fence: &Fence,
    names: &Names,
    done: &[WorkDone],
) -> Result<(), StoreError> {
    let deleted = DELETE_DONE
        .execute(connection, done, |binds, done| {
            binds
                .int(names.tenant(&done.tenant))
                .int(fence.source_partition_id)
                .number(done.place.revision.0)
                .int(done.place.number.into());
        })
        .await?;
    if deleted == done.len() as u64 {
        Ok(())
    } else {
        Err(work_is_gone())
    }
}

static ADD_DEAD_LETTERS: ManyRows = ManyRows::new(
    "INSERT INTO dead_letters (tenant_id, id, reason, detail, fingerprint, created_at, changed_at,
                               position, machine, key, source, partition, source_offset, payload)
     VALUES ",
    "(?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    " ON CONFLICT (tenant_id, id) DO NOTHING",
);

/// Keeps dead letters, each once.
pub(super) async fn dead_letters(
    connection: &mut SqliteConnection,
    names: &Names,
    letters: &[DeadLetter],
) -> Result<(), StoreError> {
    ADD_DEAD_LETTERS
        .execute(connection, letters, |binds, letter| {
            binds
                .int(names.tenant(&letter.tenant))
                .hash(letter.id)
                .text(letter.reason.as_str())
                .text(&letter.detail)
                .hash(letter.fingerprint)
                .int(letter.at.0)
                .int(letter.at.0);
            match &letter.source {
                DeadLetterSource::Record {
                    position,
                    machine,
                    key,
                } => binds
                    .text(&position.to_string())
                    .text(machine.as_str())
                    .optional(key.as_ref(), |binds, key| {
                        binds.text(key.as_str());
                    })
                    .nulls(4),
                DeadLetterSource::Raw {
                    source_partition,
                    offset,
                    payload,
                } => binds
                    .nulls(3)
                    .text(source_partition.source.as_str())
                    .int(source_partition.partition.into())
                    .optional(*offset, |binds, offset| {
                        binds.number(offset.0);
                    })
                    .bytes(payload),
            };
        })
        .await
        .map(drop)
}

/// Moves dead letters on. Rare and made by people, so one by one; the first that is not open refuses
/// the batch.
pub(super) async fn dead_letter_updates(
    connection: &mut SqliteConnection,
    names: &Names,
    updates: &[DeadLetterUpdate],
) -> Result<(), StoreError> {
    for (place, update) in updates.iter().enumerate() {
        // Giving up is no attempt.
        let attempts = i64::from(update.state != DeadLetterState::Discarded);
        let moved = execute(
            connection,
            "UPDATE dead_letters SET state = ?3, attempts = attempts + ?4, changed_at = ?5
              WHERE tenant_id = ?1 AND id = ?2 AND state = 'open'",
            |binds| {
                binds
                    .int(names.tenant(&update.tenant))
                    .hash(update.id)
                    .text(update.state.as_str())
                    .int(attempts)
                    .int(update.at.0);
            },
        )
        .await?;
        if moved == 0 {
            return Err(StoreError::Refused {
                code: CODE_DEAD_LETTER_NOT_OPEN.to_owned(),
                detail: format!("the dead letter of the update at place {place} is not open"),
            });
        }
    }
    Ok(())
}

/// Moves the checkpoint on by one revision. The fence was checked under the same write lock; it stands
/// here once more, because nothing is worse than a commit without it.
pub(super) async fn checkpoint(
    connection: &mut SqliteConnection,
    fence: &Fence,
    batch: &CommitBatch,
) -> Result<(), StoreError> {
    let progress = &batch.progress;
    let counts = &progress.counts;
    let done_above = done_above_bytes(&progress.done_above)?;
    let moved = execute(
        connection,
        "UPDATE source_partitions
            SET revision = revision + 1, next_offset = ?4, done_above = ?5, fingerprint_offset = ?6,
                fingerprint = ?7, committed_at = ?8, admitted = ?9, duplicates = ?10,
                conflicts = ?11, unreadable = ?12, applied = ?13, rejected = ?14, ignored = ?15,
                dead = ?16, unhandled = ?17, emitted = ?18, looped_back = ?19
          WHERE source_partition_id = ?1 AND epoch = ?2 AND revision = ?3",
        |binds| {
            binds
                .int(fence.source_partition_id)
                .number(batch.epoch.0)
                .number(batch.revision.0)
                .number(progress.next_offset.0)
                .bytes(&done_above)
                .optional(progress.fingerprint, |binds, fingerprint| {
                    binds.number(fingerprint.offset.0);
                })
                .optional(progress.fingerprint, |binds, fingerprint| {
                    binds.hash(fingerprint.hash);
                })
                .int(batch.at.0)
                .number(counts.admitted)
                .number(counts.duplicates)
                .number(counts.conflicts)
                .number(counts.unreadable)
                .number(counts.applied)
                .number(counts.rejected)
                .number(counts.ignored)
                .number(counts.dead)
                .number(counts.unhandled)
                .number(counts.emitted)
                .number(counts.looped_back);
        },
    )
    .await?;
    if moved == 1 {
        Ok(())
    } else {
        Err(StoreError::Unexpected {
            code: "fence".to_owned(),
            detail: "the checkpoint changed inside the transaction".to_owned(),
        })
    }
}
