//! A strict look at JSON text that `serde_json` has already found well-formed: nesting, duplicate keys
//! and NUL, none of which a parser refuses and each of which a store or a later reader trips over.

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
    /// More than [`JSON_OBJECT_KEYS_MAX`] keys in one object.
    #[error("more than {JSON_OBJECT_KEYS_MAX} keys in one object at byte {at}")]
    TooManyKeys {
        /// Byte offset in the text.
        at: usize,
    },
}

enum Level<'t> {
    Object {
        keys: Vec<&'t str>,
        expects_key: bool,
    },
    Array,
}

/// Checks a well-formed JSON text. `depth_before` counts the levels that already enclose it.
pub fn check(text: &str, depth_before: usize) -> Result<(), JsonFault> {
    let bytes = text.as_bytes();
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(bytes, at)?;
                if let Some(Level::Object { keys, expects_key }) = levels.last_mut()
                    && *expects_key
                {
                    // Between two ASCII quotes, so both are character boundaries.
                    let key = text.get(at + 1..end).unwrap_or_default();
                    if keys.len() >= JSON_OBJECT_KEYS_MAX {
                        return Err(JsonFault::TooManyKeys { at });
                    }
                    if keys.iter().any(|seen| same_key(seen, key)) {
                        return Err(JsonFault::DuplicateKey {
                            key: key.chars().take(40).collect(),
                            at,
                        });
                    }
                    keys.push(key);
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
                        keys: Vec::new(),
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

/// The offset of the quote that closes the string opened at `open`.
fn string_end(bytes: &[u8], open: usize) -> Result<usize, JsonFault> {
    let mut at = open + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return Ok(at),
            b'\\' => {
                if bytes.get(at + 1..at + 6) == Some(b"u0000") {
                    return Err(JsonFault::Nul { at });
                }
                at += 2;
            }
            _ => at += 1,
        }
    }
    Ok(at)
}

/// Two keys are the same when they decode to the same text; only escaped ones need decoding.
fn same_key(left: &str, right: &str) -> bool {
    if !left.contains('\\') && !right.contains('\\') {
        return left == right;
    }
    let decode = |raw: &str| serde_json::from_str::<String>(&format!("\"{raw}\"")).ok();
    decode(left) == decode(right)
}

#[cfg(test)]
mod tests {
    use super::{JsonFault, check};

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
        assert_eq!(
            check(r#"{"a":"x\\u0000y","b":"{\"a\":1,\"a\":1}"}"#, 0),
            Ok(())
        );
    }
}
