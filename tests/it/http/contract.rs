//! Every response that a test gets is held against the served description: its status must stand there for
//! its route, its media type and its headers too, and its body be what stands there and nothing besides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};
use tidegate::http::OPENAPI;

use super::client::Response;

/// A route as the description names it, and a status.
pub type Answered = (String, u16);

/// What the description says of one answer.
struct Answer {
    media_type: String,
    /// `None` for a body that is no JSON.
    body: Option<Validator>,
    /// By name, in lower case, and whether each has to be there.
    headers: BTreeMap<String, (bool, Validator)>,
}

struct Contract {
    paths: BTreeMap<String, BTreeSet<String>>,
    answers: BTreeMap<Answered, Answer>,
    problem: Validator,
}

fn contract() -> &'static Contract {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    CONTRACT.get_or_init(|| {
        let mut document: Value = serde_json::from_str(OPENAPI).unwrap();
        close(&mut document);
        let (mut paths, mut answers) = (BTreeMap::new(), BTreeMap::new());
        for (path, methods) in document["paths"].as_object().unwrap() {
            let methods = methods.as_object().unwrap();
            let known = methods.keys().map(|method| method.to_uppercase());
            paths.insert(path.clone(), known.collect());
            for (method, operation) in methods {
                for (status, response) in operation["responses"].as_object().unwrap() {
                    let route = format!("{} {path}", method.to_uppercase());
                    let answered = (route, status.parse().unwrap());
                    answers.insert(answered, answer(&document, response));
                }
            }
        }
        let problem = json!({ "$ref": "#/components/schemas/Problem" });
        Contract {
            paths,
            answers,
            problem: validator(&document, &problem),
        }
    })
}

/// What is not described is a fault: an object has no other members than those that stand there.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") && object["type"] == "object" {
                let open = object.entry("additionalProperties");
                open.or_insert(json!(false));
            }
            object.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn answer(document: &Value, response: &Value) -> Answer {
    let response = match response["$ref"].as_str() {
        Some(place) => document.pointer(place.trim_start_matches('#')).unwrap(),
        None => response,
    };
    let content = response["content"].as_object().unwrap();
    let (media_type, content) = content.iter().next().unwrap();
    let is_json = media_type.ends_with("json");
    let headers = response["headers"].as_object();
    let headers = headers.into_iter().flatten().map(|(name, header)| {
        let is_required = header["required"].as_bool().expect(name);
        let validator = validator(document, &header["schema"]);
        (name.to_ascii_lowercase(), (is_required, validator))
    });
    Answer {
        media_type: media_type.clone(),
        body: is_json.then(|| validator(document, &content["schema"])),
        headers: headers.collect(),
    }
}

fn validator(document: &Value, schema: &Value) -> Validator {
    // What it refers to stands beside it.
    let whole = json!({ "allOf": [schema], "components": document["components"] });
    jsonschema::validator_for(&whole).unwrap()
}

/// The routes that a target is of; none for one that there is not.
pub fn routes(method: &str, target: &str) -> Vec<String> {
    let path = target.split('?').next().unwrap();
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |pattern: &str| {
        // A position has a slash in it.
        if let Some(before) = pattern
            .strip_suffix("{id}")
            .filter(|it| *it == "/v1/events/")
        {
            return path.len() > before.len() && path.starts_with(before);
        }
        let wanted: Vec<&str> = pattern.split('/').collect();
        let pairs = wanted.iter().zip(&parts);
        wanted.len() == parts.len()
            && pairs
                .into_iter()
                .all(|(wanted, part)| wanted == part || wanted.starts_with('{') && !part.is_empty())
    };
    let paths = &contract().paths;
    let Some((path, known)) = paths.iter().find(|(pattern, _)| fits(pattern)) else {
        return Vec::new();
    };
    let is_known = known.contains(method);
    // The wrong method is an answer of every one that there is.
    let meant = known.iter().filter(|it| !is_known || *it == method);
    meant.map(|method| format!("{method} {path}")).collect()
}

/// Fails when a response is not one that the description has.
#[track_caller]
pub fn hold(method: &str, target: &str, response: &Response) {
    let is_head = method == "HEAD";
    let method = if is_head { "GET" } else { method };
    let Some(route) = routes(method, target).into_iter().next() else {
        assert_eq!(response.status, 404, "{method} {target}");
        let body = response.json();
        assert!(contract().problem.is_valid(&body), "{target}: {body}");
        return;
    };
    let answered = (route, response.status);
    let Some(answer) = contract().answers.get(&answered) else {
        panic!("{answered:?} is not described: {}", response.text());
    };
    let media_type = response.header("content-type").unwrap_or_default();
    let media_type = media_type.split(';').next();
    assert_eq!(media_type, Some(&*answer.media_type), "{answered:?}");
    for (name, (is_required, validator)) in &answer.headers {
        let Some(value) = response.header(name) else {
            assert!(!is_required, "{answered:?} without {name}");
            continue;
        };
        let is_it = [json!(value), json!(value.parse::<u64>().ok())]
            .iter()
            .any(|value| validator.is_valid(value));
        assert!(is_it, "{answered:?}: {name}: {value}");
    }
    if let Some(validator) = answer.body.as_ref().filter(|_| !is_head) {
        let body = response.json();
        let faults = validator.iter_errors(&body);
        let faults: Vec<String> = faults
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{answered:?}: {faults:?} in {body}");
        if response.status >= 400 {
            assert_eq!(body["status"], response.status, "{answered:?}");
        }
    }
    // The description that all this is held against is the one that is served.
    if target == "/openapi.json" && response.status == 200 {
        assert_eq!(response.text(), OPENAPI);
    }
}

/// Every route and status that is described.
pub fn described() -> BTreeSet<Answered> {
    contract().answers.keys().cloned().collect()
}
