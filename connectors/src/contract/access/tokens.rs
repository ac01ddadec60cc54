//! Tokens: found by their id with the hash alone, two valid of a label, revoked for ever.

use std::sync::Arc;

use tidegate_engine::access::{
    Operation, Revocation, Scopes, TenantState, Token, TokenCreation, TokenId, TokensOf,
};
use tidegate_engine::clock::Timestamp;

use super::{AccessUnderTest, NOW, new, secret, tenant, token};

async fn with_acme(subject: &AccessUnderTest) {
    let admin = &subject.admin;
    admin.create_tenant(&tenant("acme"), NOW).await.unwrap();
}

async fn create(subject: &AccessUnderTest, id: u64, token: Token) -> TokenCreation {
    subject.admin.create_token(new(id, token)).await.unwrap()
}

pub(super) async fn a_token_is_looked_up_with_its_hash_and_its_tenants_state(
    subject: AccessUnderTest,
) {
    with_acme(&subject).await;
    let every = Scopes::from_iter(tidegate_engine::access::Scope::ALL);
    let wanted = Token {
        scopes: every,
        expires_at: Some(Timestamp(NOW.0 + 1_000)),
        ..token(Some("acme"), "shop", NOW)
    };
    assert_eq!(
        create(&subject, 1, wanted.clone()).await,
        TokenCreation::Created
    );
    let found = subject.node.token(secret(1).id()).await.unwrap().unwrap();
    let expected = Token {
        id: secret(1).id(),
        ..wanted
    };
    assert_eq!(found.token, expected);
    assert_eq!(found.hash, secret(1).hash());
    assert_eq!(found.tenant_state, Some(TenantState::Open));
    let credential = found.admit(&secret(1), NOW).unwrap();
    assert_eq!(credential.may(Operation::PublishFact), Ok(()));
    let nobody = subject.node.token(secret(2).id()).await.unwrap();
    assert_eq!(nobody, None);
    let later = Timestamp(NOW.0 + 1);
    subject
        .admin
        .close_tenant(&tenant("acme"), later)
        .await
        .unwrap();
    let found = subject.node.token(secret(1).id()).await.unwrap().unwrap();
    assert_eq!(found.tenant_state, Some(TenantState::Closed));
}

pub(super) async fn a_token_of_the_installation_has_no_tenant(subject: AccessUnderTest) {
    let creation = create(&subject, 1, token(None, "oncall", NOW)).await;
    assert_eq!(creation, TokenCreation::Created);
    let found = subject.node.token(secret(1).id()).await.unwrap().unwrap();
    assert_eq!(
        (found.token.tenant.clone(), found.tenant_state),
        (None, None)
    );
    assert!(found.admit(&secret(1), NOW).is_ok());
    let revoked = subject.admin.revoke_token(secret(1).id(), NOW).await;
    assert_eq!(revoked.unwrap(), Revocation::Revoked);
    let found = subject.node.token(secret(1).id()).await.unwrap().unwrap();
    assert_eq!(
        found.admit(&secret(1), NOW).unwrap_err().reason(),
        "revoked"
    );
}

pub(super) async fn a_token_needs_its_tenant(subject: AccessUnderTest) {
    let creation = create(&subject, 1, token(Some("acme"), "shop", NOW)).await;
    assert_eq!(creation, TokenCreation::NoTenant);
    let found = subject.node.token(secret(1).id()).await.unwrap();
    assert_eq!(found, None);
}

pub(super) async fn tokens_are_paged_in_order_of_id(subject: AccessUnderTest) {
    with_acme(&subject).await;
    let bolt = tenant("bolt");
    subject.admin.create_tenant(&bolt, NOW).await.unwrap();
    for (id, of) in [
        (u64::MAX, Some("acme")),
        (3, Some("bolt")),
        (0xa0, None),
        (2, Some("acme")),
        (1 << 63, None),
    ] {
        let label = format!("l{id}");
        let creation = create(&subject, id, token(of, &label, NOW)).await;
        assert_eq!(creation, TokenCreation::Created);
    }
    let ids = |ids: &[u64]| {
        ids.iter()
            .map(|id| TokenId::from_random(*id))
            .collect::<Vec<_>>()
    };
    for reader in [&subject.admin, &subject.node] {
        for (of, expected) in [
            (TokensOf::Everybody, ids(&[2, 3, 0xa0, 1 << 63, u64::MAX])),
            (TokensOf::Installation, ids(&[0xa0, 1 << 63])),
            (TokensOf::Tenant(tenant("acme")), ids(&[2, u64::MAX])),
            (TokensOf::Tenant(tenant("carl")), ids(&[])),
        ] {
            let mut found = Vec::new();
            while let page = reader.tokens(&of, found.last().copied(), 2).await.unwrap()
                && !page.is_empty()
            {
                found.extend(page.iter().map(|token| token.id));
            }
            assert_eq!(found, expected, "{of:?}");
        }
    }
}

pub(super) async fn r31_of_one_label_two_are_valid_and_the_oldest_is_named(
    subject: AccessUnderTest,
) {
    with_acme(&subject).await;
    let bolt = tenant("bolt");
    subject.admin.create_tenant(&bolt, NOW).await.unwrap();
    let at = |micros: i64| Timestamp(NOW.0 + micros);
    let ending = |begin: i64, end: i64| Token {
        expires_at: Some(at(end)),
        ..token(Some("acme"), "shop", at(begin))
    };
    let endless = |begin: i64| token(Some("acme"), "shop", at(begin));
    // The older one has the higher id: age decides.
    let made = TokenCreation::Created;
    assert_eq!(create(&subject, 9, ending(0, 100)).await, made);
    assert_eq!(create(&subject, 5, endless(10)).await, made);
    let valid = vec![secret(9).id(), secret(5).id()];
    let refused = create(&subject, 6, endless(20)).await;
    assert_eq!(refused, TokenCreation::TooMany(valid));
    assert_eq!(subject.node.token(secret(6).id()).await.unwrap(), None);
    // Another label, another tenant and the installation have two of their own.
    for (id, of, label) in [
        (11, Some("acme"), "till"),
        (12, Some("bolt"), "shop"),
        (13, None, "shop"),
    ] {
        let creation = create(&subject, id, token(of, label, at(20))).await;
        assert_eq!(creation, made, "{of:?} {label}");
    }
    // At its end the first makes room, and a revoked one does at once.
    assert_eq!(create(&subject, 6, endless(100)).await, made);
    let refused = create(&subject, 7, endless(101)).await;
    let valid = vec![secret(5).id(), secret(6).id()];
    assert_eq!(refused, TokenCreation::TooMany(valid));
    let admin = &subject.admin;
    let revoked = admin.revoke_token(secret(5).id(), at(102)).await.unwrap();
    assert_eq!(revoked, Revocation::Revoked);
    assert_eq!(create(&subject, 7, endless(103)).await, made);
}

pub(super) async fn a_revoked_token_stays_revoked(subject: AccessUnderTest) {
    with_acme(&subject).await;
    let id = secret(1).id();
    create(&subject, 1, token(Some("acme"), "shop", NOW)).await;
    let admin = &subject.admin;
    let unknown = admin.revoke_token(secret(2).id(), NOW).await.unwrap();
    assert_eq!(unknown, Revocation::Unknown);
    let first = Timestamp(NOW.0 + 5);
    let revoked = admin.revoke_token(id, first).await.unwrap();
    assert_eq!(revoked, Revocation::Revoked);
    let again = admin.revoke_token(id, Timestamp(NOW.0 + 9)).await.unwrap();
    assert_eq!(again, Revocation::Already(first));
    let found = subject.node.token(id).await.unwrap().unwrap();
    assert_eq!(found.token.revoked_at, Some(first));
    let denied = found.admit(&secret(1), NOW).unwrap_err();
    assert_eq!(denied.reason(), "revoked");
    let listed = admin.tokens(&TokensOf::Everybody, None, 9).await.unwrap();
    assert_eq!(listed, [found.token], "it stays in the list");
}

pub(super) async fn an_id_is_given_once(subject: AccessUnderTest) {
    with_acme(&subject).await;
    create(&subject, 1, token(Some("acme"), "shop", NOW)).await;
    for of in [Some("acme"), None] {
        let creation = create(&subject, 1, token(of, "other", NOW)).await;
        assert_eq!(creation, TokenCreation::IdTaken);
    }
    let found = subject.node.token(secret(1).id()).await.unwrap().unwrap();
    assert_eq!(found.token.label.as_str(), "shop");
}

pub(super) async fn sixteen_creators_of_one_label_make_two(subject: AccessUnderTest) {
    with_acme(&subject).await;
    let creators = (0..16_u64).map(|id| {
        let admin = Arc::clone(&subject.admin);
        tokio::spawn(async move {
            let new = new(id, token(Some("acme"), "shop", NOW));
            admin.create_token(new).await.unwrap()
        })
    });
    let mut created = 0;
    for creator in creators.collect::<Vec<_>>() {
        match creator.await.unwrap() {
            TokenCreation::Created => created += 1,
            TokenCreation::TooMany(valid) => assert_eq!(valid.len(), 2),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(created, 2);
}
