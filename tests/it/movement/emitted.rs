//! What machines emit is taken up: once, in order, by whoever owns the source partition, before the source
//! counts as settled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::store::memory::{AtStart, StoreCall, StoreOperation};
use tidegate_engine::machine::{MachineDefinition, MachineSet, Processor};
use tidegate_engine::partition::PartitionLimits;
use tidegate_engine::position::Sequence;
use tidegate_engine::record::{Outcome, Record, RecordBody, split_segment};
use tidegate_engine::store::{StateStore, StoreError};
use tidegate_engine::tenant::TenantId;
use tidegate_engine::verify::{MachinesByHash, VerifyOptions, verify};

use super::{SECOND, Scene, Script, alarm, on_virtual_time, source_partition, until};

/// Each `tick` sets off three `tock`s, one after the other.
const STEPS: &str = "
apiVersion: tidegate/v1
kind: Machine
machine: steps
version: 1
key: event.subject
initial: counting
states: [counting]
data: { steps: { type: int, initial: 0 } }
events:
  tick:
    - from: [counting]
      set: { steps: state.steps + 1 }
      emit: [ { type: tock, data: { left: 2 } } ]
  tock:
    - from: [counting]
      when: event.data.left > 0
      set: { steps: state.steps + 1 }
      emit: [ { type: tock, data: { left: event.data.left - 1 } } ]
    - from: [counting]
      set: { steps: state.steps + 1 }
";

/// Another machine's entities are moved by them too.
const MIRROR: &str = "
apiVersion: tidegate/v1
kind: Machine
machine: mirror
version: 1
key: event.subject
initial: counting
states: [counting]
data: { tocks: { type: int, initial: 0 } }
events:
  tock:
    - from: [counting]
      set: { tocks: state.tocks + 1 }
";

/// Emitted events that one `tick` sets off.
const TOCKS: usize = 3;

fn machines() -> Vec<Arc<dyn Processor>> {
    [STEPS, MIRROR]
        .into_iter()
        .map(|text| MachineDefinition::load("test.yaml", text).unwrap() as _)
        .collect()
}

fn scene(script: Script) -> Scene {
    Scene {
        machines: MachineSet::new(machines()),
        ..Scene::new(1, script)
    }
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

/// The records of a tenant's stream `internal`.
async fn internal(scene: &Scene) -> Vec<Record> {
    let mut records = Vec::new();
    for head in scene.store.stream_partitions(&tenant()).await.unwrap() {
        let place = head.stream_partition;
        if place.stream.is_internal() {
            let segments = scene.store.segments(&place, Sequence(0), 10_000).await;
            for segment in segments.unwrap() {
                let entries = split_segment(&segment.body).unwrap();
                records.extend(entries.iter().map(|it| Record::read(it.get()).unwrap().0));
            }
        }
    }
    records
}

/// Everything that was emitted is in the log once, nothing waits, and the product's own `verify` agrees.
async fn check(scene: &Scene, ticks: usize) {
    let records = internal(scene).await;
    let ids: BTreeSet<String> = records
        .iter()
        .map(|record| match &record.body {
            RecordBody::Event(event) => event.id.to_string(),
            RecordBody::FollowUp { .. } => panic!("nobody decided anything"),
        })
        .collect();
    assert_eq!((records.len(), ids.len()), (TOCKS * ticks, TOCKS * ticks));
    let place = source_partition(0);
    let waits = scene.store.tenants_with_open_work(&place, None, 10).await;
    assert_eq!(waits.unwrap(), []);
    let counts = scene.checkpoint(0).await.unwrap().progress.counts;
    let tocks = (TOCKS * ticks) as u64;
    assert_eq!((counts.emitted, counts.looped_back), (tocks, tocks));
    assert_eq!(counts.admitted, ticks as u64);
    let by_hash = |machine: Arc<dyn Processor>| (machine.definition().hash, machine);
    let machines: MachinesByHash = machines().into_iter().map(by_hash).collect();
    let options = VerifyOptions::default();
    let report = verify(&scene.store, &machines, &options, &mut |_| {}).await;
    assert_eq!(report.unwrap().differences, []);
}

#[test]
fn a_source_ends_when_all_that_was_emitted_is_taken_up() {
    on_virtual_time(async {
        let scene = scene(Script::default());
        scene.append_many(0, 40);
        scene.broker.finish(0);
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        let ended = tokio::time::timeout(60 * SECOND, node.ended()).await;
        ended.expect("it ends").unwrap();
        check(&scene, 40).await;
        assert_eq!(scene.checkpoint(0).await.unwrap().epoch.0, 1);
        let opened = scene.script.calls(StoreOperation::OpenWork);
        assert_eq!(opened, 0, "all of it went on from memory");
        let report = node.drain(10 * SECOND).await;
        assert!(report.drained);
    });
}

#[test]
fn what_a_killed_owner_left_is_taken_up_by_the_next_without_a_new_event() {
    on_virtual_time(async {
        // What was received is committed, and nothing that was emitted by it.
        let script = Script {
            store: Box::new(|call, count| match call.operation {
                StoreOperation::Commit if count > 1 => (Duration::ZERO, AtStart::Stall),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let mut scene = scene(script);
        scene.append_many(0, 5);
        scene.broker.finish(0);
        let (node, id) = scene.start(NodeOptions::default(), &[0]);
        scene.settled_within(0, 10 * SECOND).await;
        let ended = tokio::time::timeout(5 * SECOND, node.ended()).await;
        assert!(ended.is_err(), "what was emitted is not taken up");
        node.kill();
        scene.broker.lose(0, id);
        assert_eq!(internal(&scene).await.len(), 0);

        scene.script = Arc::new(Script::default());
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        let ended = tokio::time::timeout(60 * SECOND, node.ended()).await;
        ended.expect("it ends").unwrap();
        check(&scene, 5).await;
        assert_eq!(scene.checkpoint(0).await.unwrap().epoch.0, 2);
    });
}

#[test]
fn what_was_open_when_a_partition_was_given_back_is_taken_up_by_the_node_that_gets_it() {
    on_virtual_time(async {
        // What was received is committed, and nothing that was emitted by it, for as long as this one waits.
        let script = Script {
            store: Box::new(|call, count| match call.operation {
                StoreOperation::Commit if count > 1 => (Duration::ZERO, AtStart::Stall),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let mut scene = scene(script);
        scene.append_many(0, 5);
        let (node, id) = scene.start(NodeOptions::default(), &[0]);
        scene.settled_within(0, 10 * SECOND).await;
        let place = source_partition(0);
        let waits = scene.store.tenants_with_open_work(&place, None, 10).await;
        assert_eq!(waits.unwrap(), [tenant()]);

        // Asked back and not lost: it is drained as far as that goes, and given back.
        scene.script = Arc::new(Script::default());
        let (other, other_id) = scene.start(NodeOptions::default(), &[]);
        scene.broker.revoke(0, id, Some(other_id));
        until("the other node has it", 120 * SECOND, || {
            scene.broker.holders(0) == [other_id]
        })
        .await;
        let limit = tokio::time::Instant::now() + 60 * SECOND;
        while internal(&scene).await.len() < TOCKS * 5 {
            assert!(tokio::time::Instant::now() < limit, "not taken up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        check(&scene, 5).await;
        assert_eq!(scene.checkpoint(0).await.unwrap().epoch.0, 2);
        assert_eq!((alarm(&node).await, alarm(&other).await), (None, None));
    });
}

#[test]
fn what_does_not_fit_into_memory_waits_in_the_store_and_is_taken_up_once() {
    on_virtual_time(async {
        let scene = scene(Script::default());
        scene.append_many(0, 400);
        scene.broker.finish(0);
        let options = NodeOptions {
            memory: PartitionLimits {
                emitted_bytes_max: 20_000,
                ..PartitionLimits::default()
            },
            batch_events_max: 150,
            ..NodeOptions::default()
        };
        let (node, _) = scene.start(options, &[0]);
        let ended = tokio::time::timeout(60 * SECOND, node.ended()).await;
        ended.expect("it ends").unwrap();
        check(&scene, 400).await;
        let opened = scene.script.calls(StoreOperation::OpenWork);
        assert!(opened > 5, "{opened} pages");
    });
}

#[test]
fn a_page_of_open_work_that_never_comes_is_asked_for_again() {
    on_virtual_time(async {
        let script = Script {
            store: Box::new(|call, count| match call.operation {
                StoreOperation::OpenWork if count == 1 => (Duration::ZERO, AtStart::Stall),
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = scene(script);
        scene.append_many(0, 400);
        let options = NodeOptions {
            memory: PartitionLimits {
                emitted_bytes_max: 20_000,
                ..PartitionLimits::default()
            },
            batch_events_max: 150,
            ..NodeOptions::default()
        };
        let limit = options.store_answer_limit;
        let (node, _) = scene.start(options, &[0]);
        // Somebody else's commits all the while: to the source partition nothing stalls.
        for n in 0..limit.as_secs() {
            scene.append(0, "busy", &n.to_string(), "s");
            tokio::time::sleep(SECOND).await;
        }
        scene.broker.finish(0);
        let ended = tokio::time::timeout(60 * SECOND, node.ended()).await;
        ended.expect("it ends").unwrap();
        assert_eq!(scene.script.claims().len(), 1, "nothing was rebuilt");
        let records = internal(&scene).await;
        assert_eq!(records.len(), TOCKS * 400);
    });
}

#[test]
fn an_emitted_event_whose_values_the_store_refuses_is_dead_and_the_rest_goes_on() {
    on_virtual_time(async {
        let refused = |call: &StoreCall<'_>| {
            let mut entities = call.batch.into_iter().flat_map(|batch| &batch.entities);
            entities.any(|it| it.name.machine.as_str() == "mirror" && it.name.key.as_str() == "s3")
        };
        let script = Script {
            store: Box::new(move |call, _| match call.operation {
                StoreOperation::Commit if refused(call) => {
                    let error = StoreError::Refused {
                        code: "22P02".to_owned(),
                        detail: "scripted".to_owned(),
                    };
                    (Duration::ZERO, AtStart::Fail(error))
                }
                _ => (Duration::ZERO, AtStart::Proceed),
            }),
            ..Script::default()
        };
        let scene = scene(script);
        scene.append_many(0, 10);
        scene.broker.finish(0);
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        let ended = tokio::time::timeout(60 * SECOND, node.ended()).await;
        ended.expect("it ends").unwrap();
        let records = internal(&scene).await;
        let dead: Vec<_> = records
            .iter()
            .filter(|record| record.effects.iter().any(|it| it.outcome == Outcome::Dead))
            .collect();
        assert_eq!(dead.len(), 1, "and it emits nothing more");
        assert_eq!(records.len(), TOCKS * 9 + 1);
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!((counts.dead, counts.looped_back), (2, counts.emitted));
    });
}

#[test]
fn the_events_of_others_go_on_beside_a_cycle_without_an_end() {
    on_virtual_time(async {
        let text = STEPS.replace("when: event.data.left > 0", "when: event.data.left < 1000");
        let machine = MachineDefinition::load("test.yaml", &text).unwrap();
        let scene = Scene {
            machines: MachineSet::new([machine as Arc<dyn Processor>]),
            ..Scene::new(1, Script::default())
        };
        scene.append_many(0, 20);
        scene.append(0, "other", "o", "s");
        scene.broker.finish(0);
        let (node, _) = scene.start(NodeOptions::default(), &[0]);
        let ended = tokio::time::timeout(60 * SECOND, node.ended()).await;
        ended.expect("hops bound it").unwrap();
        let counts = scene.checkpoint(0).await.unwrap().progress.counts;
        assert_eq!(counts.looped_back, 21 * 17);
        assert_eq!(counts.dead, 21, "the last hop of each");
    });
}
