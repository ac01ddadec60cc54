//! The command line: `cargo bench --bench throughput -- --rounds 5 --seconds 10 --write`.

use clap::{Parser, ValueEnum};

/// Where the events come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum BusKind {
    /// Memory.
    Memory,
    /// Topics of a Kafka broker.
    Kafka,
}

/// Measures Tidegate's write path and hand-written peers, interleaved, on the same durable server.
#[derive(Parser, Clone, Debug)]
#[command(name = "throughput")]
pub struct Arguments {
    /// Rounds; each measures every way once, so that what disturbs one disturbs its neighbours.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Length of one measured interval, roughly.
    #[arg(long, default_value_t = 6.0)]
    pub seconds: f64,
    /// Only the ways whose name contains this; may be given again.
    #[arg(long)]
    pub only: Vec<String>,
    /// Tenants in the load.
    #[arg(long, default_value_t = 5)]
    pub tenants: u32,
    /// Orders in the load.
    #[arg(long, default_value_t = 100_000)]
    pub orders: u32,
    /// Payments to generate: no interval can be longer than these last.
    #[arg(long, default_value_t = 1_500_000)]
    pub payments: u32,
    /// Take batches of this size instead of looking for the best.
    #[arg(long)]
    pub batch: Option<usize>,
    /// The server gets one half of the processors and the clients the other, as on machines of their own.
    #[arg(long)]
    pub apart: bool,
    /// Where the events come from: memory, which costs nothing, or a broker.
    #[arg(long, value_enum, default_value = "memory")]
    pub bus: BusKind,
    /// How long answers take over HTTP, instead of how fast each way is.
    #[arg(long)]
    pub latency: bool,
    /// Write the table into benches/README.md.
    #[arg(long)]
    pub write: bool,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Arguments {
    /// True when a way of that name is wanted.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }
}
