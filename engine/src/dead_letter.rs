//! Dead letters: what people read and act on. Each has an identity of its own, so that writing one
//! twice keeps it once, and a fingerprint that groups failures of one cause.

use std::borrow::Cow;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::hash::{Hash128, hash_fields};
use crate::machine::DeadReason;
use crate::position::{Offset, RecordPosition, SourcePartition};
use crate::state::{EntityKey, MachineName};
use crate::tenant::TenantId;
use crate::text::storable_reason;

/// What a dead letter points to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeadLetterSource {
    /// A stored event, and the machine for which it is dead.
    Record {
        /// The event.
        position: RecordPosition,
        /// The machine.
        machine: MachineName,
        /// The entity, when its key is known.
        key: Option<EntityKey>,
    },
    /// A delivery or an emitted event that never became a stored event: its bytes as they came.
    Raw {
        /// Where it came from.
        source_partition: SourcePartition,
        /// Its offset there; an emitted event has none.
        offset: Option<Offset>,
        /// Its bytes.
        payload: Bytes,
    },
}

/// A dead letter as a commit writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// The tenant.
    pub tenant: TenantId,
    /// The identity; the same cause gives the same.
    pub id: Hash128,
    /// Why.
    pub reason: DeadReason,
    /// Where in the definition, or which field; never a value.
    pub detail: String,
    /// Groups dead letters of one cause.
    pub fingerprint: Hash128,
    /// What it is about.
    pub source: DeadLetterSource,
    /// When.
    pub at: Timestamp,
}

impl DeadLetter {
    /// A dead letter whose fingerprint is that of reason, machine and kind of fault. The detail is cut to
    /// what a store keeps, whoever wrote it.
    pub fn new(
        tenant: TenantId,
        id: Hash128,
        reason: DeadReason,
        detail: String,
        source: DeadLetterSource,
        at: Timestamp,
    ) -> Self {
        let detail = storable_reason(&detail);
        let machine = match &source {
            DeadLetterSource::Record { machine, .. } => machine.as_str(),
            DeadLetterSource::Raw { .. } => "",
        };
        let fingerprint = hash_fields(
            "tidegate.dead-letter.cause",
            &[
                reason.as_str().as_bytes(),
                machine.as_bytes(),
                kind_of_fault(reason, &detail).as_bytes(),
            ],
        );
        Self {
            tenant,
            id,
            reason,
            detail,
            fingerprint,
            source,
            at,
        }
    }
}

/// What details of one cause have in common. That of an unreadable delivery also says what was found and
/// where, which differs from one delivery to the next: only its field and what was expected are left, in
/// the words of [`Unreadable`](crate::event::Unreadable). All other details hold no values.
pub(crate) fn kind_of_fault(reason: DeadReason, detail: &str) -> Cow<'_, str> {
    if reason != DeadReason::Unreadable {
        return Cow::Borrowed(detail);
    }
    let (field, said) = detail.split_once(": ").unwrap_or(("", detail));
    // What was found stands between backticks and at the end; it may hold anything, also a backtick.
    let expected = said
        .split_once(", found ")
        .map_or(said, |(expected, _)| expected);
    let kind = expected
        .split_once("key `")
        .map_or(expected, |(kind, _)| kind);
    // Counts, lines, columns and offsets, each as one.
    let mut cause = format!("{field}: ");
    for character in kind.chars() {
        if !character.is_ascii_digit() {
            cause.push(character);
        } else if !cause.ends_with('#') {
            cause.push('#');
        }
    }
    Cow::Owned(cause)
}

/// Where a dead letter stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeadLetterState {
    /// Waits for a person.
    Open,
    /// Was offered again and took effect, or was refused, as its follow-up says.
    Retried,
    /// Was given up.
    Discarded,
}

impl DeadLetterState {
    /// The lower-case name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadLetterState::Open => "open",
            DeadLetterState::Retried => "retried",
            DeadLetterState::Discarded => "discarded",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Retried, Self::Discarded]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What a commit does to a dead letter that stands already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetterUpdate {
    /// The tenant.
    pub tenant: TenantId,
    /// Which one; it must be open.
    pub id: Hash128,
    /// Where it stands now. `Open` counts one more attempt in vain.
    pub state: DeadLetterState,
    /// When.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{DeadLetter, DeadLetterSource};
    use crate::clock::Timestamp;
    use crate::event::Event;
    use crate::hash::Hash128;
    use crate::machine::DeadReason;
    use crate::position::{Offset, SourceName, SourcePartition};
    use crate::tenant::TenantId;

    /// The letter of a delivery that lacks nothing but what `wrong` breaks.
    fn letter(wrong: &str) -> DeadLetter {
        let delivery = if wrong.starts_with('"') {
            format!(r#"{{"specversion":"1.0","source":"/s","type":"t","tenantid":"acme",{wrong}}}"#)
        } else {
            wrong.to_owned()
        };
        let payload = Bytes::from(delivery);
        let fault = Event::read_json(&payload).unwrap_err();
        let source = DeadLetterSource::Raw {
            source_partition: SourcePartition {
                source: SourceName::new("s").unwrap(),
                partition: 0,
            },
            offset: Some(Offset(0)),
            payload,
        };
        let tenant = TenantId::new("acme").unwrap();
        let detail = format!("{}: {}", fault.field, fault.reason);
        let reason = DeadReason::Unreadable;
        DeadLetter::new(tenant, Hash128(1), reason, detail, source, Timestamp(1))
    }

    #[test]
    fn unreadable_deliveries_are_grouped_by_field_and_fault_and_not_by_what_was_found() {
        let long = |of: &str| format!(r#""id":"{}""#, of.repeat(1_200));
        let causes = [
            vec![long("a"), long("`, found `7"), r#""id":"""#.to_owned()],
            vec![r#""id":"1","subject":"""#.to_owned()],
            vec![r#""id":7"#.to_owned(), r#""id":[8]"#.to_owned()],
            vec![
                r#""id":"1","time":"soon""#.to_owned(),
                r#""id":"1","time":"""#.to_owned(),
            ],
            vec![
                r#""id":"1","data":{"a":1,"a":2}"#.to_owned(),
                r#""id":"1","data":{"k":0,"b`c":1,"b`c":2}"#.to_owned(),
                r#""id":"1","data":{"key `":0,"key `":1}"#.to_owned(),
            ],
            vec![
                r#""id":"1","data":"\u0000""#.to_owned(),
                r#""id":"1","data":["at byte 7","\u0000"]"#.to_owned(),
            ],
            vec![
                r#""id":"1","data_base64":"a-b=""#.to_owned(),
                r#""id":"1","data_base64":"abcdefgh_""#.to_owned(),
            ],
            vec!["no".to_owned(), "{\n  no".to_owned()],
            vec!["{".to_owned(), "{\"id\":".to_owned()],
        ];
        let mut seen = std::collections::BTreeMap::new();
        for deliveries in &causes {
            let first = letter(&deliveries[0]);
            for delivery in deliveries {
                let same = letter(delivery);
                let both = (&first.detail, &same.detail);
                assert_eq!(same.fingerprint, first.fingerprint, "{both:?}");
            }
            let other = seen.insert(first.fingerprint, first.detail.clone());
            assert_eq!(
                other, None,
                "one fingerprint for another cause: {}",
                first.detail
            );
        }
    }
}
