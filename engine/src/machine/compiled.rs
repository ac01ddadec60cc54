//! A compiled definition as a [`Processor`]: tries candidates in order and says what an event does to an
//! entity. Pure; every error of an expression becomes a [`Fault`] that names version, line and expression,
//! never a value.

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::candidate::{Candidate, Effect, Emit, Handler, entity_key, string, subject};
use super::cases::Case;
use super::definition::{MachineDefinition, OnUnmatched};
use super::expression::{EvaluationFault, Expression, truth};
use super::field_type::to_json;
use super::payload::Payload;
use super::processor::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, Processor, Verdict,
    unmatched_reason,
};
use super::variables::{About, Scope};
use crate::event::EventType;
use crate::limits::ENTITY_DATA_BYTES_MAX;
use crate::position::Version;
use crate::state::{EntityKey, EntityState, StateData, Status};

/// A machine that was loaded from a definition.
#[derive(Debug)]
pub struct CompiledMachine {
    identity: Definition,
    event_types: Vec<EventType>,
    pub(super) definition: MachineDefinition,
}

impl CompiledMachine {
    pub(super) fn new(definition: MachineDefinition, text: &str) -> Self {
        let machine = definition.machine.clone();
        let hash = Definition::hash_of(&machine, definition.version, text);
        let identity = Definition {
            machine,
            version: definition.version,
            text: Arc::from(text),
            hash,
            states: definition.states.clone(),
            initial: definition.initial.clone(),
            fields: definition
                .fields
                .iter()
                .map(|field| (field.name.clone(), field.kind.as_str()))
                .collect(),
        };
        let event_types = definition
            .handlers
            .iter()
            .map(|handler| handler.event_type.clone())
            .collect();
        Self {
            identity,
            event_types,
            definition,
        }
    }

    /// The cases of its section `tests`.
    pub fn cases(&self) -> &[Case] {
        &self.definition.cases
    }

    /// The file it was loaded from, as it was named to the loader.
    pub fn file(&self) -> &str {
        &self.definition.file
    }

    /// The types of the events it may emit, by the type it emits them on.
    pub(super) fn emissions(&self) -> impl Iterator<Item = (&EventType, &EventType)> {
        self.definition.handlers.iter().flat_map(|handler| {
            handler.candidates.iter().flat_map(|candidate| {
                let emits: &[Emit] = match &candidate.effect {
                    Effect::Reject(_) => &[],
                    Effect::Change { emit, .. } => emit,
                };
                emits
                    .iter()
                    .map(|emit| (&handler.event_type, &emit.event_type))
            })
        })
    }

    /// What faults call the definition: `order@3`. They are logged, hashed and compared, so that the path
    /// of a file, which is another on each machine, has no place in them.
    pub(super) fn place(&self) -> String {
        format!("{}@{}", self.definition.machine, self.definition.version)
    }

    fn handler(&self, event_type: &EventType) -> Option<&Handler> {
        let handlers = &self.definition.handlers;
        let place = handlers.binary_search_by(|handler| handler.event_type.cmp(event_type));
        place.ok().and_then(|place| handlers.get(place))
    }

    fn fault(&self, expression: &Expression, fault: &EvaluationFault, reason: DeadReason) -> Fault {
        Fault {
            reason,
            detail: format!(
                "{}:{}: expression `{}`: {}",
                self.place(),
                expression.line(),
                expression.shown(),
                fault.0
            ),
        }
    }

    fn dead(&self, expression: &Expression, fault: &EvaluationFault) -> Verdict {
        Verdict::Dead(self.fault(expression, fault, DeadReason::Expression))
    }

    fn unmatched(&self, event_type: &EventType, status: &Status) -> Verdict {
        let reason = || unmatched_reason(event_type, status);
        match self.definition.on_unmatched {
            OnUnmatched::Reject => Verdict::Rejected(reason()),
            OnUnmatched::Ignore => Verdict::Ignored,
            OnUnmatched::DeadLetter => Verdict::Dead(Fault {
                reason: DeadReason::Unmatched,
                detail: reason(),
            }),
        }
    }

    /// What the first candidate that fits does.
    fn decide(&self, handler: &Handler, scope: &Scope<'_, '_>, entity: &EntityState) -> Verdict {
        for candidate in &handler.candidates {
            if !candidate.from.contains(&entity.status) {
                continue;
            }
            match fits(candidate, scope) {
                Ok(true) => {}
                Ok(false) => continue,
                Err((expression, fault)) => return self.dead(expression, &fault),
            }
            return match &candidate.effect {
                Effect::Reject(reason) => match reason.evaluate(scope, string) {
                    Ok(reason) => Verdict::Rejected(reason),
                    Err(fault) => self.dead(reason, &fault),
                },
                Effect::Change { to, set, emit } => {
                    let status = to.as_ref().unwrap_or(&entity.status).clone();
                    self.change(status, set, emit, scope, entity)
                        .map_or_else(Verdict::Dead, Verdict::Applied)
                }
            };
        }
        self.unmatched(&handler.event_type, &entity.status)
    }

    fn change(
        &self,
        status: Status,
        set: &[(usize, Expression)],
        emit: &[Emit],
        scope: &Scope<'_, '_>,
        entity: &EntityState,
    ) -> Result<Change, Fault> {
        let fields = &self.definition.fields;
        let mut after = Map::new();
        // Exactly the declared fields: what an earlier definition kept besides them ends here.
        for field in fields {
            let before = entity.data.get(&field.name).unwrap_or(&field.initial);
            after.insert(field.name.clone(), before.clone());
        }
        for (place, expression) in set {
            let Some(field) = fields.get(*place) else {
                continue;
            };
            let value = expression
                .evaluate(scope, |value| field.kind.convert(value))
                .map_err(|fault| self.fault(expression, &fault, DeadReason::Expression))?;
            if let Some(place) = after.get_mut(&field.name) {
                *place = value;
            }
        }
        let data = StateData(after);
        let scope = Scope {
            next: Some(&data),
            ..*scope
        };
        let emitted = emit
            .iter()
            .map(|emit| self.emitted(emit, &scope))
            .collect::<Result<Vec<Emitted>, Fault>>()?;
        Ok(Change {
            status,
            data,
            emitted,
        })
    }

    fn emitted(&self, emit: &Emit, scope: &Scope<'_, '_>) -> Result<Emitted, Fault> {
        let faulty = |expression: &Expression, fault: EvaluationFault| {
            self.fault(expression, &fault, DeadReason::Expression)
        };
        let subject = match &emit.subject {
            None => None,
            Some(expression) => Some(
                expression
                    .evaluate(scope, subject)
                    .map_err(|fault| faulty(expression, fault))?,
            ),
        };
        let mut data = Map::new();
        for (name, expression) in &emit.data {
            let value = expression
                .evaluate(scope, to_json)
                .map_err(|fault| faulty(expression, fault))?;
            data.insert(name.clone(), value);
        }
        let text = Value::Object(data).to_string();
        if text.len() > ENTITY_DATA_BYTES_MAX {
            return Err(Fault {
                reason: DeadReason::Size,
                detail: format!(
                    "{}: the data of an emitted `{}` would be larger than {ENTITY_DATA_BYTES_MAX} bytes",
                    self.place(),
                    emit.event_type
                ),
            });
        }
        Ok(Emitted {
            event_type: emit.event_type.clone(),
            subject,
            data: Arc::from(text),
        })
    }
}

impl Processor for CompiledMachine {
    fn definition(&self) -> &Definition {
        &self.identity
    }

    fn event_types(&self) -> &[EventType] {
        &self.event_types
    }

    fn initial(&self) -> EntityState {
        let fields = &self.definition.fields;
        EntityState {
            status: self.definition.initial.clone(),
            version: Version(0),
            data: StateData(
                fields
                    .iter()
                    .map(|field| (field.name.clone(), field.initial.clone()))
                    .collect(),
            ),
        }
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        let payload: OnceLock<Payload<'_>> = OnceLock::new();
        let scope = Scope {
            about: About::Event(*context),
            plan: &self.definition.key_plan,
            payload: &payload,
            fields: &[],
            entity: None,
            next: None,
        };
        let expression = &self.definition.key;
        expression
            .evaluate(&scope, entity_key)
            .map_err(|fault| self.fault(expression, &fault, DeadReason::Key))
    }

    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        let Some(handler) = self.handler(&context.event.event_type) else {
            return self.unmatched(&context.event.event_type, &entity.status);
        };
        let payload: OnceLock<Payload<'_>> = OnceLock::new();
        let scope = Scope {
            about: About::Event(*context),
            plan: &handler.plan,
            payload: &payload,
            fields: &self.definition.fields,
            entity: Some(entity),
            next: None,
        };
        self.decide(handler, &scope, entity)
    }
}

fn fits<'c>(
    candidate: &'c Candidate,
    scope: &Scope<'_, '_>,
) -> Result<bool, (&'c Expression, EvaluationFault)> {
    match &candidate.when {
        None => Ok(true),
        Some(when) => when.evaluate(scope, truth).map_err(|fault| (when, fault)),
    }
}
