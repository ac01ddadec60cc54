//! What changed between two definitions of a machine, in words: for people who edit one and look on.

use std::collections::BTreeMap;

use super::candidate::{Candidate, Effect};
use super::compiled::CompiledMachine;
use crate::state::Status;

/// What `after` has that `before` has not (`+`), lacks (`-`), and has otherwise (`~`): states, fields and
/// transitions, one line each. Nothing when only expressions of effects, tests or comments differ.
pub fn differences(before: &CompiledMachine, after: &CompiledMachine) -> Vec<String> {
    let (old, new) = (&before.definition, &after.definition);
    let mut lines = Vec::new();
    let states = |states: &[Status]| {
        let each = states.iter();
        each.map(|state| (format!("state {}", state.as_str()), 1))
            .collect()
    };
    compare(&states(&old.states), &states(&new.states), &mut lines);
    if old.initial != new.initial {
        let (was, is) = (old.initial.as_str(), new.initial.as_str());
        lines.push(format!("~ initial: {was} → {is}"));
    }
    for field in &new.fields {
        let kind = field.kind.as_str();
        match old.fields.iter().find(|it| it.name == field.name) {
            None => lines.push(format!("+ field {}: {kind}", field.name)),
            Some(it) if it.kind != field.kind => {
                let was = it.kind.as_str();
                lines.push(format!("~ field {}: {was} → {kind}", field.name));
            }
            Some(_) => {}
        }
    }
    for field in &old.fields {
        if !new.fields.iter().any(|it| it.name == field.name) {
            lines.push(format!("- field {}: {}", field.name, field.kind.as_str()));
        }
    }
    compare(&transitions(before), &transitions(after), &mut lines);
    lines
}

/// Lines with how often each stands.
type Lines = BTreeMap<String, usize>;

fn compare(before: &Lines, after: &Lines, lines: &mut Vec<String>) {
    let more = |of: &Lines, than: &Lines, sign: char, lines: &mut Vec<String>| {
        for (line, count) in of {
            let beyond = count.saturating_sub(than.get(line).copied().unwrap_or(0));
            lines.extend((0..beyond).map(|_| format!("{sign} {line}")));
        }
    };
    more(after, before, '+', lines);
    more(before, after, '-', lines);
}

fn transitions(machine: &CompiledMachine) -> Lines {
    let mut lines = Lines::new();
    for handler in &machine.definition.handlers {
        for candidate in &handler.candidates {
            let line = format!("transition {}: {}", handler.event_type, outline(candidate));
            *lines.entry(line).or_default() += 1;
        }
    }
    lines
}

/// `placed → paid when state.paid_cents >= state.total_cents`
fn outline(candidate: &Candidate) -> String {
    let from: Vec<&str> = candidate.from.iter().map(Status::as_str).collect();
    let from = from.join(", ");
    let mut line = match &candidate.effect {
        Effect::Reject(_) => format!("{from} rejects"),
        Effect::Change { to: Some(to), .. } => format!("{from} → {}", to.as_str()),
        Effect::Change { to: None, .. } => format!("{from} stays"),
    };
    if let Some(when) = &candidate.when {
        line.push_str(&format!(" when {}", when.shown()));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::differences;
    use crate::machine::{CompiledMachine, MachineDefinition};

    const ORDER: &str = include_str!("../../../deploy/examples/order.yaml");

    fn load(text: &str) -> Arc<CompiledMachine> {
        MachineDefinition::load("order.yaml", text).unwrap()
    }

    #[test]
    fn what_a_person_changed_is_told_in_their_words() {
        let before = load(ORDER);
        assert!(differences(&before, &before).is_empty());
        let text = ORDER
            .replacen("states: [new,", "states: [new, returned,", 1)
            .replacen("data:", "data:\n  note: { type: string, initial: '' }", 1)
            .replacen(
                "    - from: [paid]\n      reject: \"'already paid'\"\n",
                "",
                1,
            )
            .replacen(
                "on_unmatched",
                "  order.returned:\n    - from: [shipped]\n      to: returned\non_unmatched",
                1,
            );
        assert_ne!(text, ORDER);
        let told = differences(&before, &load(&text));
        let expected = [
            "+ state returned",
            "+ field note: string",
            "+ transition order.returned: shipped → returned",
            "- transition order.paid: paid rejects",
        ];
        assert_eq!(told, expected);
    }
}
