//! Room for pages of what is stored: while one is read and made, and then until its client has taken it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use tidegate_engine::limits;

use super::read::PAGE_BYTES_MAX;
use super::room::Room;

/// Bytes handed to the connection at once: it asks for more when these are on their way.
const PIECE_BYTES: usize = 64 * 1024;

/// Room for a page of the largest size, twice: what was read, and the answer made of it.
pub const PAGE: usize = 2 * PAGE_BYTES_MAX;

/// The same for one event or one dead letter.
pub const EVENT: usize = 2 * limits::DELIVERY_BYTES_MAX;

/// The same for one entity.
pub const ENTITY: usize = 2 * limits::ENTITY_DATA_BYTES_MAX;

/// The response, which keeps what it needs of the room until it is sent or its client is gone.
pub fn keep(response: HttpResponse, mut room: Room) -> HttpResponse {
    let (head, body) = response.into_parts();
    match body.try_into_bytes() {
        Ok(bytes) => {
            // Less always fits; more is what is there already.
            let _ = room.resize(bytes.len());
            head.set_body(BoxBody::new(Kept { bytes, _room: room }))
        }
        Err(body) => head.set_body(body),
    }
}

struct Kept {
    bytes: Bytes,
    _room: Room,
}

impl MessageBody for Kept {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let bytes = &mut self.get_mut().bytes;
        if bytes.is_empty() {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(bytes.split_to(bytes.len().min(PIECE_BYTES)))))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use actix_web::HttpResponse;
    use actix_web::body::{BodySize, MessageBody as _};
    use futures_util::FutureExt as _;
    use tidegate_engine::tenant::TenantId;

    use super::super::room::BodyRoom;
    use super::{PAGE, PIECE_BYTES, keep};

    #[test]
    fn a_page_has_room_until_its_client_has_taken_it() {
        let all = BodyRoom::new(36 << 20, 1 << 20);
        let acme = TenantId::new("acme").unwrap();
        let mut first = all.of(acme.clone());
        first.resize(PAGE).unwrap();
        let mut second = all.of(acme.clone());
        second.resize(PAGE).unwrap();
        let refused = all.of(acme.clone()).resize(PAGE).unwrap_err();
        assert_eq!(refused.kind.status(), 503);
        let text = "x".repeat(3 * PIECE_BYTES - 1);
        let response = keep(HttpResponse::Ok().body(text.clone()), first);
        assert_eq!(
            response.body().size(),
            BodySize::Sized(3 * PIECE_BYTES as u64 - 1)
        );
        // What it does not need any more is room for others.
        all.of(acme.clone()).resize(PAGE).unwrap();
        drop(second);
        let mut body = response.into_body();
        let mut taken = 0;
        while let Some(piece) = poll_fn(|context| Pin::new(&mut body).poll_next(context))
            .now_or_never()
            .unwrap()
        {
            taken += piece.unwrap().len();
        }
        assert_eq!(taken, text.len());
        drop(body);
        assert_eq!(all.taken(), 0);
    }
}
