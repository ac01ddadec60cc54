//! `tidegate partitions`: where each source partition stands in the store, and a person's decision from where
//! one goes on that was stopped.

use clap::Subcommand;
use serde_json::{Value, json};
use tidegate_engine::bus::SourceView;
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::clock::Clock as _;
use tidegate_engine::position::{Offset, SourceName, SourcePartition};
use tidegate_engine::store::StateStore;

use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::session::Session;
use crate::config::SourceKind;
use crate::operator::checkpoint::{MoveError, move_checkpoint};
use crate::runtime::SystemClock;
use crate::wiring::{self, known_topics};

/// `tidegate partitions`
#[derive(Debug, Subcommand)]
pub enum Partitions {
    /// Show the checkpoint of each
    List {
        /// Of one source; all without it
        #[arg(long, value_name = "SOURCE")]
        source: Option<SourceName>,
    },
    /// Have one go on at another offset, whatever it was stopped for
    Resume {
        /// Which, as `list` and alarms name it
        #[arg(value_name = "SOURCE/PARTITION", value_parser = place)]
        place: SourcePartition,
        /// Where: `earliest`, `latest` or an offset. What is left out takes no effect
        #[arg(long, value_name = "OFFSET", value_parser = At::parse)]
        at: At,
    },
}

/// Runs `tidegate partitions`.
pub fn run(global: &Global, wanted: &Partitions, output: &mut Output) -> Result<Exit, Failure> {
    let session = Session::look(global)?;
    let exit = match wanted {
        Partitions::List { source } => {
            session.block_on(list(session.store(), source.as_ref(), output))
        }
        Partitions::Resume { place, at } => session.block_on(resume(&session, place, at)),
    }?;
    session.close()?;
    Ok(exit)
}

async fn list(
    store: &dyn StateStore,
    source: Option<&SourceName>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let checkpoints = store.checkpoints().await?;
    let of_source =
        |it: &&Checkpoint| source.is_none_or(|name| it.source_partition.source == *name);
    let rows: Vec<Vec<Value>> = checkpoints.iter().filter(of_source).map(row).collect();
    let headings = [
        "source",
        "partition",
        "settled",
        "beyond",
        "commits",
        "owner",
        "epoch",
        "instance",
        "admitted",
        "dead",
    ];
    output.rows(&headings, &rows)?;
    Ok(Exit::Done)
}

fn row(checkpoint: &Checkpoint) -> Vec<Value> {
    let progress = &checkpoint.progress;
    let ranges = progress.done_above.0.iter();
    let beyond: u64 = ranges.map(|range| range.last.0 + 1 - range.first.0).sum();
    vec![
        json!(checkpoint.source_partition.source.as_str()),
        json!(checkpoint.source_partition.partition),
        json!(progress.next_offset.0),
        json!(beyond),
        json!(checkpoint.revision.0),
        json!(checkpoint.owner),
        json!(checkpoint.epoch.0),
        json!(checkpoint.incarnation.as_str()),
        json!(progress.counts.admitted),
        json!(progress.counts.dead),
    ]
}

async fn resume(session: &Session, place: &SourcePartition, at: &At) -> Result<Exit, Failure> {
    let config = &session.config;
    let view = view_of(session, place).await?;
    let next = offset(view.as_deref(), place, at).await?;
    let owner = format!("{} (operator)", config.node.name);
    let moved = move_checkpoint(session.store(), place, next, (&owner, SystemClock.now()));
    let before = moved.await.map_err(|error| match &error {
        MoveError::NotFound(_) => Failure::new(Exit::NotFound, error.to_string()),
        _ => Failure::new(Exit::Unavailable, error.to_string()),
    })?;
    let was = before.progress.next_offset;
    crate::say!(
        "{place} goes on at {next}; it stood at {was}. {}",
        means(was, next)
    );
    crate::say!("a node that has stopped it takes it up again within seconds");
    Ok(Exit::Done)
}

/// What a move does to records, in words.
fn means(was: Offset, next: Offset) -> String {
    match next.cmp(&was) {
        std::cmp::Ordering::Less => {
            "What stands between is read again: what was admitted within the dedupe window \
             takes no effect a second time, what is older does"
                .to_owned()
        }
        std::cmp::Ordering::Equal => {
            "What was settled beyond is read again, and takes no effect a second time within the dedupe window"
                .to_owned()
        }
        std::cmp::Ordering::Greater => {
            "What stands between is left out and takes no effect".to_owned()
        }
    }
}

/// Who can be asked about the partition's offsets; only sources that are read have any.
async fn view_of(
    session: &Session,
    place: &SourcePartition,
) -> Result<Option<Box<dyn SourceView>>, Failure> {
    let config = &session.config;
    let source = config
        .sources
        .iter()
        .find(|source| source.name.as_ref() == Some(&place.source));
    let Some(source) = source else {
        return Err(Failure::new(
            Exit::NotFound,
            format!("this configuration has no source `{}`", place.source),
        ));
    };
    if source.kind == SourceKind::Http {
        return Err(Failure::usage(format!(
            "`{}` is a source of requests: nothing of it can be read again or left out",
            place.source
        )));
    }
    let known = known_topics(session.store(), &place.source).await?;
    Ok(
        wiring::source_view(source, &config.node.name, known, session.runtime.handle())
            .transpose()?,
    )
}

async fn offset(
    view: Option<&dyn SourceView>,
    place: &SourcePartition,
    at: &At,
) -> Result<Offset, Failure> {
    let Some(view) = view else {
        return match at {
            At::Offset(offset) => Ok(*offset),
            At::Earliest => Ok(Offset(0)),
            At::Latest => Err(Failure::usage(
                "--at: the end of a file is not known here; say the offset in bytes",
            )),
        };
    };
    let behind = view.behind(place.partition, None).await?;
    match at {
        At::Earliest => Ok(behind.begin),
        At::Latest => Ok(behind.end),
        At::Offset(offset) if behind.begin <= *offset && *offset <= behind.end => Ok(*offset),
        At::Offset(offset) => Err(Failure::usage(format!(
            "--at: {place} has offsets {} to {}, and {offset} is none of them",
            behind.begin, behind.end
        ))),
    }
}

/// Where to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// At the first record that there is.
    Earliest,
    /// Behind the last.
    Latest,
    /// At this one.
    Offset(Offset),
}

impl At {
    /// `earliest`, `latest` or an offset.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => Ok(At::Earliest),
            "latest" => Ok(At::Latest),
            _ => text
                .parse()
                .map(|number| At::Offset(Offset(number)))
                .map_err(|_| format!("expected `earliest`, `latest` or an offset, found `{text}`")),
        }
    }
}

/// `SOURCE/PARTITION`, as `list`, logs and alarms name it.
pub fn place(text: &str) -> Result<SourcePartition, String> {
    let parsed = text.rsplit_once('/').and_then(|(source, partition)| {
        Some(SourcePartition {
            source: SourceName::new(source).ok()?,
            partition: partition.parse().ok()?,
        })
    });
    parsed.ok_or_else(|| format!("expected SOURCE/PARTITION, like `orders/3`, found `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::{At, Offset, place};

    #[test]
    fn a_partition_and_an_offset_are_read_as_they_are_shown() {
        assert_eq!(place("orders/3").unwrap().to_string(), "orders/3");
        for wrong in [
            "orders",
            "orders/",
            "/3",
            "orders/-1",
            "orders/3/4",
            "Or ders/3",
        ] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
        assert_eq!(At::parse("17"), Ok(At::Offset(Offset(17))));
        assert_eq!(At::parse("earliest"), Ok(At::Earliest));
        assert!(At::parse("-1").unwrap_err().contains("earliest"));
    }
}
