//! What a machine does with one event type: candidates tried in order, each with what it asks and what
//! it does. [`reading`] is how they are read, [`super::compiled`] what
//! runs them.

use cel::common::types::{CelInt, CelString};
use cel::common::value::Val;

use super::expression::Expression;
use super::field_type::{Misfit, type_name};
use super::payload::PayloadPlan;
use crate::event::{EventType, Subject};
use crate::state::{EntityKey, Status};

mod reading;

pub(super) use reading::read_handlers;

/// What a machine does with one event type.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) event_type: EventType,
    /// What its expressions read of the payload, all together.
    pub(super) plan: PayloadPlan,
    pub(super) candidates: Vec<Candidate>,
}

/// One way to take an event.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The line it begins on.
    pub(super) line: u32,
    pub(super) from: Vec<Status>,
    pub(super) when: Option<Expression>,
    pub(super) effect: Effect,
}

/// What a candidate does.
#[derive(Debug)]
pub(super) enum Effect {
    /// Says no, with a reason.
    Reject(Expression),
    /// Moves the entity.
    Change {
        /// The status after; the same as before when absent.
        to: Option<Status>,
        /// Fields by their place in the declaration, with their new values.
        set: Vec<(usize, Expression)>,
        emit: Vec<Emit>,
    },
}

/// One event to emit.
#[derive(Debug)]
pub(super) struct Emit {
    pub(super) event_type: EventType,
    pub(super) subject: Option<Expression>,
    pub(super) data: Vec<(String, Expression)>,
}

/// The key that a value stands for: text, or an int as text.
pub(super) fn entity_key(value: &dyn Val) -> Result<EntityKey, Misfit> {
    let key = if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        EntityKey::new(text.inner())
    } else if let Some(int) = value.downcast_ref::<CelInt>() {
        EntityKey::new(&int.inner().to_string())
    } else {
        return Err(Misfit(format!(
            "expected text or an int, found {}",
            type_name(value)
        )));
    };
    key.map_err(|error| Misfit(format!("expected {}", error.expected)))
}

/// A value that must be text.
pub(super) fn string(value: &dyn Val) -> Result<String, Misfit> {
    value
        .downcast_ref::<CelString<'_>>()
        .map(|text| text.inner().to_owned())
        .ok_or_else(|| Misfit(format!("expected text, found {}", type_name(value))))
}

/// A value that must be the subject of an event.
pub(super) fn subject(value: &dyn Val) -> Result<Subject, Misfit> {
    Subject::new(&string(value)?).map_err(|error| Misfit(format!("expected {}", error.expected)))
}
