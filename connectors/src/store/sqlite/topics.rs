//! The topics of sources: their numbers, and how often they got more partitions.

use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, SqlitePool};
use tidegate_engine::position::SourceName;
use tidegate_engine::store::StoreError;
use tidegate_engine::topics::{SourceTopic, TopicsFound, take_up};

use super::errors::{unreadable, unwritable};
use super::rows::{column, execute, fetch};
use super::writer::{End, Writer};

/// Every topic of a source with what was found taken up. Nothing new, the rule, does not wait for the writer.
pub(super) async fn of(
    writer: &Writer,
    readers: &SqlitePool,
    found: TopicsFound,
) -> Result<Vec<SourceTopic>, StoreError> {
    let mut known = stored(readers, &found.source).await?;
    let before = known.clone();
    take_up(&mut known, &found.topics)?;
    if known == before {
        return Ok(known);
    }
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                let before = stored(&mut *connection, &found.source).await?;
                let mut known = before.clone();
                take_up(&mut known, &found.topics)?;
                for topic in known.iter().filter(|topic| !before.contains(topic)) {
                    let partitions = serde_json::to_string(&topic.partitions)
                        .map_err(|error| unwritable("topic", &error))?;
                    execute(
                        connection,
                        "INSERT INTO source_topics (source, number, topic, partitions, came_later)
                         VALUES (?1, ?2, ?3, ?4, ?5)
                         ON CONFLICT (source, number) DO UPDATE SET partitions = excluded.partitions",
                        |binds| {
                            binds
                                .text(found.source.as_str())
                                .int(topic.number.into())
                                .text(&topic.name)
                                .text(&partitions)
                                .int(topic.came_later.into());
                        },
                    )
                    .await?;
                }
                Ok(End::Commit(known))
            })
        })
        .await
}

async fn stored<'c>(
    connection: impl sqlx::Executor<'c, Database = Sqlite>,
    source: &SourceName,
) -> Result<Vec<SourceTopic>, StoreError> {
    fetch(
        connection,
        "SELECT topic, number, partitions, came_later FROM source_topics WHERE source = ?1 ORDER BY number",
        |binds| {
            binds.text(source.as_str());
        },
        topic_of,
    )
    .await
}

fn topic_of(row: &SqliteRow) -> Result<SourceTopic, StoreError> {
    let number: i64 = column(row, 1)?;
    let partitions: &str = column(row, 2)?;
    let came_later: i64 = column(row, 3)?;
    Ok(SourceTopic {
        name: column(row, 0)?,
        number: u32::try_from(number).map_err(|_| unreadable("topic"))?,
        partitions: serde_json::from_str(partitions).map_err(|_| unreadable("topic"))?,
        came_later: came_later != 0,
    })
}
