//! What admits and what does not, as tables; and that nothing shows a secret.

use proptest::prelude::*;

use super::{
    Credential, Denied, Forbidden, InvalidSecret, NewToken, Operation, Scope, Scopes, SecretHash,
    StoredToken, TenantState, Token, TokenId, TokenLabel, TokenSecret,
};
use crate::clock::Timestamp;
use crate::tenant::TenantId;

/// 32 bytes as a generator might draw them.
fn drawn(seed: u8) -> [u8; 32] {
    *blake3::hash(&[seed]).as_bytes()
}

fn secret(seed: u8) -> TokenSecret {
    TokenSecret::new(TokenId::from_random(u64::from(seed)), drawn(seed)).unwrap()
}

fn token(scopes: &str) -> Token {
    Token {
        id: TokenId::from_random(7),
        tenant: Some(TenantId::new("acme").unwrap()),
        scopes: scopes.parse().unwrap(),
        label: TokenLabel::new("shop").unwrap(),
        created_at: Timestamp(10),
        expires_at: Some(Timestamp(100)),
        revoked_at: None,
    }
}

fn stored(scopes: &str) -> StoredToken {
    let new = NewToken::new(token(scopes), &secret(7)).unwrap();
    StoredToken {
        token: new.token().clone(),
        hash: *new.hash(),
        tenant_state: Some(TenantState::Open),
    }
}

/// R12: the right to publish an intent is not the right to publish a fact, nor any right another.
#[test]
fn r12_each_operation_needs_its_own_scope_and_no_other_gives_it() {
    let matrix = [
        // operation, and by scope: publish:intent, publish:fact, read, operate, observe, admin
        (
            Operation::PublishIntent,
            [true, false, false, false, false, false],
        ),
        (
            Operation::PublishFact,
            [false, true, false, false, false, false],
        ),
        (Operation::Read, [false, false, true, false, false, false]),
        (
            Operation::Operate,
            [false, false, false, true, false, false],
        ),
        (
            Operation::Observe,
            [false, false, false, false, true, false],
        ),
        (
            Operation::Administer,
            [false, false, false, false, false, true],
        ),
    ];
    assert_eq!(matrix.map(|(operation, _)| operation), Operation::ALL);
    for (operation, row) in matrix {
        for (scope, allowed) in Scope::ALL.into_iter().zip(row) {
            let with = |scopes: Scopes| Credential {
                token: TokenId::from_random(1),
                tenant: None,
                scopes,
                tenant_state: None,
            };
            let alone = with(Scopes::from_iter([scope])).may(operation);
            assert_eq!(alone.is_ok(), allowed, "{scope}: {operation:?}");
            let others = Scope::ALL.into_iter().filter(|other| *other != scope);
            let without = with(others.collect()).may(operation);
            assert_eq!(without.is_ok(), !allowed, "all but {scope}: {operation:?}");
        }
    }
}

#[test]
fn scopes_are_written_in_order_and_read_back() {
    let read = "read, publish:fact,read,publish:intent".parse::<Scopes>();
    assert_eq!(
        read.unwrap().to_string(),
        "publish:intent,publish:fact,read"
    );
    for scope in Scope::ALL {
        assert_eq!(scope.as_str().parse::<Scope>().unwrap(), scope);
    }
    for wrong in ["", "publish", "Read", "read;operate", "read,", "*"] {
        let refusal = wrong.parse::<Scopes>().unwrap_err().to_string();
        assert!(
            refusal.contains("publish:intent, publish:fact"),
            "{refusal}"
        );
    }
}

#[test]
fn r31_a_weak_token_is_refused_however_it_comes() {
    let id = TokenId::from_random(1);
    let mut counting = [0_u8; 32];
    let mut stepping = [0_u8; 32];
    let mut repeated = [0_u8; 32];
    for place in 0..32_u8 {
        counting[usize::from(place)] = place;
        stepping[usize::from(place)] = place.wrapping_mul(37).wrapping_add(200);
        repeated[usize::from(place)] = drawn(1)[usize::from(place % 8)];
    }
    for weak in [
        [0; 32],
        [255; 32],
        counting,
        stepping,
        repeated,
        *b"password12345678password12345678",
    ] {
        assert_eq!(TokenSecret::new(id, weak).unwrap_err(), InvalidSecret::Weak);
    }
    let sound = secret(1).expose();
    assert_eq!(sound.len(), 3 + 16 + 1 + 43);
    assert!(TokenSecret::parse(&sound).is_ok());
    let (head, tail) = sound.split_at(20);
    for (text, why) in [
        (String::new(), InvalidSecret::Form),
        ("hunter2".to_owned(), InvalidSecret::Form),
        (sound[..sound.len() - 1].to_owned(), InvalidSecret::Form),
        (format!("{sound}A"), InvalidSecret::Form),
        (format!("{sound}="), InvalidSecret::Form),
        (format!(" {sound}"), InvalidSecret::Form),
        (sound.to_uppercase(), InvalidSecret::Form),
        (sound.replacen("tg_", "sk_", 1), InvalidSecret::Form),
        (
            format!("{head}{}", tail.replace(['-', '_'], "+")).replacen('_', "", 1),
            InvalidSecret::Form,
        ),
        (format!("{head}+{}", &tail[1..]), InvalidSecret::Form),
        (format!("{head}{}", "A".repeat(43)), InvalidSecret::Weak),
        // 43 characters hold two bits more than 32 bytes: another spelling of the same is none.
        (format!("{head}{}9", "A".repeat(42)), InvalidSecret::Form),
    ] {
        assert_eq!(TokenSecret::parse(&text).unwrap_err(), why, "{text}");
    }
}

#[test]
fn r31_nothing_that_is_shown_holds_the_secret() {
    let secret = secret(9);
    let text = secret.expose();
    let hidden = &text[20..];
    let hash = blake3::hash(&drawn(9)).to_hex();
    let new = NewToken::new(token("read"), &secret).unwrap();
    let admitted = stored("read").admit(&secret, Timestamp(20));
    let wrong = text.replacen("tg_", "tg-", 1);
    let shown = [
        format!("{secret:?}"),
        format!("{:?}", secret.hash()),
        format!("{new:?}"),
        format!("{:?}", stored("read")),
        format!("{admitted:?}"),
        format!("{:?}", TokenSecret::parse(&wrong)),
        TokenSecret::parse(&wrong).unwrap_err().to_string(),
        text.parse::<TokenId>().unwrap_err().to_string(),
        format!("{:?}", text.parse::<TokenId>()),
    ];
    for shown in shown {
        assert!(
            !shown.contains(hidden) && !shown.contains(&hidden[..8]),
            "{shown}"
        );
        assert!(!shown.contains(&hash[..8]), "{shown}");
    }
}

#[test]
fn whoever_presents_the_secret_is_admitted_until_its_end() {
    let stored = stored("publish:fact,read");
    let credential = stored.admit(&secret(7), Timestamp(99)).unwrap();
    assert_eq!(credential.tenant, Some(TenantId::new("acme").unwrap()));
    assert_eq!(
        credential.caused_by().unwrap().as_str(),
        "token:0000000000000007"
    );
    assert!(credential.reaches(&TenantId::new("acme").unwrap()).is_ok());
    let other = credential.reaches(&TenantId::new("bolt").unwrap());
    assert_eq!(other, Err(Forbidden::OtherTenant));

    let revoked = StoredToken {
        token: Token {
            revoked_at: Some(Timestamp(50)),
            ..stored.token.clone()
        },
        ..stored.clone()
    };
    let same_id = TokenSecret::new(TokenId::from_random(7), drawn(8)).unwrap();
    for (token, secret, now, reason) in [
        (&stored, &secret(7), 100, "expired"),
        (&revoked, &secret(7), 20, "revoked"),
        (&revoked, &secret(7), 200, "revoked"),
        (&stored, &same_id, 20, "wrong_secret"),
        // Without the secret nobody learns more.
        (&revoked, &same_id, 200, "wrong_secret"),
        (&stored, &secret(8), 20, "unknown"),
    ] {
        let denied: Denied = token.admit(secret, Timestamp(now)).unwrap_err();
        assert_eq!(denied.reason(), reason);
        assert!(!denied.is_transient());
    }
}

#[test]
fn a_closed_tenant_takes_no_events_and_is_read_as_before() {
    let closed = StoredToken {
        tenant_state: Some(TenantState::Closed),
        ..stored("publish:intent,publish:fact,read,operate")
    };
    let credential = closed.admit(&secret(7), Timestamp(20)).unwrap();
    for publish in [Operation::PublishIntent, Operation::PublishFact] {
        assert_eq!(credential.may(publish), Err(Forbidden::TenantClosed));
    }
    for other in [Operation::Read, Operation::Operate] {
        assert_eq!(credential.may(other), Ok(()));
    }
    let observe = credential.may(Operation::Observe);
    assert_eq!(observe, Err(Forbidden::Scope(Scope::Observe)));
}

#[test]
fn a_token_that_makes_no_sense_is_not_made() {
    let sound = token("publish:fact");
    let without_tenant = Token {
        tenant: None,
        ..sound.clone()
    };
    let reserved = Token {
        tenant: Some(TenantId::unassigned()),
        ..sound.clone()
    };
    let without_scope = Token {
        scopes: Scopes::default(),
        ..sound.clone()
    };
    let over = Token {
        expires_at: Some(Timestamp(10)),
        ..sound.clone()
    };
    for (token, words) in [
        (without_tenant, "events take theirs from it"),
        (reserved, "reserved"),
        (without_scope, "one at least"),
        (over, "a moment in the future"),
    ] {
        let refusal = NewToken::new(token, &secret(7)).unwrap_err().to_string();
        assert!(refusal.contains(words), "{refusal}");
    }
    let operators = Token {
        tenant: None,
        scopes: "operate,observe,admin".parse().unwrap(),
        expires_at: None,
        ..sound
    };
    assert!(NewToken::new(operators, &secret(7)).is_ok());
}

#[test]
fn an_id_is_sixteen_digits_and_nothing_else() {
    let id = TokenId::from_random(0xabc);
    assert_eq!(id.to_string(), "0000000000000abc");
    assert_eq!("0000000000000abc".parse::<TokenId>().unwrap(), id);
    for wrong in [
        "",
        "abc",
        "0000000000000ABC",
        "+000000000000abc",
        "0000000000000abc0",
    ] {
        assert!(wrong.parse::<TokenId>().is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn what_is_drawn_is_read_back_and_hashes_the_same(id: u64, bytes: [u8; 32]) {
        // Proptest likes small values; a generator does not.
        let drawn = *blake3::hash(&bytes).as_bytes();
        let secret = TokenSecret::new(TokenId::from_random(id), drawn).unwrap();
        let read = TokenSecret::parse(&secret.expose()).unwrap();
        prop_assert_eq!(read.id(), secret.id());
        prop_assert!(secret.hash().is_of(&read));
        let kept = SecretHash::from_slice(secret.hash().as_bytes()).unwrap();
        prop_assert_eq!(kept, read.hash());
    }

    #[test]
    fn no_text_whatever_panics_the_reader(text: String) {
        let _ = TokenSecret::parse(&text);
        let _ = TokenSecret::parse(&format!("tg_0000000000000007_{text}"));
        let _ = text.parse::<TokenId>();
    }
}
