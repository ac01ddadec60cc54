//! What looks like a secret in a payload, and what a source's policy makes of it. What enters the log can
//! never be taken out again, so this comes before anything is hashed, stored or logged. One pass over the
//! text; a value is never shown, only its place. It finds what was sent by mistake, not what was hidden.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;

use crate::event::{Event, EventData, Unreadable};

/// What stands where a secret stood. It is none itself, so that a second look changes nothing.
pub const REDACTED: &str = "[redacted]";

/// What is done with an event whose payload holds what looks like a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SecretPolicy {
    /// It is not taken. The default: a refused event can be sent again, a stored secret stays.
    #[default]
    Refuse,
    /// It is taken with [`REDACTED`] in place of each such value.
    Redact,
    /// It is taken as it is, and said so.
    Report,
    /// Nothing looks.
    Off,
}

/// What was found in a payload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// How many values.
    pub values: usize,
    /// A JSON pointer to the first of them.
    pub first: String,
}

impl SecretPolicy {
    /// The word for it, in configurations and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            SecretPolicy::Refuse => "refuse",
            SecretPolicy::Redact => "redact",
            SecretPolicy::Report => "report",
            SecretPolicy::Off => "off",
        }
    }

    /// Looks at an event's payload and does what the policy says. `Ok` says what was found in what is
    /// taken; a refusal names the first place.
    pub fn hold(self, event: &mut Event) -> Result<Option<Found>, Unreadable> {
        let EventData::Json(data) = &event.data else {
            return Ok(None);
        };
        if self == SecretPolicy::Off {
            return Ok(None);
        }
        let Some(text) = text_of(data) else {
            return Ok(None);
        };
        let spots = spots(text);
        let Some(found) = found(&spots) else {
            return Ok(None);
        };
        match self {
            SecretPolicy::Refuse => Err(Unreadable::new(
                "data",
                format!(
                    "what looks like a secret stands at {}; have the producer leave it out, or set the \
                     source's `secrets` to redact or report",
                    found.first
                ),
            )),
            SecretPolicy::Redact => {
                event.data = EventData::Json(without(text, &spots));
                Ok(Some(found))
            }
            SecretPolicy::Report | SecretPolicy::Off => Ok(Some(found)),
        }
    }

    /// The bytes of a delivery that became no event, as they may be kept: without what this policy keeps
    /// out of the log. What is no JSON is kept as it is.
    pub fn kept(self, payload: &Bytes) -> Bytes {
        match self {
            SecretPolicy::Report | SecretPolicy::Off => payload.clone(),
            SecretPolicy::Refuse | SecretPolicy::Redact => {
                let json = serde_json::from_slice::<&serde_json::value::RawValue>(payload);
                let Ok(text) = json.map(serde_json::value::RawValue::get) else {
                    return payload.clone();
                };
                match spots(text) {
                    spots if spots.is_empty() => payload.clone(),
                    spots => without(text, &spots),
                }
            }
        }
    }
}

fn text_of(data: &Bytes) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

fn found(spots: &[Spot]) -> Option<Found> {
    let first = spots.first()?;
    Some(Found {
        values: spots.len(),
        first: first.pointer.clone(),
    })
}

/// A string of the text that looks like a secret.
struct Spot {
    /// Where its opening quote stands, and what follows its closing one.
    bytes: std::ops::Range<usize>,
    pointer: String,
}

/// Something that is open at a place of the text.
enum Level<'t> {
    Object {
        key: Cow<'t, str>,
        is_secret: bool,
        expects_key: bool,
    },
    Array {
        index: usize,
        /// A list under a name that promises secrets holds them.
        is_secret: bool,
    },
}

/// Every string of a well-formed JSON text that looks like a secret. Its nesting is bounded by whoever
/// checked it.
fn spots(text: &str) -> Vec<Spot> {
    let bytes = text.as_bytes();
    let mut spots = Vec::new();
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let (end, is_escaped) = string_end(bytes, at);
                // Between two ASCII quotes, so both are character boundaries.
                let raw = text.get(at + 1..end).unwrap_or_default();
                take_string(raw, is_escaped, &mut levels, at..end + 1, &mut spots);
                at = end;
            }
            b'{' => levels.push(Level::Object {
                key: Cow::Borrowed(""),
                is_secret: false,
                expects_key: true,
            }),
            b'[' => {
                let is_secret = is_named_secret(levels.last());
                levels.push(Level::Array {
                    index: 0,
                    is_secret,
                });
            }
            b'}' | b']' => {
                levels.pop();
            }
            b',' => match levels.last_mut() {
                Some(Level::Object { expects_key, .. }) => *expects_key = true,
                Some(Level::Array { index, .. }) => *index += 1,
                None => {}
            },
            _ => {}
        }
        at += 1;
    }
    spots
}

fn is_named_secret(level: Option<&Level<'_>>) -> bool {
    match level {
        Some(Level::Object { is_secret, .. } | Level::Array { is_secret, .. }) => *is_secret,
        None => false,
    }
}

fn take_string<'t>(
    raw: &'t str,
    is_escaped: bool,
    levels: &mut [Level<'t>],
    bytes: std::ops::Range<usize>,
    spots: &mut Vec<Spot>,
) {
    let text = if is_escaped { decoded(raw) } else { raw.into() };
    if let Some(Level::Object {
        key,
        is_secret,
        expects_key,
    }) = levels.last_mut()
        && *expects_key
    {
        *is_secret = is_secret_name(&text);
        *key = text;
        *expects_key = false;
        return;
    }
    let is_named = is_named_secret(levels.last()) && !text.is_empty() && text != REDACTED;
    if is_named || has_secret_shape(&text) {
        let pointer = pointer(levels);
        spots.push(Spot { bytes, pointer });
    }
}

/// The offset of the quote that closes the string opened at `open`, and whether the string has escapes.
fn string_end(bytes: &[u8], open: usize) -> (usize, bool) {
    let mut at = open + 1;
    let mut is_escaped = false;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => break,
            b'\\' => {
                is_escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
    (at, is_escaped)
}

fn decoded(raw: &str) -> Cow<'_, str> {
    match serde_json::from_str::<String>(&format!("\"{raw}\"")) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(raw),
    }
}

/// Bytes of a name in a pointer; what is longer is no name, and may be anything.
const NAME_BYTES_SHOWN: usize = 64;

/// Where it is: a JSON pointer (RFC 6901). A name that could be a secret itself is shown as `*`.
fn pointer(levels: &[Level<'_>]) -> String {
    let mut pointer = String::new();
    for level in levels {
        match level {
            Level::Array { index, .. } => {
                // Writing into a string does not fail.
                let _ = write!(pointer, "/{index}");
            }
            Level::Object { key, .. } => {
                pointer.push('/');
                let is_shown = key.len() <= NAME_BYTES_SHOWN
                    && !key.chars().any(char::is_control)
                    && !has_secret_shape(key);
                match is_shown {
                    true => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
                    false => pointer.push('*'),
                }
            }
        }
    }
    if pointer.is_empty() {
        pointer.push_str("its root");
    }
    pointer
}

/// The text with each spot's string replaced. White space and everything else stay byte for byte, so that
/// the same text always becomes the same.
fn without(text: &str, spots: &[Spot]) -> Bytes {
    let mut redacted = String::with_capacity(text.len());
    let mut from = 0;
    for spot in spots {
        redacted.push_str(text.get(from..spot.bytes.start).unwrap_or_default());
        redacted.push('"');
        redacted.push_str(REDACTED);
        redacted.push('"');
        from = spot.bytes.end;
    }
    redacted.push_str(text.get(from..).unwrap_or_default());
    Bytes::from(redacted)
}

/// Names that hold a secret, in lower-case letters and digits alone: `api_key`, `apiKey` and `API-KEY` are
/// one.
const NAMES: [&str; 13] = [
    "token",
    "pwd",
    "authorization",
    "bearer",
    "jwt",
    "credentials",
    "sessiontoken",
    "authtoken",
    "idtoken",
    "apitoken",
    "bearertoken",
    "accesstoken",
    "refreshtoken",
];

/// And those that end so: `db_password`, `clientSecret`.
const ENDINGS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "privatekey",
    "secretkey",
    "secretaccesskey",
    "encryptionkey",
];

/// The longest name that is compared; longer ones say more than that they hold a secret.
const NAME_BYTES_MAX: usize = 40;

fn is_secret_name(name: &str) -> bool {
    // Most names are told apart without a copy.
    if !(3..=NAME_BYTES_MAX).contains(&name.len()) {
        return false;
    }
    let last = name.bytes().rev().find(u8::is_ascii_alphanumeric);
    let may_end_so = last.is_some_and(|byte| {
        // The last letters of all that are listed.
        matches!(
            byte.to_ascii_lowercase(),
            b'n' | b'd' | b'r' | b't' | b's' | b'e' | b'y'
        )
    });
    if !may_end_so {
        return false;
    }
    let mut plain = [0_u8; NAME_BYTES_MAX];
    let mut length = 0;
    let letters = name.bytes().filter(u8::is_ascii_alphanumeric);
    for (place, byte) in plain.iter_mut().zip(letters) {
        *place = byte.to_ascii_lowercase();
        length += 1;
    }
    let plain = plain.get(..length).unwrap_or_default();
    NAMES.iter().any(|it| it.as_bytes() == plain)
        || ENDINGS.iter().any(|it| plain.ends_with(it.as_bytes()))
}

/// How the tokens of well-known services begin.
const PREFIXES: [&str; 24] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxa-",
    "xoxb-",
    "xoxp-",
    "xoxr-",
    "xoxs-",
    "sk_live_",
    "rk_live_",
    "sk-ant-",
    "sk-proj-",
    "AIza",
    "npm_",
    "pypi-",
    "dop_v1_",
    "shpat_",
    "SG.",
    "hvs.",
    // Our own.
    "tg_",
];

/// What follows such a beginning at least.
const PREFIXED_BYTES_MIN: usize = 16;

/// The shortest text that has a shape at all.
const SHAPE_BYTES_MIN: usize = 19;

fn has_secret_shape(text: &str) -> bool {
    if text.len() < SHAPE_BYTES_MIN {
        return false;
    }
    // A bearer's token, whatever it is.
    for scheme in ["Bearer ", "bearer ", "Basic ", "basic "] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return rest.len() >= PREFIXED_BYTES_MIN && rest.bytes().all(is_token_byte);
        }
    }
    is_private_key(text)
        || is_web_token(text)
        || is_aws_key(text)
        || is_address_with_password(text)
        || PREFIXES.iter().any(|prefix| {
            text.strip_prefix(prefix).is_some_and(|rest| {
                rest.len() >= PREFIXED_BYTES_MIN && rest.bytes().all(is_token_byte)
            })
        })
}

/// A letter of base64, in either alphabet, or a dot.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b'/' | b'=' | b'~')
}

/// A private key in PEM, wherever it begins in the text.
fn is_private_key(text: &str) -> bool {
    let Some(at) = text.find("-----BEGIN ") else {
        return false;
    };
    let head = text.get(at..).unwrap_or_default();
    head.split("-----")
        .nth(1)
        .is_some_and(|label| label.ends_with("PRIVATE KEY"))
}

/// A signed JSON web token: three parts, of which the first two are objects in base64url.
fn is_web_token(text: &str) -> bool {
    if !text.starts_with("eyJ") {
        return false;
    }
    let mut parts = text.split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    claims.starts_with("eyJ") && text.bytes().all(is_token_byte)
}

/// The id of an AWS access key.
fn is_aws_key(text: &str) -> bool {
    text.len() == 20
        && (text.starts_with("AKIA") || text.starts_with("ASIA"))
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

/// `scheme://user:password@host`.
fn is_address_with_password(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
    let login = authority.rsplit_once('@').map(|(login, _)| login);
    let password = login.and_then(|login| login.split_once(':'));
    scheme.len() <= 20
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
        && password.is_some_and(|(_, password)| !password.is_empty() && password != REDACTED)
}

#[cfg(test)]
mod tests;
