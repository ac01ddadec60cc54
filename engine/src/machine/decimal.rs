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

#[cfg(test)]
mod tests {
    use super::CelDecimal;

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
