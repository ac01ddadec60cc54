//! The seam of a machine: what the engine asks of it and what it may answer.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::event::{Event, EventType, Subject};
use crate::hash::{Hash128, hash_fields};
use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};

/// The identity of a machine's definition: append-only and content-addressed in the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    /// The machine.
    pub machine: MachineName,
    /// The author's version: only grows; the same version never gets another text.
    pub version: u64,
    /// The definition's text: the YAML file, or for a Rust processor the text its author gives it.
    pub text: Arc<str>,
    /// Hash of machine, version and text: what every effect names.
    pub hash: Hash128,
    /// Every status an entity can have.
    pub states: Vec<Status>,
    /// The status of an entity that does not exist yet.
    pub initial: Status,
    /// The declared fields in order of declaration, with their type's name: the columns of the view.
    pub fields: Vec<(String, &'static str)>,
}

impl Definition {
    /// The content address of a definition.
    pub fn hash_of(machine: &MachineName, version: u64, text: &str) -> Hash128 {
        hash_fields(
            "tidegate.definition",
            &[
                machine.as_str().as_bytes(),
                &version.to_le_bytes(),
                text.as_bytes(),
            ],
        )
    }
}

/// One event as a machine sees it.
#[derive(Clone, Copy, Debug)]
pub struct EventContext<'e> {
    /// The event.
    pub event: &'e Event,
    /// When it was admitted: stamped once and logged, so that a replay sees the same.
    pub admitted_at: Timestamp,
}

impl EventContext<'_> {
    /// `event.time` as machines see it: the envelope's, else the admission time.
    pub fn time(&self) -> Timestamp {
        self.event
            .time
            .as_ref()
            .map_or(self.admitted_at, |time| time.moment)
    }
}

/// What a machine makes of one event and one entity.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// The entity moves.
    Applied(Change),
    /// The machine says no, with its reason. Nothing changes.
    Rejected(String),
    /// The machine does not care in this status. Nothing changes.
    Ignored,
    /// The machine cannot say: a person has to look. Nothing changes.
    Dead(Fault),
}

/// The state after an event, and what it emits.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// The status after.
    pub status: Status,
    /// The fields after.
    pub data: StateData,
    /// Emitted events, in order.
    pub emitted: Vec<Emitted>,
}

/// An event that a machine emits; the engine stamps the rest from its cause.
#[derive(Clone, PartialEq, Debug)]
pub struct Emitted {
    /// The type.
    pub event_type: EventType,
    /// The subject; the cause's when absent.
    pub subject: Option<Subject>,
    /// The payload: canonical JSON text.
    pub data: Arc<str>,
}

/// Why an event is dead.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeadReason {
    /// An expression failed.
    Expression,
    /// The key is no text of 1 to 256 bytes.
    Key,
    /// No transition fits, and the machine says `on_unmatched: dead_letter`.
    Unmatched,
    /// The entity's data would be larger than an entity may be.
    Size,
    /// More hops of emitted events than allowed.
    Loop,
    /// The machine panicked, again and again.
    Panic,
    /// The database refused this event's values.
    Store,
    /// The same idempotency key with other content.
    Conflict,
    /// No event could be read from the delivery.
    Unreadable,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [DeadReason; 9] = [
        DeadReason::Expression,
        DeadReason::Key,
        DeadReason::Unmatched,
        DeadReason::Size,
        DeadReason::Loop,
        DeadReason::Panic,
        DeadReason::Store,
        DeadReason::Conflict,
        DeadReason::Unreadable,
    ];

    /// The lower-case name in logs, tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadReason::Expression => "expression",
            DeadReason::Key => "key",
            DeadReason::Unmatched => "unmatched",
            DeadReason::Size => "size",
            DeadReason::Loop => "loop",
            DeadReason::Panic => "panic",
            DeadReason::Store => "store",
            DeadReason::Conflict => "conflict",
            DeadReason::Unreadable => "unreadable",
        }
    }

    /// The reason of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// A machine's failure on one event: the reason and where in the definition, never the values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The reason.
    pub reason: DeadReason,
    /// Machine, version, line and expression, or another sentence that holds no value of the event.
    pub detail: String,
}

/// The reason where no transition takes an event, the same for machines in YAML and in Rust.
pub(super) fn unmatched_reason(event_type: &EventType, status: &Status) -> String {
    format!("no transition takes `{event_type}` in status `{status}`")
}

/// A machine. Pure: the same context and entity give the same bytes, in every process.
pub trait Processor: Send + Sync + 'static {
    /// The definition that effects name.
    fn definition(&self) -> &Definition;

    /// The event types it listens to, sorted.
    fn event_types(&self) -> &[EventType];

    /// An entity before its first event.
    fn initial(&self) -> EntityState;

    /// The key of the entity that the event concerns.
    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault>;

    /// What the event does to the entity.
    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict;
}

/// The active machines, found by event type in order of name.
#[derive(Clone, Default)]
pub struct MachineSet {
    machines: Vec<Arc<dyn Processor>>,
    by_type: std::collections::BTreeMap<EventType, Vec<usize>>,
}

impl MachineSet {
    /// A set of machines; of two with one name the later wins.
    pub fn new(machines: impl IntoIterator<Item = Arc<dyn Processor>>) -> Self {
        let mut by_name = std::collections::BTreeMap::new();
        for machine in machines {
            by_name.insert(machine.definition().machine.clone(), machine);
        }
        let machines: Vec<Arc<dyn Processor>> = by_name.into_values().collect();
        let mut by_type: std::collections::BTreeMap<EventType, Vec<usize>> =
            std::collections::BTreeMap::new();
        for (index, machine) in machines.iter().enumerate() {
            for event_type in machine.event_types() {
                let listening = by_type.entry(event_type.clone()).or_default();
                // A type that a machine lists twice is still offered to it once.
                if listening.last() != Some(&index) {
                    listening.push(index);
                }
            }
        }
        Self { machines, by_type }
    }

    /// Every machine, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Processor>> {
        self.machines.iter()
    }

    /// The machines that listen to an event type, in order of name.
    pub fn listening_to<'s>(
        &'s self,
        event_type: &EventType,
    ) -> impl Iterator<Item = &'s Arc<dyn Processor>> + use<'s> {
        self.by_type
            .get(event_type)
            .into_iter()
            .flatten()
            .filter_map(|index| self.machines.get(*index))
    }

    /// The machine of that name.
    pub fn get(&self, name: &MachineName) -> Option<&Arc<dyn Processor>> {
        self.machines
            .iter()
            .find(|machine| machine.definition().machine == *name)
    }
}

impl std::fmt::Debug for MachineSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(
                self.machines
                    .iter()
                    .map(|machine| &machine.definition().machine),
            )
            .finish()
    }
}
