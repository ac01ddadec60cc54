//! Upkeep: partitions of the log before they are needed, rotation of the dedupe tables, retention, and
//! the index of events. Every step is safe to repeat and safe to run on several nodes at once.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::store::{StoreError, Upkeep, UpkeepDone};
use tokio::time::Instant;

use super::Inner;
use super::encode::Moment;
use super::error::During;
use super::ownership::{column, counter};

/// Tries to have a partition made while another node holds the upkeep's lock.
const COVER_ATTEMPTS_MAX: u32 = 20;
/// Between two of them.
const COVER_PAUSE: Duration = Duration::from_millis(50);

/// Events indexed in one statement, well within its time limit.
const INDEX_EVENTS: i32 = 20_000;
/// How long one upkeep goes on with the index: a third of the usual time between two. What is left is the
/// index's lag, and the next upkeep's work.
const INDEX_TIME_MAX: Duration = Duration::from_secs(20);

/// Which moments have a partition, as far as this process knows.
#[derive(Default)]
pub(super) struct Coverage(RwLock<Vec<(Timestamp, Timestamp)>>);

impl Coverage {
    fn contains(&self, at: Timestamp) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|(from, to)| *from <= at && at < *to)
    }

    fn replace(&self, ranges: Vec<(Timestamp, Timestamp)>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    /// Forgets what it knows: a partition was missing that should have been there.
    pub fn forget(&self) {
        self.replace(Vec::new());
    }
}

impl Inner {
    /// Makes sure that there is a partition for each of these moments. Asks the database only for
    /// moments that this process has not seen covered: once a period.
    pub(super) async fn cover(
        &self,
        moments: impl Iterator<Item = Timestamp>,
    ) -> Result<(), StoreError> {
        for moment in moments {
            if !self.coverage.contains(moment) {
                self.make_partition(moment).await?;
            }
        }
        Ok(())
    }

    async fn make_partition(&self, moment: Timestamp) -> Result<(), StoreError> {
        for _ in 0..COVER_ATTEMPTS_MAX {
            self.load_coverage().await?;
            if self.coverage.contains(moment) {
                return Ok(());
            }
            self.maintain(moment, None).await?;
            self.load_coverage().await?;
            if self.coverage.contains(moment) {
                return Ok(());
            }
            tokio::time::sleep(COVER_PAUSE).await;
        }
        Err(StoreError::Unavailable {
            detail: "the log has no partition for this moment yet".to_owned(),
        })
    }

    async fn load_coverage(&self) -> Result<(), StoreError> {
        let query = sqlx::query("select from_at, to_at from tidegate.segment_partitions");
        let rows = self.session.fetch(query, During::Read).await?;
        let ranges = rows
            .iter()
            .map(|row| {
                Ok((
                    column::<Moment>(row, "from_at")?.0,
                    column::<Moment>(row, "to_at")?.0,
                ))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        self.coverage.replace(ranges);
        Ok(())
    }

    async fn maintain(
        &self,
        now: Timestamp,
        retention_micros: Option<i64>,
    ) -> Result<Retained, StoreError> {
        let query = sqlx::query(
            "select segments_dropped, segments_held from tidegate.tidegate_maintain($1, $2)",
        )
        .bind(Moment(now))
        .bind(retention_micros);
        let rows = self.session.fetch(query, During::Read).await?;
        rows.first().map_or(Ok(Retained::default()), |row| {
            Ok(Retained {
                dropped: counter(row, "segments_dropped")?,
                held: counter(row, "segments_held")?,
            })
        })
    }

    /// All of it, in the order in which a failure does least harm; a failed step does not stop those
    /// behind it, and the first failure is the answer.
    pub(super) async fn upkeep(&self, upkeep: Upkeep) -> Result<UpkeepDone, StoreError> {
        let ahead = self.maintain(upkeep.now, None).await;
        let covered = self.load_coverage().await;
        let rotated = self.rotate(upkeep).await;
        // Apart from the partitions ahead: dropping waits for every reader of the log, and may give up.
        let retained = match upkeep.retention_micros {
            Some(_) => self.maintain(upkeep.now, upkeep.retention_micros).await,
            None => Ok(Retained::default()),
        };
        let index_lag_records = self.index_events().await;
        ahead?;
        covered?;
        let retained = retained?;
        Ok(UpkeepDone {
            rotated: rotated?,
            segments_dropped: retained.dropped,
            segments_held: retained.held,
            index_lag_records: index_lag_records?,
        })
    }

    async fn rotate(&self, upkeep: Upkeep) -> Result<bool, StoreError> {
        let query = sqlx::query("select tidegate.rotate_dedupe($1, $2) as rotated")
            .bind(Moment(upkeep.now))
            .bind(upkeep.dedupe_window_micros);
        let rows = self.session.fetch(query, During::Read).await?;
        rows.first().map_or(Ok(false), |row| column(row, "rotated"))
    }

    /// Goes on with the index of events; how far it is behind then.
    async fn index_events(&self) -> Result<Option<u64>, StoreError> {
        if !self.index_events {
            return Ok(None);
        }
        let until = Instant::now() + INDEX_TIME_MAX;
        while Instant::now() < until {
            let query = sqlx::query("select events, events_left from tidegate.index_events($1)")
                .bind(INDEX_EVENTS);
            let rows = self.session.fetch(query, During::Read).await?;
            let (done, left) = match rows.first() {
                Some(row) => (counter(row, "events")?, counter(row, "events_left")?),
                None => (0, 0),
            };
            // Nothing done: nothing is left, or another node does it.
            if done == 0 || left == 0 {
                break;
            }
        }
        let query = sqlx::query("select tidegate.event_index_lag() as lag");
        let rows = self.session.fetch(query, During::Read).await?;
        rows.first().map(|row| counter(row, "lag")).transpose()
    }
}

/// What retention did to the log.
#[derive(Default)]
struct Retained {
    dropped: u64,
    held: u64,
}
