//! Carries a person's decision about a dead letter out: claims the operator's source partition, has the
//! batch made (`draft`), commits it, and has it made again when the store has a surprise. Then takes up what
//! machines emitted by it (`emitted`). What the decision comes to is decided in
//! [`tidegate_engine::follow_up`].

pub mod checkpoint;
mod draft;
mod emitted;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::{Clock, Ids};
use tidegate_engine::commit::Surprises;
use tidegate_engine::commit_protocol::{CommitProtocol, Next};
use tidegate_engine::dead_letter::DeadLetterState;
use tidegate_engine::event::CausedBy;
use tidegate_engine::follow_up::{self, Decided, Desk, FollowUp};
use tidegate_engine::hash::Hash128;
use tidegate_engine::limits::RECLAIM_ATTEMPTS_MAX;
use tidegate_engine::machine::MachineSet;
use tidegate_engine::mapping::Mapping;
use tidegate_engine::position::{Offset, SourceName, StreamName};
use tidegate_engine::retry::BackOff;
use tidegate_engine::store::{Claim, StateStore, StoreError, StoredDeadLetter};
use tidegate_engine::tenant::TenantId;
use tokio::time::Instant;

use draft::{Draft, Unmade};

/// Surprises after which a decision is given up for now: somebody else keeps the entity busy.
const SURPRISES_MAX: u32 = 100;

/// Why a decision could not be carried out. Nothing changed, but for [`DecisionError::EmittedLeft`].
#[derive(Debug, thiserror::Error)]
pub enum DecisionError {
    /// There is no such letter.
    #[error("tenant `{tenant}` has no dead letter {id}")]
    NotFound {
        /// Whose.
        tenant: TenantId,
        /// Which.
        id: Hash128,
    },
    /// It was decided about before.
    #[error("dead letter {id} is {} already", .state.as_str())]
    NotOpen {
        /// Which.
        id: Hash128,
        /// Where it stands.
        state: DeadLetterState,
    },
    /// This cannot be done to this letter; says why and what can.
    #[error("dead letter {id}: {why}")]
    Impossible {
        /// Which.
        id: Hash128,
        /// Why, and what to do instead.
        why: String,
    },
    /// Whether it is decided is not known here.
    #[error(
        "dead letter {id}: whether it is decided is not known: {why}; look with `tidegate dead-letters show`"
    )]
    Unknown {
        /// Which.
        id: Hash128,
        /// What happened.
        why: String,
    },
    /// Somebody else decides or commits at the same time, again and again.
    #[error("dead letter {id}: somebody else is in the way, again and again; try later")]
    InTheWay {
        /// Which.
        id: Hash128,
    },
    /// The letter was decided, and what machines emitted by it is not all taken up.
    #[error(
        "dead letter {id} was decided; what was emitted by it waits as open work: {why}. The next retry of \
         one of this tenant's dead letters takes it up"
    )]
    EmittedLeft {
        /// Which.
        id: Hash128,
        /// What stood in the way.
        why: String,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// How long a decision is tried, its emitted events included: somebody waits for it. Longer than one commit
/// waits for the store's answer.
pub const DECISION_LIMIT: Duration = Duration::from_secs(60);

/// What is decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Offer it again. The stream is for what becomes an event only now.
    Retry {
        /// The stream, when it is not known from where the delivery came.
        stream: Option<StreamName>,
    },
    /// Give it up.
    Discard,
}

/// Carries decisions out, one commit each.
pub struct Operator<'o> {
    /// Where.
    pub store: &'o dyn StateStore,
    /// The active machines.
    pub machines: &'o MachineSet,
    /// How records of the configured sources become events.
    pub mappings: &'o BTreeMap<SourceName, Arc<Mapping>>,
    /// The time.
    pub clock: &'o dyn Clock,
    /// Randomness, for jitter.
    pub ids: &'o dyn Ids,
    /// The process's name, as the checkpoint's owner.
    pub owner: String,
    /// Who decides.
    pub by: CausedBy,
}

/// What one attempt of a decision came to.
enum Attempt {
    Done(Decided),
    Again(Surprises),
    Fenced,
    Refused(String),
}

impl Operator<'_> {
    /// Carries one decision out.
    pub async fn decide(
        &self,
        tenant: &TenantId,
        id: Hash128,
        decision: &Decision,
    ) -> Result<Decided, DecisionError> {
        let deadline = Instant::now() + DECISION_LIMIT;
        let mut surprises = Surprises::default();
        let mut attempts = 0;
        for _ in 0..RECLAIM_ATTEMPTS_MAX {
            let mut checkpoint = self.claim().await?;
            loop {
                let attempt = self
                    .attempt(tenant, id, decision, &checkpoint, &surprises, deadline)
                    .await?;
                match attempt {
                    // To give up, no machine is asked, and none need be known here.
                    Attempt::Done(decided) if *decision == Decision::Discard => {
                        return Ok(decided);
                    }
                    Attempt::Done(decided) => {
                        let emitted = self.take_up_emitted(tenant, deadline).await;
                        let left = |why| DecisionError::EmittedLeft { id, why };
                        return emitted.map(|()| decided).map_err(left);
                    }
                    Attempt::Fenced => break,
                    Attempt::Again(more) => surprises = more,
                    Attempt::Refused(why) => {
                        // Somebody else was quicker, or the store cannot take what this would write.
                        self.open_letter(tenant, id).await?;
                        return Err(DecisionError::Impossible { id, why });
                    }
                }
                attempts += 1;
                if attempts >= SURPRISES_MAX || Instant::now() >= deadline {
                    return Err(DecisionError::InTheWay { id });
                }
                let wait = BackOff::default().wait(attempts.min(6), self.ids.next_u64());
                tokio::time::sleep(wait).await;
                match self.store.checkpoint(&follow_up::operator()).await? {
                    Some(now) if now.epoch == checkpoint.epoch => checkpoint = now,
                    _ => break,
                }
            }
        }
        Err(DecisionError::InTheWay { id })
    }

    /// The letter, when it waits for a decision.
    async fn open_letter(
        &self,
        tenant: &TenantId,
        id: Hash128,
    ) -> Result<StoredDeadLetter, DecisionError> {
        let letter = self.store.dead_letter(tenant, id).await?;
        match letter {
            None => Err(DecisionError::NotFound {
                tenant: tenant.clone(),
                id,
            }),
            Some(letter) if letter.state != DeadLetterState::Open => Err(DecisionError::NotOpen {
                id,
                state: letter.state,
            }),
            Some(letter) => Ok(letter),
        }
    }

    async fn claim(&self) -> Result<Checkpoint, StoreError> {
        let claim = Claim {
            source_partition: follow_up::operator(),
            owner: self.owner.clone(),
            incarnation: follow_up::operator_incarnation(),
            start: Offset(0),
        };
        self.store.claim(claim).await
    }

    async fn attempt(
        &self,
        tenant: &TenantId,
        id: Hash128,
        decision: &Decision,
        checkpoint: &Checkpoint,
        surprises: &Surprises,
        deadline: Instant,
    ) -> Result<Attempt, DecisionError> {
        let letter = self.open_letter(tenant, id).await?;
        let mut protocol = CommitProtocol::new(checkpoint, BackOff::default());
        let desk = Desk {
            tenant,
            checkpoint,
            terms: protocol.terms(0),
            at: self.clock.now(),
            by: &self.by,
        };
        let draft = Draft {
            store: self.store,
            machines: self.machines,
            mappings: self.mappings,
            desk: &desk,
            letter: id,
            surprises,
        };
        let follow_up = draft
            .make(&letter.letter.source, letter.letter.reason, decision)
            .await
            .map_err(|error| match error {
                Unmade::Impossible(why) => DecisionError::Impossible { id, why },
                Unmade::Store(error) => error.into(),
            })?;
        self.commit(id, &mut protocol, follow_up, deadline).await
    }

    async fn commit(
        &self,
        id: Hash128,
        protocol: &mut CommitProtocol,
        follow_up: FollowUp,
        deadline: Instant,
    ) -> Result<Attempt, DecisionError> {
        let batch = Arc::new(follow_up.batch);
        loop {
            protocol.submitted();
            let reply = self.store.commit(batch.clone()).await;
            let mut next = protocol.on_reply(reply, 1, self.ids.next_u64());
            while let Next::ReadCheckpoint(wait) = next {
                if Instant::now() + wait >= deadline {
                    return Err(DecisionError::Unknown {
                        id,
                        why: no_answer(),
                    });
                }
                tokio::time::sleep(wait).await;
                let read = self.store.checkpoint(&follow_up::operator()).await;
                next = protocol.on_checkpoint(read, 1, self.ids.next_u64());
            }
            match next {
                Next::Settle { .. } => return Ok(Attempt::Done(follow_up.decided)),
                Next::Reapply(surprises) => return Ok(Attempt::Again(surprises)),
                // An earlier try may still arrive.
                Next::SubmitAgain(wait) if Instant::now() + wait >= deadline => {
                    return Err(DecisionError::Unknown {
                        id,
                        why: no_answer(),
                    });
                }
                Next::SubmitAgain(wait) => tokio::time::sleep(wait).await,
                Next::MakeSmaller => return Ok(Attempt::Again(Surprises::default())),
                Next::Drop | Next::ClaimAgain => return Ok(Attempt::Fenced),
                Next::Condemn { detail } => return Ok(Attempt::Refused(detail)),
                Next::Stop {
                    detail: why,
                    nothing_written,
                } => {
                    return Err(match nothing_written {
                        true => DecisionError::Impossible { id, why },
                        false => DecisionError::Unknown { id, why },
                    });
                }
                Next::ReadCheckpoint(_) => {}
            }
        }
    }
}

fn no_answer() -> String {
    let seconds = DECISION_LIMIT.as_secs();
    format!("the store did not take it within {seconds} s")
}
