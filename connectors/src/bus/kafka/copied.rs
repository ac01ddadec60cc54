//! A record copied out of librdkafka's memory: one that is held pins the whole fetch it came with.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use bytestring::ByteString;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tidegate_engine::bus::Delivery;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::headers::Headers;
use tidegate_engine::limits::HEADERS_MAX;
use tidegate_engine::position::Offset;

/// What the names of headers begin with that say what the broker knows of a record.
const OWN: &str = "kafka.";

/// The record of a message. One without a payload, as compaction's deletions have, has an empty one.
/// `record_headers` puts its topic, key and time beside it.
pub(super) fn copied(message: &BorrowedMessage<'_>, record_headers: bool) -> Delivery {
    let offset = Offset(u64::try_from(message.offset()).unwrap_or_default());
    Delivery {
        offset,
        next: offset.next(),
        payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        headers: match record_headers {
            false => Headers::collect(sent(message)),
            // A producer's header of such a name would say something else of the record than its broker.
            true => Headers::collect(
                known(message).chain(sent(message).filter(|(name, _)| !name.starts_with(OWN))),
            ),
        },
        recorded_at: written_at(message),
    }
}

/// When the broker has it written.
fn written_at(message: &BorrowedMessage<'_>) -> Option<Timestamp> {
    let millis = message.timestamp().to_millis()?;
    Some(Timestamp(millis.saturating_mul(1_000)))
}

/// What the broker knows of a record.
fn known(message: &BorrowedMessage<'_>) -> impl Iterator<Item = (ByteString, Bytes)> {
    let topic = Some(Bytes::copy_from_slice(message.topic().as_bytes()));
    let key = message.key().map(Bytes::copy_from_slice);
    let timestamp = message.timestamp().to_millis();
    let timestamp = timestamp.map(|millis| Bytes::from(millis.to_string()));
    [
        ("kafka.topic", topic),
        ("kafka.key", key),
        ("kafka.timestamp", timestamp),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((ByteString::from_static(name), value?)))
}

/// What its producer put beside it.
fn sent(message: &BorrowedMessage<'_>) -> impl Iterator<Item = (ByteString, Bytes)> {
    let headers = message.headers();
    // One more than is kept, so that it is known that there were more.
    let count = headers.map_or(0, |headers| headers.count().min(HEADERS_MAX + 1));
    (0..count).filter_map(move |place| {
        // Kafka's names are any bytes, and rdkafka panics at one that is no text. Nobody can ask for a
        // header of such a name, and no record may stop the source.
        let read = std::panic::catch_unwind(AssertUnwindSafe(|| headers?.try_get(place)));
        let header = read.ok().flatten()?;
        let value = Bytes::copy_from_slice(header.value.unwrap_or_default());
        Some((ByteString::from(header.key), value))
    })
}
