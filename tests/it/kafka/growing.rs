//! Topics that change under a source: partitions are added, others come under a pattern or are made anew.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_connectors::bus::kafka::{KafkaAssignment, KafkaBus, KafkaOptions, KafkaView};
use tidegate_connectors::contract::kafka::KafkaClient;
use tidegate_connectors::store::memory::MemoryStore;
use tidegate_engine::bus::{BusEvent, EventBus as _, Place, SourceView as _, Start};
use tidegate_engine::position::Offset;
use tidegate_engine::store::StateStore;
use tidegate_engine::topics::{SourceTopic, TenantOfTopic, TopicsFound};
use tokio::runtime::Handle;

use super::node::{Desk, placed};
use super::{Stage, assigned, name, news};

/// How soon a node sees what was added.
const SOON: &str = "librdkafka: { topic.metadata.refresh.interval.ms: 500 }";

fn bus(options: KafkaOptions, store: &MemoryStore) -> KafkaBus {
    KafkaBus::open(options, Arc::new(store.clone()), &Handle::current()).unwrap()
}

async fn known(store: &MemoryStore, options: &KafkaOptions) -> Vec<SourceTopic> {
    let nothing_new = TopicsFound {
        source: options.source.clone(),
        topics: Vec::new(),
    };
    store.source_topics(nothing_new).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn added_partitions_come_behind_the_older_ones_and_begin_at_their_beginning() {
    let Some(stage) = Stage::set("added", 3).await else {
        return;
    };
    let store = MemoryStore::new();
    let first = bus(stage.options("node-a"), &store);
    assigned(&first, 3).await;
    drop(first);
    stage.write(0, "one").await;
    let marked = [Bytes::from_static(b"two")];
    let (client, topic) = (&stage.client, &stage.topic);
    client.transaction(topic, 1, &marked, true).await;
    client.transaction(topic, 1, &marked, false).await;
    client.grow_topic(topic, 5).await;
    // A client of before does not know them yet.
    let client = KafkaClient::new(&stage.brokers);
    client.write(topic, 4, Bytes::from_static(b"three")).await;
    let second = bus(stage.options("node-b"), &store);
    assigned(&second, 5).await;
    // The record, the mark behind it, the record that never was, and its mark.
    let places = [(0, 1), (1, 4)].map(|(partition, offset)| Place {
        partition,
        offset: Offset(offset),
    });
    for added in [3, 4] {
        assert_eq!(second.comes_behind(added).await.unwrap(), places);
    }
    for older in 0..3 {
        assert_eq!(second.comes_behind(older).await.unwrap(), []);
    }
    for (partition, start) in [(0, 1), (2, 0), (3, 0), (4, 0)] {
        let at = second.start_offset(partition, Start::Latest).await.unwrap();
        assert_eq!(at, Offset(start), "partition {partition}");
    }
    for (from, place, is_empty) in [
        (None, places[0], false),
        (Some(Offset(0)), places[0], false),
        (Some(Offset(1)), places[0], true),
        // Behind the last record stand marks alone.
        (Some(Offset(0)), places[1], false),
        (Some(Offset(1)), places[1], true),
    ] {
        let found = second.is_empty_to(from, place).await.unwrap();
        assert_eq!(found, is_empty, "{from:?} {place:?}");
    }
    let kept = known(&store, &stage.options("any")).await;
    assert_eq!(kept[0].partitions, [3, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_keeps_its_number_wherever_it_is_listed() {
    let Some(stage) = Stage::set("numbered", 1).await else {
        return;
    };
    let other = name("numbered");
    stage.client.make_topic(&other, 2, &[]).await;
    let (store, mut options) = (MemoryStore::new(), stage.options("node-a"));
    let first = bus(options.clone(), &store);
    assigned(&first, 1).await;
    drop(first);
    options.topics.insert(0, other.clone());
    let view = KafkaView::open(
        options.clone(),
        known(&store, &options).await,
        &Handle::current(),
    )
    .unwrap();
    let seen = view.partitions().await.unwrap();
    let seen: Vec<(u32, String)> = seen.into_iter().map(|it| (it.partition, it.name)).collect();
    let expected = [
        (65_536, format!("{other}/0")),
        (65_537, format!("{other}/1")),
        (0, format!("{}/0", stage.topic)),
    ];
    assert_eq!(seen, expected);
    options.node = "node-b".to_owned();
    let second = bus(options, &store);
    let all = assigned(&second, 3).await;
    for ((number, incarnation), topic) in all.iter().zip([&stage.topic, &other, &other]) {
        let is_its = incarnation.as_str().ends_with(&format!("/{topic}"));
        assert!(is_its, "{number} {incarnation}");
    }
}

#[tokio::test]
async fn a_topic_that_grows_is_read_on_in_its_new_partitions_under_the_running_node() {
    let Some(stage) = Stage::set("growing", 1).await else {
        return;
    };
    let topics = format!("topics: [{}], {SOON}", stage.topic);
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: latest", &topics).await else {
        return;
    };
    stage.write(0, &placed("left-out", "left-out")).await;
    let node = desk.start();
    desk.logged("claimed").await;
    stage.write(0, &placed("before", "before")).await;
    desk.becomes("before").await;
    stage.client.grow_topic(&stage.topic, 3).await;
    let client = KafkaClient::new(&stage.brokers);
    let write = async |partition, order: &str| {
        let payload = Bytes::from(placed(order, order));
        client.write(&stage.topic, partition, payload).await;
    };
    // Before any node has it: what begins at its end would not read this.
    write(2, "early").await;
    assert_eq!(desk.becomes("early").await["version"], 1);
    write(1, "later").await;
    assert_eq!(desk.becomes("later").await["version"], 1);
    desk.drained().await;
    node.stop();
    let (code, ..) = desk.asked(&["state", "get", "order", "left-out", "--tenant", "acme"]);
    assert_ne!(code, 0, "`start: latest` counts for what was there");
}

#[tokio::test]
async fn an_order_that_moved_to_an_added_partition_goes_on_in_order() {
    const BEHIND: usize = 5_000;
    let Some(stage) = Stage::set("moved", 1).await else {
        return;
    };
    let topics = format!("topics: [{}]", stage.topic);
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: earliest", &topics).await else {
        return;
    };
    stage.write(0, &placed("first", "first")).await;
    let node = desk.start();
    desk.drained().await;
    node.stop();
    let other = |number| Bytes::from(placed(&format!("n{number}"), "many"));
    let mut backlog: Vec<Bytes> = (0..BEHIND).map(other).collect();
    backlog.push(Bytes::from(placed("placed", "moved")));
    stage.client.write_all(&stage.topic, 0, backlog).await;
    stage.client.grow_topic(&stage.topic, 2).await;
    let paid = json!({
        "specversion": "1.0", "id": "paid", "source": "/shop", "type": "order.paid", "subject": "moved",
        "data": { "amount_cents": 1000 }
    });
    let client = KafkaClient::new(&stage.brokers);
    client
        .write(&stage.topic, 1, Bytes::from(paid.to_string()))
        .await;
    let node = desk.start();
    desk.drained().await;
    node.stop();
    let order = desk.order("acme", "moved");
    assert_eq!(
        (&order["status"], &order["version"]),
        (&json!("paid"), &json!(2))
    );
    let (code, _, said) = desk.asked(&["verify"]);
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn topics_that_are_made_later_are_read_under_a_pattern_each_as_its_tenants() {
    let Some(stage) = Stage::set("pattern", 1).await else {
        return;
    };
    let prefix = name("shop");
    let write = async |topic: &str| {
        let client = KafkaClient::new(&stage.brokers);
        client.make_topic(topic, 1, &[]).await;
        let payload = Bytes::from(placed("1", "same"));
        client.write(topic, 0, payload).await;
    };
    let of = |tenant: &str| format!("{prefix}.{tenant}");
    write(&of("acme")).await;
    let kafka = format!("topics: ['{prefix}.*'], tenant_of_topic: '{prefix}.{{tenant}}', {SOON}");
    let Some(desk) = Desk::set(&stage, "start: latest", &kafka).await else {
        return;
    };
    let node = desk.start();
    desk.logged("claimed").await;
    // What is written before any node has the topic is read too, and what is nobody's is left alone.
    write(&of("bolt")).await;
    write(&of("Nobody")).await;
    write(&format!("{prefix}-no")).await;
    let mut bolt = None;
    for _ in 0..120 {
        let (code, rows, _) = desk.asked(&["state", "get", "order", "same", "--tenant", "bolt"]);
        bolt = (code == 0).then_some(rows);
        if bolt.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    assert_eq!(bolt.expect("bolt has an order")[0]["version"], 1);
    desk.drained().await;
    let mut names: Vec<Value> = desk.lag().iter().map(|row| row["name"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(
        names,
        [of("acme"), of("bolt")].map(|it| json!(format!("{it}/0")))
    );
    desk.logged("a topic is not read").await;
    node.stop();
    let (code, ..) = desk.asked(&["state", "get", "order", "same", "--tenant", "acme"]);
    assert_ne!(code, 0, "`start: latest` counts for what was there");
}

#[tokio::test]
async fn a_topic_made_anew_under_the_running_node_stops_its_partition_and_nothing_is_skipped() {
    let Some(stage) = Stage::set("anew", 1).await else {
        return;
    };
    let topics = format!("topics: [{}], {SOON}", stage.topic);
    let Some(desk) = Desk::set(&stage, "tenant: acme\n    start: earliest", &topics).await else {
        return;
    };
    for number in 0..3 {
        let order = format!("old-{number}");
        stage.write(0, &placed(&order, &order)).await;
    }
    let node = desk.start();
    desk.drained().await;
    stage.client.delete_topic(&stage.topic).await;
    stage.client.make_topic(&stage.topic, 1, &[]).await;
    let client = KafkaClient::new(&stage.brokers);
    let payload = Bytes::from(placed("new", "new"));
    client.write(&stage.topic, 0, payload).await;
    desk.logged("no record stands at offset 2").await;
    let arguments = ["partitions", "resume", "shop/0", "--at", "earliest"];
    let (code, _, said) = desk.asked(&arguments);
    assert_eq!(code, 0, "{said}");
    assert_eq!(desk.becomes("new").await["version"], 1);
    desk.drained().await;
    node.stop();
    let (code, _, said) = desk.asked(&["verify"]);
    assert_eq!(code, 0, "{said}");
}

/// What is nobody's is assigned all the same, and has to be in nobody's way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_nobodys_does_not_keep_its_group_from_dealing_out() {
    let Some(stage) = Stage::set("nobodys", 1).await else {
        return;
    };
    let prefix = name("shop");
    // Of six the second gets three, so that at least two of them are somebody's.
    for (tenant, partitions) in [("acme", 5), ("Nobody", 1)] {
        let topic = format!("{prefix}.{tenant}");
        stage.client.make_topic(&topic, partitions, &[]).await;
    }
    let store = MemoryStore::new();
    let node = |name: &str| {
        let mut options = stage.options(name);
        options.topics = vec![format!("{prefix}.*")];
        let pattern = format!("{prefix}.{{tenant}}");
        options.tenant_of_topic = Some(TenantOfTopic::new(&pattern).unwrap());
        options.assignment = KafkaAssignment::Cooperative;
        bus(options, &store)
    };
    let first = node("node-a");
    assert_eq!(assigned(&first, 5).await.len(), 5);
    let second = node("node-b");
    let mut moved = 0;
    while moved < 2 {
        tokio::select! {
            biased;
            told = news(&first) => for event in told.unwrap() {
                if let BusEvent::Revoked { partition } = event {
                    first.release(partition).await.unwrap();
                }
            },
            told = news(&second) => moved += told.unwrap().len(),
        }
    }
}
