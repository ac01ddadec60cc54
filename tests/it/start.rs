//! How `tidegate ingest` starts while its database is away: what may pass is waited for, what cannot is
//! said at once.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate_engine::store::StateStore;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::support::database::{TestDatabase, address, with_address, with_database};

/// How a run of the binary ended.
struct Ended {
    code: Option<i32>,
    err: String,
    seconds: f64,
}

/// `tidegate ingest` of one event into the database at `url`, with so many seconds of patience.
async fn ingest(url: &str, patience_seconds: u64) -> Ended {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let config = format!(
        "store:\n  kind: postgres\n  postgres:\n    url: ${{env:TIDEGATE_TEST_START_URL}}\n    \
         acquire_timeout_ms: 2000\nlimits:\n  start_limit_seconds: {patience_seconds}\n"
    );
    std::fs::write(path("node.yaml"), config).unwrap();
    let machine = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/order.yaml");
    std::fs::copy(machine, path("order.yaml")).unwrap();
    let mut events = std::fs::File::create(path("events.ndjson")).unwrap();
    writeln!(
        events,
        "{{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/t\",\"type\":\"t\",\"tenantid\":\"acme\"}}"
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .args("ingest -c node.yaml --machines order.yaml --tenant acme events.ndjson".split(' '))
        .current_dir(place.path())
        .env("TIDEGATE_TEST_START_URL", url)
        .env_remove("TIDEGATE_CONFIG")
        .env_remove("TIDEGATE_LOG")
        .stdin(Stdio::null());
    let began = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    Ended {
        code: output.status.code(),
        err: String::from_utf8(output.stderr).unwrap(),
        seconds: began.elapsed().as_secs_f64(),
    }
}

impl Ended {
    fn tries_again(&self) -> usize {
        self.err.matches("trying again").count()
    }
}

/// A free port of this machine, where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// After the wait, a way to the server at that address; its first connections are cut.
async fn comes_up(at: SocketAddr, server: String, wait: Duration, cut: u32) {
    tokio::time::sleep(wait).await;
    let listener = TcpListener::bind(at).await.unwrap();
    for number in 0.. {
        let (mut client, _) = listener.accept().await.unwrap();
        if number < cut {
            continue;
        }
        let mut upstream = TcpStream::connect(&server).await.unwrap();
        tokio::spawn(async move {
            // Either side may hang up.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        });
    }
}

#[tokio::test]
async fn r26_a_start_gives_up_after_its_limit_and_says_what_it_waited_for() {
    let url = format!("postgres://nobody:x@{}/none", nobody().await);
    let ended = ingest(&url, 2).await;
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    assert!(ended.tries_again() >= 3, "{}", ended.err);
    assert!(ended.err.contains("opening the store"), "{}", ended.err);
    assert!(ended.err.contains("refused"), "{}", ended.err);
    assert!(ended.seconds > 1.0, "{} s", ended.seconds);
    let ended = ingest(&url, 0).await;
    assert_eq!((ended.code, ended.tries_again()), (Some(3), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_comes_up_late_and_cuts_its_first_connections_is_waited_for() {
    let name = "a_database_that_comes_up_late_and_cuts_its_first_connections_is_waited_for";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let at = nobody().await;
    let server = address(&database.engine_url());
    let way = tokio::spawn(comes_up(at, server, Duration::from_secs(2), 3));
    let ended = ingest(&with_address(&database.engine_url(), at), 60).await;
    way.abort();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.tries_again() >= 4, "{}", ended.err);
    let checkpoints = database.store().await.checkpoints().await.unwrap();
    let admitted: u64 = checkpoints
        .iter()
        .map(|it| it.progress.counts.admitted)
        .sum();
    assert_eq!(admitted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waiting_cannot_mend_ends_a_start_at_once_with_what_to_do() {
    let name = "what_waiting_cannot_mend_ends_a_start_at_once_with_what_to_do";
    let Some(database) = TestDatabase::create(name).await else {
        return;
    };
    let Some(unmigrated) = TestDatabase::create_empty(name).await else {
        return;
    };
    let engine = database.engine_url();
    for (url, expected) in [
        (with_database(&engine, "no_such_database"), "cannot log in"),
        (engine.replace(":test@", ":wrong@"), "cannot log in"),
        (
            with_database(&engine, unmigrated.name()),
            "tidegate migrate",
        ),
    ] {
        let ended = ingest(&url, 60).await;
        assert_eq!(ended.code, Some(3), "{}", ended.err);
        assert!(ended.err.contains(expected), "{expected}: {}", ended.err);
        assert_eq!(ended.tries_again(), 0, "{}", ended.err);
        assert!(ended.seconds < 20.0, "{} s", ended.seconds);
    }
}
