//! Who may do what: every route, every scope, and tokens that are none.

use std::collections::BTreeSet;

use tidegate::http::route::{Access, all};
use tidegate_engine::access::{Operation, Scope};

use super::client::request;
use super::nodes::{node_with, observer, token};
use super::{BATCH, Served, placed};

/// A path of the table with something in its places.
pub fn target(path: &str) -> String {
    if path == "/v1/events" {
        return format!("{path}?stream=orders");
    }
    if path == "/v1/stream" {
        // Who may follow is answered, and not without end.
        return format!("{path}?filter=(");
    }
    path.replace("{stream}", "orders")
        .replace("{machine}", "order")
        .replace("{key}", "o-1")
        .replace("{id:.+}", "orders:api/0:0")
        .replace("{correlation_id}", "c-1")
        .replace("{id}", "00000000000000000000000000000000")
}

type Row = (&'static str, &'static str, Option<&'static [Scope]>);

/// Written by hand: a new route fails here until somebody has thought about who may take it.
fn matrix() -> BTreeSet<Row> {
    [
        ("GET", "/livez", None),
        ("GET", "/readyz", Some(&[Scope::Observe][..])),
        ("GET", "/metrics", Some(&[Scope::Observe][..])),
        ("GET", "/openapi.json", Some(&[Scope::Observe][..])),
        ("POST", "/v1/events", Some(&[Scope::PublishFact][..])),
        (
            "POST",
            "/v1/streams/{stream}",
            Some(&[Scope::PublishFact][..]),
        ),
        (
            "GET",
            "/v1/entities/{machine}/{key}",
            Some(&[Scope::Read][..]),
        ),
        (
            "GET",
            "/v1/entities/{machine}/{key}/history",
            Some(&[Scope::Read][..]),
        ),
        ("GET", "/v1/events", Some(&[Scope::Read][..])),
        ("GET", "/v1/events/{id:.+}", Some(&[Scope::Read][..])),
        (
            "GET",
            "/v1/trace/{correlation_id}",
            Some(&[Scope::Read][..]),
        ),
        ("GET", "/v1/stream", Some(&[Scope::Read][..])),
        ("GET", "/v1/dead-letters", Some(&[Scope::Read][..])),
        ("GET", "/v1/dead-letters/{id}", Some(&[Scope::Read][..])),
        (
            "POST",
            "/v1/dead-letters/{id}/retry",
            Some(&[Scope::Operate][..]),
        ),
        (
            "POST",
            "/v1/dead-letters/{id}/discard",
            Some(&[Scope::Operate][..]),
        ),
    ]
    .into()
}

#[test]
fn r29_r30_every_route_of_the_router_stands_in_the_access_matrix_and_holds_it() {
    let matrix = matrix();
    let routed: BTreeSet<(String, &str)> = all()
        .iter()
        .map(|route| (route.method.to_string(), route.path))
        .collect();
    let written: BTreeSet<(String, &str)> = matrix
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), *path))
        .collect();
    assert_eq!(routed, written);
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (config, _) = node_with(directory);
    let tokens: Vec<(Scope, String)> = Scope::ALL
        .into_iter()
        .map(|scope| {
            let label = scope.as_str().replace(':', "-");
            let whose = ("acme", scope.as_str(), &*label);
            (scope, token(directory, &config, whose, &[]))
        })
        .collect();
    let observer = observer(directory, &config);
    let node = Served::run(directory, &config, &observer, &[]);
    for (method, path, allowed) in &matrix {
        let without = request(&node.address, method, &target(path), &[], b"");
        let expected = if allowed.is_some() { 401 } else { 200 };
        assert_eq!(without.status, expected, "{method} {path} without a token");
        for (scope, token) in &tokens {
            let bearer = format!("Bearer {token}");
            let headers = [("authorization", &*bearer)];
            let with = request(&node.address, method, &target(path), &headers, b"");
            // The figures of all tenants are not for a token of one, whatever its scopes.
            let may = allowed.is_none_or(|scopes| scopes.contains(scope)) && *path != "/metrics";
            assert_eq!(
                with.status == 403,
                !may,
                "{method} {path} with {scope}: {}",
                with.status
            );
            assert_ne!(with.status, 401, "{method} {path} with {scope}");
        }
    }
    let observer = format!("Bearer {observer}");
    let headers = [("authorization", &*observer)];
    for (path, status) in [
        ("/metrics", 200),
        ("/readyz", 200),
        ("/v1/dead-letters", 403),
    ] {
        let answer = request(&node.address, "GET", path, &headers, b"");
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
    }
}

#[test]
fn r30_a_token_that_is_wrong_cut_foreign_or_in_an_address_is_no_token() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let good = node.token.clone();
    let other = format!("{}A", &good[..good.len() - 1]);
    for wrong in [
        "",
        "x",
        &good[..good.len() - 1],
        &other,
        "tg_0000000000000000_AAAA",
    ] {
        let bearer = format!("Bearer {wrong}");
        let headers = [("authorization", &*bearer)];
        let answer = request(&node.address, "GET", "/v1/entities/order/o", &headers, b"");
        // The last letter of the text may stand for bits that no secret has.
        assert!(answer.status == 401 || wrong == good, "{}", answer.status);
        assert!(!answer.text().contains(&good[20..]), "{}", answer.text());
    }
    let basic = format!("Basic {good}");
    let headers = [("authorization", &*basic)];
    let refused = request(&node.address, "GET", "/readyz", &headers, b"").with_status(401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let bearer = format!("Bearer {good}");
    let headers = [("authorization", &*bearer)];
    let target = format!("/readyz?token={good}");
    let spelled = target.replacen("tg_", "%74g%5f", 1);
    request(&node.address, "GET", &spelled, &headers, b"").with_status(401);
    // What is no token is no token, though it has those letters in it.
    let harmless = "/readyz?note=wtg_1";
    request(&node.address, "GET", harmless, &headers, b"").with_status(200);
    let refused = request(&node.address, "GET", &target, &headers, b"").with_status(401);
    assert!(refused.text().contains("address"), "{}", refused.text());
}

#[test]
fn r02_a_token_of_one_tenant_writes_and_reads_nothing_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (config, acme) = node_with(directory);
    let bolt = token(
        directory,
        &config,
        ("bolt", "publish:fact,read,observe", "all"),
        &[],
    );
    let node = Served::run(directory, &config, &acme, &[]);
    let mut forged = placed("1", "o-1");
    forged["tenantid"] = "bolt".into();
    let refused = node
        .post("/v1/streams/orders", super::STRUCTURED, &forged.to_string())
        .with_status(422);
    assert!(refused.text().contains("tenantid"), "{}", refused.text());
    let batch = serde_json::json!([forged]).to_string();
    node.post("/v1/streams/orders", BATCH, &batch)
        .with_status(207);
    node.post(
        "/v1/streams/orders?tenant=bolt",
        super::STRUCTURED,
        &placed("2", "o-1").to_string(),
    )
    .with_status(403);
    node.post(
        "/v1/streams/orders",
        super::STRUCTURED,
        &placed("3", "o-1").to_string(),
    )
    .with_status(200);
    node.get("/v1/entities/order/o-1").with_status(200);
    node.get("/v1/entities/order/o-1?tenant=bolt")
        .with_status(403);
    let forged = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "4"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-tenantid", "bolt"),
    ];
    node.send("/v1/streams/orders", &forged, b"{}")
        .with_status(422);
    // Headers that name a tenant to somebody, and none to us: it is stored as the token's.
    let event = placed("5", "o-5").to_string();
    let named = [
        ("content-type", super::STRUCTURED),
        ("x-tenant", "bolt"),
        ("tenantid", "bolt"),
    ];
    node.send("/v1/streams/orders", &named, event.as_bytes())
        .with_status(200);
    node.get("/v1/entities/order/o-5").with_status(200);
    let bearer = format!("Bearer {bolt}");
    let headers = [("authorization", &*bearer)];
    let theirs = |target: &str| request(&node.address, "GET", target, &headers, b"");
    theirs("/v1/entities/order/o-1").with_status(404);
    theirs("/v1/entities/order/o-5").with_status(404);
    let stored = theirs("/v1/events?stream=orders").with_status(200).json();
    assert_eq!(stored["events"], serde_json::json!([]));
    let letters = theirs("/v1/dead-letters").with_status(200).json();
    assert_eq!(letters["dead_letters"], serde_json::json!([]));
}

#[test]
fn r12_a_stream_of_intents_needs_another_scope_than_one_of_facts() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (config, fact) = node_with(directory);
    let intent = token(
        directory,
        &config,
        ("acme", "publish:intent,observe", "intent"),
        &[],
    );
    let node = Served::run(directory, &config, &fact, &[]);
    for (token, stream, status) in [
        (&fact, "orders", 200),
        (&fact, "wishes", 403),
        (&intent, "orders", 403),
        (&intent, "wishes", 200),
    ] {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", &*bearer),
            ("content-type", super::STRUCTURED),
        ];
        let target = format!("/v1/events?stream={stream}");
        let body = placed(stream, stream).to_string();
        let answer = request(&node.address, "POST", &target, &headers, body.as_bytes());
        assert_eq!(answer.status, status, "{stream}: {}", answer.text());
    }
    assert_eq!(
        all()
            .iter()
            .filter(|route| route.access == Access::Publish)
            .count(),
        2
    );
    assert_eq!(Operation::PublishIntent.needs(), Scope::PublishIntent);
}
