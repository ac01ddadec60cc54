use std::sync::Arc;

use bytes::Bytes;

use super::shelf::{Shelf, block_on, source};
use super::{CheckedFor, VerifyOptions, VerifyProgress, VerifyReport, verify};
use crate::position::{Sequence, Version};
use crate::store::ChainAnchor;

/// Two tenants, three source partitions, entities that two of them share, and one of every outcome.
fn filled() -> Shelf {
    let mut shelf = Shelf::default();
    for round in 0..40_u64 {
        for (tenant, partition) in [("a", 0), ("a", 1), ("b", 0), ("b", 2)] {
            let subject = format!("s{}", round % 7);
            let amount = round.to_string();
            shelf.commit(
                tenant,
                partition,
                &[("add", &subject, &amount), ("add", "hot", "1")],
            );
        }
    }
    shelf.commit("a", 0, &[("refuse", "s1", "1"), ("break", "s2", "1")]);
    shelf.commit("a", 0, &[("unheard", "s1", "1"), ("ignore", "s1", "1")]);
    shelf.commit_raw("a", 1, Bytes::from_static(b"not json"));
    shelf
}

async fn report(shelf: &Shelf, options: VerifyOptions) -> VerifyReport {
    verify(shelf, &shelf.machines(), &options, &mut |_| {})
        .await
        .unwrap()
}

fn run(shelf: &Shelf) -> VerifyReport {
    run_with(shelf, VerifyOptions::default())
}

fn run_with(shelf: &Shelf, options: VerifyOptions) -> VerifyReport {
    block_on(report(shelf, options))
}

/// The first difference, as people read it.
fn first(shelf: &Shelf) -> String {
    let report = run(shelf);
    report
        .differences
        .first()
        .unwrap_or_else(|| panic!("nothing found in {report:?}"))
        .to_string()
}

#[test]
fn what_the_engine_wrote_verifies() {
    let shelf = filled();
    let report = run(&shelf);
    assert_eq!(report.differences, []);
    assert_eq!(report.tenants, 2);
    assert_eq!(report.stream_partitions, 4);
    assert_eq!(report.records, 40 * 4 * 2 + 4);
    assert_eq!(report.effects_replayed, 40 * 4 * 2);
    assert_eq!(report.entities, 2 * 8);
    assert_eq!(report.moved_on, 0);
}

#[test]
fn a_letter_that_is_committed_while_the_log_is_read_is_no_difference() {
    let mut live = filled();
    let mut later = filled();
    later.commit("a", 0, &[("break", "s3", "1")]);
    live.later = Some(Box::new(later));
    let report = run(&live);
    assert_eq!(report.differences, []);
    assert_eq!(report.moved_on, 1);
    // Where nothing moved, one letter too many is one.
    let mut tampered = filled();
    let mut letter = tampered.letters[0].clone();
    letter.letter.id = crate::hash::Hash128(9);
    tampered.letters.push(letter);
    assert!(first(&tampered).contains("dead_letters"));
}

#[test]
fn r20_many_passes_with_little_memory_find_the_same() {
    let shelf = filled();
    let options = VerifyOptions {
        held_max: 2,
        ..VerifyOptions::default()
    };
    let report = run_with(&shelf, options);
    assert_eq!(report, run(&shelf));
    let mut tampered = filled();
    tampered.entities[3].data = Arc::from("{\"total\":1}");
    let options = VerifyOptions {
        held_max: 2,
        ..VerifyOptions::default()
    };
    assert_eq!(
        run_with(&tampered, options).differences,
        run(&tampered).differences
    );
}

#[test]
fn r20_effects_on_a_shared_entity_wait_for_nothing_when_clocks_differ() {
    let mut shelf = Shelf::default();
    shelf.clocks_ahead.insert(0, 1_000_000);
    for _ in 0..60 {
        for partition in [0, 1] {
            shelf.commit("a", partition, &[("add", "hot", "1"), ("add", "warm", "1")]);
        }
    }
    // Room for the two entities and no effect that waits: one pass, each record read once.
    let options = VerifyOptions {
        held_max: 2,
        ..VerifyOptions::default()
    };
    let mut done = 0;
    let machines = shelf.machines();
    let mut progress = |progress: VerifyProgress| done = progress.records_done;
    let report = block_on(verify(&shelf, &machines, &options, &mut progress)).unwrap();
    assert_eq!(report.differences, []);
    assert_eq!((report.records, done), (240, 240));
}

#[test]
fn an_entity_that_moves_on_behind_one_logs_end_is_no_difference() {
    let beginning = || {
        let mut shelf = Shelf::default();
        shelf.commit("a", 0, &[("add", "hot", "1")]);
        for _ in 0..20 {
            shelf.commit("a", 1, &[("add", "hot", "1")]);
        }
        shelf
    };
    let mut shelf = beginning();
    let mut later = beginning();
    // Behind the end of partition 0, which was read; and what partition 1 does next is still read.
    later.commit("a", 0, &[("add", "hot", "1")]);
    later.commit("a", 1, &[("add", "hot", "1")]);
    shelf.later_at_end = Some(Box::new(later));
    let report = run(&shelf);
    assert_eq!(report.differences, []);
    assert_eq!(report.moved_on, 3, "the entity and both source partitions");
}

#[test]
fn r07_a_changed_byte_in_the_log_is_found_where_it_is() {
    let mut shelf = filled();
    let segment = &mut shelf.segments[20];
    let body = segment
        .body
        .replacen("\"subject\":\"s", "\"subject\":\"t", 1);
    assert_ne!(body, *segment.body);
    segment.body = Arc::from(body);
    let place = format!(
        "tenant {}, log {}:{}, sequence {}: record: ",
        segment.stream_partition.tenant,
        segment.stream_partition.stream,
        segment.stream_partition.source_partition,
        segment.first_sequence
    );
    let found = first(&shelf);
    assert!(found.starts_with(&place), "{found}");
    assert!(found.contains("stored bytes hash to"), "{found}");
}

#[test]
fn r07_records_swapped_with_their_leaves_break_sequence_and_chain() {
    let mut shelf = filled();
    let body = shelf.segments[8].body.clone();
    let entries = crate::record::split_segment(&body).unwrap();
    let swapped = format!("[{},{}]", entries[1].get(), entries[0].get());
    shelf.segments[8].body = Arc::from(swapped);
    let report = run(&shelf);
    let kinds: Vec<_> = report.differences.iter().map(|d| d.checked_for).collect();
    assert_eq!(kinds[0], CheckedFor::Sequence, "{report:?}");
    assert!(kinds.contains(&CheckedFor::Chain), "{report:?}");
}

#[test]
fn r07_a_segment_written_anew_with_matching_leaves_still_breaks_the_chain() {
    let mut shelf = filled();
    let entry = shelf.segments[8].body.clone();
    let entries = crate::record::split_segment(&entry).unwrap();
    let mut body = String::from("[");
    for (index, entry) in entries.iter().enumerate() {
        let (mut record, _) = crate::record::Record::read(entry.get()).unwrap();
        if let Some(effect) = record.effects.first_mut() {
            effect.state_hash = Some(7);
        }
        if index > 0 {
            body.push(',');
        }
        let at = record.admitted_at.to_rfc3339();
        record.write(&mut body, &at);
    }
    body.push(']');
    shelf.segments[8].body = Arc::from(body);
    let report = run(&shelf);
    assert_eq!(report.differences[0].checked_for, CheckedFor::Chain);
    assert!(
        report
            .differences
            .iter()
            .any(|d| d.checked_for == CheckedFor::Replay)
    );
}

#[test]
fn r36_a_dropped_segment_is_a_gap_wherever_it_was() {
    for (index, expected) in [(0, "sequence 0"), (60, "sequence 30"), (161, "sequence ")] {
        let mut shelf = filled();
        shelf.segments.remove(index);
        let found = first(&shelf);
        assert!(found.contains("sequence: expected"), "{index}: {found}");
        assert!(found.contains(expected), "{index}: {found}");
    }
}

#[test]
fn r36_a_whole_log_that_is_gone_is_found() {
    let mut shelf = filled();
    let gone = shelf.segments[0].stream_partition.clone();
    shelf
        .segments
        .retain(|segment| segment.stream_partition != gone);
    let found = first(&shelf);
    assert!(found.contains("found the log's end"), "{found}");
    shelf.heads.remove(&gone);
    let found = first(&shelf);
    assert!(found.contains("version: expected"), "{found}");
}

#[test]
fn r20_an_entity_that_is_not_what_its_log_makes_of_it_is_named() {
    type Tamper = fn(&mut Shelf);
    let cases: [(Tamper, &str); 7] = [
        (
            |shelf| shelf.entities[1].data = Arc::from("{\"total\":999}"),
            "entity: expected stored state with hash",
        ),
        (
            |shelf| shelf.entities[1].status = crate::state::Status::new("shut").unwrap(),
            "status `shut` instead of `open`",
        ),
        (
            |shelf| shelf.entities[1].version = Version(2),
            "found version 2",
        ),
        (
            |shelf| shelf.entities[1].version = Version(2_000),
            "the effect of this version in the log, found none",
        ),
        (
            |shelf| {
                shelf.entities.remove(1);
            },
            "entity: expected a stored entity, found none",
        ),
        (
            |shelf| {
                let mut other = shelf.entities[1].clone();
                other.name.key = crate::state::EntityKey::new("never").unwrap();
                shelf.entities.push(other);
            },
            "`never`, version 1: version: expected the effect of this version",
        ),
        (
            // The same value, written in another way: byte-equal means these bytes.
            |shelf| {
                let spaced = shelf.entities[1].data.replace(':', ": ");
                shelf.entities[1].data = Arc::from(spaced);
            },
            "data that differ from byte",
        ),
    ];
    for (tamper, says) in cases {
        let mut shelf = filled();
        tamper(&mut shelf);
        let found = first(&shelf);
        assert!(found.starts_with("tenant a, counter `"), "{found}");
        assert!(found.contains(says), "{says}: {found}");
        assert!(!found.contains("999"), "values are never shown: {found}");
    }
}

#[test]
fn r20_an_effect_of_an_unknown_definition_is_named() {
    let shelf = filled();
    let report = super::shelf::block_on(verify(
        &shelf,
        &super::MachinesByHash::new(),
        &VerifyOptions {
            differences_max: 5,
            ..VerifyOptions::default()
        },
        &mut |_| {},
    ))
    .unwrap();
    assert_eq!(report.differences[0].checked_for, CheckedFor::Definition);
    assert_eq!(report.differences.len(), 5, "and no more are looked for");
}

#[test]
fn r47_counts_that_do_not_add_up_are_found() {
    let mut shelf = filled();
    let checkpoint = shelf.checkpoints.get_mut(&source(0)).unwrap();
    checkpoint.progress.counts.rejected += 1;
    let found = first(&shelf);
    assert_eq!(
        found,
        "source partition src/0: counts: expected 2 rejected, as counted, found 1"
    );
    let mut shelf = filled();
    shelf.letters.remove(0);
    let report = run(&shelf);
    assert!(!report.is_clean());
}

#[test]
fn what_retention_dropped_is_followed_by_hashes_from_the_anchor() {
    let mut shelf = filled();
    let stream_partition = shelf.segments[0].stream_partition.clone();
    let mut dropped = 0;
    let mut head = None;
    shelf.segments.retain(|segment| {
        let drop = segment.stream_partition == stream_partition && dropped < 15;
        if drop {
            dropped += 1;
            head = Some(segment.chain_head);
        }
        !drop
    });
    shelf.anchors.push(ChainAnchor {
        stream_partition,
        next_sequence: Sequence(30),
        chain_head: head.unwrap(),
    });
    let report = run(&shelf);
    // The other partition's effects of shared entities now wait for versions that nobody can replay.
    assert_eq!(report.differences, []);
    assert!(report.entities_beyond_retention > 0);
    // A wrong last state is still found, and so is a wrong anchor.
    shelf.entities[0].data = Arc::from("{\"total\":0}");
    assert!(first(&shelf).contains("stored state with hash"));
    shelf.anchors[0].chain_head = crate::chain::ChainHead::default();
    assert!(first(&shelf).contains("chain head"));
}
