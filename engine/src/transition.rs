//! A transition: what one event does to one machine's entity, with everything the log records of it.
//! Owns the guards around a machine (panics, size, hops); the machine itself stays pure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::commit::{OpenWork, OpenWorkKind};
use crate::event::{
    AttributeText, CausationId, Event, EventData, EventId, EventSource, EventTime, Extension,
    Subject,
};
use crate::hash::hash_fields;
use crate::limits::{APPLY_ATTEMPTS_MAX, HOPS_MAX, REASON_CHARS_MAX};
use crate::machine::{Change, DeadReason, Emitted, EventContext, Fault, Processor, Verdict};
use crate::position::{RecordPosition, Version};
use crate::record::{Effect, Outcome};
use crate::state::{EntityKey, EntityState, state_hash};
use crate::tenant::TenantId;

/// The extension attribute that counts hops of emitted events.
pub const HOPS_ATTRIBUTE: &str = "tidegatehops";

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
    if hops_of(context.event) > HOPS_MAX {
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
            let mut refused = unmoved(machine, key, Outcome::Rejected, Some(cut(&reason)));
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
    Transition {
        effect: Effect {
            machine: definition.machine.clone(),
            definition: definition.hash,
            key,
            outcome: Outcome::Dead,
            version: None,
            state_hash: None,
            reason: Some(format!("{}: {}", fault.reason.as_str(), cut(&fault.detail))),
        },
        moved: None,
        fault: Some(fault),
    }
}

/// The hops that an event has behind it.
pub fn hops_of(event: &Event) -> u8 {
    event
        .extensions
        .iter()
        .find(|extension| &*extension.name == HOPS_ATTRIBUTE)
        .and_then(|extension| extension.json.parse().ok())
        .unwrap_or(0)
}

/// Makes the event that a machine emitted into open work: stamped from its cause, with an identity that
/// is the same however often it is derived.
pub fn open_work_of(
    tenant: &TenantId,
    cause: &Event,
    position: &RecordPosition,
    machine: &str,
    emitted: &[Emitted],
    at: Timestamp,
) -> Vec<OpenWork> {
    let work = |(index, emitted): (usize, &Emitted)| {
        let id = hash_fields(
            "tidegate.emitted",
            &[
                tenant.as_str().as_bytes(),
                cause.source.as_str().as_bytes(),
                cause.id.as_str().as_bytes(),
                &cause.idempotency_hash().to_bytes(),
                machine.as_bytes(),
                &(index as u64).to_le_bytes(),
            ],
        );
        let event = emitted_event(tenant, cause, machine, emitted, &id.to_string(), at).ok()?;
        let mut json = String::with_capacity(256);
        event.write_json(&mut json);
        Some(OpenWork {
            tenant: tenant.clone(),
            id,
            kind: OpenWorkKind::LoopBack,
            due: at,
            cause: position.clone(),
            event_type: emitted.event_type.clone(),
            event: Bytes::from(json),
        })
    };
    emitted.iter().enumerate().filter_map(work).collect()
}

fn emitted_event(
    tenant: &TenantId,
    cause: &Event,
    machine: &str,
    emitted: &Emitted,
    id: &str,
    at: Timestamp,
) -> Result<Event, crate::error::InvalidValue> {
    let subject: Option<Subject> = emitted.subject.clone().or_else(|| cause.subject.clone());
    let time = match &cause.time {
        Some(time) => time.clone(),
        None => EventTime {
            text: AttributeText::new(&at.to_rfc3339())?,
            moment: at,
        },
    };
    Ok(Event {
        tenant: tenant.clone(),
        id: EventId::new(id)?,
        source: EventSource::new(&format!("/machines/{machine}"))?,
        event_type: emitted.event_type.clone(),
        subject,
        time: Some(time),
        data_content_type: None,
        data_schema: None,
        correlation_id: cause.correlation_id.clone(),
        causation_id: Some(CausationId::new(cause.id.as_str())?),
        idempotency_key: None,
        caused_by: cause.caused_by.clone(),
        extensions: vec![Extension {
            name: Arc::from(HOPS_ATTRIBUTE),
            json: Arc::from(hops_of(cause).saturating_add(1).to_string()),
        }],
        data: EventData::Json(Bytes::copy_from_slice(emitted.data.as_bytes())),
    })
}

fn applied(
    machine: &dyn Processor,
    key: &EntityKey,
    before: Version,
    change: Change,
) -> Transition {
    let Some(text) = change.data.to_canonical() else {
        let detail = format!(
            "the entity's data would exceed {} bytes",
            crate::limits::ENTITY_DATA_BYTES_MAX
        );
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

fn cut(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\0')
        .take(REASON_CHARS_MAX)
        .collect()
}
