//! Source partitions: claims, and checkpoints as they stand.

use sqlx::SqlitePool;
use sqlx::sqlite::SqliteRow;
use tidegate_engine::checkpoint::{Checkpoint, Counts, DoneAbove, Fingerprint, Progress};
use tidegate_engine::codec;
use tidegate_engine::position::{Epoch, Offset, Revision, SourcePartition};
use tidegate_engine::store::{Claim, StoreError};

use super::errors::{unreadable, unwritable};
use super::rows::{column, fetch, hash, number, small_number, valid};
use super::writer::{End, Writer};

/// The columns that [`checkpoint_of`] reads.
macro_rules! columns {
    () => {
        "source, partition, epoch, owner, revision, incarnation, next_offset, done_above,
         fingerprint_offset, fingerprint, admitted, duplicates, conflicts, unreadable, applied,
         rejected, ignored, dead, unhandled, emitted, looped_back"
    };
}

/// Takes a source partition: epoch + 1, and its checkpoint, made when there is none. One that nothing was
/// ever committed under goes over to the claim's incarnation, and then begins where the claim says.
pub(super) async fn claim(writer: &Writer, claim: Claim) -> Result<Checkpoint, StoreError> {
    let nothing_above = done_above_bytes(&DoneAbove::default())?;
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                let claimed = fetch(
                    connection,
                    concat!(
                        "INSERT INTO source_partitions
                            (source, partition, epoch, owner, incarnation, next_offset, done_above)
                         VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6)
                         ON CONFLICT (source, partition)
                            DO UPDATE SET epoch = epoch + 1, owner = excluded.owner,
                                incarnation = CASE WHEN revision = 0
                                    THEN excluded.incarnation ELSE incarnation END,
                                next_offset = CASE
                                    WHEN revision = 0 AND incarnation <> excluded.incarnation
                                    THEN excluded.next_offset ELSE next_offset END
                         RETURNING ",
                        columns!()
                    ),
                    |binds| {
                        binds
                            .text(claim.source_partition.source.as_str())
                            .int(claim.source_partition.partition.into())
                            .text(&claim.owner)
                            .text(claim.incarnation.as_str())
                            .number(claim.start.0)
                            .bytes(&nothing_above);
                    },
                    checkpoint_of,
                )
                .await?;
                let checkpoint = claimed.into_iter().next();
                Ok(End::Commit(
                    checkpoint.ok_or_else(|| unreadable("checkpoint"))?,
                ))
            })
        })
        .await
}

/// A checkpoint as it stands.
pub(super) async fn checkpoint(
    readers: &SqlitePool,
    place: &SourcePartition,
) -> Result<Option<Checkpoint>, StoreError> {
    let found = fetch(
        readers,
        concat!(
            "SELECT ",
            columns!(),
            " FROM source_partitions WHERE source = ?1 AND partition = ?2"
        ),
        |binds| {
            binds
                .text(place.source.as_str())
                .int(place.partition.into());
        },
        checkpoint_of,
    )
    .await?;
    Ok(found.into_iter().next())
}

/// Every checkpoint, in order of source partition.
pub(super) async fn checkpoints(readers: &SqlitePool) -> Result<Vec<Checkpoint>, StoreError> {
    fetch(
        readers,
        concat!(
            "SELECT ",
            columns!(),
            " FROM source_partitions ORDER BY source, partition"
        ),
        |_| {},
        checkpoint_of,
    )
    .await
}

fn checkpoint_of(row: &SqliteRow) -> Result<Checkpoint, StoreError> {
    let fingerprint = match column::<Option<i64>>(row, 8)? {
        None => None,
        Some(_) => Some(Fingerprint {
            offset: Offset(number(row, 8)?),
            hash: hash(row, 9)?,
        }),
    };
    Ok(Checkpoint {
        source_partition: SourcePartition {
            source: valid(row, 0)?,
            partition: small_number(row, 1)?,
        },
        epoch: Epoch(number(row, 2)?),
        owner: column(row, 3)?,
        revision: Revision(number(row, 4)?),
        incarnation: valid(row, 5)?,
        progress: Progress {
            next_offset: Offset(number(row, 6)?),
            done_above: done_above_of(column(row, 7)?)?,
            fingerprint,
            counts: Counts {
                admitted: number(row, 10)?,
                duplicates: number(row, 11)?,
                conflicts: number(row, 12)?,
                unreadable: number(row, 13)?,
                applied: number(row, 14)?,
                rejected: number(row, 15)?,
                ignored: number(row, 16)?,
                dead: number(row, 17)?,
                unhandled: number(row, 18)?,
                emitted: number(row, 19)?,
                looped_back: number(row, 20)?,
            },
        },
    })
}

/// As the column `done_above` holds it.
pub(super) fn done_above_bytes(done_above: &DoneAbove) -> Result<Vec<u8>, StoreError> {
    codec::encode(done_above).map_err(|error| unwritable("list of offsets", &error))
}

fn done_above_of(bytes: &[u8]) -> Result<DoneAbove, StoreError> {
    codec::decode(bytes).map_err(|_| unreadable("list of offsets"))
}

#[cfg(test)]
mod tests {
    use super::{done_above_bytes, done_above_of};
    use tidegate_engine::checkpoint::{DoneAbove, DoneRange};
    use tidegate_engine::position::Offset;
    use tidegate_engine::store::StoreError;

    #[test]
    fn a_changed_list_of_what_is_done_is_refused_and_never_believed() {
        let (first, last) = (Offset(7), Offset(9));
        let written = DoneAbove(vec![DoneRange { first, last }]);
        let bytes = done_above_bytes(&written).unwrap();
        assert_eq!(done_above_of(&bytes).unwrap(), written);
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() += 1;
        let by_hand: &[u8] = b"[7,9]";
        for bytes in [&changed, by_hand, b"", &bytes[..bytes.len() - 1]] {
            let answer = done_above_of(bytes);
            assert!(
                matches!(&answer, Err(StoreError::Unexpected { code, detail })
                    if code == "stored" && detail.contains("list of offsets")),
                "{bytes:?}: {answer:?}"
            );
        }
    }
}
