//! `tidegate validate --sample`: what a configured source would make of each line of a file. Opens no store
//! and keeps nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_engine::admission::{self, Binding, Content};
use tidegate_engine::bus::Delivery;
use tidegate_engine::event::{Event, Unreadable};
use tidegate_engine::hash::Hash128;
use tidegate_engine::headers::Headers;
use tidegate_engine::limits::DELIVERY_BYTES_MAX;
use tidegate_engine::position::{Incarnation, Offset, SourceInstance, SourceName, SourcePartition};
use tidegate_engine::tenant::{TenantBinding, TenantId, UNASSIGNED, UnknownTenants};

use super::exit::{Exit, Failure};
use super::output::{Format, Output};
use crate::config::{Config, Limits, Source, SourceKind};
use crate::say::counted;

/// Bytes kept of a line: one more than is accepted, so that a longer one is refused for its length.
const LINE_BYTES_MAX: u64 = DELIVERY_BYTES_MAX as u64 + 2;

/// Idempotency keys that are compared with each other, at most.
const KEYS_MAX: usize = 100_000;

/// Repetitions that are told one by one, at most.
const REPEATED_TOLD_MAX: u64 = 5;

/// Stands for the source's instance, which only the source itself knows.
const INCARNATION: &str = "sample";

/// Stands for the tenant that a request's token names.
const ANY_TENANT: &str = "tenant-of-the-token";

/// Reads `file` (`-` is standard input) as the source `name` of the configuration would.
pub fn run(
    file: &Path,
    name: Option<&SourceName>,
    config: Option<&Path>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let Some(config) = config else {
        return Err(Failure::usage(
            "--sample: a sample is read as a configured source would read it; name the configuration with -c",
        ));
    };
    let config = Config::load(config)?;
    let source = chosen(&config, name)?;
    let binding = binding(source, &config.limits)?;
    say_stand_ins(source, &binding);
    let mut input = open(file)?;
    let instance = instance(source)?;
    let (mut number, mut records, mut refused) = (0_u64, 0_u64, 0_u64);
    let mut begins = 0;
    let mut repeated = Repeated::default();
    let mut named = Named::of(&binding.tenant);
    while let Some((line, bytes)) = next_line(&mut input)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))?
    {
        number += 1;
        let offset = Offset(begins);
        begins += bytes;
        // As with files that are ingested: a blank line is no record.
        if line.trim_ascii().is_empty() {
            continue;
        }
        records += 1;
        let delivery = Delivery {
            offset,
            next: Offset(begins),
            payload: line,
            headers: Headers::NONE,
            recorded_at: None,
        };
        let (_, received) = admission::read_at(Some(&instance), &delivery, &binding);
        match received.content {
            Content::Event {
                event,
                key,
                conflict,
            } => {
                tell(number, &event, named.unknown, output)?;
                named.look(&event.tenant);
                repeated.look(number, (event.tenant, key), conflict);
            }
            Content::Unreadable { fault, .. } => {
                refused += 1;
                refuse(number, &fault, output)?;
            }
        }
    }
    if records == 0 {
        let message = format!("there is no record in {}", file.display());
        return Err(Failure::usage(message));
    }
    let conflicts = repeated.tell();
    named.tell();
    crate::say!("{}, {refused} refused", counted(records, "record"));
    Ok(if refused == 0 && conflicts == 0 {
        Exit::Done
    } else {
        Exit::Differs
    })
}

/// What of the events below only a request or the source itself would say.
fn say_stand_ins(source: &Source, binding: &Binding) {
    if source.kind == SourceKind::Http {
        crate::say!("`{ANY_TENANT}` stands for the tenant of each request's token");
    }
    if source.kafka.tenant_of_topic.is_some() {
        crate::say!("`{ANY_TENANT}` stands for the tenant of each record's topic");
    }
    if binding
        .mapping
        .as_ref()
        .is_some_and(|it| it.uses_position())
    {
        crate::say!(
            "ids are positions, SOURCE/INCARNATION/PARTITION/POSITION: `{INCARNATION}` stands for the incarnation, \
             and a line that is sent again is a new event"
        );
    }
}

/// Tenants that events name themselves. Whether they exist only the store knows, which is not asked here.
struct Named {
    unknown: Option<UnknownTenants>,
    tenants: BTreeSet<TenantId>,
}

impl Named {
    fn of(binding: &TenantBinding) -> Self {
        Self {
            unknown: match binding {
                TenantBinding::RegisteredField(unknown) => Some(*unknown),
                TenantBinding::Fixed(_)
                | TenantBinding::TrustedField
                | TenantBinding::OfPartition => None,
            },
            tenants: BTreeSet::new(),
        }
    }

    fn look(&mut self, tenant: &TenantId) {
        if self.unknown.is_some() && self.tenants.len() < KEYS_MAX && !self.tenants.contains(tenant)
        {
            self.tenants.insert(tenant.clone());
        }
    }

    fn tell(&self) {
        let named = self.tenants.len();
        match self.unknown {
            Some(_) if named == 0 => {}
            None => {}
            Some(UnknownTenants::DeadLetter) => crate::say!(
                "{} named; a sample does not ask the store which exist. Events of those that do not would be \
                 kept as dead letters of `{UNASSIGNED}`: `tidegate tenants create`, or `unknown_tenants: create`",
                counted(named as u64, "tenant")
            ),
            Some(UnknownTenants::Create { created_max }) => crate::say!(
                "{} named; a sample does not ask the store which exist. Those that do not would be created, up \
                 to {created_max} by all sources (`limits.created_tenants_max`); a closed one would not",
                counted(named as u64, "tenant")
            ),
        }
    }
}

/// What becomes of an event whose tenant does not exist, in a word for programs.
fn word(unknown: UnknownTenants) -> &'static str {
    match unknown {
        UnknownTenants::DeadLetter => "dead_letter",
        UnknownTenants::Create { .. } => "create",
    }
}

/// Lines with the idempotency key of an earlier one: where a mapping takes the id from the wrong place, every
/// event but the first is one.
#[derive(Default)]
struct Repeated {
    lines: HashMap<(TenantId, Hash128), (u64, Hash128)>,
    duplicates: u64,
    conflicts: u64,
}

impl Repeated {
    fn look(&mut self, number: u64, key: (TenantId, Hash128), content: Hash128) {
        match self.lines.get(&key) {
            None if self.lines.len() < KEYS_MAX => {
                self.lines.insert(key, (number, content));
            }
            None => {}
            Some((_, same)) if *same == content => self.duplicates += 1,
            Some((first, _)) => {
                self.conflicts += 1;
                if self.conflicts <= REPEATED_TOLD_MAX {
                    crate::say!(
                        "line {number} has the idempotency key of line {first} and another content: it would \
                         be a conflict, kept as a dead letter"
                    );
                }
            }
        }
    }

    /// Says what was found, and how many conflicts there are.
    fn tell(&self) -> u64 {
        if self.conflicts > 0 {
            crate::say!(
                "{}: the same `id` (or `idempotency_key`) from one source is the same event. Take it from where \
                 each event has another one",
                counted(self.conflicts, "conflict")
            );
        }
        if self.duplicates > 0 {
            crate::say!(
                "{}: the same key with the same content takes effect once",
                counted(self.duplicates, "duplicate")
            );
        }
        self.conflicts
    }
}

/// The source that is meant: the one of that name, else the only one.
fn chosen<'c>(config: &'c Config, name: Option<&SourceName>) -> Result<&'c Source, Failure> {
    let names: Vec<&str> = config
        .sources
        .iter()
        .filter_map(|source| source.name.as_ref())
        .map(SourceName::as_str)
        .collect();
    let listed = names.join(", ");
    let found = match (name, config.sources.as_slice()) {
        (None, [only]) => Some(only),
        (None, []) => {
            return Err(Failure::usage(
                "--sample: this configuration has no `sources`",
            ));
        }
        (None, _) => {
            return Err(Failure::usage(format!(
                "--sample: as which source? Name one with --source: {listed}"
            )));
        }
        (Some(name), sources) => sources
            .iter()
            .find(|source| source.name.as_ref() == Some(name)),
    };
    found.ok_or_else(|| {
        Failure::usage(format!(
            "--source: this configuration has no source of that name; it has {listed}"
        ))
    })
}

fn any_tenant() -> Result<TenantBinding, Failure> {
    let tenant = TenantId::new(ANY_TENANT);
    let tenant = tenant
        .map_err(|error| Failure::usage(format!("`{ANY_TENANT}` is no tenant's name: {error}")))?;
    Ok(TenantBinding::Fixed(tenant))
}

fn binding(source: &Source, limits: &Limits) -> Result<Binding, Failure> {
    // The configuration is checked: both are there.
    let (Some(name), Some(stream)) = (&source.name, &source.stream) else {
        return Err(Failure::usage("a source needs a name and a stream"));
    };
    let tenant = match source.kind {
        SourceKind::Kafka if source.kafka.tenant_of_topic.is_some() => any_tenant()?,
        SourceKind::File | SourceKind::Kafka => source.tenant_binding(limits),
        SourceKind::Http => any_tenant()?,
    };
    Ok(Binding {
        stream: stream.clone(),
        tenant,
        mapping: source.mapping.compiled(name),
        secrets: source.secrets.policy(),
    })
}

/// As if the sample were the first input of its source.
fn instance(source: &Source) -> Result<SourceInstance, Failure> {
    let Some(name) = &source.name else {
        return Err(Failure::usage("a source needs a name"));
    };
    Ok(SourceInstance {
        source_partition: SourcePartition {
            source: name.clone(),
            partition: 0,
        },
        incarnation: Incarnation::new(INCARNATION)?,
    })
}

fn open(file: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    match File::open(file) {
        Ok(file) => Ok(Box::new(BufReader::new(file))),
        Err(error) => Err(Failure::usage(format!(
            "{} cannot be read: {error}",
            file.display()
        ))),
    }
}

/// The next line without its end, cut when it is longer than any record may be, and how many bytes it is in
/// the file; `None` at the end.
fn next_line(input: &mut Box<dyn BufRead>) -> io::Result<Option<(Bytes, u64)>> {
    let mut line = Vec::new();
    let mut bytes = input
        .by_ref()
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)? as u64;
    if bytes == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == LINE_BYTES_MAX {
        bytes += input.skip_until(b'\n')? as u64;
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some((Bytes::from(line), bytes)))
}

/// One event: its envelope, with the data byte for byte as it came.
fn tell(
    number: u64,
    event: &Event,
    unknown: Option<UnknownTenants>,
    output: &mut Output,
) -> io::Result<()> {
    if output.format() == Format::Json {
        let mut text = format!("{{\"line\":{number},\"event\":");
        event.write_json(&mut text);
        if let Some(unknown) = unknown {
            text.push_str(&format!(",\"unknown_tenant\":\"{}\"", word(unknown)));
        }
        text.push('}');
        return output.json_line(&text);
    }
    let mut fields: Vec<(&str, Value)> = vec![
        ("line", json!(number)),
        ("tenant", json!(event.tenant.as_str())),
    ];
    fields.extend(unknown.map(|it| ("if_unknown", json!(word(it)))));
    fields.extend([
        ("id", json!(event.id.as_str())),
        ("type", json!(event.event_type.as_str())),
        ("source", json!(event.source.as_str())),
    ]);
    let optional = [
        ("subject", event.subject.as_ref().map(AsRef::as_ref)),
        ("time", event.time.as_ref().map(|time| time.text.as_str())),
        (
            "idempotency_key",
            event.idempotency_key.as_ref().map(AsRef::as_ref),
        ),
        (
            "correlation_id",
            event.correlation_id.as_ref().map(AsRef::as_ref),
        ),
        (
            "causation_id",
            event.causation_id.as_ref().map(AsRef::as_ref),
        ),
    ];
    fields.extend(
        optional
            .into_iter()
            .filter_map(|(name, text): (_, Option<&str>)| Some((name, json!(text?)))),
    );
    let data = String::from_utf8_lossy(event.data.stored_bytes());
    fields.push(("data", json!(data)));
    output.fields(&fields)?;
    output.text("\n")
}

/// One refusal: the line, the field, and what to do about it; never the value.
fn refuse(number: u64, fault: &Unreadable, output: &mut Output) -> io::Result<()> {
    if output.format() == Format::Json {
        let row = [vec![
            json!(number),
            Value::Null,
            json!(fault.field),
            json!(fault.reason),
        ]];
        return output.rows(&["line", "event", "field", "reason"], &row);
    }
    output.fields(&[
        ("line", json!(number)),
        (
            "refused",
            json!(format!("{}: {}", fault.field, fault.reason)),
        ),
    ])?;
    output.text("\n")
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;

    use super::{DELIVERY_BYTES_MAX, next_line};

    #[test]
    fn a_line_too_long_is_cut_and_the_next_one_is_whole() {
        for excess in [0, 1, 2, 3, 5_000] {
            for line_end in ["\n", "\r\n"] {
                let long = "x".repeat(DELIVERY_BYTES_MAX + excess);
                let text = format!("a\r\n\n{long}{line_end}b");
                let whole = text.len() as u64;
                let mut input: Box<dyn BufRead> = Box::new(std::io::Cursor::new(text));
                let (mut lines, mut bytes) = (Vec::new(), 0);
                while let Some((line, length)) = next_line(&mut input).unwrap() {
                    lines.push(line);
                    bytes += length;
                }
                assert_eq!(bytes, whole);
                assert_eq!(lines.len(), 4, "{excess} {line_end:?}");
                assert_eq!((&lines[0][..], &lines[1][..]), (&b"a"[..], &b""[..]));
                assert_eq!(lines[2].len() > DELIVERY_BYTES_MAX, excess > 0);
                assert!(lines[2].len() <= DELIVERY_BYTES_MAX + 2);
                assert_eq!(&lines[3][..], b"b");
            }
        }
    }
}
