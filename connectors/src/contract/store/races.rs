//! Writers at once. What they agree on is the store's work alone: nothing here caches keys or versions
//! beyond what a reply told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tidegate_engine::commit::{CommitPath, CommitReply, EntityName, StoredEntity};
use tidegate_engine::hash::Hash128;
use tidegate_engine::position::Version;
use tidegate_engine::record::{Record, RecordBody};
use tidegate_engine::store::StateStore;
use tokio::sync::Barrier;

use super::reading::verified_records;
use super::{StoreUnderTest, begin, patiently, rotate, submit};
use crate::contract::batch::{Entry, Writer, entity_name, source_partition, tenant};

/// Writers of R24 and of the race with rotation.
const WRITERS: u32 = 16;

async fn writer_of(store: &dyn StateStore, partition: u32) -> Writer {
    let place = source_partition("orders", partition);
    patiently(|| Writer::claim(store, &place, "racer", begin())).await
}

async fn load(store: &dyn StateStore, name: &EntityName) -> Option<StoredEntity> {
    let mut found = patiently(|| store.load_entities(&name.tenant, vec![name.clone()])).await;
    found.pop()
}

/// Commits until the batch is in, leaving out what is known; returns the keys that took effect.
async fn commit_unknown(
    store: &dyn StateStore,
    writer: &mut Writer,
    mut entries: Vec<Entry>,
) -> Vec<Hash128> {
    loop {
        let batch = writer.batch(&entries);
        match patiently(|| submit(store, &batch)).await {
            CommitReply::Committed { .. } => {
                writer.settle(&batch);
                return entries.iter().map(Entry::key_hash).collect();
            }
            CommitReply::Surprised(surprises) => {
                assert!(!surprises.known_keys.is_empty(), "{surprises:?}");
                for known in &surprises.known_keys {
                    let before = entries.len();
                    entries.retain(|entry| entry.key_hash() != known.key);
                    assert_eq!(entries.len(), before - 1, "a key that was not asked for");
                }
            }
            CommitReply::Fenced => panic!("nobody else owns this source partition"),
        }
    }
}

/// Every version of an entity in the logs, in the order in which records are read.
fn versions(records: &[Record], key: &str) -> Vec<Version> {
    let mut found: Vec<Version> = records
        .iter()
        .flat_map(|record| &record.effects)
        .filter(|effect| effect.key.as_ref().is_some_and(|it| it.as_str() == key))
        .filter_map(|effect| effect.version)
        .collect();
    found.sort();
    found
}

fn gapless_to(last: u64) -> Vec<Version> {
    (1..=last).map(Version).collect()
}

/// Entities that are contested in one race.
const CONTESTED: usize = 20;

/// Entities that one commit moves: all of them or none, so each commit plays so many rounds.
const AT_ONCE: usize = 10;

/// Rounds of R24: versions that sixteen writers play for, over all entities.
const ROUNDS: u64 = 10_000;

/// Entities that several writers move, each as fast as it can.
struct Contest {
    names: Vec<EntityName>,
    /// Versions to play for, of each entity.
    target: u64,
    lost: AtomicU64,
    busy: AtomicU64,
}

impl Contest {
    fn new() -> Arc<Self> {
        let names = (0..CONTESTED).map(|it| entity_name("acme", &format!("contested-{it:02}")));
        Arc::new(Self {
            names: names.collect(),
            target: ROUNDS / CONTESTED as u64,
            lost: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        })
    }

    /// Moves the entities on until all are at the target; how many versions this writer won.
    async fn play(&self, store: &dyn StateStore, partition: u32) -> u64 {
        let mut writer = writer_of(store, partition).await;
        let mut seen: BTreeMap<EntityName, StoredEntity> = BTreeMap::new();
        let (mut won, mut attempt) = (0, 0_usize);
        loop {
            let version = |name: &EntityName| seen.get(name).map_or(Version(0), |it| it.version);
            let open = self.names.iter().filter(|it| version(it).0 < self.target);
            let mut names: Vec<&EntityName> = open.collect();
            if names.is_empty() {
                return won;
            }
            attempt += 1;
            // Not the same ones each time: commits overlap in part.
            let from = (attempt * 7 + partition as usize) % names.len();
            names.rotate_left(from);
            names.truncate(AT_ONCE);
            let entries = names.iter().enumerate().map(|(number, name)| {
                let row = seen.get(name).map(|entity| entity.row);
                Entry::new("acme", &format!("{partition}-{attempt}-{number}")).moves(
                    name.key.as_str(),
                    row,
                    version(name),
                )
            });
            let mut batch = writer.batch(&entries.collect::<Vec<_>>());
            // Between the read and the commit, others move: a store in memory would not let them.
            tokio::task::yield_now().await;
            if self.lost.load(Ordering::Relaxed) % 2 == 1 {
                batch.path = CommitPath::Careful;
            }
            match patiently(|| submit(store, &batch)).await {
                CommitReply::Committed { .. } => {
                    writer.settle(&batch);
                    won += batch.entities.len() as u64;
                    let names: Vec<_> = batch.entities.iter().map(|it| it.name.clone()).collect();
                    let tenant = &batch.tenants[0];
                    let loaded = patiently(|| store.load_entities(tenant, names.clone())).await;
                    seen.extend(loaded.into_iter().map(|it| (it.name.clone(), it)));
                }
                CommitReply::Surprised(surprises) => {
                    assert!(surprises.known_keys.is_empty(), "{surprises:?}");
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    if surprises.entities.is_empty() {
                        self.busy.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    for (name, as_is) in surprises.entities {
                        let as_is = as_is.expect("no entity goes away");
                        assert_ne!(Some(&as_is), seen.get(&name), "no surprise");
                        seen.insert(name, as_is);
                    }
                }
                CommitReply::Fenced => panic!("nobody else owns this source partition"),
            }
        }
    }

    async fn run(self: Arc<Self>, subject: &StoreUnderTest) -> Vec<u64> {
        let second = subject.second().await;
        let players: Vec<_> = (0..WRITERS)
            .map(|partition| {
                let store = Arc::clone(if partition % 2 == 0 {
                    &subject.store
                } else {
                    &second
                });
                let contest = Arc::clone(&self);
                tokio::spawn(async move { contest.play(store.as_ref(), partition).await })
            })
            .collect();
        let mut won = Vec::new();
        for player in players {
            won.push(player.await.unwrap());
        }
        won
    }
}

pub(super) async fn r24_one_writer_wins_each_version(subject: StoreUnderTest) {
    let contest = Contest::new();
    let won = Arc::clone(&contest).run(&subject).await;
    println!(
        "  {ROUNDS} versions by {WRITERS} writers; won {won:?}, commits lost {}, of them busy {}",
        contest.lost.load(Ordering::Relaxed),
        contest.busy.load(Ordering::Relaxed)
    );
    assert_eq!(won.iter().sum::<u64>(), ROUNDS, "one winner a version");
    let store = subject.store.as_ref();
    let records = verified_records(store, &tenant("acme")).await;
    for name in &contest.names {
        let recorded = versions(&records, name.key.as_str());
        assert_eq!(recorded, gapless_to(contest.target), "no update was lost");
        let entity = load(store, name).await.unwrap();
        assert_eq!(entity.version, Version(contest.target));
    }
}

pub(super) async fn three_source_partitions_share_an_entity_and_all_get_on(
    subject: StoreUnderTest,
) {
    const EACH: u64 = 60;
    let shared = entity_name("acme", "contested");
    let second = subject.second().await;
    let sharers: Vec<_> = (0..3_u32)
        .map(|partition| {
            let store = Arc::clone(if partition == 1 {
                &second
            } else {
                &subject.store
            });
            let name = shared.clone();
            tokio::spawn(async move {
                let store = store.as_ref();
                let mut writer = writer_of(store, partition).await;
                for event in 0..EACH {
                    share(store, &mut writer, &name, partition, event).await;
                }
            })
        })
        .collect();
    for sharer in sharers {
        sharer.await.unwrap();
    }
    let store = subject.store.as_ref();
    let records = verified_records(store, &tenant("acme")).await;
    assert_eq!(records.len() as u64, 3 * EACH);
    assert_eq!(versions(&records, "contested"), gapless_to(3 * EACH));
    for partition in 0..3 {
        for event in 0..EACH {
            let own = format!("own-{partition}-{event}");
            assert_eq!(versions(&records, &own), gapless_to(1));
        }
    }
}

/// One event that moves the shared entity and creates one of its own; it gets on within bounds.
async fn share(
    store: &dyn StateStore,
    writer: &mut Writer,
    name: &EntityName,
    partition: u32,
    event: u64,
) {
    const TRIES_MAX: u32 = 2_000;
    let mut seen = load(store, name).await;
    for _ in 0..TRIES_MAX {
        let expected = seen.as_ref().map_or(Version(0), |entity| entity.version);
        let row = seen.as_ref().map(|entity| entity.row);
        let own = Entry::new("acme", &format!("{partition}-{event}"))
            .moves(name.key.as_str(), row, expected)
            .creates(&format!("own-{partition}-{event}"));
        let batch = writer.batch(&[own]);
        match patiently(|| submit(store, &batch)).await {
            CommitReply::Committed { .. } => return writer.settle(&batch),
            CommitReply::Surprised(surprises) => {
                assert!(surprises.known_keys.is_empty(), "{surprises:?}");
                match surprises.entities.into_iter().find(|(it, _)| it == name) {
                    Some((_, as_is)) => seen = as_is,
                    None => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
            CommitReply::Fenced => panic!("nobody else owns this source partition"),
        }
    }
    panic!("partition {partition} did not get on in {TRIES_MAX} tries");
}

pub(super) async fn r43_two_engines_race_equal_keys_with_one_effect_each(subject: StoreUnderTest) {
    const KEYS: u32 = 10_000;
    const BATCH: usize = 100;
    let second = subject.second().await;
    let barrier = Arc::new(Barrier::new(2));
    let engines: Vec<_> = [Arc::clone(&subject.store), second]
        .into_iter()
        .zip(0_u32..)
        .map(|(store, partition)| {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                let mut writer = writer_of(store.as_ref(), partition).await;
                let mut taken = Vec::new();
                let keys: Vec<u32> = (0..KEYS).collect();
                for keys in keys.chunks(BATCH) {
                    // Both begin each batch together, so that every key is raced for.
                    barrier.wait().await;
                    let entries = keys
                        .iter()
                        .map(|key| Entry::new("acme", &format!("key-{key}")));
                    let entries = entries.collect();
                    taken.extend(commit_unknown(store.as_ref(), &mut writer, entries).await);
                }
                taken
            })
        })
        .collect();
    let mut effects: BTreeMap<Hash128, u32> = BTreeMap::new();
    let mut by_engine = Vec::new();
    for engine in engines {
        let taken = engine.await.unwrap();
        by_engine.push(taken.len());
        for key in taken {
            *effects.entry(key).or_default() += 1;
        }
    }
    println!("  {KEYS} equal keys, taken by the engines: {by_engine:?}");
    assert_eq!(effects.len(), KEYS as usize);
    assert!(effects.values().all(|times| *times == 1));
    let records = verified_records(subject.store.as_ref(), &tenant("acme")).await;
    assert_eq!(records.len(), KEYS as usize);
}

/// How often the dedupe tables are rotated while writers race.
const ROTATION_PERIOD: Duration = Duration::from_millis(50);

/// Sixteen writers that race for the keys of one round after the other, all for the same ones.
struct Rounds {
    /// All writers and whoever counts the rounds.
    begin: Barrier,
    /// Commits done, over all rounds.
    done: AtomicU64,
    over: AtomicBool,
}

impl Rounds {
    const KEYS: u64 = 4;
    const BATCH: usize = 2;
    const COMMITS: u64 = WRITERS as u64 * (Self::KEYS / Self::BATCH as u64);

    async fn race(&self, store: &dyn StateStore, partition: u32) {
        let mut writer = writer_of(store, partition).await;
        for round in 0_u64.. {
            self.begin.wait().await;
            if self.over.load(Ordering::Acquire) {
                return;
            }
            let mut keys: Vec<u64> = (0..Self::KEYS).collect();
            // Some race for the same key at once, others come to it after the rotation.
            keys.rotate_left((partition % 4) as usize);
            for keys in keys.chunks(Self::BATCH) {
                let entries = keys
                    .iter()
                    .map(|key| Entry::new("acme", &format!("{round}-{key}")));
                commit_unknown(store, &mut writer, entries.collect()).await;
                self.done.fetch_add(1, Ordering::AcqRel);
                tokio::task::yield_now().await;
            }
        }
    }

    /// Rotates the tables at whatever point the writers are; how many rounds it took. A round that lasts
    /// longer than a period holds the next rotation up beyond its end: two rotations in one race would be
    /// a window shorter than the race, in which one effect a key is not what a store promises.
    async fn rotate_beside(&self, store: &dyn StateStore, rotations: u64) -> u64 {
        let mut now = begin();
        rotate(store, &mut now).await;
        let begun = tokio::time::Instant::now();
        let mut timer = tokio::time::interval(ROTATION_PERIOD);
        timer.tick().await;
        let (mut rounds, mut rotated, mut in_the_middle) = (0, 0, 0);
        while rotated < rotations {
            self.begin.wait().await;
            rounds += 1;
            let end = rounds * Self::COMMITS;
            let mut may_rotate = true;
            while self.done.load(Ordering::Acquire) < end {
                tokio::select! {
                    biased;
                    _ = timer.tick(), if may_rotate => {
                        let done = self.done.load(Ordering::Acquire);
                        rotate(store, &mut now).await;
                        rotated += 1;
                        may_rotate = false;
                        in_the_middle += u64::from(done > end - Self::COMMITS && done < end);
                    }
                    () = tokio::time::sleep(Duration::from_micros(200)) => {}
                }
            }
            if !may_rotate {
                timer.reset();
            }
        }
        self.over.store(true, Ordering::Release);
        self.begin.wait().await;
        println!(
            "  {rotated} rotations in {rounds} rounds, one every {} ms, {in_the_middle} of them \
             when some of a round had been committed and some had not",
            begun.elapsed().as_millis() / u128::from(rotated)
        );
        assert!(in_the_middle > 0, "no rotation met a race");
        rounds
    }
}

pub(super) async fn sixteen_writers_of_equal_keys_have_one_effect_each_while_dedupe_rotates(
    subject: StoreUnderTest,
) {
    const ROTATIONS: u64 = 40;
    let second = subject.second().await;
    let rounds = Arc::new(Rounds {
        begin: Barrier::new(WRITERS as usize + 1),
        done: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let writers: Vec<_> = (0..WRITERS)
        .map(|partition| {
            let store = Arc::clone(if partition % 2 == 0 {
                &subject.store
            } else {
                &second
            });
            let rounds = Arc::clone(&rounds);
            tokio::spawn(async move { rounds.race(store.as_ref(), partition).await })
        })
        .collect();
    let store = subject.store.as_ref();
    let raced = rounds.rotate_beside(store, ROTATIONS).await;
    for writer in writers {
        writer.await.unwrap();
    }
    let records = verified_records(store, &tenant("acme")).await;
    let mut effects: BTreeMap<Hash128, u32> = BTreeMap::new();
    for record in &records {
        if let RecordBody::Event(event) = &record.body {
            *effects.entry(event.idempotency_hash()).or_default() += 1;
        }
    }
    assert_eq!(effects.len() as u64, raced * Rounds::KEYS);
    let twice = effects.values().filter(|times| **times > 1).count();
    assert_eq!(twice, 0, "keys with more than one effect");
}
