//! R15: what a source partition commits is decided by what it received alone. Partitions keep their
//! memories in hash maps whose seeds differ from map to map, as those of the standard library do (the
//! engine's `partition/cache.rs` holds that with a test). So a thousand runs in one process meet as many
//! seeds as a thousand processes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tidegate_engine::admission::{self, Binding};
use tidegate_engine::bus::Delivery;
use tidegate_engine::checkpoint::{Counts, DoneAbove, OffsetTracker, Progress};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{
    CommitBatch, CommitPath, EntityName, StoredEntity, Surprises, WorkPlace,
};
use tidegate_engine::commit_protocol::Terms;
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::headers::Headers;
use tidegate_engine::machine::{MachineDefinition, MachineSet, Processor};
use tidegate_engine::partition::{
    Allowance, Heads, Notice, Part, Partition, PartitionLimits, Prepared, Settled,
};
use tidegate_engine::position::{
    Epoch, Offset, Revision, SourceName, SourcePartition, StreamName, StreamPartition, Version,
};
use tidegate_engine::store::StoredOpenWork;
use tidegate_engine::tenant::{TenantBinding, TenantId};

use super::{Assembled, EntityRow};

/// Listens to the same events as the order machine, and keeps maps of what it saw.
const SHELF: &str = r#"
apiVersion: tidegate/v1
kind: Machine
machine: shelf
version: 1
key: "event.data.shelf"
initial: open
states: [open]
data:
  last: { type: map, initial: { z: 1, a: { y: 2, b: 3 } } }
  seen: { type: int, initial: 0 }
events:
  order.placed:
    - from: [open]
      set:
        last: event.data
        seen: state.seen + 1
  order.paid:
    - from: [open]
      set:
        last: "{'was': state.last, 'got': event.data.shelf, 'c': 1, 'b': 2, 'a': 3}"
        seen: state.seen + 1
      emit:
        - type: shelf.seen
          data: { state: next, got: event.data }
"#;

/// So few that a partition forgets entities all the time.
const ENTITIES_MAX: usize = 16;

fn source_partition() -> SourcePartition {
    SourcePartition {
        source: SourceName::new("test").unwrap(),
        partition: 3,
    }
}

/// A source partition with its tenants' partitions, and what a store would hold.
struct Run {
    machines: MachineSet,
    /// In no order: which of them is asked first must not matter.
    partitions: HashMap<TenantId, Partition<()>>,
    tracker: OffsetTracker,
    counts: Counts,
    stored: BTreeMap<EntityName, StoredEntity>,
    /// What machines emitted and was not taken up yet.
    work: BTreeMap<(TenantId, WorkPlace), StoredOpenWork>,
    revision: u64,
    /// Every batch, in full, and what is told of it.
    made: Vec<(Vec<Notice>, CommitBatch)>,
    /// The order in which partitions were asked, once all were there.
    asked: Vec<TenantId>,
}

impl Run {
    fn new(machines: MachineSet) -> Self {
        let beginning = Progress {
            next_offset: Offset(0),
            done_above: DoneAbove::default(),
            fingerprint: None,
            counts: Counts::default(),
        };
        Self {
            machines,
            partitions: HashMap::new(),
            tracker: OffsetTracker::resume(&beginning),
            counts: Counts::default(),
            stored: BTreeMap::new(),
            work: BTreeMap::new(),
            revision: 0,
            made: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn receive(&mut self, offset: u64) {
        let delivery = Delivery {
            offset: Offset(offset),
            next: Offset(offset + 1),
            payload: line(offset).into(),
            headers: Headers::NONE,
            recorded_at: None,
        };
        let binding = Binding {
            stream: StreamName::new("orders").unwrap(),
            tenant: TenantBinding::TrustedField,
            mapping: None,
            secrets: tidegate_engine::secrets::SecretPolicy::Off,
        };
        let fingerprint = Some(hash_bytes(&delivery.payload));
        self.tracker
            .receive(delivery.offset, delivery.next, fingerprint);
        let (tenant, received) = admission::read(&delivery, &binding);
        let machines = &self.machines;
        let partition = self
            .partitions
            .entry(tenant.clone())
            .or_insert_with(|| partition(tenant, machines.clone()));
        partition.offer(received, (), Timestamp(1_000 + offset as i64 / 7));
    }

    /// What all partitions have ready, as a batch.
    fn batch(&mut self) -> Option<(Assembled, CommitBatch)> {
        let mut parts = Vec::new();
        for partition in self.partitions.values_mut() {
            parts.extend(part(partition, &self.stored, &self.work));
        }
        if parts.is_empty() {
            return None;
        }
        let assembled = Assembled::new(parts);
        let mut counts = self.counts;
        counts.add(&assembled.counts);
        let progress = self.tracker.progress_with(&assembled.offsets, counts);
        let terms = Terms {
            epoch: Epoch(7),
            revision: Revision(self.revision),
            path: CommitPath::Fast,
            one_event: false,
            halved: 0,
            events_max: usize::MAX,
        };
        let at = Timestamp(9_000);
        let place = source_partition();
        let (assembled, batch) =
            assembled.into_batch(&place, terms, progress, at, &BTreeMap::new());
        self.made.push((assembled.notices.clone(), batch.clone()));
        Some((assembled, batch))
    }

    /// Makes a batch durable.
    fn commit(&mut self, assembled: &Assembled, batch: &CommitBatch) {
        self.revision += 1;
        self.counts.add(&assembled.counts);
        for offset in &assembled.offsets {
            self.tracker.settle(*offset);
        }
        let mut new_rows = Vec::new();
        for write in &batch.entities {
            let next_row = EntityRow(self.stored.len() as i64 + 1);
            let row = self.stored.get(&write.name).map_or(next_row, |it| it.row);
            if write.expected == Version(0) {
                new_rows.push(row);
            }
            let stored = StoredEntity {
                name: write.name.clone(),
                row,
                version: write.version,
                status: write.status.clone(),
                data: write.data.clone(),
            };
            self.stored.insert(write.name.clone(), stored);
        }
        for done in &batch.work_done {
            self.work.remove(&(done.tenant.clone(), done.place));
        }
        for work in &batch.open_work {
            let place = WorkPlace {
                revision: batch.revision,
                number: work.number,
            };
            let stored = StoredOpenWork {
                id: work.id,
                place,
                kind: work.kind.as_str().to_owned(),
                cause: work.cause.clone(),
                event: work.event.clone(),
            };
            self.work.insert((work.tenant.clone(), place), stored);
        }
        let mut new_rows = new_rows.as_slice();
        for (tenant, created) in &assembled.created {
            let (own, rest) = new_rows.split_at(*created);
            let settled = Settled {
                revision: batch.revision,
                new_rows: Some(own),
                at: Timestamp(7),
            };
            self.partitions.get_mut(tenant).unwrap().settle(settled);
            new_rows = rest;
        }
    }

    /// A batch that the store did not take, for somebody else moved what it moves.
    fn surprise(&mut self, batch: &CommitBatch) {
        let mut entities = Vec::new();
        for write in batch.entities.iter().step_by(3) {
            if let Some(stored) = self.stored.get_mut(&write.name) {
                stored.version = stored.version.next();
                entities.push((write.name.clone(), Some(stored.clone())));
            }
        }
        let surprises = Surprises {
            entities,
            ..Surprises::default()
        };
        for partition in self.partitions.values_mut() {
            partition.reset(&surprises);
        }
    }
}

fn partition(tenant: TenantId, machines: MachineSet) -> Partition<()> {
    let log = StreamPartition {
        tenant,
        stream: StreamName::new("orders").unwrap(),
        source_partition: source_partition(),
    };
    let limits = PartitionLimits {
        entities_max: ENTITIES_MAX,
        entities_bytes_max: 1_000_000,
        known_keys_max: 400,
        emitted_bytes_max: 1_000,
    };
    Partition::new(log, machines, Heads::default(), limits)
}

/// A part of at most ten events, once what they need was loaded.
fn part(
    partition: &mut Partition<()>,
    stored: &BTreeMap<EntityName, StoredEntity>,
    work: &BTreeMap<(TenantId, WorkPlace), StoredOpenWork>,
) -> Option<Part> {
    let allowance = Allowance {
        events_max: 10,
        bytes_max: usize::MAX,
        written_bytes_max: usize::MAX,
        before: None,
    };
    loop {
        if let Some(after) = partition.work_wanted() {
            let tenant = &partition.stream_partition().tenant;
            let own = work.iter().filter(|((of, _), _)| of == tenant);
            let behind = own.filter(|((_, place), _)| after.is_none_or(|after| *place > after));
            let page = behind.map(|(_, work)| work.clone()).collect();
            partition.work_loaded(page, true, Timestamp(9_000));
        }
        let wanted = partition.wanted(64);
        let found = wanted.iter().filter_map(|name| stored.get(name).cloned());
        let found = found.collect();
        partition.loaded(&wanted, found);
        match partition.prepare(allowance) {
            Prepared::Part(part) => return Some(*part),
            Prepared::Waiting => {}
            Prepared::Empty => return None,
        }
    }
}

/// Orders of five tenants: new ones and paid ones, some delivered twice, some with a key that other
/// content had, some that no machine can take, some that are no event.
fn line(offset: u64) -> String {
    if offset % 19 == 5 {
        return format!("no event {offset}");
    }
    let number = if offset % 11 == 9 { offset - 5 } else { offset };
    let (tenant, order) = (number % 5, number % 23);
    let kind = if number < 30 { "placed" } else { "paid" };
    let cents = match offset {
        _ if offset % 22 == 9 => "1".to_owned(),
        _ if number % 17 == 3 => "\"much\"".to_owned(),
        _ => (number % 400).to_string(),
    };
    format!(
        r#"{{"specversion":"1.0","id":"e{number}","source":"/s","type":"order.{kind}","tenantid":"tenant{tenant}","subject":"o{order}","data":{{"total_cents":{cents},"amount_cents":{cents},"shelf":"s{}","d":4,"c":3,"b":2,"a":1}}}}"#,
        number % 7
    )
}

/// Everything that is committed of the same 80 deliveries, with batches ahead and surprises.
fn played(machines: &MachineSet) -> Run {
    let mut run = Run::new(machines.clone());
    let mut offset = 0;
    for round in 0_u64.. {
        for _ in 0..if round < 4 { 20 } else { 0 } {
            run.receive(offset);
            offset += 1;
        }
        if round == 1 {
            run.asked = run.partitions.keys().cloned().collect();
        }
        let Some((first, batch)) = run.batch() else {
            break;
        };
        if round % 4 == 1 {
            // Made ahead, and thrown away with the one before.
            run.batch();
            run.surprise(&batch);
            continue;
        }
        run.commit(&first, &batch);
    }
    assert!(run.partitions.values().all(|it| it.unsettled() == 0));
    run
}

fn machines() -> MachineSet {
    let order = include_str!("../../../../deploy/examples/order.yaml");
    let load = |file, text| MachineDefinition::load(file, text).unwrap() as Arc<dyn Processor>;
    MachineSet::new([load("order.yaml", order), load("shelf.yaml", SHELF)])
}

#[test]
fn r15_the_same_input_makes_the_same_batches_under_a_thousand_hash_seeds() {
    let machines = machines();
    let first = played(&machines);
    // Something of everything.
    let counts = first.counts;
    let each = [
        counts.admitted,
        counts.duplicates,
        counts.conflicts,
        counts.unreadable,
        counts.applied,
        counts.rejected,
        counts.dead,
        counts.emitted,
        counts.looped_back,
    ];
    assert!(each.iter().all(|count| *count > 0), "{counts:?}");
    let mut orders = BTreeSet::new();
    for run in 0..1_000 {
        let again = played(&machines);
        assert!(again.made == first.made, "run {run} made other batches");
        assert_eq!(again.stored, first.stored);
        orders.insert(again.asked);
    }
    // Six partitions have 720 orders: the seeds did differ.
    assert!(orders.len() > 300, "{} orders", orders.len());
}
