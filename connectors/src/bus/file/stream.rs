//! One input that can be read only once: standard input or a pipe. Owns the thread that reads it and the
//! records that are not acknowledged yet, so that a new claim in this process can go back to them; a
//! later process is given the same bytes again and skips what its checkpoint has.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;

use tidegate_engine::bus::{Delivery, ReceiveLimit};
use tidegate_engine::checkpoint::Fingerprint;
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::position::{Incarnation, Offset};
use tokio::sync::{Notify, mpsc};

use super::lines::{CHUNK_BYTES, LineReader};
use super::{Batch, incarnation_of};

/// Blocks of records that wait between the thread and the bus: one to hand out, one being read.
const BLOCKS_MAX: usize = 2;

/// Bytes that are handed out and not acknowledged: then nothing more is, until the oldest of them settles.
/// A stream cannot be read again, so that they have to be kept.
const UNACKNOWLEDGED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What a kept record costs beside its payload.
const RECORD_BYTES: usize = 64;

/// What the reading thread says.
enum Block {
    Records(Vec<Delivery>),
    Ended,
    Failed(String),
}

/// An input that is read once, front to back.
pub(super) struct StreamInput {
    name: String,
    blocks: mpsc::Receiver<Block>,
    /// Read and not handed out.
    pending: VecDeque<Delivery>,
    /// Handed out and not acknowledged: what a new claim may ask for again.
    unacknowledged: VecDeque<Delivery>,
    /// Bytes of their payloads.
    unacknowledged_bytes: usize,
    /// The last record that is acknowledged or was skipped.
    settled: Option<Fingerprint>,
    /// The lowest offset that can still be sought to.
    oldest: Offset,
    /// Behind the last record handed out, or where it was sought to.
    end: Offset,
    state: State,
}

enum State {
    Open,
    Ended,
    Failed(String),
}

impl StreamInput {
    /// Starts to read `input`; `news` is told whenever there is something.
    ///
    /// A thread of its own, not one of the runtime's: a read from a terminal cannot be interrupted, and
    /// would keep the runtime from shutting down.
    pub(super) fn start(
        name: String,
        input: Box<dyn Read + Send>,
        news: Arc<Notify>,
    ) -> io::Result<Self> {
        let (sender, blocks) = mpsc::channel(BLOCKS_MAX);
        std::thread::Builder::new()
            .name("tidegate-input".to_owned())
            .spawn(move || read_blocks(LineReader::new(input, 0), &sender, &news))?;
        Ok(Self {
            name,
            blocks,
            pending: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            settled: None,
            oldest: Offset(0),
            end: Offset(0),
            state: State::Open,
        })
    }

    /// The incarnation that the first record gives, once it or the end of the input is there.
    pub(super) fn incarnation(&mut self) -> Result<Option<Incarnation>, String> {
        self.take_block()?;
        let known = !self.pending.is_empty() || matches!(self.state, State::Ended);
        Ok(known.then(|| incarnation_of(self.pending.front())))
    }

    /// The next records, if any are there.
    pub(super) fn next_batch(&mut self, limit: ReceiveLimit) -> Result<Option<Batch>, String> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.deliveries.len() < limit.events_max.max(1) {
            if self.pending.is_empty() {
                self.take_block()?;
            }
            let Some(record) = self.pending.front() else {
                batch.ended = matches!(self.state, State::Ended);
                break;
            };
            bytes += record.payload.len();
            if bytes > limit.bytes_max && !batch.deliveries.is_empty() {
                break;
            }
            // One record that does not settle would have all behind it kept.
            if self.unacknowledged_bytes >= UNACKNOWLEDGED_BYTES_MAX {
                break;
            }
            self.end = record.next;
            self.unacknowledged_bytes += record.payload.len() + RECORD_BYTES;
            self.unacknowledged.push_back(record.clone());
            batch.deliveries.extend(self.pending.pop_front());
        }
        batch.end = self.end;
        Ok((batch.ended || !batch.deliveries.is_empty()).then_some(batch))
    }

    /// The next records come from `offset` on: back among what is not acknowledged, or forward by
    /// reading over what is in between.
    pub(super) async fn seek(&mut self, offset: Offset) -> Result<(), String> {
        if offset < self.oldest {
            return Err(format!(
                "`{}` can be read only once and stands beyond byte {offset} already: start again with \
                 the same input",
                self.name
            ));
        }
        while let Some(record) = self.unacknowledged.pop_back() {
            self.pending.push_front(record);
        }
        self.unacknowledged_bytes = 0;
        self.skip_to(offset, false).await?;
        if self.pending.is_empty() && self.oldest < offset {
            return Err(format!(
                "`{}` ended at byte {}, but its checkpoint stands at byte {offset}: it is another \
                 input, or a part of it; give it the same one, or another source name",
                self.name, self.oldest
            ));
        }
        self.oldest = offset;
        self.end = offset;
        Ok(())
    }

    /// The hash of the record at exactly `offset`. Asked for what is not read yet, it reads over all
    /// that is in between: a claim asks for the last settled record, and never goes back behind it.
    pub(super) async fn fingerprint_at(
        &mut self,
        offset: Offset,
    ) -> Result<Option<Hash128>, String> {
        if let Some(settled) = self.settled.filter(|settled| settled.offset == offset) {
            return Ok(Some(settled.hash));
        }
        let held = self.unacknowledged.iter().chain(&self.pending);
        if let Some(record) = held.clone().find(|record| record.offset == offset) {
            return Ok(Some(hash_bytes(&record.payload)));
        }
        let last = self.unacknowledged.back().or(self.pending.back());
        let read_to = last.map_or(self.oldest, |record| record.next);
        if offset < read_to {
            return Ok(None);
        }
        self.skip_to(offset, true).await?;
        let found = self.pending.front();
        Ok(found
            .filter(|record| record.offset == offset)
            .map(|record| hash_bytes(&record.payload)))
    }

    /// Lets go of the records below the low watermark.
    pub(super) fn acknowledge(&mut self, low_watermark: Offset) {
        while let Some(record) = self
            .unacknowledged
            .pop_front_if(|record| record.next <= low_watermark)
        {
            self.unacknowledged_bytes -= record.payload.len() + RECORD_BYTES;
            self.pass(&record);
        }
    }

    /// Forgets what was read.
    pub(super) fn close(&mut self) {
        self.blocks.close();
        self.pending.clear();
        self.unacknowledged.clear();
        self.unacknowledged_bytes = 0;
    }

    /// Drops pending records until the first is at or behind `offset`, or the input ends. Waits for that
    /// first one to arrive only if `it_is_wanted`.
    async fn skip_to(&mut self, offset: Offset, it_is_wanted: bool) -> Result<(), String> {
        loop {
            while let Some(record) = self.pending.pop_front_if(|record| record.offset < offset) {
                self.pass(&record);
            }
            if !self.pending.is_empty() || (self.oldest >= offset && !it_is_wanted) {
                return Ok(());
            }
            match &self.state {
                State::Ended => return Ok(()),
                State::Failed(detail) => return Err(detail.clone()),
                State::Open => {
                    let block = self.blocks.recv().await;
                    self.put(block);
                }
            }
        }
    }

    fn pass(&mut self, record: &Delivery) {
        self.settled = Some(Fingerprint {
            offset: record.offset,
            hash: hash_bytes(&record.payload),
        });
        self.oldest = record.next;
    }

    /// Takes one block from the thread, if one is there.
    fn take_block(&mut self) -> Result<(), String> {
        if matches!(self.state, State::Open) && self.pending.is_empty() {
            match self.blocks.try_recv() {
                Ok(block) => self.put(Some(block)),
                Err(mpsc::error::TryRecvError::Empty) => {}
                Err(mpsc::error::TryRecvError::Disconnected) => self.put(None),
            }
        }
        match &self.state {
            State::Failed(detail) if self.pending.is_empty() => Err(detail.clone()),
            _ => Ok(()),
        }
    }

    fn put(&mut self, block: Option<Block>) {
        match block {
            Some(Block::Records(records)) => self.pending.extend(records),
            Some(Block::Ended) => self.state = State::Ended,
            Some(Block::Failed(detail)) => {
                self.state = State::Failed(format!("`{}`: {detail}", self.name));
            }
            None => {
                self.state = State::Failed(format!("`{}` is not read any more", self.name));
            }
        }
    }
}

/// The thread: reads until the input ends, fails, or nobody wants it any more.
fn read_blocks<R: Read>(mut reader: LineReader<R>, sender: &mpsc::Sender<Block>, news: &Notify) {
    loop {
        let block = match reader.next_record() {
            Err(error) => Block::Failed(error.to_string()),
            Ok(None) => Block::Ended,
            Ok(Some(first)) => Block::Records(whole_lines(&mut reader, first)),
        };
        let more = matches!(block, Block::Records(_));
        if sender.blocking_send(block).is_err() {
            return;
        }
        news.notify_waiters();
        if !more {
            return;
        }
    }
}

/// The records that are in the buffer anyway: a slow writer's line is not kept waiting for the next one.
fn whole_lines<R: Read>(reader: &mut LineReader<R>, first: Delivery) -> Vec<Delivery> {
    let mut bytes = first.payload.len();
    let mut records = vec![first];
    while bytes < CHUNK_BYTES
        && let Some(record) = reader.next_buffered()
    {
        bytes += record.payload.len();
        records.push(record);
    }
    records
}
