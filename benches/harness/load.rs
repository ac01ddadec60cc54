//! The load: order events as CloudEvents in JSON, each of exactly [`EVENT_BYTES`], made before any clock
//! runs and the same for ours and for every peer. First every order is placed, then payments come in for
//! orders drawn at random; no order is ever paid in full, so every payment moves its order.

use std::fmt::Write as _;
use std::ops::Range;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// Bytes of every event: what the design was measured with.
pub const EVENT_BYTES: usize = 300;

/// Far above what the payments of one order can add up to.
const ORDER_TOTAL_CENTS: i64 = 100_000_000;

/// What is generated.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Orders, each placed once.
    pub orders: u32,
    /// Tenants that the orders are spread over.
    pub tenants: u32,
    /// Payments, each for a random order.
    pub payments: u32,
    /// The same seed gives the same bytes.
    pub seed: u64,
}

/// The generated events, in one run of bytes.
pub struct Load {
    shape: Shape,
    bytes: Vec<u8>,
    /// For each event its order.
    orders: Vec<u32>,
    /// For each event what it pays, in cents; 0 where it places its order.
    paid_cents: Vec<u32>,
}

/// One source partition's share of a load: every event of the orders that fall to it, in order.
pub struct Lane {
    /// Numbers of events, those that place orders first.
    pub events: Vec<u32>,
    /// How many of them place an order.
    pub opening: usize,
}

/// What the state must add up to after a run. Two consumers that end here did the same work.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Orders.
    pub orders: i64,
    /// Sum of what was paid.
    pub paid_cents: i64,
    /// Sum of the orders' versions: one an event.
    pub versions: i64,
}

impl Load {
    /// Generates a load.
    pub fn generate(shape: Shape) -> Self {
        let mut random = SmallRng::seed_from_u64(shape.seed);
        let events = shape.orders as usize + shape.payments as usize;
        let mut load = Self {
            shape,
            bytes: Vec::with_capacity(events * EVENT_BYTES),
            orders: Vec::with_capacity(events),
            paid_cents: Vec::with_capacity(events),
        };
        let mut text = String::with_capacity(EVENT_BYTES);
        for number in 0..events {
            let placed = number < shape.orders as usize;
            let order = if placed {
                number as u32
            } else {
                random.random_range(0..shape.orders)
            };
            let cents = if placed {
                0
            } else {
                random.random_range(1..500)
            };
            write_event(&mut text, shape, order, cents, random.random());
            load.bytes.extend_from_slice(text.as_bytes());
            load.orders.push(order);
            load.paid_cents.push(cents);
        }
        load
    }

    /// What was asked for.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// One event's JSON.
    pub fn event(&self, number: u32) -> &[u8] {
        let start = number as usize * EVENT_BYTES;
        self.bytes
            .get(start..start + EVENT_BYTES)
            .unwrap_or_default()
    }

    /// The tenants' names, the tenant of order `n` at `n % tenants`.
    pub fn tenants(&self) -> Vec<String> {
        (0..self.shape.tenants).map(tenant_name).collect()
    }

    /// Spreads every order and the first `payments` over `count` source partitions, by order.
    pub fn lanes(&self, count: usize, payments: u32) -> Vec<Lane> {
        let empty = || Lane {
            events: Vec::new(),
            opening: 0,
        };
        let mut lanes: Vec<Lane> = std::iter::repeat_with(empty).take(count).collect();
        for (number, order) in self.orders.iter().take(self.taken(payments)).enumerate() {
            // Tenants go round by order too: dividing them out first gives every lane every tenant.
            let lane = (*order / self.shape.tenants) as usize % count;
            if let Some(lane) = lanes.get_mut(lane) {
                lane.events.push(number as u32);
                lane.opening += usize::from(number < self.shape.orders as usize);
            }
        }
        lanes
    }

    /// What the state adds up to once the first `payments` took effect.
    pub fn totals(&self, payments: u32) -> Totals {
        let events = self.taken(payments);
        Totals {
            orders: i64::from(self.shape.orders),
            paid_cents: self
                .paid_cents
                .iter()
                .take(events)
                .map(|cents| i64::from(*cents))
                .sum(),
            versions: events as i64,
        }
    }

    fn taken(&self, payments: u32) -> usize {
        self.shape.orders as usize + payments.min(self.shape.payments) as usize
    }
}

impl Lane {
    /// Places in `events` of the opening, which is not timed.
    pub fn opening(&self) -> Range<usize> {
        0..self.opening
    }

    /// Places in `events` of the payments, which are.
    pub fn payments(&self) -> Range<usize> {
        self.opening..self.events.len()
    }
}

fn tenant_name(number: u32) -> String {
    format!("shop-{number:03}")
}

fn write_event(text: &mut String, shape: Shape, order: u32, cents: u32, id: u128) {
    text.clear();
    let hex = format!("{id:032x}");
    let part = |range: Range<usize>| hex.get(range).unwrap_or_default();
    let (kind, field, amount) = if cents == 0 {
        ("order.placed", "total_cents", ORDER_TOTAL_CENTS)
    } else {
        ("order.paid", "amount_cents", i64::from(cents))
    };
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "{{\"specversion\":\"1.0\",\"id\":\"{}-{}-{}-{}-{}\",\"source\":\"/checkout\",\
         \"type\":\"{kind}\",\"subject\":\"order-{order:08}\",\"time\":\"2026-11-22T06:17:00Z\",\
         \"tenantid\":\"{}\",\"data\":{{\"{field}\":{amount},\"currency\":\"EUR\",\"note\":\"",
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
        tenant_name(order % shape.tenants),
    );
    let closing = "\"}}";
    let mut filler = "thank you for shopping with us ".chars().cycle();
    while text.len() + closing.len() < EVENT_BYTES {
        text.extend(filler.next());
    }
    text.push_str(closing);
    assert_eq!(text.len(), EVENT_BYTES, "every event has the same size");
}
