//! How tenants stand that events name, and who of them a source registers.

use std::sync::Arc;

use tidegate_engine::access::{AccessStore, StoredTenant, TenantState};
use tidegate_engine::position::SourceName;
use tidegate_engine::store::{StateStore, StoreError};
use tidegate_engine::tenant::{CreateTenants, TenantStanding, TenantsAsked};

use super::{AccessUnderTest, NOW, tenant};

const FROM: &str = "shop";

fn asked(names: &[&str], created_max: Option<u32>) -> TenantsAsked {
    TenantsAsked {
        names: names.iter().map(|name| tenant(name)).collect(),
        create: created_max.map(|created_max| CreateTenants {
            source: SourceName::new(FROM).unwrap(),
            created_max,
            at: NOW,
        }),
    }
}

/// Asks as a node does: again while the store is busy with somebody else.
async fn standings(store: &dyn StateStore, asked: TenantsAsked) -> Vec<TenantStanding> {
    const TRIES_MAX: u32 = 200;
    for _ in 0..TRIES_MAX {
        match store.tenant_standings(asked.clone()).await {
            Ok(standings) => return standings,
            Err(StoreError::Unavailable { .. }) => {}
            Err(error) => panic!("expected standings or `Unavailable`, found: {error}"),
        }
    }
    panic!("the store was not available {TRIES_MAX} times in a row")
}

async fn registered(register: &dyn AccessStore) -> Vec<(String, TenantState)> {
    let listed = register.list_tenants(None, 1_000).await.unwrap();
    let named = |it: StoredTenant| (it.id.to_string(), it.state);
    listed.into_iter().map(named).collect()
}

pub(super) async fn r02_who_only_asks_registers_nobody(subject: AccessUnderTest) {
    use TenantStanding::{Closed, Open, Unknown};
    let (admin, store) = (&subject.admin, subject.store.as_ref());
    for name in ["acme", "bolt"] {
        admin.create_tenant(&tenant(name), NOW).await.unwrap();
    }
    admin.close_tenant(&tenant("bolt"), NOW).await.unwrap();
    let before = registered(admin.as_ref()).await;
    // The answers have the order of the names, whatever that is.
    let names = ["carl", "bolt", "acme", "acm", "acme-2"];
    let found = standings(store, asked(&names, None)).await;
    assert_eq!(found, [Unknown, Closed, Open, Unknown, Unknown]);
    assert_eq!(standings(store, asked(&[], None)).await, []);
    assert_eq!(registered(admin.as_ref()).await, before);
    assert_eq!(store.tenants().await.unwrap(), []);
}

pub(super) async fn r02_a_source_registers_whom_it_names_once_and_nobody_else(
    subject: AccessUnderTest,
) {
    use TenantStanding::{Closed, Created, Open};
    let (admin, store) = (&subject.admin, subject.store.as_ref());
    for name in ["acme", "bolt"] {
        admin.create_tenant(&tenant(name), NOW).await.unwrap();
    }
    admin.close_tenant(&tenant("bolt"), NOW).await.unwrap();
    let names = ["carl", "bolt", "acme"];
    let first = standings(store, asked(&names, Some(10))).await;
    assert_eq!(first, [Created, Closed, Open]);
    let again = standings(store, asked(&names, Some(10))).await;
    assert_eq!(again, [Open, Closed, Open]);
    let all = registered(admin.as_ref()).await;
    let expected = [
        ("acme", TenantState::Open),
        ("bolt", TenantState::Closed),
        ("carl", TenantState::Open),
    ];
    assert_eq!(all, expected.map(|(name, state)| (name.to_owned(), state)));
    let carl = admin.tenant(&tenant("carl")).await.unwrap().unwrap();
    assert_eq!(carl.created_at, NOW);
    // A tenant without events has no row but its name.
    assert_eq!(store.tenants().await.unwrap(), []);
    // Closed, it is as closed as any.
    admin.close_tenant(&tenant("carl"), NOW).await.unwrap();
    let closed = standings(store, asked(&["carl"], Some(10))).await;
    assert_eq!(closed, [Closed]);
}

pub(super) async fn sources_register_no_more_than_they_may_and_administrators_do(
    subject: AccessUnderTest,
) {
    use TenantStanding::{Created, Open, TooMany};
    let (admin, store) = (&subject.admin, subject.store.as_ref());
    // Those that people made do not count.
    for name in ["p1", "p2", "p3"] {
        admin.create_tenant(&tenant(name), NOW).await.unwrap();
    }
    let none = standings(store, asked(&["a"], Some(0))).await;
    assert_eq!(none, [TooMany]);
    let first = standings(store, asked(&["c", "a", "p1", "b"], Some(2))).await;
    assert_eq!(first, [Created, Created, Open, TooMany]);
    let again = standings(store, asked(&["b", "a", "c"], Some(2))).await;
    assert_eq!(again, [TooMany, Open, Open]);
    // A closed one still counts: it was made.
    admin.close_tenant(&tenant("c"), NOW).await.unwrap();
    assert_eq!(standings(store, asked(&["b"], Some(2))).await, [TooMany]);
    admin.create_tenant(&tenant("b"), NOW).await.unwrap();
    assert_eq!(standings(store, asked(&["b"], Some(2))).await, [Open]);
    assert_eq!(
        standings(store, asked(&["d", "e"], Some(3))).await,
        [Created, TooMany]
    );
}

/// Sixteen that ask at once, each for its own names: what each was told.
async fn at_once(
    subject: &AccessUnderTest,
    names: impl Fn(usize) -> Vec<String>,
    created_max: u32,
) -> Vec<TenantStanding> {
    let mut asking = tokio::task::JoinSet::new();
    for who in 0..16 {
        let store = Arc::clone(&subject.store);
        let names = names(who);
        asking.spawn(async move {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            standings(store.as_ref(), asked(&names, Some(created_max))).await
        });
    }
    asking.join_all().await.concat()
}

fn count(told: &[TenantStanding], which: TenantStanding) -> usize {
    told.iter().filter(|standing| **standing == which).count()
}

pub(super) async fn of_sixteen_that_register_a_tenant_at_once_one_does(subject: AccessUnderTest) {
    let told = at_once(&subject, |_| vec!["acme".to_owned()], 1).await;
    assert_eq!(count(&told, TenantStanding::Created), 1, "{told:?}");
    assert_eq!(count(&told, TenantStanding::Open), 15, "{told:?}");
    let all = registered(subject.admin.as_ref()).await;
    assert_eq!(all, [("acme".to_owned(), TenantState::Open)]);
}

pub(super) async fn sixteen_that_register_others_at_once_stay_within_the_bound(
    subject: AccessUnderTest,
) {
    let own = |who: usize| vec![format!("t-{who}-a"), format!("t-{who}-b")];
    let told = at_once(&subject, own, 9).await;
    assert_eq!(count(&told, TenantStanding::Created), 9, "{told:?}");
    assert_eq!(count(&told, TenantStanding::TooMany), 23, "{told:?}");
    assert_eq!(registered(subject.admin.as_ref()).await.len(), 9);
}
