//! Logins by tokens that expire (OAUTHBEARER): who signs them, and how they are kept fresh. librdkafka asks
//! for one from within a poll and does not wait, so each is signed before it is asked for, ahead of the
//! expiry of the one before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rdkafka::client::OAuthToken;
use tidegate_engine::clock::{Clock, Timestamp};
use tidegate_engine::position::SourceName;
use tokio::runtime::Handle;

/// How much of a token's life is used, of 100, until the next one is signed: librdkafka asks at 80.
const USED_PERCENT: u32 = 60;

/// Between two attempts of a signer that fails, at first and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A token; whoever has it is its principal until it expires, so that it has no `Debug`.
#[derive(Clone)]
pub struct KafkaToken {
    /// What the broker is shown.
    pub token: String,
    /// Whose it is, for people.
    pub principal: String,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// Signs tokens.
#[async_trait::async_trait]
pub trait TokenSigner: Send + Sync + 'static {
    /// A fresh one of now, or what is wrong, without secrets and with what to do.
    async fn sign(&self, now: Timestamp) -> Result<KafkaToken, String>;
}

/// Who signs the tokens of a source, and by which clock they expire.
#[derive(Clone)]
pub struct KafkaSigner {
    /// Who signs.
    pub signer: Arc<dyn TokenSigner>,
    /// The clock of this machine.
    pub clock: Arc<dyn Clock>,
}

/// The tokens of one source.
pub(super) struct Tokens {
    source: SourceName,
    clock: Arc<dyn Clock>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    token: Option<KafkaToken>,
    /// Why there is none, or none that is newer.
    trouble: Option<String>,
    failures: u64,
}

impl Tokens {
    /// Signs on `io` for as long as somebody has what is returned.
    pub(super) fn keep(source: SourceName, by: KafkaSigner, io: &Handle) -> Arc<Self> {
        let tokens = Arc::new(Self {
            source,
            clock: by.clock,
            kept: Mutex::default(),
        });
        io.spawn(refresh(Arc::downgrade(&tokens), by.signer));
        tokens
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token of now, or why there is none.
    pub(super) fn current(&self) -> Result<OAuthToken, String> {
        let kept = self.lock();
        let now = self.clock.now();
        match &kept.token {
            Some(token) if now < token.expires_at => Ok(OAuthToken {
                token: token.token.clone(),
                principal_name: token.principal.clone(),
                lifetime_ms: token.expires_at.0 / 1_000,
            }),
            _ => Err(kept
                .trouble
                .clone()
                .unwrap_or_else(|| "the first token is not signed yet".to_owned())),
        }
    }

    /// How often signing has failed.
    pub(super) fn failures(&self) -> u64 {
        self.lock().failures
    }

    /// Takes in an answer of the signer, and says how long to wait for the next one.
    fn take(&self, signed: Result<KafkaToken, String>, retry: &mut Duration) -> Duration {
        let mut kept = self.lock();
        match signed {
            Ok(token) => {
                let left = token.expires_at.0 - self.clock.now().0;
                let left = Duration::from_micros(u64::try_from(left).unwrap_or(0));
                let wait = left * USED_PERCENT / 100;
                *kept = Kept {
                    token: Some(token),
                    trouble: None,
                    failures: kept.failures,
                };
                *retry = RETRY_FIRST;
                wait.max(RETRY_FIRST)
            }
            Err(why) => {
                kept.failures += 1;
                tracing::warn!(source = %self.source, failures = kept.failures, "no token was signed: {why}");
                kept.trouble = Some(format!("no token was signed: {why}"));
                let wait = *retry;
                *retry = (wait * 2).min(RETRY_MAX);
                wait
            }
        }
    }
}

async fn refresh(tokens: Weak<Tokens>, signer: Arc<dyn TokenSigner>) {
    let mut retry = RETRY_FIRST;
    loop {
        let Some(now) = tokens.upgrade().map(|tokens| tokens.clock.now()) else {
            return;
        };
        let signed = signer.sign(now).await;
        let Some(tokens) = tokens.upgrade() else {
            return;
        };
        let wait = tokens.take(signed, &mut retry);
        drop(tokens);
        tokio::time::sleep(wait).await;
    }
}
