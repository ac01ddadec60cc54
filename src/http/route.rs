//! Every route, and who may take it. A handler is only reached through `admit`, so that no route can be
//! added without saying what it needs; a test holds this table against the access matrix.

use std::sync::Arc;

use actix_web::http::Method;
use actix_web::http::header::{ALLOW, AUTHORIZATION, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::future::LocalBoxFuture;
use tidegate_engine::access::{Credential, Forbidden, Operation};
use tidegate_engine::tenant::TenantId;

use super::problem::{Kind, Problem};
use super::{Api, health, history, ingest, letters, page, read, stream};

/// What a route asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Nothing.
    Open,
    /// A token that may do this.
    Needs(Operation),
    /// A token of the installation that may do this: what is shown is of all tenants.
    OfAll(Operation),
    /// A token that may publish; which of the two, the stream says.
    Publish,
}

/// One route.
pub struct Route {
    /// Its method.
    pub method: Method,
    /// Its path, with its parameters in braces.
    pub path: &'static str,
    /// Who may take it.
    pub access: Access,
    /// Parameters of the query that it knows, beside `tenant`.
    pub parameters: &'static [&'static str],
    /// Bytes of room that its answer needs, of what is stored.
    room: usize,
    run: fn(Call) -> Answer,
}

type Answer = LocalBoxFuture<'static, Result<HttpResponse, Problem>>;

/// A request whose caller may take its route.
pub struct Call {
    /// What the node serves.
    pub api: web::Data<Api>,
    /// The request.
    pub request: HttpRequest,
    /// Its body, not read yet.
    pub payload: web::Payload,
    caller: Option<Credential>,
}

macro_rules! routes {
    ($($method:ident $path:literal $parameters:tt $access:expr, $room:expr => $run:path;)*) => {
        vec![$(Route {
            method: Method::$method,
            path: $path,
            parameters: &$parameters,
            access: $access,
            room: $room,
            run: |call| Box::pin($run(call)),
        },)*]
    };
}

/// Room that is not needed: the answer is a few words, or a body takes its own as it arrives.
const NONE: usize = 0;

/// All of them.
pub fn all() -> Vec<Route> {
    use Access::{Needs, OfAll, Open, Publish};
    use Operation::{Observe, Operate, Read};
    use page::{ENTITY, EVENT, PAGE};
    routes! {
        GET "/livez" [] Open, NONE => health::live;
        GET "/readyz" [] Needs(Observe), NONE => health::ready;
        GET "/metrics" [] OfAll(Observe), NONE => health::metrics;
        GET "/openapi.json" [] Needs(Observe), NONE => health::openapi;
        POST "/v1/events" ["stream", "atomic"] Publish, NONE => ingest::events;
        POST "/v1/streams/{stream}" ["atomic"] Publish, NONE => ingest::stream;
        GET "/v1/entities/{machine}/{key}" [] Needs(Read), ENTITY => read::entity;
        GET "/v1/entities/{machine}/{key}/history" ["next", "limit", "scan"] Needs(Read), PAGE
            => history::history;
        GET "/v1/events" ["stream", "correlation_id", "id", "after", "limit"] Needs(Read), PAGE
            => read::events;
        GET "/v1/events/{id:.+}" [] Needs(Read), EVENT => read::event;
        GET "/v1/trace/{correlation_id}" [] Needs(Read), PAGE => read::trace;
        GET "/v1/stream" ["stream", "filter", "from"] Needs(Read), NONE => stream::stream;
        GET "/v1/dead-letters" ["state", "after", "limit"] Needs(Read), PAGE => letters::list;
        GET "/v1/dead-letters/{id}" [] Needs(Read), EVENT => letters::show;
        POST "/v1/dead-letters/{id}/retry" ["stream"] Needs(Operate), EVENT => letters::retry;
        POST "/v1/dead-letters/{id}/discard" [] Needs(Operate), NONE => letters::discard;
    }
}

/// Registers all of them.
pub fn register(config: &mut web::ServiceConfig) {
    let mut paths: Vec<(&'static str, Vec<Route>)> = Vec::new();
    for route in all() {
        match paths.iter_mut().find(|(path, _)| *path == route.path) {
            Some((_, routes)) => routes.push(route),
            None => paths.push((route.path, vec![route])),
        }
    }
    for (path, routes) in paths {
        let mut resource = web::resource(path);
        let allowed = allowed(&routes);
        for route in routes.into_iter().map(Arc::new) {
            let method = route.method.clone();
            let handler = move |api: web::Data<Api>, request, payload| {
                let route = Arc::clone(&route);
                async move {
                    let answered = answer(api, request, payload, &route).await;
                    answered.unwrap_or_else(|problem| problem.response())
                }
            };
            if has_head(path, &method) {
                // The server leaves the body of an answer to HEAD away.
                resource = resource.route(web::head().to(handler.clone()));
            }
            resource = resource.route(web::method(method).to(handler));
        }
        config.service(resource.default_service(web::to(move || {
            let allowed = allowed.clone();
            async move {
                let detail = format!("this takes {allowed}; see /openapi.json for what there is");
                let mut response = Problem::new(Kind::MethodNotAllowed, detail).response();
                if let Ok(value) = HeaderValue::from_str(&allowed) {
                    response.headers_mut().insert(ALLOW, value);
                }
                response
            }
        })));
    }
}

/// The methods of a path, as `Allow` says them.
fn allowed(routes: &[Route]) -> String {
    let methods = routes.iter().map(|route| match &route.method {
        method if has_head(route.path, method) => "GET, HEAD".to_owned(),
        method => method.to_string(),
    });
    methods.collect::<Vec<_>>().join(", ")
}

/// What can be read can be asked for without its body, unless it has no end.
fn has_head(path: &str, method: &Method) -> bool {
    *method == Method::GET && path != "/v1/stream"
}

async fn answer(
    api: web::Data<Api>,
    request: HttpRequest,
    payload: web::Payload,
    route: &Route,
) -> Result<HttpResponse, Problem> {
    let caller = admit(&api, &request, route.access).await?;
    known(route, request.query_string())?;
    let call = Call {
        api,
        request,
        payload,
        caller,
    };
    if route.room == NONE {
        return (route.run)(call).await;
    }
    let mut room = call.api.room.of(call.tenant()?);
    room.resize(route.room)?;
    let response = (route.run)(call).await?;
    Ok(page::keep(response, room))
}

/// Refuses a parameter that the route does not know: one that is misspelt would be left out in silence, and a
/// batch that was to be taken whole or not at all would be taken in part.
fn known(route: &Route, query: &str) -> Result<(), Problem> {
    // What probes and scrapers add to their addresses is theirs.
    if !route.path.starts_with("/v1/") {
        return Ok(());
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap_or_default();
        if name == "tenant" || route.parameters.contains(&name) {
            continue;
        }
        let known = route.parameters.iter().chain(&["tenant"]);
        let known: Vec<&str> = known.copied().collect();
        let detail = format!(
            "a parameter has another name; known are {}",
            known.join(", ")
        );
        return Err(Problem::invalid("query", detail));
    }
    Ok(())
}

/// Who calls, if they may take a route of that access.
async fn admit(
    api: &Api,
    request: &HttpRequest,
    access: Access,
) -> Result<Option<Credential>, Problem> {
    if access == Access::Open {
        return Ok(None);
    }
    let secret = bearer(request).inspect_err(|_| {
        metrics::counter!(crate::names::REQUESTS_DENIED, "reason" => "absent").increment(1);
    })?;
    let admitted = api.credentials.admit(secret).await;
    let credential = admitted.map_err(|denied| {
        if denied.is_transient() {
            return Problem::new(
                Kind::Unavailable,
                "tokens cannot be looked up now; try again",
            );
        }
        metrics::counter!(crate::names::REQUESTS_DENIED, "reason" => denied.reason()).increment(1);
        tracing::info!(reason = denied.reason(), "a request without a valid token");
        Problem::new(Kind::Unauthorized, "this token is not valid here")
    })?;
    let may = match access {
        Access::Open => Ok(()),
        Access::Needs(operation) | Access::OfAll(operation) => credential.may(operation),
        // The stream decides; here it is enough to be one who publishes at all.
        Access::Publish => credential
            .may(Operation::PublishFact)
            .or_else(|_| credential.may(Operation::PublishIntent)),
    };
    may.map_err(forbidden)?;
    if matches!(access, Access::OfAll(_)) && credential.tenant.is_some() && !api.alone {
        return Err(Problem::new(
            Kind::Forbidden,
            "this shows figures of every tenant: it needs a token of the installation \
             (`tidegate tokens create --installation --scope observe`)",
        ));
    }
    Ok(Some(credential))
}

/// The token of `Authorization: Bearer …`, and of nowhere else: an address is logged by everybody.
pub fn bearer(request: &HttpRequest) -> Result<&str, Problem> {
    let missing = || {
        Problem::new(
            Kind::Unauthorized,
            "send the token as `Authorization: Bearer TOKEN`",
        )
    };
    if holds_token(request.path()) || holds_token(request.query_string()) {
        return Err(Problem::new(
            Kind::Unauthorized,
            "a token in an address is in everybody's logs: revoke it, and send the new one as \
             `Authorization: Bearer TOKEN`",
        ));
    }
    let mut values = request.headers().get_all(AUTHORIZATION);
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing());
    };
    let (scheme, token) = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(missing)?;
    match scheme.eq_ignore_ascii_case("bearer") {
        true => Ok(token.trim()),
        false => Err(missing()),
    }
}

/// True when a part of an address has something of a token's form in it, percent-encoded or not.
fn holds_token(part: &str) -> bool {
    let decoded = super::envelope::percent_decoded(part);
    let mut rest = decoded.as_deref().unwrap_or(part);
    while let Some((_, after)) = rest.split_once("tg_") {
        let id = after.as_bytes().get(..17);
        if id.is_some_and(|id| {
            id.iter().take(16).all(u8::is_ascii_hexdigit) && id.last() == Some(&b'_')
        }) {
            return true;
        }
        rest = after;
    }
    false
}

fn forbidden(forbidden: Forbidden) -> Problem {
    Problem::new(Kind::Forbidden, forbidden.to_string())
}

impl Call {
    /// Who calls.
    pub fn caller(&self) -> Result<&Credential, Problem> {
        self.caller
            .as_ref()
            .ok_or_else(|| Problem::new(Kind::Unauthorized, "this needs a token"))
    }

    /// Refuses a caller who may not do this.
    pub fn may(&self, operation: Operation) -> Result<(), Problem> {
        self.caller()?.may(operation).map_err(forbidden)
    }

    /// Whose things are asked for: the token's tenant, or for a token of the installation `?tenant=`.
    pub fn tenant(&self) -> Result<TenantId, Problem> {
        let caller = self.caller()?;
        let asked = match self.parameter("tenant")? {
            Some(text) => {
                Some(TenantId::new(&text).map_err(|error| Problem::of_value("tenant", &error))?)
            }
            None => None,
        };
        let tenant = asked.or_else(|| caller.tenant.clone());
        let tenant = tenant.ok_or_else(|| {
            Problem::invalid(
                "tenant",
                "a token of the installation says whose: ?tenant=NAME",
            )
        })?;
        caller.reaches(&tenant).map_err(forbidden)?;
        Ok(tenant)
    }

    /// A parameter of the query, decoded.
    pub fn parameter(&self, name: &str) -> Result<Option<String>, Problem> {
        let mut found = None;
        for pair in self.request.query_string().split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if key == name {
                let value = value.replace('+', " ");
                let decoded = super::envelope::percent_decoded(&value)
                    .ok_or_else(|| Problem::invalid(name, "expected percent-encoded UTF-8"))?;
                if found.replace(decoded).is_some() {
                    return Err(Problem::invalid(name, "expected once"));
                }
            }
        }
        Ok(found)
    }

    /// A number of the query within its bounds.
    pub fn number(&self, name: &str, default: u32, max: u32) -> Result<u32, Problem> {
        let Some(text) = self.parameter(name)? else {
            return Ok(default);
        };
        match text.parse() {
            Ok(number) if (1..=max).contains(&number) => Ok(number),
            _ => Err(Problem::invalid(name, format!("expected 1 to {max}"))),
        }
    }

    /// A part of the path, decoded.
    pub fn segment(&self, name: &str) -> Result<String, Problem> {
        let text = self.request.match_info().query(name);
        super::envelope::percent_decoded(text)
            .ok_or_else(|| Problem::invalid(name, "expected percent-encoded UTF-8"))
    }
}
