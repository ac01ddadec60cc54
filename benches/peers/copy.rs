//! Raw COPY into a table without any index: no dedupe, no state, no offset. Nobody would run it; it is
//! the ceiling for anything that writes a row an event.

use std::sync::Arc;

use crate::harness::Result;
use crate::harness::database::Server;
use crate::harness::load::Load;
use crate::harness::measure::{Sample, Stopwatch};

/// What the table keeps an event as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RawType {
    /// Parsed and rewritten.
    Jsonb,
    /// As it came.
    Bytea,
}

/// Raw COPY.
#[derive(Clone, Copy, Debug)]
pub struct RawCopy {
    /// The column's type.
    pub raw_type: RawType,
    /// Connections.
    pub connections: usize,
}

/// Rows of one COPY, which is one transaction.
const ROWS: usize = 5_000;

/// The signature, no flags, no extension: "Binary Format" in Postgres' documentation of COPY.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// What stands in front of the text in the binary form of a `jsonb`.
const JSONB_VERSION: u8 = 1;

impl RawCopy {
    /// Copies the payments of a load into a fresh database and returns the timed part.
    pub async fn run(self, server: &Server, load: &Arc<Load>, payments: u32) -> Result<Sample> {
        server.fresh_database().await?;
        let pool = server.pool(self.connections).await?;
        let (create, copy) = match self.raw_type {
            RawType::Jsonb => (
                "create table raw_events (event jsonb not null)",
                "copy raw_events from stdin (format binary)",
            ),
            RawType::Bytea => (
                "create table raw_events (event bytea not null)",
                "copy raw_events from stdin (format binary)",
            ),
        };
        sqlx::query(create).execute(&pool).await?;
        let lanes = Arc::new(load.lanes(self.connections, payments));
        server.checkpoint().await?;

        let stopwatch = Stopwatch::start(server.processes);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..lanes.len() {
            let (pool, load, lanes) = (pool.clone(), load.clone(), lanes.clone());
            tasks.spawn(async move {
                let lane = lanes.get(number).ok_or("no such lane")?;
                let mut connection = pool.acquire().await?;
                for chunk in lane
                    .events
                    .get(lane.payments())
                    .unwrap_or_default()
                    .chunks(ROWS)
                {
                    let mut copying = connection.copy_in_raw(copy).await?;
                    copying.send(self.rows(&load, chunk)?).await?;
                    copying.finish().await?;
                }
                Result::Ok(lane.payments().len())
            });
        }
        let mut events = 0;
        while let Some(done) = tasks.join_next().await {
            events += done??;
        }
        let sample = stopwatch.stop(events);

        let rows: i64 = sqlx::query_scalar("select count(*) from raw_events")
            .fetch_one(&pool)
            .await?;
        pool.close().await;
        if rows != i64::from(payments) {
            return Err(format!("raw COPY left {rows} rows, not {payments}").into());
        }
        Ok(sample)
    }

    fn rows(self, load: &Load, events: &[u32]) -> Result<Vec<u8>> {
        let mut rows = HEADER.to_vec();
        for number in events {
            let event = load.event(*number);
            let jsonb = self.raw_type == RawType::Jsonb;
            let bytes = i32::try_from(event.len() + usize::from(jsonb))?;
            rows.extend_from_slice(&1_i16.to_be_bytes());
            rows.extend_from_slice(&bytes.to_be_bytes());
            if jsonb {
                rows.push(JSONB_VERSION);
            }
            rows.extend_from_slice(event);
        }
        rows.extend_from_slice(&TRAILER);
        Ok(rows)
    }
}
