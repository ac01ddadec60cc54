//! The one place for binary encoding, for internal bytes only: nothing that people or other programs
//! read. Each value carries a format byte and a checksum, and has a size limit. `bincode` 2.0.1 is
//! unmaintained (RUSTSEC-2025-0141); the ADR on it names the successor, and only this file would change.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::hash::hash_bytes_64;

/// The first byte of every encoded value.
const FORMAT: u8 = 1;

/// Bytes of format and checksum.
const FRAME_BYTES: usize = 9;

/// No internal value is larger: a full `done_above` has 537 KiB.
const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Why bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Another format, or none.
    #[error("unknown format byte {0:?}, expected {FORMAT}")]
    Format(Option<u8>),
    /// The bytes are not the ones that were written.
    #[error("checksum differs: the bytes were cut or changed")]
    Checksum,
    /// The bytes are not of the expected type, or the value is too large.
    #[error("not a value of the expected type: {0}")]
    Value(String),
}

/// Encodes a value.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let body = bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|e| CodecError::Value(e.to_string()))?;
    if body.len() > VALUE_BYTES_MAX {
        return Err(CodecError::Value(format!(
            "{} bytes, at most {VALUE_BYTES_MAX}",
            body.len()
        )));
    }
    let mut out = Vec::with_capacity(FRAME_BYTES + body.len());
    out.push(FORMAT);
    out.extend_from_slice(&hash_bytes_64(&body).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Decodes what [`encode`] made.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let Some((format, rest)) = bytes.split_first() else {
        return Err(CodecError::Format(None));
    };
    if *format != FORMAT {
        return Err(CodecError::Format(Some(*format)));
    }
    let (checksum, body) = rest
        .split_at_checked(FRAME_BYTES - 1)
        .ok_or(CodecError::Checksum)?;
    if checksum != hash_bytes_64(body).to_le_bytes() {
        return Err(CodecError::Checksum);
    }
    let config = bincode::config::standard().with_limit::<VALUE_BYTES_MAX>();
    let (value, read) = bincode::serde::decode_from_slice(body, config)
        .map_err(|e| CodecError::Value(e.to_string()))?;
    if read == body.len() {
        Ok(value)
    } else {
        Err(CodecError::Value(format!(
            "{} bytes left over",
            body.len() - read
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::{CodecError, decode, encode};
    use crate::checkpoint::{DoneAbove, DoneRange};
    use crate::limits::DONE_ABOVE_RANGES_MAX;
    use crate::position::Offset;

    fn golden() -> DoneAbove {
        DoneAbove(vec![
            DoneRange {
                first: Offset(1),
                last: Offset(250),
            },
            DoneRange {
                first: Offset(1 << 40),
                last: Offset(u64::MAX),
            },
        ])
    }

    #[test]
    fn the_bytes_of_a_release_stay_readable() {
        let bytes = encode(&golden()).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "01c2717abcbb17f7400201fafd0000000000010000fdffffffffffffffff"
        );
        assert_eq!(decode::<DoneAbove>(&bytes), Ok(golden()));
    }

    #[test]
    fn the_fullest_list_at_the_highest_offsets_fits() {
        let last = u64::MAX - 2 * DONE_ABOVE_RANGES_MAX as u64;
        let ranges = (0..DONE_ABOVE_RANGES_MAX as u64).map(|range| DoneRange {
            first: Offset(last + 2 * range),
            last: Offset(last + 2 * range),
        });
        let full = DoneAbove(ranges.collect());
        assert_eq!(decode(&encode(&full).unwrap()), Ok(full));
    }

    #[test]
    fn cut_changed_and_foreign_bytes_are_refused() {
        let bytes = encode(&golden()).unwrap();
        for cut in 0..bytes.len() {
            assert!(decode::<DoneAbove>(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert!(decode::<DoneAbove>(&changed).is_err(), "changed at {at}");
        }
        assert_eq!(decode::<DoneAbove>(&[]), Err(CodecError::Format(None)));
    }
}
