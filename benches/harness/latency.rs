//! How long a client waits for the answer of a node over HTTP, which comes after the commit.
//! Open loop: requests are due at fixed moments, whether or not earlier ones are answered, and a latency
//! counts from the moment a request was due. So a pause of the node counts for every request in it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tempfile::TempDir;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::Result;
use super::arguments::Arguments;
use super::client::Connection;
use super::database::Server;
use super::report::{compiler, today, write_between};
use super::stores::migrated;

const BEGIN: &str = "<!-- latency: `make bench` writes it -->";
const MACHINE: &str = include_str!("../../deploy/examples/order.yaml");

/// Connections of the client: more than are ever busy at these rates, or the client would be the queue.
const CONNECTIONS: usize = 256;
/// Microseconds that a histogram tells apart: three digits of up to a minute.
const MICROS_MAX: u64 = 60_000_000;

/// How fast, and in what portions.
const LOADS: [(u64, u64); 6] = [
    (1_000, 1),
    (1_000, 10),
    (4_000, 1),
    (10_000, 1),
    (10_000, 10),
    (10_000, 100),
];

/// A node in a process of its own, with a token to send with.
struct Node {
    process: Child,
    address: String,
    token: String,
    _directory: TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Node {
    /// Starts one on an empty store: the server's, or a file beside the build, which is on a disk.
    async fn start(server: Option<&Server>) -> Result<Self> {
        let directory = TempDir::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
        let mut urls = (String::new(), String::new());
        let store = match server {
            Some(server) => {
                urls = migrated(server).await?;
                "  kind: postgres\n  postgres: { url: '${env:ENGINE_URL}', migrate_url: '${env:ADMIN_URL}', role_prefix: tidegate_bench }\n"
            }
            None => "  kind: sqlite\n  sqlite: { path: store.db }\n",
        };
        std::fs::write(directory.path().join("order.yaml"), MACHINE)?;
        std::fs::write(
            directory.path().join("node.yaml"),
            format!(
                "store:\n{store}machines: {{ paths: [order.yaml] }}\nhttp: {{ listen: '127.0.0.1:0' }}\n\
                 sources: [{{ name: api, kind: http, stream: orders }}]\n"
            ),
        )?;
        let tidegate = |line: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
            command
                .args(line.split(' '))
                .current_dir(directory.path())
                .env("ENGINE_URL", &urls.0)
                .env("ADMIN_URL", &urls.1)
                .stdin(Stdio::null());
            command
        };
        ended_well(tidegate("tenants create acme -c node.yaml"))?;
        let create =
            "tokens create --tenant acme --scope publish:fact,read --label bench --out token";
        ended_well(tidegate(&format!("{create} -c node.yaml")))?;
        let token = std::fs::read_to_string(directory.path().join("token"))?;
        let mut process = tidegate("run -c node.yaml")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(process.stderr.take().ok_or("no log")?).lines();
        let address = loop {
            let line = log
                .next()
                .ok_or("the node ended before it took requests")??;
            if let Some((_, rest)) = line.split_once("\"address\":\"http://") {
                break rest.split('"').next().unwrap_or_default().to_owned();
            }
        };
        std::thread::spawn(move || log.map_while(std::io::Result::ok).for_each(drop));
        Ok(Self {
            process,
            address,
            token: token.trim().to_owned(),
            _directory: directory,
        })
    }
}

fn ended_well(mut command: Command) -> Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

/// Sends `rate` events a second for a while, so many a request, and returns the latencies in microseconds.
async fn open_loop(
    node: &Node,
    rate: u64,
    portion: u64,
    seconds: u64,
    run: u64,
) -> Result<Histogram<u64>> {
    let requests = rate * seconds / portion;
    let every = Duration::from_secs_f64(portion as f64 / rate as f64);
    let warm = requests / 5;
    let (due_now, due) = mpsc::channel::<(u64, Instant)>(usize::try_from(requests)?);
    let begin = Instant::now() + Duration::from_millis(50);
    // A thread of its own: the runtime's timers tell no moments below a millisecond apart.
    let clock = std::thread::spawn(move || {
        for number in 0..requests {
            let moment = begin + every.mul_f64(number as f64);
            while let Some(left) = moment.checked_duration_since(Instant::now()) {
                std::thread::park_timeout(left);
            }
            if due_now.blocking_send((number, moment)).is_err() {
                return;
            }
        }
    });
    let due = Arc::new(Mutex::new(due));
    let mut senders = Vec::new();
    for _ in 0..CONNECTIONS.min(usize::try_from(requests)?) {
        let mut connection = Connection::open(&node.address, &node.token).await?;
        let due = due.clone();
        senders.push(tokio::spawn(async move {
            let mut latencies = Histogram::<u64>::new_with_max(MICROS_MAX, 3)?;
            loop {
                let next = due.lock().await.recv().await;
                let Some((number, moment)) = next else {
                    return Result::Ok(latencies);
                };
                connection.send(&body(run, number, portion)).await?;
                if number >= warm {
                    let micros = u64::try_from(moment.elapsed().as_micros())?;
                    latencies.record(micros.clamp(1, MICROS_MAX))?;
                }
            }
        }));
    }
    let mut all = Histogram::<u64>::new_with_max(MICROS_MAX, 3)?;
    for sender in senders {
        all.add(sender.await??)?;
    }
    clock.join().map_err(|_| "the clock's thread panicked")?;
    Ok(all)
}

/// Events of about 300 bytes, each the first of its order.
fn body(run: u64, request: u64, portion: u64) -> String {
    let event = |index: u64| {
        let id = format!("{run}-{request}-{index}");
        format!(
            "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/shop\",\"type\":\"order.placed\",\
             \"subject\":\"o-{id}\",\"correlationid\":\"visit-{id}\",\"data\":{{\"total_cents\":1000,\
             \"note\":\"{:0>120}\"}}}}",
            request * portion + index
        )
    };
    match portion {
        1 => event(0),
        _ => format!(
            "[{}]",
            (0..portion).map(event).collect::<Vec<_>>().join(",")
        ),
    }
}

fn median(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0) as f64 / 1_000.0
}

async fn rows(arguments: &Arguments, server: &Server) -> Result<String> {
    let seconds = interval(arguments);
    let mut rows = String::new();
    for (name, server) in [("Postgres", Some(server)), ("SQLite", None)] {
        let mut rounds: Vec<Vec<Histogram<u64>>> = LOADS.iter().map(|_| Vec::new()).collect();
        for round in 0..arguments.rounds {
            let node = Node::start(server).await?;
            for (load, (rate, portion)) in LOADS.into_iter().enumerate() {
                let run = u64::from(round) * 100 + load as u64;
                let latencies = open_loop(&node, rate, portion, seconds * 5 / 4, run).await?;
                eprintln!(
                    "{name}, {rate}/s by {portion}: {} requests, p50 {} p99 {} µs",
                    latencies.len(),
                    latencies.value_at_quantile(0.5),
                    latencies.value_at_quantile(0.99)
                );
                if let Some(of_load) = rounds.get_mut(load) {
                    of_load.push(latencies);
                }
            }
        }
        for ((rate, portion), of_load) in LOADS.into_iter().zip(&rounds) {
            let at = |quantile: f64| {
                let values = of_load.iter().map(|it| it.value_at_quantile(quantile));
                median(values.collect())
            };
            rows += &format!(
                "| {name} | {rate} | {portion} | **{:.1}** | {:.1} | {:.1} | {:.1} | {:.1} |\n",
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                at(1.0)
            );
        }
    }
    Ok(rows)
}

/// Seconds of an interval: what comes late is rare, so it is longer than one for a rate.
fn interval(arguments: &Arguments) -> u64 {
    (arguments.seconds * 2.0).ceil() as u64
}

/// Measures every load on every store, prints the table, and keeps it where that is wanted.
pub async fn measure(arguments: &Arguments, server: &Server, readme: &Path) -> Result<()> {
    let rows = rows(arguments, server).await?;
    let cores = std::thread::available_parallelism()?;
    let text = format!(
        "{}, {cores} cores shared by client, node and server, {}, {}. {CONNECTIONS} connections, \
         {} s a row and round; each figure is the median of {} rounds.\n\n\
         | store | events/s | events a request | p50, ms | p90 | p99 | p99.9 | longest |\n\
         |---|---|---|---|---|---|---|---|\n{rows}",
        today(),
        server.description,
        compiler(),
        interval(arguments),
        arguments.rounds,
    );
    print!("{text}");
    match arguments.write {
        true => write_between(readme, BEGIN, &text),
        false => Ok(()),
    }
}
