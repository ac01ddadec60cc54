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
}

impl FairQueue {
    /// An empty queue; `quantum_bytes` a turn.
    pub fn new(quantum_bytes: usize) -> Self {
        Self {
            quantum_bytes: quantum_bytes.max(1),
            backlogs: BTreeMap::new(),
            turn: VecDeque::new(),
        }
    }

    /// A tenant has so much ready now.
    pub fn set(&mut self, tenant: &TenantId, events: usize, bytes: usize) {
        if events == 0 {
            if self.backlogs.remove(tenant).is_some() {
                self.turn.retain(|waiting| waiting != tenant);
            }
            return;
        }
        match self.backlogs.get_mut(tenant) {
            Some(backlog) => (backlog.events, backlog.bytes) = (events, bytes),
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
        self.backlogs.values().map(|backlog| backlog.events).sum()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.backlogs.values().map(|backlog| backlog.bytes).sum()
    }

    /// Fills a batch: tenants in turn, each by its deficit, until the batch is full or all have had
    /// their say. `may_go` leaves tenants out for now. What is granted no longer counts as ready.
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
                backlog.deficit_bytes += self.quantum_bytes;
                let average = (backlog.bytes / backlog.events).max(1);
                // At least one event a turn, so that an event larger than the quantum still goes.
                let by_deficit = (backlog.deficit_bytes / average).max(1);
                let events = by_deficit
                    .min(backlog.events)
                    .min(events_left)
                    .min((bytes_left / average).max(1));
                let bytes = (events * average).min(backlog.bytes);
                backlog.deficit_bytes = backlog.deficit_bytes.saturating_sub(bytes);
                backlog.events -= events;
                backlog.bytes -= bytes;
                if backlog.events == 0 {
                    backlog.deficit_bytes = 0;
                }
                events_left -= events;
                bytes_left = bytes_left.saturating_sub(bytes);
                let grant = grants.entry(tenant.clone()).or_insert(Allowance {
                    events_max: 0,
                    bytes_max: 0,
                });
                grant.events_max += events;
                grant.bytes_max += bytes;
                passes_without_grant = 0;
            }
            self.turn.push_back(tenant);
        }
        let spent: Vec<TenantId> = self
            .backlogs
            .iter()
            .filter(|(_, backlog)| backlog.events == 0)
            .map(|(tenant, _)| tenant.clone())
            .collect();
        for tenant in spent {
            self.set(&tenant, 0, 0);
        }
        // Events differ in size: the grant counts them, the batch's own bound guards the bytes.
        grants
            .into_iter()
            .map(|(tenant, grant)| {
                (
                    tenant,
                    Allowance {
                        bytes_max: batch.bytes_max,
                        ..grant
                    },
                )
            })
            .collect()
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
    fn who_is_left_out_keeps_the_turn_and_nobody_is_forgotten() {
        let mut queue = FairQueue::new(100);
        queue.set(&tenant("a"), 10, 1_000);
        queue.set(&tenant("b"), 10, 1_000);
        let batch = Allowance {
            events_max: 4,
            bytes_max: 10_000,
        };
        let grants = queue.grant(batch, |who| *who != tenant("a"));
        assert_eq!(
            grants,
            vec![(
                tenant("b"),
                Allowance {
                    events_max: 4,
                    bytes_max: 10_000
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
    fn an_event_larger_than_quantum_and_batch_still_goes() {
        let mut queue = FairQueue::new(10);
        queue.set(&tenant("a"), 1, 1_000_000);
        let grants = queue.grant(
            Allowance {
                events_max: 10,
                bytes_max: 100,
            },
            |_| true,
        );
        assert_eq!(grants.len(), 1);
    }
}
