//! A condition over stored events: what somebody who reads a log wants of it. The language of machines with
//! `event` for its one variable; never decides what becomes of an event.

use std::sync::OnceLock;

use super::expression::{Expression, truth};
use super::payload::{Payload, PayloadPlan};
use super::processor::EventContext;
use super::rewrite::Objection;
use super::variables::{About, Place, Scope};

/// A compiled condition.
#[derive(Debug)]
pub struct EventFilter {
    expression: Expression,
    plan: PayloadPlan,
}

impl EventFilter {
    /// Compiles CEL text, and says everything that is wrong with it.
    pub fn compile(text: &str) -> Result<Self, Vec<Objection>> {
        let mut plan = PayloadPlan::default();
        // Like a machine's key: there is an event and no entity yet.
        let expression = Expression::compile(text, 1, Place::Key, &[], &mut plan)?;
        if expression.is_constant() {
            expression.evaluate_constant(truth).map_err(|fault| {
                vec![Objection {
                    message: fault.0,
                    suggestion: None,
                }]
            })?;
        }
        Ok(Self { expression, plan })
    }

    /// True for an event that it wants. The error says why that cannot be told, with names of types and
    /// paths and never a value.
    pub fn wants(&self, context: &EventContext<'_>) -> Result<bool, String> {
        let payload: OnceLock<Payload<'_>> = OnceLock::new();
        let scope = Scope {
            about: About::Event(*context),
            plan: &self.plan,
            payload: &payload,
            fields: &[],
            entity: None,
            next: None,
        };
        let wanted = self.expression.evaluate(&scope, truth);
        wanted.map_err(|fault| fault.0)
    }
}
