//! Where one field of an event is taken from: a header, a JSON pointer, an expression, or a literal. Owns
//! what may be written there and what is found in one delivery; never knows which field it is for.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::value::RawValue;

use super::pointer::{Pointer, PointerPlan};
use crate::clock::Timestamp;
use crate::headers::{HeaderValue, Headers};
use crate::machine::{Computed, DeliveryExpression, DeliveryPlan, DeliveryScope, Objection};
use crate::text::attribute_rule;

/// Where a field is taken from, as the configuration says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selector {
    /// The header of that name.
    Header(Box<str>),
    /// The place in the payload.
    Pointer(Pointer),
    /// What the expression comes to.
    Cel {
        /// Its text.
        text: Box<str>,
        /// Its line in the configuration.
        line: u32,
    },
    /// The same text for every event.
    Literal(Box<str>),
    /// The record's place in its source: for `id` alone, where nothing in a record tells it from another.
    Position,
}

impl Selector {
    /// The words of the configuration.
    pub const WORDS: [&'static str; 4] = ["header", "pointer", "cel", "literal"];

    /// Reads what stands behind one of [`Selector::WORDS`], and everything that is wrong with it.
    pub fn parse(word: &str, text: &str, line: u32) -> Result<Self, Vec<Objection>> {
        let is_text = || {
            attribute_rule(text).map_err(|expected| {
                vec![Objection {
                    message: format!("expected {expected}"),
                    suggestion: None,
                }]
            })
        };
        match word {
            "header" => is_text().map(|()| Selector::Header(text.into())),
            "pointer" => Pointer::parse(text)
                .map(Selector::Pointer)
                .map_err(|objection| vec![objection]),
            "cel" => {
                // Compiled again with the others of its mapping, when all of them are right.
                DeliveryExpression::compile(text, line, &mut DeliveryPlan::default())?;
                Ok(Selector::Cel {
                    text: text.into(),
                    line,
                })
            }
            "literal" => is_text().map(|()| Selector::Literal(text.into())),
            other => Err(vec![Objection {
                message: format!("there is no way `{other}`"),
                suggestion: Some(format!("the ways are {}", Self::WORDS.join(", "))),
            }]),
        }
    }

    /// True when it looks at a header.
    pub fn uses_headers(&self) -> bool {
        match self {
            Selector::Header(_) => true,
            Selector::Cel { text, line } => {
                DeliveryExpression::compile(text, *line, &mut DeliveryPlan::default())
                    .is_ok_and(|expression| expression.uses_headers())
            }
            Selector::Pointer(_) | Selector::Literal(_) | Selector::Position => false,
        }
    }

    pub(super) fn compile(
        &self,
        pointers: &mut PointerPlan,
        plan: &mut DeliveryPlan,
    ) -> Result<Compiled, Vec<Objection>> {
        Ok(match self {
            Selector::Header(name) => Compiled::Header(name.clone()),
            Selector::Pointer(pointer) => Compiled::Pointer {
                slot: pointers.slot(pointer),
                pointer: pointer.clone(),
            },
            Selector::Cel { text, line } => {
                Compiled::Cel(DeliveryExpression::compile(text, *line, plan)?)
            }
            Selector::Literal(text) => Compiled::Literal(ByteString::from(&**text)),
            Selector::Position => Compiled::Position,
        })
    }
}

/// A selector that is ready to be asked.
#[derive(Debug)]
pub(super) enum Compiled {
    Header(Box<str>),
    Pointer { slot: usize, pointer: Pointer },
    Cel(DeliveryExpression),
    Literal(ByteString),
    Position,
}

/// One delivery, opened for the selectors of one mapping.
pub(super) struct Opened<'d> {
    pub(super) payload: &'d Bytes,
    pub(super) headers: &'d Headers,
    /// Its place in its source, where that is known.
    pub(super) place: Option<ByteString>,
    /// What the pointers found.
    pub(super) pointed: Vec<Option<&'d RawValue>>,
    pub(super) scope: DeliveryScope<'d>,
}

/// What a selector found.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Text(ByteString),
    /// A number as it was written, or computed exactly.
    Number(String),
    Double(f64),
    Moment(Timestamp),
}

impl Compiled {
    /// True when it is the same for every delivery.
    pub(super) fn is_constant(&self) -> bool {
        match self {
            Compiled::Literal(_) => true,
            Compiled::Cel(expression) => expression.is_constant(),
            Compiled::Header(_) | Compiled::Pointer { .. } | Compiled::Position => false,
        }
    }

    pub(super) fn uses_headers(&self) -> bool {
        match self {
            Compiled::Header(_) => true,
            Compiled::Cel(expression) => expression.uses_headers(),
            Compiled::Literal(_) | Compiled::Pointer { .. } | Compiled::Position => false,
        }
    }

    /// How errors name it.
    pub(super) fn shown(&self) -> String {
        match self {
            Compiled::Header(name) => format!("header `{name}`"),
            Compiled::Pointer { pointer, .. } => format!("pointer `{}`", pointer.as_str()),
            Compiled::Cel(expression) => format!("expression `{}`", expression.shown()),
            Compiled::Literal(_) => "the literal".to_owned(),
            Compiled::Position => "`position`".to_owned(),
        }
    }

    /// What it finds in one delivery, or why that is nothing a field can be; never the value.
    pub(super) fn find(&self, delivery: &Opened<'_>) -> Result<Found, String> {
        match self {
            Compiled::Header(name) => match delivery.headers.get(name) {
                HeaderValue::Absent => Ok(Found::Nothing),
                HeaderValue::One(value) => std::str::from_utf8(value)
                    .map(|text| Found::Text(ByteString::from(text)))
                    .map_err(|_| "is not UTF-8 text".to_owned()),
                HeaderValue::Several => {
                    Err("stands there several times with different values".to_owned())
                }
            },
            Compiled::Pointer { slot, .. } => match delivery.pointed.get(*slot) {
                Some(Some(raw)) => in_payload(raw.get(), delivery.payload),
                _ => Ok(Found::Nothing),
            },
            Compiled::Cel(expression) => match expression.evaluate(&delivery.scope)? {
                Computed::Null => Ok(Found::Nothing),
                Computed::Text(text) => Ok(Found::Text(ByteString::from(text))),
                Computed::Exact(number) => Ok(Found::Number(number)),
                Computed::Double(double) => Ok(Found::Double(double)),
                Computed::Moment(moment) => Ok(Found::Moment(moment)),
                Computed::Other(kind) => Err(format!("comes to a {kind}")),
            },
            Compiled::Literal(text) => Ok(Found::Text(text.clone())),
            Compiled::Position => {
                let unknown = "is not known where this record is read";
                let place = delivery.place.clone().ok_or_else(|| unknown.to_owned())?;
                Ok(Found::Text(place))
            }
        }
    }
}

/// A JSON value in the payload; a text without escapes stays a slice of it.
fn in_payload(json: &str, payload: &Bytes) -> Result<Found, String> {
    let found = match json.bytes().next() {
        Some(b'"') => {
            let text = match json
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
            {
                Some(inner) if !inner.contains('\\') => Cow::Borrowed(inner),
                _ => serde_json::from_str::<String>(json)
                    .map(Cow::Owned)
                    .map_err(|_| "finds text with an escape that means no character".to_owned())?,
            };
            return Ok(Found::Text(match text {
                Cow::Borrowed(text) => ByteString::try_from(payload.slice_ref(text.as_bytes()))
                    .unwrap_or_else(|_| ByteString::from(text)),
                Cow::Owned(text) => ByteString::from(text),
            }));
        }
        Some(b'-' | b'0'..=b'9') => return Ok(Found::Number(json.to_owned())),
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'{') => "an object",
        _ => "a list",
    };
    Err(format!("finds {found}"))
}
