//! The fault seam of the memory store. What every store promises is in the contract suite; here is
//! what a disturbed one does, and that the suite finds each bug that can be planted in it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitReply, EntityName};
use tidegate_engine::position::{Revision, Version};
use tidegate_engine::store::{StateStore, StoreError};

use super::{AtEnd, AtStart, CallOutcome, MemoryStore, StoreCall, StoreFaults, StoreOperation};
use crate::contract::batch::{Entry, Writer, entity_name, source_partition};

/// Disturbs every commit in one way and writes down how each ended.
#[derive(Default)]
struct Script {
    delay: Duration,
    start: Mutex<Option<AtStart>>,
    end: Mutex<Option<AtEnd>>,
    busy: Vec<EntityName>,
    ended: Mutex<Vec<CallOutcome>>,
    late: Mutex<Vec<CallOutcome>>,
}

impl StoreFaults for Script {
    fn at_start(&self, call: &StoreCall<'_>) -> (Duration, AtStart) {
        let fault = (call.operation == StoreOperation::Commit)
            .then(|| self.start.lock().unwrap().take())
            .flatten();
        (self.delay, fault.unwrap_or_default())
    }

    fn at_end(&self, call: &StoreCall<'_>, outcome: CallOutcome) -> (Duration, AtEnd) {
        if call.operation != StoreOperation::Commit {
            return (Duration::ZERO, AtEnd::Proceed);
        }
        self.ended.lock().unwrap().push(outcome);
        let fault = self.end.lock().unwrap().take();
        (self.delay, fault.unwrap_or_default())
    }

    fn busy(&self, _batch: &CommitBatch) -> Vec<EntityName> {
        self.busy.clone()
    }

    fn arrived_late(&self, _batch: &CommitBatch, outcome: CallOutcome) {
        self.late.lock().unwrap().push(outcome);
    }
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown {
        detail: "connection lost".to_owned(),
    }
}

/// A quiet store, its disturbed twin, and a writer that claimed by the quiet one.
async fn disturbed(script: Script) -> (MemoryStore, MemoryStore, Arc<Script>, Writer) {
    let quiet = MemoryStore::new();
    let place = source_partition("orders", 0);
    let writer = Writer::claim(&quiet, &place, "a", Timestamp(0))
        .await
        .unwrap();
    let script = Arc::new(script);
    let twin = quiet.with_faults(Arc::clone(&script) as Arc<dyn StoreFaults>);
    (quiet, twin, script, writer)
}

async fn revision(store: &MemoryStore) -> Revision {
    let place = source_partition("orders", 0);
    store.checkpoint(&place).await.unwrap().unwrap().revision
}

#[tokio::test]
async fn an_unknown_outcome_is_done_when_the_reply_was_lost_and_not_when_the_call_was() {
    for (start, end, expected) in [
        (Some(AtStart::Fail(unknown())), None, Revision(0)),
        (None, Some(AtEnd::Fail(unknown())), Revision(1)),
    ] {
        let script = Script {
            start: Mutex::new(start),
            end: Mutex::new(end),
            ..Script::default()
        };
        let (quiet, store, script, mut writer) = disturbed(script).await;
        let entries = [Entry::new("acme", "k1").creates("o1")];
        let reply = writer.commit(&store, &entries).await;
        assert!(matches!(reply, Err(StoreError::OutcomeUnknown { .. })));
        assert_eq!(revision(&quiet).await, expected);
        let done = vec![CallOutcome::Committed; usize::try_from(expected.0).unwrap()];
        assert_eq!(*script.ended.lock().unwrap(), done);
    }
}

#[tokio::test]
async fn a_late_commit_takes_effect_unless_somebody_came_before_it() {
    for overtaken in [false, true] {
        let script = Script {
            start: Mutex::new(Some(AtStart::Late {
                error: unknown(),
                after_calls: 3,
            })),
            ..Script::default()
        };
        let (quiet, store, script, mut writer) = disturbed(script).await;
        let entries = [Entry::new("acme", "k1")];
        assert!(writer.commit(&store, &entries).await.is_err());
        assert_eq!(quiet.commits_on_their_way(), 1);
        // The owner looks, sees nothing, and in one case commits again.
        assert_eq!(revision(&quiet).await, Revision(0));
        if overtaken {
            let reply = writer.commit(&store, &entries).await.unwrap();
            assert!(matches!(reply, CommitReply::Committed { .. }));
        } else {
            assert_eq!(revision(&quiet).await, Revision(0));
        }
        assert_eq!(*script.late.lock().unwrap(), vec![]);
        assert_eq!(revision(&quiet).await, Revision(1));
        assert_eq!(quiet.commits_on_their_way(), 0);
        let outcome = if overtaken {
            CallOutcome::Fenced
        } else {
            CallOutcome::Committed
        };
        assert_eq!(*script.late.lock().unwrap(), vec![outcome]);
    }
}

#[tokio::test]
async fn a_busy_row_is_one_that_exists_and_its_version_is_not_told() {
    let script = Script {
        busy: vec![entity_name("acme", "held"), entity_name("acme", "new")],
        ..Script::default()
    };
    let (quiet, store, script, mut writer) = disturbed(script).await;
    let first = [Entry::new("acme", "k0").creates("held").creates("moved")];
    writer.commit(&quiet, &first).await.unwrap();
    let entries = [
        Entry::new("acme", "k1").creates("held"),
        Entry::new("acme", "k2").creates("moved"),
        Entry::new("acme", "k3").creates("new"),
    ];
    let reply = writer.commit(&store, &entries).await.unwrap();
    let CommitReply::Surprised(surprises) = reply else {
        panic!("expected surprises, found {reply:?}");
    };
    assert_eq!(surprises.busy, vec![entity_name("acme", "held")]);
    assert_eq!(surprises.entities.len(), 1);
    let (name, as_is) = &surprises.entities[0];
    assert_eq!(*name, entity_name("acme", "moved"));
    assert_eq!(as_is.as_ref().map(|it| it.version), Some(Version(1)));
    let ended = CallOutcome::Surprised {
        known_keys: 0,
        entities: 1,
        busy: 1,
    };
    assert_eq!(*script.ended.lock().unwrap(), vec![ended]);
}

#[tokio::test]
async fn a_stalled_call_never_returns_and_others_are_not_held_up() {
    for (start, end, expected) in [
        (Some(AtStart::Stall), None, Revision(0)),
        (None, Some(AtEnd::Stall), Revision(1)),
    ] {
        let script = Script {
            delay: Duration::from_millis(1),
            start: Mutex::new(start),
            end: Mutex::new(end),
            ..Script::default()
        };
        let (quiet, store, _script, mut writer) = disturbed(script).await;
        let entries = [Entry::new("acme", "k1")];
        let stalled = writer.commit(&store, &entries);
        let waited = tokio::time::timeout(Duration::from_millis(50), stalled).await;
        assert!(waited.is_err(), "it returned {waited:?}");
        assert_eq!(revision(&quiet).await, expected);
    }
}

#[cfg(feature = "planted")]
mod planted {
    use std::panic::AssertUnwindSafe;

    use tidegate_engine::planted::{Bug, plant};

    use crate::contract::store::outside::memory;
    use crate::contract::store::run_all;

    /// A bug is planted for one thread, so the suite runs on one.
    #[test]
    fn the_contract_finds_every_bug_that_can_be_planted_in_a_store() {
        for bug in [
            Bug::NoEpochCheck,
            Bug::NoRevisionCheck,
            Bug::DedupeProbeLeftOut,
            Bug::CacheAsTruth,
        ] {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            plant(Some(bug));
            let suite =
                AssertUnwindSafe(|| runtime.block_on(run_all("planted", async || memory())));
            let verdict = std::panic::catch_unwind(suite);
            plant(None);
            assert!(verdict.is_err(), "{bug:?} passed the contract");
        }
    }
}
