//! Checks a parsed expression and rewrites it: every path from a variable becomes one slot, operators
//! become ours, what a comprehension visits is guarded, and everything that is not deterministic or not
//! bounded is refused. Works on the syntax tree only; evaluates nothing.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators,
};
use cel::common::types::CelBool;

use super::field::Field;
use super::field_type::FieldType;
use super::load_error::{did_you_mean, listed};
use super::operators::{FUNCTIONS, ITEMS, KEPT, METHODS, REWRITTEN};
use super::payload::PayloadPlan;
use super::variables::{Attribute, Place, Variable};
use crate::limits::EXPRESSION_NODES_MAX;

/// A path that an expression names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reference {
    /// As it was written: `event.data.amount_cents`.
    pub(super) path: Box<str>,
    /// Where its value is found.
    pub(super) variable: Variable,
}

/// What is wrong with an expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Objection {
    pub(super) message: String,
    pub(super) suggestion: Option<String>,
}

/// The name of a slot inside the rewritten tree. No identifier of CEL contains `$`.
pub(super) fn slot_name(slot: usize) -> String {
    format!("${slot}")
}

/// The slot that a name stands for.
pub(super) fn slot_of(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse().ok()
}

/// Rewrites one expression.
pub(super) struct Rewriter<'r> {
    place: Place,
    fields: &'r [Field],
    plan: &'r mut PayloadPlan,
    references: Vec<Reference>,
    /// Variables of the comprehension around the node, its accumulator included.
    locals: Vec<String>,
    nodes: usize,
    objections: Vec<Objection>,
}

/// One step of a path: `.name` or `['name']`.
struct PathStep {
    name: String,
    quoted: bool,
}

impl<'r> Rewriter<'r> {
    pub(super) fn new(place: Place, fields: &'r [Field], plan: &'r mut PayloadPlan) -> Self {
        Self {
            place,
            fields,
            plan,
            references: Vec::new(),
            locals: Vec::new(),
            nodes: 0,
            objections: Vec::new(),
        }
    }

    /// Rewrites the tree; the references that its slots stand for, or everything that is wrong with it.
    pub(super) fn rewrite(mut self, tree: &mut IdedExpr) -> Result<Vec<Reference>, Vec<Objection>> {
        self.walk(tree);
        if self.nodes > EXPRESSION_NODES_MAX {
            self.object(
                format!("an expression has at most {EXPRESSION_NODES_MAX} parts"),
                Some("split it over several candidates or fields".to_owned()),
            );
        }
        if self.objections.is_empty() {
            Ok(self.references)
        } else {
            Err(self.objections)
        }
    }

    fn object(&mut self, message: impl Into<String>, suggestion: Option<String>) {
        let objection = Objection {
            message: message.into(),
            suggestion,
        };
        // Macros repeat their arguments' faults; once is enough.
        if !self.objections.contains(&objection) {
            self.objections.push(objection);
        }
    }

    fn walk(&mut self, node: &mut IdedExpr) {
        self.nodes += 1;
        if self.nodes > EXPRESSION_NODES_MAX {
            return;
        }
        if let Some((root, steps)) = path(node)
            && !self.locals.contains(&root)
        {
            self.walk_path(node, &root, &steps);
            return;
        }
        match &mut node.expr {
            Expr::Literal(literal) => self.check_literal(&literal.clone()),
            Expr::Ident(_) | Expr::Unspecified => {}
            Expr::Select(select) => self.walk(&mut select.operand),
            Expr::List(list) => list.elements.iter_mut().for_each(|item| self.walk(item)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.walk(&mut entry.key);
                        self.walk(&mut entry.value);
                    }
                }
            }
            Expr::Struct(_) => self.object(
                "messages are not available",
                Some("write a map, `{'name': value}`".to_owned()),
            ),
            Expr::Comprehension(comprehension) => self.walk_comprehension(comprehension),
            Expr::Call(call) => self.walk_call(call),
        }
    }

    fn check_literal(&mut self, literal: &LiteralValue) {
        match literal {
            LiteralValue::UInt(_) => self.object(
                "unsigned integers are not available",
                Some("leave the `u` out".to_owned()),
            ),
            LiteralValue::Bytes(_) => self.object("bytes are not available", None),
            LiteralValue::Double(double) if !double.inner().is_finite() => {
                self.object("a number is too large for a double", None);
            }
            _ => {}
        }
    }

    fn walk_comprehension(&mut self, comprehension: &mut ComprehensionExpr) {
        self.walk(&mut comprehension.iter_range);
        if !self.locals.is_empty() {
            self.object(
                "comprehensions are one deep: this one stands inside another",
                Some(
                    "visit one list after the other, or keep the inner result in a field"
                        .to_owned(),
                ),
            );
            return;
        }
        let names = self.place.variables();
        if names.contains(&comprehension.iter_var.as_str()) || comprehension.iter_var2.is_some() {
            self.object(
                format!(
                    "`{}` is already the name of a variable",
                    comprehension.iter_var
                ),
                Some("give the comprehension's variable another name".to_owned()),
            );
            return;
        }
        if self.is_map(&comprehension.iter_range) {
            self.object(
                "a map is never visited: its entries have no order",
                Some("keep what is visited in a list".to_owned()),
            );
            return;
        }
        self.locals.push(comprehension.iter_var.clone());
        self.locals.push(comprehension.accu_var.clone());
        // The macro wrote the other parts itself; only the step holds what the user wrote.
        self.walk(&mut comprehension.loop_step);
        self.locals.clear();
        let visited = std::mem::take(&mut comprehension.iter_range);
        comprehension.iter_range = call(ITEMS, vec![visited]);
    }

    /// True where the text alone shows that a map would be visited.
    fn is_map(&self, visited: &IdedExpr) -> bool {
        match &visited.expr {
            Expr::Map(_) => true,
            Expr::Ident(name) => {
                let reference = slot_of(name).and_then(|slot| self.references.get(slot));
                match reference.map(|reference| &reference.variable) {
                    Some(Variable::Fields | Variable::NextFields) => true,
                    Some(Variable::Field(place) | Variable::NextField(place)) => self
                        .fields
                        .get(*place)
                        .is_some_and(|field| field.kind == FieldType::Map),
                    _ => false,
                }
            }
            _ => false,
        }
    }

    fn walk_call(&mut self, node: &mut CallExpr) {
        let by_macro = matches!(
            node.args.first().map(|argument| &argument.expr),
            Some(Expr::Ident(name)) if name.starts_with('@')
        );
        match &mut node.target {
            Some(target) => {
                self.walk(target);
                self.check_method(&node.func_name, node.args.len());
            }
            None => {
                let name = node.func_name.as_str();
                let rewritten = REWRITTEN.iter().find(|(operator, _)| *operator == name);
                if let Some((_, ours)) = rewritten {
                    // The library recognizes what its own macros build and appends in place; ours would
                    // copy the list for each item.
                    if !by_macro {
                        node.func_name = (*ours).to_owned();
                    }
                } else if !KEPT.contains(&name) {
                    self.check_function(node);
                }
            }
        }
        node.args
            .iter_mut()
            .for_each(|argument| self.walk(argument));
    }

    fn check_function(&mut self, node: &mut CallExpr) {
        let name = node.func_name.as_str();
        let Some((_, arguments, ours)) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            let methods = METHODS.iter().map(|(known, _)| *known);
            let known = FUNCTIONS.iter().map(|(known, ..)| *known);
            let suggestion = refusal(name)
                .map(str::to_owned)
                .or_else(|| did_you_mean(name, known.clone().chain(["has"])))
                .or_else(|| {
                    methods
                        .into_iter()
                        .any(|method| method == name)
                        .then(|| format!("`{name}` is called on a value: `value.{name}(…)`"))
                })
                .or_else(|| {
                    Some(format!(
                        "the functions are {}",
                        listed(known.chain(["has"]))
                    ))
                });
            self.object(format!("there is no function `{name}`"), suggestion);
            return;
        };
        if node.args.len() != *arguments {
            self.object(format!("`{name}` takes {arguments} argument"), None);
        }
        node.func_name = (*ours).to_owned();
    }

    fn check_method(&mut self, name: &str, arguments: usize) {
        const MACROS: [&str; 5] = ["all", "exists", "exists_one", "map", "filter"];
        match METHODS.iter().find(|(known, _)| *known == name) {
            Some((_, expected)) if *expected == arguments => {}
            Some((_, 0)) if name.starts_with("get") => self.object(
                format!("`{name}` takes no argument: there are no time zones"),
                Some("moments are in UTC".to_owned()),
            ),
            Some((_, expected)) => {
                self.object(format!("`{name}` takes {expected} arguments"), None);
            }
            None if MACROS.contains(&name) => self.object(
                format!("`{name}` takes the name of a variable and an expression"),
                Some(format!("`list.{name}(item, …)`")),
            ),
            None => {
                let known = METHODS.iter().map(|(known, _)| *known).chain(MACROS);
                let suggestion = refusal(name)
                    .map(str::to_owned)
                    .or_else(|| did_you_mean(name, known.clone()))
                    .or_else(|| Some(format!("the methods are {}", listed(known))));
                self.object(format!("there is no method `{name}`"), suggestion);
            }
        }
    }

    /// Replaces a path by its slot; what no slot takes in stays a selection on it.
    fn walk_path(&mut self, node: &mut IdedExpr, root: &str, steps: &[PathStep]) {
        let test = matches!(&node.expr, Expr::Select(select) if select.test);
        if !self.place.variables().contains(&root) {
            self.object_to_word(root, steps);
            return;
        }
        let found = match root {
            "event" => self.event_path(steps, test),
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
            let names: Vec<String> = rest.iter().map(|step| step.name.clone()).collect();
            let slot = self.plan.slot(&names, !test);
            let variable = if test {
                Variable::HasPayload(slot)
            } else {
                Variable::Payload(slot)
            };
            return Some(Found::Slot {
                variable,
                taken: steps.len(),
            });
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
        let (message, suggestion) = if everywhere.contains(&word) {
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

enum Found {
    /// The first `taken` steps are one slot.
    Slot { variable: Variable, taken: usize },
    /// `has()` of what is always there.
    True,
}

/// Why a function that CEL has elsewhere is not available.
fn refusal(name: &str) -> Option<&'static str> {
    match name {
        "matches" => Some("regular expressions are not available in this version"),
        "now" | "getTime" => Some("there is no clock: use `event.time`"),
        "uint" => Some("unsigned integers are not available: use `int`"),
        "type" | "dyn" | "bytes" => Some("it is not available in machines"),
        "rand" | "random" | "uuid" => Some("machines are deterministic: use `event.id`"),
        _ => None,
    }
}

/// The steps from a name, when the node is nothing else: `a.b['c'].d`, `has(a.b)` included.
fn path(node: &IdedExpr) -> Option<(String, Vec<PathStep>)> {
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

fn call(name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr {
        id: 0,
        expr: Expr::Call(CallExpr {
            func_name: name.to_owned(),
            target: None,
            args,
        }),
    }
}
