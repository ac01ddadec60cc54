//! One CEL expression: compiled when its definition is loaded, evaluated without a value ever standing
//! in an error. Owns the one call into the library's parser and the one into its interpreter.

use std::sync::Arc;

use cel::common::ast::{Expr, IdedExpr, LiteralValue};
use cel::common::types::{CelBool, CelDouble, CelInt};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, ExecutionError, Value};

use super::budget;
use super::field::Field;
use super::field_type::{Misfit, plain_name, type_name};
use super::operators::{ENV, OURS};
use super::payload::PayloadPlan;
use super::rewrite::{Objection, Reference, Rewriter, slot_of};
use super::variables::{Place, Scope, Variable};
use crate::limits::EXPRESSION_BYTES_MAX;

/// Characters of an expression that an error shows.
const SHOWN_CHARS: usize = 200;

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Expression {
    /// As it was written.
    text: Arc<str>,
    /// Its line in the file.
    line: u32,
    tree: IdedExpr,
    references: Box<[Reference]>,
}

/// Why an evaluation gave nothing; holds no value of the event or the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct EvaluationFault(pub(super) String);

impl Expression {
    /// Compiles CEL text.
    pub(super) fn compile(
        text: &str,
        line: u32,
        place: Place,
        fields: &[Field],
        plan: &mut PayloadPlan,
    ) -> Result<Self, Vec<Objection>> {
        let objection = |message: String, suggestion: Option<String>| {
            vec![Objection {
                message,
                suggestion,
            }]
        };
        if text.len() > EXPRESSION_BYTES_MAX {
            let message = format!(
                "an expression has at most {EXPRESSION_BYTES_MAX} bytes, this one {}",
                text.len()
            );
            return Err(objection(message, None));
        }
        if text.trim().is_empty() {
            return Err(objection("the expression is empty".to_owned(), None));
        }
        let program = ENV.compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let message = first.map_or("", |error| plain_message(&error.msg));
            let column = first.map_or(0, |error| error.pos.1.max(0));
            objection(
                format!("not CEL, at its column {column}: {message}"),
                cut_by_yaml(text).or_else(|| words(text)),
            )
        })?;
        let mut tree = program.expression().clone();
        let references = Rewriter::new(place, fields, plan).rewrite(&mut tree)?;
        Ok(Self {
            text: Arc::from(text),
            line,
            tree,
            references: references.into(),
        })
    }

    /// A YAML number, boolean or null, which is itself.
    pub(super) fn literal(literal: LiteralValue, text: &str, line: u32) -> Self {
        Self {
            text: Arc::from(text),
            line,
            tree: IdedExpr {
                id: 0,
                expr: Expr::Literal(literal),
            },
            references: Box::default(),
        }
    }

    /// The literal of an integer.
    pub(super) fn int(int: i64, line: u32) -> Self {
        Self::literal(LiteralValue::Int(CelInt::from(int)), &int.to_string(), line)
    }

    /// The literal of a double.
    pub(super) fn double(double: f64, line: u32) -> Self {
        let literal = LiteralValue::Double(CelDouble::from(double));
        Self::literal(literal, &double.to_string(), line)
    }

    /// The literal of a boolean.
    pub(super) fn bool(bool: bool, line: u32) -> Self {
        let literal = LiteralValue::Boolean(CelBool::from(bool));
        Self::literal(literal, &bool.to_string(), line)
    }

    /// The literal of nothing.
    pub(super) fn null(line: u32) -> Self {
        Self::literal(LiteralValue::Null, "null", line)
    }

    /// True when its value is the same for every event, so that it can be checked when it is loaded.
    pub(super) fn is_constant(&self) -> bool {
        self.references.is_empty()
    }

    /// True when it names a header of a delivery.
    pub(super) fn uses_headers(&self) -> bool {
        let is_header = |reference: &Reference| {
            matches!(
                reference.variable,
                Variable::Header(_) | Variable::HasHeader(_)
            )
        };
        self.references.iter().any(is_header)
    }

    /// Its line in the file.
    pub(super) fn line(&self) -> u32 {
        self.line
    }

    /// The text as errors show it: on one line and cut short.
    pub(super) fn shown(&self) -> String {
        let one_line = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        if one_line.chars().nth(SHOWN_CHARS).is_none() {
            return one_line;
        }
        let mut cut: String = one_line.chars().take(SHOWN_CHARS).collect();
        cut.push('…');
        cut
    }

    /// Evaluates it and hands the value to `then`, which makes of it what the place needs.
    pub(super) fn evaluate<T>(
        &self,
        scope: &Scope<'_, '_>,
        then: impl FnOnce(&dyn Val) -> Result<T, Misfit>,
    ) -> Result<T, EvaluationFault> {
        let bindings = Bindings {
            references: &self.references,
            scope: Some(scope),
        };
        self.evaluate_with(&bindings, then)
    }

    /// Evaluates a constant one, while its definition is loaded.
    pub(super) fn evaluate_constant<T>(
        &self,
        then: impl FnOnce(&dyn Val) -> Result<T, Misfit>,
    ) -> Result<T, EvaluationFault> {
        let bindings = Bindings {
            references: &[],
            scope: None,
        };
        self.evaluate_with(&bindings, then)
    }

    fn evaluate_with<T>(
        &self,
        bindings: &Bindings<'_, '_>,
        then: impl FnOnce(&dyn Val) -> Result<T, Misfit>,
    ) -> Result<T, EvaluationFault> {
        // Cheap: the environment is shared, and an empty context owns nothing on the heap.
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(bindings);
        budget::begin();
        match Value::resolve_val(&self.tree, &context) {
            Ok(value) => then(value.as_ref()).map_err(|misfit: Misfit| EvaluationFault(misfit.0)),
            Err(error) => Err(EvaluationFault(bindings.describe(&error))),
        }
    }
}

/// A value that must be true or false.
pub(super) fn truth(value: &dyn Val) -> Result<bool, Misfit> {
    value
        .downcast_ref::<CelBool>()
        .map(|bool| *bool.inner())
        .ok_or_else(|| {
            Misfit(format!(
                "expected true or false, found {}",
                type_name(value)
            ))
        })
}

/// Resolves the slots of one expression.
struct Bindings<'x, 'e> {
    references: &'x [Reference],
    scope: Option<&'x Scope<'x, 'e>>,
}

impl VariableResolver for Bindings<'_, '_> {
    fn resolve<'b>(&'b self, name: &str) -> Option<CowVal<'b, 'b>> {
        let reference = self.references.get(slot_of(name)?)?;
        let value = self.scope?.value(&reference.variable)?;
        // Entity data is made into values anew at each use. The library knows no error here; `describe`
        // finds out why there is no value.
        match &value {
            CowVal::Owned(owned) => budget::copy("state", owned.as_ref()).ok()?,
            CowVal::Borrowed(_) => {}
        }
        Some(value)
    }
}

impl Bindings<'_, '_> {
    /// The error in words. The library's own text prints operands, so none of it is used; names of
    /// types, operators and paths are the definition's, not the event's.
    fn describe(&self, error: &ExecutionError) -> String {
        match error {
            ExecutionError::UndeclaredReference(_) if budget::exceeded() => {
                budget::EXCEEDED.to_owned()
            }
            ExecutionError::UndeclaredReference(name) => {
                let reference = slot_of(name).and_then(|slot| self.references.get(slot));
                match (reference, self.scope) {
                    (Some(reference), Some(scope)) => format!(
                        "`{}` {}",
                        reference.path,
                        scope.absence(&reference.variable)
                    ),
                    _ => "a name has no value".to_owned(),
                }
            }
            ExecutionError::NoSuchKey(_) => "a field or key is absent".to_owned(),
            ExecutionError::IndexOutOfBounds(_) => "an index is out of bounds".to_owned(),
            ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
                "division by zero".to_owned()
            }
            ExecutionError::Overflow(..) => "overflow".to_owned(),
            ExecutionError::DuplicateKey(_) => "a map names a key twice".to_owned(),
            ExecutionError::NoSuchOverload(overload) => {
                let types: Vec<&str> = overload
                    .argument_types()
                    .iter()
                    .map(|name| plain_name(name))
                    .collect();
                let types = types.join(", ");
                // The library's own operators are named like `_%_` and `!_`.
                let operator = overload.function().trim_matches(['_', OURS]);
                format!("`{operator}` does not take ({types})")
            }
            ExecutionError::UnexpectedType { got, want } => {
                format!("expected {}, found {}", plain_name(want), plain_name(got))
            }
            ExecutionError::FunctionError { function, message } => {
                match function.strip_prefix(OURS) {
                    Some(operator) => format!("`{operator}`: {message}"),
                    None => format!("`{function}` cannot take this value"),
                }
            }
            _ => "the types do not fit".to_owned(),
        }
    }
}

/// The parser's message without its wrapping.
fn plain_message(message: &str) -> &str {
    if message.contains("Recursion limit") {
        // It prints its own error type here.
        return "nested too deeply";
    }
    message.strip_prefix("Syntax error: ").unwrap_or(message)
}

/// The likely reason when it is words and nothing else: a text, of which YAML took the quotes away.
fn words(text: &str) -> Option<String> {
    let is_word = |word: &str| {
        let word = word.trim_end_matches([',', '.', '!']);
        !word.is_empty() && word.chars().all(|c| c.is_alphabetic() || c == '-')
    };
    text.split(' ')
        .all(is_word)
        .then(|| format!("text needs quotes of its own inside YAML's: \"'{text}'\""))
}

/// The likely reason of a syntax error: YAML ended the text before its author did.
fn cut_by_yaml(text: &str) -> Option<String> {
    let count = |of: &[char]| text.chars().filter(|c| of.contains(c)).count();
    let unbalanced = count(&['(', '[', '{']) != count(&[')', ']', '}'])
        || count(&['\'']) % 2 == 1
        || count(&['"']) % 2 == 1;
    unbalanced.then(|| {
        "if the file has more text here, YAML cut it: put the whole expression in quotes or a block (`|`)"
            .to_owned()
    })
}
