//! One source partition: its input, how far it is, and whether it delivers. Owns the stages; reading itself
//! stands in `regular` and `stream`.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_engine::bus::{BusEvent, ReceiveLimit};
use tidegate_engine::position::{Incarnation, Offset};
use tokio::sync::{Mutex, Notify};

use super::regular::{self, RegularFile};
use super::stream::StreamInput;
use super::{Batch, FileInput, FileProgress, blocking, flatten};

pub(super) struct Partition {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) input: Input,
    /// Set by seek, cleared at the end: what receive reads from.
    stage: std::sync::Mutex<Stage>,
    received: AtomicU64,
    pub(super) acknowledged: AtomicU64,
    /// [`UNKNOWN`] while a stream has not ended.
    total: AtomicU64,
}

/// The mutexes are asynchronous since they are held while a file is read; the guard goes with the blocking
/// call, so that a receive that is dropped midway leaves the input whole.
pub(super) enum Input {
    File {
        file: Arc<Mutex<RegularFile>>,
        incarnation: Incarnation,
    },
    Stream(Box<Mutex<StreamInput>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not announced yet.
    New,
    /// Announced, or at its end: nothing is delivered before a seek.
    Waiting,
    /// Delivers.
    Reading,
    /// Given back.
    Released,
}

/// No total: larger than any file.
const UNKNOWN: u64 = u64::MAX;

impl Partition {
    pub(super) fn open(index: usize, input: FileInput, news: &Arc<Notify>) -> Result<Self, String> {
        let number = u32::try_from(index).map_err(|_| "too many files".to_owned())?;
        let (name, input, total) = match input {
            FileInput::Path(path) => {
                let name = path.display().to_string();
                let kind = std::fs::metadata(&path).map_err(|e| regular::sentence(&path, &e))?;
                if kind.is_file() || kind.is_dir() {
                    let (length, incarnation) = RegularFile::inspect(&path)?;
                    let file = Arc::new(Mutex::new(RegularFile::new(path)));
                    (name, Input::File { file, incarnation }, length)
                } else {
                    let opened =
                        std::fs::File::open(&path).map_err(|e| regular::sentence(&path, &e))?;
                    let stream = start_stream(&name, Box::new(opened), news)?;
                    (name, stream, UNKNOWN)
                }
            }
            FileInput::StandardInput => {
                let name = "standard input".to_owned();
                let stream = start_stream(&name, Box::new(std::io::stdin()), news)?;
                (name, stream, UNKNOWN)
            }
            FileInput::Stream { name, input } => {
                let stream = start_stream(&name, input, news)?;
                (name, stream, UNKNOWN)
            }
        };
        Ok(Self {
            number,
            name,
            input,
            stage: std::sync::Mutex::new(Stage::New),
            received: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            total: AtomicU64::new(total),
        })
    }

    pub(super) fn stage(&self) -> Stage {
        *self
            .stage
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        *self
            .stage
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = stage;
    }

    pub(super) async fn incarnation(&self) -> Result<Option<Incarnation>, String> {
        match &self.input {
            Input::File { incarnation, .. } => Ok(Some(incarnation.clone())),
            Input::Stream(stream) => stream.lock().await.incarnation(),
        }
    }

    /// The next news of this partition. The stage changes while the input is locked, so that a seek at
    /// the same time comes wholly before or wholly after.
    pub(super) async fn next_events(&self, limit: ReceiveLimit) -> Result<Vec<BusEvent>, String> {
        match &self.input {
            Input::File { file, .. } => {
                let mut file = Arc::clone(file).lock_owned().await;
                let read = blocking(move || file.fill_ready(limit).map(|()| file)).await;
                let mut file = flatten(read)?;
                Ok(self.events_of(file.ready.take()))
            }
            Input::Stream(stream) => {
                let mut stream = stream.lock().await;
                let batch = stream.next_batch(limit)?;
                Ok(self.events_of(batch))
            }
        }
    }

    fn events_of(&self, batch: Option<Batch>) -> Vec<BusEvent> {
        let Some(batch) = batch.filter(|_| self.stage() == Stage::Reading) else {
            return Vec::new();
        };
        self.received.store(batch.end.0, Ordering::Relaxed);
        let mut events = Vec::with_capacity(2);
        if !batch.deliveries.is_empty() {
            events.push(BusEvent::Delivered {
                partition: self.number,
                deliveries: batch.deliveries,
            });
        }
        if batch.ended {
            self.set_stage(Stage::Waiting);
            self.total.store(batch.end.0, Ordering::Relaxed);
            events.push(BusEvent::Ended {
                partition: self.number,
                end: batch.end,
            });
        }
        events
    }

    pub(super) async fn seek(&self, offset: Offset) -> Result<(), String> {
        match &self.input {
            Input::File { file, .. } => {
                let mut file = Arc::clone(file).lock_owned().await;
                let sought = blocking(move || file.seek(offset).map(|()| file)).await;
                let _held = flatten(sought)?;
                self.set_stage(Stage::Reading);
            }
            Input::Stream(stream) => {
                let mut stream = stream.lock().await;
                stream.seek(offset).await?;
                self.set_stage(Stage::Reading);
            }
        }
        self.received.store(offset.0, Ordering::Relaxed);
        self.acknowledged.fetch_max(offset.0, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn progress(&self) -> FileProgress {
        let total = self.total.load(Ordering::Relaxed);
        FileProgress {
            partition: self.number,
            name: self.name.clone(),
            received_bytes: self.received.load(Ordering::Relaxed),
            acknowledged_bytes: self.acknowledged.load(Ordering::Relaxed),
            total_bytes: (total != UNKNOWN).then_some(total),
        }
    }
}

fn start_stream(
    name: &str,
    input: Box<dyn Read + Send>,
    news: &Arc<Notify>,
) -> Result<Input, String> {
    let stream = StreamInput::start(name.to_owned(), input, Arc::clone(news))
        .map_err(|error| format!("`{name}`: no thread to read it: {error}"))?;
    Ok(Input::Stream(Box::new(Mutex::new(stream))))
}
