//! Problems: what is wrong with a request, as `application/problem+json` (RFC 9457) says it. One kind for
//! each thing that a client may want to do next.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Value, json};
use tidegate_engine::error::InvalidValue;

/// What a client can do about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)] // Each stands in the OpenAPI document.
pub enum Kind {
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Timeout,
    Conflict,
    TooLarge,
    UnsupportedMediaType,
    Invalid,
    RateLimited,
    OutcomeUnknown,
    Unavailable,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 12] = [
        Kind::Unauthorized,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::Timeout,
        Kind::Conflict,
        Kind::TooLarge,
        Kind::UnsupportedMediaType,
        Kind::Invalid,
        Kind::RateLimited,
        Kind::OutcomeUnknown,
        Kind::Unavailable,
    ];

    /// The status code, the `type` behind `/problems/`, and the title.
    fn says(self) -> (u16, &'static str, &'static str) {
        match self {
            Kind::Unauthorized => (401, "unauthorized", "No valid token"),
            Kind::Forbidden => (403, "forbidden", "The token may not do this"),
            Kind::NotFound => (404, "not-found", "There is no such thing"),
            Kind::MethodNotAllowed => (405, "method-not-allowed", "Not with this method"),
            Kind::Timeout => (408, "timeout", "The request took too long to arrive"),
            Kind::Conflict => (409, "conflict", "It stands otherwise already"),
            Kind::TooLarge => (413, "too-large", "More than may be sent at once"),
            Kind::UnsupportedMediaType => (
                415,
                "unsupported-media-type",
                "Not in this media type or encoding",
            ),
            Kind::Invalid => (422, "invalid", "The content is not valid"),
            Kind::RateLimited => (429, "rate-limited", "Too much of this tenant at once"),
            Kind::OutcomeUnknown => (
                503,
                "outcome-unknown",
                "Whether it is durable is not known here",
            ),
            Kind::Unavailable => (503, "unavailable", "Not now"),
        }
    }

    /// The status code.
    pub fn status(self) -> u16 {
        self.says().0
    }

    /// The last part of `type`.
    pub fn slug(self) -> &'static str {
        self.says().1
    }
}

/// What is said of a request with faults.
pub const FAULTY: &str = "nothing was done; `faults` says what is wrong and where";

/// One place of a request and what is wrong there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// A JSON pointer into the body, a header's or a parameter's name.
    pub at: String,
    /// What was expected there; never the value.
    pub detail: String,
}

/// What is wrong with a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// What a client can do.
    pub kind: Kind,
    /// What happened, and what to do.
    pub detail: String,
    /// The places, where there are any.
    pub faults: Vec<Fault>,
    /// Seconds after which it is worth another try.
    pub retry_after: Option<u64>,
}

impl Problem {
    /// A problem of that kind.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let retry_after = matches!(
            kind,
            Kind::Unavailable | Kind::OutcomeUnknown | Kind::RateLimited
        );
        Self {
            kind,
            detail: detail.into(),
            faults: Vec::new(),
            retry_after: retry_after.then_some(1),
        }
    }

    /// Content that is not valid at one place.
    pub fn invalid(at: impl Into<String>, detail: impl Into<String>) -> Self {
        let fault = Fault {
            at: at.into(),
            detail: detail.into(),
        };
        let mut problem = Self::new(Kind::Invalid, FAULTY);
        problem.faults.push(fault);
        problem
    }

    /// A value that is none of its kind; without the value, which may be a secret in the wrong place.
    pub fn of_value(at: impl Into<String>, error: &InvalidValue) -> Self {
        Self::invalid(at, error.without_value())
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let (status, slug, title) = self.kind.says();
        let mut json = json!({
            "type": format!("/problems/{slug}"),
            "title": title,
            "status": status,
            "detail": self.detail,
        });
        if let Value::Object(object) = &mut json
            && !self.faults.is_empty()
        {
            let faults = self.faults.iter();
            let faults = faults.map(|fault| json!({ "at": fault.at, "detail": fault.detail }));
            object.insert("faults".to_owned(), faults.collect());
        }
        json
    }

    /// As a response.
    pub fn response(&self) -> HttpResponse {
        let status = StatusCode::from_u16(self.kind.status());
        let mut response = HttpResponse::build(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        response.content_type("application/problem+json");
        if let Some(seconds) = self.retry_after {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        if self.kind == Kind::Unauthorized {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        response.body(self.json().to_string())
    }
}

impl From<tidegate_engine::store::StoreError> for Problem {
    fn from(error: tidegate_engine::store::StoreError) -> Self {
        // Its text may name servers and settings: the log has it, a client has no use for it.
        tracing::warn!(%error, "a request met a store that is not available");
        Self::new(
            Kind::Unavailable,
            "the store does not answer now; try again",
        )
    }
}
