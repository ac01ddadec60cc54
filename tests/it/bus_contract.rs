//! Every bus keeps the promises of the one bus contract. Run with `--nocapture` to see each case, and
//! what a bus skips and why; `TIDEGATE_CONTRACT_CASE=part-of-a-name` runs a few.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_connectors::bus::http::{HttpBus, IntakeLimits};
use tidegate_connectors::bus::memory::MemoryBusHandle;
use tidegate_connectors::contract::bus::{Append, BusCapabilities, BusUnderTest, run_all};
use tidegate_engine::bus::{EventBus as _, Intake as _};
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
        capabilities: BusCapabilities {
            ends,
            grows: !ends,
            keeps: true,
        },
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

/// Hands records in until it is dropped.
struct Senders(tokio::task::JoinHandle<()>);

impl Drop for Senders {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A bus whose requests come as soon as a slot takes them: there is nothing in it before.
fn http(records: Vec<Vec<Bytes>>) -> BusUnderTest {
    let limits = IntakeLimits {
        events_max: 1_000,
        bytes_max: 10_000_000,
    };
    let bus = Arc::new(HttpBus::new(SourceName::new("contract").unwrap(), limits));
    let intake = bus.intake();
    let slots = 0..u32::try_from(records.len()).unwrap();
    slots.clone().for_each(|slot| intake.assign(slot));
    let (asked, sent) = (bus.clone(), intake.clone());
    let senders = tokio::spawn(async move {
        let mut waiting: Vec<(u32, Vec<Bytes>)> = slots.zip(records).collect();
        while !waiting.is_empty() {
            for (slot, records) in std::mem::take(&mut waiting) {
                // An end is told of a slot that takes events. It takes these, for it has the fewest.
                match asked.end_offset(slot).await.unwrap() {
                    Some(_) => drop(sent.offer(records).unwrap()),
                    None => waiting.push((slot, records)),
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
    let append: Append = Arc::new(move |_, payload| {
        drop(intake.offer(vec![payload]).unwrap());
        Box::pin(async {})
    });
    BusUnderTest {
        bus,
        capabilities: BusCapabilities {
            ends: false,
            grows: true,
            keeps: false,
        },
        append,
        keep: Box::new(Senders(senders)),
    }
}

#[tokio::test]
async fn the_http_bus_keeps_the_contract_as_far_as_its_senders_keep_the_records() {
    run_all("http", async |records| http(records)).await;
}
