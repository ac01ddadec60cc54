//! Every bus keeps the promises of the one bus contract. Run with `--nocapture` to see each case, and
//! what a bus skips and why; `TIDEGATE_CONTRACT_CASE=part-of-a-name` runs a few.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::contract::bus::{Append, BusCapabilities, BusUnderTest, run_all};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::position::{Incarnation, SourceName};

/// A broker with those records, each `hole` offsets behind the one before.
fn broker(records: &[Vec<Bytes>], hole: u64) -> MemoryBusHandle {
    let handle = MemoryBusHandle::new(SourceName::new("contract").unwrap());
    for (partition, records) in (0..).zip(records) {
        handle.create_partition(partition, Incarnation::new("first").unwrap());
        for record in records {
            handle.append_after_hole(partition, hole, Timestamp(0), record.clone());
        }
    }
    handle
}

fn memory(records: &[Vec<Bytes>], hole: u64, ends: bool) -> BusUnderTest {
    let handle = broker(records, hole);
    let bus = handle.consumer();
    for partition in (0..).take(records.len()) {
        handle.assign(partition, bus.id());
        if ends {
            handle.finish(partition);
        }
    }
    let append: Append = Arc::new(move |partition, payload| {
        handle.append_after_hole(partition, hole, Timestamp(0), payload);
        Box::pin(async {})
    });
    BusUnderTest {
        bus: Arc::new(bus),
        capabilities: BusCapabilities { ends, grows: !ends },
        append,
        keep: Box::new(()),
    }
}

#[tokio::test]
async fn the_memory_bus_keeps_the_contract() {
    for hole in [0, 2] {
        for ends in [false, true] {
            let name = format!("memory, holes of {hole}, ends: {ends}");
            run_all(&name, async |records| memory(&records, hole, ends)).await;
        }
    }
}
