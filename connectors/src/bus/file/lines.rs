//! Cuts a byte stream into the records of an NDJSON file. Owns the buffer and the rules of a line (line
//! end, blank, too long, last); never knows where the bytes come from or what is in them.

use std::io::{self, BufRead as _, Read};

use bytes::Bytes;
use tidegate_engine::bus::Delivery;
use tidegate_engine::headers::Headers;
use tidegate_engine::limits::DELIVERY_BYTES_MAX;
use tidegate_engine::position::Offset;

/// Bytes asked of the input at once, and the usual size of a reader's buffer. Measured with a cached file of
/// 300-byte lines: 130 to 160 ns a line by 8 KiB, 105 to 120 from 64 KiB on, whatever the size. Four times
/// that, because a stream hands over what is whole in its buffer; each file that is read keeps one.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// Payload bytes kept of a line that is too long: one more than is accepted, so that the engine sees
/// that it is, refuses it as unreadable, and keeps the beginning for a person to look at.
const CUT_BYTES: usize = DELIVERY_BYTES_MAX + 1;

/// Unread bytes beyond which a line without an end in sight is too long: the cut, and a carriage return.
const LINE_BYTES_MAX: usize = CUT_BYTES + 1;

/// Reads records one by one, each with its byte offset.
///
/// A record's payload is a copy of its own, never a slice of the buffer: one unsettled record of 300
/// bytes would otherwise pin a whole buffer that no permit counts.
pub(super) struct LineReader<R> {
    input: R,
    buffer: Vec<u8>,
    /// Where the unread bytes begin in `buffer`.
    start: usize,
    /// Where they end.
    filled: usize,
    /// The offset in the input of the first unread byte.
    offset: u64,
    ended: bool,
}

impl<R: Read> LineReader<R> {
    /// A reader of `input`, whose next byte stands at `offset`.
    pub(super) fn new(input: R, offset: u64) -> Self {
        Self {
            input,
            buffer: Vec::new(),
            start: 0,
            filled: 0,
            offset,
            ended: false,
        }
    }

    /// The offset of the first byte that is not read yet.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; `None` at the end of the input. Blank lines are no records. A last line
    /// without a newline is one.
    pub(super) fn next_record(&mut self) -> io::Result<Option<Delivery>> {
        let mut scanned = 0;
        loop {
            if let Some(at) = find_newline(self.unread(), scanned) {
                match self.take_line(at, at + 1) {
                    Some(record) => return Ok(Some(record)),
                    None => scanned = 0,
                }
                continue;
            }
            scanned = self.unread().len();
            if scanned > LINE_BYTES_MAX {
                return self.take_cut_line().map(Some);
            }
            if !self.fill()? {
                return Ok(self.take_line(scanned, scanned));
            }
        }
    }

    /// The next record that is whole in the buffer, without asking the input for more.
    pub(super) fn next_buffered(&mut self) -> Option<Delivery> {
        while let Some(at) = find_newline(self.unread(), 0) {
            if let Some(record) = self.take_line(at, at + 1) {
                return Some(record);
            }
        }
        None
    }

    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.filled).unwrap_or_default()
    }

    /// Takes `consumed` bytes as one line of `length`; `None` when it is blank.
    fn take_line(&mut self, length: usize, consumed: usize) -> Option<Delivery> {
        let line = self.unread().get(..length).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let payload = (!line.trim_ascii().is_empty())
            .then(|| Bytes::copy_from_slice(line.get(..CUT_BYTES).unwrap_or(line)));
        let offset = Offset(self.offset);
        self.start += consumed;
        self.offset += consumed as u64;
        Some(Delivery {
            offset,
            next: Offset(self.offset),
            payload: payload?,
            headers: Headers::NONE,
            recorded_at: None,
        })
    }

    /// Takes the line that is too long: keeps its beginning and reads over the rest.
    fn take_cut_line(&mut self) -> io::Result<Delivery> {
        let offset = Offset(self.offset);
        let kept = self.unread().get(..CUT_BYTES).unwrap_or_default();
        let payload = Bytes::copy_from_slice(kept);
        loop {
            let found = find_newline(self.unread(), 0);
            let consumed = found.map_or(self.unread().len(), |at| at + 1);
            self.start += consumed;
            self.offset += consumed as u64;
            if found.is_some() || !self.fill()? {
                return Ok(Delivery {
                    offset,
                    next: Offset(self.offset),
                    payload,
                    headers: Headers::NONE,
                    recorded_at: None,
                });
            }
        }
    }

    /// Reads once more from the input; false at its end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let unread = self.filled - self.start;
        self.buffer.copy_within(self.start..self.filled, 0);
        self.start = 0;
        self.filled = unread;
        // Room for the longest line beside one chunk, and back to one chunk when it has passed.
        let wanted = if unread < CHUNK_BYTES / 2 {
            CHUNK_BYTES
        } else {
            LINE_BYTES_MAX + CHUNK_BYTES
        };
        if self.buffer.len() != wanted {
            self.buffer.resize(wanted, 0);
            self.buffer.shrink_to(wanted);
        }
        let free = self.buffer.get_mut(unread..).unwrap_or_default();
        let read = loop {
            match self.input.read(free) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.filled += read;
        self.ended = read == 0;
        Ok(read > 0)
    }
}

/// Where the first newline is at or behind `from`. `skip_until` is the standard library's own fast search.
fn find_newline(bytes: &[u8], from: usize) -> Option<usize> {
    let searched = bytes.get(from..).unwrap_or_default();
    let mut rest = searched;
    let passed = rest.skip_until(b'\n').ok()?;
    let at = passed.checked_sub(1)?;
    (searched.get(at) == Some(&b'\n')).then_some(from + at)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{CHUNK_BYTES, CUT_BYTES, LineReader};
    use tidegate_engine::limits::DELIVERY_BYTES_MAX;

    /// Gives at most `step` bytes a read, as a pipe may.
    struct Dripping<'b> {
        bytes: &'b [u8],
        step: usize,
    }

    impl Read for Dripping<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let count = self.step.min(self.bytes.len()).min(out.len());
            out[..count].copy_from_slice(&self.bytes[..count]);
            self.bytes = &self.bytes[count..];
            Ok(count)
        }
    }

    fn records(bytes: &[u8], step: usize) -> Vec<(u64, u64, Vec<u8>)> {
        let mut reader = LineReader::new(Dripping { bytes, step }, 0);
        let mut found = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            found.push((record.offset.0, record.next.0, record.payload.to_vec()));
        }
        assert_eq!(reader.offset(), bytes.len() as u64);
        found
    }

    fn check(input: &str, expected: &[(u64, u64, &str)]) {
        let expected: Vec<_> = expected
            .iter()
            .map(|(offset, next, text)| (*offset, *next, text.as_bytes().to_vec()))
            .collect();
        for step in [1, 2, 3, 7, CHUNK_BYTES] {
            assert_eq!(
                records(input.as_bytes(), step),
                expected,
                "{input:?} by {step}"
            );
        }
    }

    #[test]
    fn a_line_is_a_record_and_knows_its_bytes() {
        check("", &[]);
        check("\n", &[]);
        check("a\n", &[(0, 2, "a")]);
        check("a\nbc\n", &[(0, 2, "a"), (2, 5, "bc")]);
    }

    #[test]
    fn the_last_line_needs_no_newline() {
        check("a", &[(0, 1, "a")]);
        check("a\nb", &[(0, 2, "a"), (2, 3, "b")]);
        check("a\nb\r", &[(0, 2, "a"), (2, 4, "b")]);
    }

    #[test]
    fn carriage_returns_are_no_part_of_a_record() {
        check("a\r\nb\r\n", &[(0, 3, "a"), (3, 6, "b")]);
        check("a\rb\r\n", &[(0, 5, "a\rb")]);
    }

    #[test]
    fn blank_lines_are_no_records() {
        check("\n\r\n  \t\na\n\n\n", &[(7, 9, "a")]);
        check("a\n   ", &[(0, 2, "a")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_one_is_whole() {
        for excess in [0, 1, 2, 3, 100, 5 * CHUNK_BYTES] {
            for line_end in ["\n", "\r\n", ""] {
                let long = "x".repeat(DELIVERY_BYTES_MAX + excess);
                let mut input = format!("a\n{long}{line_end}");
                let next = input.len() as u64;
                if !line_end.is_empty() {
                    input.push_str("b\n");
                }
                for step in [CHUNK_BYTES / 3, CHUNK_BYTES, usize::MAX] {
                    let found = records(input.as_bytes(), step);
                    assert_eq!(found[1].0, 2);
                    assert_eq!(found[1].1, next, "{excess} {line_end:?} by {step}");
                    assert_eq!(
                        found[1].2.len(),
                        (DELIVERY_BYTES_MAX + excess).min(CUT_BYTES)
                    );
                    if !line_end.is_empty() {
                        assert_eq!(found[2], (next, next + 2, b"b".to_vec()));
                    }
                }
            }
        }
    }

    #[test]
    fn the_buffer_stays_small_whatever_the_line() {
        let mut input = vec![b'x'; 40 * 1024 * 1024];
        input.extend_from_slice(b"\n{}\n");
        let mut reader = LineReader::new(input.as_slice(), 0);
        let mut largest = 0;
        while reader.next_record().unwrap().is_some() {
            largest = largest.max(reader.buffer.capacity());
        }
        assert!(
            largest <= DELIVERY_BYTES_MAX + 2 * CHUNK_BYTES,
            "{largest} bytes"
        );
    }

    #[test]
    fn only_whole_lines_count_as_buffered() {
        let mut reader = LineReader::new("a\n\nb\nc".as_bytes(), 10);
        assert!(reader.next_buffered().is_none());
        assert_eq!(reader.next_record().unwrap().unwrap().offset.0, 10);
        assert_eq!(reader.next_buffered().unwrap().offset.0, 13);
        assert!(reader.next_buffered().is_none());
        assert_eq!(reader.next_record().unwrap().unwrap().next.0, 16);
    }
}
