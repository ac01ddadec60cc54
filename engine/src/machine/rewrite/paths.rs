//! Paths from a variable, `event.data.items` or `state['total']`: found in an expression, checked against
//! what exists, and replaced by slots.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, SelectExpr, operators};
use cel::common::types::CelBool;

use super::{Reference, Rewriter, slot_name};
use crate::machine::field_type::FieldType;
use crate::machine::load_error::{did_you_mean, listed};
use crate::machine::variables::{Attribute, Place, Variable};

/// One step of a path: `.name` or `['name']`.
pub(super) struct PathStep {
    name: String,
    quoted: bool,
}

enum Found {
    /// The first `taken` steps are one slot.
    Slot { variable: Variable, taken: usize },
    /// `has()` of what is always there.
    True,
}

impl Rewriter<'_> {
    /// Replaces a path by its slot; what no slot takes in stays a selection on it.
    pub(super) fn walk_path(&mut self, node: &mut IdedExpr, root: &str, steps: &[PathStep]) {
        self.nodes += steps.len();
        let test = matches!(&node.expr, Expr::Select(select) if select.test);
        if !self.place.variables().contains(&root) {
            self.object_to_word(root, steps);
            return;
        }
        let found = match root {
            "event" => self.event_path(steps, test),
            "payload" => Some(self.payload_path(steps, steps, test)),
            "headers" => self.header_path(steps, test),
            "state" => self.field_path(root, steps, test),
            "next" => self.field_path(root, steps, test),
            "status" => self.scalar_path(root, steps, Variable::Status),
            _ => self.scalar_path(root, steps, Variable::Version),
        };
        match found {
            Some(Found::Slot { variable, taken }) => {
                let slot = self.slot(root, steps, variable);
                *node = ident(slot_name(slot));
                let rest = steps.get(taken..).unwrap_or_default();
                for (place, step) in rest.iter().enumerate() {
                    let operand = std::mem::take(node);
                    *node = select(operand, &step.name, test && place + 1 == rest.len());
                }
            }
            Some(Found::True) => node.expr = Expr::Literal(LiteralValue::Boolean(CelBool::TRUE)),
            None => {}
        }
    }

    fn slot(&mut self, root: &str, steps: &[PathStep], variable: Variable) -> usize {
        let known = self
            .references
            .iter()
            .position(|reference| reference.variable == variable);
        known.unwrap_or_else(|| {
            let mut path = root.to_owned();
            for step in steps {
                path.push('.');
                path.push_str(&step.name);
            }
            self.references.push(Reference {
                path: path.into(),
                variable,
            });
            self.references.len() - 1
        })
    }

    fn event_path(&mut self, steps: &[PathStep], test: bool) -> Option<Found> {
        let Some((first, rest)) = steps.split_first() else {
            self.object(
                "`event` itself is no value",
                Some("name an attribute, like `event.subject`, or `event.data`".to_owned()),
            );
            return None;
        };
        if first.name == "data" {
            return Some(self.payload_path(steps, rest, test));
        }
        let attribute = self.attribute(first)?;
        if !rest.is_empty() {
            self.object(format!("`event.{}` has no fields", first.name), None);
            return None;
        }
        let variable = if test {
            Variable::HasAttribute(attribute)
        } else {
            Variable::Attribute(attribute)
        };
        Some(Found::Slot { variable, taken: 1 })
    }

    /// The slot of a path whose steps `inside` lead into the payload.
    fn payload_path(&mut self, steps: &[PathStep], inside: &[PathStep], test: bool) -> Found {
        let names: Vec<String> = inside.iter().map(|step| step.name.clone()).collect();
        let slot = self.plan.slot(&names, !test);
        let variable = if test {
            Variable::HasPayload(slot)
        } else {
            Variable::Payload(slot)
        };
        Found::Slot {
            variable,
            taken: steps.len(),
        }
    }

    fn header_path(&mut self, steps: &[PathStep], test: bool) -> Option<Found> {
        let [only] = steps else {
            let message = match steps.first() {
                None => "`headers` itself is no value".to_owned(),
                Some(first) => format!("the header `{}` is text and has no fields", first.name),
            };
            self.object(
                message,
                Some("name one header, like `headers['x-id']`".to_owned()),
            );
            return None;
        };
        let name = Box::from(only.name.as_str());
        let variable = if test {
            Variable::HasHeader(name)
        } else {
            Variable::Header(name)
        };
        Some(Found::Slot { variable, taken: 1 })
    }

    /// Replaces `'x-id' in headers`, which `has()` cannot ask of a name with a dash; false when the node is
    /// something else.
    pub(super) fn walk_header_test(&mut self, node: &mut IdedExpr) -> bool {
        let Some(name) = header_test(node).filter(|_| self.place == Place::Delivery) else {
            return false;
        };
        let step = PathStep { name, quoted: true };
        let variable = Variable::HasHeader(Box::from(step.name.as_str()));
        let slot = self.slot("headers", &[step], variable);
        *node = ident(slot_name(slot));
        true
    }

    fn attribute(&mut self, step: &PathStep) -> Option<Attribute> {
        let name = step.name.as_str();
        let known = Attribute::KNOWN.iter().find(|(known, _)| *known == name);
        if let Some((_, attribute)) = known {
            return Some(attribute.clone());
        }
        if name == "causedby" {
            self.object(
                "`event.causedby` is not for machines: it can be redacted, so no state may depend on it",
                None,
            );
            return None;
        }
        let names = Attribute::KNOWN.iter().map(|(known, _)| *known);
        let valid = name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let near = did_you_mean(name, names.chain(["data"]));
        match (valid, step.quoted, near) {
            (true, true, _) | (true, false, None) => Some(Attribute::Extension(name.into())),
            (true, false, Some(near)) => {
                self.object(
                    format!("`event.{name}` looks like a mistyped attribute"),
                    Some(format!(
                        "{near} If it is an extension attribute, write `event['{name}']`"
                    )),
                );
                None
            }
            (false, _, near) => {
                self.object(
                    format!(
                        "`event.{name}` is no attribute: they are lower-case letters and digits"
                    ),
                    near.or_else(|| Some(format!("the payload's fields are `event.data.{name}`"))),
                );
                None
            }
        }
    }

    fn field_path(&mut self, root: &str, steps: &[PathStep], test: bool) -> Option<Found> {
        let next = root == "next";
        let Some((first, rest)) = steps.split_first() else {
            let variable = if next {
                Variable::NextFields
            } else {
                Variable::Fields
            };
            return Some(Found::Slot { variable, taken: 0 });
        };
        let fields = self.fields;
        let Some(place) = fields.iter().position(|field| field.name == first.name) else {
            let names = fields.iter().map(|field| field.name.as_str());
            let suggestion = did_you_mean(&first.name, names.clone()).or_else(|| {
                let known = ["status", "version"].contains(&first.name.as_str());
                known
                    .then(|| format!("`{}` is a variable of its own", first.name))
                    .or_else(|| Some(format!("`data` declares {}", listed(names))))
            });
            self.object(
                format!("`{root}` has no field `{}`", first.name),
                suggestion,
            );
            return None;
        };
        let kind = fields.get(place).map(|field| field.kind);
        if !rest.is_empty() && kind != Some(FieldType::Map) {
            let kind = kind.map_or("value", FieldType::as_str);
            self.object(
                format!(
                    "`{root}.{}` is declared `{kind}` and has no fields",
                    first.name
                ),
                None,
            );
            return None;
        }
        if test && rest.is_empty() {
            // A declared field is always there.
            return Some(Found::True);
        }
        let variable = if next {
            Variable::NextField(place)
        } else {
            Variable::Field(place)
        };
        Some(Found::Slot { variable, taken: 1 })
    }

    fn scalar_path(&mut self, root: &str, steps: &[PathStep], variable: Variable) -> Option<Found> {
        if steps.is_empty() {
            return Some(Found::Slot { variable, taken: 0 });
        }
        self.object(format!("`{root}` has no fields"), None);
        None
    }

    fn object_to_word(&mut self, word: &str, steps: &[PathStep]) {
        let here = self.place.variables();
        let everywhere = Place::Emit.variables();
        let in_delivery = self.place == Place::Delivery;
        let (message, suggestion) = if in_delivery && everywhere.contains(&word) {
            let message = format!("`{word}` does not exist yet where an event is made");
            let hint = "a mapping sees `payload` and `headers`";
            (message, Some(hint.to_owned()))
        } else if !in_delivery && Place::Delivery.variables().contains(&word) {
            let message = format!("`{word}` is no variable of machines");
            let hint = "the payload is `event.data`, and a mapping makes attributes of headers";
            (message, Some(hint.to_owned()))
        } else if everywhere.contains(&word) {
            let why = match self.place {
                Place::Key => "the entity is not known before its key",
                _ => "only `emit` sees the fields after",
            };
            (format!("`{word}` does not exist here: {why}"), None)
        } else {
            let field = self.fields.iter().any(|field| field.name == word);
            let suggestion = if field && self.place != Place::Key {
                Some(format!("the field is `state.{word}`"))
            } else if let Some(near) = did_you_mean(word, here.iter().copied()) {
                Some(near)
            } else if steps.is_empty() {
                Some(format!(
                    "text keeps its own quotes inside CEL: write \"'{word}'\""
                ))
            } else {
                None
            };
            (
                format!(
                    "`{word}` is no variable; here there is {}",
                    listed(here.iter().copied())
                ),
                suggestion,
            )
        };
        self.object(message, suggestion);
    }
}

/// The name in `'name' in headers`.
fn header_test(node: &IdedExpr) -> Option<String> {
    let Expr::Call(call) = &node.expr else {
        return None;
    };
    let [name, among] = call.args.as_slice() else {
        return None;
    };
    match (&name.expr, &among.expr) {
        (Expr::Literal(LiteralValue::String(name)), Expr::Ident(among))
            if call.func_name == operators::IN && among == "headers" =>
        {
            Some(name.inner().to_owned())
        }
        _ => None,
    }
}

/// The steps from a name, when the node is nothing else: `a.b['c'].d`, `has(a.b)` included.
pub(super) fn path(node: &IdedExpr) -> Option<(String, Vec<PathStep>)> {
    let mut steps = Vec::new();
    let mut at = node;
    loop {
        match &at.expr {
            Expr::Ident(name) => {
                steps.reverse();
                return Some((name.clone(), steps));
            }
            // A test can only stand outermost.
            Expr::Select(select) if !select.test || std::ptr::eq(at, node) => {
                steps.push(PathStep {
                    name: select.field.clone(),
                    quoted: false,
                });
                at = &select.operand;
            }
            Expr::Call(call) if call.func_name == operators::INDEX => {
                let [operand, index] = call.args.as_slice() else {
                    return None;
                };
                let Expr::Literal(LiteralValue::String(name)) = &index.expr else {
                    return None;
                };
                steps.push(PathStep {
                    name: name.inner().to_owned(),
                    quoted: true,
                });
                at = operand;
            }
            _ => return None,
        }
    }
}

fn ident(name: String) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Ident(name),
    }
}

fn select(operand: IdedExpr, field: &str, test: bool) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Select(SelectExpr {
            operand: Box::new(operand),
            field: field.to_owned(),
            test,
        }),
    }
}
