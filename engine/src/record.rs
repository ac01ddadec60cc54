//! One entry of the log: an event, or what became of a stored one later, with its effects. Owns the
//! stored JSON form and its leaf hash; the store keeps these bytes and never looks into them.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::clock::Timestamp;
use crate::event::{CausedBy, Event, write_json_string};
use crate::hash::{self, Hash128, hash_bytes};
use crate::position::{Offset, RecordPosition, Sequence, Version};
use crate::state::{EntityKey, MachineName};

/// What one event did to one machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The entity moved.
    Applied,
    /// The machine said no.
    Rejected,
    /// The machine did not care.
    Ignored,
    /// A person has to look.
    Dead,
    /// A person decided that it never takes effect.
    Discarded,
}

impl Outcome {
    /// The lower-case name in the log, in tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Applied => "applied",
            Outcome::Rejected => "rejected",
            Outcome::Ignored => "ignored",
            Outcome::Dead => "dead",
            Outcome::Discarded => "discarded",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [
            Outcome::Applied,
            Outcome::Rejected,
            Outcome::Ignored,
            Outcome::Dead,
            Outcome::Discarded,
        ]
        .into_iter()
        .find(|outcome| outcome.as_str() == name)
    }
}

/// One machine's effect, as the log records it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effect {
    /// The machine.
    pub machine: MachineName,
    /// The definition that decided.
    pub definition: Hash128,
    /// The entity; absent when no key could be had.
    pub key: Option<EntityKey>,
    /// What happened.
    pub outcome: Outcome,
    /// The entity's version after, when it moved.
    pub version: Option<Version>,
    /// The 64-bit hash of its state after, when it moved.
    pub state_hash: Option<u64>,
    /// The machine's reason, when it said no or could not say.
    pub reason: Option<String>,
}

/// What an entry is about.
#[allow(
    clippy::large_enum_variant,
    reason = "nearly every record is an event, and none is kept"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordBody {
    /// An admitted event.
    Event(Event),
    /// A later effect of a stored event, with who caused it.
    FollowUp {
        /// The stored event's position (in the same tenant).
        of: RecordPosition,
        /// What was done to it.
        action: FollowUpAction,
        /// Who did it.
        by: CausedBy,
    },
}

/// What was done to a stored event later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FollowUpAction {
    /// Offered again to the machine for which it was dead.
    Retried,
    /// Given up for that machine.
    Discarded,
}

impl FollowUpAction {
    /// The lower-case name in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            FollowUpAction::Retried => "retried",
            FollowUpAction::Discarded => "discarded",
        }
    }
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its place in the stream partition.
    pub sequence: Sequence,
    /// Its place in the source partition; absent for follow-ups and for emitted events.
    pub offset: Option<Offset>,
    /// Of an emitted event, the record at which a machine emitted it (in the same tenant).
    pub cause: Option<RecordPosition>,
    /// When it was admitted.
    pub admitted_at: Timestamp,
    /// Event or follow-up.
    pub body: RecordBody,
    /// One effect per machine that listened, in order of machine name.
    pub effects: Vec<Effect>,
}

/// Why a stored entry cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes do not hash to the leaf that stands with them.
    #[error("stored bytes hash to {found}, the record says {expected}")]
    LeafDiffers {
        /// The leaf in the record.
        expected: Hash128,
        /// The hash of its bytes.
        found: Hash128,
    },
    /// The text is not the form that [`Record::write`] makes.
    #[error("not a stored record: {0}")]
    Malformed(String),
}

/// Bytes of `,"leaf":"<32 digits>"}`: what stands behind the hashed bytes.
const LEAF_SUFFIX_BYTES: usize = 43;

impl Record {
    /// Appends the stored form and returns its leaf hash. `admitted_at_text` is the RFC 3339 form of
    /// `admitted_at`, made once a batch.
    pub fn write(&self, out: &mut String, admitted_at_text: &str) -> Hash128 {
        let body = match &self.body {
            RecordBody::Event(event) => EntryBody::Event(event),
            RecordBody::FollowUp { of, action, by } => EntryBody::FollowUp(of, *action, by),
        };
        let entry = Entry {
            sequence: self.sequence,
            offset: self.offset,
            cause: self.cause.as_ref(),
            admitted_at_text,
            body,
            effects: &self.effects,
        };
        entry.write(out)
    }

    /// Reads a stored entry back and checks its leaf.
    pub fn read(text: &str) -> Result<(Self, Hash128), RecordError> {
        let leaf = leaf_of(text)?;
        let stored: StoredRecord<'_> =
            serde_json::from_str(text).map_err(|e| RecordError::Malformed(e.to_string()))?;
        Ok((stored.into_record()?, leaf))
    }
}

/// A record that borrows its parts: what the hot path writes, so that no event is cloned for its record.
pub(crate) struct Entry<'r> {
    /// Its place in the stream partition.
    pub sequence: Sequence,
    /// Its place in the source partition; absent for follow-ups and for emitted events.
    pub offset: Option<Offset>,
    /// The record at which a machine emitted it.
    pub cause: Option<&'r RecordPosition>,
    /// When it was admitted, in RFC 3339.
    pub admitted_at_text: &'r str,
    /// Event or follow-up.
    pub body: EntryBody<'r>,
    /// One effect per machine that listened.
    pub effects: &'r [Effect],
}

/// What a borrowed record is about.
pub(crate) enum EntryBody<'r> {
    /// An admitted event.
    Event(&'r Event),
    /// A later effect: of what, what, and by whom.
    FollowUp(&'r RecordPosition, FollowUpAction, &'r CausedBy),
}

impl Entry<'_> {
    /// Appends the stored form and returns its leaf hash.
    pub(crate) fn write(&self, out: &mut String) -> Hash128 {
        let start = out.len();
        out.push_str("{\"sequence\":");
        push_integer(out, self.sequence.0);
        if let Some(offset) = self.offset {
            out.push_str(",\"offset\":");
            push_integer(out, offset.0);
        }
        if let Some(cause) = self.cause {
            let _ = write!(out, ",\"cause\":\"{cause}\"");
        }
        out.push_str(",\"admitted_at\":\"");
        out.push_str(self.admitted_at_text);
        out.push('"');
        match &self.body {
            EntryBody::Event(event) => {
                out.push_str(",\"event\":");
                event.write_json(out);
            }
            EntryBody::FollowUp(of, action, by) => {
                let _ = write!(
                    out,
                    ",\"of\":\"{of}\",\"action\":\"{}\",\"by\":",
                    action.as_str()
                );
                write_json_string(out, by.as_str());
            }
        }
        out.push_str(",\"effects\":[");
        for (index, effect) in self.effects.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            effect.write(out);
        }
        out.push(']');
        let leaf = hash_bytes(out.as_bytes().get(start..).unwrap_or_default());
        out.push_str(",\"leaf\":\"");
        leaf.push_hex(out);
        out.push_str("\"}");
        leaf
    }
}

/// Splits a segment's body into the texts of its entries.
pub fn split_segment(body: &str) -> Result<Vec<&RawValue>, RecordError> {
    serde_json::from_str(body).map_err(|e| RecordError::Malformed(e.to_string()))
}

/// The leaf that stands in a stored entry, after checking that its bytes hash to it.
pub fn leaf_of(text: &str) -> Result<Hash128, RecordError> {
    let malformed = || RecordError::Malformed("no leaf at its end".to_owned());
    let split = text
        .len()
        .checked_sub(LEAF_SUFFIX_BYTES)
        .ok_or_else(malformed)?;
    let (hashed, suffix) = text.split_at_checked(split).ok_or_else(malformed)?;
    let expected = suffix
        .strip_prefix(",\"leaf\":\"")
        .and_then(|rest| rest.strip_suffix("\"}"))
        .and_then(Hash128::from_hex)
        .ok_or_else(malformed)?;
    let found = hash_bytes(hashed.as_bytes());
    if found == expected {
        Ok(expected)
    } else {
        Err(RecordError::LeafDiffers { expected, found })
    }
}

impl Effect {
    fn write(&self, out: &mut String) {
        out.push_str("{\"machine\":\"");
        out.push_str(self.machine.as_str());
        out.push_str("\",\"definition\":\"");
        self.definition.push_hex(out);
        out.push('"');
        if let Some(key) = &self.key {
            out.push_str(",\"key\":");
            write_json_string(out, key.as_str());
        }
        out.push_str(",\"outcome\":\"");
        out.push_str(self.outcome.as_str());
        out.push('"');
        if let Some(version) = self.version {
            out.push_str(",\"version\":");
            push_integer(out, version.0);
        }
        if let Some(state) = self.state_hash {
            out.push_str(",\"state\":\"");
            hash::push_hex(out, &state.to_be_bytes());
            out.push('"');
        }
        if let Some(reason) = &self.reason {
            out.push_str(",\"reason\":");
            write_json_string(out, reason);
        }
        out.push('}');
    }
}

/// Decimal digits, without the formatter's machinery: it is called several times an event.
fn push_integer(out: &mut String, value: u64) {
    const DIGITS_MAX: usize = 20;
    let mut digits = [0_u8; DIGITS_MAX];
    let mut left = value;
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
        used += 1;
        if left == 0 {
            break;
        }
    }
    let digits = digits.get(DIGITS_MAX - used..).unwrap_or_default();
    out.push_str(std::str::from_utf8(digits).unwrap_or_default());
}

#[derive(Deserialize)]
struct StoredRecord<'t> {
    sequence: u64,
    offset: Option<u64>,
    cause: Option<String>,
    admitted_at: String,
    #[serde(borrow)]
    event: Option<&'t RawValue>,
    of: Option<String>,
    action: Option<String>,
    by: Option<CausedBy>,
    effects: Vec<StoredEffect>,
}

#[derive(Deserialize)]
struct StoredEffect {
    machine: MachineName,
    definition: String,
    key: Option<EntityKey>,
    outcome: String,
    version: Option<u64>,
    state: Option<String>,
    reason: Option<String>,
}

impl StoredRecord<'_> {
    fn into_record(self) -> Result<Record, RecordError> {
        let malformed = |what: &str| RecordError::Malformed(what.to_owned());
        let body = match (self.event, self.of, self.action, self.by) {
            (Some(raw), None, None, None) => {
                let bytes = Bytes::copy_from_slice(raw.get().as_bytes());
                RecordBody::Event(
                    Event::read_json(&bytes).map_err(|e| RecordError::Malformed(e.to_string()))?,
                )
            }
            (None, Some(of), Some(action), Some(by)) => RecordBody::FollowUp {
                of: of.parse().map_err(|_| malformed("`of` is no position"))?,
                action: match action.as_str() {
                    "retried" => FollowUpAction::Retried,
                    "discarded" => FollowUpAction::Discarded,
                    _ => return Err(malformed("unknown action")),
                },
                by,
            },
            _ => return Err(malformed("neither an event nor a follow-up")),
        };
        Ok(Record {
            sequence: Sequence(self.sequence),
            offset: self.offset.map(Offset),
            cause: match self.cause {
                Some(cause) => Some(
                    cause
                        .parse()
                        .map_err(|_| malformed("`cause` is no position"))?,
                ),
                None => None,
            },
            admitted_at: Timestamp::parse_rfc3339(&self.admitted_at)
                .ok_or_else(|| malformed("`admitted_at` is no time"))?,
            body,
            effects: self
                .effects
                .into_iter()
                .map(StoredEffect::into_effect)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl StoredEffect {
    fn into_effect(self) -> Result<Effect, RecordError> {
        let malformed = |what: &str| RecordError::Malformed(what.to_owned());
        let state_hash = match self.state {
            None => None,
            Some(hex) => {
                Some(u64::from_str_radix(&hex, 16).map_err(|_| malformed("`state` is no hash"))?)
            }
        };
        Ok(Effect {
            machine: self.machine,
            definition: Hash128::from_hex(&self.definition)
                .ok_or_else(|| malformed("`definition` is no hash"))?,
            key: self.key,
            outcome: Outcome::from_name(&self.outcome)
                .ok_or_else(|| malformed("unknown outcome"))?,
            version: self.version.map(Version),
            state_hash,
            reason: self.reason,
        })
    }
}
