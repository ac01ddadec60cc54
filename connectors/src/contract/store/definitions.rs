//! Machine definitions: append-only, content-addressed, one active a machine.

use std::sync::Arc;

use tidegate_engine::machine::Definition;
use tidegate_engine::state::MachineName;
use tidegate_engine::store::{NewDefinition, StateStore, StoreError, StoredDefinition};

use super::{StoreUnderTest, begin};
use crate::store::batch_form::CODE_DEFINITION;

fn definition(machine: &str, version: u64, text: &str) -> NewDefinition {
    let machine = MachineName::new(machine).unwrap();
    let hash = Definition::hash_of(&machine, version, text);
    NewDefinition {
        machine,
        version,
        hash,
        text: Arc::from(text),
        fields: vec![
            ("total_cents".to_owned(), "int"),
            ("paid at".to_owned(), "timestamp"),
            ("näme".to_owned(), "string"),
            ("lines".to_owned(), "list"),
        ],
    }
}

fn stored(definition: &NewDefinition, active: bool) -> StoredDefinition {
    StoredDefinition {
        machine: definition.machine.clone(),
        version: definition.version,
        hash: definition.hash,
        text: definition.text.to_string(),
        active,
    }
}

async fn all(store: &dyn StateStore) -> Vec<StoredDefinition> {
    store.definitions().await.unwrap()
}

pub(super) async fn one_definition_of_a_machine_is_active(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    assert_eq!(all(store).await, Vec::new());
    let order = [
        definition("order", 2, "machine: order\nversion: 2\n# „ü“ '\"\\ $$ %\n"),
        definition("order", 10, "machine: order\nversion: 10\n"),
    ];
    let payment = definition("payment", 1, "machine: payment\n");
    for new in [&order[0], &payment, &order[1]] {
        store
            .activate_definition(new.clone(), begin())
            .await
            .unwrap();
    }
    let expected = vec![
        stored(&order[0], false),
        stored(&order[1], true),
        stored(&payment, true),
    ];
    assert_eq!(all(store).await, expected);
    // Again: nothing is stored twice.
    for _ in 0..2 {
        store
            .activate_definition(order[1].clone(), begin())
            .await
            .unwrap();
    }
    assert_eq!(all(store).await, expected);
    // Never back, be the older one stored or not: a process that read the definitions before another one
    // activated a higher version must not take it back from that one.
    for older in [order[0].clone(), definition("order", 9, "machine: order\n")] {
        let answer = store.activate_definition(older, begin()).await;
        assert!(
            matches!(&answer, Err(StoreError::Unexpected { code, .. }) if code == CODE_DEFINITION),
            "{answer:?}"
        );
        assert_eq!(all(store).await, expected);
    }
}

pub(super) async fn a_stored_version_never_gets_another_text(subject: StoreUnderTest) {
    let store = subject.store.as_ref();
    let first = definition("order", 1, "first");
    let second = definition("order", 2, "second");
    for new in [&first, &second] {
        store
            .activate_definition(new.clone(), begin())
            .await
            .unwrap();
    }
    let before = all(store).await;
    let changed = definition("order", 1, "changed");
    let answer = store.activate_definition(changed, begin()).await;
    assert!(answer.is_err(), "the store took another text");
    assert_eq!(all(store).await, before);
}
