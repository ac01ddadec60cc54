//! What one evaluation may cost. The number of parts and of visited items bounds the steps of an
//! expression, not what a step costs: `in` and `==` look at every value of a list, and lists, maps and
//! `+` copy what they are given. Both are counted here and end in an error of the expression.
//!
//! The library calls operators as plain functions without a context, so what is left stands in the
//! thread; an evaluation never leaves its thread and never begins another one. The counting depends on
//! the values alone, never on the order of a hash map, so that a replay ends where the first run did.

use std::cell::Cell;

use cel::ExecutionError;
use cel::common::types::{CelList, CelMap, CelMapKey, CelString};
use cel::common::value::Val;

use super::operators::fault;
use crate::limits::{EVALUATION_COPIED_BYTES_MAX, EVALUATION_VISITS_MAX};

/// Bytes that a value counts for besides its text: about what one costs to copy.
const VALUE_BYTES: usize = 16;

/// Bytes of text that are compared in the time that it takes to look at a value.
const TEXT_BYTES_A_VISIT: usize = 64;

/// What the error says; [`exceeded`] is how it is found where no error can be handed on.
pub(super) const EXCEEDED: &str =
    "the values are too large for what this expression does with them";

thread_local! {
    static VISITS: Cell<usize> = const { Cell::new(0) };
    static COPIED_BYTES: Cell<usize> = const { Cell::new(0) };
    static EXCEEDED_ONCE: Cell<bool> = const { Cell::new(false) };
}

/// A full budget for the evaluation that begins on this thread.
pub(super) fn begin() {
    VISITS.set(EVALUATION_VISITS_MAX);
    COPIED_BYTES.set(EVALUATION_COPIED_BYTES_MAX);
    EXCEEDED_ONCE.set(false);
}

/// True when this thread's evaluation asked for more than it had.
pub(super) fn exceeded() -> bool {
    EXCEEDED_ONCE.get()
}

/// Counts one comparison of two values that are neither lists nor maps.
pub(super) fn visit(operator: &str, left: &dyn Val, right: &dyn Val) -> Result<(), ExecutionError> {
    let text = text_bytes(left).min(text_bytes(right));
    let wanted = 1 + text / TEXT_BYTES_A_VISIT;
    spend(VISITS.get(), |rest| VISITS.set(rest), wanted, operator)
}

/// Counts the comparison of a whole map: how far it goes depends on the order of a hash map, so that
/// every value in it counts.
pub(super) fn visit_all(operator: &str, value: &dyn Val) -> Result<(), ExecutionError> {
    let left = VISITS.get();
    let wanted = bytes(value, left.saturating_mul(VALUE_BYTES)) / VALUE_BYTES + 1;
    spend(left, |rest| VISITS.set(rest), wanted, operator)
}

/// Counts a copy of a value.
pub(super) fn copy(operator: &str, value: &dyn Val) -> Result<(), ExecutionError> {
    let left = COPIED_BYTES.get();
    let wanted = bytes(value, left);
    spend(left, |rest| COPIED_BYTES.set(rest), wanted, operator)
}

fn spend(
    left: usize,
    keep: impl FnOnce(usize),
    wanted: usize,
    operator: &str,
) -> Result<(), ExecutionError> {
    match left.checked_sub(wanted) {
        Some(rest) => {
            keep(rest);
            Ok(())
        }
        None => {
            // Whatever follows an error that `||` or `exists` swallowed is refused at once.
            keep(0);
            EXCEEDED_ONCE.set(true);
            Err(fault(operator, EXCEEDED))
        }
    }
}

fn text_bytes(value: &dyn Val) -> usize {
    value
        .downcast_ref::<CelString<'_>>()
        .map_or(0, |text| text.inner().len())
}

/// What a value and all in it count for; does not go on once that is more than `most`.
fn bytes(value: &dyn Val, most: usize) -> usize {
    let mut sum = VALUE_BYTES + text_bytes(value);
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        for item in list.inner() {
            if sum > most {
                break;
            }
            sum += bytes(item.as_ref(), most - sum);
        }
    } else if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        for (key, item) in map.inner() {
            if sum > most {
                break;
            }
            if let CelMapKey::String(key) = key {
                sum += key.inner().len();
            }
            sum += bytes(item.as_ref(), most.saturating_sub(sum));
        }
    }
    sum
}
