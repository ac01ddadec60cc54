//! Who is behind a presented token: a small memory in front of the store, so that a server asks it once in
//! five seconds for each token and not once a request. Draws new secrets too; decides nothing itself, the
//! rules are the engine's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_engine::access::{
    AccessStore, Credential, Denied, InvalidSecret, SECRET_BYTES, StoredToken, TokenId, TokenSecret,
};
use tidegate_engine::clock::{Clock, Timestamp};
use tidegate_engine::store::StoreError;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Tokens that are remembered, at most. About half a kilobyte each.
pub const CACHED_TOKENS_MAX: usize = 10_000;

/// Ids without a token that are remembered, at most: for a client that was not told of a revocation years
/// ago, not for somebody who guesses, who has a new id each time.
const CACHED_UNKNOWN_MAX: usize = 1_000;

/// For how long an answer of the store is good: within that a revocation holds everywhere.
const GOOD_FOR_MICROS: i64 = 5_000_000;

/// For how long it is good for somebody who stays and is looked at once a second: a revocation ends what they
/// do within the same five.
const GOOD_FOR_STAYING_MICROS: i64 = 3_000_000;

/// Look-ups in the store at once of ids that are not remembered, and as many of those that are. Whoever
/// guesses must not keep all its connections from the commits, nor keep clients that are known waiting.
const LOOKUPS_MAX: usize = 2;

/// Until a look-up must be answered; then nobody can say now who presents the token.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(3);

/// Draws a token from the system's generator: its id and its secret.
pub fn draw_secret() -> Result<TokenSecret, getrandom::Error> {
    loop {
        let (mut id, mut bytes) = ([0_u8; 8], [0_u8; SECRET_BYTES]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut bytes)?;
        match TokenSecret::new(TokenId::from_random(u64::from_le_bytes(id)), bytes) {
            Ok(secret) => return Ok(secret),
            // Drawn at random and looks weak all the same: once in 10^13.
            Err(InvalidSecret::Weak | InvalidSecret::Form) => {}
        }
    }
}

/// Turns presented secrets into credentials. Shared by all of a server's workers.
pub struct Credentials {
    store: Arc<dyn AccessStore>,
    clock: Arc<dyn Clock>,
    cached: Mutex<Cached>,
    io: Handle,
    lookups: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
}

fn unanswered() -> Denied {
    Denied::Unanswered(StoreError::Unavailable {
        detail: format!("no answer within {} s", LOOKUP_TIME_MAX.as_secs()),
    })
}

#[derive(Default)]
struct Cached {
    known: HashMap<TokenId, Answer<StoredToken>>,
    unknown: HashMap<TokenId, Answer<()>>,
}

/// What the store said, and when it was asked.
struct Answer<T> {
    said: T,
    asked_at: Timestamp,
}

impl<T> Answer<T> {
    /// Nothing is good that was asked in the future: then the clock stepped back.
    fn is_good(&self, now: Timestamp, for_micros: i64) -> bool {
        (0..for_micros).contains(&now.0.saturating_sub(self.asked_at.0))
    }
}

impl Cached {
    /// `None` when the store has to be asked; `Some(None)` for an id that no token has.
    fn answer(&self, id: TokenId, now: Timestamp, for_micros: i64) -> Option<Option<StoredToken>> {
        let known = self.known.get(&id);
        if let Some(answer) = known.filter(|answer| answer.is_good(now, for_micros)) {
            return Some(Some(answer.said.clone()));
        }
        let unknown = self.unknown.get(&id)?;
        unknown.is_good(now, for_micros).then_some(None)
    }

    fn keep(
        &mut self,
        id: TokenId,
        said: Option<StoredToken>,
        asked_at: Timestamp,
        now: Timestamp,
    ) {
        match said {
            Some(said) => {
                self.unknown.remove(&id);
                let answer = Answer { said, asked_at };
                keep(&mut self.known, CACHED_TOKENS_MAX, id, answer, now);
            }
            None => {
                self.known.remove(&id);
                let answer = Answer { said: (), asked_at };
                keep(&mut self.unknown, CACHED_UNKNOWN_MAX, id, answer, now);
            }
        }
    }
}

/// Makes room by what is no longer good; when all of it is, the answer is not kept and asked for again.
fn keep<T>(
    answers: &mut HashMap<TokenId, Answer<T>>,
    most: usize,
    id: TokenId,
    answer: Answer<T>,
    now: Timestamp,
) {
    if answers.len() >= most && !answers.contains_key(&id) {
        answers.retain(|_, kept| kept.is_good(now, GOOD_FOR_MICROS));
        if answers.len() >= most {
            return;
        }
    }
    answers.insert(id, answer);
}

impl Credentials {
    /// Over the store's register, which is asked on `io`; the clock says when a token expires and how old
    /// an answer is.
    pub fn new(store: Arc<dyn AccessStore>, clock: Arc<dyn Clock>, io: Handle) -> Self {
        Self {
            store,
            clock,
            cached: Mutex::default(),
            io,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            renewals: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        }
    }

    /// Who presents this text, as it stands behind `Bearer `. The reason of a denial is for logs: a client
    /// learns that it was denied, or, for [`Denied::Unanswered`], that nobody can say now.
    pub async fn admit(&self, presented: &str) -> Result<Credential, Denied> {
        self.admitted(presented, GOOD_FOR_MICROS).await
    }

    /// The same of somebody who was admitted and stays, on an answer of the store that is younger.
    pub async fn admit_again(&self, presented: &str) -> Result<Credential, Denied> {
        self.admitted(presented, GOOD_FOR_STAYING_MICROS).await
    }

    async fn admitted(&self, presented: &str, for_micros: i64) -> Result<Credential, Denied> {
        let secret = TokenSecret::parse(presented)?;
        let stored = self.stored(secret.id(), for_micros).await?;
        let stored = stored.ok_or(Denied::Unknown)?;
        stored.admit(&secret, self.clock.now())
    }

    /// How many tokens and how many ids without a token are remembered.
    pub fn cached(&self) -> (usize, usize) {
        let cached = self.lock();
        (cached.known.len(), cached.unknown.len())
    }

    async fn stored(&self, id: TokenId, for_micros: i64) -> Result<Option<StoredToken>, Denied> {
        if let Some(answer) = self.lock().answer(id, self.clock.now(), for_micros) {
            return Ok(answer);
        }
        let turns = match self.lock().known.contains_key(&id) {
            true => self.renewals.clone(),
            false => self.lookups.clone(),
        };
        let until = Instant::now() + LOOKUP_TIME_MAX;
        let turn = timeout_at(until, turns.acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(unanswered)?;
        // Asked before the question is: what is revoked meanwhile counts as revoked after it. Somebody
        // before in the queue may have asked for the same.
        let asked_at = self.clock.now();
        if let Some(answer) = self.lock().answer(id, asked_at, for_micros) {
            return Ok(answer);
        }
        // A task of its own, that goes on when the client has gone: a dropped call would leave its
        // connection in the middle of a question.
        let store = self.store.clone();
        let asked = self.io.spawn(async move {
            let said = store.token(id).await;
            drop(turn);
            said
        });
        let said = match timeout_at(until, asked).await {
            Ok(Ok(said)) => said.map_err(Denied::Unanswered)?,
            Ok(Err(_)) | Err(_) => return Err(unanswered()),
        };
        let now = self.clock.now();
        self.lock().keep(id, said.clone(), asked_at, now);
        Ok(said)
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        // Nothing inside panics; were it to, each answer is still whole.
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
