//! Permits: the right to have one more event, and its bytes, unsettled. Taken before a message exists
//! and given back at settlement, because a mailbox bounds little (`do_send` ignores its capacity).
//! A dropped permit returns its bytes; it never settles an offset.

use std::sync::Arc;

use tidegate_engine::planted::{Bug, active};
use tokio::sync::Semaphore;

/// A stock of events and bytes.
#[derive(Debug)]
pub struct Stock {
    events: Semaphore,
    events_max: usize,
    bytes: Semaphore,
    bytes_max: usize,
}

impl Stock {
    /// A full stock.
    pub fn new(events_max: usize, bytes_max: usize) -> Arc<Self> {
        // Semaphores count in u32 steps; 4 GiB unsettled in one node is beyond every default by far.
        let bytes_max = bytes_max.min(u32::MAX as usize);
        let events_max = events_max.min(u32::MAX as usize);
        Arc::new(Self {
            events: Semaphore::new(events_max),
            events_max,
            bytes: Semaphore::new(bytes_max),
            bytes_max,
        })
    }

    /// Waits for events and bytes. More than the whole stock is cut to the stock: one huge event goes
    /// through alone instead of never.
    pub async fn take(self: &Arc<Self>, events: usize, bytes: usize) -> Allotment {
        let events = events.min(self.events_max);
        let bytes = bytes.min(self.bytes_max);
        let mut allotment = Allotment {
            stock: self.clone(),
            events: 0,
            bytes: 0,
        };
        // Each is recorded as soon as it is ours, so that a dropped wait gives it back. The
        // semaphores are never closed, so neither wait can fail.
        if let Ok(taken) = self.events.acquire_many(events as u32).await {
            taken.forget();
            allotment.events = events;
        }
        if let Ok(taken) = self.bytes.acquire_many(bytes as u32).await {
            taken.forget();
            allotment.bytes = bytes;
        }
        allotment
    }

    /// Adds to an allotment until it holds so many bytes. A half of the stock is the most that is added:
    /// the other half may be with polls that wait, which give nothing back.
    pub async fn raise(self: &Arc<Self>, allotment: &mut Allotment, bytes: usize) {
        let missing = bytes.saturating_sub(allotment.bytes);
        if missing > 0 {
            let mut more = self.take(0, missing.min(self.bytes_max / 2)).await;
            allotment.absorb(&mut more);
        }
    }

    fn give_back(&self, share: Share) {
        if share.events > 0 {
            self.events.add_permits(share.events);
        }
        if share.bytes > 0 {
            self.bytes.add_permits(share.bytes);
        }
    }

    /// True when so much is not there now.
    pub fn is_short_of(&self, events: usize, bytes: usize) -> bool {
        self.events.available_permits() < events.min(self.events_max)
            || self.bytes.available_permits() < bytes.min(self.bytes_max)
    }

    /// Events and bytes of the whole stock.
    pub fn limits(&self) -> (usize, usize) {
        (self.events_max, self.bytes_max)
    }

    /// Events and bytes that are taken.
    pub fn in_use(&self) -> (usize, usize) {
        (
            self.events_max - self.events.available_permits(),
            self.bytes_max - self.bytes.available_permits(),
        )
    }
}

/// A part of a stock; given back when dropped.
#[derive(Debug)]
pub struct Allotment {
    stock: Arc<Stock>,
    events: usize,
    bytes: usize,
}

impl Allotment {
    /// Takes a share out, at most what is left. The caller gives it back.
    fn take_share(&mut self, bytes: usize) -> Share {
        let share = Share {
            events: self.events.min(1),
            bytes: self.bytes.min(bytes),
        };
        self.events -= share.events;
        self.bytes -= share.bytes;
        share
    }

    /// Takes another allotment of the same stock in, so that both are given back in one step.
    fn absorb(&mut self, other: &mut Allotment) {
        self.events += std::mem::take(&mut other.events);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Allotment {
    fn drop(&mut self) {
        let (events, bytes) = (self.events, self.bytes);
        self.stock.give_back(Share { events, bytes });
    }
}

/// Events and bytes that are taken from a stock.
#[derive(Clone, Copy, Default, Debug)]
struct Share {
    events: usize,
    bytes: usize,
}

/// The stocks of the events of one message.
#[derive(Debug)]
struct Stocks {
    node: Arc<Stock>,
    tenant: Arc<Stock>,
}

/// What one event holds until it is settled: its share of the node and of its tenant's lane.
#[derive(Debug)]
pub struct Permit {
    /// One for all events of a message: what every event of a node counted up and down would be a
    /// processor's cache line that is never its own.
    stocks: Arc<Stocks>,
    node: Share,
    tenant: Share,
}

impl Permit {
    /// A permit for each event of a message, of so many bytes each, out of what was taken for them.
    pub fn each(
        node: &mut Allotment,
        mut tenant: Allotment,
        bytes: impl IntoIterator<Item = usize>,
    ) -> Vec<Permit> {
        let stocks = Arc::new(Stocks {
            node: node.stock.clone(),
            tenant: tenant.stock.clone(),
        });
        let one = |bytes| Permit {
            stocks: stocks.clone(),
            node: node.take_share(bytes),
            tenant: tenant.take_share(bytes),
        };
        bytes.into_iter().map(one).collect()
    }

    /// Gives many permits of one tenant back in one step.
    pub fn release_all(mut permits: Vec<Permit>) {
        if active(Bug::DroppedPermit)
            && let Some(lost) = permits.pop()
        {
            std::mem::forget(lost);
        }
        let Some(mut sum) = permits.pop() else { return };
        for permit in &mut permits {
            sum.node.absorb(std::mem::take(&mut permit.node));
            sum.tenant.absorb(std::mem::take(&mut permit.tenant));
        }
    }
}

impl Share {
    fn absorb(&mut self, other: Share) {
        self.events += other.events;
        self.bytes += other.bytes;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.stocks.node.give_back(self.node);
        self.stocks.tenant.give_back(self.tenant);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Permit, Stock};

    #[actix::test]
    async fn what_is_dropped_is_given_back_and_a_dropped_wait_leaks_nothing() {
        let (node, lane) = (Stock::new(10, 1_000), Stock::new(4, 1_000));
        let mut allowance = node.take(10, 1_000).await;
        let tenant = lane.take(4, 400).await;
        let permits = Permit::each(&mut allowance, tenant, [100; 4]);
        assert_eq!((node.in_use(), lane.in_use()), ((10, 1_000), (4, 400)));
        drop(allowance);
        assert_eq!(node.in_use(), (4, 400));
        // Enough events, not enough bytes: the wait holds events when it is dropped.
        let wait = tokio::time::timeout(Duration::from_millis(5), node.take(6, 1_000)).await;
        assert!(wait.is_err());
        assert_eq!(node.in_use(), (4, 400));
        Permit::release_all(permits);
        assert_eq!((node.in_use(), lane.in_use()), ((0, 0), (0, 0)));
    }

    #[actix::test]
    async fn a_delivery_larger_than_its_poll_is_paid_for_from_the_half_that_polls_leave() {
        let stock = Stock::new(10, 100);
        let polls = [stock.take(1, 25).await, stock.take(1, 25).await];
        let [mut first, mut second] = polls;
        stock.raise(&mut first, 20).await;
        assert_eq!(stock.in_use(), (2, 50), "it fits");
        stock.raise(&mut first, 60).await;
        assert_eq!(stock.in_use(), (2, 85));
        let wait = Duration::from_millis(5);
        let full = tokio::time::timeout(wait, stock.raise(&mut second, 60)).await;
        assert!(full.is_err(), "not more than there is");
        drop(first);
        stock.raise(&mut second, 5_000).await;
        assert_eq!(
            stock.in_use(),
            (1, 75),
            "the largest waits for no idle poll"
        );
    }

    #[actix::test]
    async fn an_event_larger_than_the_stock_goes_alone() {
        let stock = Stock::new(10, 100);
        let held = stock.take(1, 5_000).await;
        assert_eq!(stock.in_use(), (1, 100));
        drop(held);
    }
}
