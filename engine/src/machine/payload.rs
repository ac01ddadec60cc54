//! Reads of an event's payload exactly what expressions name, and nothing else: parsing the whole
//! payload into values costs four times as much as the evaluation (DESIGN.md 12). Owns the plan of paths
//! and the one pass over the JSON text that follows it.

use std::borrow::Cow;
use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString,
};
use cel::common::value::Val;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::field_type::map_key;
use crate::event::EventData;

/// The paths below `event.data` that some expressions name, each with the slot its value goes to.
#[derive(Debug, Default)]
pub(super) struct PayloadPlan {
    root: Step,
    slots: usize,
}

/// One level of the payload.
#[derive(Debug, Default)]
struct Step {
    /// The slot of the value at this path, when the path itself is named.
    slot: Option<usize>,
    /// False while only `has()` asks: then its presence is enough.
    value_needed: bool,
    children: Vec<(Box<str>, Step)>,
}

/// What stands at one path of one event.
#[derive(Debug, Default)]
pub(super) enum Slot<'e> {
    /// What encloses it is absent or no object.
    #[default]
    Broken,
    /// What encloses it is an object without it.
    Absent,
    /// It is there, and no value of the language: a number beyond double, half a surrogate pair.
    Unusable,
    /// It is there, and nobody needs the value.
    Present,
    /// Its value.
    Value(Bound<'e>),
}

/// A value of the payload; the scalars stand unboxed, since most slots are scalars.
#[derive(Debug)]
pub(super) enum Bound<'e> {
    Null(CelNull),
    Bool(CelBool),
    Int(CelInt),
    Double(CelDouble),
    Text(CelString<'e>),
    Nested(Box<dyn Val + 'e>),
}

/// The slots of one event.
#[derive(Debug)]
pub(super) struct Payload<'e> {
    slots: Vec<Slot<'e>>,
}

impl PayloadPlan {
    /// The slot of a path below `event.data`, made when it is new. `value_needed` is false for `has()`.
    pub(super) fn slot(&mut self, path: &[String], value_needed: bool) -> usize {
        let mut step = &mut self.root;
        for name in path {
            let place = step
                .children
                .iter()
                .position(|(known, _)| **known == **name);
            let place = place.unwrap_or_else(|| {
                step.children.push((name.as_str().into(), Step::default()));
                step.children.len() - 1
            });
            match step.children.get_mut(place) {
                Some((_, child)) => step = child,
                None => break,
            }
        }
        step.value_needed |= value_needed;
        *step.slot.get_or_insert_with(|| {
            self.slots += 1;
            self.slots - 1
        })
    }

    /// Reads the planned paths of one payload.
    pub(super) fn read<'e>(&self, data: &'e EventData) -> Payload<'e> {
        let mut slots: Vec<Slot<'e>> = Vec::with_capacity(self.slots);
        slots.resize_with(self.slots, Slot::default);
        let mut payload = Payload { slots };
        match data {
            EventData::Json(json) => {
                if payload.read_step(&self.root, json, false).is_err() {
                    // Well-formed JSON whose numbers or escapes are no values. Which path is at fault
                    // only a slower pass tells, one value at a time.
                    payload.slots.fill_with(Slot::default);
                    if payload.read_step(&self.root, json, true).is_err() {
                        payload.slots.fill_with(|| Slot::Unusable);
                    }
                }
            }
            // Bytes are no value of the language.
            EventData::Absent | EventData::Base64(_) => payload.fill(self.root.slot, Slot::Absent),
        }
        payload
    }
}

impl<'e> Payload<'e> {
    /// What stands in a slot.
    pub(super) fn get(&self, slot: usize) -> Option<&Slot<'e>> {
        self.slots.get(slot)
    }

    fn fill(&mut self, slot: Option<usize>, content: Slot<'e>) {
        if let Some(place) = slot.and_then(|slot| self.slots.get_mut(slot)) {
            *place = content;
        }
    }

    fn read_step(&mut self, step: &Step, json: &'e [u8], isolate: bool) -> serde_json::Result<()> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        StepSeed {
            step,
            payload: self,
            isolate,
        }
        .deserialize(&mut deserializer)
    }
}

impl<'e> Bound<'e> {
    /// The value as the language sees it.
    pub(super) fn as_val(&self) -> &(dyn Val + 'e) {
        match self {
            Bound::Null(null) => null,
            Bound::Bool(bool) => bool,
            Bound::Int(int) => int,
            Bound::Double(double) => double,
            Bound::Text(text) => text,
            Bound::Nested(nested) => nested.as_ref(),
        }
    }

    fn boxed(self) -> Box<dyn Val + 'e> {
        match self {
            Bound::Null(null) => Box::new(null),
            Bound::Bool(bool) => Box::new(bool),
            Bound::Int(int) => Box::new(int),
            Bound::Double(double) => Box::new(double),
            Bound::Text(text) => Box::new(text),
            Bound::Nested(nested) => nested,
        }
    }
}

/// Reads the value at one step into its slots.
struct StepSeed<'p, 's, 'e> {
    step: &'s Step,
    payload: &'p mut Payload<'e>,
    isolate: bool,
}

impl<'e> DeserializeSeed<'e> for StepSeed<'_, '_, 'e> {
    type Value = ();

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.step.slot.is_none() && !self.isolate {
            return deserializer.deserialize_any(self);
        }
        let Self {
            step,
            payload,
            isolate,
        } = self;
        match (step.children.is_empty(), step.value_needed) {
            (true, false) => {
                deserializer.deserialize_ignored_any(IgnoredAny)?;
                payload.fill(step.slot, Slot::Present);
                Ok(())
            }
            (true, true) if !isolate => {
                let bound = deserializer.deserialize_any(BoundVisitor)?;
                payload.fill(step.slot, Slot::Value(bound));
                Ok(())
            }
            // Both the value and paths inside it are named, or values are isolated: its text is read
            // once for each.
            _ => {
                let raw: &'e RawValue = serde::Deserialize::deserialize(deserializer)?;
                let content = if !step.value_needed {
                    Slot::Present
                } else if let Ok(bound) = bound_from(raw) {
                    Slot::Value(bound)
                } else {
                    Slot::Unusable
                };
                payload.fill(step.slot, content);
                if step.children.is_empty() {
                    return Ok(());
                }
                let inside = StepSeed {
                    step,
                    payload,
                    isolate,
                };
                let read = serde_json::Deserializer::from_str(raw.get()).deserialize_any(inside);
                match read {
                    Err(error) if !isolate => Err(serde::de::Error::custom(error)),
                    // Isolated: what could be read inside has been.
                    _ => Ok(()),
                }
            }
        }
    }
}

fn bound_from(raw: &RawValue) -> serde_json::Result<Bound<'_>> {
    serde_json::Deserializer::from_str(raw.get()).deserialize_any(BoundVisitor)
}

/// Visits the object at a step for the sake of its children; anything else leaves them broken.
impl<'e> Visitor<'e> for StepSeed<'_, '_, 'e> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'e>>(self, mut map: A) -> Result<(), A::Error> {
        for (_, child) in &self.step.children {
            self.payload.fill(child.slot, Slot::Absent);
        }
        while let Some(child) = map.next_key_seed(ChildSeed(self.step))? {
            match child {
                Some(step) => map.next_value_seed(StepSeed {
                    step,
                    payload: self.payload,
                    isolate: self.isolate,
                })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'e>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// The child that a key names, without copying the key.
struct ChildSeed<'s>(&'s Step);

impl<'s, 'e> DeserializeSeed<'e> for ChildSeed<'s> {
    type Value = Option<&'s Step>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for ChildSeed<'s> {
    type Value = Option<&'s Step>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self
            .0
            .children
            .iter()
            .find(|(name, _)| **name == *key)
            .map(|(_, step)| step))
    }
}

/// Any JSON as a value of the language.
struct BoundVisitor;

impl<'e> DeserializeSeed<'e> for BoundVisitor {
    type Value = Bound<'e>;

    fn deserialize<D: Deserializer<'e>>(self, deserializer: D) -> Result<Bound<'e>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'e> Visitor<'e> for BoundVisitor {
    type Value = Bound<'e>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Bound<'e>, E> {
        Ok(Bound::Null(CelNull))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Bound<'e>, E> {
        Ok(Bound::Bool(CelBool::from(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Bound<'e>, E> {
        Ok(Bound::Int(CelInt::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Bound<'e>, E> {
        Ok(match i64::try_from(value) {
            Ok(int) => Bound::Int(CelInt::from(int)),
            Err(_) => Bound::Double(CelDouble::from(value as f64)),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Bound<'e>, E> {
        Ok(Bound::Double(CelDouble::from(value)))
    }

    fn visit_borrowed_str<E>(self, text: &'e str) -> Result<Bound<'e>, E> {
        Ok(Bound::Text(CelString::from(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Bound<'e>, E> {
        Ok(Bound::Text(CelString::from(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'e>>(self, mut seq: A) -> Result<Bound<'e>, A::Error> {
        let mut items: Vec<Box<dyn Val + 'e>> = Vec::new();
        while let Some(item) = seq.next_element_seed(BoundVisitor)? {
            items.push(item.boxed());
        }
        Ok(Bound::Nested(Box::new(CelList::from(items))))
    }

    fn visit_map<A: MapAccess<'e>>(self, mut map: A) -> Result<Bound<'e>, A::Error> {
        let mut entries: HashMap<CelMapKey<'e>, Box<dyn Val + 'e>> = HashMap::new();
        while let Some(key) = map.next_key::<Cow<'e, str>>()? {
            let value = map.next_value_seed(BoundVisitor)?;
            entries.insert(map_key(key), value.boxed());
        }
        Ok(Bound::Nested(Box::new(CelMap::from(entries))))
    }
}
