//! A binary with the whole command line of `tidegate` and a machine written in Rust. Copy the file into a
//! crate of your own that depends on `tidegate` and `tidegate-engine`.
//!
//! ```text
//! cargo run --example own_machines -- ingest visits.ndjson --tenant acme
//! cargo run --example own_machines -- state get visitor ada --tenant acme
//! cargo run --example own_machines -- verify
//! ```
//!
//! With `COUNTED="visit.begun visit.ended"` in the environment a second machine counts events of these types.

use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_engine::error::InvalidValue;
use tidegate_engine::event::EventType;
use tidegate_engine::machine::typed::{Answer, Entity, Typed, TypedEvent, TypedMachine};
use tidegate_engine::machine::{
    Change, Definition, EventContext, Fault, FieldType, Processor, Verdict,
};
use tidegate_engine::position::Version;
use tidegate_engine::state::{EntityKey, EntityState, MachineName, StateData, Status};

fn main() -> Result<ExitCode, InvalidValue> {
    Ok(tidegate::cli::main_with(machines()?))
}

pub(crate) fn machines() -> Result<Vec<Arc<dyn Processor>>, InvalidValue> {
    let mut machines: Vec<Arc<dyn Processor>> = vec![Arc::new(Typed::new(Visitor)?)];
    if let Ok(counted) = std::env::var("COUNTED") {
        let types: Vec<&str> = counted.split_whitespace().collect();
        machines.push(Arc::new(Counter::new(&types)?));
    }
    Ok(machines)
}

/// Counts the visits of each visitor, who is the event's subject.
struct Visitor;

#[derive(Default, Serialize, Deserialize)]
struct Visits {
    visits: i64,
}

impl TypedMachine for Visitor {
    type Data = Visits;

    const NAME: &'static str = "visitor";
    const VERSION: u64 = 1;
    const SOURCE: &'static str = include_str!("own_machines.rs");
    const STATES: &'static [&'static str] = &["new", "known"];
    const EVENTS: &'static [&'static str] = &["visit.begun"];
    const FIELDS: &'static [(&'static str, FieldType)] = &[("visits", FieldType::Int)];

    fn apply(
        &self,
        _: &TypedEvent<'_>,
        mut visitor: Entity<'_, Visits>,
    ) -> Result<Answer<Visits>, Fault> {
        visitor.data.visits += 1;
        Ok(visitor.to("known"))
    }
}

/// Counts, for each subject, the events of each type on a list that is known when the process starts. So are
/// its fields, and no struct has them: it is a [`Processor`] itself.
struct Counter {
    definition: Definition,
    event_types: Vec<EventType>,
}

impl Counter {
    /// The list may only grow, at its end: its length is the version.
    fn new(types: &[&str]) -> Result<Self, InvalidValue> {
        let machine = MachineName::new("counter")?;
        let (version, text) = (types.len() as u64, types.join("\n"));
        let counting = Status::new("counting")?;
        let event_types = types.iter().map(|name| EventType::new(name));
        let mut event_types = event_types.collect::<Result<Vec<EventType>, InvalidValue>>()?;
        event_types.sort();
        let fields = types.iter().map(|name| (field(name), "int")).collect();
        Ok(Self {
            definition: Definition {
                hash: Definition::hash_of(&machine, version, &text),
                machine,
                version,
                text: text.into(),
                states: vec![counting.clone()],
                initial: counting,
                fields,
            },
            event_types,
        })
    }
}

/// `visit.begun` is counted in the column `visit_begun`.
fn field(event_type: &str) -> String {
    event_type.replace('.', "_")
}

impl Processor for Counter {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn event_types(&self) -> &[EventType] {
        &self.event_types
    }

    fn initial(&self) -> EntityState {
        let fields = self.definition.fields.iter();
        let zeros = fields.map(|(name, _)| (name.clone(), Value::from(0)));
        EntityState {
            status: self.definition.initial.clone(),
            version: Version(0),
            data: StateData(zeros.collect()),
        }
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        TypedEvent { context: *context }.subject_as_key()
    }

    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        // An entity of a shorter list lacks the fields that came later.
        let mut data = self.initial().data;
        data.0.extend(entity.data.0.clone());
        let field = field(context.event.event_type.as_str());
        let count = data.get(&field).and_then(Value::as_i64).unwrap_or(0);
        data.0.insert(field, Value::from(count + 1));
        Verdict::Applied(Change {
            status: entity.status.clone(),
            data,
            emitted: Vec::new(),
        })
    }
}
