//! What a store promises while the world around it does its worst: connections that are lost at a
//! commit, rows that somebody holds, roles that would change what is stored, plans that have grown old.

use tidegate_engine::commit::{CommitPath, CommitReply, EntityRow};
use tidegate_engine::position::Version;
use tidegate_engine::store::StoreError;

use super::outside::Lost;
use super::reading::{dump, verified_records};
use super::{StoreUnderTest, begin, committed, patiently, submit, upkeep_at};
use crate::contract::batch::{Entry, Writer, entity_name, source_partition, tenant};

pub(super) async fn an_unknown_commit_has_either_outcome_and_the_checkpoint_tells_which(
    subject: StoreUnderTest,
) {
    const ROUNDS: u32 = 20;
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    for round in 0..ROUNDS {
        let lost = [Lost::Commit, Lost::Reply][round as usize % 2];
        let key = format!("k{round}");
        let batch = writer.batch(&[
            Entry::new("acme", &key)
                .creates(&format!("o{round}"))
                .emits(1),
            Entry::new("bolt", &key).creates(&format!("o{round}")),
        ]);
        let before = dump(store).await;
        let answer = (subject.outside.commit_and_lose)(batch.clone(), lost).await;
        assert!(
            matches!(answer, Err(StoreError::OutcomeUnknown { .. })),
            "round {round}, {lost:?}: {answer:?}"
        );
        let checkpoint = store.checkpoint(&place).await.unwrap().unwrap();
        match lost {
            Lost::Commit => {
                assert_eq!(checkpoint.revision, batch.revision, "round {round}");
                assert_eq!(dump(store).await, before, "round {round}: something stands");
                let reply = writer.commit_batch(store, batch).await.unwrap();
                assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
            }
            Lost::Reply => {
                assert_eq!(checkpoint.revision, batch.revision.next(), "round {round}");
                // Sent again all the same, it changes nothing: its revision is past.
                let done = dump(store).await;
                let reply = submit(store, &batch).await.unwrap();
                assert_eq!(reply, CommitReply::Fenced, "round {round}");
                assert_eq!(dump(store).await, done, "round {round}: written twice");
                writer.settle(&batch);
            }
        }
    }
    for name in ["acme", "bolt"] {
        let records = verified_records(store, &tenant(name)).await;
        assert_eq!(records.len(), ROUNDS as usize, "{name}");
        let entities = store.entities(&tenant(name), None, 100).await.unwrap();
        assert_eq!(entities.len(), ROUNDS as usize, "{name}");
    }
}

/// Rows cannot be held where one process writes alone.
pub(super) fn shared(subject: &StoreUnderTest) -> Option<&'static str> {
    if subject.store.capabilities().concurrent_writers {
        assert!(subject.outside.hold.is_some(), "no means to hold a row");
        return None;
    }
    Some("capability `concurrent_writers`: nobody else ever holds a row of this store")
}

/// What stands in the way at which place of a batch.
#[derive(Clone, Copy, Debug)]
struct Obstacles {
    busy: usize,
    moved: Option<usize>,
    known: Option<usize>,
}

/// Places of a batch that are tried: first, middle and last.
const PLACES: usize = 5;

fn obstacles() -> Vec<Obstacles> {
    let places = [0, PLACES / 2, PLACES - 1];
    let mut all = Vec::new();
    for turn in 0..3 {
        let [busy, moved, known] = [0, 1, 2].map(|it| places[(turn + it) % 3]);
        for (moved, known) in [
            (None, None),
            (Some(moved), None),
            (None, Some(known)),
            (Some(moved), Some(known)),
        ] {
            all.push(Obstacles { busy, moved, known });
        }
    }
    all
}

pub(super) async fn a_row_that_somebody_holds_is_named_at_every_place_and_the_rest_goes_on(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let hold = subject.outside.hold.as_ref().unwrap();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let key = |place: usize| format!("o{place}");
    let created: Vec<Entry> = (0..PLACES)
        .map(|place| Entry::new("acme", &format!("c{place}")).creates(&key(place)))
        .collect();
    let rows: Vec<EntityRow> = committed(store, &mut writer, &created).await;
    let mut version = Version(1);
    // Whoever does not know that a row is held begins on the fast path, and hears the same of it.
    let paths = [CommitPath::Careful, CommitPath::Fast];
    let both = obstacles()
        .into_iter()
        .flat_map(|case| paths.map(|path| (case, path)));
    for (round, (case, path)) in both.enumerate() {
        let entry = |place: usize| {
            let id = if case.known == Some(place) {
                "c0".to_owned()
            } else {
                format!("{round}-{place}")
            };
            let moved = case.moved == Some(place);
            let expected = if moved { version.next() } else { version };
            Entry::new("acme", &id).moves(&key(place), Some(rows[place]), expected)
        };
        let held = entity_name("acme", &key(case.busy));
        let release = hold(held.clone()).await;
        let before = dump(store).await;
        let mut batch = writer.batch(&(0..PLACES).map(entry).collect::<Vec<_>>());
        batch.path = path;
        let surprises = match writer.commit_batch(store, batch).await {
            Ok(CommitReply::Surprised(surprises)) => surprises,
            other => panic!("{case:?}, {path:?}: {other:?}"),
        };
        assert_eq!(dump(store).await, before, "{case:?}: something was written");
        assert_eq!(surprises.busy, [held], "{case:?}, {path:?}");
        let moved: Vec<_> = surprises
            .entities
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let expected = case.moved.map(|at| entity_name("acme", &key(at)));
        assert_eq!(moved, Vec::from_iter(expected), "{case:?}, {path:?}");
        let known = surprises.known_keys.len();
        assert_eq!(known, usize::from(case.known.is_some()), "{case:?}");
        // The rest is not held up by it, and it comes in when it is free.
        let free = |place: usize| {
            let entry = Entry::new("acme", &format!("free-{round}-{place}"));
            entry.moves(&key(place), Some(rows[place]), version)
        };
        let rest: Vec<Entry> = (0..PLACES)
            .filter(|it| *it != case.busy)
            .map(free)
            .collect();
        committed(store, &mut writer, &rest).await;
        release().await;
        committed(store, &mut writer, &[free(case.busy)]).await;
        version = version.next();
    }
}

/// Roles are what some databases have and files have not.
pub(super) fn roles(subject: &StoreUnderTest) -> Option<&'static str> {
    if subject.store.capabilities().roles {
        assert!(subject.outside.try_to_change.is_some(), "no role to try as");
        return None;
    }
    Some("capability `roles`: whoever opens this store may do everything to it")
}

pub(super) async fn r08_no_role_changes_what_is_stored_in_any_partition(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    for name in ["acme", "bolt"] {
        let entry = Entry::new(name, "k1").creates("o1").emits(1);
        committed(store, &mut writer, &[entry]).await;
    }
    let before = dump(store).await;
    let attempts = (subject.outside.try_to_change.as_ref().unwrap())().await;
    let done: Vec<_> = attempts.iter().filter(|it| it.refusal.is_none()).collect();
    assert!(done.is_empty(), "not refused: {done:#?}");
    let mut roles: Vec<&str> = attempts.iter().map(|it| it.role.as_str()).collect();
    roles.sort_unstable();
    roles.dedup();
    assert!(roles.len() > 1, "nobody tried: {roles:?}");
    println!("  {} statements of {roles:?}, all refused", attempts.len());
    assert_eq!(dump(store).await, before);
}

/// Pages are counted by servers.
pub(super) fn pages(subject: &StoreUnderTest) -> Option<&'static str> {
    let why = "capability `pages`: nothing counts the pages that a commit of this store touches, \
               or it cannot be had over one connection";
    subject.outside.pages.is_none().then_some(why)
}

/// Plans that were made on empty tables must not stay.
pub(super) async fn an_empty_store_filled_over_one_connection_does_not_get_slower(
    subject: StoreUnderTest,
) {
    const BATCH: usize = 1_000;
    const BATCHES: usize = 200;
    let pages = (subject.outside.pages.as_ref().unwrap())().await;
    let store = pages.store.as_ref();
    patiently(|| store.upkeep(upkeep_at(begin()))).await;
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    let mut touched = Vec::new();
    for batch in 0..BATCHES {
        let entries: Vec<Entry> = (0..BATCH)
            .map(|event| {
                // In no order, as real keys come.
                let number = (batch * BATCH + event).wrapping_mul(2_654_435_761) % 1_000_000_007;
                Entry::new("acme", &format!("{batch}-{event}")).creates(&format!("o{number:010}"))
            })
            .collect();
        let before = (pages.touched)().await;
        committed(store, &mut writer, &entries).await;
        touched.push((pages.touched)().await - before);
    }
    let mean = |of: &[i64]| of.iter().sum::<i64>() / i64::try_from(of.len()).unwrap();
    let (first, last) = (mean(&touched[1..11]), mean(&touched[BATCHES - 10..]));
    println!(
        "  pages touched by a commit of {BATCH} new entities: first {first}, last {last}, most {}",
        touched.iter().max().unwrap()
    );
    assert!(first > 0, "nothing was counted");
    assert!(last <= 2 * first, "first {first}, last {last}");
}
