//! What is handed in is delivered in order, answered once, and never numbered like something settled.

use bytes::Bytes;
use futures_util::FutureExt as _;
use tidegate_engine::bus::{
    Answer, Became, BusEvent, EventBus as _, Intake as _, NotTaken, ReceiveLimit, Settlement, Start,
};
use tidegate_engine::position::{Offset, SourceName};

use super::{HttpBus, IntakeLimits};

const ALL: ReceiveLimit = ReceiveLimit {
    events_max: 100,
    bytes_max: 10_000,
};

fn bus() -> HttpBus {
    let limits = IntakeLimits {
        events_max: 4,
        bytes_max: 100,
    };
    HttpBus::new(SourceName::new("api").unwrap(), limits)
}

fn event(text: &str) -> Vec<Bytes> {
    vec![Bytes::from(text.to_owned())]
}

async fn offsets(bus: &HttpBus, limit: ReceiveLimit) -> Vec<u64> {
    let mut offsets = Vec::new();
    for event in bus.receive(limit).await.unwrap() {
        if let BusEvent::Delivered { deliveries, .. } = event {
            offsets.extend(deliveries.iter().map(|delivery| delivery.offset.0));
        }
    }
    offsets
}

async fn ready(bus: &HttpBus, settled_below: u64, at: u64) {
    bus.intake().assign(3);
    let told = bus.receive(ALL).await.unwrap();
    assert!(matches!(
        told.as_slice(),
        [BusEvent::Assigned { partition: 3, .. }]
    ));
    assert_eq!(bus.start_offset(3, Start::Latest).await.unwrap(), Offset(0));
    bus.settled_below(3, Offset(settled_below));
    bus.seek(3, Offset(at)).await.unwrap();
}

fn refused(offered: Result<Vec<Answer>, NotTaken>) -> NotTaken {
    offered.err().expect("it was taken")
}

fn settled(offset: u64) -> Settlement {
    Settlement {
        offset: Offset(offset),
        became: Became::Duplicate,
    }
}

#[tokio::test]
async fn nothing_is_taken_before_a_slot_is_ours_and_sought() {
    let bus = bus();
    let intake = bus.intake();
    assert_eq!(refused(intake.offer(event("a"))), NotTaken::NotReady);
    intake.assign(3);
    assert_eq!(refused(intake.offer(event("a"))), NotTaken::NotReady);
    bus.seek(3, Offset(0)).await.unwrap();
    assert!(intake.offer(event("a")).is_ok());
    assert!(bus.seek(4, Offset(0)).await.is_err(), "another's slot");
}

#[tokio::test]
async fn an_answer_comes_with_the_settlement_and_a_gap_of_the_process_before_is_never_filled() {
    let bus = bus();
    // Offsets 7 and 9 are settled above the watermark 5; 5, 6 and 8 went with the process before.
    ready(&bus, 10, 5).await;
    let mut answers = bus
        .intake()
        .offer(vec![Bytes::from("a"), Bytes::from("b")])
        .unwrap();
    assert_eq!(offsets(&bus, ALL).await, [10, 11]);
    bus.settled(3, vec![settled(11)]);
    assert_eq!(answers.pop().unwrap().await, Some(Became::Duplicate));
    let mut first = answers.pop().unwrap();
    assert!((&mut first).now_or_never().is_none(), "not settled yet");
    assert_eq!(bus.intake().pending(), (1, 1));
    bus.settled(3, vec![settled(10), settled(11)]);
    assert_eq!(first.await, Some(Became::Duplicate));
    assert_eq!(bus.intake().pending(), (0, 0));
}

#[tokio::test]
async fn what_is_pending_is_delivered_again_after_a_seek_and_what_was_settled_is_not_known() {
    let bus = bus();
    ready(&bus, 0, 0).await;
    let payloads = ["a", "b", "c"].map(Bytes::from).to_vec();
    let mut answers = bus.intake().offer(payloads).unwrap();
    assert_eq!(offsets(&bus, ALL).await, [0, 1, 2]);
    // Another epoch of this process: the first one was committed, and nobody heard of it.
    bus.settled_below(3, Offset(1));
    bus.seek(3, Offset(1)).await.unwrap();
    assert_eq!(offsets(&bus, ALL).await, [1, 2]);
    assert!(answers.remove(0).await.is_none(), "send it again and see");
    bus.intake().lose(3);
    for answer in answers {
        assert!(answer.await.is_none());
    }
    let told = bus.receive(ALL).await.unwrap();
    assert!(matches!(told.as_slice(), [BusEvent::Lost { partition: 3 }]));
    assert!(!bus.still_assigned(3).await.unwrap());
}

#[tokio::test]
async fn r45_more_than_may_be_pending_is_not_taken_and_all_or_nothing_of_a_request() {
    let bus = bus();
    ready(&bus, 0, 0).await;
    let intake = bus.intake();
    let three = || ["a", "b", "c"].map(Bytes::from).to_vec();
    let _answers = intake.offer(three()).unwrap();
    assert_eq!(refused(intake.offer(three())), NotTaken::Full);
    assert_eq!(intake.pending().0, 3);
    let five = vec![Bytes::from("x"); 5];
    assert_eq!(refused(intake.offer(five)), NotTaken::TooMuch);
    let large = vec![Bytes::from(vec![0; 101])];
    assert_eq!(refused(intake.offer(large)), NotTaken::TooMuch);
}

#[tokio::test]
async fn no_poll_has_more_than_it_asked_for() {
    let bus = bus();
    ready(&bus, 0, 0).await;
    let payloads = ["aaaa", "bb", "c", "d"].map(Bytes::from).to_vec();
    let _answers = bus.intake().offer(payloads).unwrap();
    let limit = ReceiveLimit {
        events_max: 2,
        bytes_max: 3,
    };
    assert_eq!(offsets(&bus, limit).await, [0], "a large one alone");
    assert_eq!(offsets(&bus, limit).await, [1, 2]);
    assert_eq!(offsets(&bus, limit).await, [3]);
}

#[tokio::test]
async fn a_stop_answers_what_was_delivered_and_gives_up_the_rest() {
    let bus = bus();
    ready(&bus, 0, 0).await;
    let one = ReceiveLimit {
        events_max: 1,
        bytes_max: 100,
    };
    let payloads = ["a", "b"].map(Bytes::from).to_vec();
    let mut answers = bus.intake().offer(payloads).unwrap();
    assert_eq!(offsets(&bus, one).await, [0]);
    bus.intake().close();
    assert_eq!(refused(bus.intake().offer(event("c"))), NotTaken::Closing);
    assert!(answers.pop().unwrap().await.is_none());
    bus.settled(3, vec![settled(0)]);
    assert_eq!(answers.pop().unwrap().await, Some(Became::Duplicate));
}

#[tokio::test]
async fn a_slot_that_is_here_for_what_was_left_in_it_is_assigned_and_takes_no_request() {
    let bus = bus();
    let intake = bus.intake();
    intake.assign_to_finish(7);
    let told = bus.receive(ALL).await.unwrap();
    assert!(matches!(
        told[..],
        [BusEvent::Assigned { partition: 7, .. }]
    ));
    bus.seek(7, Offset(4)).await.unwrap();
    assert!(!intake.is_ready());
    assert!(matches!(intake.offer(event("a")), Err(NotTaken::NotReady)));
    // One's own takes them, whatever the other one has less of.
    ready(&bus, 0, 0).await;
    let _answers = intake.offer(event("a")).unwrap();
    assert_eq!(offsets(&bus, ALL).await, [0]);
    intake.lose(3);
    let told = bus.receive(ALL).await.unwrap();
    assert!(matches!(told[..], [BusEvent::Lost { partition: 3 }]));
    assert!(!intake.is_ready());
    // The slot that was here for that may become one's own; and stays that.
    intake.assign(7);
    intake.assign_to_finish(7);
    assert!(intake.is_ready());
}
