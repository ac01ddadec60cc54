//! The life of one simulated process: it can be killed at any seam call or between two, stopped for a
//! while, and made to panic. A killed process never makes another call, and what it had under way never
//! returns to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tidegate_engine::clock::{Clock, Ids, Timestamp};
use tidegate_engine::spawner::{OwnedFuture, Spawner};
use tokio::task::LocalSet;

use crate::faults::Fault;
use crate::seed::Dice;
use crate::stage::Stage;

/// What an actor says that is made to panic; the panic hook keeps quiet about it.
pub const PANIC: &str = "simulated: an actor panics";

/// When time begins in a simulation.
const EPOCH: Timestamp = Timestamp(1_700_000_000_000_000);

/// The strings by which the world holds a process.
pub struct Control {
    pub name: String,
    stage: Arc<Stage>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    killed: bool,
    frozen: bool,
    /// Seam calls until it dies.
    crash_in: Option<u64>,
    /// Steps of its actors until one panics.
    panic_in: Option<u64>,
    /// Actors that panicked so far.
    panics: u64,
    waker: Option<Waker>,
}

impl Control {
    pub fn new(name: String, stage: Arc<Stage>) -> Arc<Self> {
        Arc::new(Self {
            name,
            stage,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At a seam call, at its start and at its end: false when the process is dead, perhaps from now on.
    pub fn lives_on(&self) -> bool {
        let mut state = self.state();
        match &mut state.crash_in {
            Some(0) => {
                state.crash_in = None;
                drop(state);
                self.kill("at a seam call");
                return false;
            }
            Some(calls) => *calls -= 1,
            None => {}
        }
        !state.killed
    }

    /// Kills the process.
    pub fn kill(&self, how: &str) {
        let mut state = self.state();
        if std::mem::replace(&mut state.killed, true) {
            return;
        }
        let waker = state.waker.take();
        drop(state);
        self.stage.trace(&self.name, &format!("killed {how}"));
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn is_killed(&self) -> bool {
        self.state().killed
    }

    /// It dies at the start or end of a seam call.
    pub fn crash_in(&self, calls: u64) {
        self.state().crash_in = Some(calls);
    }

    /// One of its actors or tasks panics.
    pub fn panic_in(&self, steps: u64) {
        self.state().panic_in = Some(steps);
    }

    /// Actors or tasks of it that panicked so far.
    pub fn panics(&self) -> u64 {
        self.state().panics
    }

    /// Takes back what has not happened yet.
    pub fn spare(&self) {
        let mut state = self.state();
        (state.crash_in, state.panic_in) = (None, None);
    }

    /// Stops the whole process: it does nothing, and it does not know.
    pub fn freeze(&self) {
        self.state().frozen = true;
        self.stage.trace(&self.name, "frozen");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        let mut state = self.state();
        if !std::mem::replace(&mut state.frozen, false) {
            return;
        }
        let waker = state.waker.take();
        drop(state);
        self.stage.trace(&self.name, "thawed");
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn is_frozen(&self) -> bool {
        self.state().frozen
    }

    /// A step of an actor: panics when it is this one's turn.
    fn step(&self) {
        let mut state = self.state();
        match &mut state.panic_in {
            Some(0) => {
                state.panic_in = None;
                state.panics += 1;
                drop(state);
                self.stage.count(Fault::ActorPanic);
                self.stage.trace(&self.name, "an actor panics");
                panic!("{PANIC}");
            }
            Some(steps) => *steps -= 1,
            None => {}
        }
    }
}

/// Runs every task of a process for as long as it lives, and drops them all at once when it dies.
pub struct Process {
    tasks: LocalSet,
    control: Arc<Control>,
}

impl Process {
    pub fn new(tasks: LocalSet, control: Arc<Control>) -> Self {
        Self { tasks, control }
    }
}

impl Future for Process {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.control.state();
            state.waker = Some(context.waker().clone());
            if state.killed {
                return Poll::Ready(());
            }
            if state.frozen {
                return Poll::Pending;
            }
        }
        let done = Pin::new(&mut self.tasks).poll(context);
        if self.control.is_killed() {
            Poll::Ready(())
        } else {
            done
        }
    }
}

/// The clock of one process: virtual time and a skew of its own.
pub struct SkewedClock {
    pub control: Arc<Control>,
    pub skew_micros: i64,
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        self.control.step();
        let elapsed = self.control.stage.elapsed().as_micros() as i64;
        Timestamp(EPOCH.0 + elapsed + self.skew_micros)
    }
}

/// The moment of virtual time that the world itself sees.
pub fn world_time(stage: &Stage) -> Timestamp {
    Timestamp(EPOCH.0 + stage.elapsed().as_micros() as i64)
}

/// Randomness from the seed.
pub struct SeededIds {
    pub control: Arc<Control>,
    pub dice: Mutex<Dice>,
}

impl Ids for SeededIds {
    fn next_u64(&self) -> u64 {
        self.control.step();
        self.dice
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .bits()
    }
}

/// Spawns onto the process' own tasks.
pub struct LocalSpawner(pub Arc<Control>);

impl Spawner for LocalSpawner {
    fn spawn(&self, future: OwnedFuture) {
        self.0.step();
        if !self.0.is_killed() {
            tokio::task::spawn_local(future);
        }
    }
}
