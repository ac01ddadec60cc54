//! `tidegate health`: asks a running node whether it lives, or is ready. One line, and 0 or 1.

use std::time::Duration;

use serde_json::json;

use super::args::{Global, Health};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::session;
use crate::client::{self, Answer, Question, Target};

/// What an answer may have: a status, headers, and a sentence.
const ANSWER_BYTES_MAX: u64 = 16 * 1_024;

/// Runs `tidegate health`.
pub fn run(global: &Global, wanted: &Health, output: &mut Output) -> Result<Exit, Failure> {
    let target = target(global, wanted)?;
    let token = wanted.token_file.as_deref().map(client::token);
    let token = token.transpose().map_err(Failure::usage)?;
    let checked = target.trust.check();
    checked.map_err(|error| Failure::usage(format!("--ca-file: {error}")))?;
    if token.is_some() {
        let checked = target.check_token(wanted.plaintext_unsafe);
        checked.map_err(Failure::usage)?;
    }
    let asked = target.get(Question {
        path: if wanted.ready { "/readyz" } else { "/livez" },
        token: token.as_deref(),
        limit: Duration::from_secs(wanted.timeout_seconds),
        bytes_max: ANSWER_BYTES_MAX,
    });
    let asked = session::runtime()?.block_on(asked);
    let (is_healthy, status, says) = match asked {
        Ok(answer) if answer.status == 200 => {
            let says = if wanted.ready { "ready" } else { "live" };
            (true, Some(answer.status), says.to_owned())
        }
        Ok(answer) => {
            let says = refusal(&answer);
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

/// What the command line names, else the node that the same configuration runs on this machine.
fn target(global: &Global, wanted: &Health) -> Result<Target, Failure> {
    let Some(url) = &wanted.url else {
        let config = session::config(global)?;
        return Target::of_config(&config).map_err(Failure::usage);
    };
    let target = Target::named(url, wanted.ca_file.clone()).map_err(Failure::usage)?;
    if !target.path.is_empty() {
        return Err(Failure::usage("--url: expected nothing behind the port"));
    }
    Ok(target)
}

/// What a node that is not healthy says, in one line.
fn refusal(answer: &Answer) -> String {
    let detail = serde_json::from_slice::<serde_json::Value>(&answer.body)
        .ok()
        .and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
    let status = answer.status;
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
