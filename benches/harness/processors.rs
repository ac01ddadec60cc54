//! Which processors the server and the clients run on.

use std::fmt::{Display, Formatter};
use std::process::Command;

use super::Result;
use super::cpu::{Servers, children_of};

/// How the processors are shared out.
#[derive(Clone, Copy, Debug)]
pub enum Processors {
    /// All of them to everybody, as on a developer's machine.
    Shared(usize),
    /// So many to the server, the first ones, and so many to the clients, as on machines of their own.
    Apart {
        /// The server's.
        server: usize,
        /// The clients'.
        clients: usize,
    },
}

impl Processors {
    /// Leaves everything as it is.
    pub fn shared() -> Self {
        Self::Shared(available())
    }

    /// Moves the servers, with the backends that Postgres will start, and this process, with all of its threads.
    pub fn apart(servers: Servers, has_broker: bool) -> Result<Self> {
        const UNSEEN: &str = "processes are not to be seen from here: `--apart` moves them";
        let postmaster = servers.postmaster;
        let postmaster = postmaster.ok_or_else(|| format!("Postgres's {UNSEEN}"))?;
        if has_broker && servers.broker.is_none() {
            return Err(format!("the broker's {UNSEEN}").into());
        }
        let all = available();
        if all < 2 {
            return Err("one processor cannot be shared out: leave `--apart` away".into());
        }
        let server = all / 2;
        let backends = children_of(postmaster);
        for process in backends
            .into_iter()
            .chain([postmaster])
            .chain(servers.broker)
        {
            bind(process, 0, server - 1)?;
        }
        bind(std::process::id(), server, all - 1)?;
        Ok(Self::Apart {
            server,
            clients: all - server,
        })
    }

    /// Those that this process may use.
    pub fn of_clients(self) -> usize {
        match self {
            Self::Shared(all) => all,
            Self::Apart { clients, .. } => clients,
        }
    }
}

impl Display for Processors {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let arch = std::env::consts::ARCH;
        match self {
            Self::Shared(all) => write!(f, "{all} cores ({arch}) shared by client and server"),
            Self::Apart { server, clients } => write!(
                f,
                "{} cores ({arch}), {server} for the servers and {clients} for the client",
                server + clients
            ),
        }
    }
}

fn available() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// With `taskset`, which every Linux distribution has in its base system.
fn bind(process: u32, first: usize, last: usize) -> Result<()> {
    let done = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid"])
        .args([format!("{first}-{last}"), process.to_string()])
        .output()
        .map_err(|error| format!("`taskset` (util-linux) cannot be started: {error}"))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        return Err(format!("process {process} cannot be moved: {}", why.trim()).into());
    }
    Ok(())
}
