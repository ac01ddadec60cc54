//! Hashes: 128 bits of BLAKE3 where collisions must not happen, 64 bits where a hash only compares two
//! states of one entity version. Inputs are length-prefixed, so that no two field lists read the same.

use serde::{Deserialize, Serialize};

/// 128 bits of BLAKE3. Stored as `uuid` in Postgres, which indexes far better than text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hash128(pub u128);

impl Hash128 {
    /// Sixteen bytes, most significant first: the order of `uuid` comparison in Postgres.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The hash from its sixteen bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Appends its 32 hexadecimal digits, as [`std::fmt::Display`] shows them.
    pub(crate) fn push_hex(self, out: &mut String) {
        push_hex(out, &self.to_bytes());
    }

    /// The hash from 32 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }
}

/// Appends bytes as lower-case hexadecimal digits.
pub(crate) fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or_default();
    for eight in bytes.chunks(8) {
        let mut digits = [0_u8; 16];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(eight) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
        }
        let digits = digits.get(..2 * eight.len()).unwrap_or_default();
        out.push_str(std::str::from_utf8(digits).unwrap_or_default());
    }
}

impl std::fmt::Display for Hash128 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for Hash128 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Up to here the fields are laid out in one run first: hashing many short pieces costs twice as much.
const ONE_RUN_BYTES: usize = 512;

/// Hashes a list of fields, each with its length in front.
pub fn hash_fields(domain: &str, fields: &[&[u8]]) -> Hash128 {
    let mut run = [0_u8; ONE_RUN_BYTES];
    match laid_out(&mut run, domain, fields) {
        Some(run) => hash_bytes(run),
        None => hash_piece_by_piece(domain, fields),
    }
}

/// What [`hash_piece_by_piece`] hashes, when it fits.
fn laid_out<'r>(run: &'r mut [u8], domain: &str, fields: &[&[u8]]) -> Option<&'r [u8]> {
    let mut end = 0;
    let mut push = |piece: &[u8]| -> Option<()> {
        run.get_mut(end..end + piece.len())?.copy_from_slice(piece);
        end += piece.len();
        Some(())
    };
    push(domain.as_bytes())?;
    for field in fields {
        push(&(field.len() as u64).to_le_bytes())?;
        push(field)?;
    }
    run.get(..end)
}

fn hash_piece_by_piece(domain: &str, fields: &[&[u8]]) -> Hash128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain.as_bytes());
    for field in fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field);
    }
    first_128(hasher.finalize().as_bytes())
}

/// Hashes one run of bytes.
pub fn hash_bytes(bytes: &[u8]) -> Hash128 {
    first_128(blake3::hash(bytes).as_bytes())
}

/// 64 bits of BLAKE3 over one run of bytes.
pub fn hash_bytes_64(bytes: &[u8]) -> u64 {
    (hash_bytes(bytes).0 >> 64) as u64
}

fn first_128(bytes: &[u8; 32]) -> Hash128 {
    let (head, _) = bytes.split_at(16);
    let mut sixteen = [0_u8; 16];
    sixteen.copy_from_slice(head);
    Hash128::from_bytes(sixteen)
}

#[cfg(test)]
mod tests {
    use super::{ONE_RUN_BYTES, hash_fields, hash_piece_by_piece};

    #[test]
    fn fields_have_one_hash_whether_or_not_they_fit_into_one_run() {
        for bytes in 0..2 * ONE_RUN_BYTES {
            let (field, other) = (vec![b'a'; bytes], vec![b'b'; bytes % 7]);
            let fields: [&[u8]; 3] = [&field, b"", &other];
            let expected = hash_piece_by_piece("tidegate.test", &fields);
            assert_eq!(hash_fields("tidegate.test", &fields), expected, "{bytes}");
        }
    }
}
