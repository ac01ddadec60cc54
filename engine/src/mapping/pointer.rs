//! JSON pointers (RFC 6901) into a payload: read strictly from the configuration, and followed all together
//! in one walk over the payload's text. Never decides what the value it finds may be.

use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{ATTRIBUTE_BYTES_MAX, JSON_DEPTH_MAX};
use crate::machine::Objection;

/// A pointer to one place in a payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pointer {
    text: Arc<str>,
    tokens: Box<[Box<str>]>,
}

impl Pointer {
    /// Reads a pointer: `/order/id`, `/lines/0/sku`; `~1` stands for `/` and `~0` for `~` in a name.
    pub fn parse(text: &str) -> Result<Self, Objection> {
        let objection = |message: String, suggestion: Option<String>| Objection {
            message,
            suggestion,
        };
        if text.is_empty() {
            return Err(objection(
                "this pointer is the whole payload, which is no text".to_owned(),
                Some("point at a field, like `/order/id`".to_owned()),
            ));
        }
        let Some(inside) = text.strip_prefix('/') else {
            let path = text.trim_start_matches(['$', '.']).replace('.', "/");
            return Err(objection(
                "a JSON pointer begins with `/`".to_owned(),
                Some(format!("write `/{path}`")),
            ));
        };
        let tokens: Vec<&str> = inside.split('/').collect();
        if text.len() > ATTRIBUTE_BYTES_MAX || tokens.len() > JSON_DEPTH_MAX {
            let message = format!(
                "a pointer has at most {ATTRIBUTE_BYTES_MAX} bytes and {JSON_DEPTH_MAX} steps"
            );
            return Err(objection(message, None));
        }
        let mut read: Vec<Box<str>> = Vec::with_capacity(tokens.len());
        for token in tokens {
            let escapes = token.split('~').skip(1);
            if escapes
                .into_iter()
                .any(|after| !after.starts_with(['0', '1']))
            {
                return Err(objection(
                    "`~` stands alone in this pointer".to_owned(),
                    Some("write `~0` for `~` and `~1` for `/` in a name".to_owned()),
                ));
            }
            read.push(token.replace("~1", "/").replace("~0", "~").into());
        }
        Ok(Self {
            text: Arc::from(text),
            tokens: read.into(),
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The pointers of one mapping, each with the slot that its value goes to.
#[derive(Debug, Default)]
pub(super) struct PointerPlan {
    root: Step,
    slots: usize,
}

/// One level of the payload.
#[derive(Debug, Default)]
struct Step {
    slot: Option<usize>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    name: Box<str>,
    /// What the name stands for in a list.
    index: Option<usize>,
    step: Step,
}

impl PointerPlan {
    /// The slot of a pointer, made when it is new.
    pub(super) fn slot(&mut self, pointer: &Pointer) -> usize {
        let mut step = &mut self.root;
        for token in &pointer.tokens {
            let known = step.children.iter().position(|child| child.name == *token);
            let place = known.unwrap_or_else(|| {
                step.children.push(Child {
                    name: token.clone(),
                    index: index(token),
                    step: Step::default(),
                });
                step.children.len() - 1
            });
            match step.children.get_mut(place) {
                Some(child) => step = &mut child.step,
                None => break,
            }
        }
        *step.slot.get_or_insert_with(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    /// What the pointers find in well-formed JSON text without duplicate keys: the value's own text.
    pub(super) fn read<'p>(&self, json: &'p str) -> serde_json::Result<Vec<Option<&'p RawValue>>> {
        let mut found = vec![None; self.slots];
        if self.slots > 0 {
            walk(&self.root, json, &mut found)?;
        }
        Ok(found)
    }
}

/// A position in a list: digits without a leading zero.
fn index(token: &str) -> Option<usize> {
    let digits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (token == "0" || !token.starts_with('0'));
    plain.then(|| token.parse().ok()).flatten()
}

/// Looks for a step's children in an object or a list; there are none in anything else.
fn walk<'p>(
    step: &Step,
    json: &'p str,
    found: &mut Vec<Option<&'p RawValue>>,
) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let inside = Inside { step, found };
    match json.bytes().next() {
        Some(b'{') => deserializer.deserialize_map(inside),
        Some(b'[') => deserializer.deserialize_seq(inside),
        _ => Ok(()),
    }
}

struct Inside<'s, 'f, 'p> {
    step: &'s Step,
    found: &'f mut Vec<Option<&'p RawValue>>,
}

impl<'p> Inside<'_, '_, 'p> {
    /// Keeps the value at a child, and goes on inside it.
    fn enter<E: serde::de::Error>(&mut self, child: &Child, raw: &'p RawValue) -> Result<(), E> {
        if let Some(place) = child.step.slot.and_then(|slot| self.found.get_mut(slot)) {
            *place = Some(raw);
        }
        if child.step.children.is_empty() {
            return Ok(());
        }
        walk(&child.step, raw.get(), self.found).map_err(E::custom)
    }
}

impl<'p> Visitor<'p> for Inside<'_, '_, 'p> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'p>>(mut self, mut map: A) -> Result<(), A::Error> {
        let step = self.step;
        while let Some(child) = map.next_key_seed(Named(step))? {
            match child {
                Some(child) => self.enter(child, map.next_value()?)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'p>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let step = self.step;
        for place in 0.. {
            let child = step
                .children
                .iter()
                .find(|child| child.index == Some(place));
            match child {
                Some(child) => match seq.next_element()? {
                    Some(raw) => self.enter(child, raw)?,
                    None => break,
                },
                None if seq.next_element::<IgnoredAny>()?.is_none() => break,
                None => {}
            }
        }
        Ok(())
    }
}

/// The child that a key names, without copying the key.
struct Named<'s>(&'s Step);

impl<'s, 'p> DeserializeSeed<'p> for Named<'s> {
    type Value = Option<&'s Child>;

    fn deserialize<D: Deserializer<'p>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for Named<'s> {
    type Value = Option<&'s Child>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|child| *child.name == *key))
    }
}

#[cfg(test)]
mod tests {
    use super::{Pointer, PointerPlan};

    #[test]
    fn pointers_find_what_rfc_6901_says() {
        let json = r#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8," ":7,"k\"l":6,"\u0065":5,
            "o":{"0":{"x":[[1,{"y":"deep"}]]},"n":null,"big":1e999},"ends":"here"}"#;
        for (text, found) in [
            ("/foo", Some(r#"["bar","baz"]"#)),
            ("/foo/0", Some(r#""bar""#)),
            ("/foo/1", Some(r#""baz""#)),
            ("/foo/2", None),
            ("/foo/-", None),
            ("/foo/01", None),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/m~0n", Some("8")),
            ("/ ", Some("7")),
            ("/k\"l", Some("6")),
            ("/e", Some("5")),
            ("/o/0/x/0/1/y", Some(r#""deep""#)),
            ("/o/n", Some("null")),
            ("/o/big", Some("1e999")),
            ("/o/big/inside", None),
            ("/ends/here", None),
            ("/nothing", None),
        ] {
            let mut plan = PointerPlan::default();
            // A neighbour inside and one outside, so that slots are told apart.
            plan.slot(&Pointer::parse("/o").unwrap());
            let slot = plan.slot(&Pointer::parse(text).unwrap());
            assert_eq!(plan.slot(&Pointer::parse(text).unwrap()), slot);
            let read = plan.read(json).unwrap();
            assert_eq!(read[slot].map(|raw| raw.get()), found, "{text}");
        }
        for scalar in ["1", "\"/foo\"", "null", "[]", "{}", "1e999"] {
            let mut plan = PointerPlan::default();
            plan.slot(&Pointer::parse("/foo").unwrap());
            assert!(plan.read(scalar).unwrap()[0].is_none(), "{scalar}");
        }
    }

    #[test]
    fn what_is_no_pointer_says_what_to_write() {
        for (text, says) in [
            ("", "point at a field"),
            ("order/id", "write `/order/id`"),
            ("$.order.id", "write `/order/id`"),
            ("/a~b", "write `~0`"),
            ("/a~", "write `~0`"),
        ] {
            let objection = Pointer::parse(text).unwrap_err();
            let suggestion = objection.suggestion.unwrap();
            assert!(suggestion.contains(says), "{text}: {suggestion}");
        }
        assert!(Pointer::parse(&"/a".repeat(33)).is_err());
    }
}
