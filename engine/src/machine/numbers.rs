//! Numbers of expressions: ints, doubles and decimals, how they mix in arithmetic and how they compare.
//! Promotion never loses and comparison is exact; what overflows is an error.

use std::cmp::Ordering;

use cel::ExecutionError;
use cel::common::types::{CelDouble, CelInt};
use cel::common::value::{CowVal, Val};
use rust_decimal::Decimal;

use super::decimal::CelDecimal;
use super::operators::{Outcome, fault};

/// 2^63: the first double beyond i64.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

/// A number of one of the three kinds that mix.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Int(i64),
    Double(f64),
    Decimal(Decimal),
}

/// Two numbers of the same kind.
enum Pair {
    Int(i64, i64),
    Double(f64, f64),
    Decimal(Decimal, Decimal),
}

impl Number {
    /// The number that a value is.
    pub(super) fn of(value: &dyn Val) -> Option<Self> {
        if let Some(int) = value.downcast_ref::<CelInt>() {
            Some(Number::Int(*int.inner()))
        } else if let Some(double) = value.downcast_ref::<CelDouble>() {
            Some(Number::Double(*double.inner()))
        } else {
            value
                .downcast_ref::<CelDecimal>()
                .map(|decimal| Number::Decimal(decimal.value()))
        }
    }

    /// Both as one kind: int gives way to double and to decimal. An int that no double holds exactly
    /// is an error rather than its neighbour; double and decimal never mix silently.
    fn promoted(operator: &str, left: Self, right: Self) -> Result<Pair, ExecutionError> {
        use Number::{Decimal as Dec, Double, Int};
        let exactly = |int: i64| {
            exact_double(int).ok_or_else(|| {
                fault(
                    operator,
                    "an int that no double holds exactly meets a double",
                )
            })
        };
        match (left, right) {
            (Int(l), Int(r)) => Ok(Pair::Int(l, r)),
            (Double(l), Double(r)) => Ok(Pair::Double(l, r)),
            (Int(l), Double(r)) => Ok(Pair::Double(exactly(l)?, r)),
            (Double(l), Int(r)) => Ok(Pair::Double(l, exactly(r)?)),
            (Dec(l), Dec(r)) => Ok(Pair::Decimal(l, r)),
            (Int(l), Dec(r)) => Ok(Pair::Decimal(Decimal::from(l), r)),
            (Dec(l), Int(r)) => Ok(Pair::Decimal(l, Decimal::from(r))),
            (Double(_), Dec(_)) | (Dec(_), Double(_)) => Err(fault(
                operator,
                "a double and a decimal do not mix: convert one with `decimal()` or `double()`",
            )),
        }
    }
}

/// The double that is exactly this int.
pub(super) fn exact_double(int: i64) -> Option<f64> {
    let double = int as f64;
    // `i64::MAX as f64` is 2^63, which saturates back to i64::MAX and would look exact.
    (double < TWO_TO_63 && double as i64 == int).then_some(double)
}

/// The int that is exactly this double.
pub(super) fn exact_int(double: f64) -> Option<i64> {
    let within = (-TWO_TO_63..TWO_TO_63).contains(&double);
    (within && double.fract() == 0.0).then_some(double as i64)
}

/// Computes with two numbers as one kind.
pub(super) fn arithmetic<'b, 'v>(
    operator: &str,
    left: Number,
    right: Number,
    ints: fn(i64, i64) -> Option<i64>,
    doubles: fn(f64, f64) -> f64,
    decimals: fn(Decimal, Decimal) -> Result<Decimal, &'static str>,
) -> Outcome<'b, 'v> {
    let overflow = || fault(operator, "overflow");
    match Number::promoted(operator, left, right)? {
        Pair::Int(l, r) => ints(l, r)
            .map(|int| CowVal::owned(CelInt::from(int)))
            .ok_or_else(overflow),
        Pair::Double(l, r) => finite(operator, doubles(l, r)),
        Pair::Decimal(l, r) => decimals(l, r)
            .map(|decimal| CowVal::owned(CelDecimal::new(decimal)))
            .map_err(|why| fault(operator, why)),
    }
}

/// A double that is a number.
pub(super) fn finite<'b, 'v>(operator: &str, double: f64) -> Outcome<'b, 'v> {
    if double.is_finite() {
        Ok(CowVal::owned(CelDouble::from(double)))
    } else {
        Err(fault(operator, "overflow"))
    }
}

/// The order of two numbers, or `None` when they have none. Exact, also where promotion would round.
pub(super) fn order_of_numbers(left: Number, right: Number) -> Option<Ordering> {
    use Number::{Decimal as Dec, Double, Int};
    match (left, right) {
        (Int(l), Int(r)) => Some(l.cmp(&r)),
        (Double(l), Double(r)) => l.partial_cmp(&r),
        (Dec(l), Dec(r)) => Some(l.cmp(&r)),
        (Int(l), Dec(r)) => Some(Decimal::from(l).cmp(&r)),
        (Dec(l), Int(r)) => Some(l.cmp(&Decimal::from(r))),
        (Int(l), Double(r)) => order_int_double(l, r),
        (Double(l), Int(r)) => order_int_double(r, l).map(Ordering::reverse),
        (Double(_), Dec(_)) | (Dec(_), Double(_)) => None,
    }
}

fn order_int_double(int: i64, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    if double >= TWO_TO_63 {
        return Some(Ordering::Less);
    }
    if double < -TWO_TO_63 {
        return Some(Ordering::Greater);
    }
    // Within i64: compare whole parts exactly, then what is after the point.
    let whole = int.cmp(&(double.trunc() as i64));
    Some(whole.then_with(|| 0.0_f64.total_cmp(&(double.fract() + 0.0))))
}
