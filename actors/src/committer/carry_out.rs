//! Carries out what the commit protocol decides: hands a batch over, settles it and acknowledges, or
//! resets the partitions so that they apply their events again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context as ActixContext, WrapFuture};
use tidegate_engine::commit::{CommitBatch, CommitReply, EntityRow, Surprises};
use tidegate_engine::commit_protocol::Next;
use tidegate_engine::partition::EventRef;
use tidegate_engine::planted::{Bug, active};
use tidegate_engine::position::Offset;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::batch::{self, Assembled};
use super::messages::{CheckpointRead, Replied};
use super::notices;
use super::{Committer, InFlight, SURPRISES_IN_A_ROW_MAX};
use crate::failpoint::{self, Failpoint};
use crate::ownership::Standing;
use crate::partition::{Reset, Settle};
use crate::store_calls::StoreCalls;

/// The one event whose values the store refuses.
struct Condemned {
    tenant: TenantId,
    event: EventRef,
    detail: String,
}

impl Condemned {
    /// Of a batch of one event, it is that.
    fn the_one_of(assembled: &Assembled, detail: String) -> Option<Self> {
        let (tenant, event) = assembled.only_event.clone()?;
        Some(Self {
            tenant,
            event,
            detail,
        })
    }

    /// Only the partition that has it in its queue hears of it: it forgets it when the event is settled,
    /// and another one would remember it for ever.
    fn told_to(&self, tenant: &TenantId) -> Option<(EventRef, String)> {
        (self.tenant == *tenant).then(|| (self.event, self.detail.clone()))
    }
}

impl Committer {
    // --- commit -------------------------------------------------------------------------------

    pub(super) fn submit(&mut self, assembled: Assembled, context: &mut ActixContext<Self>) {
        let mut counts = self.counts;
        counts.add(&assembled.counts);
        let progress = self
            .ownership
            .tracker()
            .progress_with(&assembled.offsets, counts);
        if active(Bug::AcknowledgeBeforeCommit) {
            let (bus, partition) = (self.bus.clone(), self.ownership.source_partition.partition);
            let low_watermark = progress.next_offset;
            self.context.seams.spawner.spawn(Box::pin(async move {
                let _ = bus.acknowledge(partition, low_watermark).await;
            }));
        }
        let at = self.context.seams.clock.now();
        let terms = self.protocol.terms(0);
        let (assembled, batch) = assembled.into_batch(
            &self.ownership.source_partition,
            terms,
            progress,
            at,
            &self.fresh_rows,
        );
        self.in_flight = Some(InFlight {
            assembled,
            batch: Arc::new(batch),
            made: Instant::now(),
        });
        self.hand_over(context);
    }

    fn hand_over(&mut self, context: &mut ActixContext<Self>) {
        let Some(in_flight) = &self.in_flight else {
            return;
        };
        self.protocol.submitted();
        self.ownership
            .meters
            .handed_over(in_flight.assembled.events);
        let (calls, slots, batch) = (
            StoreCalls::of(&self.context),
            self.slots.clone(),
            in_flight.batch.clone(),
        );
        let (ownership, waits) = (self.ownership.clone(), self.waits_for_slot.clone());
        waits.store(true, Ordering::Relaxed);
        let address = context.address();
        let span = tracing::debug_span!(
            "commit",
            partition = %ownership.source_partition,
            epoch = ownership.epoch.0,
            revision = batch.revision.0,
            events = in_flight.assembled.events,
        );
        let committed = async move {
            let waited = Instant::now();
            let slot = slots.acquire_owned().await;
            waits.store(false, Ordering::Relaxed);
            let began = Instant::now();
            let meters = &ownership.meters;
            meters
                .slot_wait_seconds
                .record((began - waited).as_secs_f64());
            if !ownership.is_owned() {
                // It would be fenced, and those behind it would wait for that.
                return;
            }
            failpoint::hit(Failpoint::BeforeCommit);
            let reply = calls.commit(batch).await;
            meters.commit_seconds.record(began.elapsed().as_secs_f64());
            failpoint::hit(Failpoint::AfterCommit);
            drop(slot);
            // A closed mailbox means that the ownership is over; the checkpoint knows what happened.
            let _ = address.send(Replied(reply)).await;
        };
        let spawner = &self.context.seams.spawner;
        spawner.spawn(Box::pin(committed.instrument(span)));
    }

    pub(super) fn replied(
        &mut self,
        reply: Result<CommitReply, StoreError>,
        context: &mut ActixContext<Self>,
    ) {
        let Some(in_flight) = &self.in_flight else {
            return;
        };
        self.ownership.meters.replied(&reply);
        if let Err(error) = &reply {
            tracing::warn!(partition = %self.ownership.source_partition, epoch = self.ownership.epoch.0, %error, "commit failed");
        }
        let events = in_flight.assembled.events;
        let next = self
            .protocol
            .on_reply(reply, events, self.context.seams.ids.next_u64());
        self.follow(next, context);
    }

    pub(super) fn checkpoint_read(
        &mut self,
        CheckpointRead(read): CheckpointRead,
        context: &mut ActixContext<Self>,
    ) {
        let Some(in_flight) = &self.in_flight else {
            return;
        };
        let events = in_flight.assembled.events;
        let next = self
            .protocol
            .on_checkpoint(read, events, self.context.seams.ids.next_u64());
        self.follow(next, context);
    }

    fn follow(&mut self, next: Next, context: &mut ActixContext<Self>) {
        // Who waits for another's rows only waits; who is surprised without end counts as stalled.
        match &next {
            Next::Reapply(surprises) if surprises.busy.is_empty() => self.surprises_in_a_row += 1,
            _ => self.surprises_in_a_row = 0,
        }
        if self.surprises_in_a_row <= SURPRISES_IN_A_ROW_MAX {
            self.progressed_at = Instant::now();
        }
        match next {
            Next::Settle { new_rows } => self.settle(new_rows, context),
            Next::Reapply(surprises) => {
                self.surprises += 1;
                self.hits_in_store += surprises.known_keys.len() as u64;
                self.ownership.meters.surprised(&surprises);
                self.reset(surprises, None, context);
            }
            Next::Condemn { detail } => {
                let condemned = self
                    .in_flight
                    .as_ref()
                    .and_then(|in_flight| Condemned::the_one_of(&in_flight.assembled, detail));
                if let Some(Condemned {
                    tenant,
                    event,
                    detail,
                }) = &condemned
                {
                    tracing::error!(tenant_id = %tenant, partition = %self.ownership.source_partition, ?event, %detail, "the store refuses an event's values: it is dead");
                }
                self.reset(Surprises::default(), condemned, context);
            }
            Next::SubmitAgain(wait) => {
                context.run_later(wait, |committer, context| {
                    if committer.ownership.is_owned() {
                        committer.hand_over(context);
                    }
                });
            }
            Next::MakeSmaller => {
                let partition = &self.ownership.source_partition;
                let in_flight = self.in_flight.as_ref();
                let events = in_flight.map_or(0, |it| it.assembled.events);
                tracing::warn!(%partition, epoch = self.ownership.epoch.0, events, "the batch fails again and again: half of it is tried");
                self.reset(Surprises::default(), None, context);
            }
            Next::ReadCheckpoint(wait) => self.read_checkpoint(wait, context),
            Next::Drop => {
                self.ownership.end(Standing::Fenced);
                self.retire(context);
            }
            Next::ClaimAgain => self.broken(
                "a batch that was given up was written after all; the store knows which",
                context,
            ),
            Next::Stop {
                detail,
                nothing_written,
            } => {
                let known = if nothing_written {
                    "nothing of the batch was written"
                } else {
                    "whether the batch was written is not known here, the next claim finds out"
                };
                let reason = format!("{detail}; {known}. Fix the cause, then restart this node");
                self.ownership.end(Standing::Stopped { reason });
                self.retire(context);
            }
        }
    }

    fn read_checkpoint(&mut self, wait: Duration, context: &mut ActixContext<Self>) {
        let (calls, address) = (StoreCalls::of(&self.context), context.address());
        let source_partition = self.ownership.source_partition.clone();
        self.context.seams.spawner.spawn(Box::pin(async move {
            tokio::time::sleep(wait).await;
            let read = calls.checkpoint(source_partition).await;
            let _ = address.send(CheckpointRead(read)).await;
        }));
    }

    // --- settle and acknowledge ---------------------------------------------------------------

    fn settle(&mut self, new_rows: Option<Vec<EntityRow>>, context: &mut ActixContext<Self>) {
        let Some(InFlight {
            assembled,
            batch,
            made,
        }) = self.in_flight.take()
        else {
            return;
        };
        let partition = &self.ownership.source_partition;
        let revision = batch.revision.0;
        let _span = tracing::debug_span!("settle", %partition, revision).entered();
        self.commits += 1;
        self.measure(&assembled, &batch, made.elapsed());
        notices::tell(&self.ownership.source_partition, &assembled.notices);
        if !assembled.settlements.is_empty() {
            let partition = self.ownership.source_partition.partition;
            self.bus.settled(partition, assembled.settlements);
        }
        self.counts = batch.progress.counts;
        self.fresh_rows = new_rows
            .as_deref()
            .map(|rows| batch::created(&batch, rows))
            .unwrap_or_default();
        let mut rows = new_rows.as_deref().unwrap_or_default();
        for (tenant, created) in &assembled.created {
            let (mine, rest) = rows.split_at(rows.len().min(*created));
            rows = rest;
            let settle = Settle {
                new_rows: new_rows.as_ref().map(|_| mine.to_vec()),
                revision: batch.revision,
            };
            self.tell(tenant, settle, context);
            if let Some(lane) = self.lanes.get_mut(tenant) {
                lane.prepared -= 1;
                lane.busy_until = None;
            }
            self.look_at(tenant);
        }
        let low_watermark = self.ownership.settle(&assembled.offsets);
        self.acknowledge(low_watermark, context);
        if new_rows.is_none() {
            // What was made meanwhile may name entities whose rows nobody told us.
            return self.reset(Surprises::default(), None, context);
        }
        self.advance(context);
    }

    /// Counts what is durable now.
    fn measure(&mut self, assembled: &Assembled, batch: &CommitBatch, since_made: Duration) {
        let counts = &assembled.counts;
        let hits = self.hits_in_store.min(counts.duplicates + counts.conflicts);
        self.hits_in_store -= hits;
        let meters = &self.ownership.meters;
        meters.settled(batch, assembled.events, counts, since_made, hits);
        for (tenant, counts) in &assembled.counts_by_tenant {
            if let Some(lane) = self.lanes.get(tenant) {
                lane.meters.settled(counts);
            }
        }
    }

    /// One acknowledgement at a time, always of the latest low watermark: a hint for the broker's tools.
    fn acknowledge(&mut self, low_watermark: Offset, context: &mut ActixContext<Self>) {
        if self.acknowledging || low_watermark <= self.acknowledged {
            return;
        }
        self.acknowledging = true;
        self.acknowledged = low_watermark;
        let (bus, partition) = (self.bus.clone(), self.ownership.source_partition.partition);
        let (done, answer) = tokio::sync::oneshot::channel();
        let began = Instant::now();
        let place = &self.ownership.source_partition;
        let span = tracing::debug_span!("acknowledge", partition = %place, low_watermark = low_watermark.0);
        let acknowledged = async move {
            failpoint::hit(Failpoint::BeforeAcknowledge);
            // The receiver is gone when the ownership is over: then nobody waits for this hint.
            let _ = done.send(bus.acknowledge(partition, low_watermark).await);
        };
        let spawner = &self.context.seams.spawner;
        spawner.spawn(Box::pin(acknowledged.instrument(span)));
        let answered = answer.into_actor(self).map(move |acknowledged, committer, context| {
            committer.acknowledging = false;
            let took = began.elapsed().as_secs_f64();
            committer.ownership.meters.acknowledge_seconds.record(took);
            if let Ok(Err(error)) = acknowledged {
                tracing::warn!(partition = %committer.ownership.source_partition, %error, "not acknowledged; the checkpoint holds all the same");
            }
            let low_watermark = committer.ownership.tracker().low_watermark();
            committer.acknowledge(low_watermark, context);
        });
        context.spawn(answered);
    }

    /// Drops every prepared batch; the partitions apply their events again.
    fn reset(
        &mut self,
        surprises: Surprises,
        condemned: Option<Condemned>,
        context: &mut ActixContext<Self>,
    ) {
        self.in_flight = None;
        self.next = None;
        self.preparing = None;
        self.round += 1;
        let busy_until = Instant::now() + self.context.options.busy_wait;
        for name in &surprises.busy {
            if let Some(lane) = self.lanes.get_mut(&name.tenant) {
                lane.busy_until = Some(busy_until);
            }
        }
        if !surprises.busy.is_empty() {
            context.run_later(self.context.options.busy_wait, |committer, context| {
                committer.advance(context)
            });
        }
        let surprises = Arc::new(surprises);
        // An idle partition has nothing to drop, and may have been put away meanwhile.
        let busy = self.lanes.iter().filter(|(_, lane)| !lane.is_idle());
        let tenants: Vec<TenantId> = busy.map(|(tenant, _)| tenant.clone()).collect();
        for tenant in tenants {
            let reset = Reset {
                surprises: surprises.clone(),
                condemned: condemned.as_ref().and_then(|it| it.told_to(&tenant)),
            };
            self.tell(&tenant, reset, context);
            if let Some(lane) = self.lanes.get_mut(&tenant) {
                lane.prepared = 0;
            }
            self.look_at(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_engine::partition::{EventRef, Part};
    use tidegate_engine::position::Offset;
    use tidegate_engine::tenant::TenantId;

    use super::{Assembled, Condemned};

    #[test]
    fn only_the_partition_that_has_a_condemned_event_hears_of_it() {
        let tenant = |name: &str| TenantId::new(name).unwrap();
        let assembled = Assembled::new(vec![Part {
            tenant: Some(tenant("a")),
            events: 1,
            offsets: vec![Offset(7)],
            ..Part::default()
        }]);
        let condemned = Condemned::the_one_of(&assembled, "no".to_owned()).unwrap();
        let told = Some((EventRef::Delivered(Offset(7)), "no".to_owned()));
        assert_eq!(condemned.told_to(&tenant("a")), told);
        assert_eq!(condemned.told_to(&tenant("b")), None);
    }
}
