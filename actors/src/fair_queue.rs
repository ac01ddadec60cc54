//! Deficit round robin by bytes: which tenants fill the next batch of a source partition, and how much
//! each. A tenant with a thousand times the backlog gets no more of a batch than its turn.
//! After M. Shreedhar and G. Varghese, "Efficient Fair Queuing Using Deficit Round Robin", 1995.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use tidegate_engine::partition::Allowance;
use tidegate_engine::tenant::TenantId;

/// What a tenant has ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Backlog {
    events: usize,
    bytes: usize,
    deficit_bytes: usize,
}

/// The tenants of one source partition that have something ready, and whose turn it is.
#[derive(Debug)]
pub struct FairQueue {
    quantum_bytes: usize,
    backlogs: BTreeMap<TenantId, Backlog>,
    turn: VecDeque<TenantId>,
    /// Of all backlogs.
    events: usize,
    bytes: usize,
}

impl FairQueue {
    /// An empty queue; `quantum_bytes` a turn.
    pub fn new(quantum_bytes: usize) -> Self {
        Self {
            quantum_bytes: quantum_bytes.max(1),
            backlogs: BTreeMap::new(),
            turn: VecDeque::new(),
            events: 0,
            bytes: 0,
        }
    }

    /// A tenant has so much ready now.
    pub fn set(&mut self, tenant: &TenantId, events: usize, bytes: usize) {
        if events == 0 {
            if let Some(backlog) = self.backlogs.remove(tenant) {
                self.turn.retain(|waiting| waiting != tenant);
                self.events -= backlog.events;
                self.bytes -= backlog.bytes;
            }
            return;
        }
        self.events += events;
        self.bytes += bytes;
        match self.backlogs.get_mut(tenant) {
            Some(backlog) => {
                self.events -= backlog.events;
                self.bytes -= backlog.bytes;
                (backlog.events, backlog.bytes) = (events, bytes);
            }
            None => {
                self.backlogs.insert(
                    tenant.clone(),
                    Backlog {
                        events,
                        bytes,
                        deficit_bytes: 0,
                    },
                );
                self.turn.push_back(tenant.clone());
            }
        }
    }

    /// True when no tenant has anything ready.
    pub fn is_empty(&self) -> bool {
        self.backlogs.is_empty()
    }

    /// Events ready, of all tenants.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True when a tenant has anything ready.
    pub fn is_ready(&self, tenant: &TenantId) -> bool {
        self.backlogs.contains_key(tenant)
    }

    /// Fills a batch: tenants in turn, each by its deficit, until the batch is full or all have had
    /// their say. `may_go` leaves tenants out for now. What is granted no longer counts as ready.
    ///
    /// The grants' bytes are within the batch's together, unless its first event is larger. Events of a
    /// tenant are taken for as large as their average; what the batch has left over is shared out, so
    /// that a few larger ones fit all the same.
    pub fn grant(
        &mut self,
        batch: Allowance,
        may_go: impl Fn(&TenantId) -> bool,
    ) -> Vec<(TenantId, Allowance)> {
        let mut grants: BTreeMap<TenantId, Allowance> = BTreeMap::new();
        let (mut events_left, mut bytes_left) = (batch.events_max, batch.bytes_max);
        let mut passes_without_grant = 0;
        while events_left > 0 && bytes_left > 0 && passes_without_grant < self.turn.len() {
            let Some(tenant) = self.turn.pop_front() else {
                break;
            };
            passes_without_grant += 1;
            if let Some(backlog) = self.backlogs.get_mut(&tenant)
                && may_go(&tenant)
                && backlog.events > 0
            {
                let average = backlog.bytes.div_ceil(backlog.events).max(1);
                if average > bytes_left && !grants.is_empty() {
                    // It does not fit any more, and begins the next batch.
                    self.turn.push_front(tenant);
                    break;
                }
                backlog.deficit_bytes += self.quantum_bytes;
                // At least one event a turn, so that an event larger than the quantum still goes.
                let by_deficit = (backlog.deficit_bytes / average).max(1);
                let events = by_deficit
                    .min(backlog.events)
                    .min(events_left)
                    .min((bytes_left / average).max(1));
                let bytes = (events * average).min(backlog.bytes);
                // No more than a turn is carried over, also by who was cut short again and again.
                let left = backlog.deficit_bytes.saturating_sub(bytes);
                backlog.deficit_bytes = left.min(self.quantum_bytes);
                backlog.events -= events;
                backlog.bytes -= bytes;
                self.events -= events;
                self.bytes -= bytes;
                if backlog.events == 0 {
                    // Rounding may have left some; they go with the backlog.
                    self.bytes -= backlog.bytes;
                    backlog.bytes = 0;
                    backlog.deficit_bytes = 0;
                }
                events_left -= events;
                bytes_left = bytes_left.saturating_sub(bytes);
                let grant = grants.entry(tenant.clone()).or_insert(Allowance {
                    events_max: 0,
                    bytes_max: 0,
                    written_bytes_max: 0,
                    before: batch.before,
                });
                grant.events_max += events;
                grant.bytes_max += bytes;
                passes_without_grant = 0;
            }
            self.turn.push_back(tenant);
        }
        // All at once: one by one would look through every turn for each.
        self.backlogs.retain(|_, backlog| backlog.events > 0);
        let backlogs = &self.backlogs;
        self.turn.retain(|tenant| backlogs.contains_key(tenant));
        let share = bytes_left / grants.len().max(1);
        // What events will write is not known yet: each is allowed as much.
        let events: usize = grants.values().map(|grant| grant.events_max).sum();
        for grant in grants.values_mut() {
            grant.bytes_max += share;
            let share = batch.written_bytes_max as u128 * grant.events_max as u128;
            grant.written_bytes_max = (share / events.max(1) as u128) as usize;
        }
        grants.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_engine::partition::Allowance;
    use tidegate_engine::tenant::TenantId;

    use super::FairQueue;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn a_noisy_tenant_gets_no_more_than_its_turn() {
        let mut queue = FairQueue::new(1_000);
        queue.set(&tenant("noisy"), 100_000, 10_000_000);
        queue.set(&tenant("quiet"), 20, 2_000);
        let grants = queue.grant(
            Allowance {
                events_max: 100,
                bytes_max: 100_000,
                written_bytes_max: usize::MAX,
                before: None,
            },
            |_| true,
        );
        let of = |name: &str| {
            grants
                .iter()
                .find(|(who, _)| *who == tenant(name))
                .map_or(0, |(_, a)| a.events_max)
        };
        assert_eq!(of("quiet"), 20, "all that the quiet tenant has");
        assert_eq!(of("noisy"), 80, "the rest of the batch");
    }

    #[test]
    fn two_noisy_tenants_share_every_batch_however_long_they_are_noisy() {
        let mut queue = FairQueue::new(1_000);
        let batch = Allowance {
            events_max: 30,
            bytes_max: 1_000_000,
            written_bytes_max: usize::MAX,
            before: None,
        };
        for _ in 0..1_000 {
            queue.set(&tenant("a"), 1_000, 100_000);
            queue.set(&tenant("b"), 1_000, 100_000);
            let grants = queue.grant(batch, |_| true);
            assert_eq!(grants.len(), 2, "{grants:?}");
            let least = grants.iter().map(|(_, grant)| grant.events_max).min();
            assert!(least >= Some(10), "a turn each at least: {grants:?}");
        }
    }

    #[test]
    fn who_is_left_out_keeps_the_turn_and_nobody_is_forgotten() {
        let mut queue = FairQueue::new(100);
        queue.set(&tenant("a"), 10, 1_000);
        queue.set(&tenant("b"), 10, 1_000);
        let batch = Allowance {
            events_max: 4,
            bytes_max: 10_000,
            written_bytes_max: usize::MAX,
            before: None,
        };
        let grants = queue.grant(batch, |who| *who != tenant("a"));
        assert_eq!(
            grants,
            vec![(
                tenant("b"),
                Allowance {
                    events_max: 4,
                    bytes_max: 10_000,
                    written_bytes_max: usize::MAX,
                    before: None,
                }
            )]
        );
        let mut served = 0;
        while !queue.is_empty() {
            served += queue
                .grant(batch, |_| true)
                .iter()
                .map(|(_, grant)| grant.events_max)
                .sum::<usize>();
        }
        assert_eq!(served, 16);
    }

    #[test]
    fn the_sums_are_those_of_the_backlogs_whatever_is_said_and_granted() {
        let mut queue = FairQueue::new(500);
        let batch = Allowance {
            events_max: 40,
            bytes_max: 7_001,
            written_bytes_max: usize::MAX,
            before: None,
        };
        for round in 0..300_usize {
            let of = |n: usize| (round * 7 + n * 13) % 50;
            for n in 0..20 {
                queue.set(&tenant(&format!("t{n}")), of(n), of(n) * 101 + n);
            }
            queue.grant(batch, |who| who.as_str() != "t3");
            let sums = queue.backlogs.values().fold((0, 0), |(events, bytes), it| {
                (events + it.events, bytes + it.bytes)
            });
            assert_eq!((queue.events(), queue.bytes()), sums, "round {round}");
            let mut turns: Vec<_> = queue.turn.iter().cloned().collect();
            turns.sort();
            assert!(queue.backlogs.keys().eq(turns.iter()), "one turn each");
        }
    }

    #[test]
    fn an_event_larger_than_quantum_and_batch_still_goes() {
        let mut queue = FairQueue::new(10);
        queue.set(&tenant("a"), 1, 1_000_000);
        let grants = queue.grant(
            Allowance {
                events_max: 10,
                bytes_max: 100,
                written_bytes_max: usize::MAX,
                before: None,
            },
            |_| true,
        );
        assert_eq!(grants.len(), 1);
    }

    #[test]
    fn what_all_tenants_may_put_into_a_batch_together_is_within_its_bytes() {
        let batch = Allowance {
            events_max: 1_000,
            bytes_max: 100_000,
            written_bytes_max: usize::MAX,
            before: None,
        };
        for (tenants, events, bytes) in [
            (50, 100, 100_000),
            (50, 3, 10_000),
            (7, 90, 9_999),
            (200, 1, 99_999),
            (3, 2, 1_000),
            (100, 1_000, 1_000_001),
        ] {
            let mut queue = FairQueue::new(1_000);
            let names: Vec<_> = (0..tenants).map(|n| tenant(&format!("t{n}"))).collect();
            for name in &names {
                queue.set(name, events, bytes);
            }
            let (mut batches, mut served) = (0, std::collections::BTreeSet::new());
            while served.len() < tenants {
                let grants = queue.grant(batch, |_| true);
                let sum: usize = grants.iter().map(|(_, grant)| grant.bytes_max).sum();
                assert!(sum <= batch.bytes_max, "{sum} bytes of {tenants} tenants");
                served.extend(grants.into_iter().map(|(who, _)| who));
                batches += 1;
                assert!(batches <= 2 * tenants, "everybody has a turn");
            }
        }
    }

    #[test]
    fn a_tenant_whose_event_does_not_fit_any_more_begins_the_next_batch() {
        let mut queue = FairQueue::new(1_000);
        queue.set(&tenant("a"), 5, 500);
        queue.set(&tenant("large"), 1, 99_950);
        queue.set(&tenant("z"), 5, 500);
        let batch = Allowance {
            events_max: 100,
            bytes_max: 100_000,
            written_bytes_max: usize::MAX,
            before: None,
        };
        let of = |grants: Vec<(TenantId, Allowance)>| -> Vec<String> {
            let names = grants.iter().map(|(who, _)| who.as_str().to_owned());
            names.collect()
        };
        assert_eq!(of(queue.grant(batch, |_| true)), ["a"]);
        assert_eq!(of(queue.grant(batch, |_| true)), ["large"]);
        assert_eq!(of(queue.grant(batch, |_| true)), ["z"]);
    }
}
