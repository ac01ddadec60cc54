//! Checks the dead letters: each that must be there is there once, and no other, and what could not be
//! read is kept as it was delivered.

use std::collections::BTreeSet;

use tidegate_engine::dead_letter::{DeadLetter, DeadLetterSource};
use tidegate_engine::store::{DeadLetterFilter, StateStore};

use super::{Findings, ROWS_MAX, tenants};
use crate::check::Check;
use crate::model::ModelEvent;
use crate::stage::Stage;

/// Compares the stored letters with those of raw deliveries and of records.
pub async fn check(
    stage: &Stage,
    findings: &mut Findings,
    raw: BTreeSet<String>,
    records: BTreeSet<String>,
) {
    let mut expected = raw;
    expected.extend(records);
    let mut found = BTreeSet::new();
    for tenant in tenants(stage).await {
        let filter = DeadLetterFilter::default();
        let letters = stage.store.dead_letters(&tenant, filter, ROWS_MAX).await;
        for stored in letters.unwrap() {
            let name = format!("{tenant} {}", name_of(&stored.letter));
            check_bytes(findings, &stored.letter);
            if !found.insert(name.clone()) {
                findings.wrong(Check::DeadLetters, format!("`{name}` is kept twice"));
            }
        }
    }
    for missing in expected.difference(&found) {
        findings.wrong(Check::DeadLetters, format!("`{missing}` is missing"));
    }
    for extra in found.difference(&expected) {
        findings.wrong(Check::DeadLetters, format!("`{extra}` should not be there"));
    }
}

/// What makes a letter the same as another, within its tenant.
fn name_of(letter: &DeadLetter) -> String {
    let reason = letter.reason.as_str();
    match &letter.source {
        DeadLetterSource::Record {
            position, machine, ..
        } => {
            let (place, sequence) = (&position.source_partition, position.sequence);
            format!("{reason} {}:{place} {sequence} {machine}", position.stream)
        }
        DeadLetterSource::Raw { payload, .. } if reason == "conflict" => ModelEvent::read(payload)
            .map_or_else(
                || "conflict that no event can be read from".to_owned(),
                |event| format!("conflict {} {}", event.key, event.content),
            ),
        DeadLetterSource::Raw {
            source_partition,
            offset: Some(offset),
            ..
        } => format!("{reason} {} {offset}", source_partition.partition),
        DeadLetterSource::Raw {
            source_partition,
            offset: None,
            payload,
        } => lost_name(
            source_partition.partition,
            &ModelEvent::read(payload).map_or_else(String::new, |event| event.content),
        ),
    }
}

/// What names the letter of an emitted event that is kept as its bytes alone.
pub fn lost_name(partition: u32, content: &str) -> String {
    format!("store {partition} emitted {content}")
}

/// What no event could be read from is kept byte for byte.
fn check_bytes(findings: &mut Findings, letter: &DeadLetter) {
    let DeadLetterSource::Raw {
        source_partition,
        offset: Some(offset),
        payload,
    } = &letter.source
    else {
        return;
    };
    let place = (source_partition.partition, offset.0);
    let delivered = findings.deliveries.get(&place);
    let same = delivered
        .is_some_and(|(delivered, event)| event.is_some() || delivered.as_slice() == &payload[..]);
    if !same {
        let what = format!("that of {place:?} does not hold what was delivered");
        findings.wrong(Check::DeadLetters, what);
    }
}
