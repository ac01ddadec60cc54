//! The hand-written per-event consumer: one transaction an event, as most consumers are written, with
//! prepared statements and a source partition for each connection.

use std::ops::Range;
use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::batch::{BatchConsumer, State, Tables};
use super::envelope::{OrderEvent, TenantNumbers, tenant_numbers};
use super::schema;
use crate::harness::Result;
use crate::harness::database::Server;
use crate::harness::load::{Lane, Load};
use crate::harness::measure::{Sample, Stopwatch};
use crate::harness::topics::Topic;

/// The hand-written per-event consumer.
#[derive(Clone, Copy, Debug)]
pub struct PerEventConsumer {
    /// Connections, each with a source partition of its own.
    pub connections: usize,
}

const SEEN: &str =
    "insert into peer_seen (tenant_id, event_id) values ($1, $2) on conflict do nothing";

const LOG: &str = "insert into peer_log (partition, source_offset, tenant_id, event_id, event) \
    values ($1, $2, $3, $4, $5)";

const ORDER: &str = "insert into peer_orders as o (tenant_id, order_id, status, total_cents, paid_cents, version) \
    values ($1, $2, case when $4 >= $3 then 'paid' else 'placed' end, $3, $4, 1) \
    on conflict (tenant_id, order_id) do update set \
        total_cents = o.total_cents + excluded.total_cents, \
        paid_cents = o.paid_cents + excluded.paid_cents, \
        status = case when o.paid_cents + excluded.paid_cents >= o.total_cents + excluded.total_cents \
                      then 'paid' else 'placed' end, \
        version = o.version + 1, \
        changed_at = now()";

const OFFSET: &str =
    "update peer_offsets set next_offset = $2 where partition = $1 and next_offset = $3";

impl PerEventConsumer {
    /// Consumes a load in a fresh database and returns the timed part. The orders are placed by the
    /// batch consumer, so that nobody waits for what is not measured.
    pub async fn run(
        self,
        server: &Server,
        load: &Arc<Load>,
        payments: u32,
        topic: Option<Topic>,
    ) -> Result<Sample> {
        server.fresh_database().await?;
        let pool = server.pool(self.connections).await?;
        let lanes = Arc::new(load.lanes(self.connections, payments));
        let tenants = Arc::new(tenant_numbers(load));
        schema::create(&pool, &tenants, self.connections).await?;
        let opening = BatchConsumer {
            batch_events: 1_000,
            connections: self.connections,
            tables: Tables::SeenAndLog,
            state: State::Arithmetic,
        };
        opening
            .consume(&pool, load, &lanes, &tenants, Lane::opening)
            .await?;
        server.checkpoint().await?;

        let stopwatch = Stopwatch::start(server.processes);
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..lanes.len() {
            let (pool, load, lanes, tenants) =
                (pool.clone(), load.clone(), lanes.clone(), tenants.clone());
            let topic = topic.clone();
            tasks.spawn(async move {
                let lane = lanes.get(number).ok_or("no such lane")?;
                let mut connection = pool.acquire().await?;
                let places = lane.payments();
                if let Some(topic) = topic {
                    return from_topic(&mut connection, &topic, number, places, &tenants).await;
                }
                for (place, event) in places
                    .clone()
                    .zip(lane.events.get(places).unwrap_or_default())
                {
                    one_event(&mut connection, load.event(*event), number, place, &tenants).await?;
                }
                Result::Ok(lane.payments().len())
            });
        }
        let mut events = 0;
        while let Some(done) = tasks.join_next().await {
            events += done??;
        }
        let sample = stopwatch.stop(events);

        let (found, expected) = (schema::totals(&pool).await?, load.totals(payments));
        pool.close().await;
        if found != expected {
            return Err(
                format!("the per-event consumer ends at {found:?}, not {expected:?}").into(),
            );
        }
        Ok(sample)
    }
}

async fn from_topic(
    connection: &mut PgConnection,
    topic: &Topic,
    partition: usize,
    places: Range<usize>,
    tenants: &TenantNumbers,
) -> Result<usize> {
    let reader = topic.reader(partition)?;
    let events = places.len();
    for place in places {
        for record in reader.read(1).await {
            one_event(connection, &record, partition, place, tenants).await?;
        }
    }
    Ok(events)
}

async fn one_event(
    connection: &mut PgConnection,
    delivery: &[u8],
    partition: usize,
    place: usize,
    tenants: &TenantNumbers,
) -> Result<()> {
    let event = OrderEvent::read(delivery, tenants)?;
    let (partition, offset) = (i32::try_from(partition)?, i64::try_from(place)?);
    let mut transaction = connection.begin().await?;
    let seen = sqlx::query(SEEN)
        .bind(event.tenant)
        .bind(event.id)
        .execute(&mut *transaction)
        .await?;
    if seen.rows_affected() == 1 {
        sqlx::query(LOG)
            .bind(partition)
            .bind(offset)
            .bind(event.tenant)
            .bind(event.id)
            .bind(event.json)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(ORDER)
            .bind(event.tenant)
            .bind(&*event.order)
            .bind(event.total_cents)
            .bind(event.amount_cents)
            .execute(&mut *transaction)
            .await?;
    }
    let moved = sqlx::query(OFFSET)
        .bind(partition)
        .bind(offset + 1)
        .bind(offset)
        .execute(&mut *transaction)
        .await?;
    if moved.rows_affected() != 1 {
        return Err("another consumer moved this partition's offset".into());
    }
    transaction.commit().await?;
    Ok(())
}
