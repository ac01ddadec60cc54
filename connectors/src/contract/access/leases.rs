//! Leases: never two holders at once, and free again when they run out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::AccessUnderTest;
use crate::contract::batch::source_partition;

/// Longer than any case.
const LONG: Duration = Duration::from_secs(600);

/// Over before anybody looks twice.
const SHORT: Duration = Duration::from_millis(20);

/// Acquires until it is had: a lease that runs out has to be.
async fn had(subject: &AccessUnderTest, holder: &str, ttl: Duration) {
    let place = source_partition("orders", 0);
    for _ in 0..2_000 {
        if subject.leases.acquire(&place, holder, ttl).await.unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("a lease of {SHORT:?} did not run out");
}

pub(super) async fn of_sixteen_that_acquire_a_lease_one_has_it(subject: AccessUnderTest) {
    let place = source_partition("orders", 0);
    for round in 0..5 {
        let mut tasks = Vec::new();
        for number in 0..16 {
            let leases = Arc::clone(&subject.leases);
            let place = place.clone();
            tasks.push(tokio::spawn(async move {
                let holder = format!("node-{number}");
                let had = leases.acquire(&place, &holder, LONG).await.unwrap();
                had.then_some(holder)
            }));
        }
        let mut holders = BTreeSet::new();
        for task in tasks {
            holders.extend(task.await.unwrap());
        }
        assert_eq!(holders.len(), 1, "round {round}: {holders:?}");
        let holder = holders.pop_first().unwrap();
        let again = subject.leases.acquire(&place, &holder, LONG).await.unwrap();
        assert!(again, "a repeated call of its holder is answered the same");
        subject.leases.release(&place, &holder).await.unwrap();
    }
}

pub(super) async fn a_lease_that_ran_out_goes_to_another_and_its_old_holder_cannot_renew(
    subject: AccessUnderTest,
) {
    let (leases, place) = (&subject.leases, source_partition("orders", 0));
    assert!(leases.acquire(&place, "old", SHORT).await.unwrap());
    had(&subject, "new", LONG).await;
    for _ in 0..3 {
        assert!(!leases.renew(&place, "old", LONG).await.unwrap());
        assert!(!leases.acquire(&place, "old", LONG).await.unwrap());
        assert!(leases.renew(&place, "new", LONG).await.unwrap());
    }
    // One that ran out and that nobody took is nobody's: it is acquired anew.
    leases.release(&place, "new").await.unwrap();
    assert!(leases.acquire(&place, "old", SHORT).await.unwrap());
    tokio::time::sleep(SHORT * 4).await;
    assert!(!leases.renew(&place, "old", LONG).await.unwrap());
    assert!(leases.acquire(&place, "old", LONG).await.unwrap());
    assert!(leases.renew(&place, "old", LONG).await.unwrap());
}

pub(super) async fn a_renewed_lease_outlives_its_first_end(subject: AccessUnderTest) {
    let (leases, place) = (&subject.leases, source_partition("orders", 0));
    assert!(
        leases
            .acquire(&place, "one", Duration::from_secs(5))
            .await
            .unwrap()
    );
    assert!(leases.renew(&place, "one", LONG).await.unwrap());
    // Renewing may shorten as well.
    assert!(!leases.acquire(&place, "two", LONG).await.unwrap());
    assert!(leases.renew(&place, "one", SHORT).await.unwrap());
    had(&subject, "two", LONG).await;
    assert!(!leases.renew(&place, "one", LONG).await.unwrap());
    assert!(!leases.renew(&place, "nobody", LONG).await.unwrap());
}

pub(super) async fn a_released_lease_is_free_at_once_and_nobody_releases_anothers(
    subject: AccessUnderTest,
) {
    let (leases, place) = (&subject.leases, source_partition("orders", 0));
    leases.release(&place, "nobody").await.unwrap();
    assert!(leases.acquire(&place, "one", LONG).await.unwrap());
    leases.release(&place, "two").await.unwrap();
    assert!(!leases.acquire(&place, "two", LONG).await.unwrap());
    assert!(leases.renew(&place, "one", LONG).await.unwrap());
    leases.release(&place, "one").await.unwrap();
    assert!(!leases.renew(&place, "one", LONG).await.unwrap());
    assert!(leases.acquire(&place, "two", LONG).await.unwrap());
    assert!(!leases.acquire(&place, "one", LONG).await.unwrap());
}

pub(super) async fn leases_of_source_partitions_are_apart(subject: AccessUnderTest) {
    let leases = &subject.leases;
    for (name, partition, holder) in [
        ("orders", 0, "one"),
        ("orders", 1, "two"),
        ("orders", u32::MAX, "two"),
        ("order", 0, "three"),
    ] {
        let place = source_partition(name, partition);
        assert!(leases.acquire(&place, holder, LONG).await.unwrap());
        assert!(!leases.acquire(&place, "late", LONG).await.unwrap());
    }
    let place = source_partition("orders", 1);
    leases.release(&place, "two").await.unwrap();
    let other = source_partition("orders", u32::MAX);
    assert!(leases.renew(&other, "two", LONG).await.unwrap());
}

pub(super) async fn terms_out_of_bounds_are_refused(subject: AccessUnderTest) {
    let (leases, place) = (&subject.leases, source_partition("orders", 0));
    let long = "n".repeat(257);
    for (holder, ttl) in [
        ("", LONG),
        (&long, LONG),
        ("a\0b", LONG),
        ("one", Duration::ZERO),
        ("one", Duration::from_micros(999)),
        ("one", Duration::from_secs(3_601)),
        ("one", Duration::MAX),
    ] {
        assert!(leases.acquire(&place, holder, ttl).await.is_err());
        assert!(leases.renew(&place, holder, ttl).await.is_err());
    }
    // What is at the bounds is not beyond them.
    let longest = Duration::from_secs(3_600);
    assert!(leases.acquire(&place, &long[1..], longest).await.unwrap());
}
