//! Clients that do not behave: they speak no HTTP, speak slowly, do not listen, or go away. What they do costs
//! them their connection and nobody else anything.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::client::read_response;
use super::contract::hold;
use super::follow::Follower;
use super::hostile::{scribble, spoiled};
use super::nodes::{ORDER, metrics, node_with, observer, token};
use super::{STRUCTURED, Served, pause, placed};

/// No node may need longer than its limits to answer or to hang up.
const WAIT: Duration = Duration::from_secs(30);

fn connect(node: &Served) -> TcpStream {
    let socket = TcpStream::connect(&node.address).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

/// Says all of that, and gives what is said until the server hangs up.
fn say(node: &Served, bytes: &[u8]) -> String {
    let mut socket = connect(node);
    // The server may hang up before all of it is said.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    let _ = socket.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

fn statuses(said: &str) -> Vec<&str> {
    let heads = said.match_indices("HTTP/1.1 ");
    heads.map(|(at, _)| &said[at + 9..at + 12]).collect()
}

#[test]
fn r52_what_is_no_http_is_hung_up_on_and_nothing_in_it_is_a_request() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let live = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
    assert_eq!(statuses(&say(&node, live.as_bytes())), ["200"]);
    let before = node.peak_bytes();
    let long = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(4 << 20));
    let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100_000));
    for rubbish in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET /livez\r\n\r\n",
        "GET /livez HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0",
        "\u{16}\u{3}\u{1}\0\u{5}hello",
        // Two lengths, or one and pieces: what follows might be a request to one and a body to another.
        "POST /v1/events HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 40\r\n\r\nGET /livez",
        "POST /v1/events HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "POST /v1/events HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\nx",
        &long,
        &many,
    ] {
        let said = say(&node, rubbish.as_bytes());
        let is_refused = statuses(&said).iter().all(|status| status.starts_with('4'));
        assert!(is_refused, "{rubbish:.60}: {said}");
    }
    for seed in 0..300 {
        let random = &mut SmallRng::seed_from_u64(seed);
        // The first is whole; behind it stands anything, all of it sent at once.
        let mut bytes = live.as_bytes().to_vec();
        match random.random_range(0..3) {
            0 => bytes.extend((0..random.random_range(1..200)).map(|_| random.random::<u8>())),
            1 => bytes.extend(scribble(random).bytes().chain(*b"\r\n\r\n")),
            _ => bytes.extend(spoiled(random, live)),
        }
        let said = say(&node, &bytes);
        let statuses = statuses(&said);
        assert_eq!(statuses.first(), Some(&"200"), "seed {seed}: {said}");
        let is_sound = statuses.iter().all(|it| it.starts_with(['2', '4']));
        // What is left of a second one may be one.
        assert!(is_sound && statuses.len() <= 3, "seed {seed}: {said}");
    }
    let more = node.peak_bytes().saturating_sub(before);
    assert!(more < 32 << 20, "{more} bytes");
    node.event(&placed("fine", "o-1")).with_status(200);
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn r52_heads_and_bodies_that_come_slowly_cost_their_connection_and_hold_nobody_up() {
    const EACH: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let (config, token) = node_with(directory.path());
    let node = Served::run(directory.path(), &config, &token, &[]);
    let body = format!(
        "POST /v1/streams/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: {STRUCTURED}\r\ncontent-length: 100\r\nconnection: close\r\n\r\n"
    );
    let mut heads: Vec<TcpStream> = (0..EACH).map(|_| connect(&node)).collect();
    let mut bodies: Vec<TcpStream> = (0..EACH).map(|_| connect(&node)).collect();
    for slow in &mut bodies {
        slow.write_all(body.as_bytes()).unwrap();
    }
    // A byte now and then is no reason to wait for ever.
    for (turn, byte) in "GET /livez HTTP".bytes().enumerate() {
        for slow in heads.iter_mut().chain(&mut bodies) {
            let _ = slow.write_all(&[byte]);
        }
        let event = placed(&turn.to_string(), "o-1").to_string();
        node.post("/v1/streams/orders", STRUCTURED, &event)
            .with_status(200);
        pause(200);
    }
    for mut slow in bodies {
        let answer = read_response(&mut slow).unwrap().with_status(408);
        hold("POST", "/v1/streams/orders", &answer);
    }
    for mut slow in heads {
        let mut said = Vec::new();
        // Closed, with or without a word: no more is owed to who has not asked for anything.
        let closed = slow.read_to_end(&mut said);
        let is_open = closed.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_open, "it is still listened to");
    }
    node.get("/readyz").with_status(200);
}

#[test]
fn r52_who_hangs_up_in_the_middle_leaves_nothing_behind_and_may_ask_again() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let event = |n: u64| placed(&n.to_string(), &format!("o-{n}")).to_string();
    for n in 0..200 {
        let random = &mut SmallRng::seed_from_u64(n);
        let body = event(n);
        let request = format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: {STRUCTURED}\r\ncontent-length: {}\r\n\r\n{body}",
            node.token,
            body.len()
        );
        // Somewhere in it, and every other time behind it: then nobody waits for the answer.
        let end = match n % 2 {
            0 => random.random_range(0..request.len()),
            _ => request.len(),
        };
        connect(&node)
            .write_all(&request.as_bytes()[..end])
            .unwrap();
    }
    for n in 0..200 {
        node.post("/v1/events", STRUCTURED, &event(n))
            .with_status(200);
        let target = format!("/v1/entities/order/o-{n}");
        assert_eq!(node.get(&target).with_status(200).json()["version"], 1);
    }
    let shown = node.get("/metrics").text();
    let pending = shown
        .lines()
        .find(|it| it.starts_with("tidegate_http_pending_events{"));
    assert!(pending.unwrap().ends_with(" 0"), "{pending:?}");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn r52_followers_that_do_not_read_cost_a_bounded_piece_of_memory_each() {
    const FOLLOWERS: u64 = 20;
    const EVENT_BYTES: usize = 900_000;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
http: { listen: '127.0.0.1:0', stream_slow_seconds: 2 }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "all");
    let token = token(directory, "node.yaml", whose, &[]);
    let observer = observer(directory, "node.yaml");
    let node = Served::run(directory, "node.yaml", &token, &[]);
    let write = |n: usize| {
        let mut event = placed(&n.to_string(), "o");
        event["data"]["padding"] = "x".repeat(EVENT_BYTES).into();
        node.post("/v1/streams/orders", STRUCTURED, &event.to_string())
            .with_status(200);
    };
    (0..5).for_each(write);
    let before = node.peak_bytes();
    let slow = (0..FOLLOWERS).map(|_| Follower::open(&node, &token, "/v1/stream", None));
    let slow: Vec<Follower> = slow.collect();
    // More for each of them than sockets and node may hold.
    (5..35).for_each(write);
    let open = || {
        let shown = metrics(&node, &observer);
        let open = shown
            .lines()
            .find_map(|line| line.strip_prefix("tidegate_http_streams_open "));
        open.map(str::to_owned)
    };
    let all_are_closed = (0..600).any(|_| {
        pause(100);
        open().as_deref() == Some("0")
    });
    assert!(all_are_closed, "{:?}", open());
    let each = node.peak_bytes().saturating_sub(before) / FOLLOWERS;
    crate::support::say(&format!(
        "a follower that does not read took {} KiB",
        each >> 10
    ));
    // A segment of the log as it is stored, as it is read, and as it is written.
    assert!(each < 12 * EVENT_BYTES as u64, "{each} bytes each");
    for follower in slow {
        assert_eq!(follower.reason(), "slow");
    }
    assert_eq!(node.stop(), Some(0));
}
