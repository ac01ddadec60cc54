//! One measured interval, and what many of them say together: medians, because the machine is never
//! quiet, and ratios taken round by round, because what disturbs one way disturbs its neighbour.

use std::time::Duration;

use tokio::time::Instant;

use super::cpu::{CpuTimes, Servers};

/// One measured interval.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Events whose effects became durable in it.
    pub events: u64,
    /// Its length.
    pub elapsed: Duration,
    /// CPU time used in it.
    pub cpu: CpuTimes,
}

/// A running measurement.
pub struct Stopwatch {
    servers: Servers,
    started: Instant,
    cpu: CpuTimes,
}

impl Stopwatch {
    /// Starts now.
    pub fn start(servers: Servers) -> Self {
        Self {
            servers,
            cpu: CpuTimes::read(servers),
            started: Instant::now(),
        }
    }

    /// Ends now.
    pub fn stop(self, events: usize) -> Sample {
        let elapsed = self.started.elapsed();
        let cpu = CpuTimes::read(self.servers).since(self.cpu);
        Sample {
            events: events as u64,
            elapsed,
            cpu,
        }
    }
}

impl Sample {
    /// Events a second.
    pub fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// The client's CPU, µs an event.
    pub fn client_micros(&self) -> Option<f64> {
        self.per_event(self.cpu.ours)
    }

    /// Postgres's CPU, µs an event.
    pub fn server_micros(&self) -> Option<f64> {
        self.per_event(self.cpu.postgres)
    }

    /// The broker's CPU, µs an event.
    pub fn broker_micros(&self) -> Option<f64> {
        self.per_event(self.cpu.broker)
    }

    fn per_event(&self, spent: Option<Duration>) -> Option<f64> {
        spent.map(|spent| spent.as_secs_f64() * 1e6 / self.events as f64)
    }
}

/// The middle of some values; `None` of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((upper + values.get(middle.checked_sub(1)?)?) / 2.0)
}
