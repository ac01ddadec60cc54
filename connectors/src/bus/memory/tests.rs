//! What only the memory bus can do: scripted assignments and seeded faults. The seam's own promises
//! are in the contract suite.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidegate_engine::bus::{BusError, BusEvent, EventBus, ReceiveLimit};
use tidegate_engine::position::{Incarnation, Offset, SourceName};

use super::{BusFaults, MemoryBus, MemoryBusHandle, Redelivery};

const LIMIT: ReceiveLimit = ReceiveLimit {
    events_max: 100,
    bytes_max: 1_000_000,
};

fn broker(partitions: u32, records: u32) -> MemoryBusHandle {
    let handle = MemoryBusHandle::new(SourceName::new("orders").unwrap());
    for partition in 0..partitions {
        handle.create_partition(partition, Incarnation::new("first").unwrap());
        for record in 0..records {
            handle.append(partition, format!("{partition}.{record}"));
        }
    }
    handle
}

async fn offsets(bus: &MemoryBus) -> Vec<(u32, Vec<u64>)> {
    let events = bus.receive(LIMIT).await.unwrap();
    events
        .into_iter()
        .filter_map(|event| match event {
            BusEvent::Delivered {
                partition,
                deliveries,
            } => Some((partition, deliveries.iter().map(|it| it.offset.0).collect())),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_revoked_partition_goes_to_its_next_consumer_only_after_release() {
    let handle = broker(1, 3);
    let (old, new) = (handle.consumer(), handle.consumer());
    handle.assign(0, old.id());
    assert!(matches!(
        old.receive(LIMIT).await.unwrap()[..],
        [BusEvent::Assigned { partition: 0, .. }]
    ));
    old.seek(0, Offset(0)).await.unwrap();
    assert_eq!(offsets(&old).await, vec![(0, vec![0, 1, 2])]);
    handle.revoke(0, old.id(), Some(new.id()));
    handle.append(0, "later");
    assert_eq!(
        old.receive(LIMIT).await.unwrap(),
        vec![BusEvent::Revoked { partition: 0 }]
    );
    old.acknowledge(0, Offset(3)).await.unwrap();
    assert_eq!(handle.holders(0), vec![old.id()]);
    old.release(0).await.unwrap();
    assert_eq!(handle.holders(0), vec![new.id()]);
    assert_eq!(handle.acknowledged(0), vec![(old.id(), Offset(3))]);
    assert!(matches!(
        old.acknowledge(0, Offset(4)).await,
        Err(BusError::NotAssigned { .. })
    ));
    new.receive(LIMIT).await.unwrap();
    new.seek(0, Offset(3)).await.unwrap();
    assert_eq!(offsets(&new).await, vec![(0, vec![3])]);
}

#[tokio::test]
async fn a_zombie_and_its_successor_both_read_until_the_zombie_is_told() {
    let handle = broker(1, 1);
    let (zombie, successor) = (handle.consumer(), handle.consumer());
    for bus in [&zombie, &successor] {
        handle.assign(0, bus.id());
        bus.receive(LIMIT).await.unwrap();
        bus.seek(0, Offset(0)).await.unwrap();
        assert_eq!(offsets(bus).await, vec![(0, vec![0])]);
    }
    handle.lose(0, zombie.id());
    assert_eq!(
        zombie.receive(LIMIT).await.unwrap(),
        vec![BusEvent::Lost { partition: 0 }]
    );
    assert_eq!(handle.holders(0), vec![successor.id()]);
}

/// Goes back, repeats and swaps partitions, each in its turn.
struct Scripted(AtomicU32);

impl BusFaults for Scripted {
    fn choose(&self, readable: &[u32]) -> usize {
        readable.len() - 1
    }

    fn redeliver(&self, _partition: u32, position: Offset) -> Redelivery {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            2 => Redelivery::Rewind(Offset(0)),
            3 => Redelivery::Repeat(Offset(position.0 - 2)),
            _ => Redelivery::None,
        }
    }
}

#[tokio::test]
async fn faults_redeliver_and_reorder_but_never_within_a_partition() {
    let handle = broker(2, 3);
    let bus = handle.consumer_with_faults(Arc::new(Scripted(AtomicU32::new(0))));
    for partition in [0, 1] {
        handle.assign(partition, bus.id());
    }
    bus.receive(LIMIT).await.unwrap();
    for partition in [0, 1] {
        // Redelivery goes back no further than the last seek.
        bus.seek(partition, Offset(1)).await.unwrap();
    }
    assert_eq!(offsets(&bus).await, vec![(1, vec![1, 2]), (0, vec![1, 2])]);
    handle.append(0, "new");
    assert_eq!(offsets(&bus).await, vec![(0, vec![1, 2, 3])]);
    handle.append(0, "newer");
    assert_eq!(offsets(&bus).await, vec![(0, vec![2]), (0, vec![4])]);
}

#[tokio::test]
async fn a_truncated_or_recreated_partition_is_an_error_and_no_silent_skip() {
    let handle = broker(1, 5);
    let bus = handle.consumer();
    handle.assign(0, bus.id());
    bus.receive(LIMIT).await.unwrap();
    bus.seek(0, Offset(1)).await.unwrap();
    handle.truncate(0, Offset(3));
    assert!(matches!(
        bus.receive(LIMIT).await,
        Err(BusError::Unreadable { .. })
    ));
    assert!(bus.seek(0, Offset(2)).await.is_err());
    assert_eq!(bus.fingerprint_at(0, Offset(2)).await.unwrap(), None);
    bus.seek(0, Offset(3)).await.unwrap();
    assert_eq!(offsets(&bus).await, vec![(0, vec![3, 4])]);
    handle.create_partition(0, Incarnation::new("second").unwrap());
    assert!(matches!(
        bus.receive(LIMIT).await,
        Err(BusError::Unreadable { .. })
    ));
}
