//! CloudEvents' binary mode: the attributes stand beside the payload, which is the data. Makes the
//! structured form of it, which is then read like any other.

use serde_json::value::RawValue;

use super::{Unreadable, write_json_string};
use crate::headers::{HeaderValue, Headers};

/// What the names of attributes begin with: Kafka's and NATS's way.
const PREFIXES: [&str; 2] = ["ce_", "ce-"];

/// An event of attributes and a body, as one JSON object.
pub struct Assembly {
    json: String,
}

impl Assembly {
    /// Room for a body of that size.
    pub fn new(body_bytes: usize) -> Self {
        let mut json = String::with_capacity(body_bytes + 512);
        json.push('{');
        Self { json }
    }

    /// One attribute; its name is without any prefix. The caller sees to it that each comes once.
    pub fn attribute(&mut self, name: &str, value: &str) -> Result<(), String> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().all(fits) {
            return Err("attribute names are lower-case letters and digits".to_owned());
        }
        if name == "datacontenttype" || name == "data" {
            return Err("the body is the data, and content-type its type".to_owned());
        }
        self.pair(name, value);
        Ok(())
    }

    fn pair(&mut self, name: &str, value: &str) {
        write_json_string(&mut self.json, name);
        self.json.push(':');
        write_json_string(&mut self.json, value);
        self.json.push(',');
    }

    /// The whole of it. The body is JSON unless its type says otherwise.
    pub fn with_body(mut self, content_type: Option<&str>, body: &[u8]) -> Result<String, String> {
        if let Some(content_type) = content_type {
            self.pair("datacontenttype", content_type);
        }
        let mut json = self.json;
        if body.is_empty() {
            if json.ends_with(',') {
                json.pop();
            }
        } else if is_json(content_type) {
            // As one value and no more: what follows it would be attributes of somebody's choice.
            let data: &RawValue = serde_json::from_slice(body)
                .map_err(|_| "expected JSON, as content-type says".to_owned())?;
            json.push_str("\"data\":");
            json.push_str(data.get());
        } else {
            json.push_str("\"data_base64\":\"");
            let standard = &base64::engine::general_purpose::STANDARD;
            base64::Engine::encode_string(standard, body, &mut json);
            json.push('"');
        }
        json.push('}');
        Ok(json)
    }
}

fn is_json(content_type: Option<&str>) -> bool {
    let Some(whole) = content_type else {
        return true;
    };
    let media = whole.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json") || media.to_ascii_lowercase().ends_with("+json")
}

/// The structured form of a record whose attributes are headers; `None` when it has no such headers. Their
/// values are UTF-8 as they stand.
pub fn structured(headers: &Headers, body: &[u8]) -> Option<Result<String, Unreadable>> {
    let prefix = PREFIXES.into_iter().find(|prefix| {
        let version = [prefix, "specversion"].concat();
        headers.get(&version) != HeaderValue::Absent
    })?;
    Some(of_headers(headers, prefix, body))
}

fn of_headers(headers: &Headers, prefix: &str, body: &[u8]) -> Result<String, Unreadable> {
    if headers.is_cut() {
        let reason = "it has more headers than are kept, and attributes may be among the others";
        return Err(Unreadable::new("headers", reason));
    }
    let mut assembly = Assembly::new(body.len());
    let mut seen: Vec<String> = Vec::new();
    for name in headers.names() {
        let lower = name.to_ascii_lowercase();
        let Some(attribute) = lower.strip_prefix(prefix) else {
            continue;
        };
        if seen.contains(&lower) {
            continue;
        }
        let added = text_of(headers, name).and_then(|text| assembly.attribute(attribute, text));
        added.map_err(|reason| Unreadable::new(name, reason))?;
        seen.push(lower);
    }
    let content_type = match headers.get("content-type") {
        HeaderValue::Absent => None,
        _ => Some(
            text_of(headers, "content-type")
                .map_err(|reason| Unreadable::new("content-type", reason))?,
        ),
    };
    let whole = assembly.with_body(content_type, body);
    whole.map_err(|reason| Unreadable::new("data", reason))
}

fn text_of<'h>(headers: &'h Headers, name: &str) -> Result<&'h str, String> {
    match headers.get(name) {
        HeaderValue::One(value) => {
            std::str::from_utf8(value).map_err(|_| "expected UTF-8".to_owned())
        }
        HeaderValue::Several => Err("expected once, found with different values".to_owned()),
        HeaderValue::Absent => Err("expected a value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::structured;
    use crate::event::Event;
    use crate::headers::Headers;
    use crate::tenant::TenantId;

    fn read(headers: &[(&str, &[u8])], body: &[u8]) -> Option<Result<String, String>> {
        let headers = Headers::collect(
            headers
                .iter()
                .map(|(name, value)| ((*name).into(), Bytes::copy_from_slice(value))),
        );
        let acme = TenantId::new("acme").unwrap();
        let text = match structured(&headers, body)? {
            Ok(text) => text,
            Err(fault) => return Some(Err(format!("{}: {}", fault.field, fault.reason))),
        };
        let event = Event::read_json_for(&Bytes::from(text), Some(&acme));
        Some(match event {
            Ok(event) => {
                let mut json = String::new();
                event.write_json(&mut json);
                Ok(json)
            }
            Err(fault) => Err(format!("{}: {}", fault.field, fault.reason)),
        })
    }

    const EVENT: [(&str, &[u8]); 4] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"/shop"),
        ("ce_type", b"order.placed"),
    ];

    #[test]
    fn attributes_beside_a_payload_are_an_event() {
        let mut headers = EVENT.to_vec();
        headers.extend([
            ("ce_subject", "café".as_bytes()),
            ("content-type", b"application/json; charset=utf-8"),
            ("x-other", b"\xff"),
        ]);
        let json = read(&headers, br#"{"total":1}"#).unwrap().unwrap();
        for part in [
            r#""subject":"café""#,
            r#""data":{"total":1}"#,
            r#""id":"1""#,
        ] {
            assert!(json.contains(part), "{json}");
        }
        let nats = EVENT.map(|(name, value)| (name.replace('_', "-"), value));
        let nats = nats.each_ref().map(|(name, value)| (name.as_str(), *value));
        assert!(
            read(&nats, b"").unwrap().is_ok(),
            "no data at all is data too"
        );
        let mut binary = EVENT.to_vec();
        binary.push(("content-type", b"application/octet-stream"));
        let json = read(&binary, b"\x00\x01").unwrap().unwrap();
        assert!(json.contains(r#""data_base64":"AAE=""#), "{json}");
        assert!(read(&[("x-id", b"1")], b"{}").is_none(), "a structured one");
    }

    #[test]
    fn what_is_no_event_is_refused_by_name() {
        let with = |more: (&'static str, &'static [u8])| {
            let mut headers = EVENT.to_vec();
            headers.push(more);
            headers
        };
        for (headers, body, says) in [
            (
                with(("ce_subject", b"\xff")),
                "1",
                "ce_subject: expected UTF-8",
            ),
            (with(("ce_id", b"2")), "1", "ce_id: expected once"),
            (
                with(("ce_data", b"2")),
                "1",
                "ce_data: the body is the data",
            ),
            (with(("ce_a-b", b"2")), "1", "ce_a-b: attribute names"),
            (with(("x", b"2")), r#"1,"id":"2""#, "data: expected JSON"),
            (EVENT[..2].to_vec(), "1", "source"),
        ] {
            let error = read(&headers, body.as_bytes()).unwrap().unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
    }
}
