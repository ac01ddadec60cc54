//! Carries a person's decision about a dead letter out: claims the operator's source partition, reads
//! what the decision needs, commits it, and reads again when the store has a surprise. What the decision
//! comes to is made in [`tidegate_engine::follow_up`].

use std::sync::Arc;

use tidegate_engine::admission::{self, Binding, Content, Received};
use tidegate_engine::bus::Delivery;
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::{Clock, Ids};
use tidegate_engine::commit::{EntityName, StoredEntity, Surprises};
use tidegate_engine::commit_protocol::{CommitProtocol, Next};
use tidegate_engine::dead_letter::{DeadLetterSource, DeadLetterState};
use tidegate_engine::event::CausedBy;
use tidegate_engine::follow_up::{self, Decided, Desk, FollowUp, Pointed};
use tidegate_engine::hash::Hash128;
use tidegate_engine::limits::{DELIVERY_BYTES_MAX, RECLAIM_ATTEMPTS_MAX};
use tidegate_engine::machine::{DeadReason, Fault, MachineSet};
use tidegate_engine::partition::{Allowance, Head, Partition, PartitionLimits, Prepared};
use tidegate_engine::position::{
    Offset, RecordPosition, SourcePartition, StreamName, StreamPartition,
};
use tidegate_engine::record::{Effect, RecordBody};
use tidegate_engine::retry::BackOff;
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{Claim, StateStore, StoreError, StoredDeadLetter};
use tidegate_engine::tenant::{TenantBinding, TenantId};
use tidegate_engine::transition;
use tidegate_engine::verify::stored_record;

/// Surprises after which a decision is given up for now: somebody else keeps the entity busy.
const SURPRISES_MAX: u32 = 100;

/// Why a decision could not be carried out. Nothing changed.
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
    /// Somebody else decides or commits at the same time, again and again.
    #[error("dead letter {id}: somebody else is in the way, again and again; try later")]
    InTheWay {
        /// Which.
        id: Hash128,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

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
        let mut surprises = Surprises::default();
        let mut attempts = 0;
        for _ in 0..RECLAIM_ATTEMPTS_MAX {
            let mut checkpoint = self.claim().await?;
            loop {
                let attempt = self
                    .attempt(tenant, id, decision, &checkpoint, &surprises)
                    .await?;
                match attempt {
                    Attempt::Done(decided) => return Ok(decided),
                    Attempt::Fenced => break,
                    Attempt::Again(more) => surprises = more,
                    Attempt::Refused(why) => {
                        // Somebody else was quicker, or the store cannot take what this would write.
                        self.open_letter(tenant, id).await?;
                        return Err(DecisionError::Impossible { id, why });
                    }
                }
                attempts += 1;
                if attempts >= SURPRISES_MAX {
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
        let follow_up = self
            .make(&desk, &letter, decision, surprises)
            .await
            .map_err(|error| match error {
                Unmade::Impossible(why) => DecisionError::Impossible { id, why },
                Unmade::Store(error) => error.into(),
            })?;
        self.commit(id, &mut protocol, follow_up).await
    }

    async fn commit(
        &self,
        id: Hash128,
        protocol: &mut CommitProtocol,
        follow_up: FollowUp,
    ) -> Result<Attempt, DecisionError> {
        let batch = Arc::new(follow_up.batch);
        loop {
            protocol.submitted();
            let reply = self.store.commit(batch.clone()).await;
            let mut next = protocol.on_reply(reply, 1, None, self.ids.next_u64());
            while let Next::ReadCheckpoint(wait) = next {
                tokio::time::sleep(wait).await;
                let read = self.store.checkpoint(&follow_up::operator()).await;
                next = protocol.on_checkpoint(read, None, self.ids.next_u64());
            }
            match next {
                Next::Settle { .. } => return Ok(Attempt::Done(follow_up.decided)),
                Next::Reapply(surprises) => return Ok(Attempt::Again(surprises)),
                Next::SubmitAgain(wait) => tokio::time::sleep(wait).await,
                Next::Drop => return Ok(Attempt::Fenced),
                Next::Condemn { detail } => return Ok(Attempt::Refused(detail)),
                Next::Stop { detail } => {
                    return Err(DecisionError::Impossible { id, why: detail });
                }
                Next::ReadCheckpoint(_) => {}
            }
        }
    }

    async fn make(
        &self,
        desk: &Desk<'_>,
        letter: &StoredDeadLetter,
        decision: &Decision,
        surprises: &Surprises,
    ) -> Result<FollowUp, Unmade> {
        let id = letter.letter.id;
        match (&letter.letter.source, decision) {
            (
                DeadLetterSource::Record {
                    position, machine, ..
                },
                decision,
            ) => self.of_record(desk, id, position, machine, decision).await,
            (DeadLetterSource::Raw { .. }, Decision::Discard) => {
                Ok(follow_up::discard_raw(desk, id))
            }
            (DeadLetterSource::Raw { .. }, Decision::Retry { .. })
                if letter.letter.reason == DeadReason::Conflict =>
            {
                let why = "it holds other content under a key that was admitted before, and would be \
                           refused again; discard it, or have its producer send it under a new key";
                Err(Unmade::Impossible(why.to_owned()))
            }
            (
                DeadLetterSource::Raw {
                    source_partition,
                    payload,
                    ..
                },
                Decision::Retry { stream },
            ) => {
                let raw = Raw {
                    source_partition,
                    payload,
                    stream: stream.as_ref(),
                };
                self.of_raw(desk, id, &raw, surprises).await
            }
        }
    }

    async fn of_record(
        &self,
        desk: &Desk<'_>,
        letter: Hash128,
        position: &RecordPosition,
        machine: &MachineName,
        decision: &Decision,
    ) -> Result<FollowUp, Unmade> {
        let gone = || {
            let why = format!("the event at {position} is not in the log any more");
            Unmade::Impossible(why)
        };
        let record = stored_record(self.store, desk.tenant, position).await?;
        let record = record.ok_or_else(gone)?;
        let RecordBody::Event(event) = &record.body else {
            return Err(gone());
        };
        let pointed = Pointed {
            position,
            event,
            admitted_at: record.admitted_at,
        };
        let head = self.head(&desk.stream_partition(&position.stream)).await?;
        let Decision::Retry { .. } = decision else {
            let dead = dead_effect(&record.effects, machine).ok_or_else(gone)?;
            return Ok(follow_up::discard(desk, letter, &pointed, dead, head));
        };
        let Some(machine) = self.machines.get(machine) else {
            let why =
                format!("machine `{machine}` is not active; activate it, or discard the letter");
            return Err(Unmade::Impossible(why));
        };
        let key = transition::key_of(machine.as_ref(), &pointed.context());
        let entity = match &key {
            Ok(key) => {
                self.entity(desk.tenant, &machine.definition().machine, key)
                    .await?
            }
            Err(_) => None,
        };
        let machine = machine.as_ref();
        let entity = entity.as_ref();
        Ok(follow_up::retry(
            desk, letter, &pointed, machine, key, entity, head,
        ))
    }

    /// Reads the bytes again; what is an event now is admitted like any other.
    async fn of_raw(
        &self,
        desk: &Desk<'_>,
        letter: Hash128,
        raw: &Raw<'_>,
        surprises: &Surprises,
    ) -> Result<FollowUp, Unmade> {
        // Where the tenant was not known, the source is one whose events are believed.
        let tenant = if desk.tenant.is_unassigned() {
            TenantBinding::TrustedField
        } else {
            TenantBinding::Fixed(desk.tenant.clone())
        };
        let delivery = Delivery {
            offset: desk.offset(),
            next: desk.offset().next(),
            payload: raw.payload.clone(),
        };
        // The stream is only known when the event is.
        let any = StreamName::new(follow_up::OPERATOR)
            .map_err(|error| Unmade::Impossible(error.to_string()))?;
        let (tenant, received) = admission::read(
            &delivery,
            &Binding {
                stream: any,
                tenant,
            },
        );
        if let Content::Unreadable { fault, .. } = &received.content {
            let fault = Fault {
                reason: DeadReason::Unreadable,
                detail: format!("{}: {}", fault.field, fault.reason),
            };
            return Ok(follow_up::in_vain(desk, letter, fault));
        }
        let stream_partition = StreamPartition {
            stream: self.stream_of(raw, &tenant).await?,
            tenant,
            source_partition: follow_up::operator(),
        };
        let head = self.head(&stream_partition).await?;
        let part = self
            .part(desk, stream_partition, head, received, surprises)
            .await?;
        Ok(follow_up::admit(desk, letter, part))
    }

    /// Takes the event through admission and its machines, in a partition of its own.
    async fn part(
        &self,
        desk: &Desk<'_>,
        stream_partition: StreamPartition,
        head: Head,
        received: Received,
        surprises: &Surprises,
    ) -> Result<tidegate_engine::partition::Part, Unmade> {
        let tenant = stream_partition.tenant.clone();
        let limits = PartitionLimits::default();
        let mut partition: Partition<()> =
            Partition::new(stream_partition, self.machines.clone(), head, limits);
        partition.reset(surprises);
        partition.offer(received, (), desk.at);
        let wanted = partition.wanted(usize::MAX);
        if !wanted.is_empty() {
            let found = self.store.load_entities(&tenant, wanted.clone()).await?;
            partition.loaded(&wanted, found);
        }
        let allowance = Allowance {
            events_max: 1,
            bytes_max: DELIVERY_BYTES_MAX,
        };
        match partition.prepare(allowance) {
            Prepared::Part(part) => Ok(*part),
            Prepared::Waiting | Prepared::Empty => Err(Unmade::Impossible(
                "an entity's stored data cannot be read; run `tidegate verify`".to_owned(),
            )),
        }
    }

    async fn stream_of(&self, raw: &Raw<'_>, tenant: &TenantId) -> Result<StreamName, Unmade> {
        if let Some(stream) = raw.stream {
            return Ok(stream.clone());
        }
        let heads = self
            .store
            .stream_heads(tenant, raw.source_partition)
            .await?;
        match heads.as_slice() {
            [only] => Ok(only.stream_partition.stream.clone()),
            _ => Err(Unmade::Impossible(format!(
                "it can be read now, and nothing says which stream `{}` is; name it with --stream",
                raw.source_partition.source
            ))),
        }
    }

    async fn head(&self, stream_partition: &StreamPartition) -> Result<Head, StoreError> {
        let heads = self
            .store
            .stream_heads(&stream_partition.tenant, &stream_partition.source_partition)
            .await?;
        let head = heads
            .into_iter()
            .find(|head| head.stream_partition == *stream_partition);
        Ok(head.map_or_else(Head::default, |head| Head {
            next_sequence: head.next_sequence,
            chain_head: head.chain_head,
        }))
    }

    async fn entity(
        &self,
        tenant: &TenantId,
        machine: &MachineName,
        key: &EntityKey,
    ) -> Result<Option<StoredEntity>, StoreError> {
        let name = EntityName {
            tenant: tenant.clone(),
            machine: machine.clone(),
            key: key.clone(),
        };
        let found = self.store.load_entities(tenant, vec![name]).await?;
        Ok(found.into_iter().next())
    }
}

/// A delivery that is offered again.
struct Raw<'r> {
    source_partition: &'r SourcePartition,
    payload: &'r bytes::Bytes,
    stream: Option<&'r StreamName>,
}

/// Why no batch was made.
enum Unmade {
    Impossible(String),
    Store(StoreError),
}

impl From<StoreError> for Unmade {
    fn from(error: StoreError) -> Self {
        Unmade::Store(error)
    }
}

fn dead_effect<'e>(effects: &'e [Effect], machine: &MachineName) -> Option<&'e Effect> {
    effects.iter().find(|effect| effect.machine == *machine)
}
