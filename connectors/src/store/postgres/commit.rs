//! One commit: the batch as arrays, one call of `tidegate.commit_batch`, and its answer. Owns the order
//! of the function's parameters; decides nothing about surprises.

use sqlx::postgres::{PgArguments, PgBindIterExt as _};
use sqlx::query::Query;
use sqlx::{Arguments as _, Postgres};
use tidegate_engine::commit::{
    CommitBatch, CommitPath, CommitReply, EntityName, EntityRead, EntityWrite,
};
use tidegate_engine::dead_letter::{DeadLetter, DeadLetterSource};
use tidegate_engine::position::Version;
use tidegate_engine::store::{CODE_ANSWER, StoreError};

use super::Inner;
use super::encode::{Moment, Uuid, can_hold};
use super::error::During;
use super::names::BatchNumbers;
use super::older_keys::Probes;
use super::reply;
use crate::store::batch_form::{self, out_of_form};

const COMMIT_SQL: &str = "select * from tidegate.commit_batch(\
    $1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,\
    $21,$22,$23,$24,$25,$26,$27,$28,$29,$30,$31,$32,$33,$34,$35,$36,$37,$38,$39,$40,\
    $41,$42,$43,$44,$45,$46,$47,$48,$49,$50,$51,$52,$53,$54,$55,$56,$57,$58,$59,$60,\
    $61,$62,$63,$64,$65,$66,$67,$68,$69,$70,$71,$72,$73,$74,$75,$76,$77,$78)";

/// The batch's entities, apart: those that exist, and those that must not; written, and only read.
pub(super) struct EntitySplit<'b> {
    pub existing: Vec<&'b EntityWrite>,
    pub new: Vec<&'b EntityWrite>,
    pub read: Vec<&'b EntityRead>,
    pub absent: Vec<&'b EntityRead>,
}

impl<'b> EntitySplit<'b> {
    fn of(batch: &'b CommitBatch) -> Self {
        let (new, existing) = batch
            .entities
            .iter()
            .partition(|write| write.expected == Version(0));
        let (absent, read) = batch
            .reads
            .iter()
            .partition(|read| read.expected == Version(0));
        Self {
            existing,
            new,
            read,
            absent,
        }
    }

    /// The entity at a place of the function's arrays: existing ones count from 1 upward, others from -1
    /// downward; those that are only read follow those that are written.
    pub fn name_at(&self, index: i32) -> Option<&'b EntityName> {
        let place = usize::try_from(index.unsigned_abs()).ok()?.checked_sub(1)?;
        let (written, read) = if index > 0 {
            (&self.existing, &self.read)
        } else {
            (&self.new, &self.absent)
        };
        match written.get(place) {
            Some(write) => Some(&write.name),
            None => read.get(place - written.len()).map(|read| &read.name),
        }
    }
}

impl Inner {
    /// Commits a batch: one round trip when every name is known.
    pub(super) async fn commit(&self, batch: &CommitBatch) -> Result<CommitReply, StoreError> {
        batch_form::check(batch)?;
        check_moments(batch)?;
        let Some(numbers) = self.names.of_batch(&self.session, batch).await? else {
            // Never claimed by anybody, so not by the owner of this batch either.
            return Ok(CommitReply::Fenced);
        };
        self.cover(batch.segments.iter().map(|segment| segment.last_at))
            .await?;
        let probes = self.older_keys.probes(batch, &numbers);
        let split = EntitySplit::of(batch);
        let query = bind(batch, &numbers, &probes, &split)?;
        let rows = match self.session.fetch(query, During::Commit).await {
            Err(error) => return Err(self.after_failure(error)),
            Ok(rows) => rows,
        };
        let answer = reply::read(rows, &split, batch).map_err(|error| StoreError::Unexpected {
            code: CODE_ANSWER.to_owned(),
            detail: error.to_string(),
        })?;
        self.older_keys.seen(answer.dedupe_generation);
        Ok(answer.reply)
    }
}

/// A moment that `timestamptz` cannot hold is the event's fault: it came with one.
fn check_moments(batch: &CommitBatch) -> Result<(), StoreError> {
    let segments = batch
        .segments
        .iter()
        .flat_map(|it| [it.first_at, it.last_at]);
    let all = segments
        .chain(batch.entities.iter().map(|it| it.changed_at))
        .chain(batch.open_work.iter().map(|it| it.due))
        .chain(batch.dead_letters.iter().map(|it| it.at))
        .chain(batch.dead_letter_updates.iter().map(|it| it.at))
        .chain([batch.at]);
    if all.into_iter().all(can_hold) {
        Ok(())
    } else {
        Err(StoreError::Refused {
            code: "22008".to_owned(),
            detail: "a moment is earlier than timestamptz holds".to_owned(),
        })
    }
}

/// Counters are unsigned in the engine and signed in SQL.
pub(super) fn int8(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Refused {
        code: "22003".to_owned(),
        detail: "a number is larger than int8 holds".to_owned(),
    })
}

fn int8s(values: impl Iterator<Item = u64>) -> Result<Vec<i64>, StoreError> {
    values.map(int8).collect()
}

type Statement<'q> = Query<'q, Postgres, PgArguments>;

fn bind<'q>(
    batch: &CommitBatch,
    numbers: &BatchNumbers,
    probes: &Probes,
    split: &EntitySplit<'_>,
) -> Result<Statement<'q>, StoreError> {
    let query = sqlx::query_with(COMMIT_SQL, with_room(batch));
    let query = bind_checkpoint(query, batch, numbers)?;
    let query = bind_dedupe(query, batch, numbers, probes)?;
    let query = bind_entities(query, numbers, split)?;
    let query = bind_reads(query, numbers, split)?;
    let query = bind_segments(query, batch, numbers)?;
    let query = bind_open_work(query, batch, numbers)?;
    bind_dead_letters(query, batch, numbers)
}

/// Room for the whole batch at once: a buffer that grows as it is filled is copied again and again.
fn with_room(batch: &CommitBatch) -> PgArguments {
    /// Bytes of a dedupe mark and of an entity's fixed columns, roughly.
    const ROW_BYTES: usize = 128;
    let segments: usize = batch.segments.iter().map(|it| it.body.len()).sum();
    let entities: usize = batch.entities.iter().map(|it| it.data.len()).sum();
    let rows = batch.dedupe.len() + batch.entities.len();
    let mut arguments = PgArguments::default();
    arguments.reserve(0, segments + entities + rows * ROW_BYTES);
    arguments
}

fn bind_checkpoint<'q>(
    query: Statement<'q>,
    batch: &CommitBatch,
    numbers: &BatchNumbers,
) -> Result<Statement<'q>, StoreError> {
    let progress = &batch.progress;
    let counts = &progress.counts;
    let done_above = int8s(
        progress
            .done_above
            .0
            .iter()
            .flat_map(|range| [range.first.0, range.last.0]),
    )?;
    let counts = int8s(
        [
            counts.admitted,
            counts.duplicates,
            counts.conflicts,
            counts.unreadable,
            counts.applied,
            counts.rejected,
            counts.ignored,
            counts.dead,
            counts.unhandled,
            counts.emitted,
            counts.looped_back,
        ]
        .into_iter(),
    )?;
    let fingerprint_offset = match progress.fingerprint {
        Some(fingerprint) => Some(int8(fingerprint.offset.0)?),
        None => None,
    };
    Ok(query
        .bind(numbers.source_partition)
        .bind(int8(batch.epoch.0)?)
        .bind(int8(batch.revision.0)?)
        .bind(batch.path == CommitPath::Careful)
        .bind(Moment(batch.at))
        .bind(int8(progress.next_offset.0)?)
        .bind(done_above)
        .bind(fingerprint_offset)
        .bind(
            progress
                .fingerprint
                .map(|fingerprint| Uuid(fingerprint.hash)),
        )
        .bind(counts)
        .bind(numbers.tenants.values().bind_iter()))
}

fn bind_dedupe<'q>(
    query: Statement<'q>,
    batch: &CommitBatch,
    numbers: &BatchNumbers,
    probes: &Probes,
) -> Result<Statement<'q>, StoreError> {
    let marks = &batch.dedupe;
    let offsets = int8s(marks.iter().map(|mark| mark.offset.0))?;
    Ok(query
        .bind(probes.generation)
        .bind(probes.tenants.as_slice())
        .bind(probes.keys.iter().map(|key| Uuid(*key)).bind_iter())
        .bind(
            marks
                .iter()
                .map(|mark| numbers.tenant(&mark.tenant))
                .bind_iter(),
        )
        .bind(marks.iter().map(|mark| Uuid(mark.key)).bind_iter())
        .bind(marks.iter().map(|mark| Uuid(mark.conflict)).bind_iter())
        .bind(offsets))
}

fn bind_entities<'q>(
    query: Statement<'q>,
    numbers: &BatchNumbers,
    split: &EntitySplit<'_>,
) -> Result<Statement<'q>, StoreError> {
    let existing = &split.existing;
    let rows: Vec<i64> = existing
        .iter()
        .map(|write| write.row.map(|row| row.0))
        .collect::<Option<_>>()
        .ok_or_else(|| out_of_form("an entity that exists is written without its row"))?;
    let expected = int8s(existing.iter().map(|write| write.expected.0))?;
    let versions = int8s(existing.iter().map(|write| write.version.0))?;
    let new = &split.new;
    let new_versions = int8s(new.iter().map(|write| write.version.0))?;
    Ok(query
        .bind(
            existing
                .iter()
                .map(|w| numbers.tenant(&w.name.tenant))
                .bind_iter(),
        )
        .bind(
            existing
                .iter()
                .map(|w| numbers.machine(&w.name.machine))
                .bind_iter(),
        )
        .bind(existing.iter().map(|w| w.name.key.as_str()).bind_iter())
        .bind(rows)
        .bind(expected)
        .bind(versions)
        .bind(existing.iter().map(|w| w.status.as_str()).bind_iter())
        .bind(existing.iter().map(|w| &*w.data).bind_iter())
        .bind(existing.iter().map(|w| Moment(w.changed_at)).bind_iter())
        .bind(
            new.iter()
                .map(|w| numbers.tenant(&w.name.tenant))
                .bind_iter(),
        )
        .bind(
            new.iter()
                .map(|w| numbers.machine(&w.name.machine))
                .bind_iter(),
        )
        .bind(new.iter().map(|w| w.name.key.as_str()).bind_iter())
        .bind(new_versions)
        .bind(new.iter().map(|w| w.status.as_str()).bind_iter())
        .bind(new.iter().map(|w| &*w.data).bind_iter())
        .bind(new.iter().map(|w| Moment(w.changed_at)).bind_iter()))
}

fn bind_reads<'q>(
    query: Statement<'q>,
    numbers: &BatchNumbers,
    split: &EntitySplit<'_>,
) -> Result<Statement<'q>, StoreError> {
    let tenants = |reads: &[&EntityRead]| -> Vec<i32> {
        let tenants = reads.iter().map(|read| numbers.tenant(&read.name.tenant));
        tenants.collect()
    };
    let machines = |reads: &[&EntityRead]| -> Vec<i32> {
        let machines = reads.iter().map(|read| numbers.machine(&read.name.machine));
        machines.collect()
    };
    let (read, absent) = (&split.read, &split.absent);
    let rows: Vec<i64> = read
        .iter()
        .map(|read| read.row.map(|row| row.0))
        .collect::<Option<_>>()
        .ok_or_else(|| out_of_form("an entity that exists is read without its row"))?;
    let expected = int8s(read.iter().map(|read| read.expected.0))?;
    Ok(query
        .bind(tenants(read))
        .bind(machines(read))
        .bind(read.iter().map(|read| read.name.key.as_str()).bind_iter())
        .bind(rows)
        .bind(expected)
        .bind(tenants(absent))
        .bind(machines(absent))
        .bind(absent.iter().map(|read| read.name.key.as_str()).bind_iter()))
}

fn bind_segments<'q>(
    query: Statement<'q>,
    batch: &CommitBatch,
    numbers: &BatchNumbers,
) -> Result<Statement<'q>, StoreError> {
    let segments = &batch.segments;
    let first = int8s(segments.iter().map(|segment| segment.first_sequence.0))?;
    let counts: Vec<i32> = segments
        .iter()
        .map(|segment| i32::try_from(segment.count))
        .collect::<Result<_, _>>()
        .map_err(|_| out_of_form("a segment holds more records than int4 counts"))?;
    Ok(query
        .bind(
            segments
                .iter()
                .map(|s| numbers.tenant(&s.stream_partition.tenant))
                .bind_iter(),
        )
        .bind(numbers.stream_partitions.as_slice())
        .bind(first)
        .bind(counts)
        .bind(segments.iter().map(|s| Moment(s.first_at)).bind_iter())
        .bind(segments.iter().map(|s| Moment(s.last_at)).bind_iter())
        .bind(
            segments
                .iter()
                .map(|s| s.chain_head.0.as_slice())
                .bind_iter(),
        )
        .bind(segments.iter().map(|s| &*s.body).bind_iter()))
}

fn bind_open_work<'q>(
    query: Statement<'q>,
    batch: &CommitBatch,
    numbers: &BatchNumbers,
) -> Result<Statement<'q>, StoreError> {
    let (work, done) = (&batch.open_work, &batch.work_done);
    let events: Vec<&str> = work
        .iter()
        .map(|item| std::str::from_utf8(&item.event))
        .collect::<Result<_, _>>()
        .map_err(|_| out_of_form("an emitted event is not UTF-8"))?;
    Ok(query
        .bind(
            work.iter()
                .map(|item| numbers.tenant(&item.tenant))
                .bind_iter(),
        )
        .bind(numbers_of(work.iter().map(|item| item.number))?)
        .bind(work.iter().map(|item| Uuid(item.id)).bind_iter())
        .bind(work.iter().map(|item| item.kind.as_str()).bind_iter())
        .bind(work.iter().map(|item| Moment(item.due)).bind_iter())
        .bind(work.iter().map(|item| item.cause.to_string()).bind_iter())
        .bind(work.iter().map(|item| item.event_type.as_str()).bind_iter())
        .bind(events)
        .bind(
            done.iter()
                .map(|item| numbers.tenant(&item.tenant))
                .bind_iter(),
        )
        .bind(int8s(done.iter().map(|item| item.place.revision.0))?)
        .bind(numbers_of(done.iter().map(|item| item.place.number))?))
}

/// Numbers of open work: `int4` holds more than a batch emits.
fn numbers_of(numbers: impl Iterator<Item = u32>) -> Result<Vec<i32>, StoreError> {
    numbers
        .map(|number| {
            i32::try_from(number).map_err(|_| out_of_form("more open work than int4 counts"))
        })
        .collect()
}

/// Where a raw delivery came from, as columns.
struct RawColumns<'l> {
    source: &'l str,
    partition: i64,
    offset: Option<i64>,
    payload: &'l [u8],
}

fn raw_columns(letter: &DeadLetter) -> Result<Option<RawColumns<'_>>, StoreError> {
    match &letter.source {
        DeadLetterSource::Record { .. } => Ok(None),
        DeadLetterSource::Raw {
            source_partition,
            offset,
            payload,
        } => Ok(Some(RawColumns {
            source: source_partition.source.as_str(),
            partition: i64::from(source_partition.partition),
            offset: offset.map(|offset| int8(offset.0)).transpose()?,
            payload,
        })),
    }
}

/// Position, machine and key of a stored event's letter.
fn record_columns(letter: &DeadLetter) -> (Option<String>, Option<&str>, Option<&str>) {
    match &letter.source {
        DeadLetterSource::Record {
            position,
            machine,
            key,
        } => (
            Some(position.to_string()),
            Some(machine.as_str()),
            key.as_ref().map(|key| key.as_str()),
        ),
        DeadLetterSource::Raw { .. } => (None, None, None),
    }
}

fn bind_dead_letters<'q>(
    query: Statement<'q>,
    batch: &CommitBatch,
    numbers: &BatchNumbers,
) -> Result<Statement<'q>, StoreError> {
    let letters = &batch.dead_letters;
    let records: Vec<_> = letters.iter().map(record_columns).collect();
    let raws: Vec<Option<RawColumns<'_>>> =
        letters.iter().map(raw_columns).collect::<Result<_, _>>()?;
    let updates = &batch.dead_letter_updates;
    Ok(query
        .bind(
            letters
                .iter()
                .map(|l| numbers.tenant(&l.tenant))
                .bind_iter(),
        )
        .bind(letters.iter().map(|l| Uuid(l.id)).bind_iter())
        .bind(letters.iter().map(|l| l.reason.as_str()).bind_iter())
        .bind(letters.iter().map(|l| l.detail.as_str()).bind_iter())
        .bind(letters.iter().map(|l| Uuid(l.fingerprint)).bind_iter())
        .bind(
            records
                .iter()
                .map(|(position, _, _)| position.as_deref())
                .bind_iter(),
        )
        .bind(records.iter().map(|(_, machine, _)| *machine).bind_iter())
        .bind(records.iter().map(|(_, _, key)| *key).bind_iter())
        .bind(
            raws.iter()
                .map(|raw| raw.as_ref().map(|raw| raw.source))
                .bind_iter(),
        )
        .bind(
            raws.iter()
                .map(|raw| raw.as_ref().map(|raw| raw.partition))
                .bind_iter(),
        )
        .bind(
            raws.iter()
                .map(|raw| raw.as_ref().map(|raw| raw.offset))
                .bind_iter(),
        )
        .bind(
            raws.iter()
                .map(|raw| raw.as_ref().map(|raw| raw.payload))
                .bind_iter(),
        )
        .bind(letters.iter().map(|l| Moment(l.at)).bind_iter())
        .bind(
            updates
                .iter()
                .map(|u| numbers.tenant(&u.tenant))
                .bind_iter(),
        )
        .bind(updates.iter().map(|u| Uuid(u.id)).bind_iter())
        .bind(updates.iter().map(|u| u.state.as_str()).bind_iter())
        .bind(updates.iter().map(|u| Moment(u.at)).bind_iter()))
}
