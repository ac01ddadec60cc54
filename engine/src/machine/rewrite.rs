//! Checks a parsed expression and rewrites it: every path from a variable becomes one slot, operators
//! become ours, what a comprehension visits is guarded, and everything that is not deterministic or not
//! bounded is refused. Works on the syntax tree only; evaluates nothing.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue};

use super::field::Field;
use super::field_type::FieldType;
use super::load_error::{did_you_mean, listed};
use super::operators::{COPIED, FUNCTIONS, ITEMS, KEPT, METHODS, REWRITTEN};
use super::payload::PayloadPlan;
use super::variables::{Place, Variable};
use crate::limits::{EXPRESSION_DEPTH_MAX, EXPRESSION_NODES_MAX};
use paths::path;

mod paths;

/// A path that an expression names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reference {
    /// As it was written: `event.data.amount_cents`.
    pub(super) path: Box<str>,
    /// Where its value is found.
    pub(super) variable: Variable,
}

/// What is wrong with an expression, or with what stands in its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Objection {
    /// What was expected and what was found.
    pub message: String,
    /// What to write instead, when there is a good guess.
    pub suggestion: Option<String>,
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
    depth: usize,
    objections: Vec<Objection>,
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
            depth: 0,
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
        if self.depth >= EXPRESSION_DEPTH_MAX {
            let message = format!("an expression nests at most {EXPRESSION_DEPTH_MAX} deep");
            self.object(message, None);
            return;
        }
        self.depth += 1;
        self.walk_inside(node);
        self.depth -= 1;
    }

    fn walk_inside(&mut self, node: &mut IdedExpr) {
        if let Some((root, steps)) = path(node)
            && !self.locals.contains(&root)
        {
            self.walk_path(node, &root, &steps);
            return;
        }
        if self.walk_header_test(node) {
            return;
        }
        match &mut node.expr {
            Expr::Literal(literal) => self.check_literal(&literal.clone()),
            Expr::Ident(_) | Expr::Unspecified => {}
            Expr::Select(select) => self.walk(&mut select.operand),
            Expr::List(list) => list
                .elements
                .iter_mut()
                .for_each(|item| self.walk_copied(item)),
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                        self.walk(&mut entry.key);
                        self.walk_copied(&mut entry.value);
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

    /// Walks what is copied into a list or a map, and has its size counted when it runs.
    fn walk_copied(&mut self, node: &mut IdedExpr) {
        self.walk(node);
        if !matches!(node.expr, Expr::Literal(_)) {
            let item = std::mem::take(node);
            *node = call(COPIED, vec![item]);
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
