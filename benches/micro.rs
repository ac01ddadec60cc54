//! `cargo bench --bench micro`: what one event costs at each of our own steps, in µs. Medians of many
//! short runs over the events of the load; nothing here does I/O.

#[allow(
    dead_code,
    reason = "only the events are wanted here, not lanes and totals"
)]
#[path = "harness/load.rs"]
mod load;

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use hdrhistogram::Histogram;
use load::{Load, Shape};
use tidegate_engine::admission::{self, Binding, Received};
use tidegate_engine::bus::Delivery;
use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::{Counts, DoneAbove, OffsetTracker, Progress};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{EntityName, EntityRow, StoredEntity};
use tidegate_engine::event::{Event, EventSource};
use tidegate_engine::headers::Headers;
use tidegate_engine::machine::order::order_processor;
use tidegate_engine::machine::{EventContext, MachineDefinition, MachineSet, Processor};
use tidegate_engine::mapping::{Field, Input, Mapping, Selector, TimeFormat};
use tidegate_engine::partition::{Allowance, Heads, Partition, PartitionLimits, Prepared, Settled};
use tidegate_engine::position::{
    Offset, Revision, Sequence, SourceName, SourcePartition, StreamName, StreamPartition,
};
use tidegate_engine::record::{Record, RecordBody};
use tidegate_engine::secrets::SecretPolicy;
use tidegate_engine::state::{EntityState, StateData};
use tidegate_engine::tenant::{TenantBinding, TenantId};
use tidegate_engine::transition;
use tokio::time::Instant;

/// A benchmark stops at the first error.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Events of one timed run: a batch as the node makes it.
const EVENTS: u32 = 1_000;
/// Orders among which they fall; all are in memory.
const ORDERS: u32 = 10_000;
/// Timed runs of each step.
const RUNS: u32 = 300;

const ORDER_YAML: &str = include_str!("../deploy/examples/order.yaml");

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> Result<()> {
    let load = Load::generate(Shape {
        orders: ORDERS,
        tenants: 1,
        payments: EVENTS * RUNS,
        seed: 1,
    });
    let deliveries: Vec<Delivery> = (0..ORDERS + EVENTS * RUNS)
        .map(|number| Delivery {
            offset: Offset(number.into()),
            next: Offset(u64::from(number) + 1),
            payload: Bytes::copy_from_slice(load.event(number)),
            headers: Headers::NONE,
            recorded_at: None,
        })
        .collect();
    let (_, paid) = deliveries.split_at(ORDERS as usize);
    let binding = Binding {
        stream: StreamName::new("orders")?,
        tenant: TenantBinding::TrustedField,
        mapping: None,
        secrets: SecretPolicy::default(),
    };
    let tenant = TenantId::new(load.tenants().first().ok_or("no tenant")?)?;

    println!("| step | µs/event | 99th percentile of {RUNS} runs |\n|---|---|---|");
    envelope(paid, &binding)?;
    secrets(paid)?;
    mapped(paid)?;
    let cel =
        MachineDefinition::load("deploy/examples/order.yaml", ORDER_YAML).map_err(|errors| {
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        })?;
    let machines: [(&str, Arc<dyn Processor>); 2] =
        [("Rust", Arc::new(order_processor()?)), ("CEL", cel)];
    for (name, machine) in &machines {
        apply(name, machine.as_ref(), paid)?;
    }
    record(machines.first().ok_or("no machine")?.1.as_ref(), paid)?;
    tracker(paid)?;
    for (name, machine) in machines {
        partition(name, machine, &tenant, &deliveries, &binding)?;
    }
    Ok(())
}

/// Runs `step` once a batch and prints what an event cost.
fn step(name: &str, mut step: impl FnMut(usize)) -> Result<()> {
    let mut nanos = Histogram::<u64>::new(3)?;
    for run in 0..RUNS as usize {
        let started = Instant::now();
        step(run * EVENTS as usize);
        nanos.record(u64::try_from(started.elapsed().as_nanos())? / u64::from(EVENTS))?;
    }
    let micros = |quantile| nanos.value_at_quantile(quantile) as f64 / 1_000.0;
    println!("| {name} | {:.2} | {:.2} |", micros(0.5), micros(0.99));
    Ok(())
}

fn batch(deliveries: &[Delivery], from: usize) -> &[Delivery] {
    deliveries
        .get(from..from + EVENTS as usize)
        .unwrap_or_default()
}

fn envelope(paid: &[Delivery], binding: &Binding) -> Result<()> {
    step("receive: the envelope alone", |from| {
        for delivery in batch(paid, from) {
            let _ = black_box(Event::read_json(&delivery.payload));
        }
    })?;
    step(
        "receive: envelope, tenant, hashes of key and content",
        |from| {
            for delivery in batch(paid, from) {
                black_box(admission::read(delivery, binding));
            }
        },
    )
}

fn events(paid: &[Delivery]) -> Result<Vec<Event>> {
    Ok(paid
        .iter()
        .map(|it| Event::read_json(&it.payload))
        .collect::<std::result::Result<_, _>>()?)
}

fn placed_order(machine: &dyn Processor) -> Result<EntityState> {
    let mut entity = machine.initial();
    entity.status = tidegate_engine::state::Status::new("placed")?;
    entity.data = StateData::from_canonical(r#"{"paid_cents":1234,"total_cents":100000000}"#)?;
    Ok(entity)
}

fn apply(name: &str, machine: &dyn Processor, paid: &[Delivery]) -> Result<()> {
    let (events, entity) = (events(paid)?, placed_order(machine)?);
    let one = |event: &Event| {
        let context = EventContext {
            event,
            admitted_at: Timestamp(0),
        };
        let key = transition::key_of(machine, &context);
        key.map(|key| transition::apply(machine, &context, &key, &entity))
    };
    let first = events.first().map(&one).ok_or("no event")?;
    assert!(
        first.is_ok_and(|it| it.moved.is_some()),
        "every payment moves its order"
    );
    step(&format!("apply: key and transition, {name}"), |from| {
        for event in events.iter().skip(from).take(EVENTS as usize) {
            let _ = black_box(one(event));
        }
    })
}

/// The look for secrets in payloads, which is part of `receive` unless a source does without.
fn secrets(paid: &[Delivery]) -> Result<()> {
    let mut events = events(paid)?;
    step("receive: the look for secrets in the payload", |from| {
        for event in events.iter_mut().skip(from).take(EVENTS as usize) {
            let _ = black_box(SecretPolicy::Refuse.hold(event));
        }
    })
}

/// The same deliveries as JSON of somebody's own: by pointers alone, and with one expression.
fn mapped(paid: &[Delivery]) -> Result<()> {
    let pointer = |field, pointer| {
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((
            field,
            Selector::parse("pointer", pointer, 1).map_err(|faults| format!("{faults:?}"))?,
        ))
    };
    let by_cel = Selector::parse("cel", "'order.' + payload.type", 1)
        .map_err(|faults| format!("{faults:?}"))?;
    let id = pointer(Field::Id, "/id")?;
    let subject = pointer(Field::Subject, "/subject")?;
    let mappings = [
        (
            "pointers",
            vec![id.clone(), subject.clone(), pointer(Field::Type, "/type")?],
        ),
        (
            "pointers and one expression",
            vec![id, subject, (Field::Type, by_cel)],
        ),
    ];
    let tenant = TenantId::new("bench")?;
    for (name, fields) in mappings {
        let mapping = Mapping::compile(&fields, TimeFormat::Rfc3339, EventSource::new("/bench")?)
            .map_err(|faults| format!("{faults:?}"))?;
        step(&format!("receive: a mapping by {name}"), |from| {
            for delivery in batch(paid, from) {
                let input = Input {
                    headers: &delivery.headers,
                    payload: &delivery.payload,
                };
                let _ = black_box(mapping.envelope(input, Some(&tenant)));
            }
        })?;
    }
    Ok(())
}

fn record(machine: &dyn Processor, paid: &[Delivery]) -> Result<()> {
    let entity = placed_order(machine)?;
    let mut records = Vec::with_capacity(paid.len());
    for (sequence, event) in events(paid)?.into_iter().enumerate() {
        let context = EventContext {
            event: &event,
            admitted_at: Timestamp(0),
        };
        let key = transition::key_of(machine, &context).map_err(|fault| fault.detail)?;
        let effect = transition::apply(machine, &context, &key, &entity).effect;
        records.push(Record {
            sequence: Sequence(sequence as u64),
            offset: Some(Offset(sequence as u64)),
            cause: None,
            admitted_at: Timestamp(0),
            body: RecordBody::Event(event),
            effects: vec![effect],
        });
    }
    let mut bytes = 0;
    step("commit: the log record and its leaf", |from| {
        let mut body = String::new();
        let mut head = ChainHead::default();
        for record in records.iter().skip(from).take(EVENTS as usize) {
            head = head.fold(record.write(&mut body, "2026-11-22T06:17:00.000000Z"));
        }
        black_box(head);
        bytes = body.len() / EVENTS as usize;
    })?;
    println!("| (bytes of a log record) | {bytes} | |");
    Ok(())
}

fn tracker(paid: &[Delivery]) -> Result<()> {
    let progress = Progress {
        next_offset: paid.first().map_or(Offset(0), |delivery| delivery.offset),
        done_above: DoneAbove::default(),
        fingerprint: None,
        counts: Counts::default(),
    };
    let mut tracker = OffsetTracker::resume(&progress);
    // Batches ahead of the one that is settled, as in a node that is behind its bus.
    const AHEAD: usize = 25;
    let receive = |tracker: &mut OffsetTracker, from: usize| {
        for delivery in batch(paid, from) {
            tracker.receive(delivery.offset, delivery.next, None);
        }
    };
    for ahead in 0..AHEAD {
        receive(&mut tracker, ahead * EVENTS as usize);
    }
    step("settle: the tracker, 25 batches deep", |from| {
        let ahead = from + AHEAD * EVENTS as usize;
        if ahead < paid.len() {
            receive(&mut tracker, ahead);
        }
        let offsets: Vec<Offset> = batch(paid, from).iter().map(|it| it.offset).collect();
        black_box(tracker.progress_with(&offsets, Counts::default()));
        for offset in offsets {
            tracker.settle(offset);
        }
    })
}

/// Offer, prepare and settle one partition's batches, one of them ahead, with every order known.
fn partition(
    name: &str,
    machine: Arc<dyn Processor>,
    tenant: &TenantId,
    deliveries: &[Delivery],
    binding: &Binding,
) -> Result<()> {
    let source_partition = SourcePartition {
        source: SourceName::new("bench")?,
        partition: 0,
    };
    let stream_partition = StreamPartition {
        tenant: tenant.clone(),
        stream: binding.stream.clone(),
        source_partition,
    };
    let entity = placed_order(machine.as_ref())?;
    let mut partition: Partition<()> = Partition::new(
        stream_partition,
        MachineSet::new([machine.clone()]),
        Heads::default(),
        PartitionLimits::default(),
    );
    let (placed, paid) = deliveries.split_at(ORDERS as usize);
    know_orders(&mut partition, &machine, tenant, &entity, placed)?;
    let received: Vec<Received> = paid
        .iter()
        .map(|delivery| admission::read(delivery, binding).1)
        .collect();
    let mut received = received.into_iter();
    step(
        &format!("admit, apply, log: a batch of {EVENTS}, {name}"),
        |_| {
            for event in received.by_ref().take(EVENTS as usize) {
                partition.offer(event, (), Timestamp(1));
            }
            assert!(partition.wanted(1).is_empty(), "every order is known");
            let all = Allowance {
                events_max: usize::MAX,
                bytes_max: usize::MAX,
                written_bytes_max: usize::MAX,
                before: None,
            };
            let prepared = partition.prepare(all);
            assert!(matches!(&prepared, Prepared::Part(part) if part.events == EVENTS as usize));
            black_box(prepared);
            partition.settle(Settled {
                revision: Revision(0),
                new_rows: Some(&[]),
                at: Timestamp(0),
            });
        },
    )
}

/// Loads every order as placed, as the store would answer.
fn know_orders(
    partition: &mut Partition<()>,
    machine: &Arc<dyn Processor>,
    tenant: &TenantId,
    entity: &EntityState,
    placed: &[Delivery],
) -> Result<()> {
    let data = entity.data.to_canonical().ok_or("too large")?;
    for (row, delivery) in (0..).zip(placed) {
        let event = Event::read_json(&delivery.payload)?;
        let context = EventContext {
            event: &event,
            admitted_at: Timestamp(0),
        };
        let name = EntityName {
            tenant: tenant.clone(),
            machine: machine.definition().machine.clone(),
            key: machine.key(&context).map_err(|fault| fault.detail)?,
        };
        let stored = StoredEntity {
            name: name.clone(),
            row: EntityRow(row),
            version: tidegate_engine::position::Version(1),
            status: entity.status.clone(),
            data: data.clone(),
        };
        partition.loaded(&[name], vec![stored]);
    }
    Ok(())
}
