//! The file bus: NDJSON files, or standard input, as one source. Each input is one source partition,
//! numbered in the order given; a record is a line, its offset the byte where the line begins. Owns
//! reading and seeking; never looks into a record.
//!
//! **Resuming.** A file is sought to its checkpoint. An input that can be read only once (standard
//! input, a pipe) is read from its beginning and what the checkpoint has is skipped, so the same input
//! given again goes on where it stopped.
//!
//! **Recognising.** The incarnation is the hash of the first record: a file that is appended to, moved
//! or copied keeps it, another file has another. What was rewritten behind the first record is noticed
//! by [`EventBus::fingerprint_at`], what was cut off by [`EventBus::seek`]. An input without any record
//! is the incarnation [`EMPTY`]: it becomes another one with its first record, which a claim takes over
//! since of an empty input nothing was ever committed.
//!
//! **Ending.** An input is bounded: at its end, as it is then, it is reported as ended once. A last line
//! without a newline is a record; so do not read a file while its last line is still being written.
//!
//! **Memory.** A record's payload is its own copy, so it holds what its permits count. Beside those, each
//! of the at most [`OPEN_FILES_MAX`] files being read has a buffer of 256 KiB, which grows to 1.3 MiB
//! while a line of that size passes through, and an input that is read once keeps the records that are
//! handed out and not acknowledged. Of a line beyond `limits::DELIVERY_BYTES_MAX` only one byte more than
//! that is kept: the engine sees that it is too long, and the record's `next` is behind the whole line.

mod lines;
mod partition;
mod regular;
mod stream;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidegate_engine::bus::{
    BusError, BusEvent, Delivery, EventBus, OffsetUnit, ReceiveLimit, Start,
};
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::position::{Incarnation, Offset, SourceName};
use tokio::sync::Notify;

use self::partition::{Input, Partition, Stage};

/// Files that are read side by side; the others wait for one of them to end. Bounds handles and buffers.
pub const OPEN_FILES_MAX: usize = 64;

/// The incarnation of an input without any record.
pub const EMPTY: &str = "empty";

/// One input of a file bus.
pub enum FileInput {
    /// A file. A pipe or device of that path is read once, like standard input.
    Path(PathBuf),
    /// This process's standard input.
    StandardInput,
    /// Anything else that can be read once, with the name that errors and the progress call it.
    Stream {
        /// Its name, for people.
        name: String,
        /// Its bytes.
        input: Box<dyn Read + Send>,
    },
}

/// How far an input is: what a progress bar shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileProgress {
    /// Its source partition.
    pub partition: u32,
    /// The path as it was given, or the stream's name.
    pub name: String,
    /// Bytes handed out as deliveries, counted from the beginning of the input.
    pub received_bytes: u64,
    /// Bytes below the acknowledged low watermark.
    pub acknowledged_bytes: u64,
    /// Bytes in all; `None` while a stream has not ended.
    pub total_bytes: Option<u64>,
}

/// Files, or standard input, as a source of deliveries.
pub struct FileBus {
    source: SourceName,
    partitions: Vec<Partition>,
    /// Told when something changed that a waiting receive may want to see.
    news: Arc<Notify>,
    /// Whose turn it is: partitions are read in turns, so that none starves.
    turn: AtomicUsize,
}

/// What one input had.
#[derive(Default)]
struct Batch {
    deliveries: Vec<Delivery>,
    /// Behind the last record handed out.
    end: Offset,
    /// There are no more.
    ended: bool,
}

impl FileBus {
    /// Opens the inputs: refuses what is missing, a directory or not readable before anything is read.
    pub async fn open(source: SourceName, inputs: Vec<FileInput>) -> Result<Self, BusError> {
        let news = Arc::new(Notify::new());
        let for_streams = Arc::clone(&news);
        let partitions = blocking(move || {
            inputs
                .into_iter()
                .enumerate()
                .map(|(number, input)| Partition::open(number, input, &for_streams))
                .collect::<Result<Vec<_>, String>>()
        })
        .await
        .and_then(|partitions| partitions)
        .map_err(|detail| BusError::Unreadable {
            source_name: source.clone(),
            detail,
        })?;
        Ok(Self {
            source,
            partitions,
            news,
            turn: AtomicUsize::new(0),
        })
    }

    /// How far each input is, in order of source partition.
    pub fn progress(&self) -> Vec<FileProgress> {
        self.partitions.iter().map(Partition::progress).collect()
    }

    fn partition(&self, number: u32) -> Result<&Partition, BusError> {
        usize::try_from(number)
            .ok()
            .and_then(|index| self.partitions.get(index))
            .filter(|partition| partition.stage() != Stage::Released)
            .ok_or_else(|| BusError::NotAssigned {
                source_name: self.source.clone(),
                partition: number,
            })
    }

    fn unreadable(&self, detail: String) -> BusError {
        BusError::Unreadable {
            source_name: self.source.clone(),
            detail,
        }
    }

    /// Announces the partitions that have become known: all at once, behind the last wait, so that a
    /// receive that is dropped has announced none.
    async fn announce(&self) -> Result<Vec<BusEvent>, String> {
        let mut known = Vec::new();
        for partition in &self.partitions {
            if partition.stage() == Stage::New
                && let Some(incarnation) = partition.incarnation().await?
            {
                known.push((partition, incarnation));
            }
        }
        let announced = known.into_iter().map(|(partition, incarnation)| {
            partition.set_stage(Stage::Waiting);
            BusEvent::Assigned {
                partition: partition.number,
                incarnation,
            }
        });
        Ok(announced.collect())
    }

    /// Asks the partitions that deliver, beginning with the one whose turn it is, until one has something.
    async fn next_events(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, String> {
        let mut files = 0;
        let reading: Vec<&Partition> = self
            .partitions
            .iter()
            .filter(|partition| partition.stage() == Stage::Reading)
            .filter(|partition| match partition.input {
                Input::Stream(_) => true,
                Input::File { .. } => {
                    files += 1;
                    files <= OPEN_FILES_MAX
                }
            })
            .collect();
        for _ in 0..reading.len() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % reading.len();
            if let Some(partition) = reading.get(turn) {
                let events = partition.next_events(limit).await?;
                if !events.is_empty() {
                    return Ok(events);
                }
            }
        }
        Ok(Vec::new())
    }
}

#[async_trait::async_trait]
impl EventBus for FileBus {
    fn source(&self) -> &SourceName {
        &self.source
    }

    async fn receive(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, BusError> {
        loop {
            // Registered before the look, so that what comes in between is not missed.
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let mut events = self.announce().await.map_err(|e| self.unreadable(e))?;
            if events.is_empty() {
                events = self
                    .next_events(limit)
                    .await
                    .map_err(|e| self.unreadable(e))?;
            }
            if !events.is_empty() {
                return Ok(events);
            }
            news.await;
        }
    }

    async fn start_offset(&self, partition: u32, start: Start) -> Result<Offset, BusError> {
        let partition = self.partition(partition)?;
        match (start, &partition.input) {
            (Start::Earliest, _) => Ok(Offset(0)),
            (Start::Latest, Input::File { file, .. }) => {
                let file = Arc::clone(file).lock_owned().await;
                let length = flatten(blocking(move || file.length()).await);
                length.map(Offset).map_err(|e| self.unreadable(e))
            }
            (Start::Latest, Input::Stream(_)) => Err(self.unreadable(format!(
                "`{}` can be read only from its beginning: start with `earliest`",
                partition.name
            ))),
            (Start::Time(_) | Start::OffsetsOfGroup, _) => Err(self.unreadable(format!(
                "the lines of `{}` have no time of their own, and no group: start with `earliest` or `latest`",
                partition.name
            ))),
        }
    }

    async fn fingerprint_at(
        &self,
        partition: u32,
        offset: Offset,
    ) -> Result<Option<Hash128>, BusError> {
        let found = match &self.partition(partition)?.input {
            Input::File { file, .. } => {
                let file = Arc::clone(file).lock_owned().await;
                flatten(blocking(move || file.fingerprint_at(offset)).await)
            }
            Input::Stream(stream) => stream.lock().await.fingerprint_at(offset).await,
        };
        found.map_err(|e| self.unreadable(e))
    }

    async fn seek(&self, partition: u32, offset: Offset) -> Result<(), BusError> {
        self.partition(partition)?
            .seek(offset)
            .await
            .map_err(|e| self.unreadable(e))?;
        self.news.notify_waiters();
        Ok(())
    }

    async fn acknowledge(&self, partition: u32, low_watermark: Offset) -> Result<(), BusError> {
        let partition = self.partition(partition)?;
        partition
            .acknowledged
            .fetch_max(low_watermark.0, Ordering::Relaxed);
        if let Input::Stream(stream) = &partition.input {
            stream.lock().await.acknowledge(low_watermark);
        }
        Ok(())
    }

    async fn release(&self, partition: u32) -> Result<(), BusError> {
        let partition = self.partition(partition)?;
        partition.set_stage(Stage::Released);
        match &partition.input {
            Input::File { file, .. } => file.lock().await.close(),
            Input::Stream(stream) => stream.lock().await.close(),
        }
        Ok(())
    }

    /// A file is assigned for as long as it was not given back: there is nobody else to ask.
    async fn still_assigned(&self, partition: u32) -> Result<bool, BusError> {
        Ok(self.partition(partition).is_ok())
    }

    fn offset_unit(&self) -> OffsetUnit {
        OffsetUnit::Bytes
    }

    async fn end_offset(&self, partition: u32) -> Result<Option<Offset>, BusError> {
        let partition = self.partition(partition)?;
        match &partition.input {
            Input::File { file, .. } => {
                let file = Arc::clone(file).lock_owned().await;
                let length = flatten(blocking(move || file.length()).await);
                length
                    .map(|length| Some(Offset(length)))
                    .map_err(|e| self.unreadable(e))
            }
            Input::Stream(_) => Ok(partition.progress().total_bytes.map(Offset)),
        }
    }
}

/// The incarnation of an input with that first record.
fn incarnation_of(first: Option<&Delivery>) -> Incarnation {
    let text = match first {
        Some(record) => format!("begins-{}", hash_bytes(&record.payload)),
        None => EMPTY.to_owned(),
    };
    valid_incarnation(&text)
}

/// Both forms above are short ASCII, which every incarnation may be.
#[allow(clippy::expect_used)]
fn valid_incarnation(text: &str) -> Incarnation {
    Incarnation::new(text).expect("an incarnation is any short text")
}

/// Runs file access off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| format!("reading stopped: {error}"))
}

fn flatten<T>(result: Result<Result<T, String>, String>) -> Result<T, String> {
    result.and_then(|inner| inner)
}
