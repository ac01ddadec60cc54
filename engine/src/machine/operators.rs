//! The operators and functions of expressions. The library's own refuse to mix int and double and let
//! infinities through; expressions are rewritten to these, which promote, compare exactly, know
//! decimals, and bound what they make. Everything else of the standard library that may be called is
//! named in [`FUNCTIONS`] and [`METHODS`].

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use cel::common::ast::operators as op;
use cel::common::functions::Function;
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelString, CelTimestamp, DYN_TYPE, Type,
};
use cel::common::value::{CowVal, Val};
use cel::{Env, ExecutionError};

use super::budget;
use super::decimal::{
    CelDecimal, DECIMAL_TYPE, exact_difference, exact_product, exact_sum, rounded_quotient,
};
use super::moment;
use super::numbers::{Number, arithmetic, finite, order_of_numbers};
use crate::limits::{COMPREHENSION_ITEMS_MAX, EXPRESSION_RESULT_MAX};

/// The operators that are rewritten, with the function that takes their place. No name of ours can be
/// written in CEL: identifiers never contain `@`. None may be a name of the library's either (its `in` is
/// `@in`), or its own overloads for lists come first.
pub(super) const REWRITTEN: [(&str, &str); 11] = [
    (op::ADD, "@add"),
    (op::SUBSTRACT, "@subtract"),
    (op::MULTIPLY, "@multiply"),
    (op::DIVIDE, "@divide"),
    (op::LESS, "@less"),
    (op::LESS_EQUALS, "@at_most"),
    (op::GREATER, "@greater"),
    (op::GREATER_EQUALS, "@at_least"),
    (op::EQUALS, "@equal"),
    (op::NOT_EQUALS, "@unequal"),
    (op::IN, "@is_in"),
];

/// Operators that keep the library's meaning.
pub(super) const KEPT: [&str; 7] = [
    op::CONDITIONAL,
    op::LOGICAL_AND,
    op::LOGICAL_OR,
    op::LOGICAL_NOT,
    op::NEGATE,
    op::MODULO,
    op::INDEX,
];

/// Functions that expressions may call, how many arguments they take, and what is called in their
/// place.
pub(super) const FUNCTIONS: [(&str, usize, &str); 8] = [
    ("size", 1, "size"),
    ("int", 1, "int"),
    ("double", 1, "@double"),
    ("decimal", 1, "@decimal"),
    ("string", 1, "string"),
    ("bool", 1, "bool"),
    ("timestamp", 1, "@timestamp"),
    ("duration", 1, "duration"),
];

/// Methods that expressions may call, and how many arguments they take.
pub(super) const METHODS: [(&str, usize); 14] = [
    ("size", 0),
    ("contains", 1),
    ("startsWith", 1),
    ("endsWith", 1),
    ("getFullYear", 0),
    ("getMonth", 0),
    ("getDate", 0),
    ("getDayOfMonth", 0),
    ("getDayOfWeek", 0),
    ("getDayOfYear", 0),
    ("getHours", 0),
    ("getMinutes", 0),
    ("getSeconds", 0),
    ("getMilliseconds", 0),
];

/// What the function in an error of ours begins with.
pub(super) const OURS: char = '@';

/// The function that guards what a comprehension visits.
pub(super) const ITEMS: &str = "@items";

/// The function that counts what a list or a map copies into itself.
pub(super) const COPIED: &str = "@copied";

/// The environment of every expression: the standard library and ours. Building it costs more than an
/// evaluation, so there is one.
pub(super) static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib().with_optional_support(false);
    let binary: [(&str, Function); 11] = [
        ("@add", add),
        ("@subtract", subtract),
        ("@multiply", multiply),
        ("@divide", divide),
        ("@less", less),
        ("@at_most", at_most),
        ("@greater", greater),
        ("@at_least", at_least),
        ("@equal", equal),
        ("@unequal", unequal),
        ("@is_in", is_in),
    ];
    let unary: [(&str, Function); 5] = [
        ("@double", double),
        ("@decimal", decimal),
        ("@timestamp", timestamp),
        (ITEMS, items),
        (COPIED, copied),
    ];
    for (name, function) in binary {
        declare(&mut env, name, vec![DYN_TYPE, DYN_TYPE], function);
    }
    for (name, function) in unary {
        declare(&mut env, name, vec![DYN_TYPE], function);
    }
    declare(
        &mut env,
        "int",
        vec![DECIMAL_TYPE.to_owned()],
        int_from_decimal,
    );
    declare(
        &mut env,
        "string",
        vec![DECIMAL_TYPE.to_owned()],
        string_from_decimal,
    );
    Arc::new(env)
});

fn declare(env: &mut Env, name: &str, arguments: Vec<Type>, function: Function) {
    let declared = env.add_overload(name, &format!("tidegate_{name}"), arguments, function);
    assert!(declared.is_ok(), "{name} is declared twice: {declared:?}");
}

/// What an operator gives.
pub(super) type Outcome<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// An error of ours. The `@` tells it from the library's, whose messages hold values; ours never do.
pub(super) fn fault(operator: &str, message: &'static str) -> ExecutionError {
    ExecutionError::function_error(&format!("{OURS}{operator}"), message)
}

fn two<'b, 'v>(
    args: Vec<CowVal<'b, 'v>>,
) -> Result<(CowVal<'b, 'v>, CowVal<'b, 'v>), ExecutionError> {
    let mut args = args.into_iter();
    match (args.next(), args.next()) {
        (Some(left), Some(right)) => Ok((left, right)),
        _ => Err(ExecutionError::missing_argument_or_target()),
    }
}

fn one<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    args.into_iter()
        .next()
        .ok_or_else(ExecutionError::missing_argument_or_target)
}

fn unfit(operator: &str, left: &dyn Val, right: &dyn Val) -> ExecutionError {
    let name = |value: &dyn Val| value.get_type().name().to_owned();
    ExecutionError::no_such_overload(operator, vec![name(left), name(right)])
}

/// What the library made of values that are no numbers.
fn kept<'b, 'v>(
    operator: &str,
    made: Outcome<'_, 'v>,
    left: &dyn Val,
    right: &dyn Val,
) -> Outcome<'b, 'v> {
    match made {
        Ok(value) => Ok(CowVal::Owned(value.into_owned())),
        Err(ExecutionError::Overflow(..)) => Err(fault(operator, "overflow")),
        Err(_) => Err(unfit(operator, left, right)),
    }
}

fn add<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (left, right) = two(args)?;
    if let (Some(l), Some(r)) = (Number::of(left.as_ref()), Number::of(right.as_ref())) {
        return arithmetic("+", l, r, i64::checked_add, |l, r| l + r, exact_sum);
    }
    let length = |value: &dyn Val| {
        if let Some(text) = value.downcast_ref::<CelString<'_>>() {
            text.inner().len()
        } else {
            value
                .downcast_ref::<CelList<'_>>()
                .map_or(0, |list| list.inner().len())
        }
    };
    if length(left.as_ref()) + length(right.as_ref()) > EXPRESSION_RESULT_MAX {
        return Err(fault(
            "+",
            "the result is longer than an expression may make",
        ));
    }
    let lists = left.downcast_ref::<CelList<'_>>().is_some();
    if lists && right.downcast_ref::<CelList<'_>>().is_none() {
        // The library would append whatever iterates, a map's keys in random order included.
        return Err(unfit("+", left.as_ref(), right.as_ref()));
    }
    budget::copy("+", left.as_ref())?;
    budget::copy("+", right.as_ref())?;
    let adder = left
        .as_adder()
        .ok_or_else(|| unfit("+", left.as_ref(), right.as_ref()))?;
    let sum = adder.add(right.as_ref());
    kept("+", sum, left.as_ref(), right.as_ref())
}

fn subtract<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (left, right) = two(args)?;
    if let (Some(l), Some(r)) = (Number::of(left.as_ref()), Number::of(right.as_ref())) {
        return arithmetic("-", l, r, i64::checked_sub, |l, r| l - r, exact_difference);
    }
    let subtractor = left
        .as_subtractor()
        .ok_or_else(|| unfit("-", left.as_ref(), right.as_ref()))?;
    let difference = subtractor.sub(right.as_ref());
    kept("-", difference, left.as_ref(), right.as_ref())
}

fn multiply<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (left, right) = two(args)?;
    match (Number::of(left.as_ref()), Number::of(right.as_ref())) {
        (Some(l), Some(r)) => arithmetic("*", l, r, i64::checked_mul, |l, r| l * r, exact_product),
        _ => Err(unfit("*", left.as_ref(), right.as_ref())),
    }
}

fn divide<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (left, right) = two(args)?;
    let (Some(l), Some(r)) = (Number::of(left.as_ref()), Number::of(right.as_ref())) else {
        return Err(unfit("/", left.as_ref(), right.as_ref()));
    };
    let by_zero = match r {
        Number::Int(int) => int == 0,
        Number::Double(double) => double == 0.0,
        Number::Decimal(decimal) => decimal.is_zero(),
    };
    if by_zero {
        return Err(fault("/", "division by zero"));
    }
    arithmetic("/", l, r, i64::checked_div, |l, r| l / r, rounded_quotient)
}

/// The order of two values, or `None` when they have none.
fn order(left: &dyn Val, right: &dyn Val) -> Option<Ordering> {
    match (Number::of(left), Number::of(right)) {
        (Some(l), Some(r)) => order_of_numbers(l, r),
        _ => left.as_comparer()?.compare(right).ok(),
    }
}

/// Equality with the same numeric rules at every depth, counted. Values of kinds that never equal are
/// unequal, not an error, as CEL has it.
fn same(operator: &str, left: &dyn Val, right: &dyn Val) -> Result<bool, ExecutionError> {
    if let (Some(l), Some(r)) = (
        left.downcast_ref::<CelList<'_>>(),
        right.downcast_ref::<CelList<'_>>(),
    ) {
        budget::visit(operator, left, right)?;
        if l.inner().len() != r.inner().len() {
            return Ok(false);
        }
        for (l, r) in l.inner().iter().zip(r.inner()) {
            if !same(operator, l.as_ref(), r.as_ref())? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    if left.downcast_ref::<CelMap<'_>>().is_some() && right.downcast_ref::<CelMap<'_>>().is_some() {
        budget::visit_all(operator, left)?;
    } else {
        budget::visit(operator, left, right)?;
    }
    Ok(same_uncounted(left, right))
}

/// [`same`] of values that are counted already.
fn same_uncounted(left: &dyn Val, right: &dyn Val) -> bool {
    if let (Some(l), Some(r)) = (Number::of(left), Number::of(right)) {
        return order_of_numbers(l, r) == Some(Ordering::Equal);
    }
    if let (Some(l), Some(r)) = (
        left.downcast_ref::<CelList<'_>>(),
        right.downcast_ref::<CelList<'_>>(),
    ) {
        return l.inner().len() == r.inner().len()
            && l.inner()
                .iter()
                .zip(r.inner())
                .all(|(l, r)| same_uncounted(l.as_ref(), r.as_ref()));
    }
    if let (Some(l), Some(r)) = (
        left.downcast_ref::<CelMap<'_>>(),
        right.downcast_ref::<CelMap<'_>>(),
    ) {
        // The order of a hash map does not matter to `all`.
        return l.inner().len() == r.inner().len()
            && l.inner().iter().all(|(key, value)| {
                r.inner()
                    .get(key)
                    .is_some_and(|other| same_uncounted(value.as_ref(), other.as_ref()))
            });
    }
    left.equals(right)
}

fn compared<'b, 'v>(
    operator: &str,
    args: Vec<CowVal<'b, 'v>>,
    holds: fn(Ordering) -> bool,
) -> Outcome<'b, 'v> {
    let (left, right) = two(args)?;
    order(left.as_ref(), right.as_ref())
        .map(|ordering| boolean(holds(ordering)))
        .ok_or_else(|| unfit(operator, left.as_ref(), right.as_ref()))
}

/// A boolean, borrowed from a constant: most operators give one.
pub(super) fn boolean<'b, 'v>(value: bool) -> CowVal<'b, 'v> {
    CowVal::Borrowed(if value {
        &CelBool::TRUE
    } else {
        &CelBool::FALSE
    })
}

fn less<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    compared("<", args, Ordering::is_lt)
}

fn at_most<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    compared("<=", args, Ordering::is_le)
}

fn greater<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    compared(">", args, Ordering::is_gt)
}

fn at_least<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    compared(">=", args, Ordering::is_ge)
}

fn equal<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (left, right) = two(args)?;
    same("==", left.as_ref(), right.as_ref()).map(boolean)
}

fn unequal<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (left, right) = two(args)?;
    same("!=", left.as_ref(), right.as_ref()).map(|same| boolean(!same))
}

fn is_in<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let (item, container) = two(args)?;
    if let Some(list) = container.downcast_ref::<CelList<'_>>() {
        for other in list.inner() {
            if same("in", item.as_ref(), other.as_ref())? {
                return Ok(boolean(true));
            }
        }
        return Ok(boolean(false));
    }
    let unfit = || unfit("in", item.as_ref(), container.as_ref());
    container
        .as_container()
        .ok_or_else(unfit)?
        .contains(item.as_ref())
        .map(boolean)
        .map_err(|_| unfit())
}

fn double<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = one(args)?;
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        let number = text
            .inner()
            .parse::<f64>()
            .map_err(|_| fault("double", "the text is no number"))?;
        return finite("double", number);
    }
    match Number::of(value.as_ref()) {
        // Asked for in so many words, so the nearest double will do.
        Some(Number::Int(int)) => Ok(CowVal::owned(CelDouble::from(int as f64))),
        Some(Number::Double(double)) => finite("double", double),
        Some(Number::Decimal(decimal)) => {
            let number = decimal
                .to_string()
                .parse::<f64>()
                .map_err(|_| fault("double", "overflow"))?;
            finite("double", number)
        }
        None => Err(ExecutionError::no_such_overload(
            "double",
            vec![value.get_type().name().to_owned()],
        )),
    }
}

fn decimal<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = one(args)?;
    CelDecimal::from_val(value.as_ref())
        .map(CowVal::owned)
        .ok_or_else(|| {
            fault(
                "decimal",
                "expected a number, or its text, of at most 28 digits",
            )
        })
}

fn timestamp<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = one(args)?;
    let moment = if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        moment::parse(text.inner())
    } else if let Some(seconds) = value.downcast_ref::<CelInt>() {
        moment::from_seconds(*seconds.inner())
    } else {
        value.downcast_ref::<CelTimestamp>().and_then(moment::of)
    };
    moment
        .and_then(moment::to_cel)
        .map(CowVal::owned)
        .ok_or_else(|| fault("timestamp", "expected RFC 3339 text or seconds since 1970"))
}

fn items<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = one(args)?;
    let Some(list) = value.downcast_ref::<CelList<'_>>() else {
        return Err(fault(
            "comprehension",
            "only lists are visited; a map has no order",
        ));
    };
    if list.inner().len() > COMPREHENSION_ITEMS_MAX {
        return Err(fault("comprehension", "more than 1,000 items"));
    }
    // The library copies each item into the variable.
    budget::copy("comprehension", value.as_ref())?;
    Ok(value)
}

fn copied<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = one(args)?;
    budget::copy("[ ]", value.as_ref())?;
    Ok(value)
}

fn int_from_decimal<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = one(args)?;
    value
        .downcast_ref::<CelDecimal>()
        .and_then(|decimal| CelDecimal::new(decimal.value().trunc()).to_int())
        .map(|int| CowVal::owned(CelInt::from(int)))
        .ok_or_else(|| fault("int", "overflow"))
}

fn string_from_decimal<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Outcome<'b, 'v> {
    let value = one(args)?;
    value
        .downcast_ref::<CelDecimal>()
        .map(|decimal| CowVal::owned(CelString::from(decimal.to_string())))
        .ok_or_else(ExecutionError::missing_argument_or_target)
}
