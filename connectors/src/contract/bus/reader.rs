//! Reads a bus the way the source task does, keeps what was told, and checks what holds for every
//! receive: limits, order of offsets, nothing of a partition that was not sought.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tidegate_engine::bus::{BusError, BusEvent, Delivery, EventBus, ReceiveLimit};
use tidegate_engine::position::Offset;

/// Long enough for a consumer group to form.
const NEWS_WITHIN: Duration = Duration::from_secs(30);

/// Long enough to see that nothing comes, short enough to wait for in many cases.
const QUIET_FOR: Duration = Duration::from_millis(300);

/// A limit that no case's records reach.
pub(super) const WIDE: ReceiveLimit = ReceiveLimit {
    events_max: 1_000,
    bytes_max: 1_000_000,
};

/// What was told by a bus so far.
pub(super) struct Reader {
    pub(super) bus: Arc<dyn EventBus>,
    pub(super) assigned: Vec<u32>,
    /// Deliveries since the partition's last seek.
    pub(super) delivered: BTreeMap<u32, Vec<Delivery>>,
    /// Ends since the partition's last seek.
    pub(super) ended: BTreeMap<u32, Vec<Offset>>,
    sought: BTreeSet<u32>,
}

impl Reader {
    /// Of nothing yet.
    pub(super) fn new(bus: &Arc<dyn EventBus>) -> Self {
        Self {
            bus: Arc::clone(bus),
            assigned: Vec::new(),
            delivered: BTreeMap::new(),
            ended: BTreeMap::new(),
            sought: BTreeSet::new(),
        }
    }

    /// Receives until so many partitions are assigned.
    pub(super) async fn assigned(bus: &Arc<dyn EventBus>, partitions: usize) -> Self {
        let mut reader = Self::new(bus);
        while reader.assigned.len() < partitions {
            reader.step(WIDE).await;
        }
        reader
    }

    /// Seeks, and forgets what was delivered of the partition before.
    pub(super) async fn seek(&mut self, partition: u32, offset: Offset) {
        self.bus.seek(partition, offset).await.unwrap();
        self.sought.insert(partition);
        self.delivered.insert(partition, Vec::new());
        self.ended.insert(partition, Vec::new());
    }

    /// Seeks to the first record there is.
    pub(super) async fn seek_earliest(&mut self, partition: u32) {
        let start = tidegate_engine::bus::Start::Earliest;
        let offset = self.bus.start_offset(partition, start).await.unwrap();
        self.seek(partition, offset).await;
    }

    /// One receive; how many records it brought.
    pub(super) async fn step(&mut self, limit: ReceiveLimit) -> usize {
        match self.try_step(limit).await {
            Ok(records) => records,
            Err(error) => panic!("expected news, found: {error}"),
        }
    }

    /// One receive that may fail.
    pub(super) async fn try_step(&mut self, limit: ReceiveLimit) -> Result<usize, BusError> {
        let received = tokio::time::timeout(NEWS_WITHIN, self.bus.receive(limit));
        let events = received.await.expect("news within 30 s")?;
        Ok(self.take_news(events, limit))
    }

    /// One receive that is dropped when it has nothing after so many polls; true when it was.
    pub(super) async fn step_within(&mut self, limit: ReceiveLimit, polls: u32) -> bool {
        let bus = Arc::clone(&self.bus);
        let mut receive = bus.receive(limit);
        for _ in 0..polls {
            let polled =
                std::future::poll_fn(|context| Poll::Ready(receive.as_mut().poll(context)));
            if let Poll::Ready(events) = polled.await {
                self.take_news(events.unwrap(), limit);
                return false;
            }
            tokio::task::yield_now().await;
        }
        true
    }

    fn take_news(&mut self, events: Vec<BusEvent>, limit: ReceiveLimit) -> usize {
        assert!(!events.is_empty(), "a receive that returns has news");
        let mut sizes = Vec::new();
        for event in events {
            match event {
                BusEvent::Assigned { partition, .. } => self.assigned.push(partition),
                BusEvent::Revoked { partition } | BusEvent::Lost { partition } => {
                    panic!("partition {partition} went away")
                }
                BusEvent::Delivered {
                    partition,
                    deliveries,
                } => {
                    sizes.extend(deliveries.iter().map(|it| it.payload.len()));
                    self.take(partition, deliveries);
                }
                BusEvent::Ended { partition, end } => {
                    assert!(self.sought.contains(&partition), "ended before its seek");
                    self.ended.entry(partition).or_default().push(end);
                }
            }
        }
        assert!(
            sizes.len() <= limit.events_max,
            "more events than asked for"
        );
        let bytes: usize = sizes.iter().sum();
        assert!(
            bytes <= limit.bytes_max || sizes.len() == 1,
            "{bytes} bytes in {} records, at most {} were asked for",
            sizes.len(),
            limit.bytes_max
        );
        sizes.len()
    }

    fn take(&mut self, partition: u32, deliveries: Vec<Delivery>) {
        assert!(
            self.sought.contains(&partition),
            "partition {partition} was delivered before its seek"
        );
        assert!(!deliveries.is_empty(), "a delivery of nothing");
        let seen = self.delivered.entry(partition).or_default();
        for delivery in deliveries {
            assert!(delivery.offset < delivery.next, "{delivery:?}");
            if let Some(last) = seen.last() {
                assert!(last.next <= delivery.offset, "{last:?}, then {delivery:?}");
            }
            seen.push(delivery);
        }
    }

    /// Receives until so many records of a partition are there since its seek, and returns them.
    pub(super) async fn read(&mut self, partition: u32, records: usize) -> Vec<Delivery> {
        while self.delivered.get(&partition).map_or(0, Vec::len) < records {
            self.step(WIDE).await;
        }
        let found = self.delivered[&partition].clone();
        assert_eq!(found.len(), records, "more records than were written");
        found
    }

    /// Sees that nothing comes any more. The last thing a case does: it drops a receive halfway.
    pub(super) async fn stays_quiet(self) {
        let received = tokio::time::timeout(QUIET_FOR, self.bus.receive(WIDE)).await;
        if let Ok(news) = received {
            panic!("expected nothing more, found {news:?}");
        }
    }
}
