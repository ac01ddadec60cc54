//! CPU time of our process, of every process of the Postgres server and of the broker, from `/proc`. Where
//! there is no `/proc`, or a server's processes are not to be seen (another machine, a container), there is
//! no figure: none is guessed.

use std::path::PathBuf;
use std::time::Duration;

/// Ticks of `/proc/<pid>/stat` a second: USER_HZ, part of Linux's ABI.
const TICKS_PER_SECOND: u64 = 100;

/// The first processes of the servers that take part, as far as they are to be seen from here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Servers {
    /// Postgres's.
    pub postmaster: Option<u32>,
    /// The broker's.
    pub broker: Option<u32>,
}

/// CPU time used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTimes {
    /// By this process, all its threads.
    pub ours: Option<Duration>,
    /// By the server: backends that live, those that ended, and its background processes.
    pub postgres: Option<Duration>,
    /// By the broker.
    pub broker: Option<Duration>,
}

impl CpuTimes {
    /// Reads them all.
    pub fn read(servers: Servers) -> Self {
        let ours = Process::read("self").map(|process| ticks(process.own));
        Self {
            ours,
            postgres: servers.postmaster.and_then(server),
            broker: servers.broker.and_then(server),
        }
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        let spent =
            |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        Self {
            ours: spent(self.ours, earlier.ours),
            postgres: spent(self.postgres, earlier.postgres),
            broker: spent(self.broker, earlier.broker),
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

/// The process that listens on a TCP port of this machine; `None` when none is to be seen from here.
pub fn listener_on(port: u16) -> Option<u32> {
    let socket = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| socket_of(&table, port))?;
    let own = PathBuf::from(format!("socket:[{socket}]"));
    processes().find(|pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
        let mut files = files.into_iter().flatten().flatten();
        files.any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == own))
    })
}

/// The inode of the socket that listens on a port, by a table of proc(5).
fn socket_of(table: &str, port: u16) -> Option<u64> {
    const LISTENS: &str = "0A";
    let address_ends = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_it = fields.get(1)?.ends_with(&address_ends) && *fields.get(3)? == LISTENS;
        is_it.then(|| fields.get(9)?.parse().ok()).flatten()
    })
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
pub fn children_of(first: u32) -> Vec<u32> {
    // A process may end between the listing and the look.
    let is_child =
        |pid: &u32| Process::read(&pid.to_string()).is_some_and(|process| process.parent == first);
    processes().filter(is_child).collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn server(first_process: u32) -> Option<Duration> {
    let first = Process::read(&first_process.to_string())?;
    let mut sum = first.own + first.ended_children;
    for child in children_of(first_process) {
        if let Some(process) = Process::read(&child.to_string()) {
            sum += process.own + process.ended_children;
        }
    }
    Some(ticks(sum))
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1_000 / TICKS_PER_SECOND)
}
