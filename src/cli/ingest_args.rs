//! `tidegate ingest` as it is typed.

use std::path::PathBuf;

use clap::Args;
use tidegate_engine::position::{SourceName, StreamName};
use tidegate_engine::tenant::TenantId;

/// `tidegate ingest`
#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads newline-delimited CloudEvents (JSON) from files, or from standard input for `-`, until their end. \
Run again, it goes on at its checkpoint: nothing is lost, and nothing takes effect twice within the \
dedupe window. Without FILE, \
the sources of the configuration are read. Machines are those given here or in the configuration; \
without any, the ones that are active in the store. Without -c, everything is kept in ./tidegate.db.

Files need --tenant, which says whose they are, or --tenant-from-event-unsafe, which believes each event.

Each file is a source of its own, named after its path. With --source, all files together are one source \
with one partition a file: keep their order then.")]
pub struct Ingest {
    /// Files of one JSON event a line, or `-` for standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Whose the events are: one whose `tenantid` names another is refused
    #[arg(
        long,
        value_name = "TENANT",
        requires = "files",
        conflicts_with = "tenant_from_event_unsafe"
    )]
    pub tenant: Option<TenantId>,

    /// Believe each event's `tenantid`: whoever wrote the files chooses whose state they move
    #[arg(long, requires = "files")]
    pub tenant_from_event_unsafe: bool,

    /// Create a tenant that does not exist with its first event, up to `limits.created_tenants_max`.
    /// Without it, its events are kept as dead letters
    #[arg(long, requires = "tenant_from_event_unsafe")]
    pub create_tenants: bool,

    /// The name their log gets
    #[arg(long, value_name = "STREAM", default_value = "events")]
    pub stream: StreamName,

    /// The name their checkpoint is kept under
    #[arg(long, value_name = "NAME")]
    pub source: Option<SourceName>,

    /// A machine definition, or a directory of *.yaml; repeat it for more
    #[arg(long, value_name = "PATH")]
    pub machines: Vec<PathBuf>,
}
