//! The decimal of the expression language: exact arithmetic in 28 digits. The CEL library has no such
//! type, so this is a value of our own in it; [`super::operators`] gives it its operators.

use std::any::Any;

use cel::ExecutionError;
use cel::common::traits::Negator;
use cel::common::types::{CelDouble, CelInt, CelString, Type};
use cel::common::value::{StaticVal, Val};
use rust_decimal::Decimal;

/// The type's name in messages, and what its overloads are declared for.
pub(super) static DECIMAL_TYPE: Type = Type::new_unspecified_type("decimal");

/// A decimal inside an expression. Always normalized, so that equal decimals are equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CelDecimal(Decimal);

impl CelDecimal {
    /// The normalized value.
    pub(super) fn new(value: Decimal) -> Self {
        Self(value.normalize())
    }

    /// The number.
    pub(super) fn value(self) -> Decimal {
        self.0
    }

    /// Reads `-12.50`: digits with at most one point, no exponent, no separators, exactly.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        Decimal::from_str_exact(text).ok().map(Self::new)
    }

    /// The decimal that a number, a text or a decimal stands for. A double stands for its shortest
    /// decimal text, which is what a JSON number said.
    pub(super) fn from_val(value: &dyn Val) -> Option<Self> {
        if let Some(decimal) = value.downcast_ref::<CelDecimal>() {
            Some(*decimal)
        } else if let Some(int) = value.downcast_ref::<CelInt>() {
            Some(Self::new(Decimal::from(*int.inner())))
        } else if let Some(double) = value.downcast_ref::<CelDouble>() {
            Self::parse(&double.inner().to_string())
        } else if let Some(text) = value.downcast_ref::<CelString<'_>>() {
            Self::parse(text.inner())
        } else {
            None
        }
    }

    /// The integer, when there is nothing after the point and it fits.
    pub(super) fn to_int(self) -> Option<i64> {
        self.0
            .is_integer()
            .then(|| i64::try_from(self.0).ok())
            .flatten()
    }
}

impl std::fmt::Display for CelDecimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `normalize` leaves no negative zero and no trailing zeros, so this is the canonical text.
        write!(f, "{}", self.0)
    }
}

impl Val for CelDecimal {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &DECIMAL_TYPE
    }

    fn as_negator<'b, 'v>(&'b self) -> Option<&'b (dyn Negator + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<CelDecimal>() == Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for CelDecimal {}

impl Negator for CelDecimal {
    fn negate<'v>(&self) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        Ok(Box::new(Self::new(-self.0)))
    }
}

/// Why arithmetic of decimals has no result.
const OVERFLOW: &str = "overflow";
const DIGITS_LOST: &str = "the exact result has more than 28 digits";

/// The sum, exactly.
pub(super) fn exact_sum(left: Decimal, right: Decimal) -> Result<Decimal, &'static str> {
    let sum = left.checked_add(right).ok_or(OVERFLOW)?;
    // The library rounds what does not fit to fewer places, silently; what is exact has them all.
    if sum.scale() >= left.scale().max(right.scale()) {
        Ok(sum)
    } else {
        Err(DIGITS_LOST)
    }
}

/// The difference, exactly.
pub(super) fn exact_difference(left: Decimal, right: Decimal) -> Result<Decimal, &'static str> {
    exact_sum(left, -right)
}

/// The product, exactly.
pub(super) fn exact_product(left: Decimal, right: Decimal) -> Result<Decimal, &'static str> {
    let product = left.checked_mul(right).ok_or(OVERFLOW)?;
    let places = left.scale() + right.scale();
    let cut = places.saturating_sub(product.scale());
    // Cutting places off is exact when only zeros stood there: when the product of the whole numbers
    // is a multiple of that power of ten.
    let factors =
        |of: i128| factors(left.mantissa(), of).saturating_add(factors(right.mantissa(), of));
    if left.is_zero() || right.is_zero() || (factors(2) >= cut && factors(5) >= cut) {
        Ok(product)
    } else {
        Err(DIGITS_LOST)
    }
}

/// The quotient, rounded to 28 digits: few quotients are decimals at all.
pub(super) fn rounded_quotient(left: Decimal, right: Decimal) -> Result<Decimal, &'static str> {
    let quotient = left.checked_div(right).ok_or(OVERFLOW)?;
    if quotient.is_zero() && !left.is_zero() {
        return Err("the quotient is smaller than 28 digits can say");
    }
    Ok(quotient)
}

/// How often a prime divides a number that is not zero.
fn factors(mut number: i128, prime: i128) -> u32 {
    let mut count = 0;
    while number != 0 && number % prime == 0 {
        number /= prime;
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::{CelDecimal, exact_difference, exact_product, exact_sum, rounded_quotient};

    #[test]
    fn no_digit_of_a_decimal_is_lost_silently() {
        let lost = Err("the exact result has more than 28 digits");
        type Operator = fn(
            rust_decimal::Decimal,
            rust_decimal::Decimal,
        ) -> Result<rust_decimal::Decimal, &'static str>;
        let cases: [(&str, Operator, &str, Result<&str, &str>); 12] = [
            (
                "0.00000000000001",
                exact_product,
                "0.00000000000000000001",
                lost,
            ),
            (
                "0.00000000000001",
                exact_product,
                "0.00000000000001",
                Ok("0.0000000000000000000000000001"),
            ),
            (
                "0.00000000000005",
                exact_product,
                "0.000000000000002",
                Ok("0.0000000000000000000000000001"),
            ),
            ("0.00000000000005", exact_product, "0.000000000000003", lost),
            ("0", exact_product, "0.00000000000000000001", Ok("0")),
            ("12345678901234567890.5", exact_product, "12345678.25", lost),
            (
                "79228162514264337593543950.33",
                exact_sum,
                "0.01",
                Ok("79228162514264337593543950.34"),
            ),
            ("7922816251426433759354395033", exact_sum, "0.01", lost),
            (
                "7922816251426433759354395033",
                exact_difference,
                "0.01",
                lost,
            ),
            (
                "79228162514264337593543950335",
                exact_sum,
                "1",
                Err("overflow"),
            ),
            (
                "1",
                rounded_quotient,
                "3",
                Ok("0.3333333333333333333333333333"),
            ),
            (
                "0.0000000000000000000000000001",
                rounded_quotient,
                "3",
                Err("the quotient is smaller than 28 digits can say"),
            ),
        ];
        for (left, operator, right, expected) in cases {
            let read = |text| CelDecimal::parse(text).unwrap().value();
            let found = operator(read(left), read(right)).map(|d| CelDecimal::new(d).to_string());
            assert_eq!(found.as_deref(), expected.as_deref(), "{left} and {right}");
        }
    }

    #[test]
    fn decimals_are_read_strictly_and_written_canonically() {
        let cases = [
            ("10", Some("10")),
            ("10.50", Some("10.5")),
            ("-0.00", Some("0")),
            ("0012.0", Some("12")),
            ("9007199254740993", Some("9007199254740993")),
            (
                "0.0000000000000000000000000001",
                Some("0.0000000000000000000000000001"),
            ),
            ("0.00000000000000000000000000001", None),
            ("79228162514264337593543950336", None),
            ("1e3", None),
            ("1_000", None),
            ("+1", None),
            (".5", None),
            ("5.", None),
            ("", None),
            ("-", None),
            ("NaN", None),
        ];
        for (text, expected) in cases {
            let read = CelDecimal::parse(text).map(|decimal| decimal.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
