//! A transition: what one event does to one machine's entity, with everything the log records of it.
//! Owns the guards around a machine (panics, size, hops, unsound answers); the machine itself stays pure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::commit::{OpenWork, OpenWorkKind};
use crate::event::Event;
use crate::limits::{APPLY_ATTEMPTS_MAX, ENTITY_DATA_BYTES_MAX, HOPS_MAX};
use crate::machine::{Change, DeadReason, Emitted, EventContext, Fault, Processor, Verdict};
use crate::position::{RecordPosition, Version};
use crate::record::{Effect, Outcome};
use crate::state::{EntityKey, EntityState, MachineName, state_hash};
use crate::tenant::TenantId;
use crate::text::storable_reason;

mod soundness;

/// What became of one event at one machine.
#[derive(Clone, PartialEq, Debug)]
pub struct Transition {
    /// What the log records.
    pub effect: Effect,
    /// The entity after, when it moved.
    pub moved: Option<Moved>,
    /// The fault, when it is dead.
    pub fault: Option<Fault>,
}

/// An entity after an event.
#[derive(Clone, PartialEq, Debug)]
pub struct Moved {
    /// The state.
    pub state: EntityState,
    /// Its canonical data.
    pub text: Arc<str>,
    /// What the machine emitted, in order.
    pub emitted: Vec<Emitted>,
}

/// The key of the entity that an event concerns at one machine, guarded against panics.
pub fn key_of(machine: &dyn Processor, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
    guarded(|| machine.key(context))?
}

/// Applies an event to an entity. `entity` is only read: a panic or a refusal leaves it as it was.
pub fn apply(
    machine: &dyn Processor,
    context: &EventContext<'_>,
    key: &EntityKey,
    entity: &EntityState,
) -> Transition {
    if context.event.hops() > HOPS_MAX {
        let detail = format!("more than {HOPS_MAX} hops of emitted events");
        return dead(
            machine,
            Some(key.clone()),
            Fault {
                reason: DeadReason::Loop,
                detail,
            },
        );
    }
    match guarded(|| machine.apply(context, entity)) {
        Err(fault) => dead(machine, Some(key.clone()), fault),
        Ok(Verdict::Dead(fault)) => dead(machine, Some(key.clone()), fault),
        Ok(Verdict::Ignored) => unmoved(machine, key, Outcome::Ignored, None),
        Ok(Verdict::Rejected(reason)) => {
            let mut refused = unmoved(
                machine,
                key,
                Outcome::Rejected,
                Some(storable_reason(&reason)),
            );
            if crate::planted::active(crate::planted::Bug::RejectedChangesState) {
                let state = EntityState {
                    version: entity.version.next(),
                    ..entity.clone()
                };
                refused.moved = state.data.to_canonical().map(|text| Moved {
                    state,
                    text,
                    emitted: Vec::new(),
                });
            }
            refused
        }
        Ok(Verdict::Applied(change)) => applied(machine, key, entity.version, change),
    }
}

/// The transition of an event that is dead before its machine is asked.
pub fn dead(machine: &dyn Processor, key: Option<EntityKey>, fault: Fault) -> Transition {
    let definition = machine.definition();
    let fault = Fault {
        detail: storable_reason(&fault.detail),
        ..fault
    };
    Transition {
        effect: Effect {
            machine: definition.machine.clone(),
            definition: definition.hash,
            key,
            outcome: Outcome::Dead,
            version: None,
            state_hash: None,
            reason: Some(format!("{}: {}", fault.reason.as_str(), fault.detail)),
        },
        moved: None,
        fault: Some(fault),
    }
}

/// Makes what a machine emitted into open work: stamped from its cause, with an identity that is the
/// same however often it is derived. Numbered from 0. One piece for each: [`apply`] let through only what
/// can be made.
pub fn open_work_of(
    tenant: &TenantId,
    cause: &Event,
    position: &RecordPosition,
    machine: &MachineName,
    emitted: &[Emitted],
    at: Timestamp,
) -> Vec<OpenWork> {
    let work = |(index, emitted): (usize, &Emitted)| {
        let id = cause.emitted_id(machine, index);
        let mut json = String::with_capacity(256);
        cause.emit(machine, emitted, id, at).write_json(&mut json);
        OpenWork {
            tenant: tenant.clone(),
            number: index as u32,
            id,
            kind: OpenWorkKind::LoopBack,
            due: at,
            cause: position.clone(),
            event_type: emitted.event_type.clone(),
            event: Bytes::from(json),
        }
    };
    emitted.iter().enumerate().map(work).collect()
}

fn applied(
    machine: &dyn Processor,
    key: &EntityKey,
    before: Version,
    change: Change,
) -> Transition {
    let Some(text) = change.data.to_canonical() else {
        let detail = format!("the entity's data would exceed {ENTITY_DATA_BYTES_MAX} bytes");
        return dead(
            machine,
            Some(key.clone()),
            Fault {
                reason: DeadReason::Size,
                detail,
            },
        );
    };
    let definition = machine.definition();
    if let Err(fault) = soundness::check(definition, &change, &text) {
        return dead(machine, Some(key.clone()), fault);
    }
    let version = before.next();
    let state = EntityState {
        status: change.status,
        version,
        data: change.data,
    };
    Transition {
        effect: Effect {
            machine: definition.machine.clone(),
            definition: definition.hash,
            key: Some(key.clone()),
            outcome: Outcome::Applied,
            version: Some(version),
            state_hash: Some(state_hash(&state.status, &text)),
            reason: None,
        },
        moved: Some(Moved {
            state,
            text,
            emitted: change.emitted,
        }),
        fault: None,
    }
}

fn unmoved(
    machine: &dyn Processor,
    key: &EntityKey,
    outcome: Outcome,
    reason: Option<String>,
) -> Transition {
    let definition = machine.definition();
    Transition {
        effect: Effect {
            machine: definition.machine.clone(),
            definition: definition.hash,
            key: Some(key.clone()),
            outcome,
            version: None,
            state_hash: None,
            reason,
        },
        moved: None,
        fault: None,
    }
}

/// Calls a machine; a panic is tried again and then a fault. Machines take everything by shared
/// reference, so nothing of ours can be left half changed.
fn guarded<T>(call: impl Fn() -> T) -> Result<T, Fault> {
    for _ in 0..APPLY_ATTEMPTS_MAX {
        if let Ok(value) = catch_unwind(AssertUnwindSafe(&call)) {
            return Ok(value);
        }
    }
    let detail = format!("the machine panicked {APPLY_ATTEMPTS_MAX} times");
    Err(Fault {
        reason: DeadReason::Panic,
        detail,
    })
}

#[cfg(test)]
mod tests;
