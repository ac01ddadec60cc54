//! The form of a batch: sorted arrays, no key twice, every tenant named, one source partition, within
//! the limits. Every store checks it before its first write, because a batch out of form is a fault of ours and must
//! stop the source partition instead of deadlocking a database or hiding a row. Never looks at values.

use tidegate_engine::commit::CommitBatch;
use tidegate_engine::dead_letter::DeadLetterSource;
use tidegate_engine::limits::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, DONE_ABOVE_RANGES_MAX, ENTITY_DATA_BYTES_MAX,
};
use tidegate_engine::position::Version;
use tidegate_engine::state::MachineName;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

/// The batch is not in form: an array out of order, a key twice, a tenant that is not named, a row of
/// another source partition.
pub const CODE_FORM: &str = "TG001";

/// A segment does not begin where the log of its stream partition ends.
pub const CODE_LOG_GAP: &str = "TG002";

/// An update of a dead letter that is not there or not open any more: permanent for that update,
/// since somebody else has already decided.
pub const CODE_DEAD_LETTER_NOT_OPEN: &str = "TG003";

/// An entity's row number is another entity's, or of no entity at all.
pub const CODE_ROW: &str = "TG004";

/// A machine's version is stored already with another text, or a higher version is.
pub const CODE_DEFINITION: &str = "TG005";

/// Open work that a batch has done is not there: somebody else did it, which cannot be while its source
/// partition is ours.
pub const CODE_WORK_GONE: &str = "TG011";

/// The batch is larger than any statement may be: as Postgres says it of its own limits.
const CODE_TOO_LARGE: &str = "54000";

/// The error of open work that is not there.
pub fn work_is_gone() -> StoreError {
    StoreError::Unexpected {
        code: CODE_WORK_GONE.to_owned(),
        detail: "open work that is done is not there any more".to_owned(),
    }
}

/// What a store says that keeps a higher version of a machine than the one to be activated.
pub fn higher_is_stored(machine: &MachineName, version: u64, higher: u64) -> String {
    format!(
        "version {higher} of machine `{machine}` is stored, so version {version} may not become active again"
    )
}

/// Checks the form of a batch; the error names the array and the place, never a value.
pub fn check(batch: &CommitBatch) -> Result<(), StoreError> {
    in_order("tenants", &batch.tenants, |tenant| tenant)?;
    in_order("segments", &batch.segments, |segment| {
        &segment.stream_partition
    })?;
    in_order("dedupe", &batch.dedupe, |mark| (&mark.tenant, mark.key))?;
    in_order("entities", &batch.entities, |write| &write.name)?;
    in_order("reads", &batch.reads, |read| &read.name)?;
    in_order("open_work", &batch.open_work, |work| {
        (&work.tenant, work.number)
    })?;
    in_order("work_done", &batch.work_done, |done| {
        (&done.tenant, done.place)
    })?;
    in_order("dead_letters", &batch.dead_letters, |letter| {
        (&letter.tenant, letter.id)
    })?;
    in_order("dead_letter_updates", &batch.dead_letter_updates, |it| {
        (&it.tenant, it.id)
    })?;
    check_tenants(batch)?;
    check_rows(batch)?;
    check_limits(batch)
}

/// An error of the batch's form.
pub fn out_of_form(detail: impl Into<String>) -> StoreError {
    StoreError::Unexpected {
        code: CODE_FORM.to_owned(),
        detail: detail.into(),
    }
}

/// Strictly ascending keys: sorted and no key twice in one pass.
fn in_order<'r, R, K: Ord>(
    array: &str,
    rows: &'r [R],
    key: impl Fn(&'r R) -> K,
) -> Result<(), StoreError> {
    match rows
        .iter()
        .zip(rows.iter().skip(1))
        .position(|(left, right)| key(left) >= key(right))
    {
        None => Ok(()),
        Some(place) => Err(out_of_form(format!(
            "`{array}` must be sorted without a key twice, places {place} and {} are not",
            place + 1
        ))),
    }
}

/// Every row's tenant is one that the batch names.
fn check_tenants(batch: &CommitBatch) -> Result<(), StoreError> {
    let segments = batch.segments.iter().map(|it| &it.stream_partition.tenant);
    let dedupe = batch.dedupe.iter().map(|it| &it.tenant);
    let entities = batch.entities.iter().map(|it| &it.name.tenant);
    let reads = batch.reads.iter().map(|it| &it.name.tenant);
    let open_work = batch.open_work.iter().map(|it| &it.tenant);
    let work_done = batch.work_done.iter().map(|it| &it.tenant);
    let dead_letters = batch.dead_letters.iter().map(|it| &it.tenant);
    let updates = batch.dead_letter_updates.iter().map(|it| &it.tenant);
    all_named("segments", &batch.tenants, segments)?;
    all_named("dedupe", &batch.tenants, dedupe)?;
    all_named("entities", &batch.tenants, entities)?;
    all_named("reads", &batch.tenants, reads)?;
    all_named("open_work", &batch.tenants, open_work)?;
    all_named("work_done", &batch.tenants, work_done)?;
    all_named("dead_letters", &batch.tenants, dead_letters)?;
    all_named("dead_letter_updates", &batch.tenants, updates)
}

/// Both lists are sorted, so one walk over the names suffices.
fn all_named<'r>(
    array: &str,
    named: &[TenantId],
    rows: impl Iterator<Item = &'r TenantId>,
) -> Result<(), StoreError> {
    let mut names = named.iter().peekable();
    for (place, tenant) in rows.enumerate() {
        while names.next_if(|name| *name < tenant).is_some() {}
        if names.peek() != Some(&tenant) {
            return Err(out_of_form(format!(
                "the tenant of `{array}` at place {place} is not named in `tenants`"
            )));
        }
    }
    Ok(())
}

/// What the engine bounds when it makes a batch; once more here, at the other end.
fn check_limits(batch: &CommitBatch) -> Result<(), StoreError> {
    let records: u64 = batch.segments.iter().map(|it| u64::from(it.count)).sum();
    let longest = batch.entities.iter().map(|it| it.data.len()).max();
    for (what, found, most) in [
        ("records in `segments`", records, BATCH_EVENTS_MAX),
        (
            "ranges in `done_above`",
            batch.progress.done_above.0.len() as u64,
            DONE_ABOVE_RANGES_MAX,
        ),
        (
            "bytes of data of an entity",
            longest.unwrap_or_default() as u64,
            ENTITY_DATA_BYTES_MAX,
        ),
    ] {
        if found > most as u64 {
            return Err(out_of_form(format!(
                "expected at most {most} {what}, found {found}"
            )));
        }
    }
    let bytes = bytes_of(batch);
    if bytes > BATCH_BYTES_MAX {
        // Events that are fine one at a time: so they are committed.
        return Err(StoreError::Refused {
            code: CODE_TOO_LARGE.to_owned(),
            detail: format!("a commit may have {BATCH_BYTES_MAX} bytes, found {bytes}"),
        });
    }
    Ok(())
}

/// What a batch carries of events and states.
fn bytes_of(batch: &CommitBatch) -> usize {
    let segments = batch.segments.iter().map(|it| it.body.len());
    let entities = batch.entities.iter().map(|it| it.data.len());
    let open_work = batch.open_work.iter().map(|it| it.event.len());
    let letters = batch.dead_letters.iter().map(|it| match &it.source {
        DeadLetterSource::Raw { payload, .. } => payload.len(),
        DeadLetterSource::Record { .. } => 0,
    });
    segments
        .chain(entities)
        .chain(open_work)
        .chain(letters)
        .sum()
}

fn check_rows(batch: &CommitBatch) -> Result<(), StoreError> {
    for (place, segment) in batch.segments.iter().enumerate() {
        if segment.stream_partition.source_partition != batch.source_partition {
            return Err(out_of_form(format!(
                "the segment at place {place} belongs to another source partition"
            )));
        }
        if segment.count == 0 {
            return Err(out_of_form(format!(
                "the segment at place {place} is empty"
            )));
        }
    }
    for (place, write) in batch.entities.iter().enumerate() {
        if write.version <= write.expected {
            return Err(out_of_form(format!(
                "the entity at place {place} does not get a higher version"
            )));
        }
        if write.expected > Version(0) && write.row.is_none() {
            return Err(out_of_form(format!(
                "the entity at place {place} exists, but its row is not named"
            )));
        }
    }
    let mut written = batch.entities.iter().map(|write| &write.name).peekable();
    for (place, read) in batch.reads.iter().enumerate() {
        if read.row.is_none() != (read.expected == Version(0)) {
            return Err(out_of_form(format!(
                "the read at place {place} names a row of what must not exist, or none of what exists"
            )));
        }
        while written.next_if(|name| **name < read.name).is_some() {}
        if written.peek() == Some(&&read.name) {
            return Err(out_of_form(format!(
                "the read at place {place} is of an entity that is written"
            )));
        }
    }
    for (place, work) in batch.open_work.iter().enumerate() {
        if work.cause.source_partition != batch.source_partition {
            return Err(out_of_form(format!(
                "the open work at place {place} belongs to another source partition"
            )));
        }
    }
    Ok(())
}
