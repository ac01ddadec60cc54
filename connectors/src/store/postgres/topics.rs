//! The topics of sources. Owns the call of the function that numbers them.

use sqlx::postgres::PgRow;
use tidegate_engine::store::StoreError;
use tidegate_engine::topics::{SourceTopic, TopicsFound};

use super::Inner;
use super::error::{During, corrupt};
use super::ownership::column;

impl Inner {
    pub(super) async fn source_topics(
        &self,
        found: &TopicsFound,
    ) -> Result<Vec<SourceTopic>, StoreError> {
        let topics = &found.topics;
        let names: Vec<&str> = topics.iter().map(|it| it.name.as_str()).collect();
        let partitions: Vec<i32> = topics
            .iter()
            .map(|it| i32::try_from(it.partitions).unwrap_or(i32::MAX))
            .collect();
        let by_pattern: Vec<bool> = topics.iter().map(|it| it.by_pattern).collect();
        let query = sqlx::query(
            "select topic, number, partitions, came_later from tidegate.source_topics($1, $2, $3, $4)",
        )
        .bind(found.source.as_str())
        .bind(names)
        .bind(partitions)
        .bind(by_pattern);
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter().map(topic_of).collect()
    }
}

fn topic_of(row: &PgRow) -> Result<SourceTopic, StoreError> {
    let counted = |number: i32| u32::try_from(number).map_err(|_| corrupt("topic"));
    let partitions: Vec<i32> = column(row, "partitions")?;
    Ok(SourceTopic {
        name: column(row, "topic")?,
        number: counted(column(row, "number")?)?,
        partitions: partitions
            .into_iter()
            .map(counted)
            .collect::<Result<_, _>>()?,
        came_later: column(row, "came_later")?,
    })
}
