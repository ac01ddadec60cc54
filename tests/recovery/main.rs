//! The real binary on a real Postgres, killed with -9, its server crashed, its connection cut on COMMIT;
//! and on its embedded store, killed with -9. Afterwards nothing is lost and nothing took effect twice:
//! said by plain SQL over the input files, and by `tidegate verify`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[path = "../support/mod.rs"]
mod support;

mod embedded;
mod input;
#[cfg(feature = "kafka")]
mod kafka;
mod node;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use node::Launch;
use sqlx::PgConnection;
use support::database::TestDatabase;
use support::proxy::{Cut, Proxy};

/// The binary with failpoints, built with these tests.
const WITH_FAILPOINTS: &str = env!("CARGO_BIN_EXE_tidegate");

/// The binary with default features, as it is shipped; `make test` builds and names it.
const DEFAULT_BINARY: &str = "TIDEGATE_DEFAULT_BINARY";

/// What `kill -9` sends.
const SIGKILL: i32 = 9;

struct Scene {
    database: TestDatabase,
    directory: tempfile::TempDir,
    files: Vec<PathBuf>,
    config: PathBuf,
}

impl Scene {
    async fn set(test: &str, events_a_file: usize, seed: u64) -> Option<Self> {
        let database = TestDatabase::create(test).await?;
        let directory = tempfile::tempdir().unwrap();
        let files = input::write(directory.path(), events_a_file, seed);
        let config = node::write_config(directory.path(), &files);
        Some(Self {
            database,
            directory,
            files,
            config,
        })
    }

    fn launch<'l>(
        &'l self,
        binary: &'l Path,
        url: &'l str,
        failpoint: Option<String>,
    ) -> Launch<'l> {
        let log = self.directory.path().join("node.log");
        Launch {
            binary,
            config: &self.config,
            url,
            failpoint,
            log,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("node.log")).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lets a run end by itself, then holds everything against the truth.
    async fn finish_and_check(&self) {
        let url = self.database.engine_url();
        let mut child = node::start(&self.launch(Path::new(WITH_FAILPOINTS), &url, None));
        let status = node::wait_for_end(&mut child, 180).await;
        assert!(status.success(), "{status}\n{}", self.log_tail());
        let mut admin = self.database.admin().await;
        let deposits = input::compare(&mut admin, &self.files).await;
        assert!(deposits > 0);
        let verify = Command::new(WITH_FAILPOINTS)
            .args(["verify", "-c"])
            .arg(&self.config)
            .env("RECOVERY_POSTGRES_URL", &url)
            .output()
            .unwrap();
        assert!(
            verify.status.success(),
            "verify: {}\n{}{}",
            verify.status,
            String::from_utf8_lossy(&verify.stdout),
            String::from_utf8_lossy(&verify.stderr)
        );
    }
}

/// One test at a time: they crash the server they share, and each wants both cores.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn in_runtime(test: impl Future<Output = ()>) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// The default binary, or SKIPPED; with TIDEGATE_REQUIRE_SERVICES=1 a failure.
fn default_binary(test: &str) -> Option<PathBuf> {
    support::server(test, DEFAULT_BINARY).map(PathBuf::from)
}

/// Runs the binary until it reaches a failpoint, which ends it with -9.
async fn die_at(scene: &Scene, admin: &mut PgConnection, name: &str, hits: usize) {
    let url = scene.database.engine_url();
    // The log goes on over all runs, and other threads write on until the process is dead: of this run, all
    // of it is looked at.
    let before = scene.log().len();
    let failpoint = Some(format!("{name}:{hits}"));
    let mut child = node::start(&scene.launch(Path::new(WITH_FAILPOINTS), &url, failpoint));
    if name == "draining" {
        assert!(
            node::wait_for_commits(admin, &mut child, 5).await,
            "{}",
            scene.log_tail()
        );
        let terminated = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(terminated.unwrap().success());
    }
    let status = node::wait_for_end(&mut child, 60).await;
    let log = scene.log();
    let said = &log[before..];
    assert_eq!(status.signal(), Some(SIGKILL), "{name}: {status}\n{said}");
    assert!(
        said.contains(&format!("failpoint {name} reached")),
        "{said}"
    );
}

#[test]
fn kill_9_loses_nothing_and_repeats_nothing() {
    const KILLS: usize = 20;
    let failpoints = [
        "before-commit",
        "after-commit",
        "before-acknowledge",
        "claimed",
        "draining",
    ];
    in_runtime(async {
        let Some(scene) = Scene::set("kill_9_loses_nothing_and_repeats_nothing", 9_000, 11).await
        else {
            return;
        };
        let url = scene.database.engine_url();
        let mut admin = scene.database.admin().await;
        let (mut in_flight, mut by_failpoint, mut by_default_binary) = (0, 0, 0);
        let shipped = default_binary("kill_9_loses_nothing_and_repeats_nothing");
        for kill in 0..KILLS {
            if kill % 2 == 0 {
                // Each failpoint in turn, most of them a little later each time.
                let name = failpoints[(kill / 2) % failpoints.len()];
                let hits = match name {
                    "claimed" => 2,
                    "draining" => 1,
                    _ => 3 + kill,
                };
                die_at(&scene, &mut admin, name, hits).await;
                by_failpoint += 1;
                let revisions = node::revisions(&mut admin).await;
                support::say(&format!(
                    "kill {kill}: -9 at failpoint {name}:{hits}, revisions {revisions}"
                ));
                continue;
            }
            let shipped = shipped.as_deref().filter(|_| kill % 4 == 1);
            let binary = shipped.unwrap_or(Path::new(WITH_FAILPOINTS));
            let mut child = node::start(&scene.launch(binary, &url, None));
            assert!(
                node::wait_for_commits(&mut admin, &mut child, 8).await,
                "the input ended before kill {kill}\n{}",
                scene.log_tail()
            );
            assert!(
                node::kill_in_commit(&mut admin, &mut child).await,
                "the input ended before kill {kill}"
            );
            in_flight += 1;
            by_default_binary += usize::from(shipped.is_some());
            let revisions = node::revisions(&mut admin).await;
            support::say(&format!(
                "kill {kill}: -9 with a commit in flight, revisions {revisions}"
            ));
        }
        support::say(&format!(
            "{in_flight} kills with a commit seen in flight, {by_failpoint} at failpoints, {by_default_binary} of the default binary"
        ));
        let expected = if shipped.is_some() { 5 } else { 0 };
        assert_eq!(
            (in_flight, by_failpoint, by_default_binary),
            (10, 10, expected)
        );
        scene.finish_and_check().await;
    });
}

#[test]
fn a_drain_that_is_killed_loses_nothing() {
    in_runtime(async {
        let Some(scene) = Scene::set("a_drain_that_is_killed_loses_nothing", 4_000, 12).await
        else {
            return;
        };
        let mut admin = scene.database.admin().await;
        die_at(&scene, &mut admin, "draining", 1).await;
        scene.finish_and_check().await;
    });
}

#[test]
fn a_connection_cut_on_commit_is_no_loss_and_no_repetition() {
    const CUTS: u32 = 20;
    in_runtime(async {
        let Some(scene) = Scene::set(
            "a_connection_cut_on_commit_is_no_loss_and_no_repetition",
            4_000,
            13,
        )
        .await
        else {
            return;
        };
        let mut admin = scene.database.admin().await;
        let direct = scene.database.engine_url();
        let proxy = Proxy::start(support::database::address(&direct)).await;
        let url = support::database::with_address(&direct, proxy.address());
        let mut child = node::start(&scene.launch(Path::new(WITH_FAILPOINTS), &url, None));
        // Start-up reads the commit function's own row, and ends when its connection is cut.
        assert!(
            node::wait_for_commits(&mut admin, &mut child, 1).await,
            "{}",
            scene.log_tail()
        );
        for cut in 0..CUTS {
            proxy.cut_next_commit(if cut % 2 == 0 {
                Cut::AfterCommit
            } else {
                Cut::BeforeCommit
            });
            while proxy.cuts() <= cut {
                assert!(
                    child.try_wait().unwrap().is_none(),
                    "ended before cut {cut}\n{}",
                    scene.log_tail()
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = node::wait_for_commits(&mut admin, &mut child, 2).await;
        }
        support::say(&format!("{} connections cut on COMMIT", proxy.cuts()));
        let status = node::wait_for_end(&mut child, 180).await;
        assert!(status.success(), "{status}\n{}", scene.log_tail());
        scene.finish_and_check().await;
    });
}

#[test]
fn a_crash_of_the_database_is_survived() {
    const CRASHES: usize = 3;
    in_runtime(async {
        let Some(control) = support::server(
            "a_crash_of_the_database_is_survived",
            "TIDEGATE_TEST_POSTGRES_CTL",
        ) else {
            return;
        };
        let Some(scene) = Scene::set("a_crash_of_the_database_is_survived", 6_000, 14).await else {
            return;
        };
        let url = scene.database.engine_url();
        let mut child = node::start(&scene.launch(Path::new(WITH_FAILPOINTS), &url, None));
        for crash in 0..CRASHES {
            let mut admin = scene.database.admin().await;
            assert!(
                node::wait_for_commits(&mut admin, &mut child, 20).await,
                "ended before crash {crash}\n{}",
                scene.log_tail()
            );
            drop(admin);
            for step in ["crash", "start"] {
                let done = Command::new(&control)
                    .args(["postgres", step])
                    .status()
                    .unwrap();
                assert!(done.success(), "{control} postgres {step}: {done}");
            }
            support::say(&format!(
                "crash {crash}: the server was stopped with `immediate` and started again"
            ));
        }
        let status = node::wait_for_end(&mut child, 180).await;
        assert!(status.success(), "{status}\n{}", scene.log_tail());
        scene.finish_and_check().await;
    });
}
