//! The bus as a node reaches it: calls take time and fail, records come again, partitions come in
//! another order, as the seed says. Sees what is acknowledged and compares it with the store at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tidegate_connectors::bus::memory::{BusFault, BusFaults, BusOperation, MemoryBus, Redelivery};
use tidegate_engine::bus::{BusError, BusEvent, EventBus, Place, ReceiveLimit, Start};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::{Offset, SourceName};

use crate::check::Check;
use crate::control::Control;
use crate::faults::Fault;
use crate::seed::Dice;
use crate::stage::{SOURCE, Stage};

/// Disturbs what the broker does for one consumer.
pub struct BusDisturbance {
    pub stage: Arc<Stage>,
    pub dice: Mutex<Dice>,
}

impl BusFaults for BusDisturbance {
    fn at_start(&self, operation: BusOperation, _: Option<u32>) -> (Duration, BusFault) {
        let mut dice = self.dice.lock().unwrap();
        let slow = dice.chance(self.stage.rates.slow);
        let delay = if slow {
            dice.millis(1, 30)
        } else {
            Duration::ZERO
        };
        if self.stage.is_chaotic() && dice.chance(self.stage.rates.bus_transient) {
            let error = BusError::Unavailable {
                source_name: SourceName::new(SOURCE).unwrap(),
                detail: format!("simulated at {operation:?}"),
            };
            return (delay, BusFault::Fail(error));
        }
        (delay, BusFault::Proceed)
    }

    fn choose(&self, readable: &[u32]) -> usize {
        let mut dice = self.dice.lock().unwrap();
        if readable.len() < 2 || !self.stage.is_chaotic() || !dice.chance(self.stage.rates.reorder)
        {
            return 0;
        }
        self.stage.count(Fault::Reordered);
        1 + dice.index(readable.len() - 1)
    }

    fn records_max(&self, _: u32, most: usize) -> usize {
        let mut dice = self.dice.lock().unwrap();
        if dice.chance(300) {
            dice.between(1, most.max(1) as u64) as usize
        } else {
            most
        }
    }

    fn redeliver(&self, _: u32, position: Offset) -> Redelivery {
        let mut dice = self.dice.lock().unwrap();
        if !self.stage.is_chaotic() || position == Offset(0) {
            return Redelivery::None;
        }
        let back = Offset(position.0.saturating_sub(dice.between(1, 20)));
        if dice.chance(self.stage.rates.rewind) {
            return Redelivery::Rewind(back);
        }
        if dice.chance(self.stage.rates.repeat) {
            Redelivery::Repeat(back)
        } else {
            Redelivery::None
        }
    }
}

/// The way of one process to the bus.
pub struct BusSeam {
    pub inner: MemoryBus,
    pub stage: Arc<Stage>,
    pub control: Arc<Control>,
    /// Behind the last record that was delivered of each partition, since its seek.
    pub delivered: Mutex<BTreeMap<u32, Offset>>,
}

impl BusSeam {
    /// One call from its start to its end; a process that died meanwhile never hears of it.
    async fn call<T>(
        &self,
        name: String,
        call: impl Future<Output = Result<T, BusError>> + Send,
        told: impl Fn(&T) -> String + Send,
    ) -> Result<T, BusError> {
        if !self.control.lives_on() || !self.trace(&format!("> {name}")) {
            return std::future::pending().await;
        }
        let result = call.await;
        if let Err(BusError::Unavailable { .. }) = &result {
            self.stage.count(Fault::BusTransient);
        }
        let outcome = match &result {
            Ok(value) => told(value),
            Err(error) => error.to_string(),
        };
        if !self.control.lives_on() || !self.trace(&format!("< {name}: {outcome}")) {
            return std::future::pending().await;
        }
        result
    }

    fn trace(&self, line: &str) -> bool {
        self.stage.trace(&self.control.name, line)
    }

    fn note(&self, event: &BusEvent) {
        match event {
            BusEvent::Lost { .. } => self.stage.count(Fault::Lost),
            BusEvent::Delivered {
                partition,
                deliveries,
            } => {
                let mut delivered = self.delivered.lock().unwrap();
                let behind = delivered.entry(*partition).or_insert(Offset(0));
                if deliveries
                    .first()
                    .is_some_and(|delivery| delivery.offset < *behind)
                {
                    self.stage.count(Fault::Redelivered);
                }
                *behind = deliveries
                    .last()
                    .map_or(*behind, |delivery| delivery.next.max(*behind));
            }
            BusEvent::Assigned { .. } | BusEvent::Revoked { .. } | BusEvent::Ended { .. } => {}
        }
    }

    /// Nothing is acknowledged before its commit was awaited: every record below is settled in the
    /// checkpoint as it stands now.
    fn check_acknowledged(&self, partition: u32, low_watermark: Offset) {
        if let Some(offset) = self.stage.first_unsettled(partition, low_watermark) {
            let checkpoint = self.stage.checkpoint(partition);
            self.stage.violation(Check::Acknowledged, format!(
                "partition {partition}: {low_watermark} was acknowledged, {offset} is not settled in {checkpoint:?}"
            ));
        }
    }
}

#[async_trait]
impl EventBus for BusSeam {
    fn source(&self) -> &SourceName {
        self.inner.source()
    }

    async fn receive(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, BusError> {
        let events = self
            .call("receive".to_owned(), self.inner.receive(limit), |events| {
                told(events)
            })
            .await?;
        events.iter().for_each(|event| self.note(event));
        Ok(events)
    }

    async fn news(&self) -> Vec<BusEvent> {
        let events = self.inner.news().await;
        events.iter().for_each(|event| self.note(event));
        events
    }

    async fn comes_behind(&self, partition: u32) -> Result<Vec<Place>, BusError> {
        let call = self.inner.comes_behind(partition);
        self.call(format!("comes_behind {partition}"), call, |places| {
            format!("{places:?}")
        })
        .await
    }

    async fn is_empty_to(&self, from: Option<Offset>, to: Place) -> Result<bool, BusError> {
        self.inner.is_empty_to(from, to).await
    }

    async fn start_offset(&self, partition: u32, start: Start) -> Result<Offset, BusError> {
        let call = self.inner.start_offset(partition, start);
        self.call(format!("start_offset {partition}"), call, Offset::to_string)
            .await
    }

    async fn fingerprint_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> Result<Option<Hash128>, BusError> {
        let call = self.inner.fingerprint_at(partition, offset);
        self.call(
            format!("fingerprint_at {partition} {offset}"),
            call,
            |found| format!("{found:?}"),
        )
        .await
    }

    async fn seek(&self, partition: u32, offset: Offset) -> Result<(), BusError> {
        let call = self.inner.seek(partition, offset);
        self.call(format!("seek {partition} {offset}"), call, |()| {
            "done".to_owned()
        })
        .await?;
        self.delivered.lock().unwrap().insert(partition, offset);
        Ok(())
    }

    async fn acknowledge(&self, partition: u32, low_watermark: Offset) -> Result<(), BusError> {
        let call = async {
            self.inner.acknowledge(partition, low_watermark).await?;
            self.check_acknowledged(partition, low_watermark);
            Ok(())
        };
        self.call(
            format!("acknowledge {partition} {low_watermark}"),
            call,
            |()| "done".to_owned(),
        )
        .await
    }

    async fn release(&self, partition: u32) -> Result<(), BusError> {
        let call = async {
            self.inner.release(partition).await?;
            self.stage.count(Fault::Revoked);
            Ok(())
        };
        self.call(format!("release {partition}"), call, |()| "done".to_owned())
            .await
    }

    async fn still_assigned(&self, partition: u32) -> Result<bool, BusError> {
        self.call(
            format!("still_assigned {partition}"),
            self.inner.still_assigned(partition),
            bool::to_string,
        )
        .await
    }

    async fn end_offset(&self, partition: u32) -> Result<Option<Offset>, BusError> {
        self.call(
            format!("end_offset {partition}"),
            self.inner.end_offset(partition),
            |end| format!("{end:?}"),
        )
        .await
    }
}

/// What was received, in few words.
fn told(events: &[BusEvent]) -> String {
    let told: Vec<String> = events
        .iter()
        .map(|event| match event {
            BusEvent::Assigned { partition, .. } => format!("assigned {partition}"),
            BusEvent::Revoked { partition } => format!("revoked {partition}"),
            BusEvent::Lost { partition } => format!("lost {partition}"),
            BusEvent::Delivered {
                partition,
                deliveries,
            } => {
                let ends = deliveries.first().zip(deliveries.last());
                let (first, last) =
                    ends.map_or((0, 0), |(first, last)| (first.offset.0, last.offset.0));
                format!("{partition}:{first}..={last} ({})", deliveries.len())
            }
            BusEvent::Ended { partition, end } => format!("ended {partition} at {end}"),
        })
        .collect();
    told.join(", ")
}
