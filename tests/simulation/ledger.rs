//! The machines of the simulation. `ledger` does not commute: its chain names every event that moved
//! it, in order, so that a swapped, lost or doubled event shows. `tally` sees the same events under
//! another key, so that an event has two effects and entities are shared more widely. They also set each
//! other off: what the ledger emits the tally takes up, again and again, and then the ledger once more.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tidegate_engine::event::{EventData, EventType};
use tidegate_engine::hash::hash_fields;
use tidegate_engine::machine::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, MachineSet, Processor, Verdict,
};
use tidegate_engine::position::Version;
use tidegate_engine::state::{EntityKey, EntityState, MachineName, StateData, Status};

pub const ADD: &str = "ledger.add";
pub const TAKE: &str = "ledger.take";
pub const LOOK: &str = "ledger.look";
pub const ODD: &str = "ledger.odd";
pub const BOOM: &str = "ledger.boom";
pub const KEYLESS: &str = "ledger.keyless";
/// A type that only the tally listens to: its effects commute.
pub const TALLY: &str = "tally.count";
/// A type that no machine listens to.
pub const NOISE: &str = "noise";
/// What the ledger emits and the tally takes up, and emits again while any is left.
pub const MILESTONE: &str = "ledger.milestone";
/// What the tally emits at the end of that, and the ledger takes up.
pub const BONUS: &str = "ledger.bonus";

/// More than the hops that an event may have behind it.
const ENDLESS: u64 = 40;

/// Every so many events an account says so.
pub const MILESTONE_EVERY: u64 = 4;
/// From this balance an account is `rich`.
pub const RICH_FROM: i64 = 60;

/// What a panicking machine says; the panic hook of the simulation keeps quiet about it.
pub const PANIC: &str = "simulated: the machine panics";

struct Ledger {
    definition: Definition,
    types: Vec<EventType>,
}

struct Tally {
    definition: Definition,
    types: Vec<EventType>,
}

/// Both machines.
pub fn machines() -> MachineSet {
    let ledger = Ledger {
        definition: definition("ledger", &["open", "rich"]),
        types: types(&[ADD, BONUS, BOOM, KEYLESS, LOOK, ODD, TAKE]),
    };
    let tally = Tally {
        definition: definition("tally", &["counting"]),
        types: types(&[ADD, MILESTONE, TAKE, TALLY]),
    };
    let machines: [Arc<dyn Processor>; 2] = [Arc::new(ledger), Arc::new(tally)];
    MachineSet::new(machines)
}

fn definition(name: &str, states: &[&str]) -> Definition {
    let machine = MachineName::new(name).unwrap();
    let text = format!("simulation {name} 1");
    let states: Vec<Status> = states
        .iter()
        .map(|state| Status::new(state).unwrap())
        .collect();
    Definition {
        hash: Definition::hash_of(&machine, 1, &text),
        machine,
        version: 1,
        text: Arc::from(text),
        initial: states[0].clone(),
        states,
        fields: Vec::new(),
    }
}

fn types(names: &[&str]) -> Vec<EventType> {
    names
        .iter()
        .map(|name| EventType::new(name).unwrap())
        .collect()
}

fn first(definition: &Definition, data: Value) -> EntityState {
    let Value::Object(data) = data else {
        panic!("an entity's data is an object")
    };
    EntityState {
        status: definition.initial.clone(),
        version: Version(0),
        data: StateData(data),
    }
}

fn data_of(context: &EventContext<'_>) -> Map<String, Value> {
    match &context.event.data {
        EventData::Json(bytes) => serde_json::from_slice(bytes).unwrap(),
        EventData::Absent | EventData::Base64(_) => Map::new(),
    }
}

fn group_of(context: &EventContext<'_>) -> String {
    let data = data_of(context);
    let group = data.get("group").and_then(Value::as_str);
    group.unwrap_or("none").to_owned()
}

fn amount_of(context: &EventContext<'_>) -> i64 {
    data_of(context)
        .get("amount")
        .and_then(Value::as_i64)
        .unwrap_or(0)
}

fn number(entity: &EntityState, field: &str) -> i64 {
    entity.data.get(field).and_then(Value::as_i64).unwrap()
}

fn fault(reason: DeadReason, detail: &str) -> Fault {
    Fault {
        reason,
        detail: detail.to_owned(),
    }
}

impl Processor for Ledger {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn event_types(&self) -> &[EventType] {
        &self.types
    }

    fn initial(&self) -> EntityState {
        first(
            &self.definition,
            json!({"balance": 0, "chain": "", "count": 0}),
        )
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        if context.event.event_type.as_str() == KEYLESS {
            return Err(fault(DeadReason::Key, "the event names no account"));
        }
        let subject = context
            .event
            .subject
            .as_ref()
            .map_or("", |subject| subject.as_str());
        EntityKey::new(subject).map_err(|_| fault(DeadReason::Key, "the subject is no key"))
    }

    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        let (balance, amount) = (number(entity, "balance"), amount_of(context));
        let balance = match context.event.event_type.as_str() {
            ADD | BONUS => balance + amount,
            TAKE if amount > balance => {
                return Verdict::Rejected("not enough on the account".to_owned());
            }
            TAKE => balance - amount,
            LOOK => return Verdict::Ignored,
            BOOM => panic!("{PANIC}"),
            _ => return Verdict::Dead(fault(DeadReason::Expression, "an odd event")),
        };
        let count = number(entity, "count") + 1;
        let chain = entity.data.get("chain").and_then(Value::as_str).unwrap();
        let chain = link(chain, context.event.id.as_str());
        let Value::Object(data) = json!({"balance": balance, "chain": chain, "count": count})
        else {
            unreachable!()
        };
        let status = Status::new(if balance >= RICH_FROM { "rich" } else { "open" }).unwrap();
        let account = context.event.subject.as_ref().unwrap().as_str();
        let emitted = milestone(account, count as u64, &group_of(context)).map(|data| Emitted {
            event_type: EventType::new(MILESTONE).unwrap(),
            subject: None,
            data: Arc::from(data),
        });
        Verdict::Applied(Change {
            status,
            data: StateData(data),
            emitted: emitted.into_iter().collect(),
        })
    }
}

impl Processor for Tally {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn event_types(&self) -> &[EventType] {
        &self.types
    }

    fn initial(&self) -> EntityState {
        first(&self.definition, json!({"events": 0, "sum": 0}))
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        EntityKey::new(&group_of(context))
            .map_err(|_| fault(DeadReason::Key, "the group is no key"))
    }

    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        let (events, sum) = (
            number(entity, "events") + 1,
            number(entity, "sum") + amount_of(context),
        );
        let Value::Object(data) = json!({"events": events, "sum": sum}) else {
            unreachable!()
        };
        let is_milestone = context.event.event_type.as_str() == MILESTONE;
        let left = data_of(context).get("left").and_then(Value::as_u64);
        let again = left.filter(|_| is_milestone).map(|left| {
            let (event_type, data) = after_milestone(left, &group_of(context));
            Emitted {
                event_type: EventType::new(event_type).unwrap(),
                subject: None,
                data: Arc::from(data),
            }
        });
        Verdict::Applied(Change {
            status: self.definition.initial.clone(),
            data: StateData(data),
            emitted: again.into_iter().collect(),
        })
    }
}

/// The data of the milestone of an account with so many events, if it is one. Some go on beyond all hops,
/// and of some the store refuses the effects or even the record.
fn milestone(account: &str, count: u64, group: &str) -> Option<String> {
    let left = match (count, account.as_bytes().last()) {
        (12, Some(b'1' | b'5')) => ENDLESS,
        _ => count / MILESTONE_EVERY % 3,
    };
    let poison = match (count, account.as_bytes().last()) {
        (8, Some(b'3')) => ",\"poison\":1",
        (8, Some(b'7')) => ",\"poison\":2",
        _ => "",
    };
    count
        .is_multiple_of(MILESTONE_EVERY)
        .then(|| format!("{{\"amount\":1,\"group\":\"{group}\",\"left\":{left}{poison}}}"))
}

/// What the tally emits for a milestone, and its data.
fn after_milestone(left: u64, group: &str) -> (&'static str, String) {
    match left.checked_sub(1) {
        Some(left) => (
            MILESTONE,
            format!("{{\"amount\":1,\"group\":\"{group}\",\"left\":{left}}}"),
        ),
        None => (BONUS, format!("{{\"amount\":2,\"group\":\"{group}\"}}")),
    }
}

/// One link of an account's chain: what came before, and the event.
pub fn link(before: &str, event_id: &str) -> String {
    let hash = hash_fields("simulation.link", &[before.as_bytes(), event_id.as_bytes()]);
    format!("{hash}")[..12].to_owned()
}
