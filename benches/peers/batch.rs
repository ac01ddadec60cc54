//! The hand-written batch consumer: a batch is one transaction of four array statements. It folds its
//! batch by order in memory and lets the upsert do the arithmetic, so it needs no cache of states and no
//! read before its write; that is what we would write, and it is the fastest we know short of ours.
//! Arrays are sorted by key, so that two connections cannot deadlock.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use sqlx::postgres::{PgConnection, PgPool};
use sqlx::{Connection as _, Row as _};

use super::envelope::{EventId, OrderEvent, TenantNumbers, tenant_numbers};
use super::{machine, schema};
use crate::harness::Result;
use crate::harness::database::Server;
use crate::harness::load::{Lane, Load};
use crate::harness::measure::{Sample, Stopwatch};
use crate::harness::topics::Topic;

/// Where the consumer remembers what it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// In a table of its own, so that the log can be kept and dropped by other rules than the keys.
    SeenAndLog,
    /// By a unique event id on the log: one row an event less, and no order to read the log by.
    LogAlone,
}

/// How the consumer moves an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// By arithmetic in the upsert, without looking at it: the fastest, as long as no event is refused.
    Arithmetic,
    /// By a state machine: read, apply, write.
    Machine,
}

/// The hand-written batch consumer.
#[derive(Clone, Copy, Debug)]
pub struct BatchConsumer {
    /// Events of one transaction.
    pub batch_events: usize,
    /// Connections, each with a source partition of its own.
    pub connections: usize,
    /// Where it remembers.
    pub tables: Tables,
    /// How it moves an order.
    pub state: State,
}

const SEEN: &str = "insert into peer_seen (tenant_id, event_id) \
    select * from unnest($1::int4[], $2::uuid[]) on conflict do nothing returning event_id";

const LOG: &str = "insert into peer_log (partition, source_offset, tenant_id, event_id, event) \
    select $1, * from unnest($2::int8[], $3::int4[], $4::uuid[], $5::text[])";

const LOG_ALONE: &str = "insert into peer_log_by_event (partition, source_offset, tenant_id, event_id, event) \
    select $1, * from unnest($2::int8[], $3::int4[], $4::uuid[], $5::text[]) \
    on conflict do nothing returning event_id";

const ORDERS: &str = "insert into peer_orders as o (tenant_id, order_id, status, total_cents, paid_cents, version) \
    select tenant_id, order_id, \
           case when paid_cents >= total_cents then 'paid' else 'placed' end, \
           total_cents, paid_cents, version \
      from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[], $5::int8[]) \
           as w(tenant_id, order_id, total_cents, paid_cents, version) \
    on conflict (tenant_id, order_id) do update set \
        total_cents = o.total_cents + excluded.total_cents, \
        paid_cents = o.paid_cents + excluded.paid_cents, \
        status = case when o.paid_cents + excluded.paid_cents >= o.total_cents + excluded.total_cents \
                      then 'paid' else 'placed' end, \
        version = o.version + excluded.version, \
        changed_at = now()";

const OFFSET: &str =
    "update peer_offsets set next_offset = $2 where partition = $1 and next_offset = $3";

/// What a batch does to one order.
#[derive(Default)]
struct Fold {
    total_cents: i64,
    paid_cents: i64,
    events: i64,
}

impl BatchConsumer {
    /// Consumes a load in a fresh database and returns the timed part; the payments from `topic`, when there is
    /// one.
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
        self.consume(&pool, load, &lanes, &tenants, Lane::opening)
            .await?;
        server.checkpoint().await?;

        let stopwatch = Stopwatch::start(server.processes);
        let events = match topic {
            None => {
                self.consume(&pool, load, &lanes, &tenants, Lane::payments)
                    .await?
            }
            Some(topic) => self.consume_topic(&pool, &topic, &lanes, &tenants).await?,
        };
        let sample = stopwatch.stop(events);

        let (found, expected) = (schema::totals(&pool).await?, load.totals(payments));
        pool.close().await;
        if found != expected {
            return Err(format!("the batch consumer ends at {found:?}, not {expected:?}").into());
        }
        Ok(sample)
    }

    /// Consumes one part of every lane, each on its connection; returns how many events that were.
    pub(super) async fn consume(
        self,
        pool: &PgPool,
        load: &Arc<Load>,
        lanes: &Arc<Vec<Lane>>,
        tenants: &Arc<TenantNumbers>,
        part: fn(&Lane) -> Range<usize>,
    ) -> Result<usize> {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..lanes.len() {
            let (pool, load, lanes, tenants) =
                (pool.clone(), load.clone(), lanes.clone(), tenants.clone());
            tasks.spawn(async move {
                let lane = lanes.get(number).ok_or("no such lane")?;
                let mut connection = pool.acquire().await?;
                let places = part(lane);
                for start in places.clone().step_by(self.batch_events) {
                    let end = places.end.min(start + self.batch_events);
                    let events = lane.events.get(start..end).unwrap_or_default().iter();
                    let deliveries = events.map(|number| load.event(*number)).collect();
                    self.one_batch(&mut connection, deliveries, number, start, &tenants)
                        .await?;
                }
                Result::Ok(places.len())
            });
        }
        let mut events = 0;
        while let Some(done) = tasks.join_next().await {
            events += done??;
        }
        Ok(events)
    }

    /// Consumes the payments of every lane from its partition of a topic, each on its connection.
    async fn consume_topic(
        self,
        pool: &PgPool,
        topic: &Topic,
        lanes: &Arc<Vec<Lane>>,
        tenants: &Arc<TenantNumbers>,
    ) -> Result<usize> {
        let mut tasks = tokio::task::JoinSet::new();
        for (number, lane) in lanes.iter().enumerate() {
            let (pool, topic, tenants) = (pool.clone(), topic.clone(), tenants.clone());
            let places = lane.payments();
            tasks.spawn(async move {
                let mut connection = pool.acquire().await?;
                let reader = topic.reader(number)?;
                let mut place = places.start;
                while place < places.end {
                    let wanted = self.batch_events.min(places.end - place);
                    let records = reader.read(wanted).await;
                    let deliveries = records.iter().map(Vec::as_slice).collect();
                    self.one_batch(&mut connection, deliveries, number, place, &tenants)
                        .await?;
                    place += records.len();
                }
                Result::Ok(places.len())
            });
        }
        let mut events = 0;
        while let Some(done) = tasks.join_next().await {
            events += done??;
        }
        Ok(events)
    }

    async fn one_batch(
        self,
        connection: &mut PgConnection,
        deliveries: Vec<&[u8]>,
        partition: usize,
        start: usize,
        tenants: &TenantNumbers,
    ) -> Result<()> {
        let from = i64::try_from(start)?;
        let next = i64::try_from(start + deliveries.len())?;
        let partition = i32::try_from(partition)?;
        let mut events = Vec::with_capacity(deliveries.len());
        for (place, delivery) in (from..).zip(deliveries) {
            events.push((place, OrderEvent::read(delivery, tenants)?));
        }
        events.sort_unstable_by_key(|(_, event)| (event.tenant, event.id));

        let mut transaction = connection.begin().await?;
        match self.tables {
            Tables::SeenAndLog => {
                let tenants: Vec<i32> = events.iter().map(|(_, event)| event.tenant).collect();
                let ids: Vec<EventId> = events.iter().map(|(_, event)| event.id).collect();
                let fresh = sqlx::query(SEEN)
                    .bind(tenants)
                    .bind(ids)
                    .fetch_all(&mut *transaction)
                    .await?;
                keep_fresh(&mut events, &fresh)?;
                // The log's key is the offset: in order of it, every row lands behind the last.
                events.sort_unstable_by_key(|(place, _)| *place);
                log(&mut transaction, LOG, partition, &events).await?;
            }
            Tables::LogAlone => {
                let fresh = log(&mut transaction, LOG_ALONE, partition, &events).await?;
                keep_fresh(&mut events, &fresh)?;
            }
        }
        match self.state {
            State::Arithmetic => upsert(&mut transaction, &events).await?,
            State::Machine => machine::apply(&mut transaction, &events).await?,
        }
        let moved = sqlx::query(OFFSET)
            .bind(partition)
            .bind(next)
            .bind(from)
            .execute(&mut *transaction)
            .await?;
        if moved.rows_affected() != 1 {
            return Err("another consumer moved this partition's offset".into());
        }
        transaction.commit().await?;
        Ok(())
    }
}

/// Drops the events that were seen before.
fn keep_fresh(
    events: &mut Vec<(i64, OrderEvent<'_>)>,
    fresh: &[sqlx::postgres::PgRow],
) -> Result<()> {
    if fresh.len() == events.len() {
        return Ok(());
    }
    let ids: HashSet<EventId> = fresh
        .iter()
        .map(|row| row.try_get(0))
        .collect::<std::result::Result<_, _>>()?;
    events.retain(|(_, event)| ids.contains(&event.id));
    Ok(())
}

async fn log(
    connection: &mut PgConnection,
    statement: &'static str,
    partition: i32,
    events: &[(i64, OrderEvent<'_>)],
) -> Result<Vec<sqlx::postgres::PgRow>> {
    let offsets: Vec<i64> = events.iter().map(|(place, _)| *place).collect();
    let tenants: Vec<i32> = events.iter().map(|(_, event)| event.tenant).collect();
    let ids: Vec<EventId> = events.iter().map(|(_, event)| event.id).collect();
    let texts: Vec<&str> = events.iter().map(|(_, event)| event.json).collect();
    let query = sqlx::query(statement)
        .bind(partition)
        .bind(offsets)
        .bind(tenants)
        .bind(ids)
        .bind(texts);
    Ok(query.fetch_all(connection).await?)
}

async fn upsert(connection: &mut PgConnection, events: &[(i64, OrderEvent<'_>)]) -> Result<()> {
    let mut folds: HashMap<(i32, &str), Fold> = HashMap::with_capacity(events.len());
    for (_, event) in events {
        let fold = folds.entry((event.tenant, &event.order)).or_default();
        fold.total_cents += event.total_cents;
        fold.paid_cents += event.amount_cents;
        fold.events += 1;
    }
    let mut folds: Vec<((i32, &str), Fold)> = folds.into_iter().collect();
    folds.sort_unstable_by_key(|(key, _)| *key);
    sqlx::query(ORDERS)
        .bind(
            folds
                .iter()
                .map(|((tenant, _), _)| *tenant)
                .collect::<Vec<i32>>(),
        )
        .bind(
            folds
                .iter()
                .map(|((_, order), _)| *order)
                .collect::<Vec<&str>>(),
        )
        .bind(
            folds
                .iter()
                .map(|(_, fold)| fold.total_cents)
                .collect::<Vec<i64>>(),
        )
        .bind(
            folds
                .iter()
                .map(|(_, fold)| fold.paid_cents)
                .collect::<Vec<i64>>(),
        )
        .bind(
            folds
                .iter()
                .map(|(_, fold)| fold.events)
                .collect::<Vec<i64>>(),
        )
        .execute(connection)
        .await?;
    Ok(())
}
