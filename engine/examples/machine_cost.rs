//! What an event costs at the order machine, in YAML and in Rust: microseconds for key and apply, over
//! the same events. Run by hand, in release: `cargo run --release -p tidegate-engine --example machine_cost`.

use std::time::Instant;

use bytes::Bytes;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::event::Event;
use tidegate_engine::machine::order::order_processor;
use tidegate_engine::machine::{EventContext, MachineDefinition, Processor, Verdict};
use tidegate_engine::state::EntityState;

const ORDER_YAML: &str = include_str!("../../deploy/examples/order.yaml");
const ROUNDS: usize = 200_000;

/// About 300 bytes, of which the machine reads one field.
fn event(kind: &str, data: &str) -> Event {
    let json = format!(
        r#"{{"specversion":"1.0","id":"4f9c2b1e-8d1a-4c55-9d60-0a1b2c3d4e5f","source":"/shop/web","type":"{kind}","subject":"order-000042","time":"2026-11-22T06:17:00Z","tenantid":"acme","correlationid":"c-000042","data":{{"customer":"c-1729","currency":"EUR",{data},"note":"left at the door"}}}}"#
    );
    Event::read_json(&Bytes::from(json)).unwrap_or_else(|error| panic!("{error}"))
}

#[allow(clippy::disallowed_methods, reason = "a measurement, run by hand")]
fn measure(name: &str, machine: &dyn Processor) {
    let placed = event("order.placed", r#""total_cents":1000"#);
    let part = event("order.paid", r#""amount_cents":400"#);
    let rest = event("order.paid", r#""amount_cents":1000"#);
    let shipped = event("order.shipped", r#""carrier":"post""#);
    let started = machine.initial();
    let after = |event: &Event, before: &EntityState| {
        let context = context(event);
        match machine.apply(&context, before) {
            Verdict::Applied(change) => EntityState {
                status: change.status,
                version: before.version.next(),
                data: change.data,
            },
            other => panic!("{name}: {other:?}"),
        }
    };
    let open = after(&placed, &started);
    let paid = after(&rest, &open);
    println!("{name}");
    for (what, event, before) in [
        ("placed: set", &placed, &started),
        ("paid in part: when, set", &part, &open),
        ("paid in full: when, set, emit", &rest, &open),
        ("shipped: status only", &shipped, &paid),
    ] {
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let begin = Instant::now();
            for _ in 0..ROUNDS {
                let context = context(event);
                let key = machine.key(&context);
                let verdict = machine.apply(&context, before);
                std::hint::black_box((key.is_ok(), verdict));
            }
            best = best.min(begin.elapsed().as_secs_f64() * 1e6 / ROUNDS as f64);
        }
        println!("  {what:32} {best:5.2} µs");
    }
}

fn context(event: &Event) -> EventContext<'_> {
    EventContext {
        event,
        admitted_at: Timestamp(0),
    }
}

fn main() {
    let yaml = MachineDefinition::load("order.yaml", ORDER_YAML)
        .unwrap_or_else(|errors| panic!("{errors:#?}"));
    measure("YAML and CEL", yaml.as_ref());
    let rust = order_processor().unwrap_or_else(|error| panic!("{error}"));
    measure("Rust", &rust);
}
