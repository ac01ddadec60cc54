//! What a bus carries beside a record's payload: names and bytes, bounded. Owns the rule of which value a
//! name has; never knows what a header means.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;

use crate::limits::{HEADERS_BYTES_MAX, HEADERS_MAX};

/// The headers of one delivery. Costs no allocation when there are none, as with files, and none to clone.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Headers(Option<Arc<Kept>>);

#[derive(PartialEq, Eq, Debug)]
struct Kept {
    all: Vec<(ByteString, Bytes)>,
    bytes: usize,
    cut: bool,
}

/// What a name stands for among some headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderValue<'h> {
    /// There is no such header.
    Absent,
    /// It stands there, once or with the same value each time.
    One(&'h [u8]),
    /// It stands there with different values, so that nobody can say which is meant.
    Several,
}

impl Headers {
    /// No headers.
    pub const NONE: Headers = Headers(None);

    /// Keeps headers in the order of the bus, up to [`HEADERS_MAX`] of them and [`HEADERS_BYTES_MAX`]
    /// bytes; [`Headers::is_cut`] tells when there were more. Names and values are kept as they are given:
    /// copy them out of any buffer that they would otherwise pin.
    pub fn collect(headers: impl IntoIterator<Item = (ByteString, Bytes)>) -> Self {
        let mut kept = Kept {
            all: Vec::new(),
            bytes: 0,
            cut: false,
        };
        for (name, value) in headers {
            let bytes = kept.bytes + name.len() + value.len();
            if kept.all.len() >= HEADERS_MAX || bytes > HEADERS_BYTES_MAX {
                kept.cut = true;
                break;
            }
            kept.bytes = bytes;
            kept.all.push((name, value));
        }
        Self((kept.cut || !kept.all.is_empty()).then(|| Arc::new(kept)))
    }

    /// The value of a header. Names are compared without regard to ASCII case, as HTTP and NATS users
    /// expect.
    pub fn get(&self, name: &str) -> HeaderValue<'_> {
        let all = self.0.iter().flat_map(|kept| &kept.all);
        let mut values = all
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| &value[..]);
        match values.next() {
            None => HeaderValue::Absent,
            Some(first) if values.all(|value| value == first) => HeaderValue::One(first),
            Some(_) => HeaderValue::Several,
        }
    }

    /// The names that are kept, in the order of the bus, each as often as it stands there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let all = self.0.iter().flat_map(|kept| &kept.all);
        all.map(|(name, _)| &name[..])
    }

    /// Bytes of all names and values that are kept.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |kept| kept.bytes)
    }

    /// True when the bus had more headers than are kept.
    pub fn is_cut(&self) -> bool {
        self.0.as_ref().is_some_and(|kept| kept.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderValue, Headers};
    use crate::limits::{HEADERS_BYTES_MAX, HEADERS_MAX};

    fn headers(all: &[(&str, &str)]) -> Headers {
        Headers::collect(
            all.iter()
                .map(|(name, value)| ((*name).into(), value.as_bytes().to_vec().into())),
        )
    }

    #[test]
    fn a_name_has_one_value_or_nobody_can_say_which() {
        let all = headers(&[
            ("X-Id", "1"),
            ("a", "1"),
            ("A", "1"),
            ("b", "1"),
            ("B", "2"),
        ]);
        assert_eq!(all.get("x-id"), HeaderValue::One(b"1"));
        assert_eq!(all.get("a"), HeaderValue::One(b"1"));
        assert_eq!(all.get("b"), HeaderValue::Several);
        assert_eq!(all.get("c"), HeaderValue::Absent);
        assert_eq!(Headers::NONE.get("a"), HeaderValue::Absent);
        assert_eq!(headers(&[]), Headers::NONE);
        assert_eq!(all.bytes(), 13);
    }

    #[test]
    fn r26_one_header_or_byte_more_than_is_kept_is_told() {
        let many = |count: usize| vec![("n", "v"); count];
        assert!(!headers(&many(HEADERS_MAX)).is_cut());
        assert!(headers(&many(HEADERS_MAX + 1)).is_cut());
        let long = "v".repeat(HEADERS_BYTES_MAX);
        let just = headers(&[("n", &long[1..])]);
        assert!(!just.is_cut() && just.bytes() == HEADERS_BYTES_MAX);
        let cut = headers(&[("n", &long)]);
        assert!(cut.is_cut() && cut.bytes() == 0 && cut.get("n") == HeaderValue::Absent);
    }
}
