//! The section `tests`: what holds says nothing, what does not says what it is.

use super::loaded;
use super::order::ORDER_YAML;
use crate::machine::order::order_processor;

/// The differences of one case on the order machine.
fn differences(given: &str, expect: &str) -> Vec<String> {
    let (machine, _) = ORDER_YAML.split_once("tests:").expect("its tests");
    let text = format!("{machine}tests:\n  - name: one\n    given:\n{given}    expect:\n{expect}");
    let machine = loaded(&text);
    let result = machine.cases()[0].run(machine.as_ref());
    assert_eq!(result.holds(), result.differences.is_empty());
    result.differences.iter().map(ToString::to_string).collect()
}

const PAID: &str = "      - { type: order.placed, subject: o1, data: { total_cents: 10 } }\n      - { type: order.paid, subject: o1, data: { amount_cents: 10 } }\n";

#[test]
fn each_difference_is_told() {
    for (expect, expected) in [
        ("      outcomes: [applied, applied]\n", vec![]),
        (
            "      outcomes: [rejected, applied]\n",
            vec!["outcomes[0]: expected rejected, found applied"],
        ),
        (
            "      entities: { o1: { status: placed, version: 3, data: { paid_cents: 11, total_cents: 10.0 } } }\n",
            vec![
                "entities.o1.status: expected placed, found paid",
                "entities.o1.version: expected 3, found 2",
                "entities.o1.data.paid_cents: expected 11, found 10",
            ],
        ),
        (
            "      entities: { o1: null, o2: { status: paid } }\n",
            vec![
                "entities.o1: expected no entity, found one in status paid",
                "entities.o2: expected an entity, found none",
            ],
        ),
        (
            "      emitted: []\n",
            vec!["emitted[0]: expected nothing, found order.ready"],
        ),
        (
            "      emitted: [ { type: order.redy, subject: o2, data: { order: o1, paid_cents: 10.0 } }, { type: x } ]\n",
            vec![
                "emitted[0].type: expected order.redy, found order.ready",
                "emitted[0].subject: expected o2, found o1",
                "emitted[0].data: expected {\"order\":\"o1\",\"paid_cents\":10.0}, found {\"order\":\"o1\",\"paid_cents\":10}",
                "emitted[1]: expected x, found nothing",
            ],
        ),
    ] {
        assert_eq!(differences(PAID, expect), expected, "{expect}");
    }
}

#[test]
fn a_difference_of_outcome_says_the_machines_reason() {
    let given = "      - { type: order.shipped, subject: o1 }\n      - { type: order.paid, data: {} }\n      - { type: order.lost, subject: o1 }\n";
    assert_eq!(
        differences(given, "      outcomes: [applied, applied, applied]\n"),
        [
            "outcomes[0]: expected applied, found rejected (not paid: 0 cents are open)",
            "outcomes[1]: expected applied, found dead (key: order@1:7: expression `event.subject`: `event.subject` is absent)",
            "outcomes[2]: expected applied, found unhandled",
        ]
    );
    assert_eq!(
        differences(given, "      outcomes: [rejected, dead, unhandled]\n"),
        Vec::<String>::new()
    );
}

#[test]
fn the_cases_of_the_definition_hold_for_the_machine_in_rust() {
    let rust = order_processor().expect("the machine is valid");
    for case in loaded(ORDER_YAML).cases() {
        let result = case.run(&rust);
        assert!(result.holds(), "{}: {:#?}", result.name, result.differences);
    }
}
