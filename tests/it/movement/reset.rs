//! A batch is refused in the very moment in which the next one is made: no partition may keep what was made
//! behind it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tidegate_actors::NodeOptions;
use tidegate_connectors::store::memory::{AtStart, StoreOperation};
use tidegate_engine::spawner::{OwnedFuture, Spawner};

use super::{SECOND, Scene, Script, alarm, on_virtual_time};

/// Runs seam calls on the scene's own thread, and holds one of them back until it is let go: then it waits
/// for as many rounds of all tasks as it was told.
#[derive(Default)]
struct Gate {
    calls: AtomicU64,
    /// The call that is polled now.
    current: AtomicU64,
    held: Mutex<Option<Held>>,
}

struct Held {
    call: u64,
    waker: Option<Waker>,
    /// Rounds that are left, once it is let go.
    rounds: Option<u32>,
}

impl Gate {
    fn hold_current(&self) {
        let call = self.current.load(Ordering::SeqCst);
        *self.held.lock().unwrap() = Some(Held {
            call,
            waker: None,
            rounds: None,
        });
    }

    fn let_go(&self, rounds: u32) {
        let mut held = self.held.lock().unwrap();
        let held = held.as_mut().unwrap();
        held.rounds = Some(rounds);
        held.waker.take().unwrap().wake();
    }

    fn is_closed(&self, call: u64, context: &Context<'_>) -> bool {
        let mut place = self.held.lock().unwrap();
        let Some(held) = place.as_mut().filter(|held| held.call == call) else {
            return false;
        };
        match &mut held.rounds {
            None => held.waker = Some(context.waker().clone()),
            Some(0) => {
                *place = None;
                return false;
            }
            Some(rounds) => {
                *rounds -= 1;
                context.waker().wake_by_ref();
            }
        }
        true
    }
}

struct Gated(Arc<Gate>);

impl Spawner for Gated {
    fn spawn(&self, mut future: OwnedFuture) {
        let gate = self.0.clone();
        let call = gate.calls.fetch_add(1, Ordering::SeqCst);
        actix::spawn(std::future::poll_fn(move |context| {
            if gate.is_closed(call, context) {
                return Poll::Pending;
            }
            gate.current.store(call, Ordering::SeqCst);
            future.as_mut().poll(context)
        }));
    }
}

/// Tenant `b` has a batch in flight that will be refused. Tenant `a` has a full one ready, and is asked for
/// it; what it loaded for it makes it say, right after, that nothing more is ready. Then the refusal comes.
async fn refused_while_another_is_made(rounds: u32) {
    const BATCH: usize = 20;
    let gate = Arc::new(Gate::default());
    let armed = Arc::new(AtomicBool::new(false));
    let (at_call, at_commit) = (gate.clone(), armed.clone());
    let refuse = Arc::new(AtomicBool::new(false));
    let refused = refuse.clone();
    let script = Script {
        store: Box::new(move |call, _| {
            if at_commit.load(Ordering::SeqCst) {
                match call.operation {
                    StoreOperation::Commit => {
                        at_call.hold_current();
                        return (Duration::from_millis(1), AtStart::Proceed);
                    }
                    StoreOperation::LoadEntities => {
                        at_commit.store(false, Ordering::SeqCst);
                        at_call.let_go(rounds);
                    }
                    _ => {}
                }
            }
            (Duration::ZERO, AtStart::Proceed)
        }),
        busy: Box::new(move |batch| match refused.swap(false, Ordering::SeqCst) {
            true => batch.entities.iter().map(|it| it.name.clone()).collect(),
            false => Vec::new(),
        }),
        ..Script::default()
    };
    let mut scene = Scene::new(1, script);
    scene.spawner = Arc::new(Gated(gate));
    let options = NodeOptions {
        batch_events_max: BATCH,
        ..NodeOptions::default()
    };
    let (node, _) = scene.start(options, &[0]);
    // Both have a partition, and it knows their first entity.
    scene.append(0, "a", "first", "known");
    scene.append(0, "b", "first", "known");
    scene.settled_within(0, SECOND).await;
    armed.store(true, Ordering::SeqCst);
    refuse.store(true, Ordering::SeqCst);
    scene.append(0, "b", "refused", "known");
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 0..BATCH {
        let subject = if n == 0 { "new" } else { "known" };
        scene.append(0, "a", &n.to_string(), subject);
    }
    // Long before anybody takes it for a stall.
    scene.settled_within(0, 5 * SECOND).await;
    assert_eq!(scene.script.claims().len(), 1, "after {rounds} rounds");
    assert_eq!(alarm(&node).await, None, "after {rounds} rounds");
    let quiet = |flag: &AtomicBool| !flag.load(Ordering::SeqCst);
    assert!(quiet(&armed) && quiet(&refuse), "nothing was refused");
    let counts = scene.checkpoint(0).await.unwrap().progress.counts;
    assert_eq!(counts.applied as usize, 3 + BATCH, "after {rounds} rounds");
}

#[test]
fn a_batch_that_is_in_the_making_when_the_one_before_is_refused_is_made_again() {
    // The refusal comes at each point of the making in turn.
    for rounds in 0..12 {
        on_virtual_time(refused_while_another_is_made(rounds));
    }
}
