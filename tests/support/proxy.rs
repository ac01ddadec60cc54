//! A TCP proxy before Postgres that cuts the connection at a commit: before the server hears of it, or
//! after it has committed and before the client hears of that. It reads the protocol's frames and knows
//! a commit by the statement that calls `tidegate.commit_batch`, or, where that runs inside an explicit
//! transaction, by the COMMIT that follows.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Where the next commit's connection is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cut {
    /// Not at all.
    Never = 0,
    /// The server never sees the call: nothing is committed.
    BeforeCommit = 1,
    /// The server has committed and answered; the answer is lost.
    AfterCommit = 2,
}

/// The proxy. It lives as long as its runtime.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cut: AtomicU8,
    cuts: AtomicU32,
    connections: AtomicU32,
    /// Connections with a lower number are forgotten: what they are sent goes nowhere.
    forgotten_below: AtomicU32,
}

impl Shared {
    /// Takes the order to cut, once.
    fn take(&self) -> Cut {
        match self.cut.swap(Cut::Never as u8, Ordering::AcqRel) {
            1 => Cut::BeforeCommit,
            2 => Cut::AfterCommit,
            _ => Cut::Never,
        }
    }
}

impl Proxy {
    /// Listens on a free port before the server at `host:port`.
    pub async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = Arc::clone(&accepting);
                let server = server.clone();
                tokio::spawn(async move {
                    // Either side may go away at any time: that is what the proxy is for.
                    let _ = carry(client, &server, shared).await;
                });
            }
        });
        Self { address, shared }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts at the next commit of any connection.
    pub fn cut_next_commit(&self, cut: Cut) {
        self.shared.cut.store(cut as u8, Ordering::Release);
    }

    /// Forgets every connection that there is, as a firewall does: nobody is told, and nothing gets through.
    pub fn forget_connections(&self) {
        let connections = self.shared.connections.load(Ordering::Acquire);
        self.shared
            .forgotten_below
            .store(connections, Ordering::Release);
    }

    /// Commits that were cut so far.
    pub fn cuts(&self) -> u32 {
        self.shared.cuts.load(Ordering::Acquire)
    }
}

async fn carry(client: TcpStream, server: &str, shared: Arc<Shared>) -> std::io::Result<()> {
    let upstream = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = upstream.into_split();
    let state = Arc::new(ConnectionState {
        number: shared.connections.fetch_add(1, Ordering::AcqRel),
        ..ConnectionState::default()
    });
    let requests = requests(
        from_client,
        to_server,
        Arc::clone(&shared),
        Arc::clone(&state),
    );
    let answers = answers(from_server, to_client, shared, state);
    // The end of one direction ends both: dropping the halves closes the sockets.
    tokio::select! {
        biased;
        result = requests => result,
        result = answers => result,
    }
}

/// What the two directions of a connection tell each other.
#[derive(Default)]
struct ConnectionState {
    /// Answers are swallowed up to the end of the commit.
    swallow: AtomicBool,
    /// The server has said that a transaction is open.
    in_transaction: AtomicBool,
    number: u32,
}

/// One message: its type, and all of its bytes.
async fn frame(from: &mut OwnedReadHalf, first: bool) -> std::io::Result<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut kind = 0;
    if !first {
        kind = from.read_u8().await?;
        bytes.push(kind);
    }
    let length = from.read_u32().await?;
    bytes.extend(length.to_be_bytes());
    let start = bytes.len();
    bytes.resize(start + length as usize - 4, 0);
    from.read_exact(&mut bytes[start..]).await?;
    Ok((kind, bytes))
}

/// A text that ends with a zero byte, from `at`.
fn text(bytes: &[u8], at: usize) -> &[u8] {
    let rest = &bytes[at..];
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    &rest[..end]
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Shared>,
    state: Arc<ConnectionState>,
) -> std::io::Result<()> {
    let mut committing: HashSet<Vec<u8>> = HashSet::new();
    // What becomes of the COMMIT that ends the transaction with the call in it.
    let mut at_commit = Cut::Never;
    let mut startup = true;
    loop {
        let (kind, bytes) = frame(&mut from, startup).await?;
        if state.number < shared.forgotten_below.load(Ordering::Acquire) {
            continue;
        }
        if startup {
            // SSLRequest and GSSENCRequest come without type too, before the real start.
            startup = matches!(bytes.get(4..8), Some([0x04, 0xd2, 0x16, 0x2f | 0x30]));
        }
        let mut ends = false;
        match kind {
            // Parse: the statement's name, then its text.
            b'P' => {
                let name = text(&bytes, 5).to_vec();
                let sql = text(&bytes, 5 + name.len() + 1);
                if sql.windows(12).any(|part| part == b"commit_batch") {
                    committing.insert(name);
                } else {
                    committing.remove(&name);
                }
            }
            // Bind: the portal's name, then the statement's.
            b'B' => {
                let portal = text(&bytes, 5).len();
                if committing.contains(text(&bytes, 5 + portal + 1)) {
                    at_commit = shared.take();
                    ends = !state.in_transaction.load(Ordering::Acquire);
                }
            }
            // Query: a text.
            b'Q' => ends = text(&bytes, 5).eq_ignore_ascii_case(b"commit"),
            _ => {}
        }
        if ends {
            match std::mem::replace(&mut at_commit, Cut::Never) {
                Cut::Never => {}
                Cut::BeforeCommit => {
                    shared.cuts.fetch_add(1, Ordering::AcqRel);
                    return Ok(());
                }
                Cut::AfterCommit => state.swallow.store(true, Ordering::Release),
            }
        }
        to.write_all(&bytes).await?;
    }
}

async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: Arc<Shared>,
    state: Arc<ConnectionState>,
) -> std::io::Result<()> {
    // SSL and GSS requests are answered by one byte without a frame.
    let mut opening = true;
    loop {
        if opening {
            let byte = from.read_u8().await?;
            if byte == b'N' || byte == b'S' {
                to.write_u8(byte).await?;
                continue;
            }
            opening = false;
            let length = from.read_u32().await?;
            let mut bytes = vec![byte];
            bytes.extend(length.to_be_bytes());
            let start = bytes.len();
            bytes.resize(start + length as usize - 4, 0);
            from.read_exact(&mut bytes[start..]).await?;
            to.write_all(&bytes).await?;
            continue;
        }
        let (kind, bytes) = frame(&mut from, false).await?;
        // ReadyForQuery: whether a transaction is open.
        if kind == b'Z' {
            let open = bytes.last() != Some(&b'I');
            state.in_transaction.store(open, Ordering::Release);
        }
        if state.swallow.load(Ordering::Acquire) {
            if kind == b'Z' && !state.in_transaction.load(Ordering::Acquire) {
                shared.cuts.fetch_add(1, Ordering::AcqRel);
                return Ok(());
            }
            continue;
        }
        to.write_all(&bytes).await?;
    }
}
