//! Each way to take each field, what becomes of each JSON value, and that any bytes are an event or a
//! refusal that shows no value.

use bytes::Bytes;
use proptest::prelude::*;

use super::{Field, Input, Mapping, MappingFault, Selector, TimeFormat};
use crate::event::{Event, EventData, EventSource, Unreadable};
use crate::headers::Headers;
use crate::limits::{ATTRIBUTE_BYTES_MAX, DELIVERY_BYTES_MAX, HEADERS_MAX};
use crate::position::{Incarnation, Offset, SourceInstance, SourceName, SourcePartition};
use crate::tenant::TenantId;

type Rules<'r> = &'r [(Field, (&'r str, &'r str))];

const TEXT_FIELDS: [Field; 7] = [
    Field::Id,
    Field::Type,
    Field::Subject,
    Field::Source,
    Field::IdempotencyKey,
    Field::CorrelationId,
    Field::CausationId,
];

/// A mapping of these fields; `id` and `type` are added where they are left out.
fn compile(rules: Rules<'_>, format: TimeFormat) -> Result<Mapping, Vec<MappingFault>> {
    let mut fields: Vec<(Field, Selector)> = rules
        .iter()
        .map(|(field, (word, text))| (*field, Selector::parse(word, text, 7).unwrap()))
        .collect();
    for (field, pointer) in [(Field::Id, "/id"), (Field::Type, "/type")] {
        if !rules.iter().any(|(mapped, _)| *mapped == field) {
            fields.push((field, Selector::parse("pointer", pointer, 7).unwrap()));
        }
    }
    let source = EventSource::new("/sources/shop").unwrap();
    Mapping::compile(&fields, format, source)
}

fn mapping(rules: Rules<'_>) -> Mapping {
    compile(rules, TimeFormat::Rfc3339).unwrap()
}

fn headers(all: &[(&str, &[u8])]) -> Headers {
    let all = all
        .iter()
        .map(|(name, value)| ((*name).into(), Bytes::copy_from_slice(value)));
    Headers::collect(all)
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn event(mapping: &Mapping, headers: &Headers, payload: &str) -> Result<Event, Unreadable> {
    let payload = Bytes::copy_from_slice(payload.as_bytes());
    let input = Input {
        headers,
        payload: &payload,
    };
    mapping.envelope(input, Some(&acme()))
}

/// The payload of every table: the value stands at `/at/it`, beside what every mapping needs.
fn holding(value: &str) -> String {
    format!(r#"{{"id":"e1","type":"t","at":{{"it":{value}}}}}"#)
}

fn field_text(event: &Event, field: Field) -> Option<String> {
    let text = |text: Option<&str>| text.map(str::to_owned);
    match field {
        Field::Id => Some(event.id.to_string()),
        Field::Type => Some(event.event_type.to_string()),
        Field::Source => Some(event.source.to_string()),
        Field::Tenant => Some(event.tenant.to_string()),
        Field::Subject => text(event.subject.as_ref().map(AsRef::as_ref)),
        Field::Time => text(event.time.as_ref().map(|time| time.text.as_str())),
        Field::IdempotencyKey => text(event.idempotency_key.as_ref().map(AsRef::as_ref)),
        Field::CorrelationId => text(event.correlation_id.as_ref().map(AsRef::as_ref)),
        Field::CausationId => text(event.causation_id.as_ref().map(AsRef::as_ref)),
    }
}

#[test]
fn each_field_is_taken_from_each_place() {
    let given = headers(&[("X-It", "värde".as_bytes())]);
    let payload = holding(r#""värde""#);
    for field in TEXT_FIELDS {
        let mut ways = vec![
            ("header", "x-it"),
            ("pointer", "/at/it"),
            ("cel", "payload.at.it"),
            ("cel", "payload['at']['it']"),
            ("cel", "headers['x-it']"),
            ("cel", "'x-it' in headers ? headers['x-it'] : null"),
            ("cel", "has(payload.at.it) ? payload.at.it : null"),
        ];
        if ![Field::Id, Field::IdempotencyKey].contains(&field) {
            ways.push(("literal", "värde"));
            ways.push(("cel", "'vär' + 'de'"));
        }
        for way in ways {
            let mapping = mapping(&[(field, way)]);
            let made = event(&mapping, &given, &payload).unwrap();
            assert_eq!(
                field_text(&made, field).as_deref(),
                Some("värde"),
                "{field:?} {way:?}"
            );
        }
    }
}

#[test]
fn what_is_not_mapped_has_its_default() {
    let made = event(&mapping(&[]), &Headers::NONE, &holding("1")).unwrap();
    assert_eq!(made.tenant, acme());
    assert_eq!(made.source.as_str(), "/sources/shop");
    let content_type = made.data_content_type.as_ref().map(AsRef::as_ref);
    assert_eq!(content_type, Some("application/json"));
    for field in [Field::Subject, Field::Time, Field::IdempotencyKey] {
        assert_eq!(field_text(&made, field), None, "{field:?}");
    }
    assert!(made.caused_by.is_none() && made.extensions.is_empty());
}

#[test]
fn a_number_is_its_digits_and_what_is_no_text_is_refused_by_name() {
    let taken = |value: &str| {
        let mapping = mapping(&[(Field::Subject, ("pointer", "/at/it"))]);
        let made = event(&mapping, &Headers::NONE, &holding(value))?;
        Ok::<_, Unreadable>(field_text(&made, Field::Subject))
    };
    for (value, text) in [
        ("17", "17"),
        ("-17", "-17"),
        ("0", "0"),
        ("-0", "0"),
        ("1.50", "1.50"),
        ("9007199254740993", "9007199254740993"),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567890",
        ),
        (r#""a\u0062c\/\ud83e\udd80""#, "abc/🦀"),
    ] {
        assert_eq!(taken(value).unwrap().as_deref(), Some(text), "{value}");
    }
    assert_eq!(taken("1,\"other\":2").unwrap().as_deref(), Some("1"));
    for (value, says) in [
        ("true", "finds a boolean"),
        ("null", "finds null"),
        (r#"{"hunter":2}"#, "finds an object"),
        (r#"["hunter2"]"#, "finds a list"),
        ("1e3", "with an exponent"),
        (r#""hunter2\n""#, "without control characters"),
        (r#""""#, "expected 1 to 1024 bytes"),
    ] {
        let refusal = taken(value).unwrap_err();
        assert_eq!(refusal.field, "subject", "{value}");
        assert!(refusal.reason.contains(says), "{value}: {refusal}");
        assert!(refusal.reason.contains("pointer `/at/it`"), "{refusal}");
        assert!(!refusal.reason.contains("hunter"), "{refusal}");
    }
    let long = format!("\"{}\"", "x".repeat(ATTRIBUTE_BYTES_MAX + 1));
    assert!(taken(&long).is_err());
}

#[test]
fn what_is_not_there_is_absent_unless_it_is_needed() {
    for (way, field, says) in [
        (("pointer", "/nothing"), Field::Id, "pointer `/nothing`"),
        (("pointer", "/at/it/deeper"), Field::Type, "finds nothing"),
        (("header", "x-none"), Field::Id, "header `x-none`"),
        (
            ("cel", "has(payload.no) ? 'x' : null"),
            Field::Id,
            "finds nothing",
        ),
    ] {
        let refusal = event(&mapping(&[(field, way)]), &Headers::NONE, &holding("1")).unwrap_err();
        assert_eq!(refusal.field, field.key());
        assert!(refusal.reason.contains(says), "{refusal}");
        assert!(refusal.reason.contains("correct the mapping"), "{refusal}");
        let optional = mapping(&[(Field::Subject, way)]);
        let made = event(&optional, &Headers::NONE, &holding("1")).unwrap();
        assert_eq!(made.subject, None);
    }
}

#[test]
fn an_expression_that_fails_names_its_path_and_shows_no_value() {
    let payload = holding(r#"{"secret":"hunter2","n":1.5,"big":12345678901234567890}"#);
    for (expression, says) in [
        ("payload.at.none", "`payload.at.none` is absent"),
        ("headers['x-none']", "`headers.x-none` is absent"),
        ("headers['x-bytes']", "is not UTF-8 text"),
        ("headers['x-two']", "several times with different values"),
        ("payload.at.it.secret + 1", "does not"),
        ("payload.at.it", "comes to a map"),
        ("payload.at.it.n > 1.0", "comes to a bool"),
        ("payload.at.it.n", "comes to a double"),
        ("payload.at.it.big", "comes to a double"),
        ("timestamp('2026-01-01T00:00:00Z')", "comes to a timestamp"),
        ("1 / (size(payload.at.it.secret) - 7)", "division by zero"),
    ] {
        let given = headers(&[("x-bytes", b"\xff"), ("x-two", b"1"), ("x-two", b"2")]);
        let rules: Rules<'_> = &[(Field::Subject, ("cel", expression))];
        let refusal = match compile(rules, TimeFormat::Rfc3339) {
            Ok(mapping) => event(&mapping, &given, &payload).unwrap_err().to_string(),
            // A constant is found out when it is loaded.
            Err(faults) => faults[0].objection.message.clone(),
        };
        assert!(refusal.contains(says), "{expression}: {refusal}");
        assert!(!refusal.contains("hunter2"), "{refusal}");
    }
}

#[test]
fn a_header_that_nobody_can_tell_is_refused() {
    let by_header = mapping(&[(Field::Id, ("header", "id"))]);
    for (given, says) in [
        (headers(&[("id", b"\xff\xfe")]), "is not UTF-8 text"),
        (headers(&[("id", b"a"), ("ID", b"b")]), "several times"),
        (headers(&[("id", b"a\x00")]), "without control characters"),
        (headers(&[("id", b"")]), "expected 1 to 1024 bytes"),
    ] {
        let refusal = event(&by_header, &given, &holding("1")).unwrap_err();
        assert!(refusal.reason.contains(says), "{refusal}");
    }
    let twice = headers(&[("id", b"a"), ("Id", b"a")]);
    assert_eq!(
        event(&by_header, &twice, &holding("1"))
            .unwrap()
            .id
            .as_str(),
        "a"
    );
    let many = headers(&vec![("id", &b"a"[..]); HEADERS_MAX + 1]);
    let refusal = event(&by_header, &many, &holding("1")).unwrap_err();
    assert_eq!(refusal.field, "(headers)");
    // Who does not look at them does not mind.
    assert!(event(&mapping(&[]), &many, &holding("1")).is_ok());
}

#[test]
fn time_is_read_in_its_format_from_each_place() {
    let at = |format, way: (&str, &str), value: &str| {
        let mapping = compile(&[(Field::Time, way)], format).unwrap();
        let given = headers(&[("x-at", value.trim_matches('"').as_bytes())]);
        let made = event(&mapping, &given, &holding(value))?;
        Ok::<_, Unreadable>(made.time.map(|time| (time.text.to_string(), time.moment.0)))
    };
    let (pointer, header, cel) = (
        ("pointer", "/at/it"),
        ("header", "x-at"),
        ("cel", "payload.at.it"),
    );
    let same = Some((
        "2026-11-22T06:17:00.500000Z".to_owned(),
        1_795_328_220_500_000,
    ));
    for way in [pointer, header, cel] {
        for (format, value) in [
            (TimeFormat::EpochSeconds, "1795328220.5"),
            (TimeFormat::EpochSeconds, "\"1795328220.5\""),
            (TimeFormat::EpochMillis, "1795328220500"),
            (TimeFormat::EpochMillis, "1.7953282205E12"),
            (TimeFormat::EpochMicros, "1795328220500000"),
        ] {
            assert_eq!(
                at(format, way, value).unwrap(),
                same,
                "{format:?} {way:?} {value}"
            );
        }
        // RFC 3339 stays as it was written.
        let kept = "2026-11-22T07:17:00.5+01:00";
        let found = at(TimeFormat::Rfc3339, way, &format!("\"{kept}\"")).unwrap();
        assert_eq!(found, Some((kept.to_owned(), 1_795_328_220_500_000)));
        for (format, value) in [
            (TimeFormat::Rfc3339, "\"yesterday, hunter2\""),
            (TimeFormat::Rfc3339, "1795328220"),
            (TimeFormat::EpochSeconds, "1795328220500"),
            (TimeFormat::EpochMillis, "\"2026-11-22T06:17:00Z\""),
            (TimeFormat::EpochMillis, "1e400"),
            (TimeFormat::EpochMicros, "true"),
        ] {
            let refusal = at(format, way, value).unwrap_err();
            assert_eq!(refusal.field, "time");
            assert!(!refusal.reason.contains("hunter2"), "{refusal}");
            // An absent value of the language names its path alone.
            let told = refusal.reason.contains(format.expected());
            assert!(told, "{format:?} {way:?} {value}: {refusal}");
        }
    }
    let computed = ("cel", "timestamp(payload.at.it)");
    let found = at(
        TimeFormat::EpochMillis,
        computed,
        "\"2026-11-22T06:17:00.5Z\"",
    );
    assert_eq!(found.unwrap(), same);
    assert_eq!(
        at(TimeFormat::Rfc3339, ("pointer", "/none"), "1").unwrap(),
        None
    );
}

#[test]
fn r02_the_tenant_is_the_bound_one_unless_it_is_mapped() {
    let payload = Bytes::from_static(br#"{"id":"1","type":"t","tenantid":"bolt","tenant":"bolt"}"#);
    let input = Input {
        headers: &Headers::NONE,
        payload: &payload,
    };
    let bound = mapping(&[]);
    assert_eq!(bound.envelope(input, Some(&acme())).unwrap().tenant, acme());
    assert_eq!(bound.envelope(input, None).unwrap_err().field, "tenant");
    let mapped = mapping(&[(Field::Tenant, ("pointer", "/tenant"))]);
    assert_eq!(
        mapped.envelope(input, None).unwrap().tenant.as_str(),
        "bolt"
    );
    let wrong = Bytes::from_static(br#"{"id":"1","type":"t","tenant":"Hunter 2"}"#);
    let input = Input {
        headers: &Headers::NONE,
        payload: &wrong,
    };
    let refusal = mapped.envelope(input, None).unwrap_err();
    assert!(refusal.field == "tenant" && !refusal.reason.contains("Hunter"));
}

#[test]
fn the_payload_stays_as_it_came_and_the_event_reads_back() {
    let payload = " { \"id\" : 1.0,\t\"type\":\"t\",\"n\":[1e999, 0.10, \"\\u0041\"] } \n";
    let made = event(&mapping(&[]), &Headers::NONE, payload).unwrap();
    assert_eq!(
        made.data,
        EventData::Json(Bytes::from(payload.trim().to_owned()))
    );
    assert_eq!(made.id.as_str(), "1.0");
    let mut stored = String::new();
    made.write_json(&mut stored);
    assert_eq!(Event::read_json(&Bytes::from(stored)).unwrap(), made);
}

#[test]
fn r48_what_is_no_sound_json_is_refused_with_its_place() {
    let check = |payload: &[u8], says: &str| {
        let payload = Bytes::copy_from_slice(payload);
        let input = Input {
            headers: &Headers::NONE,
            payload: &payload,
        };
        let refusal = mapping(&[]).envelope(input, Some(&acme())).unwrap_err();
        assert_eq!(refusal.field, "(payload)", "{refusal}");
        assert!(refusal.reason.contains(says), "{refusal}");
        assert!(!refusal.reason.contains("hunter2"), "{refusal}");
    };
    check(b"", "not one JSON value: line 1");
    check(b"hunter2", "not one JSON value");
    check(b"{\"id\":\"hunter2\"", "not one JSON value");
    check(b"{} hunter2", "not one JSON value");
    check(b"{\"a\":\"\xff\"}", "not UTF-8 at byte 6");
    check(br#"{"a":1,"a":2}"#, "duplicate key");
    check(br#"{"a":"\u0000"}"#, "NUL");
    check("[".repeat(100_000).as_bytes(), "not one JSON value");
    let deep = format!("{}{}", "[".repeat(32), "]".repeat(32));
    check(deep.as_bytes(), "nested deeper");
    check(&vec![b' '; DELIVERY_BYTES_MAX + 1], "at most 1048576");
    // JSON that is no object has nothing to point at.
    for scalar in ["1", "null", "[]", "\"x\""] {
        let refusal = event(&mapping(&[]), &Headers::NONE, scalar).unwrap_err();
        assert_eq!(refusal.field, "id");
    }
}

#[test]
fn a_mapping_that_could_never_be_right_does_not_compile() {
    let said = |rules: Rules<'_>| {
        let faults = compile(rules, TimeFormat::Rfc3339).unwrap_err();
        let said: Vec<String> = faults
            .iter()
            .map(|fault| format!("{}: {}", fault.field.key(), fault.objection.message))
            .collect();
        said.join("\n")
    };
    assert!(said(&[(Field::Id, ("literal", "1"))]).contains("id: is the same for every event"));
    assert!(said(&[(Field::IdempotencyKey, ("cel", "'a' + 'b'"))]).contains("the same"));
    assert!(said(&[(Field::Tenant, ("literal", "acme"))]).contains("the source's `tenant`"));
    assert!(said(&[(Field::Type, ("cel", "1 == 1"))]).contains("type: expression `1 == 1`"));
    assert!(said(&[(Field::Time, ("literal", "noon"))]).contains("time: the literal"));
    let source = EventSource::new("/s").unwrap();
    let nothing = Mapping::compile(&[], TimeFormat::Rfc3339, source).unwrap_err();
    let fields: Vec<Field> = nothing.iter().map(|fault| fault.field).collect();
    assert_eq!(fields, [Field::Id, Field::Type]);
}

#[test]
fn an_expression_that_is_wrong_is_refused_with_what_to_write() {
    for (text, message, suggestion) in [
        ("payload.", "not CEL, at its column", ""),
        (
            "payloud.id",
            "`payloud` is no variable; here there is `payload` and `headers`",
            "did you mean `payload`?",
        ),
        (
            "event.data.id",
            "`event` does not exist yet",
            "a mapping sees `payload` and `headers`",
        ),
        ("headers", "`headers` itself is no value", "headers['x-id']"),
        ("headers['a'].b", "the header `a` is text", ""),
        ("headers.x-id", "`id` is no variable", ""),
        ("now()", "there is no function `now`", ""),
        (
            "payload.id.matches('a')",
            "there is no method `matches`",
            "regular expressions",
        ),
        ("payload.all(k, k == 'a', k)", "", ""),
    ] {
        let objections = Selector::parse("cel", text, 3).unwrap_err();
        let first = &objections[0];
        assert!(first.message.contains(message), "{text}: {first:?}");
        let suggested = first.suggestion.as_deref().unwrap_or_default();
        assert!(suggested.contains(suggestion), "{text}: {first:?}");
    }
    let rule = Selector::parse("cel", "'x-id' in headers ? 'a' : 'b'", 3).unwrap();
    assert!(rule.uses_headers());
    assert!(
        !Selector::parse("cel", "payload.headers", 3)
            .unwrap()
            .uses_headers()
    );
}

/// A mapping with every field from somewhere in a payload or a header.
fn whole() -> Mapping {
    compile(
        &[
            (Field::Id, ("pointer", "/id")),
            (Field::Type, ("cel", "'t.' + string(payload.kind)")),
            (Field::Subject, ("pointer", "/at/0")),
            (Field::Time, ("pointer", "/time")),
            (Field::IdempotencyKey, ("header", "key")),
            (
                Field::CorrelationId,
                ("cel", "has(payload.c) ? payload.c : null"),
            ),
            (Field::CausationId, ("pointer", "/at/1/c")),
        ],
        TimeFormat::EpochMillis,
    )
    .unwrap()
}

/// JSON as producers write it, sound or nearly so.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        "-?[0-9]{1,25}(\\.[0-9]{1,9})?(e-?[0-9]{1,4})?",
        "[\\PC\\x00-\\x20]{0,9}".prop_map(|text| serde_json::Value::from(text).to_string()),
        r#""(\\u[0-9a-fD]{4}|\\[nq"/]|[a-z]){0,4}""#,
    ];
    leaf.prop_recursive(4, 40, 5, |inside| {
        let name = prop_oneof![
            "id|kind|at|time|c|[a-z]{1,2}",
            "[\\PC]{0,3}".prop_map(|text| text.replace(['"', '\\'], "")),
        ];
        prop_oneof![
            prop::collection::vec(inside.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((name, inside), 0..6).prop_map(|entries| {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(name, value)| format!("\"{name}\":{value}"))
                    .collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}

/// An event reads back from what is stored of it, and a refusal shows nothing of the payload.
fn sound(mapping: &Mapping, headers: &Headers, payload: &Bytes) {
    let input = Input { headers, payload };
    match mapping.envelope(input, Some(&acme())) {
        Ok(event) => {
            let mut stored = String::new();
            event.write_json(&mut stored);
            assert_eq!(Event::read_json(&Bytes::from(stored)).as_ref(), Ok(&event));
            assert_eq!(mapping.envelope(input, Some(&acme())), Ok(event));
        }
        Err(refusal) => {
            assert!(!refusal.reason.is_empty() && !refusal.field.is_empty());
            assert_eq!(mapping.envelope(input, Some(&acme())), Err(refusal));
        }
    }
}

proptest! {
    #[test]
    fn r44_any_bytes_are_an_event_or_a_refusal(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        key in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        sound(&whole(), &headers(&[("key", &key)]), &Bytes::from(bytes));
    }

    #[test]
    fn r44_any_json_is_an_event_or_a_refusal(text in json(), time in json(), kind in json()) {
        let mapping = whole();
        sound(&mapping, &Headers::NONE, &Bytes::from(text.clone()));
        let event = format!(r#"{{"id":7,"kind":{kind},"time":{time},"at":{text}}}"#);
        sound(&mapping, &Headers::NONE, &Bytes::from(event));
    }

    #[test]
    fn r04_correlation_and_causation_come_through_unchanged(
        correlation in "[\\PC]{1,40}",
        cause in "[\\PC]{1,40}",
    ) {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let payload = format!(
            r#"{{"id":1,"kind":"k","c":{},"at":["s",{{"c":{}}}]}}"#, text(&correlation), text(&cause),
        );
        let made = event(&whole(), &Headers::NONE, &payload).unwrap();
        prop_assert_eq!(field_text(&made, Field::CorrelationId), Some(correlation));
        prop_assert_eq!(field_text(&made, Field::CausationId), Some(cause));
    }
}

#[test]
fn a_position_is_an_id_that_no_other_record_has() {
    let fields = [
        (Field::Id, Selector::Position),
        (Field::Type, Selector::Literal("t".into())),
    ];
    let source = || EventSource::new("/s").unwrap();
    let by_position = Mapping::compile(&fields, TimeFormat::Rfc3339, source()).unwrap();
    assert!(by_position.uses_position());
    let instance = |partition, incarnation| SourceInstance {
        source_partition: SourcePartition {
            source: SourceName::new("shop").unwrap(),
            partition,
        },
        incarnation: Incarnation::new(incarnation).unwrap(),
    };
    let payload = Bytes::from_static(b"{}");
    let input = Input {
        headers: &Headers::NONE,
        payload: &payload,
    };
    let read = |place: Option<(SourceInstance, u64)>| {
        let place = place.as_ref();
        let place = place.map(|(instance, offset)| (instance, Offset(*offset)));
        by_position.envelope_at(place, input, Some(&acme()))
    };
    let mut keys = std::collections::BTreeSet::new();
    for (partition, incarnation, offset) in [
        (0, "one", 7),
        (0, "one", 8),
        (1, "one", 7),
        (0, "two", 7),
        (0, "one/0", 7),
    ] {
        let instance = instance(partition, incarnation);
        let event = read(Some((instance.clone(), offset))).unwrap();
        let place = format!("shop/{incarnation}/{partition}/{offset}");
        assert_eq!(event.id.as_str(), place);
        assert!(keys.insert(event.idempotency_hash()), "{place}");
        // The same place is the same event.
        let again = read(Some((instance, offset))).unwrap();
        assert!(!keys.insert(again.idempotency_hash()));
    }
    // Where the place is not known there is no id, and none is made up.
    assert_eq!(read(None).unwrap_err().field, "id");
    let elsewhere = [fields.as_slice(), &[(Field::Subject, Selector::Position)]].concat();
    let faults = Mapping::compile(&elsewhere, TimeFormat::Rfc3339, source()).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].field, Field::Subject);
}
