//! Expressions over a delivery that is no event yet: what a mapping computes attributes with. The same
//! language as in machines, with `payload` and `headers` for variables; never decides what an attribute
//! may be.

use std::sync::OnceLock;

use cel::common::types::{CelDouble, CelInt, CelNull, CelString, CelTimestamp};
use cel::common::value::Val;

use super::decimal::CelDecimal;
use super::expression::Expression;
use super::field_type::{Misfit, type_name};
use super::moment;
use super::payload::{Payload, PayloadPlan};
use super::rewrite::Objection;
use super::variables::{About, Place, Scope};
use crate::clock::Timestamp;
use crate::event::EventData;
use crate::headers::Headers;

/// The paths that the expressions of one mapping name: each payload is read once for all of them.
#[derive(Debug, Default)]
pub struct DeliveryPlan(PayloadPlan);

/// A compiled expression over deliveries.
#[derive(Debug)]
pub struct DeliveryExpression(Expression);

/// One delivery as expressions see it; its payload is read at the first use.
#[derive(Debug)]
pub struct DeliveryScope<'d> {
    plan: &'d DeliveryPlan,
    payload: OnceLock<Payload<'d>>,
    data: &'d EventData,
    headers: &'d Headers,
}

/// What an expression came to.
#[derive(Clone, PartialEq, Debug)]
pub enum Computed {
    /// `null`.
    Null,
    /// Text.
    Text(String),
    /// An int or a decimal, as its decimal text.
    Exact(String),
    /// A double: the nearest one to a number that may have been another.
    Double(f64),
    /// A moment.
    Moment(Timestamp),
    /// A value of any other type: the type's name.
    Other(String),
}

impl DeliveryExpression {
    /// Compiles CEL text that stands on `line`.
    pub fn compile(text: &str, line: u32, plan: &mut DeliveryPlan) -> Result<Self, Vec<Objection>> {
        Expression::compile(text, line, Place::Delivery, &[], &mut plan.0).map(Self)
    }

    /// The text as errors show it: on one line and cut short.
    pub fn shown(&self) -> String {
        self.0.shown()
    }

    /// True when it looks at nothing of a delivery.
    pub fn is_constant(&self) -> bool {
        self.0.is_constant()
    }

    /// True when it names a header.
    pub fn uses_headers(&self) -> bool {
        self.0.uses_headers()
    }

    /// Evaluates it. The error holds names of types and paths, never a value.
    pub fn evaluate(&self, delivery: &DeliveryScope<'_>) -> Result<Computed, String> {
        let scope = Scope {
            about: About::Delivery {
                data: delivery.data,
                headers: delivery.headers,
            },
            plan: &delivery.plan.0,
            payload: &delivery.payload,
            fields: &[],
            entity: None,
            next: None,
        };
        self.0.evaluate(&scope, computed).map_err(|fault| fault.0)
    }
}

impl<'d> DeliveryScope<'d> {
    /// The scope of one delivery for expressions that were compiled with `plan`.
    pub fn new(plan: &'d DeliveryPlan, data: &'d EventData, headers: &'d Headers) -> Self {
        Self {
            plan,
            payload: OnceLock::new(),
            data,
            headers,
        }
    }
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "an evaluation hands its value to what may refuse it"
)]
fn computed(value: &dyn Val) -> Result<Computed, Misfit> {
    Ok(if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        Computed::Text(text.inner().to_owned())
    } else if let Some(int) = value.downcast_ref::<CelInt>() {
        Computed::Exact(int.inner().to_string())
    } else if let Some(decimal) = value.downcast_ref::<CelDecimal>() {
        Computed::Exact(decimal.to_string())
    } else if let Some(double) = value.downcast_ref::<CelDouble>() {
        Computed::Double(*double.inner())
    } else if value.downcast_ref::<CelNull>().is_some() {
        Computed::Null
    } else if let Some(moment) = value.downcast_ref::<CelTimestamp>().and_then(moment::of) {
        Computed::Moment(moment)
    } else {
        Computed::Other(type_name(value).to_owned())
    })
}
