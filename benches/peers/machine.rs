//! The order machine by hand: read the orders of the batch, apply its events to them one after another,
//! write what moved. This is what a consumer comes to once an event may be refused by the state that it
//! meets (`order.paid` of an order that is paid): arithmetic folded over a batch cannot refuse one of it.

use std::collections::HashMap;

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::envelope::OrderEvent;
use crate::harness::Result;

/// One question of the index for each order; the rows stay locked until the commit.
const READ: &str = "select w.tenant_id, w.order_id, f.total_cents, f.paid_cents, f.version \
      from unnest($1::int4[], $2::text[]) as w(tenant_id, order_id), \
           lateral (select o.total_cents, o.paid_cents, o.version from peer_orders o \
                     where o.tenant_id = w.tenant_id and o.order_id = w.order_id \
                       for no key update) f";

const WRITE: &str = "insert into peer_orders as o (tenant_id, order_id, status, total_cents, paid_cents, version) \
    select * from unnest($1::int4[], $2::text[], $3::text[], $4::int8[], $5::int8[], $6::int8[]) \
    on conflict (tenant_id, order_id) do update set \
        total_cents = excluded.total_cents, paid_cents = excluded.paid_cents, \
        status = excluded.status, version = excluded.version, changed_at = now()";

#[derive(Clone, Copy, Default)]
struct Order {
    total_cents: i64,
    paid_cents: i64,
    /// 0 while it does not exist.
    version: i64,
    moved: bool,
}

impl Order {
    fn status(&self) -> &'static str {
        if self.paid_cents >= self.total_cents {
            "paid"
        } else {
            "placed"
        }
    }

    /// The transition of one event; what it refuses changes nothing.
    fn apply(&mut self, event: &OrderEvent<'_>) -> Result<()> {
        let placed = event.total_cents > 0;
        match (placed, self.version) {
            (true, 0) => self.total_cents = event.total_cents,
            (false, 1..) if self.status() == "placed" => {
                let paid = self.paid_cents.checked_add(event.amount_cents);
                self.paid_cents = paid.ok_or("overflow")?;
            }
            _ => return Ok(()),
        }
        self.version += 1;
        self.moved = true;
        Ok(())
    }
}

/// Applies the events of a batch, in their order.
pub(super) async fn apply(
    connection: &mut PgConnection,
    events: &[(i64, OrderEvent<'_>)],
) -> Result<()> {
    let mut orders: HashMap<(i32, &str), Order> = HashMap::with_capacity(events.len());
    for (_, event) in events {
        orders.entry((event.tenant, &event.order)).or_default();
    }
    // In order of key, so that two connections cannot deadlock.
    let mut keys: Vec<(i32, &str)> = orders.keys().copied().collect();
    keys.sort_unstable();
    let (tenants, names): (Vec<i32>, Vec<&str>) = keys.iter().copied().unzip();
    let found = sqlx::query(READ)
        .bind(tenants)
        .bind(names)
        .fetch_all(&mut *connection)
        .await?;
    for row in &found {
        let key: (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
        let order = orders.get_mut(&key).ok_or("an order nobody asked for")?;
        order.total_cents = row.try_get(2)?;
        order.paid_cents = row.try_get(3)?;
        order.version = row.try_get(4)?;
    }
    for (_, event) in events {
        if let Some(order) = orders.get_mut(&(event.tenant, &*event.order)) {
            order.apply(event)?;
        }
    }
    let moved: Vec<((i32, &str), Order)> = keys
        .into_iter()
        .filter_map(|key| Some((key, *orders.get(&key)?)))
        .filter(|(_, order)| order.moved)
        .collect();
    let column = |of: fn(&Order) -> i64| moved.iter().map(|(_, it)| of(it)).collect::<Vec<i64>>();
    sqlx::query(WRITE)
        .bind(moved.iter().map(|((it, _), _)| *it).collect::<Vec<i32>>())
        .bind(moved.iter().map(|((_, it), _)| *it).collect::<Vec<&str>>())
        .bind(moved.iter().map(|(_, it)| it.status()).collect::<Vec<_>>())
        .bind(column(|order| order.total_cents))
        .bind(column(|order| order.paid_cents))
        .bind(column(|order| order.version))
        .execute(connection)
        .await?;
    Ok(())
}
