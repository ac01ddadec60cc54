//! What is found, what is not, and what becomes of it.

use bytes::Bytes;

use super::{REDACTED, SecretPolicy, spots};
use crate::event::Event;

fn pointers(json: &str) -> Vec<String> {
    spots(json).into_iter().map(|spot| spot.pointer).collect()
}

fn event(data: &str) -> Event {
    let text = format!(
        r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","tenantid":"acme","data":{data}}}"#
    );
    Event::read_json(&Bytes::from(text)).unwrap()
}

#[test]
fn r14_values_under_names_that_promise_a_secret_are_found() {
    for name in [
        "password",
        "Password",
        "db_password",
        "client-secret",
        "clientSecret",
        "token",
        "access_token",
        "apiKey",
        "x-api-key",
        "Authorization",
        "private_key",
        "aws_secret_access_key",
        "p\\u0061ssword",
    ] {
        let json = format!(r#"{{"a":1,"{name}":"hunter2","b":[{{"c":"d"}}]}}"#);
        assert_eq!(pointers(&json).len(), 1, "{name}");
        // There is nothing in these.
        for empty in [
            "\"\"",
            "null",
            "7",
            "true",
            "{\"a\":\"b\"}",
            "\"[redacted]\"",
        ] {
            let json = format!(r#"{{"{name}":{empty}}}"#);
            assert!(pointers(&json).is_empty(), "{json}");
        }
    }
    for name in [
        "tokens_used",
        "next_page_token",
        "secretary",
        "password_changed_at",
        "author",
        "key",
        "id",
        "pin",
        "state",
    ] {
        let json = format!(r#"{{"{name}":"hunter2"}}"#);
        assert!(pointers(&json).is_empty(), "{name}");
    }
}

#[test]
fn r14_values_of_the_shape_of_a_secret_are_found_under_any_name() {
    let key = "-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END RSA PRIVATE KEY-----";
    for value in [
        key,
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "ghp_0123456789abcdefABCDEF0123456789abcd",
        "xoxb-1234567890-abcdefghij",
        "sk_live_0123456789abcdef",
        "Bearer 0123456789abcdef",
        "tg_5f3c0a1be2d49786_AAAAAAAAAAAAAAAA",
        "postgres://app:hunter2@db.internal:5432/app",
    ] {
        let json = format!(r#"{{"note":["x",{{"of":"{value}"}}]}}"#);
        assert_eq!(pointers(&json), ["/note/1/of"], "{value}");
    }
    for value in [
        "-----BEGIN CERTIFICATE-----\\nMIIE\\n-----END CERTIFICATE-----",
        "AKIA is how keys of AWS begin",
        "eyJhbGciOiJIUzI1NiJ9",
        "the order o-17 was placed by a customer",
        "https://example.com/path?at=12:30@noon",
        "Basic plan, billed each month",
        "2026-11-23T02:00:00.000000Z",
        "0123456789abcdef0123456789abcdef",
    ] {
        assert!(
            pointers(&format!(r#"{{"note":"{value}"}}"#)).is_empty(),
            "{value}"
        );
    }
}

#[test]
fn r14_a_place_is_named_and_a_value_never() {
    let long = "n".repeat(65);
    for (json, expected) in [
        (
            r#"["x",{"a/b~c":{"password":"hunter2"}}]"#.to_owned(),
            "/1/a~1b~0c/password",
        ),
        (r#"{"password":["hunter2"]}"#.to_owned(), "/password/0"),
        (
            r#"{"password" : "hun\"ter2" , "a" : 1}"#.to_owned(),
            "/password",
        ),
        (r#""ghp_0123456789abcdefABCDEF""#.to_owned(), "its root"),
        (
            r#"{"ghp_0123456789abcdefABCDEF":{"token":"hunter2"}}"#.to_owned(),
            "/*/token",
        ),
        (format!(r#"{{"{long}":{{"token":"hunter2"}}}}"#), "/*/token"),
    ] {
        let mut event = event(&json);
        let refused = SecretPolicy::Refuse.hold(&mut event).unwrap_err();
        assert!(
            refused.reason.contains(&format!("at {expected};")),
            "{refused:?}"
        );
        assert!(!refused.reason.contains("hunter2") && !refused.reason.contains("ghp_"));
    }
}

#[test]
fn r14_redacted_is_the_same_each_time_and_nothing_to_a_second_look() {
    let json =
        r#"{"user":"u","password":"hun\"ter2","note":["ghp_0123456789abcdefABCDEF"], "n":1}"#;
    let expected =
        format!(r#"{{"user":"u","password":"{REDACTED}","note":["{REDACTED}"], "n":1}}"#);
    let mut once = event(json);
    let found = SecretPolicy::Redact.hold(&mut once).unwrap().unwrap();
    assert_eq!((found.values, found.first.as_str()), (2, "/password"));
    assert_eq!(once.data.stored_bytes(), expected.as_bytes());
    let mut again = event(json);
    SecretPolicy::Redact.hold(&mut again).unwrap();
    assert_eq!(once.conflict_hash(), again.conflict_hash());
    assert_eq!(SecretPolicy::Refuse.hold(&mut once), Ok(None));
    // A report and no policy leave it as it is.
    let mut whole = event(json);
    let found = SecretPolicy::Report.hold(&mut whole).unwrap().unwrap();
    assert_eq!(
        (found.values, whole.data.stored_bytes()),
        (2, json.as_bytes())
    );
    assert_eq!(SecretPolicy::Off.hold(&mut whole), Ok(None));
}

#[test]
fn r14_what_is_kept_of_a_refused_delivery_holds_no_secret() {
    let payload = Bytes::from_static(br#" {"id":1,"data":{"password":"hunter2"}} "#);
    for policy in [SecretPolicy::Refuse, SecretPolicy::Redact] {
        let kept = policy.kept(&payload);
        assert_eq!(&kept[..], br#"{"id":1,"data":{"password":"[redacted]"}}"#);
        assert_eq!(policy.kept(&kept), kept);
    }
    assert_eq!(SecretPolicy::Report.kept(&payload), payload);
    let broken = Bytes::from_static(b"{no json");
    assert_eq!(SecretPolicy::Refuse.kept(&broken), broken);
}
