//! The example of DESIGN.md, as it is deployed.

use crate::machine::MachineDefinition;

/// The file that the demo uses.
pub(super) const ORDER_YAML: &str = include_str!("../../../../deploy/examples/order.yaml");

#[test]
fn the_order_machine_loads_and_its_own_tests_hold() {
    let machine = MachineDefinition::load("order.yaml", ORDER_YAML).unwrap_or_else(|errors| {
        panic!(
            "{}",
            errors.iter().map(|e| format!("{e}\n")).collect::<String>()
        )
    });
    assert!(machine.cases().len() >= 5);
    for case in machine.cases() {
        let result = case.run(machine.as_ref());
        assert!(result.holds(), "{}: {:#?}", result.name, result.differences);
    }
}
