//! What the world around a store does to it: loses an answer, holds a row, writes past the commit. The
//! suite says what must come of it; whoever makes a subject says how it is done to that store.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidegate_engine::commit::{CommitBatch, CommitReply, EntityName};
use tidegate_engine::store::{StateStore, StoreError};

use super::{Reopen, StoreUnderTest, submit};
use crate::store::memory::{AtEnd, AtStart, CallOutcome, MemoryStore, StoreCall, StoreFaults};

/// Where a connection is lost, as seen from the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// On the way there: nothing is written.
    Commit,
    /// On the way back: everything is written and nobody was told.
    Reply,
}

/// Somebody else's hold of a row, by what ends it.
pub type Hold = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A statement that would change what is stored, and what came of it.
#[derive(Debug)]
pub struct Attempt {
    /// Whose statement.
    pub role: String,
    /// The statement.
    pub statement: String,
    /// The code with which it was refused; `None` when it was not.
    pub refusal: Option<String>,
}

/// The same data over one connection, and the pages that commits have touched so far.
pub struct Pages {
    /// A store that has one connection for everything.
    pub store: Arc<dyn StateStore>,
    /// Pages touched by all commits until now.
    pub touched: Box<dyn Fn() -> BoxFuture<'static, i64> + Send + Sync>,
}

/// See [`Outside::commit_and_lose`].
pub type CommitAndLose =
    dyn Fn(CommitBatch, Lost) -> BoxFuture<'static, Result<CommitReply, StoreError>> + Send + Sync;
/// See [`Outside::hold`].
pub type HoldRow = dyn Fn(EntityName) -> BoxFuture<'static, Hold> + Send + Sync;
/// See [`Outside::try_to_change`].
pub type TryToChange = dyn Fn() -> BoxFuture<'static, Vec<Attempt>> + Send + Sync;
/// See [`Outside::pages`].
pub type MakePages = dyn Fn() -> BoxFuture<'static, Pages> + Send + Sync;

/// The means to disturb one store.
pub struct Outside {
    /// Commits over a connection that is lost, and gives what the caller is told. With [`Lost::Reply`]
    /// it returns when the commit is done.
    pub commit_and_lose: Box<CommitAndLose>,
    /// Holds an entity's row as another transaction would. `None` where nobody else can.
    pub hold: Option<Box<HoldRow>>,
    /// Tries to change what is stored as every role and in every table of the log. `None` where there
    /// are no roles.
    pub try_to_change: Option<Box<TryToChange>>,
    /// Counts what commits touch. `None` where nothing counts it.
    pub pages: Option<Box<MakePages>>,
}

/// A memory store with its outside, which is its fault seam.
pub fn memory() -> StoreUnderTest {
    let tables = MemoryStore::new();
    let again = tables.clone();
    let reopen: Reopen = Arc::new(move || {
        let store: Arc<dyn StateStore> = Arc::new(again.clone());
        Box::pin(async move { store })
    });
    let held = Arc::new(Held::default());
    let store = Arc::new(tables.with_faults(held.clone()));
    let outside = Outside {
        commit_and_lose: Box::new(move |batch, lost| {
            let store = tables.with_faults(Arc::new(lost));
            Box::pin(async move { submit(&store, &batch).await })
        }),
        hold: Some(Box::new(move |name| {
            let held = held.clone();
            Box::pin(async move {
                held.0.lock().unwrap().insert(name.clone());
                let release: Hold = Box::new(move || {
                    held.0.lock().unwrap().remove(&name);
                    Box::pin(std::future::ready(()))
                });
                release
            })
        })),
        try_to_change: None,
        pages: None,
    };
    StoreUnderTest::new(store, reopen, outside)
}

/// Rows that another transaction holds.
#[derive(Default)]
struct Held(Mutex<BTreeSet<EntityName>>);

impl StoreFaults for Held {
    fn busy(&self, batch: &CommitBatch) -> Vec<EntityName> {
        let held = self.0.lock().unwrap();
        let names = batch.entities.iter().map(|write| &write.name);
        names.filter(|it| held.contains(*it)).cloned().collect()
    }
}

impl StoreFaults for Lost {
    fn at_start(&self, _: &StoreCall<'_>) -> (Duration, AtStart) {
        let fate = match self {
            Self::Commit => AtStart::Fail(unknown()),
            Self::Reply => AtStart::Proceed,
        };
        (Duration::ZERO, fate)
    }

    fn at_end(&self, _: &StoreCall<'_>, _: CallOutcome) -> (Duration, AtEnd) {
        (Duration::ZERO, AtEnd::Fail(unknown()))
    }
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown {
        detail: "the connection is lost".to_owned(),
    }
}
