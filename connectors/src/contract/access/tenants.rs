//! The register of tenants.

use tidegate_engine::access::{StoredTenant, TenantCreation, TenantState};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::CommitReply;

use super::{AccessUnderTest, NOW, tenant};
use crate::contract::batch::{Entry, Writer, source_partition};

pub(super) async fn a_tenant_is_created_once_and_listed_in_order(subject: AccessUnderTest) {
    let (admin, node) = (&subject.admin, &subject.node);
    for name in ["bolt", "acme", "0-z_9", "acme-2"] {
        let created = admin.create_tenant(&tenant(name), NOW).await.unwrap();
        assert_eq!(created, TenantCreation::Created, "{name}");
    }
    let again = admin
        .create_tenant(&tenant("acme"), Timestamp(NOW.0 + 1))
        .await;
    let acme = StoredTenant {
        id: tenant("acme"),
        state: TenantState::Open,
        created_at: NOW,
    };
    assert_eq!(again.unwrap(), TenantCreation::Exists(acme.clone()));
    for reader in [admin, node] {
        let found = reader.tenant(&tenant("acme")).await.unwrap();
        assert_eq!(found, Some(acme.clone()));
        assert_eq!(reader.tenant(&tenant("carl")).await.unwrap(), None);
        let mut names = Vec::new();
        let mut after = None;
        loop {
            let page = reader.list_tenants(after.as_ref(), 3).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            names.extend(page.iter().map(|stored| stored.id.to_string()));
        }
        assert_eq!(names, ["0-z_9", "acme", "acme-2", "bolt"]);
    }
}

pub(super) async fn a_closed_tenant_stays_closed_and_keeps_its_time(subject: AccessUnderTest) {
    let (admin, node) = (&subject.admin, &subject.node);
    let acme = tenant("acme");
    admin.create_tenant(&acme, NOW).await.unwrap();
    admin.create_tenant(&tenant("bolt"), NOW).await.unwrap();
    let later = Timestamp(NOW.0 + 1);
    let before = admin.close_tenant(&acme, later).await.unwrap().unwrap();
    assert_eq!(before.state, TenantState::Open);
    let closed = StoredTenant {
        state: TenantState::Closed,
        ..before
    };
    assert_eq!(closed.created_at, NOW);
    let again = admin.close_tenant(&acme, later).await.unwrap();
    assert_eq!(again, Some(closed.clone()));
    assert_eq!(node.tenant(&acme).await.unwrap(), Some(closed.clone()));
    let created = admin.create_tenant(&acme, later).await.unwrap();
    assert_eq!(created, TenantCreation::Exists(closed));
    let other = node.tenant(&tenant("bolt")).await.unwrap().unwrap();
    assert_eq!(other.state, TenantState::Open, "nobody else is closed");
    let nobody = admin.close_tenant(&tenant("carl"), later).await.unwrap();
    assert_eq!(nobody, None);
}

pub(super) async fn a_tenant_is_registered_by_its_first_commit_and_stored_by_no_other_means(
    subject: AccessUnderTest,
) {
    let (store, node) = (&*subject.store, &subject.node);
    subject
        .admin
        .create_tenant(&tenant("bolt"), NOW)
        .await
        .unwrap();
    assert_eq!(
        store.tenants().await.unwrap(),
        [],
        "nothing is stored of it"
    );
    let place = source_partition("orders", 0);
    let mut writer = Writer::claim(store, &place, "a", NOW).await.unwrap();
    for (number, names) in [&["acme"][..], &["acme", "bolt"]].into_iter().enumerate() {
        let key = format!("k{number}");
        let entries: Vec<Entry> = names.iter().map(|name| Entry::new(name, &key)).collect();
        let reply = writer.commit(store, &entries).await;
        assert!(
            matches!(reply, Ok(CommitReply::Committed { .. })),
            "{reply:?}"
        );
    }
    let listed = node.list_tenants(None, 9).await.unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|stored| (stored.id.as_str(), stored.state))
        .collect();
    let open = TenantState::Open;
    assert_eq!(seen, [("acme", open), ("bolt", open)]);
    let stored = store.tenants().await.unwrap();
    assert_eq!(stored, [tenant("acme"), tenant("bolt")]);
}
