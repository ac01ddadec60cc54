//! Clients that mean no good: nothing panics, memory is bounded, and what is wrong is said.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::client::{Response, request};
use super::nodes::{node_with, token, with_mapping};
use super::{BATCH, STRUCTURED, Served, placed};

#[test]
fn r44_hostile_requests_are_refused_and_the_next_one_is_served() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    let nul = placed("1", "o\u{0}").to_string();
    let long = placed(&"x".repeat(100_000), "o").to_string();
    for (content_type, body) in [
        (STRUCTURED, ""),
        (STRUCTURED, "{"),
        (STRUCTURED, "null"),
        (STRUCTURED, &*deep),
        (STRUCTURED, &*nul),
        (STRUCTURED, &*long),
        (
            STRUCTURED,
            "{\"specversion\":\"1.0\",\"specversion\":\"1.0\"}",
        ),
        (BATCH, "[]"),
        (BATCH, "{}"),
        (BATCH, "[[[[]]]"),
        (BATCH, &*deep),
        ("application/json", "{}"),
    ] {
        let refused = node.post("/v1/events", content_type, body);
        let problem = refused.json();
        assert!(
            [207, 422].contains(&refused.status),
            "{} to {content_type} {body:.40}",
            refused.status
        );
        assert!(
            problem["status"] == 422 || problem["items"][0]["status"] == 422,
            "{problem}"
        );
    }
    node.post("/v1/events", "text/plain", "x").with_status(415);
    let headers = [("content-type", STRUCTURED), ("content-encoding", "br")];
    node.send("/v1/events", &headers, b"x").with_status(415);
    let headers = [("content-type", STRUCTURED), ("content-encoding", "gzip")];
    node.send("/v1/events", &headers, b"x").with_status(422);
    let large = vec![b' '; 9 * 1024 * 1024];
    node.send("/v1/events", &[("content-type", STRUCTURED)], &large)
        .with_status(413);
    let wrong = node.get("/v1/streams/events").with_status(405);
    assert_eq!(wrong.header("allow"), Some("POST"));
    node.get("/v1/entities/order/%zz").with_status(422);
    node.get("/v1/events/nonsense").with_status(422);
    node.get("/v1/events?stream=events&limit=0")
        .with_status(422);
    node.get("/v1/events?stream=events&limit=x")
        .with_status(422);
    node.post("/v1/streams/other", STRUCTURED, "{}")
        .with_status(404);
    // Misspelt, it would take a part of what was to be taken whole.
    let misspelt = node.post("/v1/events?atomc=true", STRUCTURED, &event_of("fine"));
    let misspelt = misspelt.with_status(422).text();
    assert!(misspelt.contains("known are stream, atomic"), "{misspelt}");
    node.get("/v1/events?strem=orders").with_status(422);
    let first = node.post("/v1/events", STRUCTURED, &event_of("fine"));
    assert_eq!(first.with_status(200).json()["outcome"], "admitted");
}

fn event_of(id: &str) -> String {
    placed(id, "o-1").to_string()
}

#[test]
fn r44_what_unpacks_to_too_many_times_its_bytes_is_refused_for_that_and_less_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    // Well below the bytes of a body, and beyond a hundred times what is sent.
    let mut event = placed("packed", "o-1");
    event["data"]["note"] = "x".repeat(900_000).into();
    let bomb = event.to_string();
    event["data"]["note"] = "x".repeat(60_000).into();
    for (coding, id) in [("gzip", "g"), ("zstd", "z")] {
        let headers = [("content-type", STRUCTURED), ("content-encoding", coding)];
        let refused = node.send("/v1/events", &headers, &packed(coding, &bomb));
        let refused = refused.with_status(413).text();
        assert!(refused.contains("more than 100 times"), "{refused}");
        event["id"] = id.into();
        let taken = node.send("/v1/events", &headers, &packed(coding, &event.to_string()));
        let taken = taken.with_status(200).json();
        let position = taken["id"].as_str().unwrap();
        let stored = node.get(&format!("/v1/events/{position}")).with_status(200);
        assert_eq!(stored.json()["data"], event["data"], "{coding}");
    }
    // What does not shrink so much may be as large as any other body.
    let random = &mut SmallRng::seed_from_u64(1);
    let noise = (0..700_000).map(|_| char::from(random.random_range(b'a'..=b'z')));
    event["data"]["note"] = noise.collect::<String>().into();
    event["id"] = "noise".into();
    let headers = [("content-type", STRUCTURED), ("content-encoding", "gzip")];
    node.send("/v1/events", &headers, &packed("gzip", &event.to_string()))
        .with_status(200);
}

fn packed(coding: &str, text: &str) -> Vec<u8> {
    if coding == "zstd" {
        return zstd::encode_all(text.as_bytes(), 3).unwrap();
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn r45_a_client_that_sends_its_body_slowly_is_answered_and_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let (config, token) = node_with(directory.path());
    let node = Served::run(directory.path(), &config, &token, &[]);
    let mut slow = TcpStream::connect(&node.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let head = format!(
        "POST /v1/streams/orders HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: {STRUCTURED}\r\ncontent-length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).unwrap();
    let body = placed("1", "o-1").to_string();
    node.post("/v1/streams/orders", STRUCTURED, &body)
        .with_status(200);
    let mut said = [0; 12];
    slow.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"HTTP/1.1 408");
}

#[test]
fn r31_no_token_stands_in_a_metric_or_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let secret = node.token.rsplit('_').next().unwrap().to_owned();
    let body = placed("1", &node.token).to_string();
    let answers = [
        node.get("/metrics"),
        node.get(&format!("/v1/entities/order/{}", node.token))
            .with_status(401),
        node.get(&format!("/v1/entities/{secret}%01/x"))
            .with_status(422),
        node.post("/v1/events", STRUCTURED, &format!("{{{body}")),
        request(
            &node.address,
            "GET",
            "/metrics",
            &[("authorization", "Bearer x")],
            b"",
        ),
    ];
    for answer in answers {
        assert!(!answer.text().contains(&secret), "{}", answer.text());
    }
}

/// Some bytes of a text replaced, taken out, put in or said twice.
pub fn spoiled(random: &mut SmallRng, text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..random.random_range(1..4) {
        let from = random.random_range(0..=bytes.len());
        let to = random.random_range(from..=bytes.len().min(from + 12));
        let with: Vec<u8> = match random.random_range(0..5) {
            0 => Vec::new(),
            1 => (0..random.random_range(1..8))
                .map(|_| random.random())
                .collect(),
            2 => b"\"}],{[:\\u0000".to_vec(),
            3 => b"-1e999".to_vec(),
            _ => [&bytes[from..to], &bytes[from..to]].concat(),
        };
        bytes.splice(from..to, with);
    }
    bytes
}

/// A text of characters that a head may have.
pub fn scribble(random: &mut SmallRng) -> String {
    let letters = b"az09%-_:/.,;=\"'{}[]() &?";
    (0..random.random_range(1..40))
        .map(|_| char::from(letters[random.random_range(0..letters.len())]))
        .collect()
}

/// Holds that it was taken, or refused in words; `contract` holds what a refusal looks like.
fn must_be_said(answer: &Response, seed: u64) {
    let said = answer.text();
    let is_one_of_ours = [200, 207, 409, 413, 415, 422].contains(&answer.status);
    assert!(is_one_of_ours, "seed {seed}: {} {said}", answer.status);
    if answer.status == 207 {
        for item in answer.json()["items"].as_array().unwrap() {
            let is_said = item["status"] == 200 || item["detail"].is_string();
            assert!(is_said, "seed {seed}: {item}");
        }
    }
}

#[test]
fn r44_seeded_nonsense_in_envelopes_batches_and_mapped_bodies_is_refused_in_words() {
    const NAMES: [&str; 7] = [
        "ce-id",
        "ce-type",
        "ce-source",
        "ce-time",
        "ce-x",
        "idempotency-key",
        "x-shop",
    ];
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let nodes = [Served::dev(first.path()), with_mapping(second.path())];
    let own = r#"{"order":"o-1","kind":"placed","total_cents":1000}"#;
    let event = placed("1", "o-1").to_string();
    let batch = format!("[{event},{event}]");
    let forms = [
        (STRUCTURED, &*event),
        (BATCH, &*batch),
        ("application/json", own),
        ("application/x-ndjson", own),
    ];
    let before = nodes.each_ref().map(Served::peak_bytes);
    for seed in 0..400 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let (media_type, text) = forms[random.random_range(0..forms.len())];
        let body = spoiled(random, text);
        let values = [(); 3].map(|()| scribble(random));
        let mut headers = vec![("content-type", media_type)];
        if random.random() {
            headers.push(("ce-specversion", "1.0"));
        }
        for value in &values[..random.random_range(0..=values.len())] {
            headers.push((NAMES[random.random_range(0..NAMES.len())], value.trim()));
        }
        for node in &nodes {
            must_be_said(&node.send("/v1/events", &headers, &body), seed);
        }
    }
    for (node, before) in nodes.into_iter().zip(before) {
        node.get("/readyz").with_status(200);
        let more = node.peak_bytes().saturating_sub(before);
        assert!(more < 32 << 20, "{more} bytes for bodies of some hundred");
        assert_eq!(node.stop(), Some(0));
    }
}

#[test]
fn r44_seeded_nonsense_in_addresses_is_not_found_or_refused_in_words() {
    const PARAMETERS: [&str; 10] = [
        "stream",
        "after",
        "limit",
        "id",
        "correlation_id",
        "tenant",
        "state",
        "filter",
        "from",
        "next",
    ];
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    for seed in 0..400 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let place = |random: &mut SmallRng| scribble(random).replace([' ', '"', '?', '\''], "%");
        let path = match random.random_range(0..7) {
            0 => format!("/v1/entities/{}/{}", place(random), place(random)),
            1 => format!("/v1/entities/order/{}/history", place(random)),
            2 => format!("/v1/events/{}", place(random)),
            3 => format!("/v1/trace/{}", place(random)),
            4 => format!("/v1/dead-letters/{}", place(random)),
            5 => "/v1/events".to_owned(),
            // Always with a filter that is none: what is followed has no end.
            _ => "/v1/stream".to_owned(),
        };
        let mut target = format!("{path}?");
        for _ in 0..random.random_range(0..3) {
            let name = PARAMETERS[random.random_range(0..PARAMETERS.len())];
            target.push_str(&format!("{name}={}&", place(random).replace('&', "%26")));
        }
        if path == "/v1/stream" {
            target.push_str("filter=(");
        }
        let answer = node.get(&target);
        let is_one_of_ours = [200, 401, 403, 404, 405, 422].contains(&answer.status);
        assert!(is_one_of_ours, "seed {seed}: {target}: {}", answer.text());
    }
    assert_eq!(node.stop(), Some(0));
}

/// Bodies that are small until they are looked at, and bodies of which each byte is an event.
fn bombs() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let zeros = vec![b'0'; 64 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(&zeros).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(zeros.as_slice(), 3).unwrap();
    let many = "0,".repeat((4 << 20) - 1);
    vec![
        (STRUCTURED, "gzip", gzip.clone()),
        (BATCH, "zstd", zstd),
        // A bomb in many pieces, each a member of its own.
        ("application/x-ndjson", "gzip", gzip.repeat(4)),
        (BATCH, "identity", format!("[{many}0]").into_bytes()),
        (
            "application/x-ndjson",
            "identity",
            many.replace(',', "\n").into_bytes(),
        ),
    ]
}

#[test]
fn r44_bombs_sent_by_many_at_once_are_refused_within_the_room_for_bodies() {
    const ROOM_BYTES: u64 = 32 << 20;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("order.yaml"), super::nodes::ORDER).unwrap();
    let config = format!(
        "http: {{ listen: '127.0.0.1:0', bodies_bytes_max: {ROOM_BYTES} }}\n\
         machines: {{ paths: [order.yaml] }}\n\
         sources: [{{ name: api, kind: http, stream: orders }}]\n"
    );
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let whose = ("acme", "publish:fact,read,observe", "all");
    let token = token(directory, "node.yaml", whose, &[]);
    let node = Served::run(directory, "node.yaml", &token, &[]);
    node.event(&placed("before", "o-1")).with_status(200);
    let before = node.peak_bytes();
    let bombs = bombs();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (node, bombs) = (&node, &bombs);
            scope.spawn(move || {
                for turn in 0..bombs.len() {
                    let (media_type, encoding, body) = &bombs[(client + turn) % bombs.len()];
                    let headers = [
                        ("content-type", *media_type),
                        ("content-encoding", *encoding),
                    ];
                    let answer = node.send("/v1/events", &headers, body);
                    let is_refused = [413, 422, 503].contains(&answer.status);
                    assert!(is_refused, "{media_type}, {encoding}: {}", answer.text());
                }
            });
        }
    });
    let more = node.peak_bytes().saturating_sub(before);
    crate::support::say(&format!("bombs took {} KiB", more >> 10));
    assert!(more < 3 * ROOM_BYTES, "{more} bytes");
    node.event(&placed("after", "o-1")).with_status(200);
    assert_eq!(node.stop(), Some(0));
}
