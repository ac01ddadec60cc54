//! `tidegate lag`: how far each source partition is behind, asked of the brokers and the store themselves,
//! so that it is true also while no node runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_engine::bus::{BusError, Seen, SourceView};
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::{Clock as _, Timestamp};
use tidegate_engine::position::{Offset, SourceName, SourcePartition};
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantId;

use super::args::{Global, Lag, LagBy};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::session::Session;
use crate::runtime::SystemClock;
use crate::wiring::{self, known_topics};

/// Between the two looks that tell whether a partition moves.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Between two pictures.
const INTERVAL: Duration = Duration::from_secs(2);

/// A source, and who is looked at for it.
struct Watched {
    source: SourceName,
    tenant: Option<TenantId>,
    view: Box<dyn SourceView>,
}

/// A source partition in one look.
struct Row {
    place: SourcePartition,
    name: String,
    tenant: Option<TenantId>,
    owner: Option<String>,
    settled: Option<Offset>,
    end: Offset,
    events: u64,
    seconds: f64,
}

/// How it stands, by what it does and not by how much it lags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    /// Nothing lies behind what is settled, or it comes nearer to the end.
    Ok,
    /// It moves, and more comes than it settles.
    Slow,
    /// Records wait and nothing moves.
    Stalled,
    /// Records wait that nobody has ever claimed.
    Unclaimed,
    /// The checkpoint went back.
    Rewound,
}

impl Status {
    fn of(before: &Row, now: &Row) -> Self {
        let (was, is) = (before.settled, now.settled);
        if is < was {
            return Status::Rewound;
        }
        match (now.events, is) {
            (0, _) => Status::Ok,
            (_, None) => Status::Unclaimed,
            _ if is == was => Status::Stalled,
            (behind, _) if behind > before.events => Status::Slow,
            _ => Status::Ok,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Slow => "slow",
            Status::Stalled => "stalled",
            Status::Unclaimed => "unclaimed",
            Status::Rewound => "rewound",
        }
    }

    fn reason(self, row: &Row) -> String {
        let owner = row.owner.as_deref().unwrap_or("nobody");
        match self {
            Status::Ok if row.events == 0 => String::new(),
            Status::Ok => format!("{owner} catches up"),
            Status::Slow => format!("{owner} settles less than arrives"),
            Status::Stalled => format!("nothing was settled for a second; {owner} had it last"),
            Status::Unclaimed => "no node has ever claimed it".to_owned(),
            Status::Rewound => "its checkpoint went back".to_owned(),
        }
    }
}

/// Runs `tidegate lag`.
pub fn run(global: &Global, wanted: &Lag, output: &mut Output) -> Result<Exit, Failure> {
    let session = Session::look(global)?;
    let mut watched = Vec::new();
    for source in &session.config.sources {
        let Some(name) = &source.name else {
            continue;
        };
        let known = session.block_on(known_topics(session.store(), name))?;
        if let Some(view) = wiring::source_view(
            source,
            &session.config.node.name,
            known,
            session.runtime.handle(),
        ) {
            watched.push(Watched {
                source: name.clone(),
                tenant: source.tenant.clone(),
                view: view?,
            });
        }
    }
    if watched.is_empty() {
        return Err(Failure::usage(
            "this configuration has no source with `kind: kafka`: requests wait for their answer, and the \
             lag of files is in the metrics (`tidegate top`)",
        ));
    }
    let ended = session.block_on(async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c(), if wanted.watch => Ok(Exit::Done),
            ended = show(&session, &watched, wanted, output) => ended,
        }
    });
    session.close()?;
    ended
}

async fn show(
    session: &Session,
    watched: &[Watched],
    wanted: &Lag,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut before = look(session.store(), watched).await?;
    loop {
        // Who is not behind need not be looked at again.
        let is_behind = before.iter().any(|row| row.events > 0);
        let wait = if wanted.watch { INTERVAL } else { LOOK_AGAIN };
        let now = if wanted.watch || is_behind {
            tokio::time::sleep(wait).await;
            Some(look(session.store(), watched).await?)
        } else {
            None
        };
        let rows = now.as_ref().unwrap_or(&before);
        match wanted.by {
            LagBy::Partition => by_partition(&before, rows, output)?,
            LagBy::Tenant => by_tenant(rows, output)?,
        }
        if !wanted.watch {
            let limit = wanted.fail_over.map(|limit| limit.as_secs_f64());
            let is_over = limit.is_some_and(|limit| rows.iter().any(|row| row.seconds > limit));
            return Ok(if is_over { Exit::Differs } else { Exit::Done });
        }
        before = now.unwrap_or(before);
    }
}

async fn look(store: &dyn StateStore, watched: &[Watched]) -> Result<Vec<Row>, Failure> {
    let checkpoints: BTreeMap<SourcePartition, Checkpoint> = store
        .checkpoints()
        .await?
        .into_iter()
        .map(|checkpoint| (checkpoint.source_partition.clone(), checkpoint))
        .collect();
    let mut rows = Vec::new();
    for one in watched {
        for seen in one.view.partitions().await? {
            let place = SourcePartition {
                source: one.source.clone(),
                partition: seen.partition,
            };
            let checkpoint = checkpoints.get(&place);
            rows.push(row(one, seen, place, checkpoint).await?);
        }
    }
    Ok(rows)
}

async fn row(
    of: &Watched,
    seen: Seen,
    place: SourcePartition,
    checkpoint: Option<&Checkpoint>,
) -> Result<Row, BusError> {
    let settled = checkpoint.map(|it| it.progress.next_offset);
    let behind = of.view.behind(seen.partition, settled).await?;
    let from = settled.unwrap_or(behind.begin);
    // What was settled beyond the checkpoint, out of turn, is not behind.
    let done = checkpoint.map_or(0, |it| {
        it.progress
            .done_above
            .0
            .iter()
            .map(|it| it.last.0 + 1 - it.first.0)
            .sum()
    });
    let seconds = behind
        .first_at
        .map_or(0.0, |at| age_seconds(at, SystemClock.now()));
    Ok(Row {
        name: seen.name,
        tenant: seen.tenant.or_else(|| of.tenant.clone()),
        owner: checkpoint.map(|it| it.owner.clone()),
        settled,
        end: behind.end,
        events: behind.end.0.saturating_sub(from.0).saturating_sub(done),
        seconds,
        place,
    })
}

fn age_seconds(at: Timestamp, now: Timestamp) -> f64 {
    now.0.saturating_sub(at.0).max(0) as f64 / 1e6
}

fn tenths(seconds: f64) -> Value {
    json!((seconds * 10.0).round() / 10.0)
}

fn by_partition(before: &[Row], rows: &[Row], output: &mut Output) -> Result<(), Failure> {
    let headings = [
        "source",
        "partition",
        "name",
        "owner",
        "settled",
        "end",
        "behind",
        "seconds",
        "status",
        "reason",
    ];
    let shown: Vec<Vec<Value>> = rows
        .iter()
        .map(|row| {
            let earlier = before.iter().find(|it| it.place == row.place);
            let status = Status::of(earlier.unwrap_or(row), row);
            vec![
                json!(row.place.source.as_str()),
                json!(row.place.partition),
                json!(row.name),
                json!(row.owner),
                json!(row.settled.map(|it| it.0)),
                json!(row.end.0),
                json!(row.events),
                tenths(row.seconds),
                json!(status.word()),
                json!(status.reason(row)),
            ]
        })
        .collect();
    output.rows(&headings, &shown)?;
    Ok(())
}

/// The largest lag of each tenant's partitions, and what waits in them.
fn by_tenant(rows: &[Row], output: &mut Output) -> Result<(), Failure> {
    let mut tenants: BTreeMap<Option<&TenantId>, (usize, u64, f64)> = BTreeMap::new();
    for row in rows {
        let (partitions, events, seconds) = tenants.entry(row.tenant.as_ref()).or_default();
        *partitions += 1;
        *events += row.events;
        *seconds = row.seconds.max(*seconds);
    }
    let shown: Vec<Vec<Value>> = tenants
        .into_iter()
        .map(|(tenant, (partitions, events, seconds))| {
            // Whose a record is that names its tenant itself is not known before it is read.
            let tenant = tenant.map_or("(in the events)", TenantId::as_str);
            vec![
                json!(tenant),
                json!(partitions),
                json!(events),
                tenths(seconds),
            ]
        })
        .collect();
    output.rows(&["tenant", "partitions", "behind", "seconds"], &shown)?;
    Ok(())
}

/// A span of time like `90`, `90s`, `15m` or `2h`.
pub fn span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3_600,
        _ => {
            return Err(format!(
                "expected seconds, like `60s`, `15m` or `2h`, found `{text}`"
            ));
        }
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("expected a whole number and `s`, `m` or `h`, found `{text}`"))?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_engine::position::{Offset, SourceName, SourcePartition};

    use super::{Row, Status, span};

    fn row(settled: Option<u64>, end: u64) -> Row {
        Row {
            place: SourcePartition {
                source: SourceName::new("orders").unwrap(),
                partition: 0,
            },
            name: "orders/0".to_owned(),
            tenant: None,
            owner: None,
            settled: settled.map(Offset),
            end: Offset(end),
            events: end - settled.unwrap_or(0),
            seconds: 0.0,
        }
    }

    #[test]
    fn r41_status_goes_by_what_moves_and_not_by_how_much_is_behind() {
        for (before, now, expected) in [
            ((Some(10), 10), (Some(10), 10), Status::Ok),
            ((Some(10), 90), (Some(20), 90), Status::Ok),
            ((Some(10), 90), (Some(20), 190), Status::Slow),
            ((Some(10), 90), (Some(10), 90), Status::Stalled),
            ((None, 90), (None, 90), Status::Unclaimed),
            ((None, 0), (None, 0), Status::Ok),
            ((Some(50), 90), (Some(40), 90), Status::Rewound),
        ] {
            let (before, now) = (row(before.0, before.1), row(now.0, now.1));
            assert_eq!(Status::of(&before, &now), expected);
        }
    }

    #[test]
    fn a_span_has_a_unit_or_is_seconds() {
        assert_eq!(span("90"), Ok(Duration::from_secs(90)));
        assert_eq!(span("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7_200)));
        for wrong in ["", "s", "1d", "-1s", "1.5s", "m1"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
