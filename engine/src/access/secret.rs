//! The secret of a token, its public id and its hash. Nothing here shows a secret but
//! [`TokenSecret::expose`], which the command that made it calls once.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::InvalidValue;

/// Bytes of a secret: 256 bits, which nobody guesses, so its hash needs no salt and no slowness.
pub const SECRET_BYTES: usize = 32;

/// Characters of 32 bytes in base64url without padding.
const SECRET_CHARS: usize = 43;

/// Hexadecimal digits of an id.
const ID_CHARS: usize = 16;

/// What every token begins with: secret scanners find it by this.
const PREFIX: &str = "tg_";

/// Different bytes that a secret has at least. Of 32 random ones about 30 are different; that fewer than
/// 12 are is less likely than 1 in 10^24, and what people type or repeat has fewer.
const DIFFERENT_BYTES_MIN: usize = 12;

/// The public name of a token: what lists, logs and `causedby` show. 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(u64);

impl TokenId {
    /// An id of 64 random bits.
    pub fn from_random(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // Whoever gives the whole token where its id is asked for must not read it back in a message.
        if text.starts_with(PREFIX) {
            let expected = "the id alone: the 16 digits behind `tg_`, not the whole token";
            return Err(InvalidValue::new("token id", expected, "tg_…"));
        }
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = u64::from_str_radix(text, 16).ok();
        bits.filter(|_| digits && text.len() == ID_CHARS)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("token id", "16 of 0-9 and a-f", text))
    }
}

/// Why a text is no token. Never says what was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidSecret {
    /// It does not read `tg_<id>_<secret>`.
    #[error(
        "not in the form of a token: expected `tg_`, 16 hexadecimal digits, `_` and 43 characters of base64url"
    )]
    Form,
    /// It has the form, but nobody drew it at random.
    #[error(
        "a weak token: its secret is not 32 random bytes; make one by `tidegate tokens create`"
    )]
    Weak,
}

/// A token's secret, with the id that it is looked up by. Never shown but by [`Self::expose`].
#[derive(Clone)]
pub struct TokenSecret {
    id: TokenId,
    bytes: [u8; SECRET_BYTES],
}

impl TokenSecret {
    /// The secret of 32 bytes that the system's generator drew. Refuses what cannot have been drawn.
    pub fn new(id: TokenId, bytes: [u8; SECRET_BYTES]) -> Result<Self, InvalidSecret> {
        if is_weak(&bytes) {
            return Err(InvalidSecret::Weak);
        }
        Ok(Self { id, bytes })
    }

    /// Reads `tg_<id>_<base64url of 32 bytes>`, as a client presents it.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let (id, secret) = text
            .strip_prefix(PREFIX)
            // The secret's alphabet has `_` in it, the id's has not.
            .and_then(|rest| rest.split_once('_'))
            .ok_or(InvalidSecret::Form)?;
        let id = id.parse().map_err(|_| InvalidSecret::Form)?;
        if secret.len() != SECRET_CHARS {
            return Err(InvalidSecret::Form);
        }
        let decoded = URL_SAFE_NO_PAD.decode(secret);
        let bytes = decoded
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(InvalidSecret::Form)?;
        Self::new(id, bytes)
    }

    /// The id that it is looked up by.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// What a store keeps of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash(blake3::hash(&self.bytes))
    }

    /// The token as a client has to present it. To be shown once, to whoever asked for it.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, URL_SAFE_NO_PAD.encode(self.bytes))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSecret({}, …)", self.id)
    }
}

/// True for bytes that no generator draws: few different ones, steps of one size, or text that somebody
/// typed (32 random bytes are all printable once in 10^13).
fn is_weak(bytes: &[u8; SECRET_BYTES]) -> bool {
    let mut seen = [false; 256];
    for byte in bytes {
        if let Some(place) = seen.get_mut(usize::from(*byte)) {
            *place = true;
        }
    }
    let different = seen.iter().filter(|seen| **seen).count();
    let mut steps = bytes.windows(2).map(|pair| match pair {
        [one, next] => next.wrapping_sub(*one),
        _ => 0,
    });
    let first = steps.next();
    let typed = bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    typed || different < DIFFERENT_BYTES_MIN || steps.all(|step| Some(step) == first)
}

/// The BLAKE3 hash of a secret's bytes. Comparing two takes the same time wherever they differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash(blake3::Hash);

impl SecretHash {
    /// The hash as a store kept it: 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 32] = bytes.try_into().ok()?;
        Some(Self(blake3::Hash::from_bytes(bytes)))
    }

    /// As a store keeps it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether it is the hash of that secret, in constant time.
    pub fn is_of(&self, secret: &TokenSecret) -> bool {
        // `blake3::Hash` compares in constant time.
        self.0 == blake3::hash(&secret.bytes)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}
