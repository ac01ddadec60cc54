//! How an embedded store is opened. Owns the file's path, the settings of its connections and the lock
//! that keeps a second process out; changes no data.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tidegate_engine::store::StoreError;

/// How long a statement waits while somebody's shell holds the write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often and how far apart an opening tries for the lock, a second in all: the process before it, when
/// one is restarted, may be on its way out.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Pages in the write-ahead log before they are moved into the file: 64 MB. Measured (docs/sqlite.md): with
/// SQLite's default of 4 MB a batch of 1,000 events moves all its pages at once, for 1.4 to 1.6 times the
/// writing.
const CHECKPOINT_PAGES: u32 = 16_384;

/// Prepared statements a connection keeps: more than this store has, in all their sizes.
const STATEMENTS_MAX: usize = 256;

/// How an embedded store is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SqliteOptions {
    /// The database file; made when it is not there. Beside it stand `…-wal` and `…-shm`, which belong to
    /// it, and `….lock`. On a local disk: the write-ahead log needs shared memory.
    pub path: PathBuf,
    /// Connections that read beside the one that writes.
    pub readers_max: u32,
    /// Memory for pages, in bytes, of the connection that writes.
    pub cache_bytes: u64,
    /// Bytes that the filter of the older dedupe table may take. When the table holds more keys than
    /// fit at ten bits a key, every key is asked for in the database: slower, and as right.
    pub dedupe_filter_bytes_max: usize,
    /// Upkeep goes on with the index of event and correlation ids. It is off the hot path, but takes the
    /// one connection that writes for a while in every round.
    pub index_events: bool,
    /// Commits without waiting for the disk (`synchronous=NORMAL`): a power failure can take the last
    /// commits back, and then the checkpoint with them. The file stays whole.
    pub unsafe_synchronous_normal: bool,
}

impl SqliteOptions {
    /// The defaults: four readers, 64 MiB of cache, every commit on the disk.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readers_max: 4,
            cache_bytes: 64 * 1024 * 1024,
            // 16 MiB: about 13 million keys.
            dedupe_filter_bytes_max: 16 * 1024 * 1024,
            index_events: true,
            unsafe_synchronous_normal: false,
        }
    }

    /// The connection that writes.
    pub(super) fn writer(&self) -> SqliteConnectOptions {
        let synchronous = if self.unsafe_synchronous_normal {
            SqliteSynchronous::Normal
        } else {
            SqliteSynchronous::Full
        };
        self.plain()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .pragma("cache_size", format!("-{}", self.cache_bytes / 1024))
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
            .pragma("temp_store", "memory")
    }

    /// A connection that reads.
    pub(super) fn reader(&self) -> SqliteConnectOptions {
        self.plain().read_only(true)
    }

    /// A connection that changes nothing about the file by itself.
    pub(super) fn plain(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(STATEMENTS_MAX)
            .thread_name(|id| format!("tidegate-sqlite-{id}"))
    }

    /// Makes the database file, when it is not there, readable by its owner alone: it holds payloads.
    pub(super) fn create_file(&self) -> Result<(), StoreError> {
        private(&self.path)
            .map(drop)
            .map_err(|error| not_ready(&self.path, &error))
    }

    fn lock_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        PathBuf::from(name)
    }
}

/// The right to be the one process that has the database. The system takes it back when the process
/// ends, however it ends; the file stays, since removing it would let two processes lock two files.
#[derive(Debug)]
pub(super) struct ProcessLock {
    _file: File,
}

impl ProcessLock {
    /// Takes the lock, or says who has it.
    pub(super) async fn take(options: &SqliteOptions) -> Result<Self, StoreError> {
        let path = options.lock_path();
        let mut file = private(&path).map_err(|error| not_ready(&path, &error))?;
        for tries_left in (0..LOCK_TRIES).rev() {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tries_left > 0 => {
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(TryLockError::WouldBlock) => return Err(in_use(options, &mut file)),
                Err(TryLockError::Error(error)) => return Err(not_ready(&path, &error)),
            }
        }
        // For people alone: the lock is what counts, so a failure here is none of the store's.
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn in_use(options: &SqliteOptions, lock: &mut File) -> StoreError {
    let mut holder = String::new();
    let _ = lock.take(32).read_to_string(&mut holder);
    let holder = match holder.trim() {
        "" => String::new(),
        process => format!(" (process {process})"),
    };
    StoreError::NotReady(format!(
        "`{}` is open in another process{holder}: an embedded store serves one process at a time; stop \
         that one and run this again, or give this one a file of its own",
        options.path.display()
    ))
}

fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options.open(path)
}

fn not_ready(path: &Path, error: &io::Error) -> StoreError {
    let shown = path.display();
    StoreError::NotReady(match error.kind() {
        io::ErrorKind::NotFound => format!("`{shown}`: its directory does not exist"),
        io::ErrorKind::PermissionDenied => {
            format!(
                "`{shown}` may not be written by this user: check its and its directory's permissions"
            )
        }
        io::ErrorKind::IsADirectory => {
            format!("`{shown}` is a directory, expected a database file")
        }
        _ => format!("`{shown}`: {error}"),
    })
}
