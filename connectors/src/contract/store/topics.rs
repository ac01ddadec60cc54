//! The topics of sources: numbers that stay, and how far topics have grown.

use std::sync::Arc;

use futures_util::future::join_all;
use tidegate_engine::position::SourceName;
use tidegate_engine::store::StateStore;
use tidegate_engine::topics::{FoundTopic, SourceTopic, TopicsFound};

use super::{StoreUnderTest, patiently};

fn found(source: &str, topics: &[(&str, u32)]) -> TopicsFound {
    TopicsFound {
        source: SourceName::new(source).unwrap(),
        topics: topics
            .iter()
            .map(|(name, partitions)| FoundTopic {
                name: (*name).to_owned(),
                partitions: *partitions,
                by_pattern: name.contains('.'),
            })
            .collect(),
    }
}

async fn take_up(
    store: &dyn StateStore,
    source: &str,
    topics: &[(&str, u32)],
) -> Vec<(String, u32, Vec<u32>, bool)> {
    let found = found(source, topics);
    let known = patiently(|| store.source_topics(found.clone())).await;
    let shown = |it: SourceTopic| (it.name, it.number, it.partitions, it.came_later);
    known.into_iter().map(shown).collect()
}

fn topic(
    name: &str,
    number: u32,
    partitions: &[u32],
    came_later: bool,
) -> (String, u32, Vec<u32>, bool) {
    (name.to_owned(), number, partitions.to_vec(), came_later)
}

pub(super) async fn topics_keep_their_numbers_and_their_growth(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    assert_eq!(take_up(store, "shop", &[]).await, []);
    let (paid, sent) = (
        topic("paid", 0, &[4], false),
        topic("o.acme", 1, &[1], false),
    );
    let first = take_up(store, "shop", &[("paid", 4), ("o.acme", 1)]).await;
    assert_eq!(first, [paid.clone(), sent.clone()]);
    // Another order, one that is not there now, and fewer partitions change nothing.
    let listed = [("o.acme", 1), ("paid", 2)];
    assert_eq!(take_up(store, "shop", &listed).await, first);
    assert_eq!(take_up(store, "shop", &[]).await, first);
    let grown = [("o.bolt", 2), ("refunds", 3), ("paid", 6)];
    let then = [
        topic("paid", 0, &[4, 6], false),
        sent,
        topic("o.bolt", 2, &[2], true),
        topic("refunds", 3, &[3], false),
    ];
    assert_eq!(take_up(store, "shop", &grown).await, then);
    // Every source has numbers of its own.
    let other = [topic("paid", 0, &[4], false)];
    assert_eq!(take_up(store, "till", &[("paid", 4)]).await, other);
    assert_eq!(take_up(store, "shop", &[]).await, then);
}

pub(super) async fn whoever_finds_topics_at_once_gives_each_one_number(subject: StoreUnderTest) {
    let store: &Arc<dyn StateStore> = &subject.store;
    let names: Vec<String> = (0..8).map(|it| format!("t{it}")).collect();
    let nodes = (0..4).map(|node| {
        let mut topics: Vec<(&str, u32)> =
            names.iter().map(|name| (name.as_str(), 1 + node)).collect();
        topics.rotate_left(usize::try_from(node).unwrap());
        async move { take_up(store.as_ref(), "shop", &topics).await }
    });
    join_all(nodes).await;
    let known = take_up(store.as_ref(), "shop", &[]).await;
    let numbers: Vec<u32> = known.iter().map(|it| it.1).collect();
    assert_eq!(numbers, (0..8).collect::<Vec<u32>>());
    assert!(known.iter().all(|it| it.2.last() == Some(&4)));
    assert!(known.iter().all(|it| it.2.is_sorted()));
}
