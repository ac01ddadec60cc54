//! The key `mapping` of a source: where each attribute of its events is taken from. Owns how that is
//! written; what it means is the engine's.

use std::sync::Arc;

use tidegate_engine::event::EventSource;
use tidegate_engine::machine::Objection;
use tidegate_engine::mapping::{self, Field, Selector, TimeFormat};
use tidegate_engine::position::SourceName;

use super::fill::{Tree, Value, join};
use super::problem::Problems;
use super::reference::Reference;
use super::sections::{Source, SourceKind};
use super::setting::{self, Check, Setting};
use crate::section;

/// The key that says how `time` is written.
const FORMAT: &str = "format";

/// The id of records that have none.
const POSITION: &str = "position";

/// What people look for here and do not find, and why.
const NOT_HERE: [(&str, &str); 4] = [
    (
        "stream",
        "a source has one stream, since one process at a time owns its order: name it in the source's \
         `stream`, and give another stream a source of its own",
    ),
    (
        "data",
        "an event's data is the whole record, byte for byte; leave this key out",
    ),
    (
        "datacontenttype",
        "what a mapping reads is `application/json`; leave this key out",
    ),
    (
        "causedby",
        "who caused an event is said by a credential, never by what was sent; leave this key out",
    ),
];

section! {
    /// Where each attribute is taken from.
    pub struct MappingKeys {
        /// The event's id, which is needed: the same one from the same source is the same event. For records
        /// without any, `position`: their place in the source, so that what a producer sends again is new.
        id: Option<IdRule> = None;
        /// What happened, which is needed: the name that machines listen to.
        r#type: Option<Rule> = None;
        /// What it happened to.
        subject: Option<Rule> = None;
        /// When it happened. `format` says how that is written: `rfc3339` (when it is left out), `epoch_s`,
        /// `epoch_ms` or `epoch_us`, like `{ pointer: /at, format: epoch_ms }`.
        time: Option<TimeRule> = None;
        /// Who says so. `/sources/` and the name of the source, when it is left out.
        source: Option<Rule> = None;
        /// The producer's "same effect", where that is not the id.
        idempotency_key: Option<Rule> = None;
        /// What this event belongs to; carried through everything that it causes.
        correlation_id: Option<Rule> = None;
        /// The id of the event that caused this one.
        causation_id: Option<Rule> = None;
        /// Whose it is. Only with `tenant_from_event_unsafe`: whoever writes the field chooses the tenant.
        tenant: Option<Rule> = None;
    }
}

impl Check for MappingKeys {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let rules = self.rules();
        if rules.is_empty() {
            return;
        }
        // The name only stands in events.
        let Err(faults) = self.compile("/sources/checked") else {
            return;
        };
        for fault in faults {
            let rule = rules.iter().find(|(field, _)| *field == fault.field);
            let line = rule.map_or(line, |(_, rule)| rule.line);
            object(
                line,
                &join(path, fault.field.key()),
                fault.objection,
                problems,
            );
        }
    }
}

impl MappingKeys {
    fn rules(&self) -> Vec<(Field, &Rule)> {
        let time = self.time.as_ref().map(|time| &time.rule);
        [
            (Field::Id, self.id.as_ref().map(|id| &id.0)),
            (Field::Type, self.r#type.as_ref()),
            (Field::Subject, self.subject.as_ref()),
            (Field::Time, time),
            (Field::Source, self.source.as_ref()),
            (Field::IdempotencyKey, self.idempotency_key.as_ref()),
            (Field::CorrelationId, self.correlation_id.as_ref()),
            (Field::CausationId, self.causation_id.as_ref()),
            (Field::Tenant, self.tenant.as_ref()),
        ]
        .into_iter()
        .filter_map(|(field, rule)| Some((field, rule?)))
        .collect()
    }

    fn compile(&self, source: &str) -> Result<mapping::Mapping, Vec<mapping::MappingFault>> {
        let fields: Vec<(Field, Selector)> = self
            .rules()
            .into_iter()
            .map(|(field, rule)| (field, rule.selector.clone()))
            .collect();
        let format = self.time.as_ref().map(|time| time.format);
        let source = EventSource::new(source).map_err(|error| {
            vec![mapping::MappingFault {
                field: Field::Source,
                objection: Objection {
                    message: error.to_string(),
                    suggestion: None,
                },
            }]
        })?;
        mapping::Mapping::compile(&fields, format.unwrap_or_default(), source)
    }
}

/// The mapping of a source, as it stands in the configuration.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Mapping(MappingKeys);

impl Mapping {
    /// What the engine reads records with; `None` when nothing is mapped, so that records are CloudEvents.
    pub fn compiled(&self, source: &SourceName) -> Option<Arc<mapping::Mapping>> {
        if self.0.rules().is_empty() {
            return None;
        }
        // A configuration that was read is checked, so that this one compiles.
        self.0
            .compile(&format!("/sources/{source}"))
            .ok()
            .map(Arc::new)
    }

    /// Notes what does not fit the rest of its source.
    pub(super) fn check_in(&self, source: &Source, path: &str, problems: &mut Problems) {
        let rules = self.0.rules();
        let path = join(path, "mapping");
        for (field, rule) in &rules {
            let at = join(&path, field.key());
            if source.kind == SourceKind::File && rule.selector.uses_headers() {
                let message = "the lines of a file have no headers; take it from the payload";
                problems.add(rule.line, &at, message);
            }
            if rule.selector == Selector::Position && source.kind == SourceKind::Http {
                let message = "a request that is sent again has another position, so that each of its effects \
                               would happen again: take the id from what its sender repeats, like \
                               `{ header: x-id }`";
                problems.add(rule.line, &at, message);
            }
            if *field == Field::Tenant && source.kind == SourceKind::Http {
                let message = "the tenant of a request is that of its token; leave it out";
                problems.add(rule.line, &at, message);
            } else if *field == Field::Tenant && !source.tenant_from_event_unsafe {
                let message = "whoever writes this field chooses the tenant: give the source a `tenant`, or \
                               say `tenant_from_event_unsafe: true` if only you write to it";
                problems.add(rule.line, &at, message);
            }
        }
        let maps_tenant = rules.iter().any(|(field, _)| *field == Field::Tenant);
        if source.tenant_from_event_unsafe
            && !maps_tenant
            && let Some((_, first)) = rules.first()
        {
            let message =
                "is needed with `tenant_from_event_unsafe`: nothing else says whose an event is";
            problems.add(first.line, &join(&path, Field::Tenant.key()), message);
        }
    }
}

impl Setting for Mapping {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        let mut tree = tree.clone();
        if let Value::Map(entries) = &mut tree.value {
            entries.retain(|(key, line, _)| {
                let plain = key.replace('_', "");
                let known = NOT_HERE
                    .iter()
                    .find(|(name, _)| *name == key.as_str() || *name == plain);
                if let Some((_, why)) = known {
                    problems.add(*line, &join(path, key), *why);
                }
                known.is_none()
            });
        }
        MappingKeys::read(&tree, path, problems).map(Self)
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        self.0.write(key, reference);
    }
}

/// Where one attribute is taken from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    line: u32,
    selector: Selector,
}

/// Where `time` is taken from, and how it is written there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeRule {
    rule: Rule,
    format: TimeFormat,
}

/// Where the id is taken from, which may be the record's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdRule(Rule);

impl Setting for IdRule {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        match &tree.value {
            Value::Text { text, .. } if text == POSITION => Some(Self(Rule {
                line: tree.line,
                selector: Selector::Position,
            })),
            Value::Text { .. } => {
                let message = format!(
                    "expected a map like `{{ pointer: /id }}`, or `{POSITION}`: a record's place in its source"
                );
                problems.add(tree.line, path, message);
                None
            }
            _ => Rule::read(tree, path, problems).map(Self),
        }
    }

    /// Only ever written when it is absent, as null.
    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: {{}}"));
    }
}

impl Setting for Rule {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        read_rule(tree, path, &Selector::WORDS, problems)
    }

    /// Only ever written when it is absent, as null.
    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: {{}}"));
    }
}

impl Setting for TimeRule {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        let [header, pointer, cel, literal] = Selector::WORDS;
        let known = [header, pointer, cel, literal, FORMAT];
        let rule = read_rule(tree, path, &known, problems);
        let format = read_format(tree, path, problems);
        Some(Self {
            rule: rule?,
            format: format?,
        })
    }

    /// Only ever written when it is absent, as null.
    fn write(&self, key: &str, reference: &mut Reference) {
        reference.line(&format!("{key}: {{}}"));
    }
}

fn read_rule(tree: &Tree, path: &str, known: &[&str], problems: &mut Problems) -> Option<Rule> {
    const EXAMPLE: &str =
        "write one of header, pointer, cel and literal, like `{ pointer: /order/id }`";
    let Value::Map(entries) = &tree.value else {
        let message = format!("expected a map, found {}; {EXAMPLE}", tree.value.kind());
        problems.add(tree.line, path, message);
        return None;
    };
    let before = problems.list.len();
    setting::unknown_keys(tree, known, path, problems);
    let mut ways = entries
        .iter()
        .filter(|(key, ..)| Selector::WORDS.contains(&key.as_str()));
    let Some((word, _, value)) = ways.next() else {
        // A mistyped key was told already.
        if problems.list.len() == before {
            let message = format!("nothing says where it is taken from; {EXAMPLE}");
            problems.add(tree.line, path, message);
        }
        return None;
    };
    for (other, line, _) in ways {
        let message =
            format!("`{word}` stands here too; only one of them says where it is taken from");
        problems.add(*line, &join(path, other), message);
    }
    let text = setting::text(value, &join(path, word), problems)?;
    match Selector::parse(word, &text, value.line) {
        Ok(selector) => (problems.list.len() == before).then_some(Rule {
            line: value.line,
            selector,
        }),
        Err(objections) => {
            for objection in objections {
                object(value.line, &join(path, word), objection, problems);
            }
            None
        }
    }
}

fn read_format(tree: &Tree, path: &str, problems: &mut Problems) -> Option<TimeFormat> {
    let Value::Map(entries) = &tree.value else {
        return None;
    };
    let mut formats = entries.iter().filter(|(key, ..)| key == FORMAT);
    let Some((_, first, value)) = formats.next() else {
        return Some(TimeFormat::default());
    };
    let path = join(path, FORMAT);
    for (_, line, _) in formats {
        let message = format!("stands here a second time; the first is in line {first}");
        problems.add(*line, &path, message);
    }
    let word = setting::text(value, &path, problems)?;
    let found = TimeFormat::NAMED.iter().find(|(name, _)| *name == word);
    if found.is_none() {
        let names = TimeFormat::NAMED.map(|(name, _)| name);
        let message = format!("expected one of {}", names.join(", "));
        problems.add(value.line, &path, message);
    }
    found.map(|(_, format)| *format)
}

fn object(line: u32, path: &str, objection: Objection, problems: &mut Problems) {
    let message = match objection.suggestion {
        Some(suggestion) => format!("{}; {suggestion}", objection.message),
        None => objection.message,
    };
    problems.add(line, path, message);
}
