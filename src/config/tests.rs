use super::{Config, LogLevel, Problems, StoreKind};
use crate::config::fill::Outside;

struct Env(&'static [(&'static str, &'static str)]);

impl Outside for Env {
    fn env(&self, name: &str) -> Option<String> {
        self.0
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    }
    fn file(&self, _path: &str) -> Result<String, String> {
        Err("no such file".to_owned())
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, "t.yaml", &Env(&[("SIZE", "123"), ("PW", "s3cret")]))
}

/// `TIDEGATE_WRITE_REFERENCE=1 cargo test -p tidegate reference` writes the file anew.
#[test]
fn r51_reference_is_the_default_configuration() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/config/reference.yaml");
    let written = Config::reference();
    if std::env::var_os("TIDEGATE_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let standing = std::fs::read_to_string(&path).unwrap();
    assert_eq!(standing, written, "see this test's documentation");
    assert_eq!(parse(&standing).unwrap(), Config::default());
    assert_eq!(parse("").unwrap(), Config::default());

    let lines: Vec<&str> = standing.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let bare = line.trim_start_matches("# ").trim();
        let is_key = bare.split_once(':').is_some_and(|(key, _)| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        });
        let is_example_head = line.starts_with("# ") && bare == "sources:";
        if is_key && !line.trim_start().starts_with("# e") && !is_example_head {
            let above = lines[index - 1].trim();
            assert!(above.starts_with('#'), "no documentation above `{line}`");
        }
    }
    assert!(Config::default().unsafe_options().is_empty());
}

#[test]
fn the_example_in_the_reference_reads_back() {
    let reference = Config::reference();
    let (_, example) = reference.split_once("# sources:\n").unwrap();
    let (example, _) = example.split_once("\n# Where `tidegate run`").unwrap();
    let example: String = example
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line)))
        .collect();
    let filled = example
        .replace("name: null", "name: orders")
        .replace("paths: []", "paths: [a.ndjson]")
        .replace("stream: null", "stream: orders")
        .replacen("tenant: null", "tenant: acme", 1);
    let config = parse(&format!("sources:\n{filled}")).unwrap();
    assert_eq!(config.sources.len(), 1);
}

#[test]
fn every_problem_is_reported_at_once_with_its_line_and_key() {
    let text = "\
node:
  nmae: a
store:
  kind: postgras
  sqlite: { path: \"\" }
limits:
  batch_events_max: 10001
  commits_max: many
  commits_max: 3
sources:
  - name: Orders
    stream: orders
log: verbose
retention: { log_days: 0 }
";
    let problems = parse(text).unwrap_err().to_string();
    let expected = "\
t.yaml:2: node.nmae: unknown key; did you mean `name`?
t.yaml:4: store.kind: expected one of sqlite, postgres; did you mean `postgres`?
t.yaml:5: store.sqlite.path: expected a path, found empty text
t.yaml:7: limits.batch_events_max: expected 1 to 10000, found 10001
t.yaml:8: limits.commits_max: expected a whole number, found text
t.yaml:9: limits.commits_max: stands here a second time; the first is in line 8
t.yaml:11: sources[0].name: expected 1 to 63 of a-z, 0-9, `-` and `_`, beginning with a letter or digit, found `Orders` (6 bytes)
t.yaml:13: log: expected a map, found text
t.yaml:14: retention.log_days: expected 1 to 36500, found 0";
    assert_eq!(problems, expected);
}

#[test]
fn what_does_not_fit_together_is_a_problem() {
    let text = "\
store: { kind: postgres }
limits: { tenant_events_max: 160000 }
sources:
  - name: a
    paths: [x]
    stream: s
  - name: a
    paths: [y]
    stream: s
    tenant: t
    tenant_from_event_unsafe: true
";
    let operator = "sources: [{ name: operator, paths: [x], stream: s, tenant: t }]";
    assert!(
        parse(operator)
            .unwrap_err()
            .to_string()
            .contains("take another")
    );
    let internal = "sources: [{ name: a, paths: [x], stream: internal, tenant: t }]";
    let refused = parse(internal).unwrap_err().to_string();
    assert!(
        refused.contains("sources[0].stream: what machines emit"),
        "{refused}"
    );
    let one = "{ name: a, paths: [x], stream: s, tenant: t }";
    let twice = format!("sources: [{one}, {one}]");
    assert!(
        parse(&twice)
            .unwrap_err()
            .to_string()
            .contains("sources[1].name: `a` is the name of an earlier source too")
    );
    let requested =
        "sources: [{ name: a, kind: http, stream: s }, { name: b, kind: http, stream: s }]";
    let refused = parse(requested).unwrap_err().to_string();
    assert!(
        refused.contains("sources[1].stream: an earlier source of requests has the stream `s` too"),
        "{refused}"
    );
    let problems = parse(text).unwrap_err().to_string();
    for says in [
        "t.yaml:1: store.postgres.url: is needed",
        "t.yaml:2: limits.tenant_events_max: 160000 is more than `node_events_max`, 100000",
        "sources[0].tenant: is needed",
        "sources[1].tenant: is given, and `tenant_from_event_unsafe` too",
    ] {
        assert!(problems.contains(says), "{says} not in:\n{problems}");
    }
}

#[test]
fn a_connection_lives_as_long_as_an_answer_may_take() {
    let text = "\
store: { kind: postgres, postgres: { url: \"postgres://h/d\" } }
limits: { store_answer_limit_seconds: 46 }
";
    let refused = parse(text).unwrap_err().to_string();
    let says = "store.postgres.answer_timeout_ms: 45000 is less than";
    assert!(refused.contains(says), "{refused}");
    parse(&text.replace("/d\" }", "/d\", answer_timeout_ms: 46000 }")).unwrap();
}

#[test]
fn commits_in_flight_have_to_fit_the_connections() {
    let text = "store: { kind: postgres, postgres: { url: \"postgres://h/d\" } }\n";
    assert!(parse(text).is_ok());
    let refused = parse(&format!("{text}limits: {{ commits_max: 8 }}\n")).unwrap_err();
    let said = refused.to_string();
    assert!(said.contains("`limits.commits_max`, 8"), "{said}");
}

#[test]
fn filled_text_may_stand_for_a_number_and_a_literal_may_not() {
    let config = parse("limits: { commits_max: \"${env:SIZE}\" }\nlog:\n  level: debug\n").unwrap();
    assert_eq!(config.limits.commits_max, 123);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert!(parse("limits: { commits_max: \"12\" }").is_err());
    assert!(parse("node: { name: 12 }").is_err());
}

#[test]
fn r13_secrets_come_from_outside_and_are_never_shown() {
    let text = "store:\n  kind: postgres\n  postgres:\n    url: postgres://app:${env:PW}@db/x\n";
    let config = parse(text).unwrap();
    assert_eq!(config.store.kind, StoreKind::Postgres);
    let url = config.store.postgres.url.as_ref().unwrap();
    assert_eq!(url.expose(), "postgres://app:s3cret@db/x");
    assert!(!format!("{config:?}").contains("s3cret"));
    let literal = text.replace("${env:PW}", "hunter2");
    let problems = parse(&literal).unwrap_err().to_string();
    assert!(problems.contains("t.yaml:4: store.postgres.url: a password stands here"));
    assert!(!problems.contains("hunter2"));
}

#[test]
fn r51_each_unsafe_option_in_force_is_named() {
    let text = "\
sources:
  - { name: a, paths: [x], stream: s, tenant_from_event_unsafe: true }
";
    assert_eq!(
        parse(text).unwrap().unsafe_options(),
        ["sources[0].tenant_from_event_unsafe"]
    );
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("t.yaml");
    let text = "machines: { paths: [m, /abs/m] }\n\
                http: { listen: '0.0.0.0:1', tls_certificate: c.pem, tls_key: /abs/k.pem }\n";
    std::fs::write(&file, text).unwrap();
    let config = Config::load(&file).unwrap();
    assert_eq!(
        config.store.sqlite.path,
        directory.path().join("tidegate.db")
    );
    assert_eq!(
        config.machines.paths,
        [directory.path().join("m"), "/abs/m".into()]
    );
    let certificate = directory.path().join("c.pem");
    assert_eq!(config.http.tls_certificate, Some(certificate));
    assert_eq!(config.http.tls_key, Some("/abs/k.pem".into()));
}

#[test]
fn r51_the_defaults_are_those_of_the_parts() {
    let config = Config::default();
    assert_eq!(
        config.node_options(),
        tidegate_actors::NodeOptions::default()
    );
}

/// The reference says each bound; one more, and one less, is refused with it.
#[test]
fn r26_each_limit_plus_one_is_refused_with_its_bounds() {
    let reference = Config::reference();
    let mut sections: Vec<&str> = Vec::new();
    let mut bounds: Option<(u64, u64)> = None;
    let mut tried = 0;
    for line in reference.lines() {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let bare = line.trim();
        if let Some(doc) = bare.strip_prefix("# ") {
            let range = doc.strip_suffix('.').and_then(|doc| doc.split_once(" to "));
            bounds = range.and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
            continue;
        }
        let Some((key, value)) = bare.split_once(':') else {
            continue;
        };
        sections.truncate(depth);
        sections.push(key);
        let Some((low, high)) = bounds.take().filter(|_| !value.is_empty()) else {
            continue;
        };
        for wrong in [high.checked_add(1), low.checked_sub(1)]
            .into_iter()
            .flatten()
        {
            let mut text = String::new();
            for (depth, key) in sections.iter().enumerate() {
                text.push_str(&format!("{}{key}:", "  ".repeat(depth)));
                text.push_str(if depth + 1 == sections.len() {
                    " "
                } else {
                    "\n"
                });
            }
            let problems = parse(&format!("{text}{wrong}\n")).unwrap_err().to_string();
            let expected = format!(
                "{}: expected {low} to {high}, found {wrong}",
                sections.join(".")
            );
            assert!(
                problems.contains(&expected),
                "{expected} not in:\n{problems}"
            );
            tried += 1;
        }
    }
    assert!(tried >= 50, "only {tried} bounds were tried");
}

/// A source of records that are no CloudEvents, with these lines in its mapping.
fn mapped(source: &str, mapping: &str) -> Result<Config, String> {
    let mut text = format!(
        "sources:\n  - name: shop\n    paths: [a]\n    stream: orders\n    {source}\n    mapping:\n"
    );
    for line in mapping.lines() {
        text.push_str(&format!("      {line}\n"));
    }
    parse(&text).map_err(|problems| problems.to_string())
}

#[test]
fn a_mapping_is_read_and_compiled() {
    let config = mapped(
        "tenant: acme",
        "id: { pointer: /order/id }\ntype: { cel: \"'order.' + payload.kind\" }\n\
         time: { pointer: /at, format: epoch_ms }\nsource: { literal: /shop }",
    )
    .unwrap();
    let mappings = config.mappings();
    let name = tidegate_engine::position::SourceName::new("shop").unwrap();
    assert!(!mappings[&name].uses_headers() && !mappings[&name].maps_tenant());
    let none = parse("sources: [{ name: a, paths: [x], stream: s, tenant: t, mapping: {} }]");
    assert!(none.unwrap().mappings().is_empty());
}

#[test]
fn every_mistake_of_a_mapping_is_told_at_once_with_its_line_and_what_to_write() {
    let problems = mapped(
        "tenant: acme",
        "id: { pointer: order.id }
typ: { literal: a }
subject: { pointer: /a, header: b }
time:
  ponter: /at
source: /shop
idempotency_key: {}
correlation_id:
  cel: payload.trace +
causation_id:
  cel: paylod.cause
stream: { header: topic }
caused_by: { literal: me }
idd: { literal: a, literal: b }",
    )
    .unwrap_err();
    let expected = [
        "t.yaml:7: sources[0].mapping.id.pointer: a JSON pointer begins with `/`; write `/order/id`",
        "t.yaml:8: sources[0].mapping.typ: unknown key; did you mean `type`?",
        "t.yaml:9: sources[0].mapping.subject.header: `pointer` stands here too; only one of them says",
        "t.yaml:11: sources[0].mapping.time.ponter: unknown key; did you mean `pointer`?",
        "t.yaml:12: sources[0].mapping.source: expected a map, found text; write one of header, pointer",
        "t.yaml:13: sources[0].mapping.idempotency_key: nothing says where it is taken from",
        "t.yaml:15: sources[0].mapping.correlation_id.cel: not CEL, at its column",
        "t.yaml:17: sources[0].mapping.causation_id.cel: `paylod` is no variable",
        "t.yaml:18: sources[0].mapping.stream: a source has one stream",
        "t.yaml:19: sources[0].mapping.caused_by: who caused an event is said by a credential",
        "t.yaml:20: sources[0].mapping.idd: unknown key; did you mean `id`?",
    ];
    let told: Vec<&str> = problems.lines().collect();
    assert_eq!(told.len(), expected.len(), "{problems}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{expected} not in:\n{problems}");
    }
}

#[test]
fn a_mapping_has_to_fit_its_source() {
    const ID: &str = "id: { pointer: /id }";
    const TYPE: &str = "type: { literal: t }";
    for (source, mapping, says) in [
        ("tenant: a", TYPE, "mapping.id: is needed; like `id: {"),
        ("tenant: a", ID, "mapping.type: is needed"),
        (
            "tenant: a",
            "id: { literal: x }\ntype: { literal: t }",
            "t.yaml:7: sources[0].mapping.id: is the same",
        ),
        (
            "tenant: a",
            "id: { pointer: /id }\ntype: { cel: 'true' }",
            "t.yaml:8: sources[0].mapping.type: expression",
        ),
        (
            "tenant: a",
            "id: { header: x-id }\ntype: { literal: t }",
            "mapping.id: the lines of a file have no headers",
        ),
        (
            "tenant: a",
            "id: { cel: \"headers['x-id']\" }\ntype: { literal: t }",
            "have no headers",
        ),
        (
            "tenant: a",
            "id: { pointer: /id, format: epoch_s }\ntype: { literal: t }",
            "mapping.id.format: unknown key",
        ),
        (
            "tenant: a",
            "id: { pointer: /id }\ntype: { literal: t }\ntime: { pointer: /t, format: epoch }",
            "mapping.time.format: expected one of rfc3339, epoch_s, epoch_ms, epoch_us",
        ),
        (
            "tenant: a",
            "id: { pointer: /id }\ntype: { literal: t }\ntenant: { pointer: /t }",
            "t.yaml:9: sources[0].mapping.tenant: whoever writes this field chooses the tenant",
        ),
        (
            "tenant_from_event_unsafe: true",
            "id: { pointer: /id }\ntype: { literal: t }",
            "mapping.tenant: is needed with `tenant_from_event_unsafe`",
        ),
    ] {
        let problems = mapped(source, mapping).unwrap_err();
        assert!(problems.contains(says), "{says} not in:\n{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
    let sound = format!("{ID}\n{TYPE}");
    assert!(mapped("tenant: a", &sound).is_ok());
    let trusted = format!("{sound}\ntenant: {{ pointer: /t }}");
    assert!(mapped("tenant_from_event_unsafe: true", &trusted).is_ok());
}

#[test]
fn a_record_is_known_by_its_position_where_that_is_said_and_no_sender_repeats_it() {
    let mapping = "id: position\ntype: { literal: t }";
    assert!(mapped("tenant: a", mapping).is_ok());
    for (of, mapping, says) in [
        (
            "kind: http",
            mapping,
            "sources[0].mapping.id: a request that is sent again has another position",
        ),
        (
            "tenant: a",
            "id: offset\ntype: { literal: t }",
            "sources[0].mapping.id: expected a map like `{ pointer: /id }`, or `position`",
        ),
        (
            "tenant: a",
            "id: position\ntype: { literal: t }\nidempotency_key: position",
            "sources[0].mapping.idempotency_key: expected a map, found text",
        ),
        (
            "tenant: a",
            "type: { literal: t }",
            "sources[0].mapping.id: is needed; like `id: { pointer: /id }`; for records that have none, `id: position`",
        ),
    ] {
        let problems = mapped(of, mapping).unwrap_err();
        assert!(problems.contains(says), "{says} not in:\n{problems}");
    }
}

#[test]
fn unknown_tenants_are_created_only_where_events_name_them() {
    use tidegate_engine::tenant::{TenantBinding, UnknownTenants};
    let source = |keys: &str| {
        let text = format!(
            "limits: {{ created_tenants_max: 7 }}\nsources:\n  - {{ name: a, stream: s, {keys} }}\n"
        );
        let parsed = parse(&text).map_err(|problems| problems.to_string());
        parsed.map(|it| it.sources[0].tenant_binding(&it.limits))
    };
    let named = "paths: [x], tenant_from_event_unsafe: true";
    let create = TenantBinding::RegisteredField(UnknownTenants::Create { created_max: 7 });
    let keep = TenantBinding::RegisteredField(UnknownTenants::DeadLetter);
    assert_eq!(source(named), Ok(keep.clone()));
    assert_eq!(
        source(&format!("{named}, unknown_tenants: dead_letter")),
        Ok(keep)
    );
    assert_eq!(
        source(&format!("{named}, unknown_tenants: create")),
        Ok(create)
    );
    for (keys, says) in [
        (
            "paths: [x], tenant: acme, unknown_tenants: create",
            "t.yaml:3: sources[0].unknown_tenants: is for sources whose events name their tenant",
        ),
        (
            "kind: http, unknown_tenants: create",
            "t.yaml:3: sources[0].unknown_tenants: is not for requests: their tenant is that of their token",
        ),
        (
            "paths: [x], tenant_from_event_unsafe: true, unknown_tenants: made",
            "sources[0].unknown_tenants: expected one of",
        ),
    ] {
        let problems = source(keys).unwrap_err();
        assert!(problems.contains(says), "{says} not in:\n{problems}");
        assert_eq!(problems.lines().count(), 1, "{problems}");
    }
}

#[test]
fn r32_r49_an_address_that_others_reach_needs_tls_or_says_that_it_is_unsafe() {
    let http = |keys: &str| {
        let parsed = parse(&format!("http: {{ {keys} }}\n"));
        parsed.map_err(|problems| problems.to_string())
    };
    let tls = "tls_certificate: c, tls_key: k";
    for listen in [
        "0.0.0.0:80",
        "[::]:80",
        "10.0.0.7:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        let plain = http(&format!("listen: '{listen}'")).unwrap_err();
        assert!(plain.contains("t.yaml:1: http.listen: "), "{plain}");
        assert!(plain.contains("unsafe_plaintext_listener: true"), "{plain}");
        http(&format!("listen: '{listen}', {tls}")).unwrap();
        let told = format!("listen: '{listen}', unsafe_plaintext_listener: true");
        let told = http(&told).unwrap().unsafe_options();
        assert_eq!(told, ["http.unsafe_plaintext_listener"]);
    }
    for listen in ["127.0.0.1:80", "127.8.8.8:80", "[::1]:80", "localhost:80"] {
        http(&format!("listen: '{listen}'")).unwrap();
    }
    for (keys, says) in [
        ("tls_certificate: c", "http.tls_key: is needed"),
        ("tls_key: k", "http.tls_certificate: is needed"),
        ("listen: example.com", "expected `address:port`"),
    ] {
        let refused = http(keys).unwrap_err();
        assert!(refused.contains(says), "{refused}");
    }
}

#[test]
fn r14_secrets_in_payloads_are_refused_unless_a_source_says_otherwise() {
    use tidegate_engine::secrets::SecretPolicy;
    let policy = |secrets: &str| {
        let text = format!("sources: [{{ name: a, paths: [x], stream: s, tenant: t{secrets} }}]");
        parse(&text).map(|config| config.sources[0].secrets.policy())
    };
    assert_eq!(policy("").unwrap(), SecretPolicy::Refuse);
    for (word, expected) in [
        ("refuse", SecretPolicy::Refuse),
        ("redact", SecretPolicy::Redact),
        ("report", SecretPolicy::Report),
        ("'off'", SecretPolicy::Off),
    ] {
        assert_eq!(policy(&format!(", secrets: {word}")).unwrap(), expected);
    }
    assert!(policy(", secrets: keep").is_err());
}
