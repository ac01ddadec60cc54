//! Text types that can only be built valid. Each is a cheap clone, compares as text and says in its
//! error which value broke which rule.
//!
//! There is no way around the rule (R23); `text/tests.rs` tries each way with each type.
//! ```
//! use tidegate_engine::tenant::TenantId;
//! assert!(TenantId::new("acme").is_ok() && TenantId::new("Acme!").is_err());
//! ```

#[cfg(any(test, doctest))]
mod tests;

use crate::error::InvalidValue;
use crate::limits;

/// A reason that a machine or a database gave, as every store can keep it: cut, and without NUL.
pub(crate) fn storable_reason(reason: &str) -> String {
    reason
        .chars()
        .filter(|c| *c != '\0')
        .take(limits::REASON_CHARS_MAX)
        .collect()
}

/// A rule for one text type; returns what was expected when the text breaks it.
pub type TextRule = fn(&str) -> Result<(), String>;

/// Declares a validated text type that owns its text.
#[macro_export]
macro_rules! text_type {
    ($(#[$meta:meta])* $name:ident, $what:literal, $rule:expr) => {
        $crate::text_type_of!(std::sync::Arc<str>, $(#[$meta])* $name, $what, $rule);
    };
}

/// Declares a validated text type whose values may be slices of one delivery: an event is read without
/// a copy of each attribute, and let go of at once. What outlives its event is a [`text_type!`].
#[macro_export]
macro_rules! shared_text_type {
    ($(#[$meta:meta])* $name:ident, $what:literal, $rule:expr) => {
        $crate::text_type_of!(bytestring::ByteString, $(#[$meta])* $name, $what, $rule);

        impl $name {
            /// Builds the value of a text that is shared, or says which rule it breaks.
            pub(crate) fn shared(
                text: bytestring::ByteString,
            ) -> Result<Self, $crate::error::InvalidValue> {
                Self::check(&text)?;
                Ok(Self(text))
            }
        }
    };
}

/// What both declare; `$text` holds the text.
#[doc(hidden)]
#[macro_export]
macro_rules! text_type_of {
    ($text:ty, $(#[$meta:meta])* $name:ident, $what:literal, $rule:expr) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name($text);

        impl $name {
            /// Builds the value, or says which rule the text breaks.
            pub fn new(text: &str) -> Result<Self, $crate::error::InvalidValue> {
                Self::check(text)?;
                Ok(Self(<$text>::from(text)))
            }

            fn check(text: &str) -> Result<(), $crate::error::InvalidValue> {
                let rule: $crate::text::TextRule = $rule;
                rule(text).map_err(|expected| {
                    $crate::error::InvalidValue::new($what, expected, text)
                })
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::InvalidValue;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A name people type: lower-case letters, digits, `-` and `_`, beginning with a letter or digit.
pub fn name_rule(text: &str) -> Result<(), String> {
    let first_ok = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let rest_ok = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if first_ok && rest_ok && text.len() <= limits::NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(format!(
            "1 to {} of a-z, 0-9, `-` and `_`, beginning with a letter or digit",
            limits::NAME_BYTES_MAX
        ))
    }
}

/// An attribute of an event: 1 to [`limits::ATTRIBUTE_BYTES_MAX`] bytes without control characters.
pub fn attribute_rule(text: &str) -> Result<(), String> {
    let fits = !text.is_empty() && text.len() <= limits::ATTRIBUTE_BYTES_MAX;
    if fits && !has_control(text) {
        Ok(())
    } else {
        Err(format!(
            "1 to {} bytes of text without control characters",
            limits::ATTRIBUTE_BYTES_MAX
        ))
    }
}

/// Bytes below 0x20 and 0x7f are whole characters in UTF-8, so bytes suffice. All are looked at, so that
/// the compiler looks at many at once.
fn has_control(text: &str) -> bool {
    text.bytes()
        .fold(false, |found, b| found | (b < 0x20) | (b == 0x7f))
}

/// Like [`attribute_rule`], with the shorter bound of an entity's key.
pub fn entity_key_rule(text: &str) -> Result<(), String> {
    let fits = !text.is_empty() && text.len() <= limits::ENTITY_KEY_BYTES_MAX;
    if fits && !has_control(text) {
        Ok(())
    } else {
        Err(format!(
            "1 to {} bytes of text without control characters",
            limits::ENTITY_KEY_BYTES_MAX
        ))
    }
}

/// Checks a tenant's name: a [`name_rule`] name, or the one reserved name that begins with `_`.
pub fn tenant_rule(text: &str) -> Result<(), String> {
    if text == crate::tenant::UNASSIGNED {
        return Ok(());
    }
    name_rule(text)
}

/// The error for a value that is not text at all.
pub fn not_text(what: &'static str, found: &str) -> InvalidValue {
    InvalidValue::new(what, "a JSON string", found)
}
