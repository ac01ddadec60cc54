//! The real binary as a child process, and what its database shows of it meanwhile.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sqlx::{PgConnection, Row};

/// How one run of the binary is started.
pub struct Launch<'l> {
    /// The binary.
    pub binary: &'l Path,
    /// The configuration file.
    pub config: &'l Path,
    /// The engine's address of the database, as the configuration expects it in the environment.
    pub url: &'l str,
    /// Where it dies by itself, if at all (feature `failpoints`).
    pub failpoint: Option<String>,
    /// Where its log goes.
    pub log: PathBuf,
}

/// Starts `tidegate ingest`.
pub fn start(launch: &Launch<'_>) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&launch.log)
        .unwrap();
    let mut command = Command::new(launch.binary);
    command
        .args(["ingest", "-c"])
        .arg(launch.config)
        .env("RECOVERY_POSTGRES_URL", launch.url)
        .env_remove("TIDEGATE_FAILPOINT")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    if let Some(failpoint) = &launch.failpoint {
        command.env("TIDEGATE_FAILPOINT", failpoint);
    }
    command.spawn().unwrap()
}

/// The configuration of these tests: small batches, so that a run has many commits to be killed in.
pub fn write_config(directory: &Path, files: &[PathBuf]) -> PathBuf {
    let paths: Vec<String> = files
        .iter()
        .map(|path| format!("      - {}\n", path.display()))
        .collect();
    let machine = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recovery/account.yaml");
    let text = format!(
        "store:\n  kind: postgres\n  postgres:\n    url: ${{env:RECOVERY_POSTGRES_URL}}\n\
         machines:\n  paths:\n    - {machine}\n\
         sources:\n  - name: deposits\n    kind: file\n    stream: deposits\n    tenant_from_event_unsafe: true\n    unknown_tenants: create\n    paths:\n{}\
         limits:\n  batch_events_max: 40\n  restarts_max: 1000\n",
        paths.concat()
    );
    let path = directory.join("tidegate.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Commits so far, over all source partitions.
pub async fn revisions(admin: &mut PgConnection) -> i64 {
    sqlx::query(
        "select coalesce(sum(revision), 0)::int8 as revisions from tidegate.source_partitions",
    )
    .fetch_one(admin)
    .await
    .map_or(0, |row| row.get("revisions"))
}

/// Waits until the engine has committed at least `commits` more, or has ended.
pub async fn wait_for_commits(admin: &mut PgConnection, child: &mut Child, commits: i64) -> bool {
    let begin = revisions(admin).await;
    for _ in 0..12_000 {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if revisions(admin).await >= begin + commits {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("no progress within a minute");
}

/// True when the server is executing a commit of the engine in this moment.
pub async fn commit_in_flight(admin: &mut PgConnection) -> bool {
    sqlx::query(
        "select count(*) as active from pg_stat_activity
          where datname = current_database() and state = 'active' and pid <> pg_backend_pid()
            and query like '%commit_batch%'",
    )
    .fetch_one(admin)
    .await
    .is_ok_and(|row| row.get::<i64, _>("active") > 0)
}

/// Kills with -9 while a commit is in flight; false when the process ended before one was seen.
pub async fn kill_in_commit(admin: &mut PgConnection, child: &mut Child) -> bool {
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if commit_in_flight(admin).await {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
    }
}

/// Waits for the process to end by itself.
pub async fn wait_for_end(child: &mut Child, seconds: u64) -> std::process::ExitStatus {
    for _ in 0..seconds * 50 {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = child.kill();
    panic!("the process did not end within {seconds} s");
}
