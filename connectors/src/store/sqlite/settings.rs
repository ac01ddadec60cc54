//! What the embedded database says about itself: the settings that decide what a commit costs and
//! survives. Owns the question only; nothing is set here.

use sqlx::SqliteConnection;
use tidegate_engine::store::StoreError;

use super::rows::{column, fetch};
use super::writer::{End, Writer};

/// `synchronous` is the connection's own, so the one that writes is asked.
const SETTINGS_SQL: &str = "\
SELECT sqlite_version(),
       (SELECT journal_mode FROM pragma_journal_mode),
       (SELECT synchronous FROM pragma_synchronous)";

/// The settings by name, as the database reports them.
pub(super) async fn settings(writer: &Writer) -> Result<Vec<(&'static str, String)>, StoreError> {
    writer
        .transaction(|connection| {
            Box::pin(async move { Ok(End::RollBack(ask(connection).await?)) })
        })
        .await
}

async fn ask(connection: &mut SqliteConnection) -> Result<Vec<(&'static str, String)>, StoreError> {
    let rows = fetch(
        connection,
        SETTINGS_SQL,
        |_| {},
        |row| {
            let synchronous = match column::<i64>(row, 2)? {
                0 => "off".to_owned(),
                1 => "normal".to_owned(),
                2 => "full".to_owned(),
                3 => "extra".to_owned(),
                other => other.to_string(),
            };
            Ok(vec![
                ("sqlite_version", column(row, 0)?),
                ("journal_mode", column(row, 1)?),
                ("synchronous", synchronous),
            ])
        },
    )
    .await?;
    Ok(rows.into_iter().next().unwrap_or_default())
}
