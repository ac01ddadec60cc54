//! What every `EventBus` promises. Call [`run_all`] with a name and a function that makes a bus whose
//! partitions already hold the given records, assigned to it alone.

mod cases;
mod reader;

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tidegate_engine::bus::EventBus;

use super::Case;
use super::runner::{self, cases};

/// What a bus can and cannot do; a case is skipped only by one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusCapabilities {
    /// A source partition ends, and the bus says so.
    pub ends: bool,
    /// Records arrive later.
    pub grows: bool,
    /// It has the records itself, from the first to the last, however far they are acknowledged. One that
    /// requests fill has what is pending and no more: their senders keep the rest.
    pub keeps: bool,
}

/// Writes a record behind a partition's last one.
pub type Append = Arc<dyn Fn(u32, Bytes) -> BoxFuture<'static, ()> + Send + Sync>;

/// A bus with records, and the means to write more.
pub struct BusUnderTest {
    /// The bus.
    pub bus: Arc<dyn EventBus>,
    /// What it can do.
    pub capabilities: BusCapabilities,
    /// Writes one more record; called only when it `grows`.
    pub append: Append,
    /// What has to live as long as the bus.
    pub keep: Box<dyn Any>,
}

/// The records of each partition when a case begins. Texts without line breaks, so that a file of
/// lines can hold them.
pub fn records() -> Vec<Vec<Bytes>> {
    let ordinary = (0..8).map(|it| Bytes::from(format!("{{\"partition\":0,\"record\":{it}}}")));
    // Of one size each, but for one that is larger than every limit of the cases.
    let mut sized: Vec<Bytes> = (0..6)
        .map(|it| Bytes::from(format!("{{\"n\":{it},\"pad\":\"{}\"}}", "p".repeat(80))))
        .collect();
    sized.insert(
        3,
        Bytes::from(format!("{{\"n\":9,\"pad\":\"{}\"}}", "q".repeat(4_000))),
    );
    vec![ordinary.collect(), sized, Vec::new()]
}

/// Runs the suite; panics when a promise is broken, after all of it was run. `make` is given
/// [`records`] and returns the bus that holds them.
pub async fn run_all(name: &str, make: impl AsyncFn(Vec<Vec<Bytes>>) -> BusUnderTest) {
    let suite = format!("bus contract, {name}");
    runner::run_all(&suite, cases(), async || make(records()).await).await;
}

/// The suite.
pub fn cases() -> Vec<Case<BusUnderTest>> {
    cases![
        cases::every_partition_is_assigned_once_and_silent_before_its_seek,
        cases::records_come_in_order_with_the_bytes_that_were_written,
        cases::a_seek_again_delivers_again_from_there if keeps,
        cases::a_receive_that_is_dropped_has_taken_nothing_and_stops_no_seek,
        cases::one_partition_moves_without_the_others,
        cases::no_more_events_than_asked_for,
        cases::no_more_bytes_than_asked_for_but_a_first_record_alone,
        cases::a_fingerprint_is_that_of_the_record_at_exactly_that_offset,
        cases::earliest_is_the_first_record_and_latest_is_behind_the_last if keeps,
        cases::an_end_is_told_once_a_seek if ends,
        cases::an_acknowledgement_never_moves_delivery if keeps,
        cases::the_end_offset_is_behind_the_last_record,
        cases::what_was_given_back_is_not_assigned_any_more,
        cases::a_seek_behind_the_end_is_an_error if keeps,
        cases::a_partition_that_is_not_there_is_an_error,
        cases::a_waiting_receive_is_woken_by_a_new_record if grows,
        cases::latest_delivers_only_what_arrives_later if keeps_and_grows,
    ]
}

fn ends(subject: &BusUnderTest) -> Option<&'static str> {
    (!subject.capabilities.ends).then_some("capability `ends`: its source partitions never end")
}

fn grows(subject: &BusUnderTest) -> Option<&'static str> {
    (!subject.capabilities.grows).then_some("capability `grows`: nothing is written to it later")
}

fn keeps(subject: &BusUnderTest) -> Option<&'static str> {
    (!subject.capabilities.keeps)
        .then_some("capability `keeps`: its senders keep the records until they are settled")
}

fn keeps_and_grows(subject: &BusUnderTest) -> Option<&'static str> {
    keeps(subject).or_else(|| grows(subject))
}
