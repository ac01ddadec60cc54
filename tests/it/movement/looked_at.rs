//! An event is decided on its entity as it stands when the decision is committed, also when it moves nothing.

use std::sync::Arc;

use serde_json::json;
use tidegate_actors::NodeOptions;
use tidegate_engine::event::EventType;
use tidegate_engine::machine::{
    Change, Definition, EventContext, Fault, MachineSet, Processor, Verdict,
};
use tidegate_engine::position::Version;
use tidegate_engine::state::{EntityKey, EntityState, MachineName, StateData, Status};

use super::{SECOND, Scene, Script, on_virtual_time};

/// A door that lets nobody in before it is opened.
struct Door {
    definition: Definition,
    types: Vec<EventType>,
}

impl Door {
    fn new() -> Self {
        let machine = MachineName::new("door").unwrap();
        let [closed, open] = ["closed", "open"].map(|name| Status::new(name).unwrap());
        let definition = Definition {
            machine: machine.clone(),
            version: 1,
            text: Arc::from("door 1"),
            hash: Definition::hash_of(&machine, 1, "door 1"),
            states: vec![closed.clone(), open],
            initial: closed,
            fields: Vec::new(),
        };
        Self {
            definition,
            types: ["opened", "entered"]
                .map(|it| EventType::new(it).unwrap())
                .into(),
        }
    }
}

impl Processor for Door {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn event_types(&self) -> &[EventType] {
        &self.types
    }

    fn initial(&self) -> EntityState {
        EntityState {
            status: self.definition.initial.clone(),
            version: Version(0),
            data: StateData::default(),
        }
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        Ok(EntityKey::new(context.event.subject.as_ref().unwrap().as_str()).unwrap())
    }

    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        let opens = context.event.event_type.as_str() == "opened";
        if !opens && entity.status.as_str() == "closed" {
            return Verdict::Rejected("it is closed".to_owned());
        }
        Verdict::Applied(Change {
            status: Status::new("open").unwrap(),
            data: entity.data.clone(),
            emitted: Vec::new(),
        })
    }
}

#[test]
fn a_refusal_is_never_decided_on_what_another_source_partition_has_moved_since() {
    on_virtual_time(async {
        let mut scene = Scene::new(2, Script::default());
        scene.machines = MachineSet::new([Arc::new(Door::new()) as Arc<dyn Processor>]);
        let _node = scene.start(NodeOptions::default(), &[0, 1]);
        let knock = |partition: u32, event_type: &str, id: &str| {
            let event = json!({
                "specversion": "1.0", "id": id, "source": "/test", "type": event_type,
                "tenantid": "t", "subject": "front",
            });
            scene.broker.append(partition, event.to_string()).unwrap();
        };
        // Partition 1 learns that the door is closed, and keeps that in mind.
        knock(1, "entered", "too-early");
        scene.settled_within(1, SECOND).await;
        // Partition 0 opens it.
        knock(0, "opened", "open");
        scene.settled_within(0, SECOND).await;
        knock(1, "entered", "in-time");
        scene.settled_within(1, SECOND).await;
        let counts = scene.checkpoint(1).await.unwrap().progress.counts;
        assert_eq!((counts.rejected, counts.applied), (1, 1));
        // The refusal was made again, and nobody had to claim again for it.
        assert_eq!(scene.script.claims().len(), 2);
    });
}
