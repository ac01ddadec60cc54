//! What a source task does about its slots: begins claims and takes them in, one at a time for each
//! partition, and gives back what was revoked. What is due is decided by the slot.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::Addr;
use tidegate_engine::error::ErrorKind;
use tidegate_engine::position::SourcePartition;
use tidegate_engine::tenant::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::claim::{self, Claimed, Outcome};
use super::slot::{self, Action, ClaimTerms, Held, Slot};
use super::{Command, SourceTask};
use crate::committer::Committer;
use crate::failpoint::{self, Failpoint};
use crate::ownership::{Ownership, Standing};
use crate::supervisor::Route;

impl SourceTask {
    /// Does what is due about each slot, and lets go of claims that nobody wants any more.
    pub(super) async fn look_after(&mut self, claims: &mpsc::Sender<Claimed>) {
        let now = Instant::now();
        let partitions: Vec<u32> = self.lock().keys().copied().collect();
        for partition in partitions {
            let under_way = self.claiming.contains_key(&partition);
            let random = self.context.seams.ids.next_u64();
            let action = self
                .lock()
                .get_mut(&partition)
                .map_or(Action::Nothing, |slot| slot.look(now, under_way, random));
            match action {
                Action::Nothing => {}
                Action::Claim(terms) => self.claim(partition, terms, claims),
                // Where the bus itself has failed, no decision about a partition mends it.
                Action::AwaitDecision if self.failed.is_none() => {
                    self.await_decision(partition, claims);
                }
                Action::AwaitDecision => {}
                Action::Release => self.release(partition).await,
            }
        }
        let slots = self.slots.clone();
        let slots = slots
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (partition, wanted) in &mut self.claiming {
            if !slots.get(partition).is_some_and(Slot::wants_claim) {
                *wanted = None;
            }
        }
    }

    /// When a slot is due although nothing moves. While a claim of it is under way there is nothing to be
    /// done about it, and the claim's return wakes the task: a moment that has passed would spin.
    pub(super) fn due(&self) -> Option<Instant> {
        let slots = self.lock();
        let idle = slots
            .iter()
            .filter(|(partition, _)| !self.claiming.contains_key(partition));
        idle.filter_map(|(_, slot)| slot.due()).min()
    }

    fn claim(&mut self, partition: u32, terms: ClaimTerms, claims: &mpsc::Sender<Claimed>) {
        let Some(request) = self.request(partition, terms) else {
            return;
        };
        let claims = claims.clone();
        self.context.seams.spawner.spawn(Box::pin(async move {
            // The receiver is gone when the task has ended: then nobody wants the claim.
            let _ = claims.send(request.run().await).await;
        }));
    }

    /// Claims a stopped partition once an operator has moved its checkpoint.
    fn await_decision(&mut self, partition: u32, claims: &mpsc::Sender<Claimed>) {
        let Some(request) = self.request(partition, ClaimTerms::AFTER_DECISION) else {
            return;
        };
        let claims = claims.clone();
        self.context.seams.spawner.spawn(Box::pin(async move {
            let _ = claims.send(request.run_after_decision().await).await;
        }));
    }

    fn request(&mut self, partition: u32, terms: ClaimTerms) -> Option<claim::Request> {
        let incarnation = |slot: &Slot| slot.incarnation.clone();
        let incarnation = self.lock().get(&partition).map(incarnation)?;
        let (wanted, abandoned) = oneshot::channel();
        self.claiming.insert(partition, Some(wanted));
        Some(claim::Request {
            context: self.context.clone(),
            bus: self.source.bus.clone(),
            start: self.source.start,
            source_partition: self.source_partition(partition),
            incarnation,
            terms,
            abandoned,
            ahead: None,
            slots: self.slots.clone(),
        })
    }

    pub(super) async fn take_claim(&mut self, claimed: Claimed) {
        let partition = claimed.source_partition.partition;
        // A claim of an assignment that is over is worth nothing: somebody may have claimed after it.
        let is_wanted = self.claiming.remove(&partition).flatten().is_some()
            && self.lock().get(&partition).is_some_and(Slot::wants_claim);
        if !is_wanted {
            return;
        }
        let (checkpoint, open_before) = match claimed.outcome {
            Outcome::Owned(checkpoint, open_before) => (checkpoint, open_before),
            Outcome::NotAssigned => {
                tracing::info!(partition = %claimed.source_partition, "not assigned any more");
                self.lock().remove(&partition);
                return;
            }
            Outcome::Stopped(reason) => {
                if let Some(slot) = self.lock().get_mut(&partition) {
                    slot.quarantine(reason);
                }
                return;
            }
            // Only what nobody wants is abandoned.
            Outcome::Abandoned => return,
        };
        failpoint::hit(Failpoint::Claimed);
        self.meters.claimed();
        let next_offset = checkpoint.progress.next_offset;
        let (ownership, committer) = slot::take_ownership(
            &self.context,
            &self.source,
            &checkpoint,
            open_before.clone(),
            self.commit_slots.clone(),
            self.moved.clone(),
        );
        tracing::info!(partition = %claimed.source_partition, epoch = checkpoint.epoch.0, revision = checkpoint.revision.0, next_offset = next_offset.0, "claimed");
        if let Some(slot) = self.lock().get_mut(&partition) {
            slot.held = Held::Owned {
                ownership: ownership.clone(),
                committer: committer.clone(),
            };
            slot.ended = None;
            slot.unread = None;
        }
        self.receiving = None;
        self.bring_up(&ownership, &committer, open_before).await;
        let bus = self.source.bus.clone();
        let sought = tokio::select! {
            biased;
            // A seek may wait for input that never comes. Nothing is read any more.
            _ = self.commands.wait_for(|command| *command != Command::Run) => return,
            sought = bus.seek(partition, next_offset) => sought,
        };
        if let Err(error) = sought {
            ownership.end(match error.kind() {
                // Taken from us meanwhile: the bus is asked before the next claim.
                ErrorKind::Fenced => Standing::Fenced,
                _ => Standing::Broken {
                    reason: error.to_string(),
                },
            });
        }
    }

    /// Has the partitions made of the tenants with open work, which no new event of theirs may ever come to.
    async fn bring_up(
        &mut self,
        ownership: &Arc<Ownership>,
        committer: &Addr<Committer>,
        open_before: BTreeSet<TenantId>,
    ) {
        for tenant in open_before {
            let tenant = self.tenants.get(&tenant);
            let made = tenant.supervisor.send(Route {
                ownership: ownership.clone(),
                committer: committer.clone(),
                events: Vec::new(),
                admitted_at: self.context.seams.clock.now(),
            });
            let mut commands = self.commands.clone();
            let made = tokio::select! {
                biased;
                _ = commands.wait_for(|command| *command == Command::Stop) => return,
                made = made => made,
            };
            if made.is_err() {
                return ownership.end(Standing::Broken {
                    reason: "a tenant's supervisor died".to_owned(),
                });
            }
        }
    }

    /// Gives a partition back. While the bus is away it is tried again: who is to have it next waits.
    async fn release(&mut self, partition: u32) {
        self.receiving = None;
        let released = self.source.bus.release(partition).await;
        let mut slots = self.lock();
        let Err(error) = released else {
            slots.remove(&partition);
            return;
        };
        match error.kind() {
            // It is elsewhere already.
            ErrorKind::Fenced => drop(slots.remove(&partition)),
            ErrorKind::Transient => {
                let Some(slot) = slots.get_mut(&partition) else {
                    return;
                };
                let attempt = slot.failures() + 1;
                let random = self.context.seams.ids.next_u64();
                slot.leave_later(
                    Instant::now() + self.context.options.back_off.wait(attempt, random),
                );
                tracing::warn!(partition = %self.source_partition(partition), attempt, %error, "not given back, trying again");
            }
            ErrorKind::Permanent | ErrorKind::Bug => {
                if let Some(slot) = slots.get_mut(&partition) {
                    slot.keep(format!(
                        "it was asked back and cannot be given back: {error}. Restart this node, so \
                         that another can have it"
                    ));
                }
            }
        }
    }

    pub(super) fn source_partition(&self, partition: u32) -> SourcePartition {
        SourcePartition {
            source: self.source.bus.source().clone(),
            partition,
        }
    }
}
