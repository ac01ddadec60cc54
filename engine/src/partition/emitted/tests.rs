//! Every emitted event is taken up once and in order, whatever fails, and whoever owns it then.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::admission::{self, Binding};
use crate::bus::Delivery;
use crate::clock::Timestamp;
use crate::commit::{EntityName, EntityRow, OpenWork, StoredEntity, Surprises, WorkPlace};
use crate::event::{EventData, EventType};
use crate::limits::HOPS_MAX;
use crate::machine::{
    Change, DeadReason, Definition, Emitted, EventContext, Fault, MachineSet, Processor, Verdict,
};
use crate::partition::{
    Allowance, EventRef, Heads, Part, Partition, PartitionLimits, Prepared, Settled,
};
use crate::position::{
    Offset, Revision, SourceName, SourcePartition, StreamName, StreamPartition, Version,
};
use crate::record::{Outcome, Record, RecordBody, split_segment};
use crate::state::{EntityKey, EntityState, MachineName, StateData, Status};
use crate::store::{StoredOpenWork, StreamHead};
use crate::tenant::{TenantBinding, TenantId};

/// Counts each step, and emits two steps where an even number of them is left, one where an odd number is.
/// Without a number it emits one without end.
struct Steps {
    definition: Definition,
    types: Vec<EventType>,
}

fn steps() -> MachineSet {
    let machine = MachineName::new("steps").unwrap();
    let counting = Status::new("counting").unwrap();
    let steps = Steps {
        definition: Definition {
            hash: Definition::hash_of(&machine, 1, "steps"),
            machine,
            version: 1,
            text: Arc::from("steps"),
            initial: counting.clone(),
            states: vec![counting],
            fields: Vec::new(),
        },
        types: vec![EventType::new("step").unwrap()],
    };
    MachineSet::new([Arc::new(steps) as Arc<dyn Processor>])
}

fn left(context: &EventContext<'_>) -> Option<u64> {
    let EventData::Json(json) = &context.event.data else {
        return None;
    };
    serde_json::from_slice(json).unwrap()
}

impl Processor for Steps {
    fn definition(&self) -> &Definition {
        &self.definition
    }

    fn event_types(&self) -> &[EventType] {
        &self.types
    }

    fn initial(&self) -> EntityState {
        EntityState {
            status: self.definition.initial.clone(),
            version: Version(0),
            data: StateData(serde_json::Map::new()),
        }
    }

    fn key(&self, context: &EventContext<'_>) -> Result<EntityKey, Fault> {
        let subject = context.event.subject.as_ref().unwrap();
        Ok(EntityKey::new(subject.as_str()).unwrap())
    }

    fn apply(&self, context: &EventContext<'_>, entity: &EntityState) -> Verdict {
        let left = left(context);
        let emits = match left {
            Some(0) => 0,
            Some(left) if left % 2 == 0 => 2,
            Some(_) | None => 1,
        };
        let next = left.map_or("null".to_owned(), |left| left.saturating_sub(1).to_string());
        let emitted = (0..emits).map(|other| Emitted {
            event_type: EventType::new("step").unwrap(),
            subject: (other == 1).then(|| crate::event::Subject::new("other").unwrap()),
            data: Arc::from(next.as_str()),
        });
        Verdict::Applied(Change {
            status: entity.status.clone(),
            data: entity.data.clone(),
            emitted: emitted.collect(),
        })
    }
}

/// Events that one of so many steps comes to, itself included.
fn all_of(left: u64) -> u64 {
    match left {
        0 => 1,
        _ if left.is_multiple_of(2) => 1 + 2 * all_of(left - 1),
        _ => 1 + all_of(left - 1),
    }
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn log() -> StreamPartition {
    StreamPartition {
        tenant: acme(),
        stream: StreamName::new("steps").unwrap(),
        source_partition: SourcePartition {
            source: SourceName::new("test").unwrap(),
            partition: 0,
        },
    }
}

/// A store of one tenant: what is committed, and nothing else.
#[derive(Default)]
struct Table {
    entities: BTreeMap<EntityName, StoredEntity>,
    work: BTreeMap<WorkPlace, OpenWork>,
    heads: BTreeMap<StreamPartition, StreamHead>,
    records: BTreeMap<String, Vec<Record>>,
    revision: u64,
    /// Rooms of the queue that the partitions of this run have.
    emitted_bytes_max: usize,
}

impl Table {
    fn new(emitted_bytes_max: usize) -> Self {
        Self {
            emitted_bytes_max,
            ..Self::default()
        }
    }

    /// A new owner's partition.
    fn claim(&self) -> Partition<()> {
        let heads: Vec<_> = self.heads.values().cloned().collect();
        let limits = PartitionLimits {
            emitted_bytes_max: self.emitted_bytes_max,
            ..PartitionLimits::default()
        };
        let heads = Heads::among(&heads, &log());
        let mut partition = Partition::new(log(), steps(), heads, limits);
        if !self.work.is_empty() {
            partition.expect_open_work();
        }
        partition
    }

    fn load(&self, partition: &mut Partition<()>) {
        let wanted = partition.wanted(100);
        let found = wanted.iter().filter_map(|name| self.entities.get(name));
        let found = found.cloned().collect();
        partition.loaded(&wanted, found);
    }

    fn page(&self, after: Option<WorkPlace>, limit: usize) -> Vec<StoredOpenWork> {
        let behind = self.work.iter().filter(|(place, _)| Some(**place) > after);
        let stored = |(place, work): (&WorkPlace, &OpenWork)| StoredOpenWork {
            id: work.id,
            place: *place,
            kind: work.kind.as_str().to_owned(),
            cause: work.cause.clone(),
            event: work.event.clone(),
        };
        behind.take(limit).map(stored).collect()
    }

    /// Reads every page that is wanted.
    fn read_work(&self, partition: &mut Partition<()>) {
        while let Some(after) = partition.work_wanted() {
            let page = self.page(after, 3);
            let is_last = page.len() < 3;
            partition.work_loaded(page, is_last, Timestamp(9));
        }
    }

    fn commit(&mut self, part: &Part) -> Vec<EntityRow> {
        for done in &part.work_done {
            let gone = self.work.remove(&done.place);
            assert!(gone.is_some(), "{:?} is not there any more", done.place);
        }
        for (number, work) in part.open_work.iter().enumerate() {
            assert_eq!(work.number as usize, number, "numbered in order");
            let place = WorkPlace {
                revision: Revision(self.revision),
                number: work.number,
            };
            self.work.insert(place, work.clone());
        }
        for segment in &part.segments {
            let place = segment.stream_partition.clone();
            let records = self.records.entry(place.stream.to_string()).or_default();
            assert_eq!(segment.first_sequence.0, records.len() as u64, "{place}");
            for record in split_segment(&segment.body).unwrap() {
                records.push(Record::read(record.get()).unwrap().0);
            }
            assert_eq!(
                segment.first_sequence.0 + u64::from(segment.count),
                records.len() as u64
            );
            let head = StreamHead {
                stream_partition: place.clone(),
                next_sequence: crate::position::Sequence(records.len() as u64),
                chain_head: segment.chain_head,
            };
            self.heads.insert(place, head);
        }
        self.revision += 1;
        let mut rows = Vec::new();
        for write in &part.entities {
            let row = EntityRow(self.entities.len() as i64);
            let stored = StoredEntity {
                name: write.name.clone(),
                row: write.row.unwrap_or(row),
                version: write.version,
                status: write.status.clone(),
                data: write.data.clone(),
            };
            let before = self.entities.insert(write.name.clone(), stored);
            let version = before.map_or(Version(0), |before| before.version);
            assert_eq!(version, write.expected, "{:?}", write.name);
            if write.expected == Version(0) {
                rows.push(row);
            }
        }
        rows
    }

    fn settle(&self, partition: &mut Partition<()>, rows: Option<&[EntityRow]>) -> usize {
        let settled = Settled {
            revision: Revision(self.revision - 1),
            new_rows: rows,
            at: Timestamp(8),
        };
        partition.settle(settled).len()
    }

    fn of(&self, stream: &str) -> &[Record] {
        self.records.get(stream).map_or(&[], Vec::as_slice)
    }
}

fn offer(partition: &mut Partition<()>, offset: u64, subject: &str, data: &str) {
    let json = format!(
        r#"{{"specversion":"1.0","id":"{offset}","source":"/s","type":"step","subject":"{subject}","correlationid":"c{offset}","tenantid":"acme","data":{data}}}"#
    );
    let delivery = Delivery {
        headers: crate::headers::Headers::NONE,
        offset: Offset(offset),
        next: Offset(offset + 1),
        payload: Bytes::from(json),
        recorded_at: None,
    };
    let binding = Binding {
        mapping: None,
        secrets: crate::secrets::SecretPolicy::Off,
        stream: log().stream,
        tenant: TenantBinding::TrustedField,
    };
    let (_, received) = admission::read(&delivery, &binding);
    partition.offer(received, (), Timestamp(7));
}

fn prepare(partition: &mut Partition<()>, events_max: usize) -> Option<Part> {
    let allowance = Allowance {
        events_max,
        bytes_max: usize::MAX,
        written_bytes_max: usize::MAX,
        before: None,
    };
    match partition.prepare(allowance) {
        Prepared::Part(part) => Some(*part),
        Prepared::Waiting | Prepared::Empty => None,
    }
}

/// Commits until nothing is left, and returns the commits.
fn finish(table: &mut Table, partition: &mut Partition<()>, events_max: usize) -> usize {
    for commits in 0.. {
        table.read_work(partition);
        table.load(partition);
        let Some(part) = prepare(partition, events_max) else {
            assert_eq!(partition.unsettled(), 0);
            assert!(!partition.has_stored_work());
            return commits;
        };
        let rows = table.commit(&part);
        table.settle(partition, Some(&rows));
    }
    unreachable!()
}

#[test]
fn a_chain_ends_before_anything_new_begins_and_both_logs_say_what_happened() {
    let mut table = Table::new(usize::MAX);
    let mut partition = table.claim();
    offer(&mut partition, 0, "a", "2");
    offer(&mut partition, 1, "b", "0");
    assert_eq!(finish(&mut table, &mut partition, 1), 6);
    let received = table.of("steps");
    let internal = table.of("internal");
    assert_eq!((received.len(), internal.len()), (2, 4));
    assert_eq!(table.work.len(), 0);
    let subjects: Vec<_> = internal
        .iter()
        .map(|record| match &record.body {
            RecordBody::Event(event) => event.subject.clone().unwrap().to_string(),
            RecordBody::FollowUp { .. } => panic!("no event"),
        })
        .collect();
    // Breadth first, as it was committed: both steps of the first, then what each of them emitted.
    assert_eq!(subjects, ["a", "other", "a", "other"]);
    let causes: Vec<_> = internal
        .iter()
        .map(|record| record.cause.as_ref().unwrap().to_string())
        .collect();
    let causes: Vec<_> = causes.iter().map(String::as_str).collect();
    let place = ["steps:test/0:0", "internal:test/0:0", "internal:test/0:1"];
    assert_eq!(causes, [place[0], place[0], place[1], place[2]]);
    assert!(internal.iter().all(|record| record.offset.is_none()));
    assert!(received.iter().all(|record| record.cause.is_none()));
    assert_eq!(received[1].offset, Some(Offset(1)));
}

#[test]
fn a_cycle_without_an_end_is_dead_after_its_hops_and_others_go_on() {
    let mut table = Table::new(usize::MAX);
    let mut partition = table.claim();
    offer(&mut partition, 0, "a", "null");
    offer(&mut partition, 1, "b", "0");
    finish(&mut table, &mut partition, 100);
    let internal = table.of("internal");
    assert_eq!(internal.len(), usize::from(HOPS_MAX) + 1);
    let last = &internal.last().unwrap().effects[0];
    assert_eq!(last.outcome, Outcome::Dead);
    assert!(last.reason.as_deref().unwrap().starts_with("loop: "));
    assert_eq!(table.of("steps").len(), 2);
}

#[test]
fn received_events_wait_until_the_open_work_of_an_earlier_owner_is_done() {
    let mut table = Table::new(1);
    let mut first = table.claim();
    offer(&mut first, 0, "a", "2");
    table.load(&mut first);
    let rows = table.commit(&prepare(&mut first, 10).unwrap());
    table.settle(&mut first, Some(&rows));
    assert_eq!(table.work.len(), 2, "and its owner is gone");

    let mut next = table.claim();
    offer(&mut next, 1, "b", "0");
    table.load(&mut next);
    assert_eq!(next.ready(), (0, 0));
    assert!(prepare(&mut next, 10).is_none(), "nothing was read yet");
    finish(&mut table, &mut next, 10);
    assert_eq!(table.of("internal").len(), 4);
    assert_eq!(table.of("steps").len(), 2);
}

#[test]
fn an_emitted_event_whose_values_the_store_refuses_is_dead_and_then_kept_as_its_bytes() {
    let mut table = Table::new(usize::MAX);
    let mut partition = table.claim();
    offer(&mut partition, 0, "a", "1");
    table.load(&mut partition);
    let rows = table.commit(&prepare(&mut partition, 10).unwrap());
    table.settle(&mut partition, Some(&rows));
    table.load(&mut partition);
    let place = *table.work.keys().next().unwrap();
    let event = prepare(&mut partition, 10).unwrap().only_event().unwrap();
    assert_eq!(event, EventRef::Emitted(place));

    partition.condemn(event, "no");
    partition.reset(&Surprises::default());
    let dead = prepare(&mut partition, 10).unwrap();
    assert_eq!((dead.counts.dead, dead.counts.looped_back), (1, 1));
    assert_eq!((dead.segments.len(), dead.work_done.len()), (1, 1));
    assert_eq!(dead.dead_letters[0].reason, DeadReason::Store);

    partition.condemn(event, "no");
    partition.reset(&Surprises::default());
    let kept = prepare(&mut partition, 10).unwrap();
    assert_eq!((kept.segments.len(), kept.work_done.len()), (0, 1));
    let counts = (kept.counts.looped_back, kept.counts.unreadable);
    assert_eq!(counts, (1, 0));
    let json = format!("{:?}", kept.dead_letters[0].source);
    assert!(json.contains("offset: None"), "{json}");
    table.commit(&kept);
    table.settle(&mut partition, Some(&[]));
    assert_eq!(partition.unsettled(), 0);
}

/// Everything that comes of 60 received events when loads, pages, batches, failures, lost replies and new
/// owners come in an order that `seed` chooses.
#[allow(
    clippy::too_many_lines,
    reason = "one arm for each thing that may happen"
)]
fn played(seed: u64) -> Table {
    let mut random = seed;
    let mut draw = move |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) % below
    };
    let mut table = Table::new([1, 2_000, usize::MAX][seed as usize % 3]);
    let mut partition = table.claim();
    let mut sent = 0;
    // Received by an owner and not settled: the next one receives them again.
    let mut unsettled: VecDeque<u64> = VecDeque::new();
    let mut parts: VecDeque<Part> = VecDeque::new();
    // A page as it was when the store read it, on its way.
    let mut page: Option<(Vec<StoredOpenWork>, bool)> = None;
    let again = |partition: &mut Partition<()>, offset: u64| {
        let subject = format!("s{}", offset % 3);
        offer(partition, offset, &subject, &(offset % 5).to_string());
    };
    while sent < 60 || partition.unsettled() > 0 || partition.has_stored_work() || !parts.is_empty()
    {
        match draw(12) {
            0 | 1 if sent < 60 => {
                again(&mut partition, sent);
                unsettled.push_back(sent);
                sent += 1;
            }
            2..=4 => table.load(&mut partition),
            5 | 6 => parts.extend(prepare(&mut partition, 1 + draw(6) as usize)),
            7 => match page.take() {
                Some((page, is_last)) => partition.work_loaded(page, is_last, Timestamp(9)),
                None => {
                    page = partition.work_wanted().map(|after| {
                        let page = table.page(after, 3);
                        let is_last = page.len() < 3;
                        (page, is_last)
                    });
                }
            },
            8 if draw(4) == 0 => {
                parts.clear();
                partition.reset(&Surprises::default());
            }
            9 if draw(6) == 0 => {
                // Killed, perhaps between a commit and its settlement.
                if draw(2) == 0
                    && let Some(part) = parts.pop_front()
                {
                    table.commit(&part);
                    unsettled.drain(..part.offsets.len());
                }
                parts.clear();
                page = None;
                partition = table.claim();
                for offset in &unsettled {
                    again(&mut partition, *offset);
                }
            }
            _ => {
                let Some(part) = parts.pop_front() else {
                    continue;
                };
                let rows = table.commit(&part);
                unsettled.drain(..part.offsets.len());
                if draw(3) == 0 && page.is_none() {
                    // The page that was asked for before is read behind the commit, and comes before its
                    // settlement.
                    if let Some(after) = partition.work_wanted() {
                        let page = table.page(after, 3);
                        let is_last = page.len() < 3;
                        partition.work_loaded(page, is_last, Timestamp(9));
                    }
                }
                if draw(5) == 0 {
                    table.settle(&mut partition, None);
                    parts.clear();
                    partition.reset(&Surprises::default());
                } else {
                    table.settle(&mut partition, Some(&rows));
                }
            }
        }
    }
    table
}

#[test]
fn whatever_fails_and_whoever_owns_it_every_emitted_event_is_taken_up_once_and_in_order() {
    let expected: u64 = (0..60).map(|offset| all_of(offset % 5)).sum();
    for seed in 0..150 {
        let table = played(seed);
        assert_eq!(table.work.len(), 0, "seed {seed}");
        assert_eq!(table.of("steps").len(), 60, "seed {seed}");
        let internal = table.of("internal");
        assert_eq!(internal.len() as u64, expected - 60, "seed {seed}");
        let mut ids = std::collections::BTreeSet::new();
        let mut causes = Vec::new();
        for record in internal {
            let RecordBody::Event(event) = &record.body else {
                panic!("no event")
            };
            assert!(ids.insert(event.id.to_string()), "seed {seed}: twice");
            let cause = record.cause.clone().unwrap();
            if cause.stream.is_internal() {
                causes.push(cause.sequence);
            }
        }
        // Of one log's records, what was caused first runs first.
        assert!(causes.is_sorted(), "seed {seed}");
        let versions: u64 = table.entities.values().map(|entity| entity.version.0).sum();
        assert_eq!(versions, expected, "seed {seed}");
    }
}
