//! `tidegate top`: a running node on one screen, from its own `/metrics`. Reads it over HTTP as any other
//! client does, and changes nothing.

pub mod exposition;
pub mod fetch;
mod picture;

use std::io::{IsTerminal as _, stdout};
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::args::Top;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::Output;
use crate::config::Config;
use exposition::Exposition;
use fetch::Target;
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
    let target = Target::of(wanted, config).map_err(Failure::usage)?;
    let watch = async {
        let mut before = look(&target).await;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = look(&target).await;
            if wanted.once {
                let (before, now) = (before?, now?);
                return output.text(&picture(&target, &before, &now)).map_err(lost);
            }
            let text = match (&before, &now) {
                (Ok(before), Ok(now)) => picture(&target, before, now),
                (_, Err(error)) => format!("{}\n\n  {error}; trying again\n", target.shown()),
                (Err(_), Ok(_)) => format!("{}\n\n  it answers\n", target.shown()),
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

async fn look(target: &Target) -> Result<Look, String> {
    let text = target.metrics().await?;
    Ok(Look {
        at: Instant::now(),
        metrics: Exposition::read(&text),
    })
}

fn picture(target: &Target, before: &Look, now: &Look) -> String {
    let picture = Picture {
        title: target.shown(),
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
