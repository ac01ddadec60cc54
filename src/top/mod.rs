//! `tidegate top`: a running node on one screen, from its own `/metrics`. Reads it over HTTP as any other
//! client does, and changes nothing.

pub mod exposition;
mod fetch;
mod picture;

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::args::Top;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::config::Config;
use exposition::Exposition;
use fetch::Metrics;
use picture::Picture;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Home, and everything below it away.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The metrics of one moment.
struct Look {
    at: Instant,
    metrics: Exposition,
}

/// Shows the node until it is interrupted, or once.
pub async fn run(wanted: &Top, config: &Config, output: &mut Output) -> Result<Exit, Failure> {
    let node = Metrics::of(wanted, config).map_err(Failure::usage)?;
    let watch = async {
        let mut before = look(&node).await;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = look(&node).await;
            if wanted.once {
                let (before, now) = (before?, now?);
                return output.text(&picture(&node, &before, &now)).map_err(lost);
            }
            let text = match (&before, &now) {
                (Ok(before), Ok(now)) => picture(&node, before, now),
                (_, Err(error)) => format!("{}\n\n  {error}; trying again\n", node.shown()),
                (Err(_), Ok(_)) => format!("{}\n\n  it answers\n", node.shown()),
            };
            let clear = if stdout().is_terminal() { CLEAR } else { "" };
            output.text(&format!("{clear}{text}\n")).map_err(lost)?;
            before = now;
        }
    };
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        shown = watch => shown.map(|()| Exit::Done).map_err(|error| Failure::new(Exit::Unavailable, error)),
    }
}

async fn look(node: &Metrics) -> Result<Look, String> {
    let text = node.read().await?;
    Ok(Look {
        at: Instant::now(),
        metrics: Exposition::read(&text),
    })
}

fn picture(node: &Metrics, before: &Look, now: &Look) -> String {
    let picture = Picture {
        title: node.shown(),
        before: &before.metrics,
        now: &now.metrics,
        seconds: (now.at - before.at).as_secs_f64().max(1e-3),
    };
    let mut text = picture.lines().join("\n");
    text.push('\n');
    text
}

fn lost(error: std::io::Error) -> String {
    format!("the picture cannot be written: {error}")
}
