//! From a request's body to events: CloudEvents over HTTP, structured, binary and batched. Every item of
//! a batch is read for itself; a fault names the place and never the value.

use std::fmt;

use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use bytestring::ByteString;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tidegate_engine::event::Event;
use tidegate_engine::event::binary::Assembly;
use tidegate_engine::headers::Headers;
use tidegate_engine::tenant::TenantId;

use super::problem::{Fault, Kind, Problem};

/// Events of one request.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// How a body holds events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Form {
    /// One JSON object with the attributes and the data.
    Structured,
    /// A JSON array of these.
    Batch,
    /// The attributes are `ce-` headers, the body is the data, of this content type.
    Binary(Option<String>),
    /// The user's own JSON: one object.
    Json,
    /// The user's own JSON: one object a line.
    JsonLines,
}

impl Form {
    /// What the headers say.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let whole = match headers.get("content-type") {
            None => None,
            Some(value) => Some(value.to_str().map_err(|_| unsupported())?),
        };
        let media = whole
            .and_then(|whole| whole.split(';').next())
            .map(|media| media.trim().to_ascii_lowercase());
        match media.as_deref() {
            Some("application/cloudevents+json") => Ok(Form::Structured),
            Some("application/cloudevents-batch+json") => Ok(Form::Batch),
            _ if headers.contains_key("ce-specversion") => {
                Ok(Form::Binary(whole.map(str::to_owned)))
            }
            Some("application/json") => Ok(Form::Json),
            Some("application/x-ndjson" | "application/jsonl") => Ok(Form::JsonLines),
            _ => Err(unsupported()),
        }
    }

    /// True when a request of this form has one event.
    pub fn is_single(&self) -> bool {
        matches!(self, Form::Structured | Form::Binary(_) | Form::Json)
    }
}

fn unsupported() -> Problem {
    Problem::new(
        Kind::UnsupportedMediaType,
        "send application/cloudevents+json, application/cloudevents-batch+json, or the data with its \
         attributes in ce- headers (ce-specversion: 1.0, ce-id, ce-source, ce-type); to a stream with a \
         mapping also application/json or application/x-ndjson",
    )
}

/// The texts of a request's events, each a CloudEvents JSON object or the user's own.
pub fn texts(form: &Form, headers: &HeaderMap, body: &Bytes) -> Result<Vec<Bytes>, Problem> {
    match form {
        Form::Structured | Form::Json => Ok(vec![body.clone()]),
        Form::Binary(content_type) => {
            let text = from_headers(headers, content_type.as_deref(), body)?;
            Ok(vec![Bytes::from(text)])
        }
        Form::Batch => {
            let Items(items) = serde_json::from_slice(body)
                .map_err(|_| Problem::invalid("", "expected a JSON array of events"))?;
            let items: Vec<Bytes> = items
                .into_iter()
                .map(|item| body.slice_ref(item.get().as_bytes()))
                .collect();
            bounded(items)
        }
        Form::JsonLines => {
            let lines = body.split(|byte| *byte == b'\n');
            let filled = lines.filter(|line| !line.trim_ascii().is_empty());
            let filled = filled.take(BATCH_EVENTS_MAX + 1);
            let items: Vec<Bytes> = filled.map(|line| body.slice_ref(line)).collect();
            bounded(items)
        }
    }
}

/// The items of a JSON array, and no more than one beyond what is taken: a body of the largest size may hold
/// millions, and room was kept for its bytes alone.
struct Items<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

struct ItemsVisitor;

impl<'de> Visitor<'de> for ItemsVisitor {
    type Value = Items<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut found: A) -> Result<Items<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = found.next_element()? {
            if items.len() <= BATCH_EVENTS_MAX {
                items.push(item);
            }
        }
        Ok(Items(items))
    }
}

fn bounded(items: Vec<Bytes>) -> Result<Vec<Bytes>, Problem> {
    if items.is_empty() {
        return Err(Problem::invalid("", "expected at least one event"));
    }
    if items.len() > BATCH_EVENTS_MAX {
        return Err(Problem::new(
            Kind::TooLarge,
            format!("a request has at most {BATCH_EVENTS_MAX} events; send fewer at once"),
        ));
    }
    Ok(items)
}

/// Headers that a mapping never sees: they are secrets.
const SECRET: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// The request's headers as a mapping sees them.
pub fn beside(headers: &HeaderMap) -> Headers {
    let seen = headers
        .iter()
        .filter(|(name, _)| !SECRET.contains(&name.as_str()));
    Headers::collect(seen.map(|(name, value)| {
        let value = Bytes::copy_from_slice(value.as_bytes());
        (ByteString::from(name.as_str()), value)
    }))
}

/// Reads an event as its tenant's.
pub fn read(text: &Bytes, tenant: &TenantId) -> Result<Event, Fault> {
    let event = Event::read_json_for(text, Some(tenant)).map_err(|fault| Fault {
        at: format!("/{}", fault.field),
        detail: fault.reason,
    })?;
    if event.tenant != *tenant {
        return Err(Fault {
            at: "/tenantid".to_owned(),
            detail: "expected the tenant of the token; leave it out".to_owned(),
        });
    }
    Ok(event)
}

/// A binary request as one structured event.
fn from_headers(
    headers: &HeaderMap,
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<String, Problem> {
    let mut assembly = Assembly::new(body.len());
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix("ce-") else {
            continue;
        };
        let fault = |detail: &str| Problem::invalid(name.as_str(), detail);
        let mut values = headers.get_all(name);
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(fault("expected once"));
        };
        let text = value
            .to_str()
            .ok()
            .and_then(percent_decoded)
            .ok_or_else(|| fault("expected UTF-8, percent-encoded where it is not ASCII"))?;
        assembly
            .attribute(attribute, &text)
            .map_err(|detail| fault(&detail))?;
    }
    assembly
        .with_body(content_type, body)
        .map_err(|detail| Problem::invalid("", detail))
}

/// Undoes `%XX`; `None` when that is no UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
    use bytes::Bytes;
    use tidegate_engine::tenant::TenantId;

    use super::{BATCH_EVENTS_MAX, Form, Kind, percent_decoded, read, texts};

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    const BINARY: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-subject", "caf%C3%A9"),
    ];

    fn event(pairs: &[(&str, &str)], body: &'static str) -> Result<String, String> {
        let headers = headers(pairs);
        let form = Form::of(&headers).map_err(|problem| problem.detail)?;
        let acme = TenantId::new("acme").unwrap();
        let texts = texts(&form, &headers, &Bytes::from_static(body.as_bytes()))
            .map_err(|problem| problem.json().to_string())?;
        let event = read(&texts[0], &acme).map_err(|fault| format!("{fault:?}"))?;
        let mut json = String::new();
        event.write_json(&mut json);
        Ok(json)
    }

    #[test]
    fn a_binary_request_is_the_event_of_its_headers_and_its_body() {
        let mut pairs = BINARY.to_vec();
        pairs.push(("content-type", "application/json"));
        let json = event(&pairs, r#"{"total":1}"#).unwrap();
        for part in [
            r#""subject":"café""#,
            r#""data":{"total":1}"#,
            r#""tenantid":"acme""#,
        ] {
            assert!(json.contains(part), "{json}");
        }
        pairs[5].1 = "image/png";
        let json = event(&pairs, "abc").unwrap();
        assert!(json.contains(r#""data_base64":"YWJj""#), "{json}");
    }

    #[test]
    fn r02_neither_a_body_nor_a_header_chooses_another_tenant_or_adds_an_attribute() {
        let mut pairs = BINARY.to_vec();
        pairs.push(("content-type", "application/json"));
        for body in [r#"1,"tenantid":"bolt""#, r#"1},"x":{"#, "1 2"] {
            assert!(event(&pairs, body).is_err(), "{body}");
        }
        pairs.push(("ce-tenantid", "bolt"));
        let refused = event(&pairs, "1").unwrap_err();
        assert!(refused.contains("tenantid"), "{refused}");
    }

    #[test]
    fn a_header_that_is_wrong_is_named() {
        for (name, value) in [
            ("ce-id", "again"),
            ("ce-a_b", "1"),
            ("ce-datacontenttype", "text/plain"),
            ("ce-x", "%C3"),
        ] {
            let mut pairs = BINARY.to_vec();
            pairs.push((name, value));
            let refused = event(&pairs, "").unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
        assert_eq!(percent_decoded("%4"), None);
        assert_eq!(percent_decoded("a%20b").as_deref(), Some("a b"));
    }

    #[test]
    fn a_media_type_that_is_none_of_ours_is_refused_with_those_that_are() {
        let refused = event(&[("content-type", "text/plain")], "x").unwrap_err();
        assert!(
            refused.contains("application/cloudevents+json"),
            "{refused}"
        );
    }

    #[test]
    fn r44_of_a_body_with_millions_of_items_no_more_are_kept_than_are_taken() {
        let items = "0,".repeat(3 * BATCH_EVENTS_MAX);
        let lines = items.replace(',', "\n");
        let array = format!("[{items}0]");
        let headers = HeaderMap::new();
        for (form, body) in [(Form::Batch, array), (Form::JsonLines, lines)] {
            let refused = texts(&form, &headers, &Bytes::from(body)).unwrap_err();
            assert_eq!(refused.kind, Kind::TooLarge, "{form:?}");
        }
        let cut = Bytes::from(format!("[{items}"));
        let refused = texts(&Form::Batch, &headers, &cut).unwrap_err();
        assert_eq!(refused.kind, Kind::Invalid);
        let array = format!("[{}0]", "0,".repeat(3 * BATCH_EVENTS_MAX));
        let super::Items(kept) = serde_json::from_str(&array).unwrap();
        assert_eq!(kept.len(), BATCH_EVENTS_MAX + 1);
    }
}
