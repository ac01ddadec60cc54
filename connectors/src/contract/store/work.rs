//! Open work: in the order of the commits that made it, and deleted by the commit that does it.

use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitReply, OpenWork, WorkDone, WorkPlace};
use tidegate_engine::position::{Revision, SourcePartition};
use tidegate_engine::store::{StateStore, StoreError, StoredOpenWork};

use super::reading::dump;
use super::{StoreUnderTest, begin, committed, submit};
use crate::contract::batch::{Entry, Writer, source_partition, tenant};
use crate::store::batch_form;

fn done(name: &str, revision: Revision, number: u32) -> WorkDone {
    WorkDone {
        tenant: tenant(name),
        place: WorkPlace { revision, number },
    }
}

/// A batch of the writer that does this work and admits nothing.
fn doing(writer: &Writer, mut work_done: Vec<WorkDone>) -> CommitBatch {
    work_done.sort_by(|left, right| (&left.tenant, left.place).cmp(&(&right.tenant, right.place)));
    let mut batch = writer.batch(&[]);
    batch.tenants = work_done.iter().map(|done| done.tenant.clone()).collect();
    batch.tenants.dedup();
    batch.work_done = work_done;
    batch
}

async fn all(store: &dyn StateStore, name: &str, place: &SourcePartition) -> Vec<StoredOpenWork> {
    let work = store.open_work(&tenant(name), place, None, 1_000).await;
    work.unwrap()
}

async fn claim(store: &dyn StateStore, partition: u32) -> (SourcePartition, Writer) {
    let place = source_partition("orders", partition);
    let writer = Writer::claim(store, &place, "a", begin()).await.unwrap();
    (place, writer)
}

pub(super) async fn open_work_comes_in_the_order_of_its_commits_and_in_pages(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let (place, mut writer) = claim(store, 0).await;
    let (other, mut other_writer) = claim(store, 1).await;
    let mut expected: Vec<(WorkPlace, OpenWork)> = Vec::new();
    for round in 0..3 {
        let mut batch = writer.batch(&[
            Entry::new("acme", &format!("a{round}")).emits(3),
            Entry::new("bolt", &format!("b{round}")).emits(1),
            Entry::new("acme", &format!("c{round}")).emits(2),
        ]);
        for work in &mut batch.open_work {
            // What was committed first comes first, whatever it is due and whatever its identity is.
            work.due = Timestamp(writer.now.0 - i64::from(round));
        }
        let of_acme = batch
            .open_work
            .iter()
            .filter(|it| it.tenant == tenant("acme"));
        expected.extend(of_acme.map(|work| {
            let (revision, number) = (batch.revision, work.number);
            (WorkPlace { revision, number }, work.clone())
        }));
        let reply = writer.commit_batch(store, batch).await.unwrap();
        assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
        let entry = Entry::new("acme", &format!("other{round}")).emits(1);
        committed(store, &mut other_writer, &[entry]).await;
    }
    assert!(expected.is_sorted_by_key(|(place, _)| *place));
    for limit in [1, 4, 100] {
        let mut found: Vec<StoredOpenWork> = Vec::new();
        loop {
            let after = found.last().map(|last| last.place);
            let page = store.open_work(&tenant("acme"), &place, after, limit).await;
            let page = page.unwrap();
            assert!(page.len() <= limit as usize);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found.len(), expected.len());
        for (found, (place, expected)) in found.iter().zip(&expected) {
            assert_eq!(found.place, *place);
            assert_eq!(found.id, expected.id);
            assert_eq!(found.kind, expected.kind.as_str());
            assert_eq!(found.cause, expected.cause);
            assert_eq!(found.event, expected.event);
        }
    }
    assert_eq!(all(store, "bolt", &place).await.len(), 3);
    assert_eq!(all(store, "acme", &other).await.len(), 3);
    assert_eq!(all(store, "bolt", &other).await, []);
}

pub(super) async fn work_is_deleted_by_the_commit_that_does_it_and_that_commit_may_make_more(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let (place, mut writer) = claim(store, 0).await;
    let made = writer.checkpoint.revision;
    let entries = [
        Entry::new("acme", "k1").emits(3),
        Entry::new("bolt", "k2").emits(1),
    ];
    committed(store, &mut writer, &entries).await;
    let mut batch = writer.batch(&[Entry::new("acme", "k3").emits(1)]);
    batch.tenants = vec![tenant("acme"), tenant("bolt")];
    batch.work_done = vec![
        done("acme", made, 0),
        done("acme", made, 2),
        done("bolt", made, 0),
    ];
    let again = batch.revision;
    batch.progress.counts.looped_back = 3;
    let reply = writer.commit_batch(store, batch).await.unwrap();
    assert!(matches!(reply, CommitReply::Committed { .. }), "{reply:?}");
    let left: Vec<_> = all(store, "acme", &place).await;
    let left: Vec<_> = left.iter().map(|work| work.place).collect();
    assert_eq!(
        left,
        [done("acme", made, 1).place, done("acme", again, 0).place]
    );
    assert_eq!(all(store, "bolt", &place).await, []);
    let checkpoint = store.checkpoint(&place).await.unwrap().unwrap();
    assert_eq!(checkpoint.progress.counts.looped_back, 3);
    assert_eq!(checkpoint, writer.checkpoint);
}

pub(super) async fn work_that_is_not_there_fails_the_batch_that_did_it_whole(
    subject: StoreUnderTest,
) {
    let store = subject.store.as_ref();
    let (place, mut writer) = claim(store, 0).await;
    let made = writer.checkpoint.revision;
    let entries = [Entry::new("acme", "k1").emits(2), Entry::new("bolt", "k2")];
    committed(store, &mut writer, &entries).await;
    let (_, mut other) = claim(store, 1).await;
    committed(store, &mut other, &[Entry::new("acme", "k3")]).await;
    let batch = doing(&writer, vec![done("acme", made, 0)]);
    writer.commit_batch(store, batch).await.unwrap();

    let before = dump(store).await;
    let (first, second) = (done("acme", made, 0), done("acme", made, 1));
    let wrong = [
        ("done before", doing(&writer, vec![first, second.clone()])),
        (
            "another tenant's",
            doing(&writer, vec![done("bolt", made, 1)]),
        ),
        (
            "another source partition's",
            doing(&other, vec![second.clone()]),
        ),
        (
            "another revision's",
            doing(&writer, vec![done("acme", made.next(), 1)]),
        ),
    ];
    for (what, mut batch) in wrong {
        batch.progress.counts.looped_back += 1;
        let answer = submit(store, &batch).await;
        assert!(
            matches!(&answer, Err(StoreError::Unexpected { code, .. })
                if code == batch_form::CODE_WORK_GONE),
            "{what}: the store answered {answer:?}"
        );
        assert_eq!(dump(store).await, before, "{what}: something was written");
    }
    let batch = doing(&writer, vec![second]);
    writer.commit_batch(store, batch).await.unwrap();
    assert_eq!(all(store, "acme", &place).await, []);
}

pub(super) async fn work_stays_when_its_batch_is_surprised_or_fenced(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let (place, mut writer) = claim(store, 0).await;
    let made = writer.checkpoint.revision;
    committed(store, &mut writer, &[Entry::new("acme", "k1").emits(1)]).await;
    let before = dump(store).await;
    let mut surprised = writer.batch(&[Entry::new("acme", "k1")]);
    surprised.work_done = vec![done("acme", made, 0)];
    let reply = submit(store, &surprised).await.unwrap();
    assert!(matches!(reply, CommitReply::Surprised(_)), "{reply:?}");
    assert_eq!(dump(store).await, before);
    let mut fenced = doing(&writer, vec![done("acme", made, 0)]);
    fenced.revision = made;
    let reply = submit(store, &fenced).await.unwrap();
    assert_eq!(reply, CommitReply::Fenced);
    assert_eq!(dump(store).await, before);
    assert_eq!(all(store, "acme", &place).await.len(), 1);
}

pub(super) async fn whose_work_is_open_is_told_in_order_and_in_pages(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let (place, mut writer) = claim(store, 0).await;
    let (other, mut other_writer) = claim(store, 1).await;
    let nobody = store.tenants_with_open_work(&place, None, 10).await;
    assert_eq!(nobody.unwrap(), []);
    let made = writer.checkpoint.revision;
    let entries: Vec<_> = ["delta", "acme", "bolt", "a_b", "a-b"]
        .into_iter()
        .map(|name| Entry::new(name, "k").emits(u32::from(name != "bolt") * 2))
        .collect();
    committed(store, &mut writer, &entries).await;
    let entry = Entry::new("bolt", "other").emits(1);
    committed(store, &mut other_writer, &[entry]).await;
    let both = vec![done("delta", made, 0), done("delta", made, 1)];
    let batch = doing(&writer, both);
    writer.commit_batch(store, batch).await.unwrap();
    for limit in [1, 2, 10] {
        let mut found = Vec::new();
        loop {
            let page = store
                .tenants_with_open_work(&place, found.last(), limit)
                .await
                .unwrap();
            assert!(page.len() <= limit as usize);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, [tenant("a-b"), tenant("a_b"), tenant("acme")]);
    }
    let found = store.tenants_with_open_work(&other, None, 10).await;
    assert_eq!(found.unwrap(), [tenant("bolt")]);
    let unknown = source_partition("unknown", 0);
    let found = store.tenants_with_open_work(&unknown, None, 10).await;
    assert_eq!(found.unwrap(), []);
}
