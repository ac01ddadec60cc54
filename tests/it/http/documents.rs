//! What is written of the API is what it does.

use std::collections::BTreeSet;

use serde_json::Value;
use tidegate::http::OPENAPI;
use tidegate::http::problem::Kind;
use tidegate::http::route::all;

#[test]
fn the_openapi_document_has_every_route_and_every_problem_and_nothing_else() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let mut written = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            written.insert((method.to_uppercase(), path.clone()));
            assert!(operation["summary"].is_string(), "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(!responses.is_empty(), "{method} {path}");
        }
    }
    let routed: BTreeSet<_> = all()
        .iter()
        .map(|route| {
            let path = route.path.replace("{id:.+}", "{id}");
            (route.method.to_string(), path)
        })
        .collect();
    assert_eq!(written, routed);
    let kinds = &document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"];
    let written: BTreeSet<&str> = kinds
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind.as_str().unwrap())
        .collect();
    let ours: BTreeSet<String> = Kind::ALL
        .iter()
        .map(|kind| format!("/problems/{}", kind.slug()))
        .collect();
    assert_eq!(written, ours.iter().map(String::as_str).collect());
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_one() {
    let page = include_str!("../../../docs/OPERATING.md");
    let written: BTreeSet<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.starts_with("tidegate_") && !name.contains([' ', '{']))
        .collect();
    let ours: BTreeSet<&str> = tidegate::names::ALL.into_iter().collect();
    assert_eq!(written, ours);
}
