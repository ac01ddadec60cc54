//! The kinds of faults, how often each took effect, and how likely each is in one seed.

use std::collections::BTreeMap;

use crate::seed::Dice;

/// A kind of fault. It is counted when it took effect, not when it was planned.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    Crash,
    DrainedRestart,
    Revoked,
    Lost,
    TwoClaimersOldLast,
    TwoClaimersNewLast,
    Zombie,
    Redelivered,
    Reordered,
    BusTransient,
    StoreTransient,
    UnknownCommitted,
    UnknownNotCommitted,
    UnknownLate,
    Fenced,
    KnownKey,
    OtherVersion,
    BusyRow,
    Stalled,
    MachinePanic,
    ActorPanic,
    RefusedValue,
    UnexpectedError,
    DedupeRotation,
}

impl Fault {
    pub const ALL: [Fault; 24] = [
        Fault::Crash,
        Fault::DrainedRestart,
        Fault::Revoked,
        Fault::Lost,
        Fault::TwoClaimersOldLast,
        Fault::TwoClaimersNewLast,
        Fault::Zombie,
        Fault::Redelivered,
        Fault::Reordered,
        Fault::BusTransient,
        Fault::StoreTransient,
        Fault::UnknownCommitted,
        Fault::UnknownNotCommitted,
        Fault::UnknownLate,
        Fault::Fenced,
        Fault::KnownKey,
        Fault::OtherVersion,
        Fault::BusyRow,
        Fault::Stalled,
        Fault::MachinePanic,
        Fault::ActorPanic,
        Fault::RefusedValue,
        Fault::UnexpectedError,
        Fault::DedupeRotation,
    ];

    /// What counts as one, for the table.
    pub fn meaning(self) -> &'static str {
        match self {
            Fault::Crash => "node killed at a seam call or between two, never heard of again",
            Fault::DrainedRestart => "node drained, stopped and started again",
            Fault::Revoked => "partition asked back, drained and given back",
            Fault::Lost => "partition lost without a drain",
            Fault::TwoClaimersOldLast => {
                "two nodes assigned at once, the older holder claimed last"
            }
            Fault::TwoClaimersNewLast => {
                "two nodes assigned at once, the newer holder claimed last"
            }
            Fault::Zombie => "node stalled, its partition claimed by another, resumed",
            Fault::Redelivered => "records delivered again to the same owner",
            Fault::Reordered => "partitions read in another order",
            Fault::BusTransient => "bus call failed with a transient error",
            Fault::StoreTransient => "store call failed with a transient error",
            Fault::UnknownCommitted => "reply of a durable commit lost",
            Fault::UnknownNotCommitted => "commit lost on its way, outcome unknown to the owner",
            Fault::UnknownLate => "commit of unknown outcome arrived later, after other calls",
            Fault::Fenced => "commit refused: another epoch or revision",
            Fault::KnownKey => "commit surprised by a key that was admitted elsewhere",
            Fault::OtherVersion => "commit surprised by another version of an entity",
            Fault::BusyRow => "commit surprised by a row that another transaction holds",
            Fault::Stalled => "store call that took longer than the stall limit",
            Fault::MachinePanic => "machine panicked on an event",
            Fault::ActorPanic => "actor or task of a node panicked",
            Fault::RefusedValue => "store refused an event's values",
            Fault::UnexpectedError => {
                "store failed with an unknown code, source partition stopped, operator restarted"
            }
            Fault::DedupeRotation => "dedupe tables rotated while events were in flight",
        }
    }
}

/// How often each kind took effect.
#[derive(Clone, Default)]
pub struct Counts(BTreeMap<Fault, u64>);

impl Counts {
    pub fn add(&mut self, fault: Fault, times: u64) {
        *self.0.entry(fault).or_default() += times;
    }

    pub fn merge(&mut self, other: &Counts) {
        for (fault, times) in &other.0 {
            self.add(*fault, *times);
        }
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// Faults that were caused. What follows by itself from duplicates, shared entities and two owners
    /// is not among them.
    pub fn injected(&self) -> u64 {
        let follows = [Fault::Fenced, Fault::KnownKey, Fault::OtherVersion];
        let caused = self.0.iter().filter(|(fault, _)| !follows.contains(fault));
        caused.map(|(_, times)| times).sum()
    }

    /// The table, as Markdown.
    pub fn table(&self) -> String {
        let mut table = String::from("| fault | times | what counts as one |\n|---|---:|---|\n");
        for fault in Fault::ALL {
            let row = format!("| {fault:?} | {} | {} |\n", self.of(fault), fault.meaning());
            table.push_str(&row);
        }
        table
    }
}

/// How likely each fault of a call is, per mille, in one seed. Every seed leaves some kinds out and
/// has others many times: what hides behind another fault shows where that one is missing.
#[derive(Clone, Copy, Default)]
pub struct Rates {
    pub store_transient: u32,
    pub unknown_committed: u32,
    pub unknown_not_committed: u32,
    pub unknown_late: u32,
    pub busy: u32,
    pub stall: u32,
    pub unexpected: u32,
    pub bus_transient: u32,
    pub rewind: u32,
    pub repeat: u32,
    pub reorder: u32,
    /// Calls that take time at all.
    pub slow: u32,
    /// What happens to nodes and assignments: per mille of the world's ticks.
    pub disturbance: u32,
}

impl Rates {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self {
            slow: 300,
            ..Self::default()
        }
    }

    pub fn chaotic(dice: &mut Dice) -> Self {
        let mut rate = |usual: u32| match dice.between(0, 5) {
            0 => 0,
            1..=4 => usual,
            _ => usual * 3,
        };
        Self {
            store_transient: rate(20),
            unknown_committed: rate(25),
            unknown_not_committed: rate(20),
            unknown_late: rate(20),
            busy: rate(30),
            stall: rate(3),
            unexpected: rate(3),
            bus_transient: rate(15),
            rewind: rate(30),
            repeat: rate(30),
            reorder: rate(200),
            slow: 500,
            disturbance: rate(70).max(20),
        }
    }
}
