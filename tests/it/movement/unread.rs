//! A partition that is assigned and not read is behind all the same, and its node says how far.

use std::time::Duration;

use tidegate_actors::node::UnreadPartition;
use tidegate_actors::{NodeHandle, NodeOptions};
use tidegate_connectors::store::memory::{AtStart, StoreOperation};
use tidegate_engine::position::{Incarnation, Offset};

use super::{SECOND, Scene, Script, alarm, on_virtual_time, unexpected};

/// The one that is not read.
async fn unread(node: &NodeHandle) -> UnreadPartition {
    let mut sources = node.snapshot().await.sources;
    let source = sources.remove(0);
    assert_eq!(source.unread.len(), 1, "{:?}", source.unread);
    source.unread[0].clone()
}

#[test]
fn r41_what_comes_to_a_stopped_partition_counts_as_behind() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, count| {
                let fails = call.operation == StoreOperation::Commit && count > 1;
                let start = if fails {
                    unexpected()
                } else {
                    AtStart::Proceed
                };
                (Duration::ZERO, start)
            }),
            ..Script::default()
        };
        let scene = Scene::new(2, script);
        scene.append_many(0, 3);
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        scene.settled_within(0, 5 * SECOND).await;
        assert!(node.snapshot().await.sources[0].unread.is_empty());
        scene.append(0, "t", "stops", "s1");
        tokio::time::sleep(10 * SECOND).await;
        assert!(alarm(&node).await.is_some());
        let first = unread(&node).await;
        assert_eq!((first.low_watermark, first.end), (Offset(3), Offset(4)));
        assert!(first.since.is_some());
        for n in 0..5 {
            scene.append(0, "t", &format!("later-{n}"), "s1");
        }
        tokio::time::sleep(10 * SECOND).await;
        let then = unread(&node).await;
        assert_eq!((then.low_watermark, then.end), (Offset(3), Offset(9)));
        assert_eq!(then.since, first.since, "it waits since then");
    });
}

#[test]
fn r41_an_added_partition_that_waits_for_its_turn_is_behind_with_all_it_has() {
    on_virtual_time(async {
        let scene = Scene::new(1, Script::default());
        scene.append_many(0, 5);
        let one = Incarnation::new("one").unwrap();
        scene.broker.add_partition(1, one, &[0]);
        scene.append_many(1, 2);
        let (node, id) = scene.start(NodeOptions::default(), &[1]);
        tokio::time::sleep(10 * SECOND).await;
        let waiting = unread(&node).await;
        assert_eq!(waiting.source_partition.partition, 1);
        assert_eq!((waiting.low_watermark, waiting.end), (Offset(0), Offset(2)));
        let source = &node.snapshot().await.sources[0];
        assert_eq!((source.claiming, source.partitions.len()), (1, 0));
        scene.broker.assign(0, id);
        scene.settled_within(1, 10 * SECOND).await;
        let source = &node.snapshot().await.sources[0];
        assert_eq!((source.claiming, source.unread.len()), (0, 0));
    });
}
