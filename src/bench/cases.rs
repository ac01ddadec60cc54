//! Events for machines that we know nothing of: the cases of their own tests, played over and over, each
//! time on entities of its own. What must come of them is found by the engine's rules on one thread,
//! event after event: what is measured moves the same events through sources, actors and commits.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde_json::Value;
use tidegate_engine::checkpoint::Counts;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::error::InvalidValue;
use tidegate_engine::event::{
    AttributeText, Event, EventData, EventId, EventTime, IdempotencyKey, Subject,
};
use tidegate_engine::machine::{EventContext, MachineSet};
use tidegate_engine::record::Outcome;
use tidegate_engine::state::{EntityKey, EntityState, MachineName};
use tidegate_engine::tenant::TenantId;
use tidegate_engine::transition;

use super::load::{Load, TenantBooks, bytes, paths};
use crate::demo::generate::Tenant;

/// The time of events that give none, 2026-01-01T00:00:00Z: without one it would be the admission's,
/// which is another here than in the store.
const TIME: Timestamp = Timestamp(1_767_225_600_000_000);

/// The given events of one test.
pub struct Case {
    events: Vec<Event>,
    /// Subjects and entity keys: what each time gets a name of its own.
    names: BTreeSet<String>,
}

impl Case {
    /// A case of a machine that is played among `machines`.
    pub fn new(given: &[Event], machines: &MachineSet) -> Self {
        let mut names = BTreeSet::new();
        for event in given {
            names.extend(event.subject.as_ref().map(ToString::to_string));
            let context = EventContext {
                event,
                admitted_at: TIME,
            };
            for machine in machines.listening_to(&event.event_type) {
                let key = transition::key_of(machine.as_ref(), &context);
                names.extend(key.ok().map(|key| key.to_string()));
            }
        }
        Self {
            events: given.to_vec(),
            names,
        }
    }

    /// The event at `index`, as it is played the `time`th time.
    fn event(&self, given: &Event, tenant: &TenantId, time: u64, index: usize) -> Played {
        let suffix = format!("-{time}");
        let mut event = given.clone();
        event.tenant = tenant.clone();
        event.id = EventId::new(&format!("{time}-{index}"))?;
        if let Some(subject) = &given.subject {
            event.subject = Some(Subject::new(&format!("{subject}{suffix}"))?);
        }
        if let Some(key) = &given.idempotency_key {
            event.idempotency_key = Some(IdempotencyKey::new(&format!("{key}{suffix}-{index}"))?);
        }
        if event.time.is_none() {
            event.time = Some(EventTime {
                text: AttributeText::new(&TIME.to_rfc3339())?,
                moment: TIME,
            });
        }
        if let EventData::Json(data) = &given.data
            && let Ok(mut value) = serde_json::from_slice::<Value>(data)
            && self.rename(&mut value, &suffix)
        {
            event.data = EventData::Json(value.to_string().into());
        }
        Ok(event)
    }

    /// True when some text in `value` was a name.
    fn rename(&self, value: &mut Value, suffix: &str) -> bool {
        let mut renamed = false;
        match value {
            Value::String(text) if self.names.contains(text) => {
                text.push_str(suffix);
                renamed = true;
            }
            Value::Array(items) => {
                for item in items {
                    renamed |= self.rename(item, suffix);
                }
            }
            Value::Object(fields) => {
                for field in fields.values_mut() {
                    renamed |= self.rename(field, suffix);
                }
            }
            _ => {}
        }
        renamed
    }
}

type Played = Result<Event, InvalidValue>;

/// Writes `events` events of `cases` into `files` files, or fewer. A tenant's events stand in one file, so that their
/// order, and with it their outcome, is known also where a key is the same each time.
pub fn load(
    directory: &Path,
    events: u64,
    tenants: &[Tenant],
    files: usize,
    cases: &[Case],
    machines: &MachineSet,
) -> io::Result<Load> {
    let files = files.min(tenants.len()).max(1);
    let paths = paths(directory, files);
    let mut out = paths
        .iter()
        .map(|path| Ok(BufWriter::with_capacity(1 << 20, File::create(path)?)))
        .collect::<io::Result<Vec<_>>>()?;
    let mut players: Vec<Player<'_>> = tenants
        .iter()
        .map(|tenant| Player::new(&tenant.name, machines))
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)?;
    let (mut left, mut time, mut line) = (events, 0_u64, String::new());
    while left > 0 {
        // File after file, and in each its tenants in turn: files of one length.
        let file = time as usize % files;
        let of_file = (tenants.len() - file).div_ceil(files).max(1);
        let tenant = file + files * (time as usize / files % of_file);
        let case = cases.get(time as usize % cases.len().max(1));
        let (Some(case), Some(player), Some(out)) =
            (case, players.get_mut(tenant), out.get_mut(file))
        else {
            break;
        };
        let fits = usize::try_from(left).unwrap_or(usize::MAX);
        for (index, given) in case.events.iter().take(fits).enumerate() {
            let event = case
                .event(given, &player.tenant, time, index)
                .map_err(io::Error::other)?;
            player.offer(&event);
            line.clear();
            event.write_json(&mut line);
            line.push('\n');
            out.write_all(line.as_bytes())?;
            left -= 1;
        }
        time += 1;
    }
    for mut out in out {
        out.flush()?;
    }
    let mut counts = Counts::default();
    for player in &players {
        counts.add(&player.counts);
    }
    Ok(Load {
        bytes: bytes(&paths)?,
        paths,
        tenants: players.iter().map(Player::books).collect(),
        counts,
    })
}

/// What becomes of one tenant's events.
struct Player<'m> {
    tenant: TenantId,
    machines: &'m MachineSet,
    entities: HashMap<(MachineName, EntityKey), EntityState>,
    counts: Counts,
}

impl<'m> Player<'m> {
    fn new(tenant: &str, machines: &'m MachineSet) -> Result<Self, InvalidValue> {
        Ok(Self {
            tenant: TenantId::new(tenant)?,
            machines,
            entities: HashMap::new(),
            counts: Counts::default(),
        })
    }

    /// Plays a received event, and then what machines emit for it, as each is committed. Where machines
    /// listen to what is emitted, and their answers depend on what came first, the node's may differ: it
    /// commits several received events at once, and what these emit after all of them.
    fn offer(&mut self, event: &Event) {
        self.counts.admitted += 1;
        let mut emitted = VecDeque::from(self.play(event));
        while let Some(event) = emitted.pop_front() {
            self.counts.looped_back += 1;
            emitted.extend(self.play(&event));
        }
    }

    /// What one event does; the events that machines emit for it.
    fn play(&mut self, event: &Event) -> Vec<Event> {
        let context = EventContext {
            event,
            admitted_at: TIME,
        };
        let mut emits = Vec::new();
        let mut listens = false;
        for machine in self.machines.listening_to(&event.event_type) {
            listens = true;
            let machine = machine.as_ref();
            let Ok(key) = transition::key_of(machine, &context) else {
                self.counts.dead += 1;
                continue;
            };
            let name = (machine.definition().machine.clone(), key.clone());
            let before = self.entities.get(&name).cloned();
            let before = before.unwrap_or_else(|| machine.initial());
            let transition = transition::apply(machine, &context, &key, &before);
            match transition.effect.outcome {
                Outcome::Applied => self.counts.applied += 1,
                Outcome::Rejected => self.counts.rejected += 1,
                Outcome::Ignored => self.counts.ignored += 1,
                _ => self.counts.dead += 1,
            }
            if let Some(moved) = transition.moved {
                self.counts.emitted += moved.emitted.len() as u64;
                let by = &machine.definition().machine;
                emits.extend(moved.emitted.iter().enumerate().map(|(index, emitted)| {
                    event.emit(by, emitted, event.emitted_id(by, index), TIME)
                }));
                self.entities.insert(name, moved.state);
            }
        }
        self.counts.unhandled += u64::from(!listens);
        emits
    }

    fn books(&self) -> TenantBooks {
        TenantBooks {
            name: self.tenant.to_string(),
            records: self.counts.admitted + self.counts.looped_back,
            entities: self.entities.len() as u64,
            versions: self.entities.values().map(|entity| entity.version.0).sum(),
            dead_letters: self.counts.dead,
            paid_cents: None,
        }
    }
}
