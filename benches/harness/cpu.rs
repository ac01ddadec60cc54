//! CPU time of our process and of every process of the Postgres server, from `/proc`. Where there is no
//! `/proc`, or the server's processes are not to be seen (another machine, a container), there is no
//! figure: none is guessed.

use std::time::Duration;

/// Ticks of `/proc/<pid>/stat` a second: USER_HZ, part of Linux's ABI.
const TICKS_PER_SECOND: u64 = 100;

/// CPU time used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// By this process, all its threads.
    pub ours: Option<Duration>,
    /// By the server: backends that live, those that ended, and its background processes.
    pub postgres: Option<Duration>,
}

impl CpuTimes {
    /// Reads both. `postmaster` is the server's first process.
    pub fn read(postmaster: Option<u32>) -> Self {
        let ours = Process::read("self").map(|process| ticks(process.own));
        Self {
            ours,
            postgres: postmaster.and_then(server),
        }
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        let spent =
            |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        Self {
            ours: spent(self.ours, earlier.ours),
            postgres: spent(self.postgres, earlier.postgres),
        }
    }
}

/// The server's first process, found from one of its backends; `None` when that number is no process of
/// Postgres here.
pub fn postmaster_of(backend: u32) -> Option<u32> {
    let command = std::fs::read_to_string(format!("/proc/{backend}/cmdline")).ok()?;
    command.starts_with("postgres:").then_some(())?;
    Process::read(&backend.to_string()).map(|process| process.parent)
}

struct Process {
    parent: u32,
    /// Ticks in user and kernel.
    own: u64,
    /// The same of children that ended and were waited for.
    ended_children: u64,
}

impl Process {
    fn read(pid: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in parentheses and may hold spaces; see proc(5).
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            own: number(11)? + number(12)?,
            ended_children: number(13)? + number(14)?,
        })
    }
}

/// The processes that a server has started and that live.
pub fn children_of(postmaster: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let processes = entries.flatten().filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        // A process may end between the listing and the look.
        (Process::read(&pid.to_string())?.parent == postmaster).then_some(pid)
    });
    processes.collect()
}

fn server(postmaster: u32) -> Option<Duration> {
    let first = Process::read(&postmaster.to_string())?;
    let mut sum = first.own + first.ended_children;
    for child in children_of(postmaster) {
        if let Some(process) = Process::read(&child.to_string()) {
            sum += process.own + process.ended_children;
        }
    }
    Some(ticks(sum))
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1_000 / TICKS_PER_SECOND)
}
