//! Requirements that need the whole of a node in trouble, each held by a test of its number. Every other
//! promise is checked in these runs as well.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::FutureExt as _;
use tidegate_engine::dead_letter::DeadLetterSource;
use tidegate_engine::hash::{Hash128, hash_fields};
use tidegate_engine::position::Sequence;
use tidegate_engine::record::{Outcome, RecordBody, split_segment};
use tidegate_engine::store::{DeadLetterFilter, StateStore as _, StoredDeadLetter};

use crate::checker::{self, Findings, ROWS_MAX, tenants};
use crate::faults::Rates;
use crate::ledger;
use crate::model::ModelEvent;
use crate::redelivery;
use crate::runner;
use crate::seed::{self, Dice, derive};
use crate::settings::Settings;
use crate::stage::Stage;
use crate::workload::PARTITIONS;

/// Runs of each requirement.
const SEEDS: u64 = 40;
/// Orders in which R10's messages come.
const ORDERS: u64 = 3;

/// A store that nothing disturbs never waits.
fn now<T>(read: impl Future<Output = T>) -> T {
    read.now_or_never()
        .expect("an undisturbed store never waits")
}

/// R10: duplicated delivery is normal. Each message is delivered 1 to 5 times in random order: the final
/// state hash is that of each once, in order, and undisturbed.
#[test]
fn r10_each_message_delivered_1_to_5_times_in_random_order_gives_the_same_final_state_hash() {
    runner::each(&seed::seeds(SEEDS / 2), |seed| {
        let messages = redelivery::messages(seed);
        let once = runner::sound(Settings {
            seed,
            rates: Rates::calm(),
            records: redelivery::once(&messages),
            checked: true,
        });
        let expected = final_state_hash(&once.stage);
        assert_eq!(received_and_admitted(&once.stage).1, messages.len() as u64);
        for order in 0..ORDERS {
            let seed = derive(seed, "order", order);
            let mut dice = Dice::new(seed, "redelivery");
            let records = redelivery::again_and_again(&messages, &mut dice);
            let deliveries = records.len() as u64;
            let mut times: BTreeMap<_, u64> = BTreeMap::new();
            for record in &records {
                *times.entry(record.payload.clone()).or_default() += 1;
            }
            let times: BTreeSet<u64> = times.into_values().collect();
            assert!(times.into_iter().eq(redelivery::DELIVERIES));
            let again = runner::sound(Settings {
                seed,
                rates: Rates::chaotic(&mut dice),
                records,
                checked: true,
            });
            assert_eq!(
                received_and_admitted(&again.stage),
                (deliveries, messages.len() as u64)
            );
            assert_eq!(final_state_hash(&again.stage), expected, "seed {seed}");
        }
    });
}

/// R36: data is ordered and immutable. Per log, sequence numbers are gapless after chaos; offsets
/// are in order; and what stood in a log while the chaos was on still stands there, byte for byte.
#[test]
fn r36_data_is_ordered_and_immutable_and_sequence_numbers_are_gapless_after_chaos() {
    runner::each(&seed::seeds(SEEDS), |seed| {
        let outcome = runner::sound(Settings::chaos(seed));
        // A changed record at any of these looks would have been a violation.
        assert!(outcome.logs.looks() > 5, "the logs were watched");
        let store = &outcome.stage.store;
        let (mut records, mut received) = (0, 0);
        for tenant in now(tenants(&outcome.stage)) {
            for head in now(store.stream_partitions(&tenant)).unwrap() {
                let place = &head.stream_partition;
                let segments = now(store.segments(place, Sequence(0), ROWS_MAX)).unwrap();
                let (mut sequences, mut offsets) = (Vec::new(), Vec::new());
                for segment in &segments {
                    for text in split_segment(&segment.body).unwrap() {
                        let entry: serde_json::Value = serde_json::from_str(text.get()).unwrap();
                        sequences.push(entry["sequence"].as_u64().unwrap());
                        offsets.extend(entry["offset"].as_u64());
                    }
                }
                let internal = place.stream.is_internal();
                // Only emitted events were never received.
                let expected = if internal { 0 } else { sequences.len() };
                assert_eq!(offsets.len(), expected, "seed {seed}: {place}");
                records += sequences.len() as u64;
                received += offsets.len() as u64;
                let gapless = 0..head.next_sequence.0;
                assert!(sequences.into_iter().eq(gapless), "seed {seed}: {place}");
                let in_order = offsets.is_sorted_by(|one, next| one < next);
                assert!(in_order, "seed {seed}: {place}: {offsets:?}");
            }
        }
        assert_eq!(records, outcome.logs.records());
        assert_eq!(received, received_and_admitted(&outcome.stage).1);
    });
}

/// R47: raw events, results and failures are all kept. Each admitted event ends in exactly one outcome
/// (of each machine that listens to it), and the counts add up.
#[test]
fn r47_raw_events_results_and_failures_are_kept_with_one_outcome_each_and_counts_add_up() {
    let machines = ledger::machines();
    runner::each(&seed::seeds(SEEDS), |seed| {
        let outcome = runner::sound(Settings::chaos(seed));
        let stage = &outcome.stage;
        let findings = now(checker::read(stage));
        let letters = dead_letters(stage);
        let mut kept = Kept::default();
        for logged in &findings.records {
            let RecordBody::Event(event) = &logged.record.body else {
                panic!("seed {seed}: nobody asked for a follow-up")
            };
            let listening: Vec<_> = machines
                .listening_to(&event.event_type)
                .map(|machine| machine.definition().machine.clone())
                .collect();
            let effects = &logged.record.effects;
            let ended: Vec<_> = effects
                .iter()
                .map(|effect| effect.machine.clone())
                .collect();
            assert_eq!(ended, listening, "seed {seed}: one outcome of each machine");
            kept.unhandled += u64::from(effects.is_empty());
            for effect in effects {
                kept.note(effect.outcome);
                let has_result = effect.version.is_some() && effect.state_hash.is_some();
                assert_eq!(
                    has_result,
                    effect.outcome == Outcome::Applied,
                    "seed {seed}"
                );
                let says_why = effect.reason.is_some();
                let is_failure = matches!(effect.outcome, Outcome::Rejected | Outcome::Dead);
                assert!(says_why || !is_failure, "seed {seed}: {effect:?}");
            }
        }
        check_raw(seed, &findings, &letters);
        kept.check(seed, stage, &findings, &letters);
    });
}

/// What was delivered is kept: an event in the log, its data byte for byte as they came, or in a dead
/// letter; what is no event, byte for byte, in a dead letter. What only repeats is kept by the first.
fn check_raw(seed: u64, findings: &Findings, letters: &[StoredDeadLetter]) {
    let content = |event: &ModelEvent| {
        let ModelEvent {
            tenant,
            key,
            content,
            ..
        } = event;
        (tenant.clone(), key.clone(), content.clone())
    };
    let (mut contents, mut payloads) = (BTreeSet::new(), BTreeSet::new());
    for logged in &findings.records {
        contents.insert(content(&logged.event));
        if logged.internal {
            continue;
        }
        let place = (logged.partition, logged.offset);
        let raw = std::str::from_utf8(&findings.deliveries[&place].0).unwrap();
        let data = &raw[raw.find("\"data\":").unwrap()..raw.len() - 1];
        let RecordBody::Event(stored) = &logged.record.body else {
            continue;
        };
        let mut text = String::new();
        stored.write_json(&mut text);
        assert!(
            text.contains(data),
            "seed {seed}: {place:?} lost bytes of its data"
        );
    }
    for stored in letters {
        if let DeadLetterSource::Raw { payload, .. } = &stored.letter.source {
            payloads.insert(payload.to_vec());
            contents.extend(ModelEvent::read(payload).as_ref().map(content));
        }
    }
    for (place, (payload, event)) in &findings.deliveries {
        let is_kept = match event {
            Some(event) => contents.contains(&content(event)),
            None => payloads.contains(payload),
        };
        assert!(is_kept, "seed {seed}: {place:?} is kept nowhere");
    }
}

/// Outcomes as the log has them.
#[derive(Default)]
struct Kept {
    applied: u64,
    rejected: u64,
    ignored: u64,
    dead: u64,
    unhandled: u64,
}

impl Kept {
    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Applied => self.applied += 1,
            Outcome::Rejected => self.rejected += 1,
            Outcome::Ignored => self.ignored += 1,
            Outcome::Dead => self.dead += 1,
            Outcome::Discarded => panic!("nobody discarded anything"),
        }
    }

    /// Deliveries, admissions and outcomes add up, and every failure has its dead letter.
    fn check(&self, seed: u64, stage: &Stage, findings: &Findings, letters: &[StoredDeadLetter]) {
        let mut counts = tidegate_engine::checkpoint::Counts::default();
        for partition in 0..PARTITIONS {
            counts.add(&stage.checkpoint(partition).unwrap().progress.counts);
        }
        assert_eq!(
            counts.received(),
            findings.deliveries.len() as u64,
            "seed {seed}"
        );
        let internal = findings.records.iter().filter(|logged| logged.internal);
        let internal = internal.count() as u64;
        let received = findings.records.len() as u64 - internal;
        assert_eq!(counts.admitted, received, "seed {seed}");
        assert_eq!(counts.emitted, counts.looped_back, "seed {seed}");
        let counted = (
            (counts.applied, counts.rejected, counts.ignored),
            (counts.dead, counts.unhandled),
        );
        let kept = (
            (self.applied, self.rejected, self.ignored),
            (self.dead, self.unhandled),
        );
        assert_eq!(counted, kept, "seed {seed}");
        let (mut of_effects, mut unreadable, mut lost) = (0, 0, 0);
        for stored in letters {
            match &stored.letter.source {
                DeadLetterSource::Record { .. } => of_effects += 1,
                DeadLetterSource::Raw { offset: None, .. } => lost += 1,
                DeadLetterSource::Raw { .. } if stored.letter.reason.as_str() != "conflict" => {
                    unreadable += 1;
                }
                DeadLetterSource::Raw { .. } => {}
            }
        }
        assert_eq!(
            (of_effects, unreadable),
            (self.dead, counts.unreadable),
            "seed {seed}"
        );
        assert_eq!(counts.looped_back, internal + lost, "seed {seed}");
    }
}

/// A hash over every entity: its name, version, status and bytes.
fn final_state_hash(stage: &Stage) -> Hash128 {
    let mut states = Vec::new();
    for tenant in now(tenants(stage)) {
        for entity in now(stage.store.entities(&tenant, None, ROWS_MAX)).unwrap() {
            let (name, status) = (&entity.name, &entity.status);
            states.push(format!(
                "{tenant} {} {} {} {status} {}",
                name.machine, name.key, entity.version, entity.data
            ));
        }
    }
    assert!(!states.is_empty());
    states.sort();
    let fields: Vec<&[u8]> = states.iter().map(|state| state.as_bytes()).collect();
    hash_fields("simulation.state", &fields)
}

fn received_and_admitted(stage: &Stage) -> (u64, u64) {
    let counts = (0..PARTITIONS).map(|it| stage.checkpoint(it).unwrap().progress.counts);
    counts.fold((0, 0), |sum, it| {
        (sum.0 + it.received(), sum.1 + it.admitted)
    })
}

fn dead_letters(stage: &Stage) -> Vec<StoredDeadLetter> {
    let of = |tenant| {
        let letters = stage
            .store
            .dead_letters(&tenant, DeadLetterFilter::default(), ROWS_MAX);
        now(letters).unwrap()
    };
    now(tenants(stage)).into_iter().flat_map(of).collect()
}
