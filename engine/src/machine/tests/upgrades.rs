//! Which definition may follow which, and what `validate` warns of.

use std::collections::BTreeMap;

use super::order::ORDER_YAML;
use super::{CompiledMachine, MachineDefinition, Processor, loaded, machine_text};
use crate::machine::upgrade::{StoredDefinition, Upgrade, UpgradeRefused, check_upgrade};
use crate::machine::warnings;
use crate::state::Status;

fn stored(machine: &CompiledMachine) -> StoredDefinition {
    let definition = machine.definition();
    StoredDefinition {
        version: definition.version,
        hash: definition.hash,
        text: definition.text.clone(),
    }
}

fn counts(of: &[(&str, u64)]) -> BTreeMap<Status, u64> {
    of.iter()
        .map(|(status, count)| (Status::new(status).expect("a status"), *count))
        .collect()
}

/// Version 2 of a text.
fn second(text: &str) -> String {
    text.replace("\nversion: 1\n", "\nversion: 2\n")
}

fn check(
    known: &[&CompiledMachine],
    new: &CompiledMachine,
    entities: &[(&str, u64)],
) -> Result<Upgrade, UpgradeRefused> {
    let known: Vec<StoredDefinition> = known.iter().map(|machine| stored(machine)).collect();
    check_upgrade(&known, new.definition(), &counts(entities))
}

/// Entities by status, as the store counts them.
const SOME: [(&str, u64); 3] = [("placed", 3), ("cancelled", 2), ("paid", 0)];

#[test]
fn definitions_follow_each_other_by_version_and_text() {
    let one = loaded(ORDER_YAML);
    let comment = loaded(&format!("{ORDER_YAML}# changed\n"));
    let two = loaded(&second(ORDER_YAML));

    assert_eq!(check(&[], &one, &[]), Ok(Upgrade::Activate));
    assert_eq!(check(&[&one], &one, &SOME), Ok(Upgrade::Unchanged));
    assert_eq!(check(&[&one], &two, &SOME), Ok(Upgrade::Activate));
    assert_eq!(check(&[&two, &one], &two, &SOME), Ok(Upgrade::Unchanged));

    let same = check(&[&one], &comment, &SOME).expect_err("another text");
    assert_eq!(
        same.to_string(),
        "machine `order`: version 1 is stored with another text (5 entities); \
         give the changed definition version 2"
    );
    let lower = check(&[&one, &two], &one, &SOME).expect_err("a lower version");
    assert_eq!(
        lower.to_string(),
        "machine `order`: version 1 is lower than the stored 2 (5 entities); \
         to go back, give the earlier text version 3"
    );
}

#[test]
fn a_definition_keeps_the_states_that_entities_are_in() {
    let one = loaded(ORDER_YAML);
    let without_cancelled = {
        let text = second(ORDER_YAML).replace(", cancelled]", "]");
        let (before, rest) = text
            .split_once("  order.cancelled:\n")
            .expect("its handler");
        let (_, after) = rest.split_once("on_unmatched").expect("its end");
        let (after, _) = after.split_once("tests:").expect("its tests");
        loaded(&format!("{before}on_unmatched{after}"))
    };
    let missing = check(&[&one], &without_cancelled, &SOME).expect_err("a missing state");
    assert_eq!(
        missing.to_string(),
        "machine `order`: version 2 lacks states that entities are in: `cancelled` (2 entities)"
    );
    assert_eq!(
        check(&[&one], &without_cancelled, &[("placed", 3)]),
        Ok(Upgrade::Activate)
    );
}

#[test]
fn a_field_keeps_its_type_while_there_are_entities() {
    let one = loaded(ORDER_YAML);
    let retyped = loaded(&second(ORDER_YAML).replace(
        "total_cents: { type: int, initial: 0 }",
        "total_cents: { type: double, initial: 0 }",
    ));
    let changed = check(&[&one], &retyped, &SOME).expect_err("a changed type");
    assert_eq!(
        changed.to_string(),
        "machine `order`: version 2 changes the type of `total_cents` (5 entities hold values of \
         the old type); declare a new field instead"
    );
    assert_eq!(check(&[&one], &retyped, &[]), Ok(Upgrade::Activate));
}

#[test]
fn a_definition_is_addressed_by_its_bytes() {
    let one = loaded(ORDER_YAML);
    let again = MachineDefinition::load("elsewhere/other.yaml", ORDER_YAML).expect("it loads");
    assert_eq!(one.definition(), again.definition());
    let comment = loaded(&format!("{ORDER_YAML}# changed\n"));
    assert_ne!(one.definition().hash, comment.definition().hash);
}

#[test]
fn cycles_of_emitted_events_and_machines_without_tests_are_warned_of() {
    let emits = |name: &str, on: &str, emits: &str| {
        let text = machine_text(&[], &format!("emit:\n  - type: {emits}"));
        let text = text
            .replace("machine: m", &format!("machine: {name}"))
            .replace("  go:", &format!("  {on}:"));
        MachineDefinition::load(&format!("{name}.yaml"), &text).expect("it loads")
    };
    let ring = [
        emits("one", "a", "b"),
        emits("two", "b", "c"),
        emits("three", "c", "a"),
        emits("four", "x", "a"),
    ];
    let found = warnings(ring.iter().map(AsRef::as_ref));
    let cycles: Vec<String> = found
        .iter()
        .map(ToString::to_string)
        .filter(|text| text.contains("end"))
        .collect();
    assert_eq!(
        cycles,
        [
            "one.yaml: emitted events can set each other off without end: `a`, `b` and `c`; after 16 hops an event is dead, reason `loop`"
        ]
    );
    assert_eq!(
        found
            .iter()
            .filter(|warning| warning.message.contains("no tests"))
            .count(),
        4
    );
    let own = emits("own", "a", "a");
    assert_eq!(warnings([own.as_ref()]).len(), 2);
    let order = loaded(ORDER_YAML);
    assert_eq!(warnings([order.as_ref()]), []);
}
