//! A record copied out of librdkafka's memory: one that is held pins the whole fetch it came with.

use std::panic::AssertUnwindSafe;

use bytes::Bytes;
use bytestring::ByteString;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tidegate_engine::bus::Delivery;
use tidegate_engine::headers::Headers;
use tidegate_engine::limits::HEADERS_MAX;
use tidegate_engine::position::Offset;

/// The record of a message. One without a payload, as compaction's deletions have, has an empty one.
pub(super) fn copied(message: &BorrowedMessage<'_>) -> Delivery {
    let offset = Offset(u64::try_from(message.offset()).unwrap_or_default());
    Delivery {
        offset,
        next: offset.next(),
        payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        headers: headers(message),
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Headers {
    let Some(headers) = message.headers() else {
        return Headers::NONE;
    };
    // One more than is kept, so that it is known that there were more.
    let kept = (0..headers.count().min(HEADERS_MAX + 1)).filter_map(|place| {
        // Kafka's names are any bytes, and rdkafka panics at one that is no text. Nobody can ask for a
        // header of such a name, and no record may stop the source.
        let read = std::panic::catch_unwind(AssertUnwindSafe(|| headers.try_get(place)));
        let header = read.ok().flatten()?;
        let value = Bytes::copy_from_slice(header.value.unwrap_or_default());
        Some((ByteString::from(header.key), value))
    });
    Headers::collect(kept)
}
