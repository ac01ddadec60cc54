//! What happens to processes and to who owns what: crashes, stalls, rebalances, two owners at once.

use std::time::Duration;

use tidegate_connectors::bus::memory::ConsumerId;
use tidegate_engine::position::Epoch;
use tokio::time::Instant;

use crate::faults::Fault;
use crate::workload::PARTITIONS;
use crate::world::World;

/// Something that is done later.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// A process is started in a place, if none runs there.
    Start(usize),
    /// The broker notices that a consumer is gone.
    DropConsumer(ConsumerId),
    /// The broker tells a consumer that a partition is elsewhere.
    Lose(u32, ConsumerId),
    /// The broker gives a partition to whoever runs in a place.
    Assign(u32, usize),
    /// The broker gives a partition once more to who holds it, who has to claim it again.
    AssignAnew(u32, ConsumerId),
    /// A stalled process goes on. Its partitions had these epochs when it stalled.
    Thaw(usize, ConsumerId, Vec<(u32, Option<Epoch>)>),
    /// A partition that was asked back and not given back is taken away.
    EndRevoke(u32, ConsumerId, usize),
    /// Of two that were assigned a partition, one loses it.
    EndTwoClaimers {
        partition: u32,
        old: ConsumerId,
        new: ConsumerId,
        claims_before: usize,
    },
    /// Nothing is pending about a partition any more.
    Unlock(u32),
}

impl World {
    /// Does what is due.
    pub(crate) fn act(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.pending = later;
        for (_, action) in due {
            self.stage.trace("world", &format!("{action:?}"));
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        let broker = self.stage.broker.clone();
        match action {
            Action::Start(place) => self.start(place),
            Action::DropConsumer(consumer) => broker.drop_consumer(consumer),
            Action::Lose(partition, from) => broker.lose(partition, from),
            Action::Assign(partition, place) => {
                if let Some(running) = &self.places[place].running {
                    broker.assign(partition, running.consumer);
                }
            }
            Action::AssignAnew(partition, to) => {
                if broker.holders(partition).contains(&to) {
                    broker.assign(partition, to);
                }
            }
            Action::Thaw(place, consumer, epochs) => self.thaw(place, consumer, &epochs),
            Action::EndRevoke(partition, from, place) => {
                if broker.holders(partition).contains(&from) {
                    broker.lose(partition, from);
                    self.carry_out(Action::Assign(partition, place));
                }
                self.locked[partition as usize] = false;
            }
            Action::EndTwoClaimers {
                partition,
                old,
                new,
                claims_before,
            } => {
                self.end_two_claimers(partition, old, new, claims_before);
            }
            Action::Unlock(partition) => self.locked[partition as usize] = false,
        }
    }

    /// Partitions that nobody holds go to a process that is there.
    pub(crate) fn assign_orphans(&mut self) {
        for partition in 0..PARTITIONS {
            if self.locked[partition as usize] || !self.stage.broker.holders(partition).is_empty() {
                continue;
            }
            let awake = self.awake();
            if !awake.is_empty() {
                let place = awake[self.dice.index(awake.len())];
                self.stage.trace(
                    "world",
                    &format!("{partition} goes to {}", self.places[place].name),
                );
                self.carry_out(Action::Assign(partition, place));
            }
        }
    }

    /// Places whose process runs, is not stalled and is not about to end.
    fn awake(&self) -> Vec<usize> {
        let is_awake = |place: &usize| {
            let place = &self.places[*place];
            let running = place.running.as_ref();
            !place.draining
                && running.is_some_and(|it| !it.control.is_frozen() && !it.control.is_killed())
        };
        (0..self.places.len()).filter(is_awake).collect()
    }

    /// Partitions that exactly this consumer holds and about which nothing is pending.
    fn free_partitions(&self, holder: ConsumerId) -> Vec<u32> {
        (0..PARTITIONS)
            .filter(|partition| !self.locked[*partition as usize])
            .filter(|partition| self.stage.broker.holders(*partition) == [holder])
            .collect()
    }

    /// One more thing goes wrong.
    pub(crate) fn disturb(&mut self) {
        let awake = self.awake();
        if awake.is_empty() {
            return;
        }
        let place = awake[self.dice.index(awake.len())];
        let other = awake.iter().copied().find(|other| *other != place);
        let Some(running) = &self.places[place].running else {
            return;
        };
        let (control, observed) = (running.control.clone(), running.observed.clone());
        match (self.dice.between(0, 99), other) {
            (0..=17, _) => control.crash_in(self.dice.between(0, 40)),
            (18..=22, _) => control.kill("just so"),
            (23..=34, _) => control.panic_in(self.dice.between(0, 30)),
            (35..=41, _) => {
                self.places[place].draining = true;
                observed.lock().drain_wanted = true;
            }
            (42..=54, Some(other)) => self.freeze(place, other),
            (55..=66, Some(other)) => self.revoke(place, other),
            (67..=75, Some(other)) => self.lose(place, other),
            (_, Some(other)) => self.two_claimers(place, other),
            _ => {}
        }
    }

    fn consumer(&self, place: usize) -> Option<ConsumerId> {
        self.places[place]
            .running
            .as_ref()
            .map(|running| running.consumer)
    }

    /// A whole process stalls beyond its session: its partitions go to the other one.
    fn freeze(&mut self, place: usize, other: usize) {
        let Some(consumer) = self.consumer(place) else {
            return;
        };
        let partitions = self.free_partitions(consumer);
        if let Some(running) = &self.places[place].running {
            running.control.freeze();
        }
        let session = self.dice.millis(100, 2_000);
        let stall = session + self.dice.millis(100, 6_000);
        // A broker that tells late: for a while two consumers are served.
        let tells_late = self.dice.chance(400);
        let told = if tells_late {
            stall + self.dice.millis(50, 1_500)
        } else {
            session
        };
        let mut epochs = Vec::new();
        for partition in partitions {
            self.locked[partition as usize] = true;
            epochs.push((
                partition,
                self.stage.checkpoint(partition).map(|it| it.epoch),
            ));
            self.later(told, Action::Lose(partition, consumer));
            self.later(session, Action::Assign(partition, other));
            self.later(told.max(session), Action::Unlock(partition));
        }
        self.later(stall, Action::Thaw(place, consumer, epochs));
    }

    fn thaw(&mut self, place: usize, consumer: ConsumerId, epochs: &[(u32, Option<Epoch>)]) {
        if self.place_of(consumer) != Some(place) {
            return;
        }
        for (partition, epoch) in epochs {
            if self.stage.checkpoint(*partition).map(|it| it.epoch) > *epoch {
                self.stage.count(Fault::Zombie);
            }
        }
        self.places[place].since = Instant::now();
        if let Some(running) = &self.places[place].running {
            running.control.thaw();
        }
    }

    fn revoke(&mut self, place: usize, other: usize) {
        let (Some(from), Some(to)) = (self.consumer(place), self.consumer(other)) else {
            return;
        };
        for partition in self.some_of(from) {
            self.locked[partition as usize] = true;
            self.stage.trace(
                "world",
                &format!("revoke {partition} from {}", self.places[place].name),
            );
            self.stage.broker.revoke(partition, from, Some(to));
            self.later(
                Duration::from_secs(8),
                Action::EndRevoke(partition, from, other),
            );
        }
    }

    fn lose(&mut self, place: usize, other: usize) {
        let Some(from) = self.consumer(place) else {
            return;
        };
        for partition in self.some_of(from) {
            self.locked[partition as usize] = true;
            self.stage.trace(
                "world",
                &format!("lose {partition} from {}", self.places[place].name),
            );
            self.stage.broker.lose(partition, from);
            let wait = self.dice.millis(0, 300);
            self.later(wait, Action::Assign(partition, other));
            self.later(wait, Action::Unlock(partition));
        }
    }

    /// A partition is assigned to a second consumer while the first still has it.
    fn two_claimers(&mut self, place: usize, other: usize) {
        let (Some(old), Some(new)) = (self.consumer(place), self.consumer(other)) else {
            return;
        };
        for partition in self.free_partitions(old) {
            self.locked[partition as usize] = true;
            let claims_before = self.stage.claims();
            self.stage.trace(
                "world",
                &format!("{partition} goes to {} too", self.places[other].name),
            );
            if self.dice.chance(250) {
                self.stage.broker.assign(partition, old);
            }
            self.stage.broker.assign(partition, new);
            if self.dice.chance(600) {
                let wait = self.dice.millis(0, 400);
                self.later(wait, Action::AssignAnew(partition, old));
            }
            let wait = self.dice.millis(500, 4_000);
            self.later(
                wait,
                Action::EndTwoClaimers {
                    partition,
                    old,
                    new,
                    claims_before,
                },
            );
        }
    }

    fn end_two_claimers(
        &mut self,
        partition: u32,
        old: ConsumerId,
        new: ConsumerId,
        claims_before: usize,
    ) {
        self.locked[partition as usize] = false;
        let name = |consumer| self.place_of(consumer).map(|place| self.places[place].name);
        let claimants = self.stage.claimants(partition, claims_before);
        let last = claimants.last().map(String::as_str);
        if claimants
            .iter()
            .any(|claimant| Some(claimant.as_str()) == name(new))
        {
            let fault = if last == name(new) {
                Fault::TwoClaimersNewLast
            } else {
                Fault::TwoClaimersOldLast
            };
            self.stage.count(fault);
        }
        let loser = if self.dice.chance(500) { old } else { new };
        if self.stage.broker.holders(partition).len() > 1 {
            self.stage.broker.lose(partition, loser);
        }
    }

    /// One or two partitions of a consumer about which nothing is pending.
    fn some_of(&mut self, holder: ConsumerId) -> Vec<u32> {
        let mut free = self.free_partitions(holder);
        while free.len() > 2 || (free.len() == 2 && self.dice.chance(600)) {
            free.remove(self.dice.index(free.len()));
        }
        free
    }
}
