//! The tables of the hand-written consumers. Tenant first in every key, as ours; no more indexes than
//! each table's own key.

use sqlx::PgPool;

use super::envelope::TenantNumbers;
use crate::harness::Result;
use crate::harness::load::Totals;

/// `peer_log.event` is text: it keeps the event as it came, and is the cheapest that does (`json` parses
/// it once more, `jsonb` also rewrites it). Orders leave room on their pages for the next version.
const TABLES: &str = "
create table peer_tenants (
    tenant_id int4 primary key,
    name text not null unique
);
create table peer_seen (
    tenant_id int4 not null,
    event_id uuid not null,
    primary key (tenant_id, event_id)
);
create table peer_log (
    partition int4 not null,
    source_offset int8 not null,
    tenant_id int4 not null,
    event_id uuid not null,
    recorded_at timestamptz not null default now(),
    event text not null,
    primary key (partition, source_offset)
);
create table peer_log_by_event (
    partition int4 not null,
    source_offset int8 not null,
    tenant_id int4 not null,
    event_id uuid not null,
    recorded_at timestamptz not null default now(),
    event text not null,
    primary key (tenant_id, event_id)
);
create table peer_orders (
    tenant_id int4 not null,
    order_id text collate \"C\" not null,
    status text not null,
    total_cents int8 not null,
    paid_cents int8 not null,
    version int8 not null,
    changed_at timestamptz not null default now(),
    primary key (tenant_id, order_id)
) with (fillfactor = 60);
create table peer_offsets (
    partition int4 primary key,
    next_offset int8 not null
) with (fillfactor = 10)";

/// Makes the tables, with an offset of 0 for each source partition.
pub async fn create(pool: &PgPool, tenants: &TenantNumbers, partitions: usize) -> Result<()> {
    for statement in TABLES.split(';') {
        sqlx::query(statement).execute(pool).await?;
    }
    for (name, number) in tenants {
        sqlx::query("insert into peer_tenants (tenant_id, name) values ($1, $2)")
            .bind(number)
            .bind(name)
            .execute(pool)
            .await?;
    }
    sqlx::query("insert into peer_offsets (partition, next_offset) select p - 1, 0 from generate_series(1, $1) p")
        .bind(i32::try_from(partitions)?)
        .execute(pool)
        .await?;
    Ok(())
}

/// What the orders add up to.
pub async fn totals(pool: &PgPool) -> Result<Totals> {
    let (orders, paid_cents, versions) = sqlx::query_as(
        "select count(*), coalesce(sum(paid_cents), 0)::int8, coalesce(sum(version), 0)::int8 from peer_orders",
    )
    .fetch_one(pool)
    .await?;
    Ok(Totals {
        orders,
        paid_cents,
        versions,
    })
}
