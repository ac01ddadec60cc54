use bytes::Bytes;
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::{Event, EventData};
use crate::commit::{DedupeMark, EntityName, OpenWork};
use crate::dead_letter::{DeadLetter, DeadLetterUpdate};
use crate::hash::hash_bytes;
use crate::limits;
use crate::position::{Offset, Sequence, StreamPartition};
use crate::record::{Entry, EntryBody, Record};
use crate::tenant::TenantId;

fn whole() -> Value {
    json!({
        "specversion": "1.0", "id": "e1", "source": "/shop", "type": "order.placed", "subject": "o1",
        "time": "2026-11-22T06:17:00.5Z", "datacontenttype": "application/json",
        "dataschema": "https://example.com/order.json", "tenantid": "acme", "correlationid": "c1",
        "causationid": "e0", "idempotencykey": "k1", "causedby": "token:7", "traceparent": "00-ab-cd-01",
        "attempt": 3, "data": {"total_cents": 1000}
    })
}

fn read(value: &Value) -> Result<Event, String> {
    read_text(&value.to_string())
}

fn read_text(text: &str) -> Result<Event, String> {
    Event::read_json(&Bytes::copy_from_slice(text.as_bytes())).map_err(|e| e.to_string())
}

fn with(name: &str, value: Value) -> Value {
    let mut event = whole();
    event[name] = value;
    event
}

fn without(name: &str) -> Value {
    let mut event = whole();
    event.as_object_mut().unwrap().remove(name);
    event
}

#[test]
fn r03_the_envelope_is_read_whole_and_stored_whole() {
    let event = read(&whole()).unwrap();
    let mut stored = String::new();
    event.write_json(&mut stored);
    assert_eq!(
        stored,
        concat!(
            r#"{"specversion":"1.0","id":"e1","source":"/shop","type":"order.placed","subject":"o1","#,
            r#""time":"2026-11-22T06:17:00.5Z","datacontenttype":"application/json","#,
            r#""dataschema":"https://example.com/order.json","tenantid":"acme","correlationid":"c1","#,
            r#""causationid":"e0","idempotencykey":"k1","causedby":"token:7","attempt":3,"#,
            r#""traceparent":"00-ab-cd-01","data":{"total_cents":1000}}"#
        )
    );
    assert_eq!(read_text(&stored).unwrap(), event);
}

#[test]
fn r01_the_types_have_no_optional_tenant() {
    // An `Option` anywhere here does not compile.
    let _: [fn(&Event) -> &TenantId; 1] = [|event| &event.tenant];
    let _: [fn(&StreamPartition) -> &TenantId; 1] = [|place| &place.tenant];
    let _: [fn(&DedupeMark) -> &TenantId; 1] = [|mark| &mark.tenant];
    let _: [fn(&EntityName) -> &TenantId; 1] = [|name| &name.tenant];
    let _: [fn(&OpenWork) -> &TenantId; 1] = [|work| &work.tenant];
    let _: [fn(&DeadLetter) -> &TenantId; 1] = [|letter| &letter.tenant];
    let _: [fn(&DeadLetterUpdate) -> &TenantId; 1] = [|update| &update.tenant];
    // And there is no tenant that nobody named.
    for name in ["", " ", "null", "_", "_other", "*"] {
        let named = TenantId::new(name);
        assert_eq!(named.is_ok(), name == "null", "`{name}`");
    }
}

#[test]
fn r01_a_stored_record_without_a_tenant_is_not_read() {
    let event = read(&whole()).unwrap();
    let mut text = String::new();
    let entry = Entry {
        sequence: Sequence(0),
        offset: Some(Offset(0)),
        cause: None,
        admitted_at_text: "2026-11-22T06:17:00Z",
        body: EntryBody::Event(&event),
        effects: &[],
    };
    entry.write(&mut text);
    assert!(Record::read(&text).is_ok(), "{text}");
    let (hashed, _) = text.split_once(",\"leaf\"").unwrap();
    for no_tenant in ["", r#""tenantid":null,"#, r#""tenantid":"","#] {
        // With the right leaf: it is the tenant that is missed.
        let hashed = hashed.replacen(r#""tenantid":"acme","#, no_tenant, 1);
        let leaf = hash_bytes(hashed.as_bytes());
        let refusal = Record::read(&format!("{hashed},\"leaf\":\"{leaf}\"}}")).unwrap_err();
        assert!(refusal.to_string().contains("tenantid"), "{refusal}");
    }
}

#[test]
fn r01_r03_what_must_be_there_is_asked_for_by_name() {
    for name in ["specversion", "id", "source", "type", "tenantid"] {
        let refusal = read(&without(name)).unwrap_err();
        let missing = format!("unreadable event: {name}: the attribute is missing");
        let hint = if name == "specversion" {
            ": this is no CloudEvents object; JSON of your own needs a `mapping`"
        } else {
            ""
        };
        assert_eq!(refusal, format!("{missing}{hint}"));
        let refusal = read(&with(name, Value::Null)).unwrap_err();
        assert_eq!(
            refusal,
            format!("unreadable event: {name}: the attribute is missing"),
            "null is absent"
        );
    }
    for name in [
        "subject",
        "time",
        "correlationid",
        "causationid",
        "idempotencykey",
        "causedby",
        "data",
    ] {
        assert!(read(&without(name)).is_ok(), "{name} is optional");
    }
}

#[test]
fn a_refusal_names_the_field_and_never_shows_the_payload() {
    let long = "x".repeat(limits::ATTRIBUTE_BYTES_MAX + 1);
    let cases = [
        (with("specversion", json!("0.3")), "specversion"),
        (with("id", json!("")), "id"),
        (with("id", json!(7)), "id"),
        (with("source", json!(long)), "source"),
        (with("type", json!("a\u{1}b")), "type"),
        (with("subject", json!(["o1"])), "subject"),
        (with("time", json!("yesterday")), "time"),
        (with("tenantid", json!("Acme")), "tenantid"),
        (with("tenantid", json!("_unassigned2")), "tenantid"),
        (with("correlationid", json!(12)), "correlationid"),
        (with("Attempt", json!(1)), "Attempt"),
        (with("trace_parent", json!("x")), "trace_parent"),
        (with("ratio", json!(1.5)), "ratio"),
        (with("nested", json!({"a": 1})), "nested"),
        (with("data_base64", json!("AAAA")), "data_base64"),
        (with("data", json!({"secret": "s3cr3t\u{0}"})), "data"),
    ];
    for (event, field) in cases {
        let refusal = read(&event).unwrap_err();
        assert!(
            refusal.starts_with(&format!("unreadable event: {field}: ")),
            "{refusal}"
        );
        assert!(!refusal.contains("s3cr3t"), "{refusal}");
    }
}

#[test]
fn hostile_shapes_are_refused() {
    let deep = format!("{}1{}", "[".repeat(40), "]".repeat(40));
    let many: String = (0..100).map(|n| format!(",\"x{n}\":1")).collect();
    let envelope = |more: &str| {
        format!(r#"{{"specversion":"1.0","id":"e","source":"s","type":"t","tenantid":"a"{more}}}"#)
    };
    for (text, field) in [
        (envelope(&format!(",\"data\":{deep}")), "data"),
        (envelope(",\"data\":{\"a\":1,\"a\":2}"), "data"),
        (envelope(",\"id\":\"f\""), "id"),
        (envelope(&many), "(envelope)"),
        (envelope(",\"data\":"), "(envelope)"),
        ("[]".to_owned(), "(envelope)"),
        (String::new(), "(envelope)"),
        (" ".repeat(limits::DELIVERY_BYTES_MAX + 1), "(envelope)"),
    ] {
        let refusal = read_text(&text).unwrap_err();
        assert!(
            refusal.starts_with(&format!("unreadable event: {field}: ")),
            "{refusal}"
        );
    }
    let not_text = Event::read_json(&Bytes::from_static(b"{\"id\":\"\xff\"}")).unwrap_err();
    assert_eq!(
        not_text.to_string(),
        "unreadable event: (envelope): not UTF-8 at byte 7"
    );
}

#[test]
fn the_payload_is_kept_byte_for_byte() {
    let text = r#"{"specversion":"1.0","id":"e","source":"s","type":"t","tenantid":"a","data": {"b" : 1.50,"a":1e2 } }"#;
    let event = read_text(text).unwrap();
    assert_eq!(event.data.stored_bytes(), br#"{"b" : 1.50,"a":1e2 }"#);
    let base64 = with("data_base64", json!("aGk="));
    let event = read(&{
        let mut event = base64;
        event.as_object_mut().unwrap().remove("data");
        event
    });
    assert!(matches!(event.unwrap().data, EventData::Base64(text) if text == "aGk="));
}

#[test]
fn what_the_transport_stamps_is_no_other_content() {
    let event = read(&whole()).unwrap();
    for (name, value) in [
        ("time", json!("2026-11-22T07:00:00Z")),
        ("traceparent", json!("other")),
        ("attempt", json!(4)),
    ] {
        let again = read(&with(name, value)).unwrap();
        assert_eq!(event.conflict_hash(), again.conflict_hash(), "{name}");
        assert_eq!(event.idempotency_hash(), again.idempotency_hash(), "{name}");
    }
    for (name, value) in [
        ("type", json!("x")),
        ("source", json!("x")),
        ("subject", json!("x")),
        ("data", json!({"total_cents": 1001})),
    ] {
        assert_ne!(
            event.conflict_hash(),
            read(&with(name, value)).unwrap().conflict_hash(),
            "{name}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn r04_correlation_and_causation_ids_survive_storage_unchanged(correlation in "\\PC{1,60}", causation in "\\PC{1,60}") {
        let mut event = whole();
        event["correlationid"] = json!(correlation);
        event["causationid"] = json!(causation);
        let event = read(&event).unwrap();
        let mut stored = String::new();
        event.write_json(&mut stored);
        let again = read_text(&stored).unwrap();
        let carried = again.correlation_id.unwrap();
        prop_assert_eq!(carried.as_str(), correlation);
        let carried = again.causation_id.unwrap();
        prop_assert_eq!(carried.as_str(), causation);
    }

    #[test]
    fn r44_no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..400_usize) {
        let _ = Event::read_json(&Bytes::from(bytes));
        let text = whole().to_string();
        let _ = Event::read_json(&Bytes::copy_from_slice(&text.as_bytes()[..cut.min(text.len())]));
    }
}
