//! `make bench`: Tidegate's write path beside what a user would write by hand, on the same durable
//! server, over the same events, in turn. Prints the table that `benches/README.md` keeps.

mod harness;
mod peers;

use std::path::Path;
use std::sync::Arc;

use clap::Parser as _;
use harness::Result;
use harness::arguments::{Arguments, BusKind};
use harness::database::Server;
use harness::latency;
use harness::load::{EVENT_BYTES, Load, Shape};
use harness::processors::Processors;
use harness::report::{Row, Table, circumstances, write_into};
use harness::stores::StoreKind;
use harness::topics::Topics;
use harness::ways::{Bench, Machine, Settings, Way};
use peers::{BatchConsumer, PerEventConsumer, RawCopy, RawType, State, Tables};

/// What the node is shipped with; the peers get it too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/README.md");
const URL: &str = "TIDEGATE_TEST_POSTGRES_URL";
const BROKERS: &str = "TIDEGATE_TEST_KAFKA";

/// The ways that all others are compared with.
const PER_EVENT: &str = "hand-written, one event a transaction";
const BATCH: &str = "hand-written batches";
const BATCH_MACHINE: &str = "hand-written batches, a state machine";

const BATCH_SIZES: [usize; 4] = [1_000, 2_000, 5_000, 10_000];

/// Connections of the peers, and source partitions of ours, which commit beside each other as those do.
const CONNECTIONS: [usize; 3] = [1, 2, 3];

/// Events that say well enough how fast a way is to choose its settings and its interval's length.
const PROBE_PAYMENTS: u32 = 200_000;
const PROBE_PAYMENTS_PER_EVENT: u32 = 5_000;
/// From a broker a way begins with joining and, if it is ours, with a cold cache.
const PROBE_PAYMENTS_KAFKA: u32 = 400_000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let url = std::env::var(URL)
        .map_err(|_| format!("{URL} is not set: `make bench` starts a server and sets it"))?;
    let first = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut server = first.block_on(Server::connect(&url))?;
    if arguments.latency {
        let io = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        return io.block_on(async {
            latency::measure(&arguments, &server, Path::new(README)).await?;
            server.clean_up().await
        });
    }
    let topics = match arguments.bus {
        BusKind::Memory => None,
        BusKind::Kafka => {
            let brokers = std::env::var(BROKERS).map_err(|_| {
                format!("{BROKERS} is not set: `make bench` starts a broker and sets it")
            })?;
            Some(Topics::new(brokers))
        }
    };
    server.processes.broker = topics.as_ref().and_then(Topics::broker);
    let processors = if arguments.apart {
        Processors::apart(server.processes, topics.is_some())?
    } else {
        Processors::shared()
    };
    // Made here, so that they have the threads that their processors are good for.
    let io = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors.of_clients())
        .enable_all()
        .build()?;
    let load = Load::generate(Shape {
        orders: arguments.orders,
        tenants: arguments.tenants,
        payments: arguments.payments,
        seed: 1,
    });
    let handle = io.handle().clone();
    actix::System::new().block_on(async move {
        let placement = tidegate::runtime::arbiters(processors.of_clients());
        let bench = Arc::new(Bench {
            server,
            load: Arc::new(load),
            io: handle,
            placement,
            topics,
        });
        let done = measure(&bench, &arguments, processors).await;
        bench.server.clean_up().await?;
        done
    })
}

/// A way, how its row calls it, and how long it is measured.
struct Entry {
    way: Way,
    row: Row,
    payments: u32,
}

async fn measure(bench: &Arc<Bench>, arguments: &Arguments, processors: Processors) -> Result<()> {
    let mut entries = entries(bench, arguments).await?;
    for round in 1..=arguments.rounds {
        for entry in &mut entries {
            let sample = entry.way.run(bench, entry.payments).await?;
            eprintln!(
                "round {round}: {:9.0} events/s  {:5.1} s  {}, {}",
                sample.rate(),
                sample.elapsed.as_secs_f64(),
                entry.row.name,
                entry.row.settings
            );
            entry.row.samples.push(sample);
        }
    }
    let rows: Vec<Row> = entries.into_iter().map(|entry| entry.row).collect();
    let shape = bench.load.shape();
    let from = match arguments.bus {
        BusKind::Memory => "",
        BusKind::Kafka => " They come from a broker beside the server.",
    };
    let load = format!(
        "{EVENT_BYTES}-byte events, {} orders of {} tenants, every event moves one.{from}",
        shape.orders, shape.tenants
    );
    let mut text = circumstances(
        processors,
        &bench.server.description,
        &load,
        arguments.rounds,
    );
    text.push('\n');
    text.push_str(&Table::new(&rows, [PER_EVENT, BATCH, BATCH_MACHINE]).to_markdown());
    println!("{text}");
    if arguments.write {
        write_into(Path::new(README), arguments.bus, processors, &text)?;
    }
    Ok(())
}

/// Every way that is wanted, with its settings chosen and its interval's length set.
async fn entries(bench: &Arc<Bench>, arguments: &Arguments) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for (name, candidates) in candidates(arguments) {
        // What is compared over a broker is who reads one.
        let reads = [PER_EVENT, BATCH, BATCH_MACHINE].contains(&name) || name.contains("Postgres");
        if !arguments.wants(name) || (arguments.bus == BusKind::Kafka && !reads) {
            continue;
        }
        let mut best: Option<(f64, Way, String)> = None;
        for (way, settings) in candidates {
            let probe = match (&way, arguments.bus) {
                (Way::PerEvent(_), _) => PROBE_PAYMENTS_PER_EVENT,
                (_, BusKind::Memory) => PROBE_PAYMENTS,
                (_, BusKind::Kafka) => PROBE_PAYMENTS_KAFKA,
            };
            let rate = way.run(bench, probe.min(arguments.payments)).await?.rate();
            eprintln!("probe:   {rate:9.0} events/s  {name}, {settings}");
            if best.as_ref().is_none_or(|(best, _, _)| rate > *best) {
                best = Some((rate, way, settings));
            }
        }
        if let Some((rate, way, settings)) = best {
            // A conversion from float saturates.
            let payments = match arguments.bus {
                BusKind::Kafka if name != PER_EVENT => arguments.payments,
                _ => ((rate * arguments.seconds) as u32).min(arguments.payments),
            };
            let row = Row {
                name: name.to_owned(),
                settings,
                samples: Vec::new(),
            };
            entries.push(Entry { way, row, payments });
        }
    }
    Ok(entries)
}

/// The ways, each with the settings of which the best is taken.
fn candidates(arguments: &Arguments) -> Vec<(&'static str, Vec<(Way, String)>)> {
    let sizes = arguments
        .batch
        .map_or_else(|| BATCH_SIZES.to_vec(), |size| vec![size]);
    let batch = |tables, state| {
        let mut all = Vec::new();
        for connections in CONNECTIONS {
            for batch_events in &sizes {
                let peer = BatchConsumer {
                    batch_events: *batch_events,
                    connections,
                    tables,
                    state,
                };
                let settings = format!("batches of {batch_events}, {connections} connections");
                all.push((Way::Batch(peer), settings));
            }
        }
        all
    };
    let copy = |raw_type| {
        let peer = |connections| {
            Way::Copy(RawCopy {
                raw_type,
                connections,
            })
        };
        CONNECTIONS
            .map(|connections| (peer(connections), format!("{connections} connections")))
            .to_vec()
    };
    let per_event = (
        Way::PerEvent(PerEventConsumer { connections: 8 }),
        "8 connections".to_owned(),
    );
    let mut all = vec![
        (PER_EVENT, vec![per_event]),
        (BATCH, batch(Tables::SeenAndLog, State::Arithmetic)),
        (
            "the same, keys on the log alone",
            batch(Tables::LogAlone, State::Arithmetic),
        ),
        (BATCH_MACHINE, batch(Tables::SeenAndLog, State::Machine)),
        ("raw COPY, unindexed, jsonb", copy(RawType::Jsonb)),
        ("raw COPY, unindexed, bytea", copy(RawType::Bytea)),
    ];
    all.extend(OURS.map(|(name, store, machine)| (name, ours(store, machine, arguments.batch))));
    all
}

/// Ours, on each store and with each kind of machine.
const OURS: [(&str, StoreKind, Machine); 6] = [
    (
        "Tidegate on Postgres, Rust",
        StoreKind::Postgres,
        Machine::Rust,
    ),
    (
        "Tidegate on Postgres, CEL",
        StoreKind::Postgres,
        Machine::Cel,
    ),
    ("Tidegate on SQLite, Rust", StoreKind::Sqlite, Machine::Rust),
    ("Tidegate on SQLite, CEL", StoreKind::Sqlite, Machine::Cel),
    ("Tidegate in memory, Rust", StoreKind::Memory, Machine::Rust),
    ("Tidegate in memory, CEL", StoreKind::Memory, Machine::Cel),
];

fn ours(store: StoreKind, machine: Machine, batch_events: Option<usize>) -> Vec<(Way, String)> {
    let way = |partitions| {
        let settings = Settings {
            store,
            machine,
            partitions,
            batch_events,
        };
        (
            Way::Ours(settings),
            format!("{partitions} source partitions"),
        )
    };
    CONNECTIONS.map(way).to_vec()
}
