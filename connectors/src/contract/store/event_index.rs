//! The index of events: follows the log by upkeep, says how far, and knows a tenant's own events alone.

use tidegate_engine::event::{CorrelationId, EventId};
use tidegate_engine::position::RecordPosition;
use tidegate_engine::store::{EventLookup, StateStore};

use super::retention::upkeep_with;
use super::{StoreUnderTest, begin, committed, days, patiently, upkeep_at};
use crate::contract::batch::{Entry, Writer, source_partition, tenant};

/// Positions as people write them.
async fn found(
    store: &dyn StateStore,
    name: &str,
    wanted: &EventLookup,
    limit: u32,
) -> Vec<String> {
    behind(store, name, wanted, None, limit).await
}

async fn behind(
    store: &dyn StateStore,
    name: &str,
    wanted: &EventLookup,
    after: Option<&RecordPosition>,
    limit: u32,
) -> Vec<String> {
    let tenant = tenant(name);
    let positions = store.event_positions(&tenant, wanted, after, limit);
    let positions = positions.await.unwrap();
    positions.iter().map(ToString::to_string).collect()
}

fn id(text: &str) -> EventLookup {
    EventLookup::Id(EventId::new(text).unwrap())
}

fn correlation(text: &str) -> EventLookup {
    EventLookup::Correlation(CorrelationId::new(text).unwrap())
}

/// Two rounds of events in two source partitions, each caught up with by one upkeep.
async fn fill(store: &dyn StateStore) {
    let hostile = "o'1\" -- \\u0041 ü\u{1f980} %_";
    let mut writers = Vec::new();
    for partition in 0..2 {
        let place = source_partition("orders", partition);
        writers.push(Writer::claim(store, &place, "a", begin()).await.unwrap());
    }
    for round in 0..2 {
        for writer in &mut writers {
            let entry = |name: &str, key: &str| Entry::new(name, key).correlation("c");
            let place = writer.checkpoint.source_partition.partition;
            let entries = [
                entry("acme", &format!("{place}-{round}")),
                entry("acme", &format!("r{place}-{round}")).stream("returns"),
                Entry::new("acme", &format!("{hostile}{place}-{round}")),
                entry("bolt", &format!("{place}-{round}")),
            ];
            committed(store, writer, &entries).await;
        }
        let done = patiently(|| store.upkeep(upkeep_at(begin()))).await;
        assert_eq!(done.index_lag_records, Some(0));
        for (key, position) in [
            (
                format!("0-{round}"),
                format!("orders:orders/0:{}", 2 * round),
            ),
            (format!("r1-{round}"), format!("returns:orders/1:{round}")),
            (
                format!("{hostile}1-{round}"),
                format!("orders:orders/1:{}", 2 * round + 1),
            ),
        ] {
            let positions = found(store, "acme", &id(&key), 10).await;
            assert_eq!(positions, [position], "{key}");
        }
    }
}

pub(super) async fn the_index_of_events_follows_the_log(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let none: [&str; 0] = [];
    patiently(|| store.upkeep(upkeep_at(begin()))).await;
    assert_eq!(found(store, "acme", &id("0-0"), 10).await, none);
    fill(store).await;
    // Of one correlation in order, of one tenant, and not more than asked for.
    let of_acme = [
        "orders:orders/0:0",
        "orders:orders/0:2",
        "orders:orders/1:0",
        "orders:orders/1:2",
        "returns:orders/0:0",
        "returns:orders/0:1",
        "returns:orders/1:0",
        "returns:orders/1:1",
    ];
    assert_eq!(found(store, "acme", &correlation("c"), 10).await, of_acme);
    let first = found(store, "acme", &correlation("c"), 3).await;
    assert_eq!(first, of_acme[..3]);
    for (index, after) in of_acme.iter().enumerate() {
        let after = after.parse().unwrap();
        let rest = behind(store, "acme", &correlation("c"), Some(&after), 10).await;
        assert_eq!(rest, of_acme[index + 1..]);
    }
    let gap = "orders:orders/0:1".parse().unwrap();
    let rest = behind(store, "acme", &correlation("c"), Some(&gap), 2).await;
    assert_eq!(rest, of_acme[1..3]);
    let of_bolt = found(store, "bolt", &correlation("c"), 10).await;
    assert_eq!(of_bolt.len(), 4);
    assert_eq!(found(store, "bolt", &id("r0-0"), 10).await, none);
    assert_eq!(found(store, "nobody", &correlation("c"), 10).await, none);
    // What retention drops is dropped from the index too, and nothing is behind for its sake.
    let done = upkeep_with(store, days(begin(), 400), 30).await;
    assert!(done.segments_dropped > 0);
    assert_eq!(done.index_lag_records, Some(0));
    assert_eq!(found(store, "acme", &correlation("c"), 10).await, none);
}
