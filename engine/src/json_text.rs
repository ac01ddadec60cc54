//! A strict look at JSON text that `serde_json` has already found well-formed: nesting, duplicate keys,
//! NUL and halves of surrogate pairs, none of which a parser that skips refuses and each of which a
//! store or a later reader trips over.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::limits::{JSON_DEPTH_MAX, JSON_OBJECT_KEYS_MAX};

/// What is wrong with a JSON text, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// More than [`JSON_DEPTH_MAX`] levels.
    #[error("nested deeper than {JSON_DEPTH_MAX} levels at byte {at}")]
    TooDeep {
        /// Byte offset in the text.
        at: usize,
    },
    /// An object has the same key twice.
    #[error("duplicate key `{key}` at byte {at}")]
    DuplicateKey {
        /// The key, cut short.
        key: String,
        /// Byte offset in the text.
        at: usize,
    },
    /// A string contains U+0000, which Postgres cannot store in `json` or `text`.
    #[error("NUL character (\\u0000) in a string at byte {at}")]
    Nul {
        /// Byte offset in the text.
        at: usize,
    },
    /// A string contains half of a UTF-16 surrogate pair, which no text can hold.
    #[error("half a surrogate pair (\\ud800 to \\udfff alone) in a string at byte {at}")]
    Surrogate {
        /// Byte offset in the text.
        at: usize,
    },
    /// More than [`JSON_OBJECT_KEYS_MAX`] keys in one object.
    #[error("more than {JSON_OBJECT_KEYS_MAX} keys in one object at byte {at}")]
    TooManyKeys {
        /// Byte offset in the text.
        at: usize,
    },
}

enum Level<'t> {
    Object { keys: Keys<'t>, expects_key: bool },
    Array,
}

/// The keys of one object, decoded.
#[derive(Default)]
struct Keys<'t> {
    few: Vec<Cow<'t, str>>,
    many: HashSet<Cow<'t, str>>,
}

impl<'t> Keys<'t> {
    /// Up to here looking through all is cheaper than hashing.
    const FEW: usize = 16;

    fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }

    /// False when the key is there already.
    fn insert(&mut self, key: Cow<'t, str>) -> bool {
        if self.few.contains(&key) {
            return false;
        }
        if self.few.len() < Self::FEW {
            self.few.push(key);
            return true;
        }
        self.many.insert(key)
    }
}

/// Checks a well-formed JSON text. `depth_before` counts the levels that already enclose it.
pub fn check(text: &str, depth_before: usize) -> Result<(), JsonFault> {
    let bytes = text.as_bytes();
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let (end, escaped) = string_end(bytes, at)?;
                if let Some(Level::Object { keys, expects_key }) = levels.last_mut()
                    && *expects_key
                {
                    // Between two ASCII quotes, so both are character boundaries.
                    let raw = text.get(at + 1..end).unwrap_or_default();
                    if keys.len() >= JSON_OBJECT_KEYS_MAX {
                        return Err(JsonFault::TooManyKeys { at });
                    }
                    let key = if escaped {
                        decoded(raw)
                    } else {
                        Cow::Borrowed(raw)
                    };
                    if !keys.insert(key) {
                        return Err(JsonFault::DuplicateKey {
                            key: raw.chars().take(40).collect(),
                            at,
                        });
                    }
                    *expects_key = false;
                }
                at = end;
            }
            b'{' | b'[' => {
                if depth_before + levels.len() >= JSON_DEPTH_MAX {
                    return Err(JsonFault::TooDeep { at });
                }
                levels.push(if byte == b'{' {
                    Level::Object {
                        keys: Keys::default(),
                        expects_key: true,
                    }
                } else {
                    Level::Array
                });
            }
            b'}' | b']' => {
                levels.pop();
            }
            b',' => {
                if let Some(Level::Object { expects_key, .. }) = levels.last_mut() {
                    *expects_key = true;
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The offset of the quote that closes the string opened at `open`, and whether the string has escapes.
fn string_end(bytes: &[u8], open: usize) -> Result<(usize, bool), JsonFault> {
    let mut at = open + 1;
    let mut escaped = false;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => break,
            b'\\' => {
                escaped = true;
                at += escape_bytes(bytes, at)?;
            }
            _ => at += 1,
        }
    }
    Ok((at, escaped))
}

/// The length of the escape at `at`; a surrogate pair counts as one.
fn escape_bytes(bytes: &[u8], at: usize) -> Result<usize, JsonFault> {
    match code_unit(bytes, at) {
        None => Ok(2),
        Some(0) => Err(JsonFault::Nul { at }),
        Some(0xd800..=0xdbff) => match code_unit(bytes, at + 6) {
            Some(0xdc00..=0xdfff) => Ok(12),
            _ => Err(JsonFault::Surrogate { at }),
        },
        Some(0xdc00..=0xdfff) => Err(JsonFault::Surrogate { at }),
        Some(_) => Ok(6),
    }
}

/// The UTF-16 code unit of `\uXXXX` at `at`, if one stands there.
fn code_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A key with escapes as the text it means. It is well-formed, so the raw form is never the answer.
fn decoded(raw: &str) -> Cow<'_, str> {
    match serde_json::from_str::<String>(&format!("\"{raw}\"")) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::{JsonFault, check};

    #[test]
    fn the_second_of_two_equal_keys_is_found_among_many() {
        let object = |last: &str| {
            let keys: Vec<String> = (0..200).map(|key| format!("\"\\nk{key}\":0")).collect();
            format!("{{{},\"{last}\":1}}", keys.join(","))
        };
        assert_eq!(check(&object("other"), 0), Ok(()));
        for twice in ["\\nk3", "\\u000ak150"] {
            let found = check(&object(twice), 0);
            assert!(
                matches!(found, Err(JsonFault::DuplicateKey { .. })),
                "{twice}"
            );
        }
    }

    #[test]
    fn faults_are_found_where_they_are() {
        let deep_ok = format!("{}{}", "[".repeat(32), "]".repeat(32));
        let deep_bad = format!("{}{}", "[".repeat(33), "]".repeat(33));
        assert_eq!(check(&deep_ok, 0), Ok(()));
        assert_eq!(check(&deep_bad, 0), Err(JsonFault::TooDeep { at: 32 }));
        assert_eq!(check(&deep_ok, 1), Err(JsonFault::TooDeep { at: 31 }));
        assert_eq!(check(r#"{"a":{"b":1},"b":2,"c":["a","a"]}"#, 0), Ok(()));
        assert!(matches!(
            check(r#"{"a":1,"a":2}"#, 0),
            Err(JsonFault::DuplicateKey { .. })
        ));
        assert!(matches!(
            check(r#"{"a":1,"\u0061":2}"#, 0),
            Err(JsonFault::DuplicateKey { .. })
        ));
        assert!(matches!(
            check(r#"{"a":"x\u0000y"}"#, 0),
            Err(JsonFault::Nul { .. })
        ));
        for lone in [
            r#"["\ud800"]"#,
            r#"["\udc00x"]"#,
            r#"["\ud83e\u0041"]"#,
            r#"{"\ud800":1}"#,
        ] {
            assert!(
                matches!(check(lone, 0), Err(JsonFault::Surrogate { .. })),
                "{lone}"
            );
        }
        assert_eq!(
            check(r#"{"\ud83e\udd80":"\uD83E\uDD80 \\ud800"}"#, 0),
            Ok(())
        );
        assert_eq!(
            check(r#"{"a":"x\\u0000y","b":"{\"a\":1,\"a\":1}"}"#, 0),
            Ok(())
        );
    }
}
