//! One regular file: it can be read again from any offset. Owns its open handle and its place; every
//! function here blocks and runs off the async threads.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use tidegate_engine::bus::{Delivery, ReceiveLimit};
use tidegate_engine::hash::{Hash128, hash_bytes};
use tidegate_engine::position::{Incarnation, Offset};

use super::lines::LineReader;
use super::{Batch, incarnation_of};

/// A file that is read from where it was last sought to.
pub(super) struct RegularFile {
    path: PathBuf,
    reader: Option<LineReader<File>>,
    /// Behind the last record made ready, or where it was sought to: where a new reader begins.
    end: Offset,
    /// Read, but beyond the byte limit of the batch it was read for: the first of the next.
    held_back: Option<Delivery>,
    /// Read and not handed out: a receive that was dropped midway loses nothing.
    pub(super) ready: Option<Batch>,
}

impl RegularFile {
    /// Looks at a file: is it there, is it a file, may we read it? Returns its length and the
    /// incarnation that its first record gives it.
    pub(super) fn inspect(path: &Path) -> Result<(u64, Incarnation), String> {
        let length = length_of(path)?;
        let first = open_at(path, 0)?
            .next_record()
            .map_err(|error| sentence(path, &error))?;
        Ok((length, incarnation_of(first.as_ref())))
    }

    /// A file of which nothing has been asked yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            reader: None,
            end: Offset(0),
            held_back: None,
            ready: None,
        }
    }

    /// The next records come from `offset` on.
    pub(super) fn seek(&mut self, offset: Offset) -> Result<(), String> {
        let length = length_of(&self.path)?;
        if offset.0 > length {
            return Err(format!(
                "`{}` has {length} bytes, but its checkpoint stands at byte {offset}: it was truncated \
                 or replaced; restore it, or read the new file under another source name",
                self.path.display()
            ));
        }
        self.close();
        self.end = offset;
        Ok(())
    }

    /// Reads the next records into `ready`, unless some are there still.
    pub(super) fn fill_ready(&mut self, limit: ReceiveLimit) -> Result<(), String> {
        if self.ready.is_some() {
            return Ok(());
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => open_at(&self.path, self.end.0)?,
        };
        let (events_max, bytes_max) = (limit.events_max.max(1), limit.bytes_max.max(1));
        let mut batch = Batch::default();
        let mut bytes = self
            .held_back
            .as_ref()
            .map_or(0, |record| record.payload.len());
        batch.deliveries.extend(self.held_back.take());
        while batch.deliveries.len() < events_max && bytes < bytes_max {
            match reader.next_record() {
                Err(error) => return Err(sentence(&self.path, &error)),
                Ok(None) => {
                    self.check_not_shrunk(reader.offset())?;
                    batch.ended = true;
                    break;
                }
                Ok(Some(record)) => {
                    bytes += record.payload.len();
                    if bytes > bytes_max && !batch.deliveries.is_empty() {
                        self.held_back = Some(record);
                        break;
                    }
                    batch.deliveries.push(record);
                }
            }
        }
        if let Some(last) = batch.deliveries.last() {
            self.end = last.next;
        }
        batch.end = self.end;
        // At the end the handle and the buffer go; were the file sought again, it is opened again.
        self.reader = (!batch.ended).then_some(reader);
        self.ready = Some(batch);
        Ok(())
    }

    /// The hash of the record at exactly `offset`: a record begins where a line does.
    pub(super) fn fingerprint_at(&self, offset: Offset) -> Result<Option<Hash128>, String> {
        if offset.0 >= length_of(&self.path)? || !self.line_begins_at(offset.0)? {
            return Ok(None);
        }
        let record = open_at(&self.path, offset.0)?
            .next_record()
            .map_err(|error| sentence(&self.path, &error))?;
        Ok(record
            .filter(|record| record.offset == offset)
            .map(|record| hash_bytes(&record.payload)))
    }

    fn line_begins_at(&self, offset: u64) -> Result<bool, String> {
        let Some(before) = offset.checked_sub(1) else {
            return Ok(true);
        };
        let mut byte = [0];
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(before))?;
            file.read(&mut byte)
        });
        read.map_err(|error| sentence(&self.path, &error))?;
        Ok(byte == *b"\n")
    }

    /// The file's length now.
    pub(super) fn length(&self) -> Result<u64, String> {
        length_of(&self.path)
    }

    /// Closes the file and forgets what is ready.
    pub(super) fn close(&mut self) {
        self.reader = None;
        self.held_back = None;
        self.ready = None;
    }

    fn check_not_shrunk(&self, read_to: u64) -> Result<(), String> {
        let length = length_of(&self.path)?;
        if length < read_to {
            return Err(format!(
                "`{}` shrank to {length} bytes after {read_to} bytes of it were read: it was truncated \
                 or replaced while it was being read",
                self.path.display()
            ));
        }
        Ok(())
    }
}

fn length_of(path: &Path) -> Result<u64, String> {
    let metadata = std::fs::metadata(path).map_err(|error| sentence(path, &error))?;
    if metadata.is_dir() {
        return Err(format!(
            "`{}` is a directory, expected a file of one JSON event a line",
            path.display()
        ));
    }
    Ok(metadata.len())
}

fn open_at(path: &Path, offset: u64) -> Result<LineReader<File>, String> {
    let mut file = File::open(path).map_err(|error| sentence(path, &error))?;
    file.seek(SeekFrom::Start(offset))
        .map_err(|error| sentence(path, &error))?;
    Ok(LineReader::new(file, offset))
}

/// An I/O error with the file it concerns and, for the usual ones, what to do.
pub(super) fn sentence(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => format!("`{shown}` does not exist"),
        io::ErrorKind::PermissionDenied => {
            format!("`{shown}` may not be read by this user: check its permissions")
        }
        _ => format!("`{shown}`: {error}"),
    }
}
