//! What the server says about itself: the settings that decide what a commit costs and survives. Owns
//! the question only; which of them a node refuses is decided in `startup`.

use sqlx::Row as _;
use tidegate_engine::store::StoreError;

use super::error::{During, store_error};
use super::session::Session;

/// Those that any login may read.
const NAMES: [&str; 6] = [
    "server_version",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "wal_compression",
    "shared_buffers",
];

/// The settings by name, as this login meets them.
pub(super) async fn settings(session: &Session) -> Result<Vec<(&'static str, String)>, StoreError> {
    let query =
        sqlx::query("select current_setting(name) from unnest($1) as name").bind(&NAMES[..]);
    let rows = session.fetch(query, During::Read).await?;
    NAMES
        .into_iter()
        .zip(&rows)
        .map(|(name, row)| {
            let value = row
                .try_get(0)
                .map_err(|error| store_error(error, During::Read))?;
            Ok((name, value))
        })
        .collect()
}
