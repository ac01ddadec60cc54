//! `tidegate health`: asks a running node whether it lives, or is ready. One line, and 0 or 1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::args::{Global, Health};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::session;
use crate::config::Config;
use crate::config::checks::listen_address;
use crate::probe::{self, Target, Trust};

/// Runs `tidegate health`.
pub fn run(global: &Global, wanted: &Health, output: &mut Output) -> Result<Exit, Failure> {
    let target = match &wanted.url {
        Some(url) => named(url, wanted.ca_file.clone())?,
        None => own(&session::config(global)?)?,
    };
    let token = wanted.token_file.as_deref().map(token).transpose()?;
    probe::check(&target.trust).map_err(|error| Failure::usage(format!("--ca-file: {error}")))?;
    let is_open = target.trust == Trust::Plaintext && !is_near(&target.host);
    if token.is_some() && is_open && !wanted.plaintext_unsafe {
        return Err(Failure::usage(format!(
            "http://{}: whoever is in between would read the token. Use https://, or say --plaintext-unsafe",
            target.host
        )));
    }
    let path = if wanted.ready { "/readyz" } else { "/livez" };
    let limit = Duration::from_secs(wanted.timeout_seconds);
    let asked = probe::ask(&target, path, token.as_deref(), limit);
    let (is_healthy, status, says) = match asked {
        Ok(answer) if answer.status == 200 => {
            let says = if wanted.ready { "ready" } else { "live" };
            (true, Some(answer.status), says.to_owned())
        }
        Ok(answer) => {
            let says = refusal(answer.status, &answer.body);
            (false, Some(answer.status), says)
        }
        Err(error) => (false, None, error),
    };
    let fields = [
        ("healthy", json!(is_healthy)),
        ("status", json!(status)),
        ("says", json!(says)),
    ];
    output.line(&fields, &says)?;
    Ok(match is_healthy {
        true => Exit::Done,
        false => Exit::Differs,
    })
}

/// True for this machine.
fn is_near(host: &str) -> bool {
    let address: Option<IpAddr> = host.parse().ok();
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

/// What a node that is not healthy says, in one line.
fn refusal(status: u16, body: &str) -> String {
    let detail = serde_json::from_str::<serde_json::Value>(body)
        .ok()
        .and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
    match (status, detail) {
        (401 | 403, detail) => format!(
            "{status}: {}; `--ready` needs a token with the scope `observe`, in the file that \
             `--token-file` names",
            detail.unwrap_or_default()
        ),
        (_, Some(detail)) => format!("{status}: {detail}"),
        (_, None) => format!("the answer is {status}"),
    }
}

/// The node that the same configuration runs on this machine.
fn own(config: &Config) -> Result<Target, Failure> {
    let section = &config.http;
    let listen = section.listen.as_deref().and_then(listen_address);
    let Some(address) = listen else {
        return Err(Failure::usage(
            "`http.listen` is not configured: name the configuration that the node runs with (-c), or where \
             it is (--url)",
        ));
    };
    if address.port() == 0 {
        return Err(Failure::usage(
            "`http.listen` has port 0, so the node chose one by itself: name it with --url",
        ));
    }
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let trust = match &section.tls_certificate {
        Some(certificate) => Trust::Same(certificate.clone()),
        None => Trust::Plaintext,
    };
    Ok(Target {
        host: host.to_string(),
        port: address.port(),
        trust,
    })
}

/// The node at a URL: a scheme, a host, a port, and nothing else.
fn named(url: &str, authority: Option<PathBuf>) -> Result<Target, Failure> {
    let wrong = |what: &str| Failure::usage(format!("--url: {what}"));
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| wrong("expected http://HOST:PORT or https://HOST:PORT"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '@', '#']) {
        return Err(wrong(
            "expected nothing behind the port, and no login; a token comes by --token-file",
        ));
    }
    let (trust, default_port) = match (scheme, authority) {
        ("http", None) => (Trust::Plaintext, 80),
        ("http", Some(_)) => return Err(wrong("--ca-file is for https")),
        ("https", Some(file)) => (Trust::Authority(file), 443),
        ("https", None) => {
            return Err(wrong(
                "https needs --ca-file FILE, the certificate of who signed the node's",
            ));
        }
        _ => return Err(wrong("expected http:// or https://")),
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| wrong("no such port"))?)
        }
        _ => (rest, default_port),
    };
    if host.is_empty() {
        return Err(wrong("it names no host"));
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok(Target {
        host: host.to_owned(),
        port,
        trust,
    })
}

/// The token in a file. The error shows nothing of it.
fn token(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
    let token = text.trim();
    let fits = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        return Err(Failure::usage(format!(
            "{}: expected one token and nothing else, as `tidegate tokens create --out` writes it",
            file.display()
        )));
    }
    Ok(token.to_owned())
}
