//! What waits to be sent to one client: a bounded queue of bytes between a task that makes them and the
//! response that carries them. A task waits for room; a client that goes away is noticed by both.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use actix_web::web::Bytes;
use futures_util::Stream;
use tokio::sync::Notify;

/// The side that makes the bytes.
pub struct Outbox(Arc<Shared>);

/// The response's side.
pub struct Body(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    bytes_max: usize,
    room: Notify,
    gone: Notify,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    ended: bool,
    waker: Option<Waker>,
}

/// Both sides of a queue of at most so many bytes, or of one chunk that is larger.
pub fn outbox(bytes_max: usize) -> (Outbox, Body) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        bytes_max,
        room: Notify::new(),
        gone: Notify::new(),
    });
    (Outbox(shared.clone()), Body(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing inside panics; were it to, the queue is still whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outbox {
    /// Puts a chunk behind the others, as soon as there is room for it.
    pub async fn push(&self, chunk: Bytes) {
        loop {
            {
                let mut queue = self.0.lock();
                if queue.bytes == 0 || queue.bytes + chunk.len() <= self.0.bytes_max {
                    queue.bytes += chunk.len();
                    queue.chunks.push_back(chunk);
                    return wake(queue);
                }
            }
            self.0.room.notified().await;
        }
    }

    /// Ends it with a last chunk; `instead` of what waits, or behind it.
    pub fn end(&self, last: Bytes, instead: bool) {
        let mut queue = self.0.lock();
        if instead {
            queue.chunks.clear();
            queue.bytes = 0;
        }
        queue.chunks.push_back(last);
        queue.ended = true;
        wake(queue);
    }

    /// Waits until the response is no longer wanted.
    pub async fn gone(&self) {
        self.0.gone.notified().await;
    }
}

fn wake(mut queue: MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.ended = true;
        wake(queue);
    }
}

impl Stream for Body {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.0.lock();
        if let Some(chunk) = queue.chunks.pop_front() {
            queue.bytes = queue.bytes.saturating_sub(chunk.len());
            drop(queue);
            self.0.room.notify_one();
            return Poll::Ready(Some(Ok(chunk)));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        queue.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.0.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::{Bytes, outbox};

    #[test]
    fn a_full_outbox_waits_for_room_and_its_end_may_take_the_place_of_what_waits() {
        let (out, mut body) = outbox(4);
        assert!(out.push(Bytes::from("abc")).now_or_never().is_some());
        assert!(out.push(Bytes::from("de")).now_or_never().is_none());
        assert_eq!(
            body.next().now_or_never(),
            Some(Some(Ok(Bytes::from("abc"))))
        );
        // Larger than the bound, and alone.
        assert!(out.push(Bytes::from("abcdef")).now_or_never().is_some());
        out.end(Bytes::from("end"), true);
        assert_eq!(
            body.next().now_or_never(),
            Some(Some(Ok(Bytes::from("end"))))
        );
        assert_eq!(body.next().now_or_never(), Some(None));
        assert!(out.gone().now_or_never().is_none());
        drop(body);
        assert!(out.gone().now_or_never().is_some());
    }
}
