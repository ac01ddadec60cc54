//! The command line as it is typed: every command and flag, with its help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate_engine::event::CorrelationId;
use tidegate_engine::position::{RecordPosition, SourceName, StreamName};
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::tenant::TenantId;

use super::access_args::{Tenants, Tokens};
use super::exit::EXIT_CODES;
pub use super::ingest_args::Ingest;
use super::output::Format;

const EXAMPLES: &str = "\
Examples:
  tidegate demo                                       200,000 events become verified state
  tidegate validate machines/*.yaml                   every mistake in them at once
  tidegate test machines/order.yaml                   the tests that stand in it
  tidegate ingest orders.ndjson --machines machines --tenant acme
  zcat old.ndjson.gz | tidegate ingest - --source backfill --tenant acme
  tidegate state get order o-17 --tenant acme
  tidegate events tail --tenant acme -n 5 -o json
  tidegate dead-letters list --tenant acme
  tidegate tokens create --tenant acme --scope publish:fact --out acme.token
  tidegate verify
  tidegate bench --rounds 5                           what this machine does
  tidegate ingest -c postgres.yaml                    into Postgres, as the file says";

/// A multi-tenant stream-processing engine: events become state in your own database, each once per tenant
/// and idempotency key.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    after_help = "`tidegate --help` shows examples and exit codes; `tidegate COMMAND --help` tells more.",
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub global: Global,
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct Global {
    /// The configuration; without it the defaults, which keep everything in ./tidegate.db
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "TIDEGATE_CONFIG"
    )]
    pub config: Option<PathBuf>,

    /// How data on standard output is written
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub output: Format,

    /// How much is logged on standard error: off, error, warn, info, debug or trace
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Turn 200,000 generated events of five tenants into verified state, and show how
    Demo(Demo),
    /// Run the node that the configuration describes, until it is told to stop
    Run,
    /// Run a node on this machine alone, with a token and a machine to try it
    Dev(Dev),
    /// Show a running node live: rates, tenants, lag, commit times, dead letters
    Top(Top),
    /// Show how far each source partition is behind, also while no node runs
    Lag(Lag),
    /// Look at everything that a node needs, and say what to type where something is wrong
    Doctor,
    /// Ask a running node whether it lives or is ready
    Health(Health),
    /// Read events from files or standard input until they end
    Ingest(Ingest),
    /// Check machine definitions, configuration, samples; report every mistake at once
    Validate(Validate),
    /// Run the tests that stand in machine definitions
    Test(Files),
    /// Look at the state of entities
    #[command(subcommand)]
    State(State),
    /// Look at stored events
    #[command(subcommand)]
    Events(Events),
    /// See, retry or discard what needs a person
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// See where each source partition stands, and have one go on that was stopped
    #[command(subcommand)]
    Partitions(super::partitions::Partitions),
    /// See, create and close tenants
    #[command(subcommand)]
    Tenants(Tenants),
    /// See, create and revoke the tokens by which clients and operators are known
    #[command(subcommand)]
    Tokens(Tokens),
    /// Read the whole store and check that it is what its own log makes of it
    Verify(Verify),
    /// Create or update the tables, functions and roles of a Postgres database
    Migrate(Migrate),
    /// Measure what this machine does with a store and with machines
    Bench(Bench),
}

/// `tidegate demo`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Writes generated events of five tenants as NDJSON into a directory, reads them into an embedded \
database there, compares what the database says with what was generated, and verifies it. Set \
DEMO_EXIT=1 to end without waiting for a key.")]
pub struct Demo {
    /// Where its files go; they are replaced when they are from an earlier demo
    #[arg(long, value_name = "DIR", default_value = "tidegate-demo")]
    pub dir: PathBuf,

    /// How many events
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    pub events: u64,

    /// The seed they are generated from: the same seed, the same events
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// `tidegate dev`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Keeps everything in one file, takes requests on 127.0.0.1, makes a token for the tenant `dev` and shows it \
once, with lines to copy. Each start makes a new token and revokes the one before.")]
pub struct Dev {
    /// Where requests are taken on 127.0.0.1; 0 is any free port
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// The database file
    #[arg(long, value_name = "FILE", default_value = "tidegate-dev.db")]
    pub database: PathBuf,

    /// A machine definition, or a directory of *.yaml; without any, ./machines, with one to begin with
    #[arg(long, value_name = "PATH")]
    pub machines: Vec<PathBuf>,
}

/// `tidegate top`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads the node's /metrics every second and shows rates between two looks. The address is --url, else where \
the configuration of -c has the node take requests. The token needs the scope `observe`. Ctrl-C ends it.")]
pub struct Top {
    /// The node: http://host:port or https://host:port
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// A file with the token
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// Who signed the certificate of an https:// URL, PEM; without it, those whom this machine believes
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca_file: Option<PathBuf>,

    /// Send the token to another machine without TLS: whoever is in between reads it
    #[arg(long)]
    pub plaintext_unsafe: bool,

    /// Show one picture, of one second, and end
    #[arg(long)]
    pub once: bool,
}

/// `tidegate health`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Asks the node that the configuration (-c) describes on this machine, or the one that --url names, and writes \
one line. Ends with 0 when it lives (with --ready: when it takes requests and its store answers), with 1 \
when it does not or cannot be reached, and with 2 when the question itself cannot be asked.")]
pub struct Health {
    /// Where the node is, like http://127.0.0.1:8080; without it, `http.listen` of the configuration
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// Ask whether it is ready, which needs a token with the scope `observe`
    #[arg(long, requires = "token_file")]
    pub ready: bool,

    /// A file with the token
    #[arg(long, value_name = "FILE", requires = "ready")]
    pub token_file: Option<PathBuf>,

    /// Who signed the certificate of an https:// URL, PEM; without it, those whom this machine believes
    #[arg(long, value_name = "FILE", requires = "url")]
    pub ca_file: Option<PathBuf>,

    /// Send the token to another machine without TLS: whoever is in between reads it
    #[arg(long, requires = "ready")]
    pub plaintext_unsafe: bool,

    /// Seconds until it must have answered
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub timeout_seconds: u64,
}

/// `tidegate lag`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Asks the brokers of the configured sources where their partitions end, and the store what is settled. Nothing \
moves by that, and no node has to run. It looks twice, a second apart, to say whether a partition moves: `ok`, \
`slow` (more arrives than is settled), `stalled` (records wait and nothing is settled), `unclaimed` or \
`rewound`. Ends with 0, or with 1 where --fail-over is exceeded.")]
pub struct Lag {
    /// Go on showing it, until interrupted
    #[arg(long, conflicts_with = "fail_over")]
    pub watch: bool,

    /// A row for each source partition, or for each tenant
    #[arg(long, value_enum, default_value_t)]
    pub by: LagBy,

    /// End with 1 when the oldest record of a partition that is not settled is older, like 60s, 15m or 2h
    #[arg(long, value_name = "SPAN", value_parser = super::lag::span)]
    pub fail_over: Option<Duration>,
}

/// What a row of `tidegate lag` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LagBy {
    /// A source partition.
    #[default]
    Partition,
    /// A tenant.
    Tenant,
}

/// `tidegate validate`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Without --sample it checks the files, or what the configuration names. With --sample it reads the lines of a \
file as a source of the configuration would, through its `mapping` if it has one, and shows the event that \
each becomes, or the field that is in the way and what to do. Nothing is stored.")]
pub struct Validate {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub files: Files,

    /// A file of one record a line, or `-`: show what a configured source makes of each
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub sample: Option<PathBuf>,

    /// Which configured source, when there are several
    #[arg(long, value_name = "NAME", requires = "sample")]
    pub source: Option<SourceName>,
}

/// Files to look at.
#[derive(Debug, Args)]
pub struct Files {
    /// Files, or directories of *.yaml; without any, what the configuration names
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `tidegate state`
#[derive(Debug, Subcommand)]
pub enum State {
    /// Show one entity
    Get {
        /// The machine
        #[arg(value_name = "MACHINE")]
        machine: MachineName,
        /// The entity's key
        #[arg(value_name = "KEY")]
        key: EntityKey,
        /// Whose it is
        #[arg(long, value_name = "TENANT")]
        tenant: TenantId,
    },
}

/// `tidegate events`
#[derive(Debug, Subcommand)]
pub enum Events {
    /// Show one stored event with what it did
    Get {
        /// Its position, `stream:source/partition:sequence`
        #[arg(value_name = "POSITION")]
        position: RecordPosition,
        /// Whose it is
        #[arg(long, value_name = "TENANT")]
        tenant: TenantId,
    },
    /// Show the last stored events
    Tail {
        /// Whose
        #[arg(long, value_name = "TENANT")]
        tenant: TenantId,
        /// Only of this stream
        #[arg(long, value_name = "STREAM")]
        stream: Option<StreamName>,
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        lines: u32,
        /// Go on showing what arrives, until interrupted (needs a store that several processes share)
        #[arg(short, long)]
        follow: bool,
    },
    /// Write all stored events as one JSON event a line, in the order of their admission
    Export {
        /// Whose
        #[arg(long, value_name = "TENANT")]
        tenant: TenantId,
        /// Only of this stream; without it all but `internal`, which is made of the others
        #[arg(long, value_name = "STREAM")]
        stream: Option<StreamName>,
        /// Leave this out of every event, so that it can be shared
        #[arg(long, value_enum)]
        redact: Vec<Redacted>,
    },
    /// Show what belongs to one correlation id, each event under the one that caused it
    Trace {
        /// The correlation id
        #[arg(value_name = "CORRELATION_ID")]
        correlation: CorrelationId,
        /// Whose it is
        #[arg(long, value_name = "TENANT")]
        tenant: TenantId,
    },
}

/// What `tidegate events export` can leave out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Redacted {
    /// Whose credential brought the event in
    #[value(name = "caused_by")]
    CausedBy,
}

/// Which dead letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LetterState {
    /// Waits for a person
    Open,
    /// Was offered again
    Retried,
    /// Was given up
    Discarded,
    /// Any of them
    All,
}

/// `tidegate dead-letters`
#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List them
    List {
        /// Whose; all tenants without it
        #[arg(long, value_name = "TENANT")]
        tenant: Option<TenantId>,
        /// In which state
        #[arg(long, value_enum, default_value = "open")]
        state: LetterState,
        /// How many at most for each tenant
        #[arg(short = 'n', long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Show one with the event or the bytes that it is about
    Show {
        /// Its id
        #[arg(value_name = "ID")]
        id: String,
        /// Whose it is
        #[arg(long, value_name = "TENANT")]
        tenant: TenantId,
    },
    /// Offer them again to the machine for which they are dead, with the state as it is now
    Retry(Decide),
    /// Give them up: they will never take effect
    Discard(Decide),
}

/// Which dead letters to decide about.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "all"]))]
pub struct Decide {
    /// Their ids
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,

    /// Whose they are
    #[arg(long, value_name = "TENANT")]
    pub tenant: TenantId,

    /// Every open one
    #[arg(long)]
    pub all: bool,

    /// Of all, only those about events of this stream, or about bytes that its sources could not read
    #[arg(long, value_name = "STREAM", requires = "all")]
    pub of_stream: Option<StreamName>,

    /// Who decides, for the log; your user name without it
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,

    /// The stream that an event gets which was unreadable before, when it is not known from its source
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<StreamName>,
}

/// `tidegate verify`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Checks the hash chains of all logs, that sequences and entity versions have no gap, replays every entity \
from its log with the definitions it names and compares each state hash and the stored bytes, and \
compares what was counted with what is there. Ends with 1 and names the first difference if there is one.")]
pub struct Verify {
    /// Only these tenants
    #[arg(long, value_name = "TENANT")]
    pub tenant: Vec<TenantId>,

    /// Entities held in memory at once; a log of more is read several times
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    pub held_max: u64,
}

/// Who creates the roles.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Roles {
    /// This command does: it needs CREATEROLE
    Create,
    /// Somebody has: this command needs no more than to own the database's schema
    Existing,
}

/// `tidegate migrate`
#[derive(Debug, Args)]
pub struct Migrate {
    /// Print what would be executed, and execute nothing
    #[arg(long)]
    pub print_sql: bool,

    /// Who creates the roles
    #[arg(long, value_enum, default_value = "create")]
    pub roles: Roles,
}

/// `tidegate bench`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Generates events, settles them in a store as `ingest` would, compares the totals with what was generated, \
and prints rates, commits and CPU time of each round and their medians.

Without -c the store is a temporary embedded one in the working directory, a new one each round, removed at \
the end. With -c it is the configured one, which must hold no tenant's events but those of earlier benches: \
what is written can never be removed, so name a scratch database.

The machines are the configuration's, and the events those of their `tests`, each time with entities of \
their own; without any, the demo's orders and their machine.")]
pub struct Bench {
    /// How many events a round
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    pub events: u64,

    /// Of how many tenants
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub tenants: u32,

    /// From how many source partitions at once; with the events of `tests`, no more than tenants
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub partitions: u32,

    /// How many rounds the medians are of
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
}
