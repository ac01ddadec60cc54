//! The types of a machine's fields, and the conversions between three worlds: values of the expression
//! language, the JSON of entity data and emitted events, and what a field declares. A conversion keeps
//! the value exactly or it is a [`Misfit`]; it never rounds and never guesses.

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp,
};
use cel::common::value::Val;
use serde_json::{Map, Number, Value};

use super::decimal::CelDecimal;
use super::moment;
use super::numbers::{exact_double, exact_int};
use crate::limits::JSON_DEPTH_MAX;

/// What a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FieldType {
    /// A 64-bit integer.
    Int,
    /// A finite double.
    Double,
    /// A decimal of at most 28 digits, kept as text.
    Decimal,
    /// Text.
    String,
    /// True or false.
    Bool,
    /// A moment, kept as RFC 3339 text in UTC with microseconds.
    Timestamp,
    /// A list of any values.
    List,
    /// A map from text to any values.
    Map,
}

/// Why a value does not fit. Holds the names of types, never a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Misfit(pub(super) String);

impl FieldType {
    /// Every type.
    pub const ALL: [FieldType; 8] = [
        FieldType::Int,
        FieldType::Double,
        FieldType::Decimal,
        FieldType::String,
        FieldType::Bool,
        FieldType::Timestamp,
        FieldType::List,
        FieldType::Map,
    ];

    /// The name in a definition.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldType::Int => "int",
            FieldType::Double => "double",
            FieldType::Decimal => "decimal",
            FieldType::String => "string",
            FieldType::Bool => "bool",
            FieldType::Timestamp => "timestamp",
            FieldType::List => "list",
            FieldType::Map => "map",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The JSON that a field of this type keeps for a value, or why it cannot keep it.
    pub(super) fn convert(self, value: &dyn Val) -> Result<Value, Misfit> {
        let converted = match self {
            FieldType::Int => to_int(value).map(Value::from),
            FieldType::Double => to_double(value).and_then(number),
            FieldType::Decimal => {
                CelDecimal::from_val(value).map(|decimal| Value::from(decimal.to_string()))
            }
            FieldType::String => match value.downcast_ref::<CelString<'_>>() {
                Some(text) => Some(Value::from(stored_text(text.inner())?)),
                None => None,
            },
            FieldType::Bool => value
                .downcast_ref::<CelBool>()
                .map(|bool| Value::from(*bool.inner())),
            FieldType::Timestamp => to_timestamp(value),
            FieldType::List if value.downcast_ref::<CelList<'_>>().is_some() => {
                Some(to_json(value)?)
            }
            FieldType::Map if value.downcast_ref::<CelMap<'_>>().is_some() => Some(to_json(value)?),
            FieldType::List | FieldType::Map => None,
        };
        converted.ok_or_else(|| self.misfit(value))
    }

    /// True for JSON that a field of this type keeps.
    pub(crate) fn holds(self, stored: &Value) -> bool {
        match self {
            FieldType::Int => stored.is_i64(),
            FieldType::Double => stored.is_number(),
            FieldType::Decimal => stored
                .as_str()
                .is_some_and(|t| CelDecimal::parse(t).is_some()),
            FieldType::String => stored.is_string(),
            FieldType::Bool => stored.is_boolean(),
            FieldType::Timestamp => stored.as_str().is_some_and(|t| moment::parse(t).is_some()),
            FieldType::List => stored.is_array(),
            FieldType::Map => stored.is_object(),
        }
    }

    /// What is wrong with a value that has another type, or one that could fit and does not.
    fn misfit(self, value: &dyn Val) -> Misfit {
        let found = type_name(value);
        let could_fit = match self {
            FieldType::Int => ["int", "double", "decimal"].contains(&found),
            FieldType::Double => ["int", "double"].contains(&found),
            FieldType::Decimal => ["double", "string"].contains(&found),
            FieldType::Timestamp => ["string", "timestamp"].contains(&found),
            FieldType::String | FieldType::Bool | FieldType::List | FieldType::Map => false,
        };
        let kind = self.as_str();
        Misfit(if could_fit {
            format!("this {found} is not exactly one {kind}")
        } else {
            format!("expected {kind}, found {found}")
        })
    }

    /// The value of the language that a stored field holds, or `None` when it holds something else:
    /// only data that another definition wrote can.
    pub(super) fn bind<'v>(self, stored: &'v Value) -> Option<Box<dyn Val + 'v>> {
        match self {
            FieldType::Int => Some(Box::new(CelInt::from(stored.as_i64()?))),
            FieldType::Double => Some(Box::new(CelDouble::from(stored.as_f64()?))),
            FieldType::Decimal => Some(Box::new(CelDecimal::parse(stored.as_str()?)?)),
            FieldType::String => Some(Box::new(CelString::from(stored.as_str()?))),
            FieldType::Bool => Some(Box::new(CelBool::from(stored.as_bool()?))),
            FieldType::Timestamp => {
                let moment = moment::parse(stored.as_str()?).and_then(moment::to_cel)?;
                Some(Box::new(moment))
            }
            FieldType::List => stored.is_array().then(|| from_json(stored)),
            FieldType::Map => stored.is_object().then(|| from_json(stored)),
        }
    }
}

/// The name of a value's type as a definition would write it.
pub(super) fn type_name(value: &dyn Val) -> &str {
    plain_name(value.get_type().name())
}

/// The library's name of a type as a definition would write it.
pub(super) fn plain_name(name: &str) -> &str {
    match name {
        "null_type" => "null",
        "google.protobuf.Timestamp" => "timestamp",
        "google.protobuf.Duration" => "duration",
        name => name,
    }
}

fn to_int(value: &dyn Val) -> Option<i64> {
    if let Some(int) = value.downcast_ref::<CelInt>() {
        Some(*int.inner())
    } else if let Some(double) = value.downcast_ref::<CelDouble>() {
        exact_int(*double.inner())
    } else {
        value.downcast_ref::<CelDecimal>()?.to_int()
    }
}

fn to_double(value: &dyn Val) -> Option<f64> {
    if let Some(double) = value.downcast_ref::<CelDouble>() {
        Some(*double.inner())
    } else {
        exact_double(*value.downcast_ref::<CelInt>()?.inner())
    }
}

fn to_timestamp(value: &dyn Val) -> Option<Value> {
    let moment = match value.downcast_ref::<CelTimestamp>() {
        Some(moment) => moment::of(moment),
        None => moment::parse(value.downcast_ref::<CelString<'_>>()?.inner()),
    };
    moment.map(|moment| Value::from(moment.to_rfc3339()))
}

/// A finite double. Negative zero becomes zero: they are equal, so their bytes must be.
fn number(double: f64) -> Option<Value> {
    Number::from_f64(double + 0.0).map(Value::Number)
}

/// Text that every store and later reader can hold.
fn stored_text(text: &str) -> Result<&str, Misfit> {
    if text.contains('\0') {
        Err(Misfit("text must not contain U+0000".to_owned()))
    } else {
        Ok(text)
    }
}

/// The JSON of any value: what lists, maps and emitted events hold. Decimals and timestamps become
/// their text.
pub(super) fn to_json(value: &dyn Val) -> Result<Value, Misfit> {
    // The envelope of an emitted event and its data enclose every value.
    const ENCLOSING_LEVELS: usize = 2;
    json_at(value, ENCLOSING_LEVELS)
}

fn json_at(value: &dyn Val, depth: usize) -> Result<Value, Misfit> {
    let misfit = || Misfit(format!("a {} has no JSON form", type_name(value)));
    if let Some(int) = value.downcast_ref::<CelInt>() {
        return Ok(Value::from(*int.inner()));
    }
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return Ok(Value::from(stored_text(text.inner())?));
    }
    if let Some(double) = value.downcast_ref::<CelDouble>() {
        return number(*double.inner()).ok_or_else(misfit);
    }
    if let Some(bool) = value.downcast_ref::<CelBool>() {
        return Ok(Value::from(*bool.inner()));
    }
    if value.downcast_ref::<CelNull>().is_some() {
        return Ok(Value::Null);
    }
    if let Some(decimal) = value.downcast_ref::<CelDecimal>() {
        return Ok(Value::from(decimal.to_string()));
    }
    if value.downcast_ref::<CelTimestamp>().is_some() {
        return to_timestamp(value).ok_or_else(misfit);
    }
    if depth >= JSON_DEPTH_MAX {
        // An entity could otherwise grow one level an event, until no reader reads it.
        return Err(Misfit(format!(
            "nested deeper than {JSON_DEPTH_MAX} levels"
        )));
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        let items = list
            .inner()
            .iter()
            .map(|item| json_at(item.as_ref(), depth + 1));
        return items
            .collect::<Result<Vec<Value>, Misfit>>()
            .map(Value::Array);
    }
    let map = value.downcast_ref::<CelMap<'_>>().ok_or_else(misfit)?;
    let mut object = Map::new();
    let mut misfits = Vec::new();
    for (key, value) in map.inner() {
        let CelMapKey::String(key) = key else {
            misfits.push(Misfit("a map's keys must be text".to_owned()));
            continue;
        };
        let entry =
            stored_text(key.inner()).and_then(|key| Ok((key, json_at(value.as_ref(), depth + 1)?)));
        match entry {
            Ok((key, value)) => {
                object.insert(key.to_owned(), value);
            }
            Err(misfit) => misfits.push(misfit),
        }
    }
    // The hash map hands out its entries in random order; which misfit is told must not depend on it.
    match misfits
        .into_iter()
        .min_by(|left, right| left.0.cmp(&right.0))
    {
        Some(misfit) => Err(misfit),
        None => Ok(Value::Object(object)),
    }
}

/// A value of the language for any JSON. Integers within i64 are ints, never uints; other numbers
/// doubles.
pub(super) fn from_json(json: &Value) -> Box<dyn Val + '_> {
    match json {
        Value::Null => Box::new(CelNull),
        Value::Bool(bool) => Box::new(CelBool::from(*bool)),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Box::new(CelInt::from(int)),
            (None, double) => Box::new(CelDouble::from(double.unwrap_or_default())),
        },
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => {
            let items: Vec<Box<dyn Val + '_>> = items.iter().map(from_json).collect();
            Box::new(CelList::from(items))
        }
        Value::Object(object) => Box::new(map_from_json(object)),
    }
}

/// A map of the language for a JSON object.
pub(super) fn map_from_json(object: &Map<String, Value>) -> CelMap<'_> {
    let entries: std::collections::HashMap<CelMapKey<'_>, Box<dyn Val + '_>> = object
        .iter()
        .map(|(key, value)| (map_key(std::borrow::Cow::Borrowed(key)), from_json(value)))
        .collect();
    CelMap::from(entries)
}

/// A text key.
pub(super) fn map_key(key: std::borrow::Cow<'_, str>) -> CelMapKey<'_> {
    CelMapKey::String(CelString::from(key))
}
